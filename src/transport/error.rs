//! What goes wrong between nodes, and how it is told to the other side.

use std::{borrow::Cow, io, sync::Arc};

use quinn::{ConnectionError, TransportErrorCode, VarInt};

use super::hello::HelloError;
use crate::{
    base::{ClusterId, NodeId},
    cert::IdentityError,
};

/// Why a connection was closed by one of our nodes: the code in its close frame, whose text is for
/// the other node's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CloseCode {
    Stopped = 0,
    WrongCluster = 1,
    WrongNode = 2,
    Version = 3,
    Malformed = 4,
    Refused = 5,
    TooSlow = 6,
    Replaced = 7,
    NotNeeded = 8,
}

impl CloseCode {
    pub(super) const fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// Why streams are reset or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamCode {
    Cancelled = 0,
    UnknownClass = 1,
    TooLarge = 2,
    Malformed = 3,
    Busy = 4,
}

impl StreamCode {
    pub(super) const fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// Why the transport does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket does not work.
    #[error("the cluster listener's socket cannot be used")]
    Socket(#[from] io::Error),
    /// The certificate or the CA cannot be used for TLS.
    #[error("the certificate or CA of the cluster plane cannot be used")]
    Tls(#[from] TlsError),
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// TLS refuses them.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// No certificate is trusted.
    #[error(transparent)]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The provider has no cipher that QUIC needs.
    #[error("the TLS library lacks a cipher suite for QUIC")]
    Cipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Why there is no connection to a node.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// Nobody said where it is.
    #[error("no address of node {0} is known")]
    NoAddress(NodeId),
    /// Its name means nothing.
    #[error("{address} cannot be resolved: {source}")]
    Resolve {
        /// The name.
        address: String,
        /// The resolver's answer.
        source: Arc<io::Error>,
    },
    /// The endpoint cannot connect at all.
    #[error("cannot connect to {address}: {source}")]
    Endpoint {
        /// The address.
        address: String,
        /// Why.
        source: quinn::ConnectError,
    },
    /// Nothing came back in time.
    #[error("{address} did not answer in time: is the node up, and is UDP let through?")]
    TimedOut {
        /// The address.
        address: String,
    },
    /// It, or the network, ended the connection.
    #[error("{address} ended the connection: {source}")]
    Ended {
        /// The address.
        address: String,
        /// Its reason.
        source: ConnectionError,
    },
    /// It is not whom we may talk to.
    #[error("refused {address}: {source}")]
    Refused {
        /// The address.
        address: String,
        /// Why.
        source: Arc<RefuseError>,
    },
    /// The transport is stopping.
    #[error("the transport has stopped")]
    Stopped,
}

impl ConnectError {
    /// The label under which it is counted.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::NoAddress(_) | Self::Resolve { .. } => "address",
            Self::Endpoint { .. } | Self::Stopped => "endpoint",
            Self::TimedOut { .. } => "timeout",
            Self::Ended { source, .. } => ended_label(source),
            Self::Refused { source, .. } => source.label(),
        }
    }

    /// Whether it is this node that does not want the other.
    pub(super) const fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Ended { source: ConnectionError::TransportError(_), .. }
        )
    }

    /// Whether somebody has to do something before it can work: a matter of identity or trust.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Ended { source, .. } => match source {
                ConnectionError::TimedOut
                | ConnectionError::Reset
                | ConnectionError::LocallyClosed => false,
                // It stops, or has no room for another handshake.
                ConnectionError::ApplicationClosed(closed) => {
                    closed.error_code != CloseCode::Stopped.code()
                }
                ConnectionError::ConnectionClosed(closed) => {
                    closed.error_code != TransportErrorCode::CONNECTION_REFUSED
                }
                _ => true,
            },
            _ => false,
        }
    }
}

pub(super) fn ended_label(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::TimedOut => "timeout",
        ConnectionError::TransportError(_) => "tls",
        ConnectionError::ApplicationClosed(_) => "refused_by_peer",
        ConnectionError::ConnectionClosed(closed) if u64::from(closed.error_code) >= 0x100 => "tls",
        _ => "network",
    }
}

/// Why a node refuses another. The text goes to both logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefuseError {
    /// Its certificate says not who it is.
    #[error("the certificate that it shows is not a node's: {0}")]
    Certificate(#[from] IdentityError),
    /// It belongs to another cluster.
    #[error("its certificate is of cluster {found}, this node's of cluster {expected}")]
    WrongCluster {
        /// Its cluster.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// It claims to be somebody else.
    #[error(
        "it claims to be node {claimed} of cluster {cluster}, but its certificate is node {certified}'s"
    )]
    FalseClaim {
        /// Whom it claims to be.
        claimed: NodeId,
        /// Which cluster it claims to be of.
        cluster: ClusterId,
        /// Who it is.
        certified: NodeId,
    },
    /// The address is another node's.
    #[error(
        "node {expected} was dialed, but node {found} answers there: correct the address of node {expected}"
    )]
    WrongNode {
        /// Who was dialed.
        expected: NodeId,
        /// Who answers.
        found: NodeId,
    },
    /// It is this node.
    #[error(
        "it shows the certificate of node {0}, which is this node's own: each node needs one of its own"
    )]
    Oneself(NodeId),
    /// No version is spoken by both.
    #[error(
        "it speaks versions {min} to {max} of the cluster protocol, this node {our_min} to {our_max}: \
         upgrade the older one step by step"
    )]
    Version {
        /// Its lowest.
        min: u32,
        /// Its highest.
        max: u32,
        /// Our lowest.
        our_min: u32,
        /// Our highest.
        our_max: u32,
    },
    /// It does not keep to the protocol.
    #[error("its first frame is not valid: {0}")]
    Malformed(#[from] HelloError),
    /// It says nothing.
    #[error("it did not say who it is in time")]
    TooSlow,
    /// The same node is connected from another data directory.
    #[error(
        "node {node} is connected with data directory {connected} already, and this one is {found}: \
         is node.id {node} used twice?"
    )]
    Duplicate {
        /// The node id.
        node: NodeId,
        /// The directory that is connected.
        connected: crate::base::DirectoryId,
        /// The one that came second.
        found: crate::base::DirectoryId,
    },
    /// The node itself does not want it.
    #[error("{0}")]
    NotAdmitted(Cow<'static, str>),
    /// The connection ended before it was done.
    #[error("the connection ended: {0}")]
    Ended(ConnectionError),
}

