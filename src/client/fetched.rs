//! What a fetch brings: batches as they lie in the log, and the records in them.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::{
    offsets::Partition,
    records::{HEADER_BYTES, Header},
    wire,
};

/// The most that one batch may take once it is decompressed.
const PLAIN_BYTES_MAX: usize = 256 << 20;

/// A batch that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A format before version 2.
    #[error("batch at offset {offset} has format {magic}, expected 2")]
    Format {
        /// Where.
        offset: i64,
        /// The format.
        magic: u8,
    },
    /// The checksum is another.
    #[error("batch at offset {offset} does not match its checksum")]
    Checksum {
        /// Where.
        offset: i64,
    },
    /// A codec that does not exist.
    #[error("batch at offset {offset} names an unknown codec")]
    Codec {
        /// Where.
        offset: i64,
    },
    /// Records that do not decompress.
    #[error("batch at offset {offset} does not decompress: {source}")]
    Compression {
        /// Where.
        offset: i64,
        /// Why.
        source: wire::CompressionError,
    },
    /// Records that are not what the header says.
    #[error("batch at offset {offset} holds an invalid record")]
    Record {
        /// Where.
        offset: i64,
    },
}

/// Batches of one partition.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The partition.
    pub partition: Partition,
    /// Batches, one after another; the last may be cut off.
    pub bytes: Bytes,
    /// The offset that was asked for: records before it are not meant.
    pub from: i64,
    /// Behind the newest record that consumers may see.
    pub high_watermark: i64,
    /// Aborted transactions in these batches: the producer and its first offset.
    pub aborted: Vec<(i64, i64)>,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Vec<Header>,
}

/// A batch as it lies in the log.
#[derive(Debug, Clone)]
pub struct RawBatch {
    /// The offset of its first record.
    pub base_offset: i64,
    /// The offset of its last record, which compaction may have removed.
    pub last_offset: i64,
    /// How many records it holds.
    pub count: i32,
    /// The whole of it.
    pub bytes: Bytes,
}

/// The whole batches in `bytes`.
pub fn batches(mut bytes: Bytes) -> impl Iterator<Item = RawBatch> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER_BYTES)?;
        let size = usize::try_from((&header[8..]).get_i32()).ok()?.checked_add(12)?;
        if size < HEADER_BYTES || size > bytes.len() {
            return None;
        }
        let base_offset = (&header[..]).get_i64();
        let last_offset = base_offset + i64::from((&header[23..]).get_i32());
        let count = (&header[57..]).get_i32();
        Some(RawBatch { base_offset, last_offset, count, bytes: bytes.split_to(size) })
    })
}

impl Fetched {
    /// The batches that end at or after [`Fetched::from`].
    pub fn batches(&self) -> impl Iterator<Item = RawBatch> {
        let from = self.from;
        batches(self.bytes.clone()).filter(move |batch| batch.last_offset >= from)
    }

    /// The records, without those of aborted transactions and without control records.
    ///
    /// # Errors
    /// The first batch that cannot be read.
    pub fn records(&self) -> Result<Vec<ConsumedRecord>, BatchError> {
        let mut records = Vec::new();
        let mut aborted = self.aborted.clone();
        aborted.sort_unstable_by_key(|(_, first_offset)| *first_offset);
        let mut pending = aborted.into_iter().peekable();
        let mut open: Vec<i64> = Vec::new();
        for batch in self.batches() {
            batch.verify()?;
            while let Some((producer, _)) =
                pending.next_if(|(_, first_offset)| *first_offset <= batch.last_offset)
            {
                open.push(producer);
            }
            if batch.is_control() {
                open.retain(|producer| *producer != batch.producer_id());
            } else if !(batch.is_transactional() && open.contains(&batch.producer_id())) {
                batch.read(&mut records)?;
            }
        }
        records.retain(|record| record.offset >= self.from);
        Ok(records)
    }
}

impl RawBatch {
    fn attributes(&self) -> i16 {
        (&self.bytes[21..]).get_i16()
    }

