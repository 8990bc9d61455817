//! The tokio tasks around the core.
//!
//! - The loop turns the core: ticks, commands, messages, completions. It never waits for a disk.
//! - The persister writes and syncs what the core asks for, as many steps at once as have queued
//!   up.
//! - The applier folds committed entries into the image, publishes it and answers proposals.
//! - The image writer stores what was applied, unsynced, as many entries at once as have queued up.
//!
//! Messages of peers have a queue of their own, so that proposals never hold up a heartbeat; what
//! does not fit is dropped, as Raft sends again. Snapshots go past the loop (`snapshot`).
//!
//! A store that fails ends them all, after the fatal hook was called once.

mod apply;
pub(crate) mod snapshot;
mod tasks;
mod transfer;
mod turn;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Semaphore, broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
};

pub use self::snapshot::{Position, SnapshotError, SnapshotSink, SnapshotSource};
use super::{
    core::{Core, CoreConfig, CoreError},
    handle::{Command, Handle, Inbound, Published, Shared, Status},
    identity::{Configuration, Identity, Member},
    machine::{ApplyError, Machine},
    raftpb::Message,
    store::{Loaded, Store, StoreError},
};
use crate::base::{Blocking, BlockingStopped, ClusterId};

/// Commands that wait for the loop; proposers wait beyond that.
const COMMANDS_MAX: usize = 1024;
/// Linearizable reads that may wait for the loop; more wait for their turn.
const READS_MAX: usize = 4096;
/// Messages of peers that wait for the loop; more are dropped.
const MESSAGES_MAX: usize = 4096;
/// A leader that stops waits this long for another to take over.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);
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
    /// Bytes that do at most: with large entries there are fewer of them. The log becomes no larger
    /// than about twice either.
    pub log_margin_bytes: u64,
    /// Seed of the election timeouts.
    pub seed: u64,
}

impl QuorumConfig {
    /// The defaults for a node.
    #[must_use]
    pub const fn new(member: Member, seed: u64) -> Self {
        Self {
            member,
            cluster_id: None,
            tick_ms: 50,
            log_margin_entries: 10_000,
            log_margin_bytes: 64 << 20,
            seed,
        }
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

/// How an unused store becomes a member's.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// The cluster begins here and now.
    Bootstrap(Bootstrap),
    /// The cluster is there, and has made this node a learner ([`super::Change::Join`]).
    Join {
        /// The cluster.
        cluster_id: ClusterId,
        /// The peer id that it gave this node.
        peer_id: u64,
    },
}

impl From<Bootstrap> for Origin {
    fn from(bootstrap: Bootstrap) -> Self {
        Self::Bootstrap(bootstrap)
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
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A committed change cannot be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Called once when the quorum cannot go on. In production it ends the process.
pub type FatalHook = Arc<dyn Fn(Fatal) + Send + Sync>;

/// The way to other peers. What comes from them goes to [`Handle::step`] and
/// [`Handle::receive_snapshot`].
pub trait Peers: Send + Sync + 'static {
    /// Sends `messages`, each to the peer it names. Must not block; may drop, delay, double and
    /// reorder; must bound what it holds. There is never a snapshot among them. Should tell
    /// [`Handle::unreachable`] of peers that it cannot reach, so that the leader does not send them
    /// entry after entry.
    fn send(&self, messages: Vec<Message>);

    /// Carries a snapshot to the peer it names, as the module `snapshot` describes. Must not block.
    fn send_snapshot(&self, snapshot: SnapshotSource);
}

/// There are no other peers.
#[derive(Debug, Clone, Copy)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn send(&self, _: Vec<Message>) {}

    fn send_snapshot(&self, _: SnapshotSource) {}
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
    /// Starts from what the store holds; an unused store is first made a member's, as `origin`
    /// says. Returns when the stored image is published.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        config: QuorumConfig,
        origin: Option<Origin>,
        environment: Environment,
    ) -> Result<Self, StartError> {
        let store = Arc::clone(&environment.store);
        let expected = config.clone();
        let (identity, loaded, image) =
            environment.blocking.run(move || open::<M>(&*store, &expected, origin)).await??;
        let core = Core::new(CoreConfig::new(identity.peer_id, config.seed), &loaded)?;
        let (handle, inbox) = handle(&core, identity, &loaded, image);
        let tasks = turn::spawn(core, config, &environment, &handle, inbox, loaded.applied);
        Ok(Self { handle, tasks, environment })
    }

    /// The handle on it.
    #[must_use]
    pub fn handle(&self) -> Handle<M> {
        self.handle.clone()
    }

    /// Stops the tasks and syncs the store. A leader hands over first, if there is somebody, and
    /// waits up to a second for that.
    ///
    /// # Errors
    /// Where the last sync fails.
    pub async fn stop(self) -> Result<(), StartError> {
        let (done, is_over) = oneshot::channel();
        let _ = self.handle.commands.send(Command::HandOver(done)).await;
        if tokio::time::timeout(HAND_OVER_MAX, is_over).await.is_err() {
            tracing::warn!("no other node took the metadata quorum over in time");
        }
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
    origin: Option<Origin>,
) -> Result<(Identity, Loaded, M), StartError> {
    let mut loaded = store.load()?;
    if loaded.identity.is_none() {
        let origin = origin.ok_or(StartError::NotBootstrapped)?;
        let (identity, first) = begin(config.member, origin)?;
        store.initialize(identity, first)?;
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

fn begin(member: Member, origin: Origin) -> Result<(Identity, Option<Configuration>), StartError> {
    match origin {
        Origin::Join { cluster_id, peer_id } => {
            Ok((Identity { cluster_id, member, peer_id }, None))
        }
        Origin::Bootstrap(Bootstrap { cluster_id, voters }) => {
            let peer = voters.iter().find(|(_, voter)| **voter == member);
            let peer_id = *peer.ok_or(StartError::NotAVoter(member))?.0;
            let identity = Identity { cluster_id, member, peer_id };
            Ok((identity, Some(Configuration::of_voters(voters))))
        }
    }
}

fn handle<M: Machine>(
    core: &Core,
    identity: Identity,
    loaded: &Loaded,
    image: M,
) -> (Handle<M>, Inbox) {
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
        inbound_bytes: AtomicU64::new(0),
        reads: Semaphore::new(READS_MAX),
    });
    let (commands, commands_inbox) = mpsc::channel(COMMANDS_MAX);
    let (messages, messages_inbox) = mpsc::channel(MESSAGES_MAX);
    let inbox = Inbox { commands: commands_inbox, messages: messages_inbox };
    (Handle { shared, commands, messages }, inbox)
}

/// What comes to the loop from outside.
struct Inbox {
    commands: mpsc::Receiver<Command>,
    messages: mpsc::Receiver<Inbound>,
}

fn tick_of(config: &QuorumConfig) -> Duration {
    Duration::from_millis(config.tick_ms.max(1))
}