impl RefuseError {
    pub(super) const fn close_code(&self) -> CloseCode {
        match self {
            Self::WrongCluster { .. } => CloseCode::WrongCluster,
            Self::Certificate(_)
            | Self::FalseClaim { .. }
            | Self::WrongNode { .. }
            | Self::Oneself(_)
            | Self::Duplicate { .. } => CloseCode::WrongNode,
            Self::Version { .. } => CloseCode::Version,
            Self::Malformed(_) => CloseCode::Malformed,
            Self::TooSlow => CloseCode::TooSlow,
            Self::NotAdmitted(_) | Self::Ended(_) => CloseCode::Refused,
        }
    }

    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::WrongCluster { .. } => "cluster",
            Self::Certificate(_)
            | Self::FalseClaim { .. }
            | Self::WrongNode { .. }
            | Self::Oneself(_)
            | Self::Duplicate { .. } => "identity",
            Self::Version { .. } => "version",
            Self::Malformed(_) => "malformed",
            Self::TooSlow => "timeout",
            Self::NotAdmitted(_) => "not_admitted",
            Self::Ended(error) => ended_label(error),
        }
    }
}

/// Why a request has no response.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// There is no connection; the request was not sent.
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    /// It is larger than [`super::TransportConfig::request_max_bytes`]; it was not sent.
    #[error("a request of {0} bytes is too large")]
    TooLarge(usize),
    /// The peer did not take it up.
    #[error("node {node} did not serve the request: {reason}")]
    NotServed {
        /// The peer.
        node: NodeId,
        /// Why.
        reason: NotServed,
    },
    /// The deadline passed before it was sent.
    #[error("no connection to node {0} in time")]
    NotSentInTime(NodeId),
    /// The deadline passed after it was sent: it may have been served.
    #[error("no response from node {0} in time")]
    TimedOut(NodeId),
    /// The connection was lost after it was sent: it may have been served.
    #[error("the connection to node {node} was lost: {source}")]
    Lost {
        /// The peer.
        node: NodeId,
        /// What happened.
        source: StreamError,
    },
}

impl CallError {
    /// Whether the peer may have served the request nevertheless.
    #[must_use]
    pub const fn may_have_been_served(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Lost { .. })
    }
}

/// Why a request was not taken up. Nothing of it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// Too much is under way; try again later.
    #[error("it is busy")]
    Busy,
    /// It does not serve this kind of request now, or not yet.
    #[error("it is not ready")]
    NotReady,
    /// It does not know the kind of request.
    #[error("it does not know such a request")]
    Unknown,
    /// It is larger than the peer takes.
    #[error("the request is too large for it")]
    TooLarge,
}

/// What happened to a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The connection is gone.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The peer does not know what the stream is for.
    #[error("the peer does not know streams of this class")]
    UnknownClass,
    /// The peer has too much under way.
    #[error("the peer is busy")]
    Busy,
    /// The peer ended it.
    #[error("the peer ended the stream (code {0})")]
    Ended(u64),
    /// More came than is allowed.
    #[error("the peer sent more than {0} bytes")]
    TooLarge(usize),
    /// It ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// This side has ended it.
    #[error("the stream was closed on this side")]
    Closed,
}

impl StreamError {
    pub(super) fn of_code(code: VarInt) -> Self {
        match code {
            code if code == StreamCode::UnknownClass.code() => Self::UnknownClass,
            code if code == StreamCode::Busy.code() => Self::Busy,
            code => Self::Ended(code.into_inner()),
        }
    }
}

impl From<quinn::WriteError> for StreamError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::of_code(code),
            quinn::WriteError::ConnectionLost(error) => Self::Connection(error),
            // 0-RTT is off.
            quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => Self::Closed,
        }
    }
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::of_code(code),
            quinn::ReadError::ConnectionLost(error) => Self::Connection(error),
            quinn::ReadError::ClosedStream
            | quinn::ReadError::IllegalOrderedRead
            | quinn::ReadError::ZeroRttRejected => Self::Closed,
        }
    }
}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// There is no connection.
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    /// The deadline passed, as no connection or no further stream was to be had.
    #[error("no stream to node {0} in time")]
    TimedOut(NodeId),
    /// The connection was lost meanwhile.
    #[error(transparent)]
    Stream(#[from] StreamError),
}
