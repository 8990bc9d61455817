//! One replica of a partition on this node: the shell around the cores of leader and follower.
//!
//! State: the log, the role that the metadata gives it, appends and requests that wait. The lock is
//! held for moments only, never over a write, a flush or a wait.
//!
//! Invariants:
//! - One at a time changes the log (`writing`): who appends as leader, or who appends or cuts as
//!   follower. A change of role waits for it, so that nothing of a former role reaches the log.
//! - What was read off the log is told to a core under the lock, by the role that it was read for.

mod append;
mod exchange;
mod flush;
mod following;
mod leading;
mod role;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::{append::PendingAppend, role::Role};
pub(super) use self::{leading::Turn, role::Assignment};
use super::{
    Metrics,
    alter::IsrQuestions,
    deadlines::Deadlines,
    leader::{FollowerStatus, Leader, Registration},
    streams::Upstreams,
    tail::TailMemory,
    throttle::Throttles,
    waiting::{FetchWait, WaitingFetches, WaitingWrites},
};
use crate::{
    base::{Blocking, Clock, LeaderEpoch, NodeId, Offset, TopicPartition},
    config::TopicConfig,
    log::{self, AbortedTxn, FileSlice, Log, LogError},
};

/// When a producer hears of its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Never.
    None,
    /// Once the leader holds it.
    Leader,
    /// Once every replica of the ISR holds it.
    All,
}

/// Which records a consumer may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// All that are committed.
    ReadUncommitted,
    /// Those before the first open transaction.
    ReadCommitted,
}

/// Where an append went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record, or of the first time it was written.
    pub base_offset: Offset,
    /// The stamped time, where the topic has LogAppendTime.
    pub log_append_time_ms: Option<i64>,
    /// The log start offset.
    pub log_start_offset: Offset,
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Another node leads, or none. Where the append was under way, its outcome is not known.
    #[error("this node is not the partition's leader")]
    NotLeader,
    /// Refused: fewer replicas are in sync than `min.insync.replicas`.
    #[error("fewer replicas are in sync than min.insync.replicas asks for")]
    NotEnoughReplicas,
    /// Refused: batches of its producer are missing before it, and this replica has just refused
    /// some. It is in order once they come again.
    #[error("an earlier batch of the producer was refused a moment ago: send them again in order")]
    OutOfTurn,
    /// The log refused or failed.
    #[error(transparent)]
    Log(#[from] log::AppendError),
}

/// Why a fetch has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// Another node leads, or none.
    #[error("this node is not the partition's leader")]
    NotLeader,
    /// The client knows a newer leader epoch than this node.
    #[error("the client's leader epoch is newer than this node's")]
    UnknownLeaderEpoch,
    /// The client's leader epoch has passed.
    #[error("the client's leader epoch has passed")]
    FencedLeaderEpoch,
    /// A new leader does not know yet how much of what earlier ones have shown is committed (KIP-207).
    #[error("a new leader does not know yet where the committed records end")]
    OffsetNotAvailable,
    /// The log refused or failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Who may serve a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The leader.
    Leader,
    /// The leader, or a follower that hears it (KIP-392).
    AnyReplica,
}

/// What a fetch found.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Whole batches, in order.
    pub records: Option<FileSlice>,
    /// The end of what is committed.
    pub high_watermark: Offset,
    /// The end of what is decided of transactions.
    pub last_stable_offset: Offset,
    /// The first offset.
    pub log_start_offset: Offset,
    /// Transactions to leave out; only for [`Isolation::ReadCommitted`].
    pub aborted: Vec<AbortedTxn>,
}

/// How far a follower is behind its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Records that it has not acknowledged.
    pub records: u64,
    /// About how many bytes they have.
    pub bytes: u64,
    /// For how long it has not had everything.
    pub time_ms: u64,
}

/// A replica of a partition: its log, and what its role makes of it.
#[derive(Debug)]
pub struct Partition {
    id: TopicPartition,
    topic: Arc<str>,
    log: ArcSwap<Log>,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    role: Role,
    /// What it is to be once whoever writes to the log is done.
    next_role: Option<Assignment>,
    /// Somebody changes the log.
    writing: bool,
    /// Nobody is to begin to: another log takes its place.
    held: bool,
    config: Arc<TopicConfig>,
    pending: VecDeque<PendingAppend>,
    /// When it last refused batches that are to be sent again.
    refused_ms: u64,
    flushing: bool,
    /// A flush by `flush.ms` is due.
    flush_timer: bool,
    flushed: Offset,
    /// The end of what is known to be committed, in whatever role.
    high_watermark: Offset,
    /// Bytes appended since the high watermark last rose.
    uncommitted_bytes: i64,
    writes: WaitingWrites,
    fetches: WaitingFetches,
    /// When the core is looked after, if nothing happens before.
    deadline_ms: Option<u64>,
}

