//! Following: carries out what the core asks for.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;
use tracing::{error, warn};

use super::{Assignment, Inner, Partition, role::Role};
use crate::{
    base::{BrokerEpoch, LeaderEpoch, NodeId, Offset, Planted},
    log::{Append, AppendError, Log, LogError, Origin},
    replication::{
        Bug,
        follower::{self, Action, Follower, FollowerConfig},
        streams::Upstream,
        subscription::{Answer, Refusal, Session},
        wire::Pushed,
    },
    transport::StreamClass,
};

/// The pause before a leader is followed anew that sent what does not fit.
const FOLLOW_ANEW_MS: u64 = 5_000;

/// What a replica holds while it follows.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) core: Follower,
    pub(super) leader: NodeId,
    pub(super) broker_epoch: BrokerEpoch,
    /// The class of stream to subscribe on.
    pub(super) class: StreamClass,
    /// The stream of the subscription.
    pub(super) upstream: Option<Arc<Upstream>>,
}

impl Following {
    /// Ends the subscription.
    pub(super) fn end(&self) {
        if let (Some(upstream), Some(session)) = (&self.upstream, self.core.session()) {
            upstream.unsubscribe(session);
        }
    }

    fn redirect(&mut self, why: Option<Refusal>) {
        self.class = why.and_then(Refusal::redirect).unwrap_or(self.class);
    }
}

/// A change of the log, which is made outside of the lock.
enum Change {
    Append(Vec<Bytes>, LeaderEpoch),
    Truncate(Offset),
    StartAt(Offset),
}

impl Partition {
    /// The leader has answered a subscription.
    pub(in crate::replication) fn answered(self: &Arc<Self>, session: Session, answer: Answer) {
        let now_ms = self.shared.now_ms();
        let mut inner = self.inner.lock();
        if let Role::Following(following) = &mut inner.role {
            if let Answer::Refused(refusal) = answer
                && following.core.session() == Some(session)
            {
                following.redirect(Some(refusal));
            }
            following.core.handle_answer(session, answer, &*self.log(), now_ms);
        }
        self.follow_on(inner);
    }

    /// The leader has pushed.
    pub(in crate::replication) fn pushed(self: &Arc<Self>, pushed: Pushed) {
        let now_ms = self.shared.now_ms();
        let Pushed { session, from, progress, records } = pushed;
        let mut inner = self.inner.lock();
        if let Role::Following(following) = &mut inner.role {
            let bytes = records.len();
            self.shared.metrics.received_bytes.increment(bytes as u64);
            let taken = following.core.handle_push(session, from, progress, records, now_ms);
            if let Err(error) = taken {
                let (log, leader) = (self.log(), following.leader);
                let log = log.name();
                warn!(log, %leader, %error, "what the leader sent is not taken; ask for it again");
            }
            inner.uncommitted_bytes += i64::try_from(bytes).unwrap_or(i64::MAX);
        }
        self.follow_on(inner);
    }

    /// A subscription has ended at the leader, or its stream was lost.
    pub(in crate::replication) fn closed(self: &Arc<Self>, session: Session, why: Option<Refusal>) {
        let now_ms = self.shared.now_ms();
        let mut inner = self.inner.lock();
        if let Role::Following(following) = &mut inner.role {
            if following.core.session() == Some(session) {
                following.redirect(why);
            }
            following.core.handle_closed(session, why, now_ms);
        }
        self.follow_on(inner);
    }

