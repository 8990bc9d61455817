//! Who takes part: nodes that come in, and changes of the voters. Served by the leader.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};
use uuid::Uuid;

pub use super::wire::VotersChange;
use super::{
    Cluster, LeaderError,
    wire::{Answer, Ask, Done, Join, Joined, Voters},
};
use crate::{
    base::{DirectoryId, NodeId},
    controller::{ExcludeVoterRequest, Request, driver::RequestError},
    quorum::{Change, ChangeError, Configuration, Handle, Member, MembersError, Status},
    transport::PeerInfo,
};

/// The pause before a change is tried again that another one is in the way of.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a leader looks for a voter that could take its place.
const SUCCESSOR_MAX: Duration = Duration::from_secs(2);
/// How often the leader looks whether voters are missing.
const LOOK: Duration = Duration::from_secs(2);

/// Why the voters are not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VotersError {
    /// The leader said why. Nothing was done.
    #[error("{0}")]
    Refused(String),
    /// The leader gave no answer.
    #[error(transparent)]
    Leader(#[from] LeaderError),
}

/// What came of a change here.
enum Outcome {
    Done,
    NotLeader,
    Unknown,
    Refused(String),
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Done(Done {}),
            // The asker asks the next leader.
            Outcome::NotLeader => Self::NotLeader(super::wire::NotLeader { leader: None }),
            Outcome::Unknown => Self::Unknown(Done {}),
            Outcome::Refused(text) => Self::refused(text),
        }
    }
}

impl Cluster {
    /// Adds or removes a voter, or hands the leadership to one. Waits for a learner to catch up and
    /// for a change that is under way.
    ///
    /// # Errors
    /// See [`VotersError`].
    pub async fn change_voters(
        &self,
        change: VotersChange,
        node: NodeId,
        directory: Option<DirectoryId>,
        deadline: Instant,
    ) -> Result<(), VotersError> {
        let ask = Ask::Voters(Voters {
            node_id: node.0,
            directory_id: directory.map(|id| id.0.as_bytes().to_vec()),
            change: change.into(),
        });
        // Each is the same done twice.
        match self.ask_leader(&ask, true, deadline).await? {
            Answer::Done(_) => Ok(()),
            Answer::Refused(refused) => Err(VotersError::Refused(refused.text)),
            _ => Err(LeaderError::Unknown.into()),
        }
    }

    pub(super) async fn change_voters_here(&self, asked: Voters, deadline: Instant) -> Answer {
        let Some(quorum) = self.quorum() else { return self.not_leader() };
        let node = NodeId(asked.node_id);
        let directory = asked.directory_id.as_deref().and_then(|id| Uuid::from_slice(id).ok());
        let place = Place { node, directory: directory.map(DirectoryId) };
        let changing = async {
            match asked.change() {
                VotersChange::Add => match self.exclude(node, false, deadline).await {
                    Ok(()) => promote(quorum, place).await,
                    Err(outcome) => outcome,
                },
                VotersChange::Remove => {
                    // First, so that it is not promoted again in between.
                    let excluded = self.exclude(node, true, deadline).await;
                    let outcome = match excluded {
                        Ok(()) => demote(quorum, place).await,
                        Err(outcome) => outcome,
                    };
                    if let Outcome::Refused(_) = outcome {
                        // Where it stays excluded, it is a voter all the same.
                        let _ = self.exclude(node, false, deadline).await;
                    }
                    outcome
                }
                VotersChange::Lead => lead(quorum, place).await,
            }
        };
        match timeout_at(deadline, changing).await {
            Ok(outcome) => {
                if let Outcome::Done = outcome {
                    info!(%node, change = ?asked.change(), "the voters of the metadata quorum changed");
                }
                outcome.into()
            }
            Err(_) => Answer::Unknown(Done {}),
        }
    }

    /// Keeps a node from being promoted by itself, or allows it again.
    async fn exclude(
        &self,
        node: NodeId,
        excluded: bool,
        deadline: Instant,
    ) -> Result<(), Outcome> {
        let request = Request::ExcludeVoter(ExcludeVoterRequest { node_id: node.0, excluded });
        match self.decide_here(request, None, deadline).await {
            Ok(_) => Ok(()),
            Err(RequestError::NotController) => Err(Outcome::NotLeader),
            Err(_) => Err(Outcome::Unknown),
        }
    }

