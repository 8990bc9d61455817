//! What a push must be to be appended.

use bytes::Bytes;

use super::Follower;
use crate::{
    base::{LeaderEpoch, Offset},
    protocol::batch::{Batch, BatchError, Header},
};

/// Why a push was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// It continues another log than this one.
    #[error("the leader goes on at offset {from}, but the log ends at {end}")]
    Gap {
        /// Where the leader goes on.
        from: Offset,
        /// Where the log ends.
        end: Offset,
    },
    /// A batch lies before the end of what comes before it.
    #[error("a batch begins at offset {base_offset}, before {end}, where the log ends")]
    Overlap {
        /// Where the batch begins.
        base_offset: Offset,
        /// Where what comes before it ends.
        end: Offset,
    },
    /// A batch's epoch is before that of what comes before it, or after the leader's.
    #[error("a batch is of leader epoch {epoch}, outside of {after} to {leader_epoch}")]
    Epoch {
        /// The batch's.
        epoch: LeaderEpoch,
        /// That of what comes before it.
        after: LeaderEpoch,
        /// The leader's.
        leader_epoch: LeaderEpoch,
    },
    /// A batch is torn or damaged.
    #[error("a batch is damaged")]
    Damaged(#[from] BatchError),
}

/// Batches that continue the log.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) parts: Vec<Bytes>,
    /// The first offset; before the log's end only where the log is empty.
    pub(super) starts_at: Offset,
    pub(super) end: Offset,
    pub(super) last_epoch: LeaderEpoch,
}

/// Checks that `records` are whole, intact batches that continue the log at `from`. Compaction
/// leaves gaps between batches.
pub(super) fn check(
    follower: &Follower,
    from: Offset,
    mut records: Bytes,
) -> Result<Checked, PushError> {
    let end = follower.log_end_offset;
    if from != end {
        return Err(PushError::Gap { from, end });
    }
    let is_empty = follower.log_start_offset == end;
    let mut checked =
        Checked { parts: Vec::new(), starts_at: end, end, last_epoch: follower.last_epoch };
    while !records.is_empty() {
        let batch = Batch::split_from(&mut records)?;
        let Header { count, last_offset_delta, .. } = *batch.header();
        // Compaction leaves fewer records than offsets.
        if !(0..=i64::from(last_offset_delta) + 1).contains(&i64::from(count))
            || last_offset_delta < 0
            || batch.last_offset() == Offset(i64::MAX)
        {
            return Err(BatchError::Count { count, last_offset_delta }.into());
        }
        let (base_offset, epoch) = (batch.base_offset(), batch.leader_epoch());
        if base_offset < checked.end {
            if !is_empty || !checked.parts.is_empty() || base_offset < Offset::ZERO {
                return Err(PushError::Overlap { base_offset, end: checked.end });
            }
            checked.starts_at = base_offset;
        }
        let (after, leader_epoch) = (checked.last_epoch, follower.leader_epoch);
        if epoch < after || epoch > leader_epoch {
            return Err(PushError::Epoch { epoch, after, leader_epoch });
        }
        checked.end = batch.last_offset().plus(1);
        checked.last_epoch = epoch;
        checked.parts.push(batch.bytes().clone());
    }
    Ok(checked)
}
