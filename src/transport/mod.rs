//! The cluster plane: one QUIC endpoint per node, for everything that nodes tell each other.
//!
//! It knows bytes: what a message, a request or a stream means is the [`Service`]'s.
//!
//! # Connections
//! Each node dials for what it wants to send: up to two connections per direction of a pair of
//! nodes, one for control (Raft messages, requests) and, once it is needed, one for bulk (replicas,
//! snapshots), so that neither waits for the other's windows. A control connection to every peer of
//! the address book is kept up; names are resolved anew at every attempt. On each connection the
//! first frame says who is there and which version both speak (`hello`), checked against the
//! certificates.
//!
//! # State it owns
//! The socket, the connections, the queues of Raft messages, and the address book.
//!
//! # Invariants
//! - A message, request or stream is only taken from a peer whose certificate names this cluster
//!   and the node that it claims to be, and whom the service admitted; [`PeerInfo`] is what was
//!   checked.
//! - No stream waits for another's flow control: windows of a control connection have room for all
//!   its streams at once. Within a connection, messages go before requests, replicas before
//!   snapshots.
//! - Memory is bounded per peer: messages by their queue, streams by windows, requests by a budget
//!   that all peers share. What a length claims is never reserved before it arrives.
//! - Every wait for a peer has a deadline: the caller's, the idle timeout, or a constant here.
//!
//! # What it must not do
//! Interpret what it carries, read a clock, or draw a random number other than from the seed. (The
//! TLS library draws its keys from the system, and `runtime` reads what processor time was taken, for
//! whoever looks at figures; nothing else that is observable depends on them.)
//!
//! # References
//! RFC 9000, 9001, 9002 (QUIC); RFC 8446 (TLS 1.3).

mod endpoint;
mod error;
mod figures;
mod handshake;
mod hello;
mod inbound;
mod link;
mod metrics;
mod queue;
mod request;
mod resolve;
mod runtime;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::{borrow::Cow, fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;

pub use self::{
    endpoint::Transport,
    error::{
        CallError, ConnectError, NotServed, OpenError, RefuseError, StartError, StreamError,
        TlsError,
    },
    figures::{Figure, LinkStatus},
    hello::{HelloError, Lane, VERSIONS},
    resolve::{Resolve, SystemResolver},
    socket::{Datagrams, Socket},
    stream::{Stream, StreamReceiver, StreamSender},
};
use crate::{
    base::{Clock, ClusterId, DirectoryId, NodeId},
    config::{Address, NodeConfig},
};

/// How the transport runs.
#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// The data directory that holds this node's vote and log.
    pub directory_id: DirectoryId,
    /// Where others reach this node.
    pub advertised: Address,
    /// What this node can do beyond the protocol's version, as bits.
    pub features: u64,
    /// How often a silent connection shows that it is alive.
    pub keep_alive: Duration,
    /// After how long without a sign of life a connection is given up.
    pub idle_timeout: Duration,
    /// How long an attempt to connect may take.
    pub connect_timeout: Duration,
    /// The first pause before another attempt.
    pub backoff_min: Duration,
    /// The longest.
    pub backoff_max: Duration,
    /// The largest Raft message.
    pub message_max_bytes: usize,
    /// The largest request or response.
    pub request_max_bytes: usize,
    /// What requests of all peers together may take while they are read.
    pub request_memory_bytes: usize,
}

impl TransportConfig {
    /// What a node's file says, with the rest as it should be.
    #[must_use]
    pub fn new(node: &NodeConfig, directory_id: DirectoryId) -> Self {
        Self {
            directory_id,
            advertised: node.cluster_advertised_listener.clone(),
            features: 0,
            keep_alive: node.cluster_keep_alive,
            idle_timeout: node.cluster_idle_timeout,
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            message_max_bytes: 8 << 20,
            request_max_bytes: 16 << 20,
            request_memory_bytes: 64 << 20,
        }
    }
}

/// What the transport stands on.
pub struct Seams {
    /// Where datagrams go.
    pub socket: Socket,
    /// Tells whether certificates are in their time.
    pub clock: Arc<dyn Clock>,
    /// Finds the addresses behind names.
    pub resolver: Arc<dyn Resolve>,
    /// Of pauses between attempts, and of QUIC's own random numbers.
    pub seed: u64,
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// A peer at the other end of a connection, as certificate and first frame say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its node id, certified.
    pub node_id: NodeId,
    /// Its cluster, certified: this node's own.
    pub cluster_id: ClusterId,
    /// The data directory that holds its vote and log: a wiped disk has another.
    pub directory_id: DirectoryId,
    /// The version of the protocol to speak with it.
    pub version: u32,
    /// What it can do beyond that, as bits.
    pub features: u64,
    /// The release that it runs.
    pub software: String,
    /// Where it says that it is reached.
    pub advertised: Option<Address>,
    /// Where its datagrams come from.
    pub remote: SocketAddr,
    /// What the connection is for.
    pub lane: Lane,
}

/// Raft messages go by two ways, so that what keeps a leader in office never waits for entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageClass {
    /// Heartbeats, votes, and their answers: small, and early.
    Urgent,
    /// Entries, and whatever may be large.
    Log,
}

/// What a bidirectional stream of the bulk lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamClass {
    /// Batches of partitions that are at the tail. First among its kind.
    Replica,
    /// Batches of partitions that catch up from disk.
    CatchUp,
    /// A snapshot of the metadata.
    Snapshot,
}

/// Serves what peers send. Called on the runtime's threads: none of it may block.
pub trait Service: Send + Sync + 'static {
    /// Whether to talk to `peer` at all, which has shown a valid certificate of this cluster. The
    /// text of a refusal goes to both nodes' logs.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, peer: &PeerInfo) -> Result<(), Cow<'static, str>> {
        let _ = peer;
        Ok(())
    }

    /// A Raft message. Those of one class arrive in the order in which they were sent, with gaps.
    fn message(&self, from: &Arc<PeerInfo>, message: Bytes);

    /// A request. Dropped where the peer gives up or `deadline` passes.
    fn call(
        &self,
        from: Arc<PeerInfo>,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, NotServed>>;

    /// A stream that a peer opened. The service owns it from here on.
    fn stream(&self, from: Arc<PeerInfo>, class: StreamClass, stream: Stream);

    /// This node's connection for control to `peer` is up.
    fn connected(&self, peer: &Arc<PeerInfo>) {
        let _ = peer;
    }

    /// This node's connection for control to `node` was lost, or did not come about.
    fn unreachable(&self, node: NodeId) {
        let _ = node;
    }
}
