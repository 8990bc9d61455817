//! The 61 bytes in front of a batch's records.

use super::{BatchError, MAGIC};
use crate::{
    base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId},
    protocol::compression::Compression,
};

/// How long a batch's header is.
pub const HEADER_BYTES: usize = 61;
/// The base offset and the length field, which the length does not count.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// Where what the CRC covers begins.
const CRC_FROM: usize = 21;

/// What a batch's timestamps mean; Kafka's `message.timestamp.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampType {
    /// Set by the producer.
    #[default]
    CreateTime,
    /// Set by the leader when it appended the batch.
    LogAppendTime,
}

/// The flags of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    const COMPRESSION: i16 = 0b111;
    const LOG_APPEND_TIME: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;

    /// The codec's number on the wire.
    #[must_use]
    pub const fn compression_id(self) -> u8 {
        (self.0 & Self::COMPRESSION) as u8
    }

    /// What the timestamps mean.
    #[must_use]
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub const fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds a control record.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is the time at which tombstones may go (KIP-534).
    #[must_use]
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    const fn with(self, flag: i16, on: bool) -> Self {
        Self(if on { self.0 | flag } else { self.0 & !flag })
    }

    /// The same with another codec.
    #[must_use]
    pub const fn with_compression(self, compression: Compression) -> Self {
        Self(self.0 & !Self::COMPRESSION | compression.id() as i16)
    }

    /// The same with another meaning of timestamps.
    #[must_use]
    pub const fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        self.with(Self::LOG_APPEND_TIME, matches!(timestamp_type, TimestampType::LogAppendTime))
    }

    /// The same, part of a transaction or not.
    #[must_use]
    pub const fn with_transactional(self, on: bool) -> Self {
        self.with(Self::TRANSACTIONAL, on)
    }

    /// The same, with a control record or not.
    #[must_use]
    pub const fn with_control(self, on: bool) -> Self {
        self.with(Self::CONTROL, on)
    }

    /// The same, with the base timestamp as delete horizon or not.
    #[must_use]
    pub const fn with_delete_horizon(self, on: bool) -> Self {
        self.with(Self::DELETE_HORIZON, on)
    }
}

/// A batch's header, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The first record's offset.
    pub base_offset: Offset,
    /// The batch's size without the first twelve bytes.
    pub batch_length: i32,
    /// The epoch of the leader that appended the batch.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything behind it.
    pub crc: u32,
    /// The flags.
    pub attributes: Attributes,
    /// The codec in `attributes`.
    pub compression: Compression,
    /// The last record's offset, from the first one's.
    pub last_offset_delta: i32,
    /// What the records' timestamps count from.
    pub base_timestamp_ms: i64,
    /// The largest timestamp, or the time of appending.
    pub max_timestamp_ms: i64,
    /// Who wrote the batch, or `NONE`.
    pub producer_id: ProducerId,
    /// The epoch of who wrote it, or `NONE`.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence number, or -1.
    pub base_sequence: i32,
    /// How many records there are.
    pub count: i32,
}

