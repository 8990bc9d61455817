//! One replica of a partition on this node.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Metrics,
    leader::{Leader, LeaderConfig, Registration, Start},
    waiting::{FetchWait, Reply, Until, WaitingFetches, WaitingWrites},
};
use crate::{
    base::{Blocking, Clock, LeaderEpoch, NodeId, Offset, TopicPartition},
    config::{TimestampType, TopicConfig},
    log::{self, AbortedTxn, FileSlice, Log, LogError, Origin},
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
    /// The log refused or failed.
    #[error(transparent)]
    Log(#[from] LogError),
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

#[derive(Debug)]
struct PendingAppend {
    batches: Vec<Bytes>,
    acks: Acks,
    origin: Origin,
    reply: Reply,
}

#[derive(Debug)]
struct Inner {
    leader: Option<Leader>,
    config: Arc<TopicConfig>,
    pending: VecDeque<PendingAppend>,
    appending: bool,
    flushing: bool,
    /// A flush by `flush.ms` is due.
    flush_timer: bool,
    flushed: Offset,
    /// Bytes appended since the high watermark last rose.
    uncommitted_bytes: i64,
    writes: WaitingWrites,
    fetches: WaitingFetches,
}

/// A replica of a partition: its log, and, where this node leads, its leader state.
#[derive(Debug)]
pub struct Partition {
    id: TopicPartition,
    topic: Arc<str>,
    log: Arc<Log>,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
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
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Partition {
    pub(super) fn new(
        id: TopicPartition,
        topic: Arc<str>,
        log: Arc<Log>,
        config: Arc<TopicConfig>,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        let flushed = log.recovery_point();
        let inner = Inner {
            leader: None,
            config,
            pending: VecDeque::new(),
            appending: false,
            flushing: false,
            flush_timer: false,
            flushed,
            uncommitted_bytes: 0,
            writes: WaitingWrites::default(),
            fetches: WaitingFetches::default(),
        };
        Arc::new(Self { id, topic, log, shared, inner: Mutex::new(inner) })
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

    /// Its log.
    #[must_use]
    pub const fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Whether its log directory has failed.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.log.is_offline()
    }

    /// Its topic's settings.
    #[must_use]
    pub fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.inner.lock().config)
    }

    /// The epoch in which this node leads, if it does.
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.inner.lock().leader.as_ref().map(Leader::leader_epoch)
    }

    /// Whether this node leads and has too few replicas in sync to take an `acks=all` write.
    #[must_use]
    pub fn is_under_min_isr(&self) -> bool {
        self.inner.lock().leader.as_ref().is_some_and(|leader| !leader.has_min_isr())
    }

    /// The end of what is committed. None where this node does not lead.
    #[must_use]
    pub fn high_watermark(&self) -> Option<Offset> {
        self.inner.lock().leader.as_ref().map(Leader::high_watermark)
    }

    /// The end of what a consumer may see. None where this node does not lead.
    #[must_use]
    pub fn visible_end(&self, isolation: Isolation) -> Option<Offset> {
        let high_watermark = self.high_watermark()?;
        Some(match isolation {
            Isolation::ReadUncommitted => high_watermark,
            Isolation::ReadCommitted => self.last_stable_offset(high_watermark),
        })
    }

    fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        let unstable = self.log.first_unstable_offset(high_watermark);
        unstable.map_or(high_watermark, |first| first.min(high_watermark))
    }

    /// Checks the leader epoch that a client believes in (KIP-320).
    ///
    /// # Errors
    /// Where it is not the one in which this node leads.
    pub fn check_leader_epoch(&self, believed: LeaderEpoch) -> Result<LeaderEpoch, FetchError> {
        let current = self.leader_epoch().ok_or(FetchError::NotLeader)?;
        if believed == LeaderEpoch::NONE || believed == current {
            Ok(current)
        } else if believed < current {
            Err(FetchError::FencedLeaderEpoch)
        } else {
            Err(FetchError::UnknownLeaderEpoch)
        }
    }

    /// Leads from now on, or goes on leading with a newer registration.
    pub(super) fn lead(self: &Arc<Self>, registration: Registration, config: Arc<TopicConfig>) {
        let now_ms = self.shared.now_ms();
        let flush = {
            let mut inner = self.inner.lock();
            inner.config = config;
            match &mut inner.leader {
                Some(leader) if leader.leader_epoch() == registration.leader_epoch => {
                    if leader.handle_registration(registration, now_ms) {
                        inner.handle_committed();
                    }
                }
                _ => {
                    inner.writes.fail(&AppendError::NotLeader);
                    self.log.assign_epoch(registration.leader_epoch);
                    // Everything that this replica holds of the leaders before is kept; it commits
                    // once the ISR, this replica with its flush included, is known to hold it.
                    let start = Start {
                        log_end_offset: self.log.log_end_offset(),
                        acknowledged: Offset::ZERO,
                        high_watermark: self.log.log_start_offset(),
                    };
                    let config = LeaderConfig::new(self.shared.node);
                    inner.leader = Some(Leader::new(config, registration, start, now_ms));
                }
            }
            self.handle_appended(&mut inner)
        };
        if flush {
            self.start_flush();
        }
    }

    /// Stops leading: what waits is told so.
    pub(super) fn resign(&self) {
        let mut inner = self.inner.lock();
        inner.leader = None;
        inner.writes.fail(&AppendError::NotLeader);
        inner.fetches.handle_change();
    }

    /// Puts other settings in force.
    pub(super) fn set_config(self: &Arc<Self>, config: Arc<TopicConfig>) {
        let flush = {
            let mut inner = self.inner.lock();
            inner.config = config;
            self.handle_appended(&mut inner)
        };
        if flush {
            self.start_flush();
        }
    }

    /// Appends validated batches in the order of the calls. Returns at once; the outcome comes when
    /// `acks` is satisfied. The caller sets the deadline by giving up the receiver.
    pub fn append(
        self: &Arc<Self>,
        batches: Vec<Bytes>,
        acks: Acks,
        origin: Origin,
    ) -> oneshot::Receiver<Result<Appended, AppendError>> {
        let (reply, outcome) = oneshot::channel();
        let mut inner = self.inner.lock();
        let refusal = match &inner.leader {
            None => Some(AppendError::NotLeader),
            Some(leader) if acks == Acks::All && !leader.has_min_isr() => {
                Some(AppendError::NotEnoughReplicas)
            }
            Some(_) => None,
        };
        if let Some(error) = refusal {
            drop(reply.send(Err(error)));
            return outcome;
        }
        inner.pending.push_back(PendingAppend { batches, acks, origin, reply });
        if inner.appending {
            return outcome;
        }
        inner.appending = true;
        drop(inner);
        self.append_pending();
        outcome
    }

    /// Writes what is pending, for everybody who asked meanwhile too.
    fn append_pending(self: &Arc<Self>) {
        loop {
            let (pending, leader_epoch, config) = {
                let mut inner = self.inner.lock();
                if inner.pending.is_empty() {
                    inner.appending = false;
                    return;
                }
                let leader_epoch = inner.leader.as_ref().map(Leader::leader_epoch);
                (std::mem::take(&mut inner.pending), leader_epoch, Arc::clone(&inner.config))
            };
            let mut bytes = 0;
            let mut appended = Vec::with_capacity(pending.len());
            for append in pending {
                let size: usize = append.batches.iter().map(Bytes::len).sum();
                let outcome = match leader_epoch {
                    Some(epoch) => self.write(&append, epoch, &config),
                    None => Err(AppendError::NotLeader),
                };
                if outcome.is_ok() {
                    bytes += size as i64;
                }
                appended.push((append, outcome));
            }
            let flush = {
                let mut inner = self.inner.lock();
                for (append, outcome) in appended {
                    inner.settle(append, outcome, leader_epoch);
                }
                inner.uncommitted_bytes += bytes;
                self.handle_appended(&mut inner)
            };
            if flush {
                self.start_flush();
            }
        }
    }

    /// One write. Returns also where it ends.
    fn write(
        &self,
        append: &PendingAppend,
        leader_epoch: LeaderEpoch,
        config: &TopicConfig,
    ) -> Result<(Appended, Offset), AppendError> {
        let now_ms = self.shared.clock.wall_ms();
        let stamped = config.message_timestamp_type == TimestampType::LogAppendTime;
        let how = log::Append {
            origin: append.origin,
            leader_epoch,
            log_append_time_ms: stamped.then_some(now_ms),
            now_ms,
        };
        let appended = self.log.append(&append.batches, how)?;
        let outcome = Appended {
            base_offset: appended.first_offset,
            log_append_time_ms: appended.log_append_time_ms,
            log_start_offset: appended.log_start_offset,
        };
        Ok((outcome, appended.last_offset.plus(1)))
    }

    /// After appends: counts this replica's part towards the high watermark. Returns whether a
    /// flush is to be started.
    fn handle_appended(self: &Arc<Self>, inner: &mut Inner) -> bool {
        let end = self.log.log_end_offset();
        let unflushed = end.since(inner.flushed);
        let acknowledged = if inner.config.flush_messages > 1 { end } else { inner.flushed };
        let now_ms = self.shared.now_ms();
        if let Some(leader) = &mut inner.leader {
            leader.handle_appended(end, now_ms);
        }
        inner.handle_acknowledged(acknowledged, now_ms);
        if unflushed <= 0 {
            return false;
        }
        if unflushed >= inner.config.flush_messages {
            return !std::mem::replace(&mut inner.flushing, true);
        }
        self.start_flush_timer(inner);
        false
    }

    /// Has what is in the log now flushed by `flush.ms`.
    fn start_flush_timer(self: &Arc<Self>, inner: &mut Inner) {
        let flush_ms = u64::try_from(inner.config.flush_ms).unwrap_or(0);
        if inner.config.flush_ms == i64::MAX || std::mem::replace(&mut inner.flush_timer, true) {
            return;
        }
        let partition = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(flush_ms)).await;
            if let Some(partition) = partition.upgrade() {
                partition.flush_by_time();
            }
        });
    }

    fn flush_by_time(self: &Arc<Self>) {
        let start = {
            let mut inner = self.inner.lock();
            inner.flush_timer = false;
            !std::mem::replace(&mut inner.flushing, true)
        };
        if start {
            self.start_flush();
        }
    }

    /// Flushes for all who wait, until nobody does.
    fn start_flush(self: &Arc<Self>) {
        let partition = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let log = Arc::clone(&partition.log);
                let Shared { blocking, metrics, .. } = &*partition.shared;
                let started = Instant::now();
                let flushed = blocking.run(move || log.flush()).await;
                let mut inner = partition.inner.lock();
                let failed = !matches!(flushed, Ok(Ok(_)));
                match &flushed {
                    Ok(Ok(_)) => metrics.flush_seconds.record(started.elapsed().as_secs_f64()),
                    // Not tried: another one failed before.
                    Ok(Err(LogError::Offline { .. })) | Err(_) => {}
                    Ok(Err(_)) => metrics.failed_flushes.increment(1),
                }
                match flushed {
                    Ok(Ok(flushed)) => inner.handle_flushed(flushed, partition.shared.now_ms()),
                    // The directory is offline now and says why; whoever waits learns that the
                    // outcome is not known.
                    Ok(Err(error)) => inner.writes.fail(&AppendError::Log(error.into())),
                    Err(_) => inner.writes.fail(&AppendError::NotLeader),
                }
                let unflushed = partition.log.log_end_offset().since(inner.flushed);
                if failed || unflushed < inner.config.flush_messages.max(1) {
                    inner.flushing = false;
                    if unflushed > 0 && !failed {
                        // They came while the timer, if it was up, found this flush under way.
                        partition.start_flush_timer(&mut inner);
                    }
                    return;
                }
            }
        });
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
    ) -> Result<Fetched, FetchError> {
        let high_watermark = self.high_watermark().ok_or(FetchError::NotLeader)?;
        let last_stable_offset = self.last_stable_offset(high_watermark);
        let upper = match isolation {
            Isolation::ReadUncommitted => high_watermark,
            Isolation::ReadCommitted => last_stable_offset,
        };
        let log_start_offset = self.log.log_start_offset();
        let records = self.log.read(from, upper, max_bytes, at_least_one)?;
        let aborted = match &records {
            Some(_) if isolation == Isolation::ReadCommitted => {
                self.log.aborted_transactions(from, upper)?
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

impl Inner {
    fn settle(
        &mut self,
        append: PendingAppend,
        outcome: Result<(Appended, Offset), AppendError>,
        epoch: Option<LeaderEpoch>,
    ) {
        let (appended, end) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return drop(append.reply.send(Err(error))),
        };
        let leads_on = self.leader.as_ref().map(Leader::leader_epoch) == epoch;
        let until = match append.acks {
            Acks::None => return drop(append.reply.send(Ok(appended))),
            Acks::Leader if self.config.flush_messages > 1 => {
                return drop(append.reply.send(Ok(appended)));
            }
            Acks::Leader => Until::Flushed,
            Acks::All if !leads_on => {
                return drop(append.reply.send(Err(AppendError::NotLeader)));
            }
            Acks::All => Until::Committed,
        };
        self.writes.push(end, until, appended, append.reply);
    }

    fn handle_flushed(&mut self, flushed: Offset, now_ms: u64) {
        self.flushed = self.flushed.max(flushed);
        self.handle_acknowledged(flushed, now_ms);
    }

    /// This replica holds everything before `end` as the topic's flush policy asks.
    fn handle_acknowledged(&mut self, end: Offset, now_ms: u64) {
        let leader = self.leader.as_mut();
        if leader.is_some_and(|leader| leader.handle_own_acknowledged(end, now_ms)) {
            self.handle_committed();
        }
        self.writes.complete(self.flushed, self.committed());
    }

    fn handle_committed(&mut self) {
        self.writes.complete(self.flushed, self.committed());
        // More than what was committed where only part of it was: a fetch that wakes early looks
        // again and goes on waiting.
        self.fetches.handle_bytes(std::mem::take(&mut self.uncommitted_bytes).max(1));
    }

    fn committed(&self) -> Offset {
        self.leader.as_ref().map_or(Offset::ZERO, Leader::high_watermark)
    }
}
