//! What the leader of a partition knows of its replicas: a core without I/O.
//!
//! Time is an argument, in milliseconds of any zero. Inputs (`handle_*`) say what happened; outputs
//! (`next_push`, `poll_alter_partition`) say what to do. The shell appends, flushes and reads the
//! log, and asks for both outputs after every input, and again at [`Leader::next_deadline_ms`].
//!
//! # State
//! Per follower: its subscription, where the next push to it begins, up to where it acknowledged,
//! and when it last had everything. Of the partition: its registration, a change of the ISR that is
//! under way, and the high watermark. All of it is soft; a leader starts anew in every epoch.
//!
//! # Invariants
//! - The high watermark never goes back while the leader leads.
//! - It is never beyond what any replica of the maximal ISR has acknowledged in this epoch: the
//!   ISR, and whoever a change that may yet be made would bring into it.
//! - It stands still while the ISR is smaller than `min.insync.replicas` (KIP-966). So what it
//!   covers may be acknowledged at once; who asks before an append asks [`Leader::has_min_isr`].
//! - A follower counts only for what it acknowledged in its present subscription, which it got
//!   because its log was a prefix of this one (KIP-101, KIP-279, KIP-320).
//! - One change of the ISR at a time is under way, based on the newest partition epoch (KIP-497),
//!   and names whoever joins by the registration that acknowledged (KIP-903).
//!
//! References: KIP-101, KIP-207, KIP-279, KIP-320, KIP-497, KIP-841, KIP-903, KIP-966.

mod isr;
mod registration;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::isr::Pending;
pub use self::registration::{AlterError, AlterPartition, Registration};
use super::{
    Bug,
    subscription::{Answer, LogView, Progress, Refusal, Session, Subscribe},
};
use crate::base::{BrokerEpoch, LeaderEpoch, NodeId, Offset, Planted};

/// How a leader is set.
#[derive(Debug, Clone, Copy)]
pub struct LeaderConfig {
    /// This node.
    pub node: NodeId,
    /// `replica.lag.time.max.ms`: who has not had everything for so long leaves the ISR.
    pub replica_lag_time_max_ms: u64,
    /// The pause before a question to the controller that failed is asked again.
    pub retry_backoff_ms: u64,
    /// A mistake to make on purpose.
    pub bug: Planted<Bug>,
}

impl LeaderConfig {
    /// The defaults of a node.
    #[must_use]
    pub const fn new(node: NodeId) -> Self {
        Self { node, replica_lag_time_max_ms: 30_000, retry_backoff_ms: 50, bug: Planted::NONE }
    }
}

/// Where the log of a new leader stands, its new epoch being noted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Its end: the epoch starts here.
    pub log_end_offset: Offset,
    /// The end of what it holds as the topic's flush policy asks.
    pub acknowledged: Offset,
    /// What it knows to be committed; at least where the log begins.
    pub high_watermark: Offset,
}

/// A follower, as its leader sees it.
#[derive(Debug)]
struct Follower {
    session: Option<Session>,
    /// The last subscription that was looked at.
    newest: Option<Session>,
    broker_epoch: Option<BrokerEpoch>,
    /// Where the next push begins.
    next: Offset,
    told: Option<Progress>,
    /// The end up to which it holds the log as the topic's flush policy asks.
    acknowledged: Option<Offset>,
    /// The last time at which it had everything.
    caught_up_ms: Option<u64>,
    /// Whether it has had everything at some time of its present subscription.
    is_at_tail: bool,
    /// When this leader met it.
    met_ms: u64,
    /// When it last acknowledged, and where the leader's log ended then.
    last: (u64, Offset),
}

/// What the leader tells of one follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerStatus {
    /// Who it is.
    pub node: NodeId,
    /// Whether it has a subscription.
    pub subscribed: bool,
    /// The end of what it was sent.
    pub log_end_offset: Offset,
    /// The end of what it acknowledged.
    pub acknowledged: Option<Offset>,
    /// The last time at which it had everything, or when this leader met it.
    pub caught_up_ms: u64,
}

/// What to send to a follower next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// Batches from `from` on, as many as there is room for, or none where there are none; with the
    /// progress.
    Batches {
        /// The subscription.
        session: Session,
        /// The follower's end.
        from: Offset,
        /// Goes along.
        progress: Progress,
    },
    /// The subscription ends.
    Close {
        /// The subscription.
        session: Session,
        /// Why.
        refusal: Refusal,
    },
}

