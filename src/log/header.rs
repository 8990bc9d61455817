//! What the log reads of a batch: its header, which must not contradict itself, and the marker that
//! a control batch holds.

use bytes::Bytes;

use super::error::Damage;
use crate::protocol::batch::{BatchError, Header, varint};

impl From<BatchError> for Damage {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Truncated { .. } => Self::Torn,
            BatchError::Length(length) => Self::Length(length),
            BatchError::Magic(magic) => Self::Magic(magic),
            BatchError::Crc { expected, actual } => {
                Self::Crc { stored: expected, computed: actual }
            }
            BatchError::Compression(id) => Self::Codec(id),
            BatchError::Count { .. } => Self::Counts,
        }
    }
}

/// Reads the header that `bytes` starts with; checks everything that it can contradict itself in.
pub(crate) fn parse(bytes: &[u8]) -> Result<Header, Damage> {
    let header = Header::parse(bytes)?;
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
        let (value, length) = varint::read_i64(self.0)?;
        self.take(length)?;
        Some(value)
    }
}
