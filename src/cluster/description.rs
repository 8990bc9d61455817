//! How the quorum stands, as its leader knows it.

use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{
    Cluster, LeaderError,
    formation::Seed,
    wire::{Answer, Ask, Describe},
};
use crate::{
    base::{DirectoryId, NodeId},
    quorum::{Member, Status},
};

/// The quorum, as its leader sees it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Description {
    /// Who leads.
    #[prost(uint32, tag = "1")]
    pub leader: u32,
    /// Its term.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Last committed entry.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
    /// Every voter, then every learner, by peer id.
    #[prost(message, repeated, tag = "4")]
    pub replicas: Vec<Replica>,
    /// Whether a change of the voters is under way.
    #[prost(bool, tag = "5")]
    pub is_changing: bool,
}

/// A voter or learner.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Replica {
    /// Its peer id.
    #[prost(uint64, tag = "1")]
    pub peer_id: u64,
    /// The node.
    #[prost(uint32, tag = "2")]
    pub node: u32,
    #[prost(bytes = "vec", tag = "3")]
    directory: Vec<u8>,
    /// Whether it votes.
    #[prost(bool, tag = "4")]
    pub is_voter: bool,
    /// Last entry that it is known to have on disk.
    #[prost(uint64, tag = "5")]
    pub matched: u64,
    /// Whether it was heard of lately.
    #[prost(bool, tag = "6")]
    pub is_active: bool,
}

impl Replica {
    /// A replica under `peer_id`.
    #[must_use]
    pub fn new(peer_id: u64, member: Member, is_voter: bool) -> Self {
        let directory = member.directory_id.0.as_bytes().to_vec();
        Self { peer_id, node: member.node_id.0, directory, is_voter, ..Self::default() }
    }

    /// The node.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        NodeId(self.node)
    }

    /// The data directory that holds its log.
    #[must_use]
    pub fn directory_id(&self) -> DirectoryId {
        DirectoryId(Uuid::from_slice(&self.directory).unwrap_or_default())
    }
}

impl Description {
    fn of(status: &Status) -> Self {
        let (raft, configuration) = (&status.raft, &status.configuration);
        let replica = |(peer_id, member): (&u64, &Member)| {
            let progress = raft.peers.iter().find(|peer| peer.peer_id == *peer_id);
            let is_self = *peer_id == raft.peer_id;
            Replica {
                matched: if is_self { raft.last_index } else { progress.map_or(0, |p| p.matched) },
                is_active: is_self || progress.is_some_and(|progress| progress.active),
                ..Replica::new(*peer_id, *member, configuration.is_voter(*peer_id))
            }
        };
        let mut replicas: Vec<Replica> = configuration.members.iter().map(replica).collect();
        replicas.sort_by_key(|replica| (!replica.is_voter, replica.peer_id));
        let roles = &configuration.conf_state;
        Self {
            leader: status.leader().map_or(0, |member| member.node_id.0),
            term: raft.term,
            commit: raft.commit,
            replicas,
            is_changing: !roles.voters_outgoing.is_empty() || raft.settled.is_none(),
        }
    }
}

impl Cluster {
    /// How the quorum stands. Asks its leader.
    ///
    /// # Errors
    /// Where no leader answers.
    pub async fn describe(&self, deadline: Instant) -> Result<Description, LeaderError> {
        match self.ask_leader(&Ask::Describe(Describe {}), true, deadline).await? {
            Answer::Description(description) => Ok(description),
            _ => Err(LeaderError::NoLeader),
        }
    }

    /// The same for a node that does not run: asks the leaders that its seeds know. None where no
    /// leader that a majority confirms answers.
    pub async fn describe_from_outside(&self, deadline: Instant) -> Option<Description> {
        for (_, seed) in self.ask_seeds().await {
            let Seed::Node(peer, standing) = seed else { continue };
            let Some(leader) = &standing.leader else { continue };
            let leader = self.find_leader(peer.node_id, leader, deadline).await;
            let asked = self.ask(leader, Ask::Describe(Describe {}), deadline).await;
            if let Ok(Answer::Description(description)) = asked {
                return Some(description);
            }
        }
        None
    }

    pub(super) async fn describe_here(&self, deadline: Instant) -> Answer {
        let Some(quorum) = self.quorum() else { return self.not_leader() };
        // One that was deposed and does not know would say how things were.
        let mut deposed = quorum.watch_status();
        let is_confirmed = tokio::select! {
            read = timeout_at(deadline, quorum.read_index()) => matches!(read, Ok(Ok(_))),
            _ = deposed.wait_for(|status| !status.is_leader()) => false,
        };
        let status = quorum.status();
        if is_confirmed && status.is_leader() {
            Answer::Description(Description::of(&status))
        } else {
            self.not_leader()
        }
    }
}