/// The leader of one partition in one leader epoch.
#[derive(Debug)]
pub struct Leader {
    config: LeaderConfig,
    registration: Registration,
    now_ms: u64,
    /// Where the log ended when this leader took over.
    epoch_start: Offset,
    log_end_offset: Offset,
    /// As [`Follower::acknowledged`], of this node.
    acknowledged: Offset,
    high_watermark: Offset,
    followers: BTreeMap<NodeId, Follower>,
    pending: Option<Pending>,
    /// How many questions were asked.
    asked: u64,
    /// The controller is not asked before.
    ask_ms: u64,
}

impl Leader {
    /// A leader that takes over.
    #[must_use]
    pub fn new(
        config: LeaderConfig,
        registration: Registration,
        start: Start,
        now_ms: u64,
    ) -> Self {
        let mut leader = Self {
            config,
            registration,
            now_ms,
            epoch_start: start.log_end_offset,
            log_end_offset: start.log_end_offset,
            acknowledged: start.acknowledged,
            high_watermark: start.high_watermark,
            followers: BTreeMap::new(),
            pending: None,
            asked: 0,
            ask_ms: now_ms,
        };
        leader.meet_followers();
        leader.advance();
        leader
    }

    /// The epoch in which it leads.
    #[must_use]
    pub const fn leader_epoch(&self) -> LeaderEpoch {
        self.registration.leader_epoch
    }

    /// Where the log ended when it took over.
    #[must_use]
    pub const fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    /// Where the log ends.
    #[must_use]
    pub const fn log_end_offset(&self) -> Offset {
        self.log_end_offset
    }

    /// The registration that it acts on.
    #[must_use]
    pub const fn registration(&self) -> &Registration {
        &self.registration
    }