/// What all partitions of a node stand on.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: NodeId,
    /// What the cores count their milliseconds from.
    pub(super) origin: Instant,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) blocking: Blocking,
    pub(super) metrics: Metrics,
    pub(super) replica_lag_time_max_ms: u64,
    pub(super) tails: TailMemory,
    pub(super) deadlines: Deadlines,
    pub(super) questions: IsrQuestions,
    pub(super) upstreams: Upstreams,
    pub(super) throttles: Arc<Throttles>,
}

impl Shared {
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Partition {
    pub(super) fn new(
        id: TopicPartition,
        topic: Arc<str>,
        log: Arc<Log>,
        high_watermark: Offset,
        config: Arc<TopicConfig>,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        let flushed = log.recovery_point();
        let inner = Inner {
            role: Role::Idle,
            next_role: None,
            writing: false,
            held: false,
            config,
            pending: VecDeque::new(),
            // As far as is known: before it came to be, its node refused what was sent to it.
            refused_ms: shared.now_ms(),
            flushing: false,
            flush_timer: false,
            flushed,
            high_watermark: high_watermark.max(log.log_start_offset()).min(log.log_end_offset()),
            uncommitted_bytes: 0,
            writes: WaitingWrites::default(),
            fetches: WaitingFetches::default(),
            deadline_ms: None,
        };
        Arc::new(Self { id, topic, log: ArcSwap::new(log), shared, inner: Mutex::new(inner) })
    }

    /// The partition's identity.
    #[must_use]
    pub const fn id(&self) -> TopicPartition {
        self.id
    }

    /// Its topic's name.
    #[must_use]
    pub const fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Its log, until it moves to another directory.
    #[must_use]
    pub fn log(&self) -> Arc<Log> {
        self.log.load_full()
    }

    /// Whether its log directory has failed.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.log().is_offline()
    }

