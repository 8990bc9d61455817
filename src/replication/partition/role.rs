//! What the metadata has a replica do, and how it comes from one role to another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::MutexGuard;
use tracing::warn;

use super::{Inner, Partition, following::Following, leading::Leading};
use crate::{
    base::{BrokerEpoch, LeaderEpoch, NodeId, Planted},
    config::TopicConfig,
    replication::{
        AppendError, Bug,
        leader::{self, Leader, LeaderConfig, Registration},
        subscription::Refusal,
        tail::Tail,
    },
};

/// What a replica does.
#[derive(Debug)]
pub(super) enum Role {
    Idle,
    Leading(Box<Leading>),
    Following(Box<Following>),
}

impl Role {
    pub(super) fn leader(&self) -> Option<&Leader> {
        match self {
            Self::Leading(leading) => Some(&leading.core),
            Self::Idle | Self::Following(_) => None,
        }
    }
}

/// What the metadata gives a replica to do.
#[derive(Debug, Clone)]
pub(in crate::replication) enum Assignment {
    /// Nothing: nobody leads, or this process is not registered yet.
    Rest,
    /// Lead. The balancer is adding those that are named.
    Lead(Registration, Vec<NodeId>),
    /// Follow.
    Follow {
        leader: NodeId,
        leader_epoch: LeaderEpoch,
        /// The registration of this process.
        broker_epoch: BrokerEpoch,
    },
}

impl Partition {
    /// Does from now on what the metadata says.
    pub(in crate::replication) fn assign(
        self: &Arc<Self>,
        assignment: Assignment,
        config: Arc<TopicConfig>,
    ) {
        let mut inner = self.inner.lock();
        self.configure(&mut inner, config);
        if inner.next_role.is_some() {
            inner.next_role = Some(assignment);
            return;
        }
        let Some(assignment) = self.go_on(&mut inner, assignment) else {
            return self.follow_on(inner);
        };
        self.retire(&mut inner);
        inner.next_role = Some(assignment);
        self.change_role(inner);
    }

    fn configure(self: &Arc<Self>, inner: &mut Inner, config: Arc<TopicConfig>) {
        inner.config = config;
        match &mut inner.role {
            Role::Idle => {}
            Role::Leading(_) => self.count_own(inner),
            Role::Following(following) => {
                following.core.set_flush_messages(inner.config.flush_messages);
            }
        }
    }

    /// Takes up what the present role goes on with; returns what is another role.
    fn go_on(self: &Arc<Self>, inner: &mut Inner, assignment: Assignment) -> Option<Assignment> {
        let now_ms = self.shared.now_ms();
        match (&mut inner.role, assignment) {
            (Role::Idle, Assignment::Rest) => None,
            (Role::Leading(leading), Assignment::Lead(registration, balanced))
                if leading.core.leader_epoch() == registration.leader_epoch =>
            {
                leading.balanced = balanced;
                self.count_isr(&leading.core.registration().isr, &registration.isr);
                leading.core.handle_registration(registration, now_ms);
                self.lead_on(inner);
                None
            }
            (
                Role::Following(following),
                Assignment::Follow { leader, leader_epoch, broker_epoch },
            ) if following.leader == leader && following.broker_epoch == broker_epoch => {
                following.core.handle_leader(leader_epoch, now_ms);
                None
            }
            (_, assignment) => Some(assignment),
        }
    }

    fn count_isr(&self, before: &BTreeSet<NodeId>, after: &BTreeSet<NodeId>) {
        let metrics = &self.shared.metrics;
        metrics.isr_shrinks.increment(before.difference(after).count() as u64);
        metrics.isr_expands.increment(after.difference(before).count() as u64);
    }

    /// Ends the role: whoever waits is told.
    fn retire(&self, inner: &mut Inner) {
        match std::mem::replace(&mut inner.role, Role::Idle) {
            Role::Idle => {}
            Role::Leading(leading) => {
                for (session, stream) in leading.subscriptions() {
                    stream.close(session, Refusal::NotLeader);
                }
            }
            Role::Following(following) => following.end(),
        }
        // The role may end before the flush says that it has failed.
        let why = match self.log().check_online() {
            Ok(()) => AppendError::NotLeader,
            Err(error) => AppendError::Log(error.into()),
        };
        inner.writes.fail(&why);
        inner.fetches.handle_change();
    }

    /// Takes up the next role, if there is one and nobody writes.
    pub(super) fn change_role(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        if !inner.writing
            && !inner.held
            && let Some(assignment) = inner.next_role.take()
        {
            self.retire(&mut inner);
            self.begin(&mut inner, assignment);
            inner.fetches.handle_change();
        }
        self.follow_on(inner);
    }

    fn begin(self: &Arc<Self>, inner: &mut Inner, assignment: Assignment) {
        let now_ms = self.shared.now_ms();
        match assignment {
            Assignment::Rest => {}
            Assignment::Lead(registration, balanced) => {
                self.shared.metrics.leaderships.increment(1);
                if registration.recovering {
                    self.shared.metrics.unclean_leaderships.increment(1);
                    let (log, epoch) = (self.log(), registration.leader_epoch);
                    let log = log.name();
                    warn!(log, %epoch, "lead, elected out of sync: acknowledged records may be lost");
                }
                self.log().assign_epoch(registration.leader_epoch);
                let end = self.log().log_end_offset();
                // Everything that this replica holds of the leaders before is kept; it commits once
                // the ISR, this replica with its flush included, is known to hold it.
                let start = leader::Start {
                    log_end_offset: end,
                    acknowledged: self.log().log_start_offset(),
                    high_watermark: inner.high_watermark,
                };
                let mut config = LeaderConfig::new(self.shared.node);
                config.bug = Planted::of_process(&Bug::ALL);
                config.replica_lag_time_max_ms = self.shared.replica_lag_time_max_ms;
                inner.flushed = self.log().recovery_point();
                inner.role = Role::Leading(Box::new(Leading {
                    core: Leader::new(config, registration, start, now_ms),
                    subscribers: BTreeMap::new(),
                    tail: Tail::new(self.shared.tails.clone()),
                    balanced,
                }));
                self.count_own(inner);
            }
            Assignment::Follow { leader, leader_epoch, broker_epoch } => {
                self.follow(inner, leader, leader_epoch, broker_epoch, now_ms);
            }
        }
    }

    /// Stops leading and following.
    pub(in crate::replication) fn rest(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        self.retire(&mut inner);
        inner.next_role = (inner.writing || inner.held).then_some(Assignment::Rest);
    }
}
