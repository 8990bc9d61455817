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
    records: Vec<u8>,
    scratch: Vec<u8>,
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
            records: Vec::new(),
            scratch: Vec::new(),
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
        HEADER_BYTES + self.records.len()
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

        let body = &mut self.scratch;
        body.clear();
        body.put_i8(0); // A record's attributes are unused.
        varint::put_i64(body, record.timestamp_ms.wrapping_sub(self.base_timestamp_ms));
        varint::put_i64(body, i64::from(delta));
        put_nullable(body, record.key);
        put_nullable(body, record.value);
        varint::put_i64(body, record.headers.len() as i64);
        for (key, value) in record.headers {
            put_nullable(body, Some(key));
            put_nullable(body, *value);
        }
        varint::put_i64(&mut self.records, self.scratch.len() as i64);
        self.records.extend_from_slice(&self.scratch);
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
    pub fn build(self) -> Result<Batch, CompressionError> {
        let body = match self.options.codec.compress(&self.records)? {
            Some(compressed) => compressed,
            None => self.records,
        };
        let attributes = self.options.attributes.with_compression(self.options.codec.compression);
        let mut header = Header {
            base_offset: self.options.base_offset,
            batch_length: i32::try_from(HEADER_BYTES - LENGTH_PREFIX_BYTES + body.len())
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
        header.crc = header.crc_with(&body);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&body);
        Ok(Batch { header, bytes: Bytes::from(bytes) })
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

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::put_i64(out, -1),
        Some(bytes) => {
            varint::put_i64(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}
