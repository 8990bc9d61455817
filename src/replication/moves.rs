//! Replicas that move to another log directory of this node (KIP-113): where to, and how far.
//!
//! The log is copied by [`log::copy`], step by step as whoever drives it allows, and replaced by
//! [`log::swap`]. The controller is told afterwards; what the old directory has left is kept until
//! the image says that the replica is in the new one, so that a crash never brings the old one back.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, RwLock};
use tracing::{error, info, warn};

use super::{OpenError, Partition, Partitions};
use crate::{
    base::{BlockingStopped, PartitionIndex, TopicPartition},
    log::{self, CopyError, CopyTurn, Log, LogConfig, LogDirectory, SwapError},
    metadata::MetadataImage,
};

/// What one step copies.
const STEP_BYTES: u32 = 1 << 20;
/// Directories that were chosen for replicas that are not there; the first ones are forgotten.
const CHOICES_MAX: usize = 10_000;
/// The longest name of a directory that file systems take.
const NAME_MAX_BYTES: usize = 255;
/// What a future's directory has behind the log's name.
const FUTURE_BYTES: usize = 40;

/// Why a replica does not move.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MoveError {
    /// This node has no such directory.
    #[error("{path} is not in log.dirs of this node")]
    NoDirectory {
        /// What was asked for.
        path: String,
    },
    /// The directory, or another one of the node, has failed.
    #[error("log directory {location} is offline: restart the node once it is repaired")]
    Offline {
        /// The directory.
        location: String,
    },
    /// The node has no such replica: it is to be in the directory once it comes.
    #[error("this node has no replica of it yet; it is to be in that directory once it has")]
    NoReplica,
    /// The copy's directory would have too long a name.
    #[error("the topic's name is too long for a replica that moves")]
    NameTooLong,
    /// The copy could not be begun.
    #[error(transparent)]
    Log(#[from] log::LogError),
    /// The node stops.
    #[error(transparent)]
    Stopped(#[from] BlockingStopped),
}

/// A replica that moves.
#[derive(Debug)]
pub struct Move {
    partition: Arc<Partition>,
    future: Arc<Log>,
    to: Arc<LogDirectory>,
    /// Held while it takes a step, or is given up.
    busy: tokio::sync::Mutex<Option<CopyTurn>>,
}

/// What a step did.
#[derive(Debug)]
pub enum Stepped {
    /// So many bytes were copied.
    Copied(u64),
    /// Something else has to be done first.
    Waits,
    /// It is over.
    Ended,
}

/// The replicas that move, and those that are to be begun in a directory of somebody's choice.
#[derive(Debug, Default)]
pub(super) struct Moves {
    under_way: RwLock<BTreeMap<TopicPartition, Arc<Move>>>,
    chosen: Mutex<BTreeMap<(String, PartitionIndex), String>>,
}

impl Move {
    /// The replica.
    #[must_use]
    pub const fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// The copy.
    #[must_use]
    pub const fn future(&self) -> &Arc<Log> {
        &self.future
    }

    /// About how many bytes the copy misses.
    #[must_use]
    pub fn left_bytes(&self) -> u64 {
        let log = self.partition.log();
        log.bytes_from(self.future.log_end_offset().max(log.log_start_offset()))
    }
}

impl Moves {
    /// The directory that was chosen for a replica that is to be begun.
    pub(super) fn choice(&self, topic: &str, partition: PartitionIndex) -> Option<String> {
        self.chosen.lock().get(&(topic.to_owned(), partition)).cloned()
    }

    fn choose(&self, topic: &str, partition: PartitionIndex, path: &str) {
        let mut chosen = self.chosen.lock();
        chosen.insert((topic.to_owned(), partition), path.to_owned());
        if chosen.len() > CHOICES_MAX {
            chosen.pop_first();
        }
    }

    fn forget(&self, one: &Arc<Move>) -> bool {
        let mut under_way = self.under_way.write();
        let id = one.partition.id();
        let is_known = under_way.get(&id).is_some_and(|known| Arc::ptr_eq(known, one));
        is_known && under_way.remove(&id).is_some()
    }

    fn is_under_way(&self, one: &Arc<Move>) -> bool {
        let under_way = self.under_way.read();
        under_way.get(&one.partition.id()).is_some_and(|known| Arc::ptr_eq(known, one))
    }
}

impl Partitions {
    /// The replicas that move to another directory.
    #[must_use]
    pub fn moves(&self) -> Vec<Arc<Move>> {
        self.moves.under_way.read().values().cloned().collect()
    }

    /// Begins to move a replica to the directory at `path`; gives up a move to another one.
    ///
    /// # Errors
    /// See [`MoveError`]. A replica that is not here yet is begun in that directory once it comes.
    pub async fn move_replica(
        &self,
        topic: &str,
        id: Option<TopicPartition>,
        index: PartitionIndex,
        path: &str,
    ) -> Result<(), MoveError> {
        if topic.len() + index.to_string().len() + 1 + FUTURE_BYTES > NAME_MAX_BYTES {
            return Err(MoveError::NameTooLong);
        }
        let mut directories = self.directories().iter();
        let named = |one: &&Arc<LogDirectory>| {
            one.location().trim_end_matches('/') == path.trim_end_matches('/')
        };
        let to = directories
            .find(named)
            .ok_or_else(|| MoveError::NoDirectory { path: path.to_owned() })?;
        if to.failure().is_some() {
            return Err(MoveError::Offline { location: to.location() });
        }
        if let Some(id) = id
            && self.is_offline(id)
        {
            return Err(self.offline_directory());
        }
        let Some(partition) = id.and_then(|id| self.lookup(id)) else {
            self.moves.choose(topic, index, &to.location());
            return Err(MoveError::NoReplica);
        };
        if partition.is_offline() {
            return Err(self.offline_directory());
        }
        let is_there = to.log(topic, index).is_some_and(|log| Arc::ptr_eq(&log, &partition.log()));
        let former = self.moves.under_way.read().get(&partition.id()).cloned();
        if let Some(former) = former {
            if Arc::ptr_eq(&former.to, to) && !is_there {
                return Ok(());
            }
            self.give_up_move(&former, "another directory was asked for").await?;
        }
        if is_there {
            return Ok(());
        }
        if self.directories().iter().any(|one| one.failure().is_some()) {
            // Which may have a copy of it too.
            return Err(self.offline_directory());
        }
        let (of, to_begin) = (partition.log(), Arc::clone(to));
        let (config, now_ms) = (of.config(), self.config.clock.wall_ms());
        let begin = move || to_begin.begin_future(&of, config, now_ms);
        let future = self.config.blocking.run(begin).await??;
        info!(topic, partition = %index, to = to.location(), "a replica moves");
        self.take_up_move(partition, future, Arc::clone(to));
        Ok(())
    }

    fn offline_directory(&self) -> MoveError {
        let offline = self.directories().iter().find(|one| one.failure().is_some());
        let location = offline.map(|one| one.location()).unwrap_or_default();
        MoveError::Offline { location }
    }

    fn take_up_move(&self, partition: Arc<Partition>, future: Arc<Log>, to: Arc<LogDirectory>) {
        let id = partition.id();
        // From now on, as far as nobody compacts it, it is not compacted.
        let turn = partition.log().begin_copy();
        let one = Move { partition, future, to, busy: tokio::sync::Mutex::new(turn) };
        self.moves.under_way.write().insert(id, Arc::new(one));
    }

    async fn give_up_move(&self, one: &Arc<Move>, why: &str) -> Result<(), BlockingStopped> {
        let _busy = one.busy.lock().await;
        if !self.moves.forget(one) {
            return Ok(());
        }
        let (to, future) = (Arc::clone(&one.to), Arc::clone(&one.future));
        info!(log = one.partition.log().name(), to = to.location(), why, "a move is given up");
        if let Err(error) = self.config.blocking.run(move || to.drop_future(&future)).await? {
            warn!(%error, "the copy of a replica that does not move was not removed");
        }
        Ok(())
    }

    /// Gives up the moves of replicas that are not this node's any more.
    pub(super) async fn give_up_moves(
        &self,
        is_gone: impl Fn(&TopicPartition) -> bool,
    ) -> Result<(), BlockingStopped> {
        for one in self.moves() {
            if is_gone(&one.partition.id()) {
                self.give_up_move(&one, "the replica is not this node's any more").await?;
            }
        }
        Ok(())
    }

    /// Takes the next step of a move.
    ///
    /// # Errors
    /// Where the node stops.
    pub async fn step(&self, one: &Arc<Move>) -> Result<Stepped, BlockingStopped> {
        let mut turn = one.busy.lock().await;
        if !self.moves.is_under_way(one) {
            return Ok(Stepped::Ended);
        }
        let source = one.partition.log();
        if turn.is_none() {
            *turn = source.begin_copy();
        }
        if turn.is_none() {
            return Ok(Stepped::Waits);
        }
        let (future, now_ms) = (Arc::clone(&one.future), self.config.clock.wall_ms());
        let copy = move || {
            let copied = log::copy(&source, &future, STEP_BYTES, now_ms)?;
            if copied.left_bytes < u64::from(STEP_BYTES) {
                // So that little is left to do while appends wait.
                future.flush()?;
            }
            Ok::<_, CopyError>(copied)
        };
        match self.config.blocking.run(copy).await? {
            Ok(copied) if copied.left_bytes > 0 => {
                self.shared.metrics.moved_bytes.increment(copied.bytes);
                Ok(Stepped::Copied(copied.bytes))
            }
            Ok(copied) => {
                self.shared.metrics.moved_bytes.increment(copied.bytes);
                let ended = self.finish_move(one).await?;
                Ok(if ended { Stepped::Ended } else { Stepped::Waits })
            }
            Err(error) => {
                self.move_failed(one, &error.into()).await?;
                Ok(Stepped::Ended)
            }
        }
    }

    /// Puts the copy in the place of the log; returns whether the move is over.
    async fn finish_move(&self, one: &Arc<Move>) -> Result<bool, BlockingStopped> {
        let (topic, index) = (Arc::clone(one.partition.topic()), one.partition.id().partition);
        let mut directories = self.directories().iter();
        // Until the controller knows of the last move, it must be clear which log is the one.
        if self.directories().iter().any(|one| one.has_moved(&topic, index)) {
            return Ok(false);
        }
        let log = one.partition.log();
        let is_holder = |one: &&Arc<LogDirectory>| {
            one.log(&topic, index).is_some_and(|held| Arc::ptr_eq(&held, &log))
        };
        let Some(from) = directories.find(is_holder).cloned() else {
            self.moves.forget(one);
            return Ok(true);
        };
        let (to, future) = (Arc::clone(&one.to), Arc::clone(&one.future));
        let now_ms = self.config.clock.wall_ms();
        let swap = move |partition: &Partition| {
            let source = partition.log();
            let publish = |log: &Arc<Log>| partition.replace_log(log);
            log::swap((&source, &from), (&future, &to), now_ms, publish).map(drop)
        };
        match one.partition.exchange(swap).await? {
            Ok(()) => {
                self.moves.forget(one);
                self.shared.metrics.moved_replicas.increment(1);
                info!(%topic, partition = %index, to = one.to.location(), "a replica has moved");
                if let Some(meta) = one.to.meta() {
                    let id = one.partition.id();
                    self.misplaced.send_modify(|misplaced| {
                        misplaced.insert(id, meta.directory_id);
                    });
                }
                Ok(true)
            }
            Err(SwapError::Occupied { .. }) => Ok(false),
            Err(error) => {
                self.move_failed(one, &error).await?;
                Ok(true)
            }
        }
    }

    async fn move_failed(&self, one: &Arc<Move>, error: &SwapError) -> Result<(), BlockingStopped> {
        let is_closed = matches!(error, SwapError::Copy(CopyError::Log(log::LogError::Closed(_))));
        if !is_closed || !one.partition.log().is_offline() {
            let (topic, partition) = (one.partition.topic(), one.partition.id().partition);
            error!(%topic, %partition, to = one.to.location(), %error, "a replica does not move");
        }
        if !self.moves.forget(one) || one.to.failure().is_some() {
            return Ok(());
        }
        let (to, future) = (Arc::clone(&one.to), Arc::clone(&one.future));
        if let Err(error) = self.config.blocking.run(move || to.drop_future(&future)).await? {
            warn!(%error, "the copy of a replica that does not move was not removed");
        }
        Ok(())
    }

    /// Opens the copies that are there, and goes on with them.
    pub(super) async fn resume_moves(
        &self,
        image: &MetadataImage,
        config: impl Fn(&str) -> Arc<LogConfig>,
    ) -> Result<(), OpenError> {
        let node = self.config.node.node_id;
        let any_offline = self.directories().iter().any(|one| one.failure().is_some());
        for to in self.working_directories() {
            let names: Vec<String> = to.found_futures().map(str::to_owned).collect();
            for name in names {
                let Some((topic, index)) = split(&name) else { continue };
                let id = image.topic_by_name(topic).and_then(|known| {
                    let registered = known.partition(index)?;
                    let id = TopicPartition { topic: known.id, partition: index };
                    registered.replicas.contains(&node).then_some(id)
                });
                let partition = id.and_then(|id| self.lookup(id));
                if partition.is_none() && id.is_some() && any_offline {
                    // What it is a copy of may be there.
                    continue;
                }
                let is_there = to.log(topic, index).is_some();
                let (config, now_ms) = (config(topic), self.config.clock.wall_ms());
                let open = Arc::clone(to);
                let wanted = partition.filter(|_| !is_there);
                let source = wanted.as_ref().map(|partition| partition.log());
                let load = move || load(&open, &name, config, now_ms, source.as_deref());
                match (self.config.blocking.run(load).await?, wanted) {
                    (Ok(Some(future)), Some(partition)) => {
                        self.take_up_move(partition, future, Arc::clone(to));
                    }
                    (Ok(_), _) => {}
                    (Err(error), _) => warn!(%error, "a copy could not be opened"),
                }
            }
        }
        Ok(())
    }

    /// Lets go of what lies in directories that these replicas have left, once the image knows where
    /// they are.
    pub(super) async fn delete_moved(
        &self,
        image: &MetadataImage,
        ids: &[TopicPartition],
    ) -> Result<(), BlockingStopped> {
        let left: Vec<_> =
            self.working_directories().filter(|one| !one.moved().is_empty()).collect();
        if left.is_empty() {
            return Ok(());
        }
        let node = self.config.node.node_id;
        let mut gone = Vec::new();
        for id in ids {
            let said = image.partition(*id).and_then(|partition| partition.directory(node));
            let Some(partition) = self.lookup(*id) else { continue };
            if said.is_none() || self.holder(&partition) != said {
                continue;
            }
            let topic = partition.topic();
            let elsewhere = left.iter().filter(|one| one.has_moved(topic, id.partition));
            gone.extend(
                elsewhere.map(|one| (Arc::clone(one), format!("{topic}-{}", id.partition))),
            );
        }
        self.remove_moved(gone).await
    }

    /// Lets go of what lies in directories that replicas have left which are not this node's any
    /// more.
    pub(super) async fn delete_stray_moved(
        &self,
        image: &MetadataImage,
    ) -> Result<(), BlockingStopped> {
        let node = self.config.node.node_id;
        let mut gone = Vec::new();
        for directory in self.working_directories() {
            for name in directory.moved() {
                let is_own = split(&name).is_some_and(|(topic, index)| {
                    let topic = image.topic_by_name(topic);
                    let partition = topic.and_then(|topic| topic.partition(index));
                    partition.is_some_and(|partition| partition.replicas.contains(&node))
                });
                if !is_own {
                    gone.push((Arc::clone(directory), name));
                }
            }
        }
        self.remove_moved(gone).await
    }

    async fn remove_moved(
        &self,
        gone: Vec<(Arc<LogDirectory>, String)>,
    ) -> Result<(), BlockingStopped> {
        if gone.is_empty() {
            return Ok(());
        }
        let remove = move || {
            for (directory, name) in gone {
                if let Err(error) = directory.delete_moved(&name) {
                    warn!(log = name, %error, "what a move has left was not removed");
                }
            }
        };
        self.config.blocking.run(remove).await
    }
}

fn split(name: &str) -> Option<(&str, PartitionIndex)> {
    let (topic, partition) = name.rsplit_once('-')?;
    Some((topic, PartitionIndex(partition.parse().ok()?)))
}

/// Opens a future, or removes it where nobody wants it, or wants another topic's.
fn load(
    directory: &LogDirectory,
    name: &str,
    config: Arc<LogConfig>,
    now_ms: i64,
    wanted: Option<&Log>,
) -> Result<Option<Arc<Log>>, log::LogError> {
    let future = directory.load_future(name, wanted, config, now_ms)?;
    let Some(future) = future else { return Ok(None) };
    if wanted.is_some_and(|source| source.topic_id() == future.topic_id()) {
        return Ok(Some(future));
    }
    info!(log = name, directory = directory.location(), "delete a copy that nobody needs");
    directory.drop_future(&future)?;
    Ok(None)
}
