//! Changes of who takes part: what may be proposed, and what a committed one does.
//!
//! - One at a time: the next is refused until the one before is applied, a joint configuration is
//!   left, and a majority of the voters has on disk that it is so ([`Core::is_settled`]).
//! - A leader does not remove or demote itself: it hands over first.
//! - A voter was a learner first, and is promoted only when it has caught up.
//! - A member has one peer id, which no other ever gets. A node that comes back with another
//!   directory joins as another peer; what it was before leaves in the same step.
//! - A change is refused if the voters that it leaves do not answer in their majority.
//! - A leader that votes no more, as an earlier one has proposed, steps down, after it has told the
//!   best of the voters to campaign.
//!
//! References: Ongaro's thesis 4.2.1 (catching up), 4.2.2 (removing the leader), 4.3; KIP-853.

use std::collections::BTreeSet;

use prost::Message as _;
use protobuf::Message as _;
use raft::{
    INVALID_ID,
    eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry},
};

use super::{Bug, Core, Proposed};
use crate::quorum::identity::{Member, stored};

/// A change of who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A member becomes a learner under a peer id of its own. Peers that the same node had under
    /// other directories leave.
    Join(Member),
    /// A learner becomes a voter.
    Promote(u64),
    /// A voter becomes a learner.
    Demote(u64),
    /// A learner becomes a voter and a voter leaves, in one step.
    Replace {
        /// The learner.
        promote: u64,
        /// The voter.
        remove: u64,
    },
    /// A peer leaves.
    Remove(u64),
}

/// Why a change is refused. Nothing was proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another node leads, or this one is handing over.
    #[error("this node does not lead the metadata quorum")]
    NotLeader,
    /// Another change is under way, or too much else is.
    #[error("another change of the metadata quorum is under way; try again when it is done")]
    Busy,
    /// The member takes part already.
    #[error("node {node_id} takes part already, as peer {0}", node_id = .1.node_id)]
    AlreadyMember(u64, Member),
    /// The configuration has no such peer.
    #[error("the metadata quorum has no peer {0}")]
    UnknownPeer(u64),
    /// It votes already.
    #[error("peer {0} votes already")]
    AlreadyVoter(u64),
    /// It does not vote.
    #[error("peer {0} is not a voter")]
    NotAVoter(u64),
    /// It has not caught up.
    #[error(
        "peer {peer_id} still misses {behind_entries} entries; try again when it has caught up"
    )]
    NotCaughtUp {
        /// The learner.
        peer_id: u64,
        /// Entries of the log that it is not known to have.
        behind_entries: u64,
    },
    /// Too many of those that would vote were not heard of lately: no majority could be had.
    #[error(
        "of the {voters} voters that this would leave only {heard} were heard of lately; bring back \
         or remove the others first"
    )]
    NoMajority {
        /// Voters after the change.
        voters: usize,
        /// Of these, who answers.
        heard: usize,
    },
    /// The leader does not remove or demote itself.
    #[error("peer {0} leads the metadata quorum; transfer the leadership to another first")]
    Leads(u64),
    /// Nobody would vote.
    #[error("peer {0} is the last voter")]
    LastVoter(u64),
}

impl Core {
    /// Proposes a change of who takes part. For [`Change::Join`] the new peer id is in
    /// [`super::Committed::configuration`] of the entry.
    ///
    /// # Errors
    /// Where it is refused; nothing was proposed then.
    pub fn change(&mut self, change: Change) -> Result<Proposed, ChangeError> {
        self.check_leads().map_err(|_| ChangeError::NotLeader)?;
        if self.raw.raft.has_pending_conf() || !self.is_settled() {
            return Err(ChangeError::Busy);
        }
        let mut entry = ConfChangeV2::default();
        let mut added = stored::Added::default();
        let mut add = |kind, peer_id| {
            entry.changes.push(ConfChangeSingle {
                change_type: kind,
                node_id: peer_id,
                ..ConfChangeSingle::default()
            });
        };
        match change {
            Change::Join(member) => {
                let peer_id = self.new_peer_id(member)?;
                added.members.push(stored::Member::new(peer_id, member));
                add(ConfChangeType::AddLearnerNode, peer_id);
                for former in self.former_peers(member)? {
                    add(ConfChangeType::RemoveNode, former);
                }
            }
            Change::Promote(peer_id) => {
                self.check_promotable(peer_id)?;
                add(ConfChangeType::AddNode, peer_id);
            }
            Change::Demote(peer_id) => {
                self.check_dispensable(peer_id)?;
                add(ConfChangeType::AddLearnerNode, peer_id);
            }
            Change::Replace { promote, remove } => {
                self.check_promotable(promote)?;
                self.check_votes(remove)?;
                self.check_not_self(remove)?;
                add(ConfChangeType::AddNode, promote);
                add(ConfChangeType::RemoveNode, remove);
            }
            Change::Remove(peer_id) => {
                if self.is_voter(peer_id) {
                    self.check_dispensable(peer_id)?;
                } else {
                    self.check_member(peer_id)?;
                }
                add(ConfChangeType::RemoveNode, peer_id);
            }
        }
        self.check_majority(&entry)?;
        entry.context = added.encode_to_vec().into();
        let result = self.raw.propose_conf_change(Vec::new(), entry);
        self.proposed(result).map_err(|_| ChangeError::Busy)
    }

