//! Requests of the cluster plane and their answers, as protobuf: fields are only ever added.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use crate::{
    base::{ClusterId, DirectoryId, NodeId},
    config::Address,
    quorum::Member,
};

/// What one node asks another.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Ask {
    /// How the node stands.
    #[prost(message, tag = "1")]
    Inquire(Inquire),
    /// To take part in no other founding for a while.
    #[prost(message, tag = "2")]
    Promise(Promise),
    /// To become a first voter.
    #[prost(message, tag = "3")]
    Found(Found),
    /// To take the asking node in, or to remember that it is there. Only the leader can.
    #[prost(message, tag = "4")]
    Join(Join),
    /// A request to the active controller, in the controller's own form.
    #[prost(bytes = "bytes", tag = "5")]
    Controller(Bytes),
    /// A change of the voters. Only the leader can.
    #[prost(message, tag = "6")]
    Voters(Voters),
    /// How the quorum stands. Only the leader knows.
    #[prost(message, tag = "7")]
    Describe(Describe),
    /// What the node holds and does.
    #[prost(message, tag = "8")]
    Figures(Figures),
}

/// The answer to an [`Ask`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Answer {
    /// To [`Ask::Inquire`].
    #[prost(message, tag = "1")]
    Standing(Standing),
    /// To what has no more to say.
    #[prost(message, tag = "2")]
    Done(Done),
    /// To [`Ask::Join`].
    #[prost(message, tag = "3")]
    Joined(Joined),
    /// To [`Ask::Controller`].
    #[prost(message, tag = "4")]
    Decided(Decided),
    /// To [`Ask::Describe`].
    #[prost(message, tag = "5")]
    Description(super::Description),
    /// Somebody else has to be asked. Nothing was done.
    #[prost(message, tag = "6")]
    NotLeader(NotLeader),
    /// The asked node will not do it.
    #[prost(message, tag = "7")]
    Refused(Refused),
    /// It may yet happen, or not: the leadership was lost meanwhile.
    #[prost(message, tag = "8")]
    Unknown(Done),
    /// To [`Ask::Figures`].
    #[prost(message, tag = "9")]
    Figures(super::NodeFigures),
}

#[derive(Clone, PartialEq, prost::Message)]
struct AskFrame {
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    ask: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnswerFrame {
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    answer: Option<Answer>,
}

impl Ask {
    pub(super) fn into_bytes(self) -> Bytes {
        AskFrame { ask: Some(self) }.encode_to_vec().into()
    }

    pub(super) fn of_bytes(bytes: Bytes) -> Option<Self> {
        AskFrame::decode(bytes).ok()?.ask
    }
}

impl Answer {
    pub(super) fn into_bytes(self) -> Bytes {
        AnswerFrame { answer: Some(self) }.encode_to_vec().into()
    }

    pub(super) fn of_bytes(bytes: Bytes) -> Option<Self> {
        AnswerFrame::decode(bytes).ok()?.answer
    }

    pub(super) fn refused(text: impl ToString) -> Self {
        Self::Refused(Refused { text: text.to_string() })
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Inquire {}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Done {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Describe {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Figures {}

/// How a node stands.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Standing {
    /// Whether it belongs to a cluster: it has a Raft log.
    #[prost(bool, tag = "1")]
    pub(super) is_member: bool,
    /// The first voters, where it was one and the log still begins there.
    #[prost(message, optional, tag = "2")]
    pub(super) found: Option<Found>,
    /// The leader that it knows.
    #[prost(message, optional, tag = "3")]
    pub(super) leader: Option<Leader>,
}

/// Where the leader is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Leader {
    #[prost(uint32, tag = "1")]
    pub(super) node_id: u32,
    #[prost(message, optional, tag = "2")]
    pub(super) address: Option<Place>,
}

/// An address of the cluster plane.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Place {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(uint32, tag = "2")]
    port: u32,
}

impl From<Address> for Place {
    fn from(address: Address) -> Self {
        Self { host: address.host, port: address.port.into() }
    }
}

impl Place {
    pub(super) fn address(self) -> Option<Address> {
        let port = u16::try_from(self.port).ok().filter(|port| *port > 0)?;
        (!self.host.is_empty() && self.host.len() <= 253)
            .then_some(Address { host: self.host, port })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Promise {
    /// Names the founding.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) founding: Vec<u8>,
}

/// The first voters of a cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Found {
    /// Names the founding.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) founding: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    cluster_id: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    voters: Vec<Participant>,
}

/// A member and the peer id that it has, or 0.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Participant {
    #[prost(uint64, tag = "1")]
    pub(super) peer_id: u64,
    #[prost(uint32, tag = "2")]
    pub(super) node_id: u32,
    #[prost(bytes = "vec", tag = "3")]
    directory_id: Vec<u8>,
}

impl Participant {
    pub(super) fn new(peer_id: u64, member: Member) -> Self {
        let directory_id = member.directory_id.0.as_bytes().to_vec();
        Self { peer_id, node_id: member.node_id.0, directory_id }
    }

    pub(super) fn member(&self) -> Option<Member> {
        let directory_id = DirectoryId(Uuid::from_slice(&self.directory_id).ok()?);
        Some(Member { node_id: NodeId(self.node_id), directory_id })
    }
}

impl Found {
    pub(super) fn new(founding: Uuid, bootstrap: &crate::quorum::Bootstrap) -> Self {
        let voters = bootstrap.voters.iter();
        Self {
            founding: founding.as_bytes().to_vec(),
            cluster_id: bootstrap.cluster_id.0.as_bytes().to_vec(),
            voters: voters.map(|(peer, member)| Participant::new(*peer, *member)).collect(),
        }
    }

    pub(super) fn bootstrap(&self) -> Option<crate::quorum::Bootstrap> {
        let cluster_id = ClusterId(Uuid::from_slice(&self.cluster_id).ok()?);
        let voters = self.voters.iter().map(|voter| Some((voter.peer_id, voter.member()?)));
        let voters: std::collections::BTreeMap<_, _> = voters.collect::<Option<_>>()?;
        let is_sound =
            !voters.is_empty() && voters.len() == self.voters.len() && !voters.contains_key(&0);
        is_sound.then_some(crate::quorum::Bootstrap { cluster_id, voters })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Join {
    /// Who asks, with its peer id where it has one.
    #[prost(message, required, tag = "1")]
    pub(super) who: Participant,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Joined {
    #[prost(uint64, tag = "1")]
    pub(super) peer_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Decided {
    /// The answer in the controller's own form.
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) response: Bytes,
    /// The entry up to which it is the outcome of.
    #[prost(uint64, tag = "2")]
    pub(super) index: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NotLeader {
    #[prost(message, optional, tag = "1")]
    pub(super) leader: Option<Leader>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Refused {
    /// Why, for people.
    #[prost(string, tag = "1")]
    pub(super) text: String,
}

/// A change of the voters.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Voters {
    #[prost(uint32, tag = "1")]
    pub(super) node_id: u32,
    /// Of the node's directory, where the asker knows it.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) directory_id: Option<Vec<u8>>,
    #[prost(enumeration = "VotersChange", tag = "3")]
    pub(super) change: i32,
}

/// What is to become of a node's vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum VotersChange {
    /// A learner becomes a voter.
    Add = 0,
    /// A voter becomes a learner.
    Remove = 1,
    /// A voter becomes the leader.
    Lead = 2,
}
