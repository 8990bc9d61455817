//! What a follower and the leader of a partition say to each other: the meaning of the frames.

use crate::{
    base::{BrokerEpoch, LeaderEpoch, Offset},
    log::Log,
    transport::StreamClass,
};

/// Names a subscription of a follower. Later ones are greater, over all lives of the node, so that
/// nothing said under one is taken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64);

/// A follower asks for what it misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe {
    /// Names this subscription from here on.
    pub session: Session,
    /// The registration of the follower's process.
    pub broker_epoch: BrokerEpoch,
    /// The epoch of the leader that it means.
    pub leader_epoch: LeaderEpoch,
    /// Where its log ends.
    pub log_end_offset: Offset,
    /// The newest epoch that its log knows, or `NONE`.
    pub last_epoch: LeaderEpoch,
}

/// What the leader says to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The follower's log is a prefix of the leader's: batches follow from its end on.
    Agreed,
    /// The logs differ. `epoch` is the leader's newest that is not above the follower's last one,
    /// and `end` is where it ends there (KIP-279): the follower cuts its log by both and subscribes
    /// anew.
    Truncate {
        /// The leader's epoch.
        epoch: LeaderEpoch,
        /// Its end in the leader's log.
        end: Offset,
    },
    /// The leader's log has nothing of what the follower holds: that one starts over here, and
    /// subscribes anew.
    StartAt(Offset),
    /// Not now, or not here.
    Refused(Refusal),
}

/// Why a leader does not serve a subscription, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another node leads, or none.
    #[error("this node does not lead the partition")]
    NotLeader,
    /// The follower means an epoch that has passed.
    #[error("the leader epoch has passed")]
    FencedLeaderEpoch,
    /// The follower means an epoch that this node has not heard of.
    #[error("the leader epoch is not known here yet")]
    UnknownLeaderEpoch,
    /// The follower is no replica as far as the leader knows.
    #[error("the follower is not among the replicas")]
    NotReplica,
    /// The follower has subscribed anew since.
    #[error("the follower has subscribed anew since")]
    Superseded,
    /// The follower's log knows a later epoch than the leader's: one of them is not what it was.
    #[error("the follower's log has records of a later epoch than the leader's")]
    LaterEpoch,
    /// What comes next is not in the leader's log any more.
    #[error("the leader's log begins after the follower's end")]
    OffsetOutOfRange,
    /// The leader's log failed.
    #[error("the leader's log cannot be read")]
    Storage,
    /// The follower misses more than a stream for the tail carries: it is to subscribe on one for
    /// catching up.
    #[error("the follower is to catch up on a stream of its own")]
    Behind,
    /// The follower has caught up: it is to subscribe on a stream for the tail.
    #[error("the follower has caught up")]
    CaughtUp,
}

impl Refusal {
    /// The class of stream that a follower is sent to, if it is sent to another.
    #[must_use]
    pub const fn redirect(self) -> Option<StreamClass> {
        match self {
            Self::Behind => Some(StreamClass::CatchUp),
            Self::CaughtUp => Some(StreamClass::Replica),
            _ => None,
        }
    }
}

/// What a leader tells beside its batches, and alone where it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The end of what is committed.
    pub high_watermark: Offset,
    /// The end of what is decided of transactions.
    pub last_stable_offset: Offset,
    /// Where the log begins.
    pub log_start_offset: Offset,
}

/// Where a log begins and ends, and its leader epochs.
pub trait LogView {
    /// The first offset.
    fn log_start_offset(&self) -> Offset;
    /// The offset that the next record gets.
    fn log_end_offset(&self) -> Offset;
    /// The oldest epoch, or `NONE`.
    fn first_epoch(&self) -> LeaderEpoch;
    /// The newest epoch, or `NONE`.
    fn last_epoch(&self) -> LeaderEpoch;
    /// The largest epoch not above `epoch`, and where it ends.
    fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)>;
    /// The end of what is decided of transactions, at most `high_watermark`.
    fn last_stable_offset(&self, high_watermark: Offset) -> Offset;
}

impl LogView for Log {
    fn log_start_offset(&self) -> Offset {
        Self::log_start_offset(self)
    }

    fn log_end_offset(&self) -> Offset {
        Self::log_end_offset(self)
    }

    fn first_epoch(&self) -> LeaderEpoch {
        self.leader_epochs().first().map_or(LeaderEpoch::NONE, |first| first.epoch)
    }

    fn last_epoch(&self) -> LeaderEpoch {
        self.latest_epoch().unwrap_or(LeaderEpoch::NONE)
    }

    fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.offset_for_leader_epoch(epoch)
    }

    fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        let unstable = self.first_unstable_offset(high_watermark);
        unstable.map_or(high_watermark, |first| first.min(high_watermark))
    }
}