    /// Takes a node in as a learner, or finds that it is one.
    pub(super) async fn take_in(&self, from: &PeerInfo, join: &Join, deadline: Instant) -> Answer {
        let Some(quorum) = self.quorum() else { return self.not_leader() };
        let who = Member { node_id: from.node_id, directory_id: from.directory_id };
        if join.who.member() != Some(who) {
            return Answer::refused("a node can only ask for itself");
        }
        match timeout_at(deadline, admit(quorum, who, join.who.peer_id)).await {
            Ok(Ok(peer_id)) => Answer::Joined(Joined { peer_id }),
            Ok(Err(Outcome::NotLeader)) => self.not_leader(),
            Ok(Err(outcome)) => outcome.into(),
            Err(_) => Answer::Unknown(Done {}),
        }
    }

    /// While this node leads and voters are missing: promotes learners that have caught up, but
    /// none that an operator has removed.
    pub async fn keep_voters(self, mut stop: watch::Receiver<bool>) {
        let target = self.0.config.voters_target;
        let Some(quorum) = self.quorum().filter(|_| target > 0) else { return };
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep(LOOK) => {}
            }
            let status = quorum.status();
            let roles = &status.configuration.conf_state;
            if !status.is_leader() || roles.voters.len() >= target {
                continue;
            }
            let image = quorum.image();
            let candidates = roles.learners.iter().filter_map(|peer_id| {
                let member = status.configuration.members.get(peer_id)?;
                let peer = status.raft.peers.iter().find(|peer| peer.peer_id == *peer_id)?;
                let may = peer.active && !image.is_excluded_voter(member.node_id);
                may.then_some((member.node_id, *peer_id))
            });
            if let Some((node, peer_id)) = candidates.min() {
                match quorum.change(Change::Promote(peer_id)).await {
                    Ok(_) => info!(%node, target, "promoted a learner to a voter"),
                    Err(error) => tracing::debug!(%node, %error, "no learner is promoted"),
                }
            }
        }
    }
}

/// Whom a change is about.
#[derive(Debug, Clone, Copy)]
struct Place {
    node: NodeId,
    directory: Option<DirectoryId>,
}

impl Place {
    fn peer_in(self, configuration: &Configuration) -> Option<u64> {
        let is_meant = |member: &Member| {
            let directory = self.directory.is_none_or(|id| id == member.directory_id);
            member.node_id == self.node && directory
        };
        configuration.members.iter().find(|(_, member)| is_meant(member)).map(|(peer, _)| *peer)
    }

    fn unknown(self) -> Outcome {
        Outcome::Refused(match self.directory {
            None => format!(
                "node {} is not part of the cluster: start it with the cluster's seeds, and it \
                 joins as a learner by itself",
                self.node
            ),
            Some(directory) => format!(
                "node {} with directory {directory} is not part of the cluster; \
                 `ottla quorum describe` lists who is",
                self.node
            ),
        })
    }
}

async fn promote(quorum: &Handle, place: Place) -> Outcome {
    loop {
        let status = quorum.status();
        let Some(peer_id) = place.peer_in(&status.configuration) else {
            return if status.is_leader() { place.unknown() } else { Outcome::NotLeader };
        };
        match quorum.change(Change::Promote(peer_id)).await {
            // Done before, perhaps for an asker that did not hear of it.
            Ok(_) | Err(MembersError::Refused(ChangeError::AlreadyVoter(_))) => {
                return Outcome::Done;
            }
            Err(MembersError::Refused(ChangeError::NotCaughtUp { .. })) => sleep(PAUSE).await,
            Err(error) => match outcome(&error) {
                Some(outcome) => return outcome,
                None => sleep(PAUSE).await,
            },
        }
    }
}

async fn demote(quorum: &Handle, place: Place) -> Outcome {
    let started = Instant::now();
    loop {
        let status = quorum.status();
        let Some(peer_id) = place.peer_in(&status.configuration) else {
            return if status.is_leader() { place.unknown() } else { Outcome::NotLeader };
        };
        match quorum.change(Change::Demote(peer_id)).await {
            Ok(_) | Err(MembersError::Refused(ChangeError::NotAVoter(_))) => return Outcome::Done,
            // The next leader does it.
            Err(MembersError::Refused(ChangeError::Leads(_))) => {
                let Some(successor) = successor(&status) else {
                    // A new leader has yet to hear of the others.
                    if started.elapsed() < SUCCESSOR_MAX {
                        sleep(PAUSE).await;
                        continue;
                    }
                    return Outcome::Refused(
                        "no other voter is up to date, so nobody could lead in its place"
                            .to_owned(),
                    );
                };
                hand_over(quorum, successor).await;
            }
            Err(error) => match outcome(&error) {
                Some(outcome) => return outcome,
                None => sleep(PAUSE).await,
            },
        }
    }
}