    /// The end of what is committed: the first offset that consumers may not see.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        if self.config.bug.is(Bug::ServePastHighWatermark) {
            return self.log_end_offset;
        }
        self.high_watermark
    }

    /// The end of what is committed, once it is known to cover all that earlier leaders have shown
    /// (KIP-207): what to answer to who asks where the partition ends.
    #[must_use]
    pub fn settled_high_watermark(&self) -> Option<Offset> {
        (self.high_watermark >= self.epoch_start).then(|| self.high_watermark())
    }

    /// Whether an `acks=all` write may be taken, and so may be acknowledged once it is committed.
    #[must_use]
    pub fn has_min_isr(&self) -> bool {
        self.registration.has_min_isr()
    }

    /// How far the followers are.
    pub fn followers(&self) -> impl Iterator<Item = FollowerStatus> + '_ {
        self.followers.iter().map(|(node, follower)| FollowerStatus {
            node: *node,
            subscribed: follower.session.is_some(),
            log_end_offset: follower.next,
            acknowledged: follower.acknowledged,
            caught_up_ms: follower.caught_up_ms.unwrap_or(follower.met_ms),
        })
    }

    /// When something is due that no input brings about: a follower that lags, a question to
    /// repeat.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let lag_ms = self.config.replica_lag_time_max_ms;
        let lags = self.followers.iter().filter(|(_, f)| !f.has_all(self.log_end_offset));
        let lags = lags.filter_map(|(_, f)| Some(f.caught_up_ms?.saturating_add(lag_ms) + 1));
        // What is overdue was done, or waits for something else.
        lags.chain(self.next_question_ms()).filter(|at_ms| *at_ms > self.now_ms).min()
    }

    /// Takes a registration of the same leader epoch. Returns whether the high watermark rose.
    pub fn handle_registration(&mut self, registration: Registration, now_ms: u64) -> bool {
        self.now_ms = now_ms;
        assert_eq!(registration.leader_epoch, self.registration.leader_epoch, "another epoch");
        if registration.partition_epoch > self.registration.partition_epoch {
            self.registration = registration;
            self.pending = None;
            self.ask_ms = now_ms;
            self.meet_followers();
        } else {
            // Brokers and settings change by themselves.
            self.registration.min_insync_replicas = registration.min_insync_replicas;
            self.registration.active = registration.active;
        }
        self.advance()
    }

    /// The log ends at `end` now.
    pub fn handle_appended(&mut self, end: Offset, now_ms: u64) {
        self.now_ms = now_ms;
        for follower in self.followers.values_mut() {
            follower.touch(self.log_end_offset, now_ms);
        }
        self.log_end_offset = self.log_end_offset.max(end);
    }

    /// This node holds everything before `end` as the topic's flush policy asks. Returns whether
    /// the high watermark rose.
    pub fn handle_own_acknowledged(&mut self, end: Offset, now_ms: u64) -> bool {
        self.now_ms = now_ms;
        self.acknowledged = self.acknowledged.max(end);
        self.advance()
    }

    /// A follower wants to be served. Where it is, [`Leader::next_push`] has something for it.
    pub fn handle_subscribe(
        &mut self,
        node: NodeId,
        subscribe: &Subscribe,
        log: &dyn LogView,
        now_ms: u64,
    ) -> Answer {
        self.now_ms = now_ms;
        if let Err(refusal) = self.admit(node, subscribe) {
            return Answer::Refused(refusal);
        }
        let answer = self.compare(subscribe, log);
        let Some(follower) = self.followers.get_mut(&node) else {
            return Answer::Refused(Refusal::NotReplica);
        };
        // What it acknowledged before, its former self may have lost since.
        follower.touch(self.log_end_offset, now_ms);
        follower.newest = Some(subscribe.session);
        follower.session = None;
        follower.acknowledged = None;
        follower.is_at_tail = false;
        if answer == Answer::Agreed {
            follower.session = Some(subscribe.session);
            follower.broker_epoch = Some(subscribe.broker_epoch);
            follower.next = subscribe.log_end_offset;
            follower.told = None;
            follower.last = (now_ms, self.log_end_offset);
        }
        // What waited for its former subscription waits for nothing now.
        self.advance();
        answer
    }

    /// A follower says up to where it holds the log as the topic's flush policy asks. Returns
    /// whether the high watermark rose.
    pub fn handle_acknowledged(
        &mut self,
        node: NodeId,
        session: Session,
        end: Offset,
        now_ms: u64,
    ) -> bool {
        self.now_ms = now_ms;
        let log_end_offset = self.log_end_offset;
        let follower = self.followers.get_mut(&node).filter(|f| f.session == Some(session));
        // Nobody can hold what it was not sent.
        let Some(follower) = follower.filter(|follower| end <= follower.next) else {
            return false;
        };
        follower.acknowledged = follower.acknowledged.max(Some(end));
        let (last_ms, last_end) = follower.last;
        if end >= last_end {
            follower.caught_up_ms = follower.caught_up_ms.max(Some(last_ms));
            follower.is_at_tail = true;
        }
        follower.touch(log_end_offset, now_ms);
        follower.last = (now_ms, log_end_offset);
        self.advance()
    }

    /// A subscription is over: it was given up, or its connection was lost. Returns whether the high
    /// watermark rose.
    pub fn handle_unsubscribed(&mut self, node: NodeId, session: Session, now_ms: u64) -> bool {
        self.now_ms = now_ms;
        if let Some(follower) = self.followers.get_mut(&node)
            && follower.session == Some(session)
        {
            follower.touch(self.log_end_offset, now_ms);
            follower.session = None;
        }
        self.advance()
    }

    /// Time has passed. Returns whether the high watermark rose.
    pub fn handle_time(&mut self, now_ms: u64) -> bool {
        self.now_ms = now_ms;
        self.advance()
    }

    /// What to send to a follower next; none where it has all and knows all.
    #[must_use]
    pub fn next_push(&self, node: NodeId, log: &dyn LogView) -> Option<Push> {
        let follower = self.followers.get(&node)?;
        let session = follower.session?;
        let log_start_offset = log.log_start_offset();
        if follower.next < log_start_offset {
            return Some(Push::Close { session, refusal: Refusal::OffsetOutOfRange });
        }
        let high_watermark = self.high_watermark;
        let last_stable_offset = log.last_stable_offset(high_watermark);
        let progress = Progress { high_watermark, last_stable_offset, log_start_offset };
        let is_news = follower.next < self.log_end_offset || follower.told != Some(progress);
        is_news.then_some(Push::Batches { session, from: follower.next, progress })
    }

    /// What [`Leader::next_push`] asked for is on its way: batches up to `next`, and the progress.
    pub fn handle_pushed(
        &mut self,
        node: NodeId,
        session: Session,
        next: Offset,
        progress: Progress,
    ) {
        if let Some(follower) = self.followers.get_mut(&node)
            && follower.session == Some(session)
        {
            follower.next = follower.next.max(next);
            follower.told = Some(progress);
        }
    }

    fn admit(&self, node: NodeId, subscribe: &Subscribe) -> Result<(), Refusal> {
        let epoch = self.registration.leader_epoch;
        if subscribe.leader_epoch < epoch {
            return Err(Refusal::FencedLeaderEpoch);
        }
        if subscribe.leader_epoch > epoch {
            return Err(Refusal::UnknownLeaderEpoch);
        }
        let follower = self.followers.get(&node).ok_or(Refusal::NotReplica)?;
        if follower.newest > Some(subscribe.session) {
            return Err(Refusal::Superseded);
        }
        Ok(())
    }

    /// Whether the follower's log is a prefix of this one, and else how to make it one.
    fn compare(&self, subscribe: &Subscribe, log: &dyn LogView) -> Answer {
        let Subscribe { log_end_offset: end, last_epoch, .. } = *subscribe;
        if end < log.log_start_offset() {
            return Answer::StartAt(log.log_start_offset());
        }
        if self.config.bug.is(Bug::SkipTruncation) {
            return Answer::Agreed;
        }
        if last_epoch == LeaderEpoch::NONE || self.config.bug.is(Bug::IgnoreLeaderEpoch) {
            // It holds no record that could differ, but may begin beyond the end of this log.
            return if end <= self.log_end_offset {
                Answer::Agreed
            } else {
                Answer::Truncate { epoch: last_epoch, end: self.log_end_offset }
            };
        }
        if last_epoch < log.first_epoch() {
            // Of so early an epoch only the log start is known, and that may lie within a batch.
            return Answer::StartAt(log.log_start_offset());
        }
        match log.end_of_epoch(last_epoch) {
            None => Answer::Refused(Refusal::LaterEpoch),
            Some((epoch, epoch_end)) if epoch < last_epoch || epoch_end < end => {
                Answer::Truncate { epoch, end: epoch_end }
            }
            Some(_) => Answer::Agreed,
        }
    }

    /// Forgets followers that are none any more, and meets new ones.
    fn meet_followers(&mut self) {
        let Registration { replicas, isr, .. } = &self.registration;
        self.followers.retain(|node, _| replicas.contains(node));
        for node in replicas.iter().filter(|node| **node != self.config.node) {
            let in_sync_ms = isr.contains(node).then_some(self.now_ms);
            let follower = self.followers.entry(*node).or_insert_with(|| Follower {
                session: None,
                newest: None,
                broker_epoch: None,
                next: Offset::ZERO,
                told: None,
                acknowledged: None,
                caught_up_ms: None,
                is_at_tail: false,
                met_ms: self.now_ms,
                last: (self.now_ms, self.log_end_offset),
            });
            // Who is in sync gets its time before it can be out of sync.
            follower.caught_up_ms = follower.caught_up_ms.or(in_sync_ms);
        }
    }

    /// Raises the high watermark as far as it may; returns whether it rose.
    fn advance(&mut self) -> bool {
        if !self.has_min_isr() && !self.config.bug.is(Bug::CommitBelowMinIsr) {
            return false;
        }
        let mut committed = self.acknowledged;
        for (node, follower) in &self.followers {
            if self.is_in_maximal_isr(*node) {
                let Some(acknowledged) = follower.acknowledged else { return false };
                committed = committed.min(acknowledged);
            } else if self.is_about_to_join(*node, follower) {
                committed = committed.min(follower.acknowledged.unwrap_or(committed));
            }
        }
        let rose = committed > self.high_watermark;
        if rose {
            self.high_watermark = committed;
        }
        rose
    }
}

impl Follower {
    fn has_all(&self, log_end_offset: Offset) -> bool {
        self.acknowledged.is_some_and(|end| end >= log_end_offset)
    }

    /// Notes that it has everything up to now, if it has.
    fn touch(&mut self, log_end_offset: Offset, now_ms: u64) {
        if self.has_all(log_end_offset) {
            self.caught_up_ms = self.caught_up_ms.max(Some(now_ms));
        }
    }
}