    /// Whether it was written in a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes() & 0x10 != 0
    }

    /// Whether it holds a marker and no data.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes() & 0x20 != 0
    }

    /// The producer; -1 where it was not idempotent.
    #[must_use]
    pub fn producer_id(&self) -> i64 {
        (&self.bytes[43..]).get_i64()
    }

    /// Checks format and checksum.
    ///
    /// # Errors
    /// Where either is wrong.
    pub fn verify(&self) -> Result<(), BatchError> {
        let offset = self.base_offset;
        match self.bytes[16] {
            2 => {}
            magic => return Err(BatchError::Format { offset, magic }),
        }
        let stated = (&self.bytes[17..]).get_u32();
        if crc32c::crc32c(&self.bytes[21..]) == stated {
            Ok(())
        } else {
            Err(BatchError::Checksum { offset })
        }
    }

    /// Appends the records to `records`.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn read(&self, records: &mut Vec<ConsumedRecord>) -> Result<(), BatchError> {
        let offset = self.base_offset;
        let codec = wire::from_attributes(self.attributes());
        let codec = codec.ok_or(BatchError::Codec { offset })?;
        let packed = self.bytes.slice(HEADER_BYTES..);
        let mut plain = wire::decompress(codec, &packed, PLAIN_BYTES_MAX)
            .map_err(|source| BatchError::Compression { offset, source })?;
        let base_timestamp_ms = (&self.bytes[27..]).get_i64();
        let max_timestamp_ms = (&self.bytes[35..]).get_i64();
        // Stamped by the broker: all records have the batch's time.
        let stamped = self.attributes() & 0x08 != 0;
        for _ in 0..self.count {
            let mut record = take_record(&mut plain, offset, base_timestamp_ms)
                .ok_or(BatchError::Record { offset })?;
            if stamped {
                record.timestamp_ms = max_timestamp_ms;
            }
            records.push(record);
        }
        if plain.is_empty() { Ok(()) } else { Err(BatchError::Record { offset }) }
    }
}

fn take_record(plain: &mut Bytes, base_offset: i64, base_timestamp: i64) -> Option<ConsumedRecord> {
    let size = usize::try_from(take_varint(plain)?).ok()?;
    if size > plain.len() {
        return None;
    }
    let mut record = plain.split_to(size);
    record.try_get_i8().ok()?;
    let timestamp_ms = base_timestamp.checked_add(take_varint(&mut record)?)?;
    let offset = base_offset.checked_add(take_varint(&mut record)?)?;
    let key = take_field(&mut record)?;
    let value = take_field(&mut record)?;
    let mut headers = Vec::new();
    for _ in 0..take_varint(&mut record)? {
        let name = take_field(&mut record)??;
        let name: Arc<str> = std::str::from_utf8(&name).ok()?.into();
        headers.push(Header { name, value: take_field(&mut record)? });
    }
    record.is_empty().then_some(ConsumedRecord { offset, timestamp_ms, key, value, headers })
}

fn take_field(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    let length = take_varint(bytes)?;
    if length < 0 {
        return Some(None);
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len())?;
    Some(Some(bytes.split_to(length)))
}

fn take_varint(bytes: &mut Bytes) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::client::records::{Body, Record, Writer};

    fn record() -> impl Strategy<Value = Record> {
        let field = || prop::option::of(prop::collection::vec(any::<u8>(), 0..50));
        let headers = prop::collection::vec(("[a-z]{0,5}", field()), 0..3);
        (field(), field(), headers, 0i64..1 << 40).prop_map(|(key, value, headers, timestamp)| {
            let headers = headers
                .into_iter()
                .map(|(name, value)| Header { name: name.into(), value: value.map(Bytes::from) });
            Record {
                key: key.map(Bytes::from),
                value: value.map(Bytes::from),
                headers: headers.collect(),
                timestamp_ms: timestamp,
            }
        })
    }

    fn fetched(records: &[Record], codec: wire::Compression) -> Fetched {
        let body = Body::encode(records, codec, None).unwrap();
        let mut bytes = BytesMut::new();
        bytes.put_slice(&body.header(Writer::NONE));
        bytes.put_slice(&body.bytes);
        let partition = Partition::new("t", 0);
        let bytes = bytes.freeze();
        Fetched { partition, bytes, from: 0, high_watermark: 0, aborted: Vec::new() }
    }

    proptest! {
        #[test]
        fn records_read_back_as_they_were_written(
            records in prop::collection::vec(record(), 1..20),
            codec in 0i16..5,
        ) {
            let codec = wire::from_attributes(codec).unwrap();
            let read = fetched(&records, codec).records().unwrap();
            prop_assert_eq!(read.len(), records.len());
            for (n, (read, written)) in (0i64..).zip(read.iter().zip(&records)) {
                prop_assert_eq!(read.offset, n);
                prop_assert_eq!(read.timestamp_ms, written.timestamp_ms);
                prop_assert_eq!((&read.key, &read.value), (&written.key, &written.value));
                prop_assert_eq!(&read.headers, &written.headers);
            }
        }

        #[test]
        fn a_flipped_bit_is_noticed(
            records in prop::collection::vec(record(), 1..5), at in any::<prop::sample::Index>(),
        ) {
            let mut fetched = fetched(&records, wire::Compression::None);
            let mut bytes = fetched.bytes.to_vec();
            let at = 16 + at.index(bytes.len() - 16);
            bytes[at] ^= 4;
            fetched.bytes = bytes.into();
            prop_assert!(fetched.records().is_err());
        }
    }
}
