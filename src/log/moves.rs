//! Moving a log to another directory of its node (KIP-113).
//!
//! The log is copied while it goes on, into a *future* log in a directory named
//! `topic-partition.<id>-future`, batch by batch as it lies on disk. What is cut off the log is cut
//! off the copy, by leader epochs as between leader and follower; it is not compacted meanwhile, so
//! that the copy never misses a tombstone whose record it has. Once the copy has everything it takes
//! the log's place ([`swap`]), with the log's start, leader epochs and producers.
//!
//! Invariants: at any moment, whatever crashes, exactly one directory has the log to be used: the
//! old one until the copy has the log's name, the new one from then on, as the old one has noted
//! before that its own is not to be used. What came after that name was given is only in the new one.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use super::{
    checkpoint::{MOVED, Offsets, encode_offsets},
    compaction::Turn,
    config::LogConfig,
    directory::{DELETED, LogDirectory, read_offsets},
    disk::Disk,
    error::{AppendError, Damage, LogError, Operation},
    header,
    partition::{Append, Log},
    producers::Origin,
    recovery::Checkpointed,
    segment::path,
};
use crate::base::{LeaderEpoch, Offset, PartitionIndex, TopicId};

const FUTURE: &str = "-future";
pub(super) const STRAY: &str = "-stray";

/// Why a copy does not go on.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// One of the two logs, or its disk, failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The copy does not take what the log has.
    #[error("the copy does not take what the log has")]
    Append(#[from] AppendError),
}

/// Why a copy does not take the log's place.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// What is left there of an earlier move is not removed yet.
    #[error("what an earlier move has left in {location} is still there")]
    Occupied {
        /// The directory.
        location: String,
    },
    /// The log cannot be read to its end.
    #[error("the copy ends at {copied}, and the log at {end}")]
    Incomplete {
        /// Where the copy ends.
        copied: Offset,
        /// Where the log ends.
        end: Offset,
    },
    /// It failed.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl From<LogError> for SwapError {
    fn from(error: LogError) -> Self {
        Self::Copy(error.into())
    }
}

/// What one step of a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Bytes that were copied.
    pub bytes: u64,
    /// About how many are left; 0 where the copy has everything.
    pub left_bytes: u64,
}