impl Header {
    /// Parses the header that `bytes` starts with. Checks length field, format and codec, not the
    /// CRC.
    ///
    /// # Errors
    /// Where there is no such header. `Truncated` where more bytes are needed to tell.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::Truncated { expected: HEADER_BYTES, actual: bytes.len() });
        };
        let batch_length = i32::from_be_bytes(field(header, 8));
        let magic = header[16] as i8;
        if magic != MAGIC {
            return Err(BatchError::Magic(magic));
        }
        if batch_length < (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32
            || batch_length > i32::MAX - LENGTH_PREFIX_BYTES as i32
        {
            return Err(BatchError::Length(batch_length));
        }
        let attributes = Attributes(i16::from_be_bytes(field(header, 21)));
        let id = attributes.compression_id();
        Ok(Self {
            base_offset: Offset(i64::from_be_bytes(field(header, 0))),
            batch_length,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(header, 12))),
            crc: u32::from_be_bytes(field(header, 17)),
            attributes,
            compression: Compression::from_id(id).ok_or(BatchError::Compression(id))?,
            last_offset_delta: i32::from_be_bytes(field(header, 23)),
            base_timestamp_ms: i64::from_be_bytes(field(header, 27)),
            max_timestamp_ms: i64::from_be_bytes(field(header, 35)),
            producer_id: ProducerId(i64::from_be_bytes(field(header, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(header, 51))),
            base_sequence: i32::from_be_bytes(field(header, 53)),
            count: i32::from_be_bytes(field(header, 57)),
        })
    }

    /// The whole batch's size.
    #[must_use]
    pub const fn size_bytes(&self) -> usize {
        LENGTH_PREFIX_BYTES + self.batch_length as usize
    }

    /// The last record's offset. Saturates, as both numbers may come from a stranger.
    #[must_use]
    pub const fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(self.last_offset_delta as i64))
    }

    /// The offset behind the last record's.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1))
    }

    /// The last record's sequence number, or -1.
    #[must_use]
    pub const fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        add_sequence(self.base_sequence, self.last_offset_delta)
    }

    /// Whether an idempotent producer wrote it.
    #[must_use]
    pub fn has_producer(&self) -> bool {
        self.producer_id != ProducerId::NONE
    }

    /// Whether it is part of a transaction.
    #[must_use]
    pub const fn is_transactional(&self) -> bool {
        self.attributes.is_transactional()
    }

    /// Whether it holds a control record, such as a transaction marker.
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.attributes.is_control()
    }

    /// Checks the CRC of the whole batch.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn check_crc(&self, batch: &[u8]) -> Result<(), BatchError> {
        let actual = crc32c::crc32c(&batch[CRC_FROM..]);
        if actual == self.crc {
            Ok(())
        } else {
            Err(BatchError::Crc { expected: self.crc, actual })
        }
    }

    /// The header as it is on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        header[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        header[12..16].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        header[16] = MAGIC as u8;
        header[17..21].copy_from_slice(&self.crc.to_be_bytes());
        header[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        header[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        header[27..35].copy_from_slice(&self.base_timestamp_ms.to_be_bytes());
        header[35..43].copy_from_slice(&self.max_timestamp_ms.to_be_bytes());
        header[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        header[51..53].copy_from_slice(&self.producer_epoch.0.to_be_bytes());
        header[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        header[57..61].copy_from_slice(&self.count.to_be_bytes());
        header
    }

    /// Gives a batch its place in the log. `fixed` is this header as it came, and is brought in
    /// line; the body of `body_bytes` stays as it is, and is not read.
    ///
    /// With `log_append_time_ms` the batch's timestamps become that time, as
    /// `message.timestamp.type=LogAppendTime` asks; only then the CRC changes.
    pub fn stamp(
        &mut self,
        fixed: &mut [u8; HEADER_BYTES],
        body_bytes: usize,
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
        log_append_time_ms: Option<i64>,
    ) {
        self.base_offset = base_offset;
        self.leader_epoch = leader_epoch;
        fixed[..8].copy_from_slice(&base_offset.0.to_be_bytes());
        fixed[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
        let Some(time_ms) = log_append_time_ms else { return };
        let before = crc32c::crc32c(&fixed[CRC_FROM..]);
        self.attributes = self.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        self.max_timestamp_ms = time_ms;
        fixed[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        fixed[35..43].copy_from_slice(&time_ms.to_be_bytes());
        // A CRC is linear, so the header's share in it can be exchanged.
        let changed = before ^ crc32c::crc32c(&fixed[CRC_FROM..]);
        self.crc ^= crc32c::crc32c_combine(changed, 0, body_bytes);
        fixed[17..21].copy_from_slice(&self.crc.to_be_bytes());
    }

    /// The CRC of this header followed by `body`.
    pub(crate) fn crc_with(&self, body: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.encode()[CRC_FROM..]), body)
    }
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|i| header[at + i])
}

/// Sequence numbers count from 0 to `i32::MAX` and start over.
pub(crate) const fn add_sequence(sequence: i32, count: i32) -> i32 {
    ((sequence as i64 + count as i64) & i32::MAX as i64) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_start_over_behind_the_largest() {
        let mut header = Header::parse(&sample()).unwrap();
        header.base_sequence = i32::MAX - 1;
        header.last_offset_delta = 1;
        assert_eq!(header.last_sequence(), i32::MAX);
        header.last_offset_delta = 2;
        assert_eq!(header.last_sequence(), 0);
        header.base_sequence = -1;
        assert_eq!(header.last_sequence(), -1);
        assert_eq!(add_sequence(i32::MAX - 2, 5), 2);
        assert_eq!(add_sequence(0, -1), i32::MAX);
    }

    #[test]
    fn a_length_smaller_than_the_header_is_refused() {
        for length in [i32::MIN, -1, 0, 48, i32::MAX] {
            let mut bytes = sample();
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            assert_eq!(Header::parse(&bytes), Err(BatchError::Length(length)));
        }
    }

    fn sample() -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[8..12].copy_from_slice(&49_i32.to_be_bytes());
        bytes[16] = 2;
        bytes
    }
}
