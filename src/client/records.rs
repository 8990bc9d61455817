//! Records to batches: what a producer writes.
//!
//! A batch is a header of 61 bytes and a body. The body holds the records and depends on nothing
//! that changes when a batch is sent again, so it is encoded once and shared; the header is made
//! anew whenever the producer's id, epoch or sequence does. Reference: KIP-98, "Message format".

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    error::ClientError,
    wire::{self, Compression},
};

/// What a batch's header takes.
pub(crate) const HEADER_BYTES: usize = 61;
/// Where the part of the header begins that the checksum covers.
const CHECKED_FROM: usize = 21;

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

/// Who wrote a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
}

impl Writer {
    /// Nobody in particular: no idempotence.
    pub(crate) const NONE: Self = Self { producer_id: -1, producer_epoch: -1, base_sequence: -1 };
}

/// An encoded body.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) count: i32,
    pub(crate) attributes: i16,
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
        let mut plain =
            BytesMut::with_capacity(records.iter().map(Record::size_bytes).sum::<usize>());
        for (delta, record) in (0i32..).zip(records) {
            put_record(&mut plain, record, record.timestamp_ms - base_timestamp_ms, delta);
        }
        let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
        let plain = plain.freeze();
        Ok(Self {
            bytes: compress(&plain, compression, level)?,
            count,
            attributes: wire::attributes(compression),
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
        let mut header = [0u8; HEADER_BYTES];
        let mut out = &mut header[..];
        out.put_i64(0);
        out.put_u32(u32::try_from(self.size_bytes() - 12).unwrap_or(u32::MAX));
        out.put_i32(-1);
        out.put_i8(2);
        out.put_u32(0);
        out.put_i16(self.attributes);
        out.put_i32(self.count - 1);
        out.put_i64(self.base_timestamp_ms);
        out.put_i64(self.max_timestamp_ms);
        out.put_i64(writer.producer_id);
        out.put_i16(writer.producer_epoch);
        out.put_i32(writer.base_sequence);
        out.put_i32(self.count);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[CHECKED_FROM..]), &self.bytes);
        header[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&checksum.to_be_bytes());
        header
    }
}

/// Compresses encoded records.
pub(crate) fn compress(
    plain: &Bytes,
    compression: Compression,
    level: Option<i32>,
) -> Result<Bytes, ClientError> {
    if compression == Compression::None {
        return Ok(plain.clone());
    }
    wire::compress(compression, level, plain)
        .map(Bytes::from)
        .map_err(|source| ClientError::Compression { source: Arc::new(source) })
}

/// Appends one record in the format of batches v2.
pub(crate) fn put_record(out: &mut BytesMut, record: &Record, timestamp_delta: i64, delta: i32) {
    let field = |field: &Option<Bytes>| {
        field.as_ref().map_or(1, |bytes| varint_size(bytes.len() as i64) + bytes.len())
    };
    let mut size = 1 + varint_size(timestamp_delta) + varint_size(i64::from(delta));
    size += field(&record.key) + field(&record.value);
    size += varint_size(record.headers.len() as i64);
    for header in &record.headers {
        size += varint_size(header.name.len() as i64) + header.name.len() + field(&header.value);
    }
    put_varint(out, size as i64);
    out.put_i8(0);
    put_varint(out, timestamp_delta);
    put_varint(out, i64::from(delta));
    put_field(out, record.key.as_deref());
    put_field(out, record.value.as_deref());
    put_varint(out, record.headers.len() as i64);
    for header in &record.headers {
        put_field(out, Some(header.name.as_bytes()));
        put_field(out, header.value.as_deref());
    }
}

fn put_field(out: &mut BytesMut, field: Option<&[u8]>) {
    match field {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
    }
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn put_varint(out: &mut BytesMut, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

const fn varint_size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
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

    #[test]
    fn a_varint_takes_the_bytes_it_says() {
        for value in [0, -1, 63, 64, -64, -65, 8191, 8192, i64::MAX, i64::MIN] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_size(value), "{value}");
        }
    }
}
