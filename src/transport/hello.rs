//! The first frame on every connection: who is there, and which version both speak.
//!
//! `u32` magic, `u32` length (both big-endian), a protobuf message. The dialing side speaks first,
//! on its first bidirectional stream; the other answers there. Fields are only ever added, so that
//! any two versions understand each other's first frame.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use uuid::Uuid;

use crate::{
    base::{ClusterId, DirectoryId, NodeId},
    config::Address,
};

/// "OTLA".
const MAGIC: u32 = 0x4f54_4c41;
/// Before the message: magic and length.
pub(super) const HEAD_BYTES: usize = 8;
/// More than any version says of itself.
const MESSAGE_MAX_BYTES: usize = 4096;

/// The versions of the cluster protocol that this node speaks. Raise the maximum with every change
/// that an older node would misread, and the minimum once no supported release needs it any more.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;

/// What a connection is for. Each has limits of its own, so that bulk never delays heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Raft messages and requests.
    Control,
    /// Snapshots and replicas.
    Bulk,
    /// Only to learn who is there.
    Probe,
}

impl Lane {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
            Self::Probe => "probe",
        }
    }

    const fn wire(self) -> u32 {
        match self {
            Self::Control => 1,
            Self::Bulk => 2,
            Self::Probe => 3,
        }
    }

    const fn of_wire(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Control),
            2 => Some(Self::Bulk),
            3 => Some(Self::Probe),
            _ => None,
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint32, tag = "1")]
    version_min: u32,
    #[prost(uint32, tag = "2")]
    version_max: u32,
    #[prost(bytes = "vec", tag = "3")]
    cluster_id: Vec<u8>,
    #[prost(uint32, tag = "4")]
    node_id: u32,
    #[prost(bytes = "vec", tag = "5")]
    directory_id: Vec<u8>,
    #[prost(fixed64, tag = "6")]
    features: u64,
    #[prost(uint32, tag = "7")]
    lane: u32,
    /// Whom the dialing side wants to reach.
    #[prost(uint32, optional, tag = "8")]
    expects: Option<u32>,
    #[prost(string, tag = "9")]
    software: String,
    #[prost(string, tag = "10")]
    advertised_host: String,
    #[prost(uint32, tag = "11")]
    advertised_port: u32,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) version_min: u32,
    pub(super) version_max: u32,
    pub(super) cluster_id: ClusterId,
    pub(super) node_id: NodeId,
    pub(super) directory_id: DirectoryId,
    pub(super) features: u64,
    pub(super) lane: Lane,
    pub(super) expects: Option<NodeId>,
    pub(super) software: String,
    pub(super) advertised: Option<Address>,
}

/// Why a first frame is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// It does not start as it should.
    #[error("it does not start as the cluster protocol does")]
    Magic,
    /// It is longer than any could be.
    #[error("it claims {0} bytes")]
    TooLong(u32),
    /// It ends too early.
    #[error("it is cut off")]
    Truncated,
    /// It cannot be decoded.
    #[error("it cannot be decoded")]
    Decode,
    /// An id is not of the right size.
    #[error("its {0} is not an id")]
    Id(&'static str),
    /// A version before the first, or more than the last.
    #[error("its versions {0} to {1} make no sense")]
    Versions(u32, u32),
    /// A connection for something unknown.
    #[error("it is for purpose {0}, which this node does not know")]
    Lane(u32),
}

impl Hello {
    pub(super) fn encode(&self) -> Bytes {
        let message = Wire {
            version_min: self.version_min,
            version_max: self.version_max,
            cluster_id: self.cluster_id.0.as_bytes().to_vec(),
            node_id: self.node_id.0,
            directory_id: self.directory_id.0.as_bytes().to_vec(),
            features: self.features,
            lane: self.lane.wire(),
            expects: self.expects.map(|node| node.0),
            software: self.software.clone(),
            advertised_host: self.advertised.as_ref().map(|at| at.host.clone()).unwrap_or_default(),
            advertised_port: self.advertised.as_ref().map_or(0, |at| u32::from(at.port)),
        };
        let length = message.encoded_len();
        let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
        frame.put_u32(MAGIC);
        // Names are at most 253 bytes, so this is far below the limit.
        frame.put_u32(length as u32);
        frame.put_slice(&message.encode_to_vec());
        frame.freeze()
    }

    /// The length of the message behind the frame's head.
    pub(super) fn length(head: [u8; HEAD_BYTES]) -> Result<usize, HelloError> {
        let (magic, length) = head.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
        if number(magic) != MAGIC {
            return Err(HelloError::Magic);
        }
        let length = number(length);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= MESSAGE_MAX_BYTES => Ok(bytes),
            _ => Err(HelloError::TooLong(length)),
        }
    }

    pub(super) fn decode(message: &[u8]) -> Result<Self, HelloError> {
        let wire = Wire::decode(message).map_err(|_| HelloError::Decode)?;
        let id = |name, bytes: &[u8]| Uuid::from_slice(bytes).map_err(|_| HelloError::Id(name));
        if wire.version_min == 0 || wire.version_min > wire.version_max {
            return Err(HelloError::Versions(wire.version_min, wire.version_max));
        }
        let port = u16::try_from(wire.advertised_port).ok().filter(|port| *port > 0);
        let host = Some(wire.advertised_host).filter(|host| !host.is_empty() && host.len() <= 253);
        Ok(Self {
            version_min: wire.version_min,
            version_max: wire.version_max,
            cluster_id: ClusterId(id("cluster id", &wire.cluster_id)?),
            node_id: NodeId(wire.node_id),
            directory_id: DirectoryId(id("directory id", &wire.directory_id)?),
            features: wire.features,
            lane: Lane::of_wire(wire.lane).ok_or(HelloError::Lane(wire.lane))?,
            expects: wire.expects.map(NodeId),
            software: wire.software,
            advertised: host.zip(port).map(|(host, port)| Address { host, port }),
        })
    }

    /// The version to speak: the highest that both know.
    pub(super) fn common_version(&self, ours: &std::ops::RangeInclusive<u32>) -> Option<u32> {
        let version = self.version_max.min(*ours.end());
        (version >= self.version_min && version >= *ours.start()).then_some(version)
    }
}
