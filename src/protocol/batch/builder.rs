//! Writes record batches: for coordinators, compaction, conversion and the client.

use bytes::{BufMut, Bytes};

use super::{
    Attributes, Batch, HEADER_BYTES, Header, LENGTH_PREFIX_BYTES, TimestampType, records::varint,
};
use crate::{
    base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId},
    protocol::compression::{Codec, CompressionError},
};

/// The producer's share of a batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Who writes.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// The first record's sequence number.
    pub base_sequence: i32,
}

impl Default for Producer {
    fn default() -> Self {
        Self { id: ProducerId::NONE, epoch: ProducerEpoch::NONE, base_sequence: -1 }
    }
}

/// What a new batch's header is to say.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchOptions {
    /// The first record's offset; 0 where a log gives it later.
    pub base_offset: Offset,
    /// How to compress the records.
    pub codec: Codec,
    /// Who writes, with which sequence number.
    pub producer: Producer,
    /// The flags; the codec is filled in.
    pub attributes: Attributes,
    /// The leader epoch; [`LeaderEpoch::NONE`] where a log gives it later.
    pub leader_epoch: LeaderEpoch,
}

/// A record to append.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The key, if any.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in order.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

/// Collects records into one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, and the records behind it.
    bytes: Vec<u8>,
    count: i32,
    last_offset_delta: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl BatchBuilder {
    /// A builder without records.
    #[must_use]
    pub const fn new(options: BatchOptions) -> Self {
        Self {
            options,
            bytes: Vec::new(),
            count: 0,
            last_offset_delta: -1,
            base_timestamp_ms: -1,
            max_timestamp_ms: -1,
        }
    }

    /// How many records were appended.
    #[must_use]
    pub const fn count(&self) -> i32 {
        self.count
    }

    /// Whether no record was appended.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch's size before compression.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len().max(HEADER_BYTES)
    }

    /// Fixes what timestamps count from, which is the first record's otherwise. Before any record.
    pub fn base_timestamp(&mut self, base_timestamp_ms: i64) {
        assert!(self.is_empty(), "the records so far count from another timestamp");
        self.base_timestamp_ms = base_timestamp_ms;
    }

    /// Appends a record behind the last one.
    pub fn push(&mut self, record: &NewRecord<'_>) {
        let offset = self.options.base_offset.plus(i64::from(self.last_offset_delta) + 1);
        self.push_at(offset, record);
    }

    /// Appends a record at `offset`, which must lie behind the last one and within 2^31 of the base
    /// offset.
    pub fn push_at(&mut self, offset: Offset, record: &NewRecord<'_>) {
        if self.is_empty() && self.base_timestamp_ms < 0 {
            self.base_timestamp_ms = record.timestamp_ms;
        }
        let delta = i32::try_from(offset.since(self.options.base_offset))
            .expect("records of one batch lie within 2^31 offsets");
        assert!(delta > self.last_offset_delta, "offsets of a batch rise");
        self.last_offset_delta = delta;
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        self.count += 1;

        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_BYTES, 0);
        }
        let timestamp_delta = record.timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        put_record(&mut self.bytes, record, timestamp_delta, delta);
    }

    /// Makes the batch reach to `offset`, where the last records of a batch were compacted away.
    pub fn reach_to(&mut self, offset: Offset) {
        let delta = i32::try_from(offset.since(self.options.base_offset))
            .expect("records of one batch lie within 2^31 offsets");
        self.last_offset_delta = self.last_offset_delta.max(delta);
    }

    /// Compresses and finishes the batch.
    ///
    /// # Errors
    /// Where the compressor fails.
    pub fn build(mut self) -> Result<Batch, CompressionError> {
        self.bytes.resize(self.size_bytes(), 0);
        if let Some(compressed) = self.options.codec.compress(&self.bytes[HEADER_BYTES..])? {
            self.bytes.truncate(HEADER_BYTES);
            self.bytes.extend_from_slice(&compressed);
        }
        let attributes = self.options.attributes.with_compression(self.options.codec.compression);
        let mut header = Header {
            base_offset: self.options.base_offset,
            batch_length: i32::try_from(self.bytes.len() - LENGTH_PREFIX_BYTES)
                .map_err(|_| CompressionError::TooLarge { limit: i32::MAX as usize })?,
            leader_epoch: self.options.leader_epoch,
            crc: 0,
            attributes,
            compression: self.options.codec.compression,
            last_offset_delta: self.last_offset_delta.max(0),
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            producer_id: self.options.producer.id,
            producer_epoch: self.options.producer.epoch,
            base_sequence: self.options.producer.base_sequence,
            count: self.count,
        };
        header.crc = header.crc_with(&self.bytes[HEADER_BYTES..]);
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        Ok(Batch { header, bytes: Bytes::from(self.bytes) })
    }
}

impl BatchOptions {
    /// The same, with timestamps of `timestamp_type`.
    #[must_use]
    pub const fn timestamp_type(mut self, timestamp_type: TimestampType) -> Self {
        self.attributes = self.attributes.with_timestamp_type(timestamp_type);
        self
    }
}

/// Appends a record as it lies in a batch.
pub(crate) fn put_record(
    out: &mut Vec<u8>,
    record: &NewRecord<'_>,
    timestamp_delta: i64,
    offset_delta: i32,
) {
    let field = |bytes: Option<&[u8]>| bytes.map_or(1, |b| varint::size(b.len() as i64) + b.len());
    let headers = record.headers.iter().map(|(key, value)| field(Some(key)) + field(*value));
    let size = 1
        + varint::size(timestamp_delta)
        + varint::size(i64::from(offset_delta))
        + field(record.key)
        + field(record.value)
        + varint::size(record.headers.len() as i64)
        + headers.sum::<usize>();
    varint::put_i64(out, size as i64);
    out.put_i8(0); // A record's attributes are unused.
    varint::put_i64(out, timestamp_delta);
    varint::put_i64(out, i64::from(offset_delta));
    put_nullable(out, record.key);
    put_nullable(out, record.value);
    varint::put_i64(out, record.headers.len() as i64);
    for (key, value) in record.headers {
        put_nullable(out, Some(key));
        put_nullable(out, *value);
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::put_i64(out, -1),
        Some(bytes) => {
            varint::put_i64(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}
