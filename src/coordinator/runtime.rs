//! The tasks around the shards, and how the rest of the node reaches them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Failure, Shard, ShardLog, task};
use crate::base::{Clock, LeaderEpoch, PartitionIndex};

/// Bounds of a runtime.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// A batch is at most this long: the topic's `max.message.bytes`.
    pub max_batch_bytes: usize,
    /// Requests to one shard that may wait to be looked at.
    pub queue: usize,
    /// Bytes decided and not yet committed at which a shard takes no more requests.
    pub max_pending_bytes: usize,
    /// How much of the log is read at a time (`offsets.load.buffer.size`).
    pub load_bytes: usize,
    /// Between attempts to load a shard again after its log failed.
    pub load_retry_backoff: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_batch_bytes: 1_048_588,
            queue: 1024,
            max_pending_bytes: 8 << 20,
            load_bytes: 5 << 20,
            load_retry_backoff: Duration::from_secs(1),
        }
    }
}

/// One request on its way to a shard.
pub(super) struct Command<S: Shard> {
    pub(super) request: S::Request,
    pub(super) reply: oneshot::Sender<Result<S::Response, Failure>>,
}

/// What a shard's task says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Loading,
    Active,
    Stopped,
}

/// A [`Stage`] that a task sets and callers read.
#[derive(Debug)]
pub(super) struct SharedStage(AtomicU8);

impl SharedStage {
    pub(super) fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Release);
    }

    fn load(&self) -> Stage {
        match self.0.load(Ordering::Acquire) {
            0 => Stage::Loading,
            1 => Stage::Active,
            _ => Stage::Stopped,
        }
    }
}

struct Entry<S: Shard> {
    leader_epoch: LeaderEpoch,
    stage: Arc<SharedStage>,
    /// Dropping it ends the task.
    commands: mpsc::Sender<Command<S>>,
}

struct Inner<S: Shard> {
    make: Box<dyn Fn(PartitionIndex) -> S + Send + Sync>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    started: Instant,
    shards: parking_lot::Mutex<BTreeMap<PartitionIndex, Entry<S>>>,
}

/// The shards of one coordinator on this node. Cheap to clone.
pub struct Runtime<S: Shard>(Arc<Inner<S>>);

impl<S: Shard> Clone for Runtime<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Shard> fmt::Debug for Runtime<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("shards", &self.0.shards.lock().len()).finish()
    }
}

impl<S: Shard> Runtime<S> {
    /// A runtime without shards; `make` makes the empty state of a partition's shard.
    pub fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        make: impl Fn(PartitionIndex) -> S + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            make: Box::new(make),
            settings,
            clock,
            started: Instant::now(),
            shards: parking_lot::Mutex::default(),
        }))
    }

    /// This node leads `partition` since `leader_epoch`: loads its shard in a task of its own.
    ///
    /// An epoch that is not newer than the one known is ignored. Must be called within a tokio
    /// runtime.
    pub fn elected(
        &self,
        partition: PartitionIndex,
        leader_epoch: LeaderEpoch,
        log: Arc<dyn ShardLog>,
    ) {
        let mut shards = self.0.shards.lock();
        if shards.get(&partition).is_some_and(|entry| entry.leader_epoch >= leader_epoch) {
            return;
        }
        let (commands, queue) = mpsc::channel(self.0.settings.queue);
        let stage = Arc::new(SharedStage(AtomicU8::new(Stage::Loading as u8)));
        shards.insert(partition, Entry { leader_epoch, stage: Arc::clone(&stage), commands });
        drop(shards);
        let inner = Arc::clone(&self.0);
        let task = task::Task {
            partition,
            log,
            queue,
            stage,
            settings: inner.settings,
            clock: Arc::clone(&inner.clock),
            started: inner.started,
        };
        tokio::spawn(async move { task.run(|| (inner.make)(partition)).await });
    }

    /// This node leads `partition` no more, as of `leader_epoch`: ends its shard.
    pub fn resigned(&self, partition: PartitionIndex, leader_epoch: LeaderEpoch) {
        let mut shards = self.0.shards.lock();
        if shards.get(&partition).is_some_and(|entry| entry.leader_epoch <= leader_epoch) {
            shards.remove(&partition);
        }
    }

    /// Ends every shard: the node stops.
    pub fn shut_down(&self) {
        self.0.shards.lock().clear();
    }

    /// The partitions led here, loaded or not.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionIndex> {
        self.0.shards.lock().keys().copied().collect()
    }

    /// Puts `request` to the shard of `partition` and waits for its answer, at most `wait`.
    ///
    /// # Errors
    /// `NotCoordinator`, `CoordinatorLoadInProgress`; `CoordinatorNotAvailable` where the wait was
    /// too long (the request may take effect yet); whatever the shard fails it with.
    pub async fn call(
        &self,
        partition: PartitionIndex,
        request: S::Request,
        wait: Duration,
    ) -> Result<S::Response, Failure> {
        let commands = self.commands(partition)?;
        let answer = async {
            let (reply, answer) = oneshot::channel();
            let command = Command { request, reply };
            commands.send(command).await.map_err(|_| Failure::NotCoordinator)?;
            // The queue must close with the leadership, whoever waits for an answer.
            drop(commands);
            answer.await.unwrap_or(Err(Failure::NotCoordinator))
        };
        tokio::time::timeout(wait, answer).await.unwrap_or(Err(Failure::CoordinatorNotAvailable))
    }

    fn commands(&self, partition: PartitionIndex) -> Result<mpsc::Sender<Command<S>>, Failure> {
        let shards = self.0.shards.lock();
        let entry = shards.get(&partition).ok_or(Failure::NotCoordinator)?;
        match entry.stage.load() {
            Stage::Loading => Err(Failure::CoordinatorLoadInProgress),
            Stage::Active => Ok(entry.commands.clone()),
            Stage::Stopped => Err(Failure::NotCoordinator),
        }
    }
}
