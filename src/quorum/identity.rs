//! Who takes part: this node's identity within the cluster, and the configuration of the quorum.

use std::collections::BTreeMap;

use raft::eraftpb::ConfState;
use uuid::Uuid;

use crate::base::{ClusterId, DirectoryId, NodeId};

/// A participant of the quorum. A wiped disk has a new directory id and is thus another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The node id that the user chose.
    pub node_id: NodeId,
    /// The data directory that holds its vote and log.
    pub directory_id: DirectoryId,
}

/// What a data directory belongs to. Written once, by bootstrap or by joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node and the directory itself.
    pub member: Member,
    /// The Raft peer id that the cluster gave to this member; never given to another.
    pub peer_id: u64,
}

/// The voters and learners at some index of the log, and who they are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Configuration {
    /// Peers by role, as Raft has them.
    pub conf_state: ConfState,
    /// Peer id to member, for every peer of `conf_state`.
    pub members: BTreeMap<u64, Member>,
    /// The highest peer id that was ever given out.
    pub last_peer_id: u64,
}

/// How many peer ids a cluster gives out before it would need to be recovered. Whoever recovers a
/// quorum goes on in the next range, so that ids which the lost voters gave out without its
/// knowledge are not given out again.
const PEER_IDS_PER_LIFE: u64 = 1_000_000;

/// Which life of a cluster a peer belongs to: 0 for the first, one more after each recovery.
#[must_use]
pub const fn life_of(peer_id: u64) -> u64 {
    peer_id / PEER_IDS_PER_LIFE
}

/// The first peer id of the life after that of `peer_id`.
pub(super) const fn next_life(peer_id: u64) -> u64 {
    (life_of(peer_id) + 1) * PEER_IDS_PER_LIFE + 1
}

impl Configuration {
    /// A first configuration whose members all vote.
    #[must_use]
    pub fn of_voters(members: BTreeMap<u64, Member>) -> Self {
        let mut conf_state = ConfState::default();
        conf_state.set_voters(members.keys().copied().collect());
        let last_peer_id = members.last_key_value().map_or(0, |(peer_id, _)| *peer_id);
        Self { conf_state, members, last_peer_id }
    }

    /// Whether `peer_id` votes in the current or the outgoing half of the configuration.
    #[must_use]
    pub fn is_voter(&self, peer_id: u64) -> bool {
        self.conf_state.voters.contains(&peer_id)
            || self.conf_state.voters_outgoing.contains(&peer_id)
    }

    /// Whether `peer_id` alone decides.
    #[must_use]
    pub fn is_sole_voter(&self, peer_id: u64) -> bool {
        self.conf_state.voters == [peer_id] && self.conf_state.voters_outgoing.is_empty()
    }

    /// The configuration after a change: its roles, and who was added. Forgets the members that no
    /// role names any more.
    pub(super) fn adopt(
        &mut self,
        mut roles: ConfState,
        added: impl Iterator<Item = (u64, Member)>,
    ) {
        // The library lists peers in the order of a hash map, which differs from node to node.
        roles.mut_voters().sort_unstable();
        roles.mut_voters_outgoing().sort_unstable();
        roles.mut_learners().sort_unstable();
        roles.mut_learners_next().sort_unstable();
        self.members.extend(added);
        let last_peer_id = self.members.last_key_value().map_or(0, |(peer_id, _)| *peer_id);
        self.last_peer_id = self.last_peer_id.max(last_peer_id);
        self.members.retain(|peer, _| {
            [&roles.voters, &roles.voters_outgoing, &roles.learners, &roles.learners_next]
                .iter()
                .any(|ids| ids.contains(peer))
        });
        self.conf_state = roles;
    }
}

/// The stored forms, versioned as protobuf fields are.
pub(super) mod stored {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Member {
        #[prost(uint64, tag = "1")]
        pub peer_id: u64,
        #[prost(uint32, tag = "2")]
        pub node_id: u32,
        #[prost(bytes = "vec", tag = "3")]
        pub directory_id: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Identity {
        #[prost(bytes = "vec", tag = "1")]
        pub cluster_id: Vec<u8>,
        #[prost(message, required, tag = "2")]
        pub member: Member,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Configuration {
        #[prost(uint64, repeated, tag = "1")]
        pub voters: Vec<u64>,
        #[prost(uint64, repeated, tag = "2")]
        pub learners: Vec<u64>,
        #[prost(uint64, repeated, tag = "3")]
        pub voters_outgoing: Vec<u64>,
        #[prost(uint64, repeated, tag = "4")]
        pub learners_next: Vec<u64>,
        #[prost(bool, tag = "5")]
        pub auto_leave: bool,
        #[prost(message, repeated, tag = "6")]
        pub members: Vec<Member>,
        #[prost(uint64, tag = "7")]
        pub last_peer_id: u64,
    }

    /// Context of a configuration change: who the added peers are.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Added {
        #[prost(message, repeated, tag = "1")]
        pub members: Vec<Member>,
    }
}

fn uuid(bytes: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(bytes).ok()
}

impl stored::Member {
    pub(super) fn new(peer_id: u64, member: Member) -> Self {
        Self {
            peer_id,
            node_id: member.node_id.0,
            directory_id: member.directory_id.0.as_bytes().to_vec(),
        }
    }

    pub(super) fn read(&self) -> Option<(u64, Member)> {
        let directory_id = DirectoryId(uuid(&self.directory_id)?);
        Some((self.peer_id, Member { node_id: NodeId(self.node_id), directory_id }))
    }
}

impl Identity {
    pub(super) fn to_stored(self) -> stored::Identity {
        stored::Identity {
            cluster_id: self.cluster_id.0.as_bytes().to_vec(),
            member: stored::Member::new(self.peer_id, self.member),
        }
    }

    pub(super) fn from_stored(stored: &stored::Identity) -> Option<Self> {
        let (peer_id, member) = stored.member.read()?;
        Some(Self { cluster_id: ClusterId(uuid(&stored.cluster_id)?), member, peer_id })
    }
}

impl Configuration {
    pub(super) fn to_stored(&self) -> stored::Configuration {
        let roles = &self.conf_state;
        stored::Configuration {
            voters: roles.voters.clone(),
            learners: roles.learners.clone(),
            voters_outgoing: roles.voters_outgoing.clone(),
            learners_next: roles.learners_next.clone(),
            auto_leave: roles.auto_leave,
            members: self.members.iter().map(|(id, m)| stored::Member::new(*id, *m)).collect(),
            last_peer_id: self.last_peer_id,
        }
    }

    pub(super) fn from_stored(stored: stored::Configuration) -> Option<Self> {
        let mut conf_state = ConfState::default();
        conf_state.set_voters(stored.voters);
        conf_state.set_learners(stored.learners);
        conf_state.set_voters_outgoing(stored.voters_outgoing);
        conf_state.set_learners_next(stored.learners_next);
        conf_state.set_auto_leave(stored.auto_leave);
        let members: BTreeMap<_, _> =
            stored.members.iter().map(stored::Member::read).collect::<Option<_>>()?;
        let highest = members.last_key_value().map_or(0, |(peer_id, _)| *peer_id);
        Some(Self { conf_state, members, last_peer_id: stored.last_peer_id.max(highest) })
    }
}