async fn lead(quorum: &Handle, place: Place) -> Outcome {
    loop {
        let status = quorum.status();
        let Some(peer_id) = place.peer_in(&status.configuration) else {
            return if status.is_leader() { place.unknown() } else { Outcome::NotLeader };
        };
        if status.raft.leader == Some(peer_id) {
            return Outcome::Done;
        }
        if !status.is_leader() {
            return Outcome::NotLeader;
        }
        if !status.configuration.is_voter(peer_id) {
            return Outcome::Refused(format!(
                "node {} is a learner: only a voter can lead; add it with `ottla quorum add-voter {}`",
                place.node, place.node
            ));
        }
        hand_over(quorum, peer_id).await;
    }
}

/// Asks for the leadership to move, and waits for a while.
async fn hand_over(quorum: &Handle, to: u64) {
    quorum.transfer_leader(to).await;
    let mut status = quorum.watch_status();
    let moved = status.wait_for(|status| !status.is_leader() && status.raft.leader.is_some());
    // Raft gives up after an election timeout; then it is asked again.
    let _ = tokio::time::timeout(Duration::from_secs(1), moved).await;
}

fn successor(status: &Arc<Status>) -> Option<u64> {
    let voters = status.raft.peers.iter();
    let voters = voters.filter(|peer| peer.active && status.configuration.is_voter(peer.peer_id));
    voters.max_by_key(|peer| (peer.matched, std::cmp::Reverse(peer.peer_id))).map(|p| p.peer_id)
}

async fn admit(quorum: &Handle, who: Member, claims: u64) -> Result<u64, Outcome> {
    loop {
        let status = quorum.status();
        if !status.is_leader() {
            return Err(Outcome::NotLeader);
        }
        let members = &status.configuration.members;
        if let Some((peer_id, _)) = members.iter().find(|(_, member)| **member == who) {
            return if claims == 0 || claims == *peer_id { Ok(*peer_id) } else { Err(gone(who)) };
        }
        if claims != 0 {
            return Err(gone(who));
        }
        let former = |member: &Member| member.node_id == who.node_id;
        let lives = status
            .raft
            .peers
            .iter()
            .find(|peer| peer.active && members.get(&peer.peer_id).is_some_and(former));
        let leads = members.get(&status.raft.peer_id).is_some_and(former);
        if leads || lives.is_some() {
            return Err(Outcome::Refused(format!(
                "a node {} takes part already, from another directory, and was heard of lately: give \
                 each node a node.id of its own",
                who.node_id
            )));
        }
        match quorum.change(Change::Join(who)).await {
            Ok(_) => {
                let node = who.node_id;
                info!(%node, directory = %who.directory_id, "a node joins the cluster");
            }
            Err(MembersError::Refused(ChangeError::AlreadyMember(..))) => {}
            Err(error) => match outcome(&error) {
                Some(outcome) => return Err(outcome),
                None => sleep(PAUSE).await,
            },
        }
    }
}

fn gone(who: Member) -> Outcome {
    warn!(node = %who.node_id, directory = %who.directory_id, "refused a node that was removed");
    Outcome::Refused(format!(
        "node {} with directory {} is not part of the cluster any more: it was removed, or its disk \
         was replaced. To have it join anew, stop it and empty its data directories",
        who.node_id, who.directory_id
    ))
}

/// What an error means for the asker; nothing where it is to be tried again.
fn outcome(error: &MembersError) -> Option<Outcome> {
    match error {
        MembersError::Refused(ChangeError::Busy) => None,
        MembersError::Refused(ChangeError::NotLeader) => Some(Outcome::NotLeader),
        MembersError::Refused(refused) => Some(Outcome::Refused(refused.to_string())),
        MembersError::Unknown(_) => Some(Outcome::Unknown),
    }
}
