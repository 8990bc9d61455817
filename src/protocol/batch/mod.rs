//! Record batches in format 2, as Kafka has them on the wire and on disk.
//!
//! A [`Batch`] is a parsed header over the bytes as they came; records are decoded only where
//! somebody asks for them ([`Batch::records`]). The CRC-32C covers everything from the attributes
//! on, so a base offset and a leader epoch are set without touching it ([`Header::stamp`]).
//!
//! Invariant: the bytes of a `Batch` are exactly as long as its header says, and its CRC was right
//! when it was parsed. References: KIP-98, KIP-82, KIP-101.

mod builder;
mod header;
mod records;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub(crate) use builder::put_record;
pub use builder::{BatchBuilder, BatchOptions, NewRecord, Producer};
pub(crate) use header::add_sequence;
pub use header::{Attributes, HEADER_BYTES, Header, LENGTH_PREFIX_BYTES, TimestampType};
pub(crate) use records::varint;
pub use records::{Record, RecordError, RecordHeaders, RecordLimits, Records};

use crate::{
    base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId},
    protocol::compression::Compression,
};

/// The only format of batches that Kafka 4 writes.
pub const MAGIC: i8 = 2;

/// Bytes that are not a record batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a header, or than the header says.
    #[error("a batch of {expected} bytes was cut at {actual}")]
    Truncated { expected: usize, actual: usize },
    /// The length field is smaller than a header or larger than 2 GiB.
    #[error("a batch cannot be {0} bytes long")]
    Length(i32),
    /// A message set from before Kafka 0.11, or no batch at all.
    #[error("batch format {0} is not supported: expected 2")]
    Magic(i8),
    /// The bytes changed on their way.
    #[error("the CRC-32C of a batch is {actual:#010x} but its header says {expected:#010x}")]
    Crc { expected: u32, actual: u32 },
    /// Names a codec that does not exist.
    #[error("unknown compression type {0}")]
    Compression(u8),
    /// The record count and the offsets contradict each other.
    #[error("{count} records cannot end at offset delta {last_offset_delta}")]
    Count { count: i32, last_offset_delta: i32 },
}

/// One record batch: its header, parsed, over its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: Header,
    bytes: Bytes,
}

impl Batch {
    /// Takes the first batch off `bytes` and checks its length, format and CRC.
    ///
    /// Accepts what compaction leaves behind: fewer records than offsets, or none.
    ///
    /// # Errors
    /// Where `bytes` does not start with a whole, intact batch; `bytes` is then as it was.
    pub fn split_from(bytes: &mut Bytes) -> Result<Self, BatchError> {
        let header = Header::parse(bytes)?;
        let size = header.size_bytes();
        if bytes.len() < size {
            return Err(BatchError::Truncated { expected: size, actual: bytes.len() });
        }
        header.check_crc(&bytes[..size])?;
        Ok(Self { header, bytes: bytes.split_to(size) })
    }

    /// The parsed header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The whole batch, header included.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records as they are in the batch, compressed or not.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    /// The whole batch's size.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The first record's offset; relative to the request before it was stamped.
    #[must_use]
    pub const fn base_offset(&self) -> Offset {
        self.header.base_offset
    }

    /// The last record's offset, also where compaction removed that record.
    #[must_use]
    pub const fn last_offset(&self) -> Offset {
        self.header.last_offset()
    }

    /// How many records there are.
    #[must_use]
    pub const fn count(&self) -> i32 {
        self.header.count
    }

    /// The largest timestamp of its records, or the time it was appended.
    #[must_use]
    pub const fn max_timestamp_ms(&self) -> i64 {
        self.header.max_timestamp_ms
    }

    /// What `max_timestamp_ms` means.
    #[must_use]
    pub const fn timestamp_type(&self) -> TimestampType {
        self.header.attributes.timestamp_type()
    }

    /// The codec of its body.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.header.compression
    }

    /// Who wrote it, or `NONE`.
    #[must_use]
    pub const fn producer_id(&self) -> ProducerId {
        self.header.producer_id
    }

    /// The epoch of who wrote it, or `NONE`.
    #[must_use]
    pub const fn producer_epoch(&self) -> ProducerEpoch {
        self.header.producer_epoch
    }

    /// The first record's sequence number, or -1.
    #[must_use]
    pub const fn base_sequence(&self) -> i32 {
        self.header.base_sequence
    }

    /// The epoch of the leader that appended it.
    #[must_use]
    pub const fn leader_epoch(&self) -> LeaderEpoch {
        self.header.leader_epoch
    }

    /// Whether it is part of a transaction.
    #[must_use]
    pub const fn is_transactional(&self) -> bool {
        self.header.is_transactional()
    }

    /// Whether it holds a control record, such as a transaction marker.
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.header.is_control()
    }

    /// Decodes the records one by one, decompressing as far as they are asked for.
    ///
    /// # Errors
    /// Where the decompressor does not start.
    pub fn records(&self, limits: RecordLimits) -> Result<Records, RecordError> {
        Records::new(self.header, self.body(), limits)
    }
}

/// Splits what a client or a leader sent into batches.
#[derive(Debug)]
pub struct Batches;

impl Batches {
    /// The batches of a produce request: whole, intact, and with as many records as offsets.
    ///
    /// # Errors
    /// At the first batch that is not.
    pub fn parse(mut bytes: Bytes) -> Result<Vec<Batch>, BatchError> {
        let mut batches = Vec::new();
        while !bytes.is_empty() {
            let batch = Batch::split_from(&mut bytes)?;
            let Header { count, last_offset_delta, .. } = *batch.header();
            if count < 1 || last_offset_delta != count - 1 {
                return Err(BatchError::Count { count, last_offset_delta });
            }
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The whole batches at the start of `bytes`, as a log or a fetch response holds them: what
    /// compaction left is accepted, and a last batch that was cut is left out.
    ///
    /// # Errors
    /// At the first whole batch that is damaged.
    pub fn parse_stored(mut bytes: Bytes) -> Result<Vec<Batch>, BatchError> {
        let mut batches = Vec::new();
        while !bytes.is_empty() {
            match Batch::split_from(&mut bytes) {
                Ok(batch) => batches.push(batch),
                Err(BatchError::Truncated { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(batches)
    }
}