/// The right to copy a log, which is not compacted as long as this lives.
#[derive(Debug)]
pub struct CopyTurn(#[expect(dead_code, reason = "held for its drop")] Turn);

/// The name of the log that a directory holds the future of.
pub(super) fn key_of(name: &str) -> Option<&str> {
    Some(name.strip_suffix(FUTURE)?.rsplit_once('.')?.0)
}

/// The logs that have moved away, as far as anything is left of them.
pub(super) fn read_moved(disk: &Disk, names: &[String]) -> Result<Offsets, LogError> {
    let mut moved = read_offsets(disk, MOVED)?;
    let noted = moved.len();
    moved.retain(|name, _| names.contains(name));
    if moved.len() != noted {
        // A later log of that name must not be taken for what has moved.
        write_moved(disk, &moved)?;
    }
    Ok(moved)
}

fn write_moved(disk: &Disk, moved: &Offsets) -> Result<(), LogError> {
    let moved = moved.iter().map(|(name, offset)| (name.as_str(), *offset));
    disk.replace(MOVED, encode_offsets(moved).as_bytes())
}

impl Log {
    /// Keeps the log from being compacted while it is copied; none while a compaction runs.
    #[must_use]
    pub fn begin_copy(self: &Arc<Self>) -> Option<CopyTurn> {
        self.take_turn().map(CopyTurn)
    }

    fn generation(&self) -> u64 {
        self.state.read().generation
    }

    fn first_base(&self) -> Offset {
        self.state.read().segments[0].base
    }

    /// Takes over what a copy of the records does not bring along.
    fn adopt(&self, from: &Self) {
        let _writer = self.writer.lock();
        let mut state = self.state.write();
        let source = from.state.read();
        state.log_start_offset = source.log_start_offset;
        state.producers = source.producers.clone();
        state.epochs = source.epochs.clone();
        self.epochs_dirty.store(true, Ordering::Release);
    }
}

impl LogDirectory {
    /// Futures that are open.
    #[must_use]
    pub fn futures(&self) -> Vec<Arc<Log>> {
        self.futures.read().values().cloned().collect()
    }

    /// The logs whose futures lay here when the directory was opened.
    pub fn found_futures(&self) -> impl Iterator<Item = &str> {
        self.found.futures.keys().map(String::as_str)
    }

    /// Opens a future that was found, and cuts it to what the log still holds: a crash may have taken
    /// a tail that had been copied already. This is done before anything else is appended to the log,
    /// as afterwards other records may lie at the same offsets, in the same epoch.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn load_future(
        &self,
        of: &str,
        source: Option<&Log>,
        config: Arc<LogConfig>,
        now_ms: i64,
    ) -> Result<Option<Arc<Log>>, LogError> {
        let Some(name) = self.found.futures.get(of) else { return Ok(None) };
        let (future, _) = Log::open(&self.disk, name, config, self.checkpointed(of), now_ms)
            .map_err(|error| self.disk.fail(error))?;
        if let Some(source) = source {
            agree(source, &future)?;
        }
        let future = Arc::new(future);
        self.futures.write().insert(Arc::clone(&future.key), Arc::clone(&future));
        Ok(Some(future))
    }

    /// Begins the copy of a log of another directory, or returns the one that is there.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn begin_future(
        &self,
        of: &Log,
        config: Arc<LogConfig>,
        now_ms: i64,
    ) -> Result<Arc<Log>, LogError> {
        if let Some(future) = self.futures.read().get(&of.key) {
            return Ok(Arc::clone(future));
        }
        let key = &of.key;
        self.forget(key)?;
        let name = format!("{key}.{}{FUTURE}", of.topic_id().0.simple());
        self.disk.run(Operation::Create, &name, |dir| dir.create_dir(&name))?;
        self.write_metadata(&name, of.topic_id())?;
        let checkpointed = Checkpointed {
            clean: false,
            recovery_point: Offset::ZERO,
            log_start_offset: Offset::ZERO,
        };
        let (future, _) = Log::open(&self.disk, &name, config, checkpointed, now_ms)?;
        let future = Arc::new(future);
        self.futures.write().insert(Arc::clone(&future.key), Arc::clone(&future));
        Ok(future)
    }

    /// Gives up a copy; [`Self::sweep`] removes its files.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn drop_future(&self, future: &Log) -> Result<(), LogError> {
        if self.futures.write().remove(&future.key).is_none() {
            return Ok(());
        }
        self.put_away(future, DELETED)
    }

    /// The logs that have moved away, and are still there.
    #[must_use]
    pub fn moved(&self) -> Vec<String> {
        self.moved.lock().keys().cloned().collect()
    }

    /// Whether this log has moved away, and is still there.
    #[must_use]
    pub fn has_moved(&self, topic: &str, partition: PartitionIndex) -> bool {
        self.moved.lock().contains_key(&format!("{topic}-{partition}"))
    }

    /// Notes that a log is used here after all, as its copy never took its place. Before the logs
    /// are loaded.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn keep_moved(&self, name: &str) -> Result<(), LogError> {
        let mut moved = self.moved.lock();
        if moved.remove(name).is_some() { write_moved(&self.disk, &moved) } else { Ok(()) }
    }

    fn note_moved(&self, name: &str, end: Offset) -> Result<(), LogError> {
        let mut moved = self.moved.lock();
        moved.insert(name.to_owned(), end);
        write_moved(&self.disk, &moved)
    }

    /// Lets go of what is left of a log that has moved away; [`Self::sweep`] removes its files.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn delete_moved(&self, name: &str) -> Result<(), LogError> {
        if !self.moved.lock().contains_key(name) {
            return Ok(());
        }
        self.rename_away(name, TopicId::NONE, DELETED)?;
        self.keep_moved(name)
    }

    /// Sets a log aside that is another directory's by now. Nothing removes it but an operator.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn set_aside(&self, log: &Log) -> Result<(), LogError> {
        self.logs.write().remove(&log.name);
        self.put_away(log, STRAY)
    }
}