    /// Does what the follower's core asks for, until there is nothing more to do or somebody else is
    /// at it.
    pub(super) fn follow_on<'a>(self: &'a Arc<Self>, mut inner: MutexGuard<'a, Inner>) {
        while !inner.writing && !inner.held {
            let Some(change) = self.next_change(&mut inner) else {
                self.note_committed(&mut inner);
                return self.note_deadline(&mut inner);
            };
            inner.writing = true;
            drop(inner);
            let outcome = match change {
                Change::Append(batches, epoch) => self.append_pushed(&batches, epoch),
                // These sync, and whoever asked must not wait for that, nor give it up.
                Change::Truncate(to) => return self.cut(move |log| log.truncate_to(to)),
                Change::StartAt(offset) => {
                    return self.cut(move |log| log.truncate_fully_and_start_at(offset));
                }
            };
            inner = self.inner.lock();
            inner.writing = false;
            self.take_outcome(&mut inner, outcome);
            self.flush_in_time(&mut inner);
            if inner.next_role.is_some() {
                return self.change_role(inner);
            }
        }
    }

    /// Shows what the core knows to be committed, as the log holds all of it by now.
    fn note_committed(&self, inner: &mut Inner) {
        let Role::Following(following) = &inner.role else { return };
        let high_watermark = following.core.high_watermark();
        if high_watermark > inner.high_watermark {
            inner.high_watermark = high_watermark;
            self.log().high_watermark_moved(high_watermark);
            inner.handle_committed();
        }
    }

    /// Carries out actions up to the next one that changes the log.
    fn next_change(self: &Arc<Self>, inner: &mut Inner) -> Option<Change> {
        let now_ms = self.shared.now_ms();
        let Role::Following(following) = &mut inner.role else { return None };
        let Following { core, leader, broker_epoch, class, upstream } = &mut **following;
        loop {
            let upstreams = &self.shared.upstreams;
            match core.poll_action(now_ms, || upstreams.next_session(*broker_epoch))? {
                Action::Subscribe(subscribe) => {
                    let stream = upstreams.stream(*leader, *class, self.id);
                    stream.subscribe(self, subscribe);
                    *upstream = Some(stream);
                }
                Action::Unsubscribe(session) => {
                    if let Some(upstream) = upstream {
                        upstream.unsubscribe(session);
                    }
                }
                Action::Acknowledge { session, end } => {
                    if let Some(upstream) = upstream {
                        upstream.acknowledge(session, end);
                    }
                }
                Action::Flush(number) => self.flush_for_follower(number),
                Action::RaiseLogStart(offset) => self.log().raise_start(offset),
                Action::Append(batches) => {
                    return Some(Change::Append(batches, core.leader_epoch()));
                }
                Action::Truncate(to) => return Some(Change::Truncate(to)),
                Action::StartAt(offset) => return Some(Change::StartAt(offset)),
            }
        }
    }

    fn append_pushed(
        &self,
        batches: &[Bytes],
        leader_epoch: LeaderEpoch,
    ) -> Result<(), AppendError> {
        let now_ms = self.shared.clock.wall_ms();
        let origin = Origin::Replication;
        let how = Append { origin, leader_epoch, log_append_time_ms: None, now_ms };
        self.log().append(batches, how).map(drop)
    }

    /// Cuts the log on the pool, in a task that nobody can drop half-way.
    fn cut(self: &Arc<Self>, cut: impl FnOnce(&Log) -> Result<(), LogError> + Send + 'static) {
        self.shared.metrics.truncations.increment(1);
        let partition = Arc::clone(self);
        tokio::spawn(async move {
            let log = partition.log();
            let outcome = partition.shared.blocking.run(move || cut(&log)).await;
            let mut inner = partition.inner.lock();
            inner.writing = false;
            let (start, end) = {
                let log = partition.log();
                (log.log_start_offset(), log.log_end_offset())
            };
            inner.high_watermark = inner.high_watermark.min(end).max(start);
            inner.flushed = inner.flushed.min(end);
            // Stopped: the node ends.
            let Ok(outcome) = outcome else { return };
            if outcome.is_ok()
                && let Role::Following(following) = &mut inner.role
            {
                following.core.handle_cut(&*partition.log(), partition.shared.now_ms());
            }
            partition.take_outcome(&mut inner, outcome.map_err(AppendError::from));
            partition.change_role(inner);
        });
    }

    fn take_outcome(&self, inner: &mut Inner, outcome: Result<(), AppendError>) {
        let Err(error) = outcome else { return };
        let is_deleted = matches!(error, AppendError::Log(LogError::Closed(_)));
        // A directory that fails says why.
        if is_deleted || self.log().is_offline() {
            return self.give_up(inner);
        }
        let Role::Following(following) = &inner.role else { return };
        let (log, leader) = (self.log(), following.leader);
        let log = log.name();
        error!(log, %leader, %error, "what the leader sent does not fit the log; follow it anew");
        following.end();
        let (leader_epoch, broker_epoch) = (following.core.leader_epoch(), following.broker_epoch);
        let from_ms = self.shared.now_ms() + FOLLOW_ANEW_MS;
        self.follow(inner, leader, leader_epoch, broker_epoch, from_ms);
    }

    /// Follows a leader from `from_ms` on, whatever the log holds.
    pub(super) fn follow(
        &self,
        inner: &mut Inner,
        leader: NodeId,
        leader_epoch: LeaderEpoch,
        broker_epoch: BrokerEpoch,
        from_ms: u64,
    ) {
        let log = self.log();
        if let Some(epoch) = log.latest_epoch().filter(|epoch| *epoch > leader_epoch) {
            let log = log.name();
            error!(log, %epoch, %leader_epoch, "the log ends in an epoch that no leader has had: cut it there");
        }
        inner.flushed = log.recovery_point();
        let start = follower::Start {
            flushed: inner.flushed,
            high_watermark: inner.high_watermark,
            broker_epoch,
            leader_epoch,
        };
        let bug = Planted::of_process(&Bug::ALL);
        let config = FollowerConfig { bug, ..FollowerConfig::new(inner.config.flush_messages) };
        inner.role = Role::Following(Box::new(Following {
            core: Follower::new(config, &*log, start, from_ms),
            leader,
            broker_epoch,
            class: StreamClass::Replica,
            upstream: None,
        }));
    }

    /// Follows no more, until the metadata gives it another role.
    pub(super) fn give_up(&self, inner: &mut Inner) {
        if let Role::Following(following) = &inner.role {
            following.end();
            inner.role = Role::Idle;
        }
        if let Some(Assignment::Follow { .. }) = inner.next_role {
            inner.next_role = None;
        }
    }
}
