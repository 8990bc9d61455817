//! Records to batches: what a producer writes.
//!
//! A batch is a header of 61 bytes and a body. The body holds the records and depends on nothing
//! that changes when a batch is sent again, so it is encoded once and shared; the header is made
//! anew whenever the producer's id, epoch or sequence does. Reference: KIP-98, "Message format".

use std::sync::Arc;

use bytes::Bytes;

use super::{
    error::ClientError,
    wire::{Codec, Compression},
};
pub(crate) use crate::protocol::batch::{HEADER_BYTES, Producer as Writer};
use crate::{
    base::{LeaderEpoch, Offset},
    protocol::batch::{self, Attributes, LENGTH_PREFIX_BYTES, NewRecord},
};

/// A header of a record: a name and perhaps a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: Arc<str>,
    /// The value.
    pub value: Option<Bytes>,
}

/// A record to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Vec<Header>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

impl Record {
    /// At most what the record takes in an uncompressed batch.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let bytes = |field: &Option<Bytes>| 5 + field.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|h| 5 + h.name.len() + bytes(&h.value));
        // Length, attributes, timestamp delta, offset delta and header count besides.
        5 + 1 + 10 + 5 + bytes(&self.key) + bytes(&self.value) + 5 + headers.sum::<usize>()
    }
}

/// An encoded body.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) count: i32,
    pub(crate) compression: Compression,
    pub(crate) base_timestamp_ms: i64,
    pub(crate) max_timestamp_ms: i64,
}

impl Body {
    /// Encodes and compresses `records`, of which there must be at least one.
    pub(crate) fn encode(
        records: &[Record],
        compression: Compression,
        level: Option<i32>,
    ) -> Result<Self, ClientError> {
        let base_timestamp_ms = records.first().map_or(0, |record| record.timestamp_ms);
        let max_timestamp_ms =
            records.iter().map(|record| record.timestamp_ms).max().unwrap_or(base_timestamp_ms);
        let mut plain = Vec::with_capacity(records.iter().map(Record::size_bytes).sum());
        for (delta, record) in (0i32..).zip(records) {
            put_record(&mut plain, record, record.timestamp_ms - base_timestamp_ms, delta);
        }
        let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
        Ok(Self {
            bytes: compress(&plain.into(), compression, level)?,
            count,
            compression,
            base_timestamp_ms,
            max_timestamp_ms,
        })
    }

    /// What the batch takes on the wire and on disk.
    pub(crate) const fn size_bytes(&self) -> usize {
        HEADER_BYTES + self.bytes.len()
    }

    /// The header of a batch with this body.
    pub(crate) fn header(&self, writer: Writer) -> [u8; HEADER_BYTES] {
        let mut header = batch::Header {
            base_offset: Offset::ZERO,
            batch_length: i32::try_from(self.size_bytes() - LENGTH_PREFIX_BYTES)
                .unwrap_or(i32::MAX),
            leader_epoch: LeaderEpoch::NONE,
            crc: 0,
            attributes: Attributes::default().with_compression(self.compression),
            compression: self.compression,
            last_offset_delta: self.count - 1,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            producer_id: writer.id,
            producer_epoch: writer.epoch,
            base_sequence: writer.base_sequence,
            count: self.count,
        };
        header.crc = header.crc_with(&self.bytes);
        header.encode()
    }
}

/// Compresses encoded records.
pub(crate) fn compress(
    plain: &Bytes,
    compression: Compression,
    level: Option<i32>,
) -> Result<Bytes, ClientError> {
    let packed = Codec { compression, level }.compress(plain);
    let packed = packed.map_err(|source| ClientError::Compression { source: Arc::new(source) })?;
    Ok(packed.map_or_else(|| plain.clone(), Bytes::from))
}

/// Appends one record as it lies in a batch.
pub(crate) fn put_record(out: &mut Vec<u8>, record: &Record, timestamp_delta: i64, delta: i32) {
    let headers = record.headers.iter().map(|h| (h.name.as_bytes(), h.value.as_deref()));
    let record = NewRecord {
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers.collect::<Vec<_>>(),
    };
    batch::put_record(out, &record, timestamp_delta, delta);
}

/// The partition that Kafka's own producers choose for a key.
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// Austin Appleby's 32-bit MurmurHash2 with the seed that Kafka's producers use.
fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (n, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * n);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    hash as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_kafkas_producers_put_them() {
        // Values that Kafka's own hash gives.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
        assert!((0..7).contains(&partition_for_key(b"21", 7)));
    }
}