/// Settles, before any log is loaded, which copies took the place of their log when the node ended:
/// one that has not got its name has not.
///
/// # Errors
/// Where a disk fails.
pub fn settle(directories: &[Arc<LogDirectory>]) -> Result<(), LogError> {
    let working = || directories.iter().filter(|one| one.failure().is_none());
    for directory in working() {
        for name in directory.moved() {
            let others = || working().filter(|other| !Arc::ptr_eq(other, directory));
            let arrived = others().any(|other| other.found().contains(&name));
            let copied = others().any(|other| other.found.futures.contains_key(&name));
            if copied && !arrived {
                directory.keep_moved(&name)?;
            }
        }
    }
    Ok(())
}

/// Copies the next batches of a log, of about `max_bytes`. Blocks.
///
/// # Errors
/// See [`CopyError`].
pub fn copy(source: &Log, future: &Log, max_bytes: u32, now_ms: i64) -> Result<Copied, CopyError> {
    let generation = source.generation();
    agree(source, future)?;
    let start = source.log_start_offset();
    if future.first_base() > start {
        // A crash has brought back what had been deleted.
        future.truncate_fully_and_start_at(start)?;
    }
    let from = future.log_end_offset().max(start);
    let slice = match source.read(from, source.log_end_offset(), max_bytes, true) {
        Ok(Some(slice)) => slice,
        Ok(None) => return Ok(Copied { bytes: 0, left_bytes: 0 }),
        // Records were deleted or cut meanwhile.
        Err(LogError::OffsetOutOfRange { .. }) => return again(source, from),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = vec![0; slice.len_bytes as usize];
    let read = slice.read_at(0, &mut bytes);
    if source.generation() != generation {
        return again(source, from);
    }
    // The log says what it is.
    read.map_err(|_| source.disk.check().err().unwrap_or_else(|| closed(source)))?;
    let left_bytes = source.bytes_behind(&slice);
    let batches = split(bytes.into())?;
    let first = batches.first().map_or(from, |(base, _)| *base);
    if future.log_end_offset() < from || future.log_end_offset() == start {
        future.truncate_fully_and_start_at(first.min(start))?;
    }
    let bytes = batches.iter().map(|(_, batch)| batch.len() as u64).sum();
    let origin = Origin::Replication;
    let leader_epoch = LeaderEpoch::NONE;
    let how = Append { origin, leader_epoch, log_append_time_ms: None, now_ms };
    for (_, batch) in batches {
        future.append_stamped(&[batch], how)?;
    }
    follow_start(source, future)?;
    Ok(Copied { bytes, left_bytes })
}

fn again(source: &Log, from: Offset) -> Result<Copied, CopyError> {
    source.check_open()?;
    Ok(Copied { bytes: 0, left_bytes: source.bytes_from(from).max(1) })
}

fn closed(log: &Log) -> LogError {
    LogError::Closed(Arc::clone(&log.name))
}

fn split(mut bytes: Bytes) -> Result<Vec<(Offset, Bytes)>, AppendError> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        let header = header::parse(&bytes).map_err(AppendError::Damaged)?;
        if header.size_bytes() > bytes.len() {
            return Err(AppendError::Damaged(Damage::Torn));
        }
        batches.push((header.base_offset, bytes.split_to(header.size_bytes())));
    }
    Ok(batches)
}

/// Cuts off the copy what the log does not have any more (KIP-101).
fn agree(source: &Log, future: &Log) -> Result<(), LogError> {
    loop {
        let (latest, held) = {
            let state = future.state.read();
            (state.epochs.latest(), state.log_end_offset)
        };
        let Some(latest) = latest else {
            let end = source.log_end_offset();
            return if held > end { future.truncate_to(end) } else { Ok(()) };
        };
        let to = match source.offset_for_leader_epoch(latest.epoch) {
            Some((epoch, end)) if epoch == latest.epoch && end >= held => return Ok(()),
            Some((epoch, end)) if epoch == latest.epoch => end,
            Some((_, end)) => end.min(latest.start_offset),
            None => latest.start_offset,
        };
        future.truncate_to(to)?;
    }
}