    /// Its topic's settings.
    #[must_use]
    pub fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.inner.lock().config)
    }

    /// The epoch in which this node leads, if it does.
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.inner.lock().role.leader().map(Leader::leader_epoch)
    }

    /// Whether this node leads and has too few replicas in sync to take an `acks=all` write.
    #[must_use]
    pub fn is_under_min_isr(&self) -> bool {
        self.inner.lock().role.leader().is_some_and(|leader| !leader.has_min_isr())
    }

    /// The end of what is committed. None where this node does not lead.
    #[must_use]
    pub fn high_watermark(&self) -> Option<Offset> {
        self.inner.lock().role.leader().map(Leader::high_watermark)
    }

    /// The end of what this replica knows to be committed, whether it leads or not.
    #[must_use]
    pub fn known_high_watermark(&self) -> Offset {
        self.inner.lock().high_watermark
    }

    /// The end of what this replica knows to be committed and decided, whether it leads or not.
    #[must_use]
    pub fn stable_end(&self) -> Offset {
        self.last_stable_offset(self.known_high_watermark())
    }

    /// Whether it is about to take up another role. Whoever waits for it is told.
    pub(super) fn is_changing(&self) -> bool {
        self.inner.lock().next_role.is_some()
    }

    /// The registration that this node leads by, if it does.
    #[must_use]
    pub fn registration(&self) -> Option<Registration> {
        self.inner.lock().role.leader().map(|leader| leader.registration().clone())
    }

    /// How far the followers are behind, where this node leads.
    #[must_use]
    pub fn lags(&self) -> Vec<(NodeId, Lag)> {
        let now_ms = self.shared.now_ms();
        let (end, followers) = {
            let inner = self.inner.lock();
            let Some(leader) = inner.role.leader() else { return Vec::new() };
            (leader.log_end_offset(), leader.followers().collect::<Vec<_>>())
        };
        let lag = |follower: FollowerStatus| {
            let start = self.log().log_start_offset();
            let held = follower.acknowledged.unwrap_or(start).max(start);
            if held >= end {
                return (follower.node, Lag::default());
            }
            let lag = Lag {
                records: end.since(held).unsigned_abs(),
                bytes: self.log().bytes_from(held),
                time_ms: now_ms.saturating_sub(follower.caught_up_ms),
            };
            (follower.node, lag)
        };
        followers.into_iter().map(lag).collect()
    }

    /// The end of what a consumer may see.
    ///
    /// # Errors
    /// Where this node does not lead, or not for long enough to know.
    pub fn visible_end(&self, isolation: Isolation) -> Result<Offset, FetchError> {
        let high_watermark = {
            let inner = self.inner.lock();
            let leader = inner.role.leader().ok_or(FetchError::NotLeader)?;
            leader.settled_high_watermark().ok_or(FetchError::OffsetNotAvailable)?
        };
        Ok(match isolation {
            Isolation::ReadUncommitted => high_watermark,
            Isolation::ReadCommitted => self.last_stable_offset(high_watermark),
        })
    }

    /// The leader epoch in which this replica serves consumers, and the end of what it knows to be
    /// committed.
    fn readable(&self, source: Source) -> Result<(LeaderEpoch, Offset), FetchError> {
        let inner = self.inner.lock();
        match (&inner.role, source) {
            (Role::Leading(leading), _) => {
                Ok((leading.core.leader_epoch(), leading.core.high_watermark()))
            }
            (Role::Following(following), Source::AnyReplica) if following.core.is_following() => {
                Ok((following.core.leader_epoch(), inner.high_watermark))
            }
            _ => Err(FetchError::NotLeader),
        }
    }

    /// The follower in `rack` that a consumer there had better fetch from (KIP-392): one in sync that
    /// holds everything before `from`.
    #[must_use]
    pub fn nearest(&self, is_near: impl Fn(NodeId) -> bool, from: Offset) -> Option<NodeId> {
        if is_near(self.shared.node) {
            return None;
        }
        let inner = self.inner.lock();
        let leader = inner.role.leader()?;
        let isr = &leader.registration().isr;
        let serves = |follower: &FollowerStatus| {
            isr.contains(&follower.node) && follower.acknowledged.is_some_and(|end| end >= from)
        };
        let mut near = leader.followers().filter(|follower| is_near(follower.node));
        near.find(serves).map(|follower| follower.node)
    }

    fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        let unstable = self.log().first_unstable_offset(high_watermark);
        unstable.map_or(high_watermark, |first| first.min(high_watermark))
    }

    /// Checks the leader epoch that a client believes in (KIP-320).
    ///
    /// # Errors
    /// Where it is not the one in which this node leads, or serves.
    pub fn check_leader_epoch(
        &self,
        believed: LeaderEpoch,
        source: Source,
    ) -> Result<LeaderEpoch, FetchError> {
        let (current, _) = self.readable(source)?;
        if believed == LeaderEpoch::NONE || believed == current {
            Ok(current)
        } else if believed < current {
            Err(FetchError::FencedLeaderEpoch)
        } else {
            Err(FetchError::UnknownLeaderEpoch)
        }
    }

    /// Finds committed records from `from` on, at most `max_bytes` of them, or one whole batch
    /// where `at_least_one` and that is larger. Reads indexes and headers only.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub fn fetch(
        &self,
        from: Offset,
        max_bytes: u32,
        at_least_one: bool,
        isolation: Isolation,
        source: Source,
    ) -> Result<Fetched, FetchError> {
        let (_, high_watermark) = self.readable(source)?;
        let last_stable_offset = self.last_stable_offset(high_watermark);
        let upper = match isolation {
            Isolation::ReadUncommitted => high_watermark,
            Isolation::ReadCommitted => last_stable_offset,
        };
        let log_start_offset = self.log().log_start_offset();
        let records = self.with_log(|log| log.read(from, upper, max_bytes, at_least_one))?;
        let aborted = match &records {
            Some(_) if isolation == Isolation::ReadCommitted => {
                self.with_log(|log| log.aborted_transactions(from, upper))?
            }
            _ => Vec::new(),
        };
        Ok(Fetched { records, high_watermark, last_stable_offset, log_start_offset, aborted })
    }

    /// Has `wait` told of every record that comes, as long as the guard lives.
    pub(crate) fn wait(self: &Arc<Self>, wait: Arc<FetchWait>) -> WaitGuard {
        self.inner.lock().fetches.add(Arc::clone(&wait));
        WaitGuard { partition: Arc::clone(self), wait }
    }

    /// Time has passed for its core.
    pub(super) fn handle_deadline(self: &Arc<Self>) {
        let now_ms = self.shared.now_ms();
        let mut inner = self.inner.lock();
        inner.deadline_ms = None;
        if let Role::Leading(leading) = &mut inner.role {
            leading.core.handle_time(now_ms);
            self.lead_on(&mut inner);
        }
        self.follow_on(inner);
    }

    /// Has the core looked after when it asks for it.
    fn note_deadline(&self, inner: &mut Inner) {
        let deadline_ms = match &inner.role {
            Role::Idle => None,
            Role::Leading(leading) => leading.core.next_deadline_ms(),
            Role::Following(following) => following.core.next_deadline_ms(),
        };
        if let Some(at_ms) = deadline_ms
            && inner.deadline_ms.is_none_or(|known_ms| at_ms < known_ms)
        {
            let former_ms = inner.deadline_ms.replace(at_ms);
            self.shared.deadlines.set(self.id, former_ms, at_ms);
        }
    }

    pub(super) fn blocking(&self) -> &Blocking {
        &self.shared.blocking
    }
}

/// Keeps a fetch registered with a partition.
#[derive(Debug)]
pub(crate) struct WaitGuard {
    partition: Arc<Partition>,
    wait: Arc<FetchWait>,
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        self.partition.inner.lock().fetches.remove(&self.wait);
    }
}
