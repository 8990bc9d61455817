//! What operators are told, as JSON: a node's operator endpoint writes it, and the command line
//! reads it.

use serde::{Deserialize, Serialize};

use super::{Cluster, Description, Founded, MovesSummary, Replica};
use crate::{base::NodeId, metadata::MetadataImage, quorum::Handle};

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// The node.
    pub node: u32,
    /// The directory that holds its vote and log.
    pub directory: String,
    /// Whether it takes part in a cluster.
    pub member: bool,
    /// The cluster, where it is known.
    pub cluster_id: Option<String>,
    /// Its peer id.
    pub peer: Option<u64>,
    /// Who leads, as far as it knows.
    pub leader: Option<u32>,
    /// The last entry that it has applied.
    pub applied: u64,
    /// The brokers and partitions of the cluster, as far as the node knows.
    pub data: DataSummary,
}

/// The brokers and partitions of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSummary {
    /// Brokers that serve.
    pub brokers: usize,
    /// Brokers that are registered and do not.
    pub fenced: usize,
    /// Partitions.
    pub partitions: usize,
    /// Those that nobody leads.
    pub leaderless: usize,
    /// Those of which a replica is out of sync, other than one that is only just being added.
    pub under_replicated: usize,
    /// Those on the move.
    pub moves: MovesSummary,
}

impl DataSummary {
    fn of(image: &MetadataImage) -> Self {
        let mut summary = Self { moves: MovesSummary::of(image), ..Self::default() };
        for broker in image.brokers() {
            summary.brokers += usize::from(!broker.fenced);
            summary.fenced += usize::from(broker.fenced);
        }
        for partition in image.topics().flat_map(|topic| topic.partitions.values()) {
            summary.partitions += 1;
            summary.leaderless += usize::from(partition.leader.is_none());
            summary.under_replicated += usize::from(partition.is_under_replicated());
        }
        summary
    }
}

/// The quorum, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumSummary {
    /// The node that leads.
    pub leader: u32,
    /// Its term.
    pub term: u64,
    /// Last committed entry.
    pub committed: u64,
    /// Whether a change of the voters is under way.
    pub changing: bool,
    /// Every voter, then every learner.
    pub members: Vec<MemberSummary>,
}

/// A voter or learner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSummary {
    /// The node.
    pub node: u32,
    /// Its peer id.
    pub peer: u64,
    /// The directory that holds its vote and log.
    pub directory: String,
    /// What it is.
    pub role: MemberRole,
    /// The last entry that it is known to have on disk.
    pub log_end: u64,
    /// How many committed entries it is not known to have.
    pub behind: u64,
    /// Whether it was heard of lately.
    pub active: bool,
}

/// See [`MemberSummary::role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// The voter that leads.
    Leader,
    /// Another voter.
    Voter,
    /// It does not vote.
    Learner,
}

/// A cluster that was founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingSummary {
    /// The cluster.
    pub cluster_id: String,
    /// Its first voters.
    pub voters: Vec<u32>,
    /// Those that have yet to confirm.
    pub unconfirmed: Vec<u32>,
    /// The first leader, if there was one in time.
    pub leader: Option<u32>,
}

impl std::fmt::Display for MemberRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
        })
    }
}

impl From<&Description> for QuorumSummary {
    fn from(description: &Description) -> Self {
        let Description { leader, term, commit, is_changing, replicas } = description;
        let member = |replica: &Replica| MemberSummary {
            node: replica.node,
            peer: replica.peer_id,
            directory: replica.directory_id().to_string(),
            role: match (replica.is_voter, replica.node == *leader) {
                (true, true) => MemberRole::Leader,
                (true, false) => MemberRole::Voter,
                (false, _) => MemberRole::Learner,
            },
            log_end: replica.matched,
            behind: commit.saturating_sub(replica.matched),
            active: replica.is_active,
        };
        Self {
            leader: *leader,
            term: *term,
            committed: *commit,
            changing: *is_changing,
            members: replicas.iter().map(member).collect(),
        }
    }
}

impl From<Founded> for FoundingSummary {
    fn from(founded: Founded) -> Self {
        let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
        Self {
            cluster_id: founded.cluster_id.to_string(),
            voters: ids(founded.voters),
            unconfirmed: ids(founded.unconfirmed),
            leader: founded.leader.map(|node| node.0),
        }
    }
}

impl Cluster {
    /// How this node stands.
    #[must_use]
    pub fn summary(&self) -> NodeSummary {
        let member = self.member();
        let quorum = self.quorum();
        let status = quorum.map(Handle::status);
        let cluster = status.as_ref().map(|status| status.identity.cluster_id);
        NodeSummary {
            node: member.node_id.0,
            directory: member.directory_id.to_string(),
            member: quorum.is_some(),
            cluster_id: cluster.or(self.0.config.cluster_id).map(|id| id.to_string()),
            peer: status.as_ref().map(|status| status.identity.peer_id),
            leader: status.and_then(|status| status.leader()).map(|member| member.node_id.0),
            applied: quorum.map_or(0, Handle::applied_index),
            data: quorum.map(|quorum| DataSummary::of(&quorum.image())).unwrap_or_default(),
        }
    }
}
