//! Who is in sync, and the question to the controller about it.
//!
//! A question whose answer is lost is asked again as it was, since the controller may have acted on
//! it. While that is open, the maximal ISR is what limits the high watermark: the ISR that is
//! known, and everybody whom a question that may yet be acted on has named. It ends with a newer
//! partition epoch, by which the controller refuses everything older.
//!
//! A refusal says that a question was not acted on, but nothing of an earlier copy of it that may
//! be on its way still. So after a refusal with a copy at large, the leader asks for the ISR that
//! is known, which the controller grants with a new partition epoch.

use std::collections::{BTreeMap, BTreeSet};

use super::{AlterError, AlterPartition, Bug, Follower, Leader};
use crate::base::{BrokerEpoch, NodeId};

/// A change of the ISR under way.
#[derive(Debug)]
pub(super) struct Pending {
    /// Who shall be in sync, and in which registration whoever joins has caught up (KIP-903): a later
    /// one may have lost what this one held.
    isr: BTreeMap<NodeId, Option<BrokerEpoch>>,
    /// Who may be, by all that was asked.
    maximal: BTreeSet<NodeId>,
    state: State,
    /// An answer was lost, so that a copy of the question may be on its way.
    at_large: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be asked from this time on.
    Ask(u64),
    /// Asked, under this number.
    Asked(u64),
    /// Answered: the metadata is to say what the partition is like now.
    Answered,
}

impl Leader {
    /// What to ask the controller, if anything, and if it is time.
    pub fn poll_alter_partition(&mut self, now_ms: u64) -> Option<AlterPartition> {
        self.now_ms = now_ms;
        let is_free = self.pending.is_none() && now_ms >= self.ask_ms;
        if is_free && (self.registration.recovering || self.wants_another_isr()) {
            let isr = self.wanted_isr();
            let maximal = &isr | &self.registration.isr;
            let isr = isr.into_iter().map(|node| (node, self.joins_as(node))).collect();
            let (state, at_large) = (State::Ask(now_ms), false);
            self.pending = Some(Pending { isr, maximal, state, at_large });
        }
        let pending = self.pending.as_mut()?;
        if !matches!(pending.state, State::Ask(at_ms) if at_ms <= now_ms) {
            return None;
        }
        self.asked += 1;
        pending.state = State::Asked(self.asked);
        Some(AlterPartition {
            number: self.asked,
            leader_epoch: self.registration.leader_epoch,
            partition_epoch: self.registration.partition_epoch,
            isr: pending.isr.iter().map(|(node, epoch)| (*node, *epoch)).collect(),
        })
    }

    /// The controller has answered a question. Returns whether the high watermark rose.
    pub fn handle_altered(
        &mut self,
        number: u64,
        answer: Result<(), AlterError>,
        now_ms: u64,
    ) -> bool {
        self.now_ms = now_ms;
        let again_ms = now_ms + self.config.retry_backoff_ms;
        let Some(pending) = self.pending.as_mut().filter(|p| p.state == State::Asked(number))
        else {
            return false;
        };
        match answer {
            Ok(()) | Err(AlterError::Outdated) => pending.state = State::Answered,
            Err(AlterError::Unanswered) => {
                pending.at_large = true;
                pending.state = State::Ask(again_ms);
            }
            Err(AlterError::IneligibleReplica) if pending.at_large => {
                pending.isr = self.registration.isr.iter().map(|node| (*node, None)).collect();
                pending.state = State::Ask(again_ms);
            }
            Err(AlterError::IneligibleReplica) => {
                self.pending = None;
                self.ask_ms = again_ms;
            }
        }
        self.advance()
    }

    pub(super) fn next_question_ms(&self) -> Option<u64> {
        match &self.pending {
            None => Some(self.ask_ms),
            Some(Pending { state: State::Ask(at_ms), .. }) => Some(*at_ms),
            Some(_) => None,
        }
    }

    /// The registration in which a node would join the ISR; none for one that stays, which is in sync
    /// by the controller's own word.
    fn joins_as(&self, node: NodeId) -> Option<BrokerEpoch> {
        let joining = self.followers.get(&node).filter(|_| !self.registration.isr.contains(&node));
        joining?.broker_epoch
    }

    /// Who should be in sync by what is known now: the ISR without those that lag, with those that
    /// have caught up.
    fn wanted_isr(&self) -> BTreeSet<NodeId> {
        let mut isr = self.registration.isr.clone();
        for (node, follower) in &self.followers {
            if self.wants_change(*node, follower) && !isr.remove(node) {
                isr.insert(*node);
            }
        }
        isr
    }

    /// Whether [`Self::wanted_isr`] is another: asked after every append.
    fn wants_another_isr(&self) -> bool {
        self.followers.iter().any(|(node, follower)| self.wants_change(*node, follower))
    }

    fn wants_change(&self, node: NodeId, follower: &Follower) -> bool {
        if self.registration.isr.contains(&node) {
            self.lags(follower)
        } else {
            !self.lags(follower) && self.has_caught_up(node, follower)
        }
    }

    fn lags(&self, follower: &Follower) -> bool {
        let is_late = |caught_up_ms: u64| {
            self.now_ms.saturating_sub(caught_up_ms) > self.config.replica_lag_time_max_ms
        };
        !follower.has_all(self.log_end_offset) && follower.caught_up_ms.is_none_or(is_late)
    }

    /// Whether the follower holds all that is committed, and all that this leader took over: only
    /// then could it lead without a loss.
    fn has_caught_up(&self, node: NodeId, follower: &Follower) -> bool {
        let Some(end) = follower.acknowledged.filter(|_| self.may_join(node, follower)) else {
            return false;
        };
        let has_all = end >= self.high_watermark && end >= self.epoch_start;
        has_all || self.config.bug.is(Bug::GrowIsrEarly)
    }

    /// Whether the controller would take the follower into the ISR.
    fn may_join(&self, node: NodeId, follower: &Follower) -> bool {
        let registered = self.registration.active.get(&node).copied();
        follower.session.is_some() && registered.is_some() && registered == follower.broker_epoch
    }

    /// Whether the high watermark should wait for a follower out of sync. Else one that is always a
    /// little behind those in sync could never join them. One that has to catch up first would have
    /// it wait for long.
    pub(super) fn is_about_to_join(&self, node: NodeId, follower: &Follower) -> bool {
        follower.is_at_tail && self.may_join(node, follower) && !self.lags(follower)
    }

    pub(super) fn is_in_maximal_isr(&self, node: NodeId) -> bool {
        let pending = self.pending.as_ref().filter(|_| !self.config.bug.is(Bug::ForgetPendingIsr));
        self.registration.isr.contains(&node)
            || pending.is_some_and(|pending| pending.maximal.contains(&node))
    }
}
