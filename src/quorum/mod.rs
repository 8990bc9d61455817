//! The metadata quorum: Raft over a durable store.
//!
//! Every change of cluster metadata is an entry of one Raft log; the voters agree on its order, and
//! each node folds the committed entries into a state machine (in production the
//! `MetadataImage`), which it publishes to the rest of the process.
//!
//! # State it owns
//! The Raft log, the hard state, the configuration (voters, learners and who they are), the node's
//! identity within the cluster, and the applied image: all of it behind the [`Store`] seam.
//!
//! # Parts
//! - [`core`]: the Raft state machine. Takes ticks, messages, proposals and completions; returns
//!   effects. No I/O, no clock, no randomness of its own.
//! - [`store`]: what must survive a restart. [`RocksStore`] on disk, [`MemStore`] in simulation.
//! - [`driver`]: the tokio tasks around the core: one that turns the loop, one that persists, one
//!   that applies. A flush never delays a tick.
//! - `recovery`: makes a quorum of one survivor, offline, after the majority is lost.
//! - [`handle`]: what the rest of the process sees.
//!
//! # Invariants
//! - A message that promises something to another node leaves after the write that makes the
//!   promise durable (`Core::take_effects`).
//! - Entries, hard state and truncation of one step reach the disk in one synced batch; the image
//!   and its applied index in one batch that needs no sync, as it can be replayed.
//! - The image never holds an entry that is not durable in this node's log.
//! - A failed sync is never retried: the fatal hook ends the process.
//!
//! # What it must not do
//! Interpret the entries it carries, or propose while it is not the leader.
//!
//! # References
//! Ongaro's thesis (3, 4.3 joint consensus, 6.4 read index, 9.6 pre-vote, 10.2.1 writing while
//! replicating); KIP-595, KIP-853 for the names that Kafka's tools show.

pub mod core;
pub mod driver;
pub mod handle;
mod identity;
mod image;
mod log_sizes;
mod log_view;
mod logger;
mod machine;
mod recovery;
pub mod store;

pub use self::{
    core::{Change, ChangeError, Core, CoreConfig, CoreError, Effects},
    driver::{
        Bootstrap, Environment, Fatal, FatalHook, NoPeers, Origin, Peers, Position, Quorum,
        QuorumConfig, SnapshotError, SnapshotSink, SnapshotSource, StartError,
    },
    handle::{
        Handle, MembersError, ProposeError, ReadError, Speculation, Status, Subscription, Update,
    },
    identity::{Configuration, Identity, Member, life_of},
    machine::{ApplyError, ImageWrite, Machine},
    recovery::{RecoverError, Survey, recover, survey},
    store::{MemStore, RocksStore, Store, StoreError},
};

/// The messages and entries that cross this module's borders, as the Raft library defines them.
pub mod raftpb {
    pub use raft::{StateRole, eraftpb::*};
}
