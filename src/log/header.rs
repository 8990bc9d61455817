//! The fixed part of a record batch, as far as the log looks at it.

use bytes::Bytes;

use super::error::Damage;
use crate::base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// Length of a batch's fixed part.
pub(crate) const HEADER_BYTES: usize = 61;
/// Length of what precedes the part that the length field counts.
pub(crate) const OVERHEAD_BYTES: usize = 12;
/// Where the part begins that the CRC covers.
const CRC_FROM: usize = 21;

const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// A batch's fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base_offset: Offset,
    pub(crate) size_bytes: u32,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp_ms: i64,
    pub(crate) max_timestamp_ms: i64,
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: ProducerEpoch,
    pub(crate) base_sequence: i32,
    pub(crate) count: i32,
}

impl Header {
    /// Reads the fixed part; checks everything that it can contradict itself in.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Damage> {
        let length = i32::from_be_bytes(part(bytes, 8));
        // A batch holds at least its own fixed part, and its size must fit 31 bits.
        if length < (HEADER_BYTES - OVERHEAD_BYTES) as i32
            || length > i32::MAX - OVERHEAD_BYTES as i32
        {
            return Err(Damage::Length(length));
        }
        let magic = i8::from_be_bytes(part(bytes, 16));
        if magic != 2 {
            return Err(Damage::Magic(magic));
        }
        let header = Self {
            base_offset: Offset(i64::from_be_bytes(part(bytes, 0))),
            size_bytes: length as u32 + OVERHEAD_BYTES as u32,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(part(bytes, 12))),
            crc: u32::from_be_bytes(part(bytes, 17)),
            attributes: i16::from_be_bytes(part(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(part(bytes, 23)),
            base_timestamp_ms: i64::from_be_bytes(part(bytes, 27)),
            max_timestamp_ms: i64::from_be_bytes(part(bytes, 35)),
            producer_id: ProducerId(i64::from_be_bytes(part(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(part(bytes, 51))),
            base_sequence: i32::from_be_bytes(part(bytes, 53)),
            count: i32::from_be_bytes(part(bytes, 57)),
        };
        // Compaction leaves gaps, so a count may be lower than the span, down to none.
        let span = i64::from(header.last_offset_delta) + 1;
        if header.base_offset.0 < 0
            || header.last_offset_delta < 0
            || header.count < 0
            || i64::from(header.count) > span
            || header.base_offset.0.checked_add(span).is_none()
        {
            return Err(Damage::Counts);
        }
        Ok(header)
    }

    /// Gives a batch its place in the log. `fixed` is the copy of its fixed part to be written; the
    /// CRC covers neither offset nor epoch, so it changes with the timestamps only.
    pub(crate) fn stamp(
        &mut self,
        fixed: &mut [u8; HEADER_BYTES],
        batch: &[u8],
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
        log_append_time_ms: Option<i64>,
    ) {
        self.base_offset = base_offset;
        self.leader_epoch = leader_epoch;
        fixed[..8].copy_from_slice(&base_offset.0.to_be_bytes());
        fixed[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
        if let Some(time_ms) = log_append_time_ms
            && (!self.is_log_append_time() || self.max_timestamp_ms != time_ms)
        {
            self.attributes |= LOG_APPEND_TIME;
            self.max_timestamp_ms = time_ms;
            fixed[21..23].copy_from_slice(&self.attributes.to_be_bytes());
            fixed[35..43].copy_from_slice(&time_ms.to_be_bytes());
            let crc = crc32c::crc32c(&fixed[CRC_FROM..]);
            self.crc = crc32c::crc32c_append(crc, &batch[HEADER_BYTES..]);
            fixed[17..21].copy_from_slice(&self.crc.to_be_bytes());
        }
    }

    pub(crate) fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    pub(crate) fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    pub(crate) fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub(crate) fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub(crate) fn has_producer(&self) -> bool {
        self.producer_id != ProducerId::NONE
    }

    /// The sequence number of the last record, or -1 for none.
    pub(crate) fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        add_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// Sequence numbers count from 0 to `i32::MAX` and start over.
pub(crate) fn add_sequence(sequence: i32, count: i32) -> i32 {
    ((i64::from(sequence) + i64::from(count)) & i64::from(i32::MAX)) as i32
}

/// The CRC that a whole batch should have.
pub(crate) fn crc_of(batch: &[u8]) -> u32 {
    crc32c::crc32c(&batch[CRC_FROM..])
}

/// The CRC of a whole batch as its bytes say.
pub(crate) fn check_crc(header: &Header, batch: &[u8]) -> Result<(), Damage> {
    let computed = crc_of(batch);
    if computed == header.crc { Ok(()) } else { Err(Damage::Crc { stored: header.crc, computed }) }
}

/// What a control batch says of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndMarker {
    pub(crate) committed: bool,
    pub(crate) coordinator_epoch: i32,
}

impl EndMarker {
    /// Reads the one record of a control batch; `body` is what follows the batch's fixed part.
    /// None where the batch was emptied by compaction or holds a marker of another kind.
    pub(crate) fn parse(body: &Bytes) -> Option<Self> {
        let mut rest = Reader(body);
        rest.varint()?; // Length of the record.
        rest.take(1)?; // Attributes.
        rest.varint()?; // Timestamp delta.
        rest.varint()?; // Offset delta.
        let key_len = usize::try_from(rest.varint()?).ok()?;
        let key = rest.take(key_len)?;
        let value_len = usize::try_from(rest.varint()?).ok()?;
        let value = rest.take(value_len)?;
        let kind = i16::from_be_bytes(key.get(2..4)?.try_into().ok()?);
        let coordinator_epoch = i32::from_be_bytes(value.get(2..6)?.try_into().ok()?);
        match kind {
            0 => Some(Self { committed: false, coordinator_epoch }),
            1 => Some(Self { committed: true, coordinator_epoch }),
            _ => None,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<i64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        None
    }
}

fn part<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}
