//! What a fetch brings: batches as they lie in the log, and the records in them.

use bytes::{Buf, Bytes};

use super::{
    offsets::Partition,
    records::{HEADER_BYTES, Header},
};
use crate::protocol::batch::{self, RecordError, RecordLimits, Records};

/// A batch that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Its header or its checksum is wrong.
    #[error("batch at offset {offset}: {source}")]
    Batch {
        /// Where.
        offset: i64,
        /// What is wrong.
        source: batch::BatchError,
    },
    /// Its records are not what the header says.
    #[error("batch at offset {offset}: {source}")]
    Record {
        /// Where.
        offset: i64,
        /// What is wrong.
        source: RecordError,
    },
    /// A name of a record's header is not text.
    #[error("batch at offset {offset} has a record header whose name is not UTF-8")]
    HeaderName {
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
    /// The broker that answered.
    pub by: i32,
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
            let header = batch.verify()?;
            let producer_id = header.producer_id.0;
            while let Some((producer, _)) =
                pending.next_if(|(_, first_offset)| *first_offset <= batch.last_offset)
            {
                open.push(producer);
            }
            if header.is_control() {
                open.retain(|producer| *producer != producer_id);
            } else if !(header.is_transactional() && open.contains(&producer_id)) {
                batch.read(&mut records)?;
            }
        }
        records.retain(|record| record.offset >= self.from);
        Ok(records)
    }
}

impl RawBatch {
    /// Its header, its checksum unchecked.
    ///
    /// # Errors
    /// Where it has none of format 2.
    pub fn header(&self) -> Result<batch::Header, BatchError> {
        batch::Header::parse(&self.bytes).map_err(|source| self.invalid(source))
    }

    const fn invalid(&self, source: batch::BatchError) -> BatchError {
        BatchError::Batch { offset: self.base_offset, source }
    }

    /// Checks format and checksum.
    ///
    /// # Errors
    /// Where either is wrong.
    pub fn verify(&self) -> Result<batch::Header, BatchError> {
        let header = self.header()?;
        header.check_crc(&self.bytes).map_err(|source| self.invalid(source))?;
        Ok(header)
    }

    /// Appends the records to `records`.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn read(&self, records: &mut Vec<ConsumedRecord>) -> Result<(), BatchError> {
        let offset = self.base_offset;
        let invalid = |source| BatchError::Record { offset, source };
        let body = self.bytes.slice(HEADER_BYTES..);
        let read = Records::new(self.header()?, body, RecordLimits::default()).map_err(invalid)?;
        for record in read {
            let record = record.map_err(invalid)?;
            let mut headers = Vec::with_capacity(record.headers.len());
            for (name, value) in record.headers.iter() {
                let name = std::str::from_utf8(&name);
                let name = name.map_err(|_| BatchError::HeaderName { offset })?.into();
                headers.push(Header { name, value });
            }
            records.push(ConsumedRecord {
                offset: record.offset.0,
                timestamp_ms: record.timestamp_ms,
                key: record.key,
                value: record.value,
                headers,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::client::{
        Compression,
        records::{Body, Record, Writer},
    };

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

    fn fetched(records: &[Record], codec: Compression) -> Fetched {
        let body = Body::encode(records, codec, None).unwrap();
        let mut bytes = BytesMut::new();
        bytes.put_slice(&body.header(Writer::default()));
        bytes.put_slice(&body.bytes);
        let partition = Partition::new("t", 0);
        let bytes = bytes.freeze();
        Fetched { partition, bytes, from: 0, high_watermark: 0, by: 0, aborted: Vec::new() }
    }

    proptest! {
        #[test]
        fn records_read_back_as_they_were_written(
            records in prop::collection::vec(record(), 1..20),
            codec in prop::sample::select(&Compression::ALL[..]),
        ) {
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
            let mut fetched = fetched(&records, Compression::None);
            let mut bytes = fetched.bytes.to_vec();
            let at = 16 + at.index(bytes.len() - 16);
            bytes[at] ^= 4;
            fetched.bytes = bytes.into();
            prop_assert!(fetched.records().is_err());
        }
    }
}
