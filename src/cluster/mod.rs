//! What nodes of a cluster say to each other, above the transport: how a cluster begins, how a node
//! comes into one, how Raft's messages and snapshots travel, and how a request reaches the leader.
//!
//! # A node's way into a cluster
//! A node whose store is empty waits ([`Cluster::form`]), and looks around among its seeds:
//! - somebody names it a first voter: the founding, once, of [`Cluster::bootstrap`];
//! - a seed belongs to a cluster: the node asks its leader to be taken in, as a learner.
//!
//! A founding asks every seed and voter for a promise first, which is void once the next founding
//! was promised or after ten seconds; only who holds all of them names the voters. So of two
//! foundings that share a node at most one comes about, and one is refused that meets a node with a
//! past. A first voter that missed the news learns them from any other.
//!
//! # State it owns
//! What this node has promised, the node ids behind Raft's peer ids, and the transport's address
//! book.
//!
//! # Invariants
//! - A Raft message or snapshot of a peer id is taken only from the node and directory that the
//!   configuration gives that id to, where it gives it to anybody.
//! - An answer of "not the leader" means that nothing was done.
//!
//! # What it must not do
//! Decide anything about metadata, or draw a random number that does not come from its seed.
//!
//! References: Ongaro's thesis 4.1 (catching up), 6.2 (finding the leader); KIP-853, KIP-590
//! (forwarding).

mod book;
mod bootstrap;
mod controllers;
mod description;
mod figures;
mod formation;
mod leader;
mod peers;
mod service;
mod snapshots;
mod summary;
mod suspicion;
mod voters;
mod wire;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use uuid::Uuid;

use self::formation::Formation;
pub use self::{
    bootstrap::{BootstrapError, Founded},
    controllers::Controllers,
    description::{Description, Replica},
    figures::{
        BrokerState, BrokerSummary, ClusterSummary, LagFigures, MovesSummary, NodeFigures,
        SayFigures,
    },
    leader::LeaderError,
    service::Plane,
    summary::{FoundingSummary, MemberRole, MemberSummary, NodeSummary, QuorumSummary},
    voters::{VotersChange, VotersError},
};
use crate::{
    base::{ClusterId, NodeId},
    config::Address,
    controller::{Controller, driver},
    quorum::{Handle, Member, Peers},
    transport::{Stream, StreamClass, Transport},
};

/// Who this node is, and where it looks for others.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The node and the directory that holds its vote.
    pub member: Member,
    /// The cluster that its certificate names; none where it has no certificate.
    pub cluster_id: Option<ClusterId>,
    /// Where others may be.
    pub seeds: Vec<Address>,
    /// How many voters the leader sees to by itself; 0 for none.
    pub voters_target: usize,
    /// After what silence a leader has a broker fenced; zero for never.
    pub suspicion_timeout: Duration,
    /// Of foundings.
    pub seed: u64,
}

/// This node's part in its cluster. Clones share it.
#[derive(Clone)]
pub struct Cluster(Arc<Shared>);

struct Shared {
    config: ClusterConfig,
    formation: Formation,
    rng: Mutex<SmallRng>,
    /// Nodes that Raft messages came from, by peer id; for peers that the configuration does not
    /// name yet.
    heard: Mutex<BTreeMap<u64, NodeId>>,
    alive: suspicion::Heard,
    transport: OnceLock<Transport>,
    quorum: OnceLock<Handle>,
    controller: OnceLock<driver::Client<Controller>>,
    replicas: OnceLock<ServeReplicas>,
    figures: OnceLock<SayFigures>,
}

/// Serves a stream of replicas that a peer has opened. Must not block.
pub type ServeReplicas = Box<dyn Fn(StreamClass, Stream) + Send + Sync>;

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("member", &self.0.config.member).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A node on its own, until it is [`Cluster::connect`]ed.
    #[must_use]
    pub fn new(config: ClusterConfig) -> Self {
        let rng = SmallRng::seed_from_u64(config.seed);
        Self(Arc::new(Shared {
            config,
            formation: Formation::default(),
            rng: Mutex::new(rng),
            heard: Mutex::default(),
            alive: suspicion::Heard::default(),
            transport: OnceLock::new(),
            quorum: OnceLock::new(),
            controller: OnceLock::new(),
            replicas: OnceLock::new(),
            figures: OnceLock::new(),
        }))
    }

    /// Uses `transport`, whose service is [`Cluster::plane`]. Once.
    pub fn connect(&self, transport: Transport) {
        drop(self.0.transport.set(transport));
    }

    /// What the transport serves.
    #[must_use]
    pub fn plane(&self) -> Plane {
        Plane::new(self)
    }

    /// The way of Raft's messages.
    #[must_use]
    pub fn peers(&self) -> Arc<dyn Peers> {
        Arc::new(self.clone())
    }

    /// The node takes part, by `quorum`. Once.
    pub fn take_part(&self, quorum: Handle) {
        drop(self.0.quorum.set(quorum));
        self.0.formation.belongs();
    }

    /// Whoever asks the controller while this node is it asks `controller`. Once.
    pub fn serve_controller(&self, controller: driver::Client<Controller>) {
        drop(self.0.controller.set(controller));
    }

    /// Streams of replicas that peers open from now on go to `serve`. Once.
    pub fn serve_replicas(&self, serve: ServeReplicas) {
        drop(self.0.replicas.set(serve));
    }

    /// The transport, where there is one.
    #[must_use]
    pub fn transport(&self) -> Option<&Transport> {
        self.0.transport.get()
    }

    fn quorum(&self) -> Option<&Handle> {
        self.0.quorum.get()
    }

    fn member(&self) -> Member {
        self.0.config.member
    }

    fn node_id(&self) -> NodeId {
        self.0.config.member.node_id
    }

    fn new_id(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.0.rng.lock().fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}
