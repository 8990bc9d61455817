//! The tokio tasks around the core.
//!
//! - The loop turns the core: ticks, commands, messages, completions. It never waits for a disk.
//! - The persister writes and syncs what the core asks for, as many steps at once as have queued up.
//! - The applier folds committed entries into the image, publishes it and answers proposals.
//! - The image writer stores what was applied, unsynced, as many entries at once as have queued up.
//!
//! A store that fails ends them all, after the fatal hook was called once.

mod apply;
mod tasks;
mod turn;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
};

use super::{
    core::{Core, CoreConfig, CoreError},
    handle::{Command, Handle, Published, Shared, Status},
    identity::{Configuration, Identity, Member},
    machine::{ApplyError, Machine},
    raftpb::Message,
    store::{Loaded, Store, StoreError},
};
use crate::base::{Blocking, BlockingStopped, ClusterId};

/// Commands that wait for the loop; proposers wait beyond that.
const COMMANDS_MAX: usize = 1024;
/// Deltas kept for a slow subscriber before it gets the whole image.
const UPDATES_MAX: usize = 1024;

/// How the quorum runs.
#[derive(Debug, Clone)]
pub struct QuorumConfig {
    /// Who this node is.
    pub member: Member,
    /// The cluster it must belong to, where that is known already.
    pub cluster_id: Option<ClusterId>,
    /// Milliseconds per tick of the core.
    pub tick_ms: u64,
    /// Entries that stay in the log behind the stored image, for a peer that was away.
    pub log_margin_entries: u64,
    /// Seed of the election timeouts.
    pub seed: u64,
}

impl QuorumConfig {
    /// The defaults for a node.
    #[must_use]
    pub const fn new(member: Member, seed: u64) -> Self {
        Self { member, cluster_id: None, tick_ms: 50, log_margin_entries: 10_000, seed }
    }
}

/// The first act of a cluster: its identity and first voters. Ignored by a store that is in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    /// The new cluster.
    pub cluster_id: ClusterId,
    /// Its first voters, by the peer ids they get.
    pub voters: BTreeMap<u64, Member>,
}

impl Bootstrap {
    /// A cluster of one node.
    #[must_use]
    pub fn single(member: Member, cluster_id: ClusterId) -> Self {
        Self { cluster_id, voters: BTreeMap::from([(1, member)]) }
    }
}

/// Why the quorum does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored image cannot be read.
    #[error("the stored metadata image cannot be loaded")]
    Image(#[from] ApplyError),
    /// The core refused what is stored.
    #[error("the stored quorum state is not usable")]
    Core(#[from] CoreError),
    /// The pool has stopped.
    #[error(transparent)]
    Pool(#[from] BlockingStopped),
    /// The store is empty and nobody said what it should become.
    #[error("this node belongs to no cluster yet")]
    NotBootstrapped,
    /// The first voters do not name this node.
    #[error("node {node_id} is not among the first voters", node_id = .0.node_id)]
    NotAVoter(Member),
    /// The data belongs to another node, directory or cluster.
    #[error(
        "the metadata store belongs to node {found_node} (directory {found_directory}) of cluster \
         {found_cluster}, not to node {node} (directory {directory}) of cluster {cluster}",
        found_node = .found.member.node_id, found_directory = .found.member.directory_id,
        found_cluster = .found.cluster_id, node = .member.node_id,
        directory = .member.directory_id, cluster = Known(.cluster_id)
    )]
    Foreign {
        /// What the store says.
        found: Box<Identity>,
        /// Who asks.
        member: Member,
        /// The cluster it expected, if any.
        cluster_id: Option<ClusterId>,
    },
}

struct Known<'a>(&'a Option<ClusterId>);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("(any)"),
        }
    }
}

/// Why the node must end.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// What was to be durable may not be.
    #[error("the metadata store failed")]
    Store(#[from] StoreError),
    /// A committed change cannot be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Called once when the quorum cannot go on. In production it ends the process.
pub type FatalHook = Arc<dyn Fn(Fatal) + Send + Sync>;

/// Takes messages to other peers. Must not block; may drop, delay, double and reorder.
pub trait Peers: Send + Sync + 'static {
    /// Sends `messages`, each to the peer it names.
    fn send(&self, messages: Vec<Message>);
}