/// Deletes from the copy what was deleted from the log.
fn follow_start(source: &Log, future: &Log) -> Result<(), LogError> {
    let start = source.log_start_offset().min(future.log_end_offset());
    if start > future.log_start_offset() {
        future.delete_records(start, start)?;
    }
    Ok(())
}

/// Puts the copy in the place of the log. Nobody appends to the log or cuts it meanwhile; it is
/// read on. `publish` hears of the new log while the old one still stands still. Blocks.
///
/// # Errors
/// See [`SwapError`]. The log is still the one to be used then, unless its own directory failed.
pub fn swap(
    (source, from): (&Log, &LogDirectory),
    (future, to): (&Log, &LogDirectory),
    now_ms: i64,
    publish: impl FnOnce(&Arc<Log>),
) -> Result<Arc<Log>, SwapError> {
    let _halted = source.halt();
    source.check_open()?;
    if to.moved.lock().contains_key(&*source.key) {
        return Err(SwapError::Occupied { location: to.location() });
    }
    while copy(source, future, 1 << 20, now_ms)?.left_bytes > 0 {}
    let (end, copied) = (source.log_end_offset(), future.log_end_offset());
    if source.log_start_offset() == end && copied != end {
        future.truncate_fully_and_start_at(end)?;
    } else if copied != end {
        return Err(SwapError::Incomplete { copied, end });
    }
    future.adopt(source);
    future.dir_dirty.store(true, Ordering::Release);
    future.flush()?;
    // With the start and the recovery point of the copy, under the name that it is about to get.
    to.checkpoint()?;
    future.finish()?;
    if let Some(clean_to) = from.cleaner_point(&source.key) {
        to.disk.raise_cleaner_point(&source.key, clean_to)?;
    }
    from.note_moved(&source.key, end)?;
    let log = match take_name(source, future, to, now_ms) {
        Ok(log) => log,
        Err(error) => {
            // Whether it has the name does not matter: nothing was added to it.
            from.keep_moved(&source.key)?;
            return Err(error.into());
        }
    };
    to.futures.write().remove(&source.key);
    to.logs.write().insert(Arc::clone(&log.name), Arc::clone(&log));
    from.logs.write().remove(&source.name);
    publish(&log);
    source.discard();
    Ok(log)
}

/// The copy under the log's name. It was finished; its last files are not synced.
fn take_name(
    source: &Log,
    future: &Log,
    to: &LogDirectory,
    now_ms: i64,
) -> Result<Arc<Log>, LogError> {
    to.disk.run(Operation::Rename, &future.name, |dir| {
        dir.rename(&future.name, &source.key)?;
        dir.sync_dir("")
    })?;
    let checkpointed = Checkpointed {
        clean: true,
        recovery_point: source.log_end_offset(),
        log_start_offset: source.log_start_offset(),
    };
    let (log, _) = Log::open(&to.disk, &source.key, future.config(), checkpointed, now_ms)?;
    {
        let mut state = log.state.write();
        state.log_start_offset = source.log_start_offset();
        let of = source.state.read();
        state.producers = of.producers.clone();
        // One without a record, which the copy's files do not keep, among them.
        state.epochs = of.epochs.clone();
        // So that the next orderly stop writes and syncs what is needed.
        state.opened_clean_at = None;
    }
    log.epochs_dirty.store(true, Ordering::Release);
    log.dir_dirty.store(true, Ordering::Release);
    let snapshot = path(&log.name, source.log_end_offset(), ".snapshot");
    to.disk.run_optional(Operation::Sync, &snapshot, |dir| {
        dir.open(&snapshot, super::dir::Open::Existing)?.sync_data()
    })?;
    Ok(Arc::new(log))
}
