//! Where each leader epoch begins in a log (KIP-101), and `leader-epoch-checkpoint`.
//!
//! Invariant: epochs and their start offsets both rise from entry to entry.

use super::error::Damage;
use crate::base::{LeaderEpoch, Offset};

/// A leader epoch and the first offset written in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The log end offset when it began.
    pub start_offset: Offset,
}

/// The leader epochs of a log, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Epochs(Vec<EpochStart>);

impl Epochs {
    /// Notes that `epoch` begins at `start_offset`; true where that was news.
    ///
    /// Entries that contradict it (later epochs, or starts at or beyond it) are dropped.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        if epoch.0 < 0 || self.0.last().is_some_and(|last| last.epoch == epoch) {
            return false;
        }
        self.0.retain(|entry| entry.epoch < epoch && entry.start_offset < start_offset);
        self.0.push(EpochStart { epoch, start_offset });
        true
    }

    /// Whether the newest epoch begins at `offset`.
    pub(crate) fn begins_at(&self, offset: Offset) -> bool {
        self.latest().is_some_and(|latest| latest.start_offset == offset)
    }

    pub(crate) fn latest(&self) -> Option<EpochStart> {
        self.0.last().copied()
    }

    pub(crate) fn all(&self) -> &[EpochStart] {
        &self.0
    }

    /// The largest epoch that is not above `epoch`, and where it ends; none where the log knows
    /// nothing so early or so late.
    pub(crate) fn end_offset(
        &self,
        epoch: LeaderEpoch,
        log_end_offset: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let latest = self.latest()?;
        if epoch == latest.epoch {
            return Some((epoch, log_end_offset));
        }
        if epoch > latest.epoch || epoch.0 < 0 {
            return None;
        }
        let above = self.0.partition_point(|entry| entry.epoch <= epoch);
        match above.checked_sub(1) {
            Some(at) => Some((self.0[at].epoch, self.0[above].start_offset)),
            // Asked for an epoch before all: it ends where the first begins.
            None => Some((epoch, self.0[0].start_offset)),
        }
    }

    /// The epoch of a record.
    pub(crate) fn of(&self, offset: Offset) -> Option<LeaderEpoch> {
        let above = self.0.partition_point(|entry| entry.start_offset <= offset);
        above.checked_sub(1).map(|at| self.0[at].epoch)
    }

    /// Drops epochs that begin at or after `offset`; true where any did.
    pub(crate) fn truncate_from_end(&mut self, offset: Offset) -> bool {
        let before = self.0.len();
        self.0.retain(|entry| entry.start_offset < offset);
        self.0.len() != before
    }

    /// Drops epochs that end before `offset`, which becomes the start of the oldest that is left.
    pub(crate) fn truncate_from_start(&mut self, offset: Offset) -> bool {
        let above = self.0.partition_point(|entry| entry.start_offset <= offset);
        let Some(first) = above.checked_sub(1) else { return false };
        if first == 0 && self.0[0].start_offset == offset {
            return false;
        }
        self.0.drain(..first);
        self.0[0].start_offset = offset;
        true
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = format!("0\n{}\n", self.0.len());
        for entry in &self.0 {
            text.push_str(&format!("{} {}\n", entry.epoch, entry.start_offset));
        }
        text
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let lines = super::checkpoint::parse_lines(bytes)?;
        let entries = lines.into_iter().map(|line| {
            let (epoch, offset) = line.split_once(' ').ok_or(Damage::Format)?;
            Ok(EpochStart {
                epoch: LeaderEpoch(epoch.parse().map_err(|_| Damage::Format)?),
                start_offset: Offset(offset.parse().map_err(|_| Damage::Format)?),
            })
        });
        entries.collect::<Result<_, _>>().map(Self)
    }
}