    /// A change must not take the majority away: with a voter gone, a step that counts on it cannot
    /// be taken back any more.
    fn check_majority(&self, change: &ConfChangeV2) -> Result<(), ChangeError> {
        let mut voters: BTreeSet<u64> =
            self.configuration.conf_state.voters.iter().copied().collect();
        for step in &change.changes {
            match step.change_type {
                ConfChangeType::AddNode => voters.insert(step.node_id),
                _ => voters.remove(&step.node_id),
            };
        }
        let since = self.ticks.saturating_sub(self.config.election_ticks as u64);
        let is_heard = |id: &u64| {
            *id == self.config.peer_id || self.heard.get(id).is_some_and(|at| *at >= since)
        };
        let (heard, voters) = (voters.iter().filter(|id| is_heard(id)).count(), voters.len());
        let has_majority = heard > voters / 2;
        if has_majority { Ok(()) } else { Err(ChangeError::NoMajority { voters, heard }) }
    }

    /// Whether a majority of the voters has it on disk that the configuration is committed. Only
    /// then does nobody need peers any more that it leaves out: they may be switched off and wiped.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let prs = self.raw.raft.prs();
        let knows = |id: &&u64| {
            let known = if **id == self.config.peer_id {
                self.durable_commit
            } else {
                prs.get(**id).map_or(0, |progress| progress.committed_index)
            };
            known >= self.configuration_index
        };
        let roles = &self.configuration.conf_state;
        let knowing = roles.voters.iter().filter(knows).count();
        self.is_leader() && roles.voters_outgoing.is_empty() && knowing > roles.voters.len() / 2
    }

    /// The voter to hand over to: of those heard of lately the one with most of the log.
    #[must_use]
    pub fn best_successor(&self) -> Option<u64> {
        let own = self.config.peer_id;
        let voters = self.raw.raft.prs().iter();
        let voters = voters.filter(|(id, p)| **id != own && self.is_voter(**id) && p.recent_active);
        // The lower id of two equals, whatever the map's order.
        voters.max_by_key(|(id, p)| (p.matched, std::cmp::Reverse(**id))).map(|(id, _)| *id)
    }

    fn is_voter(&self, peer_id: u64) -> bool {
        self.configuration.conf_state.voters.contains(&peer_id)
    }

    fn new_peer_id(&self, member: Member) -> Result<u64, ChangeError> {
        let mut members = self.configuration.members.iter();
        match members.find(|(_, known)| **known == member) {
            Some((peer_id, _)) => Err(ChangeError::AlreadyMember(*peer_id, member)),
            None => Ok(self.configuration.last_peer_id + 1),
        }
    }

    fn former_peers(&self, member: Member) -> Result<Vec<u64>, ChangeError> {
        let members = self.configuration.members.iter();
        let former = members.filter(|(_, known)| known.node_id == member.node_id);
        let former: Vec<u64> = former.map(|(peer_id, _)| *peer_id).collect();
        let voters = &self.configuration.conf_state.voters;
        match former.first() {
            Some(peer_id) if voters.iter().all(|id| former.contains(id)) => {
                Err(ChangeError::LastVoter(*peer_id))
            }
            _ => Ok(former),
        }
    }

    fn check_member(&self, peer_id: u64) -> Result<(), ChangeError> {
        let is_known = self.configuration.members.contains_key(&peer_id);
        if is_known { Ok(()) } else { Err(ChangeError::UnknownPeer(peer_id)) }
    }

    fn check_votes(&self, peer_id: u64) -> Result<(), ChangeError> {
        self.check_member(peer_id)?;
        if self.is_voter(peer_id) { Ok(()) } else { Err(ChangeError::NotAVoter(peer_id)) }
    }

    fn check_dispensable(&self, peer_id: u64) -> Result<(), ChangeError> {
        self.check_votes(peer_id)?;
        if self.configuration.conf_state.voters == [peer_id] {
            return Err(ChangeError::LastVoter(peer_id));
        }
        self.check_not_self(peer_id)
    }

    /// Whoever takes over would have to wait for this node to learn that the change is committed.
    fn check_not_self(&self, peer_id: u64) -> Result<(), ChangeError> {
        let is_self = peer_id == self.config.peer_id;
        if is_self { Err(ChangeError::Leads(peer_id)) } else { Ok(()) }
    }

    fn check_promotable(&self, peer_id: u64) -> Result<(), ChangeError> {
        self.check_member(peer_id)?;
        if self.is_voter(peer_id) {
            return Err(ChangeError::AlreadyVoter(peer_id));
        }
        let raft = &self.raw.raft;
        let matched = raft.prs().get(peer_id).map_or(0, |progress| progress.matched);
        let behind_entries = raft.raft_log.last_index().saturating_sub(matched);
        if behind_entries > self.config.caught_up_max_entries {
            return Err(ChangeError::NotCaughtUp { peer_id, behind_entries });
        }
        Ok(())
    }

    /// A change that cannot be made is passed by, on every node alike: they share the
    /// configuration.
    pub(super) fn change_configuration(&mut self, entry: &Entry) {
        if self.config.bug.is(Bug::DropConfChange) && !self.is_leader() {
            return;
        }
        let Ok(change) = ConfChangeV2::parse_from_bytes(&entry.data) else {
            tracing::error!(index = entry.index, "unreadable change of the quorum passed by");
            return;
        };
        let roles = match self.raw.apply_conf_change(&change) {
            Ok(roles) => roles,
            Err(error) => {
                tracing::error!(index = entry.index, %error, "change of the quorum passed by");
                return;
            }
        };
        let added = stored::Added::decode(&change.context[..]).unwrap_or_default();
        self.configuration_index = entry.index;
        self.configuration.adopt(roles, added.members.iter().filter_map(stored::Member::read));
        self.step_down_if_removed();
    }

    /// The library lets a leader that was voted out go on, and panics when its disk is done with
    /// what it appended.
    fn step_down_if_removed(&mut self) {
        if !self.is_leader() || self.configuration.is_voter(self.config.peer_id) {
            return;
        }
        if let Some(successor) = self.best_successor() {
            self.raw.raft.send_timeout_now(successor);
        }
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, INVALID_ID);
    }
}