/// There are no other peers.
#[derive(Debug, Clone, Copy)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn send(&self, _: Vec<Message>) {}
}

/// What the quorum stands on.
#[derive(Clone)]
pub struct Environment {
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// Where its calls run. They take turns of up to three at a time.
    pub blocking: Blocking,
    /// The other peers.
    pub peers: Arc<dyn Peers>,
    /// What to do when the quorum cannot go on.
    pub fatal: FatalHook,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

/// A running quorum.
#[derive(Debug)]
pub struct Quorum<M: Machine = crate::metadata::MetadataImage> {
    handle: Handle<M>,
    tasks: Vec<JoinHandle<()>>,
    environment: Environment,
}

impl<M: Machine> Quorum<M> {
    /// Starts from what the store holds; an unused store is first made a member's by `bootstrap`.
    /// Returns when the stored image is published.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        config: QuorumConfig,
        bootstrap: Option<Bootstrap>,
        environment: Environment,
    ) -> Result<Self, StartError> {
        let store = Arc::clone(&environment.store);
        let expected = config.clone();
        let (identity, loaded, image) =
            environment.blocking.run(move || open::<M>(&*store, &expected, bootstrap)).await??;
        let core = Core::new(CoreConfig::new(identity.peer_id, config.seed), &loaded)?;
        let (handle, commands) = handle(&core, identity, &loaded, image);
        let tasks = turn::spawn(core, config, &environment, &handle, commands, loaded.applied);
        Ok(Self { handle, tasks, environment })
    }

    /// The handle on it.
    #[must_use]
    pub fn handle(&self) -> Handle<M> {
        self.handle.clone()
    }

    /// Stops the tasks and syncs the store.
    ///
    /// # Errors
    /// Where the last sync fails.
    pub async fn stop(self) -> Result<(), StartError> {
        let _ = self.handle.commands.send(Command::Stop).await;
        for task in self.tasks {
            let _ = task.await;
        }
        let store = self.environment.store;
        self.environment.blocking.run(move || store.sync()).await??;
        Ok(())
    }
}

fn open<M: Machine>(
    store: &dyn Store,
    config: &QuorumConfig,
    bootstrap: Option<Bootstrap>,
) -> Result<(Identity, Loaded, M), StartError> {
    let mut loaded = store.load()?;
    if loaded.identity.is_none() {
        let bootstrap = bootstrap.ok_or(StartError::NotBootstrapped)?;
        let mut voters = bootstrap.voters.iter();
        let peer = voters.find(|(_, member)| **member == config.member);
        let (peer_id, member) = peer.ok_or(StartError::NotAVoter(config.member))?;
        let identity =
            Identity { cluster_id: bootstrap.cluster_id, member: *member, peer_id: *peer_id };
        store.initialize(identity, Some(Configuration::of_voters(bootstrap.voters)))?;
        loaded = store.load()?;
    }
    let identity = loaded.identity.ok_or(StartError::NotBootstrapped)?;
    let is_other_cluster = config.cluster_id.is_some_and(|id| id != identity.cluster_id);
    if identity.member != config.member || is_other_cluster {
        let (found, cluster_id) = (Box::new(identity), config.cluster_id);
        return Err(StartError::Foreign { found, member: config.member, cluster_id });
    }
    let image = apply::load_image(store)?.1;
    Ok((identity, loaded, image))
}

fn handle<M: Machine>(
    core: &Core,
    identity: Identity,
    loaded: &Loaded,
    image: M,
) -> (Handle<M>, mpsc::Receiver<Command>) {
    let status = Status {
        raft: core.status(),
        configuration: core.configuration().clone(),
        identity,
        log_start_index: loaded.truncated.0 + 1,
        applied_entries: 0,
    };
    let index = loaded.applied.index;
    let shared = Arc::new(Shared {
        published: ArcSwap::from_pointee(Published { index, image: Arc::new(image) }),
        updates: broadcast::channel(UPDATES_MAX).0,
        applied: watch::channel(index).0,
        status: watch::channel(Arc::new(status)).0,
    });
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    (Handle { shared, commands }, receiver)
}

fn tick_of(config: &QuorumConfig) -> Duration {
    Duration::from_millis(config.tick_ms.max(1))
}
