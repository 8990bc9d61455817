//! A log directory: the logs in it, its identity, its checkpoints and its lock.
//!
//! Opening reads only the directory's own files; the logs are then loaded one by one, so that a
//! caller can load many at once. Invariant: the marker of a clean shutdown is removed, durably,
//! before the first log is opened for writing, and written again only after all are closed.

use std::{collections::BTreeMap, io, sync::Arc};

use parking_lot::{Mutex, RwLock};

use super::{
    checkpoint::{
        CLEAN_SHUTDOWN, CLEANER, HIGH_WATERMARKS, LOG_STARTS, META_PROPERTIES, MetaProperties,
        Offsets, PARTITION_METADATA, RECOVERY_POINTS, decode_offsets, encode_partition_metadata,
    },
    config::LogConfig,
    dir::{Dir, Lock, Space},
    disk::Disk,
    error::{LogError, Operation},
    moves,
    partition::Log,
    recovery::{Checkpointed, Recovery},
};
use crate::base::{Offset, PartitionIndex, TopicId};

/// Handles kept open of one directory.
const MAX_HANDLES: usize = 4096;
pub(super) const DELETED: &str = "-delete";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("log directory {location} is in use by another process")]
    Locked {
        /// The directory.
        location: String,
    },
    /// The disk or a file failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why a log was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A log of another topic has the name.
    #[error("a log of topic id {found} is in the place of {name}")]
    Inconsistent {
        /// The log.
        name: String,
        /// The topic id of the one that is there.
        found: TopicId,
    },
    /// The disk failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A directory of logs.
#[derive(Debug)]
pub struct LogDirectory {
    pub(super) disk: Arc<Disk>,
    _lock: Option<Box<dyn Lock>>,
    meta: RwLock<Option<MetaProperties>>,
    pub(super) logs: RwLock<BTreeMap<Arc<str>, Arc<Log>>>,
    /// Copies that are to take the place of a log in another directory, by that log's name.
    pub(super) futures: RwLock<BTreeMap<Arc<str>, Arc<Log>>>,
    /// Logs that have moved to another directory: what is left of them here is not used.
    pub(super) moved: Mutex<Offsets>,
    pub(super) found: Found,
    deletions: Mutex<u64>,
}

/// What lay in the directory when it was opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) clean: bool,
    names: Vec<String>,
    /// Directories of futures, by the name of the log.
    pub(super) futures: BTreeMap<String, String>,
    pub(super) recovery_points: Offsets,
    pub(super) log_starts: Offsets,
    high_watermarks: Offsets,
}

/// The name of a partition's log.
fn log_name(topic: &str, partition: PartitionIndex) -> String {
    format!("{topic}-{partition}")
}

impl LogDirectory {
    /// Claims a directory and reads what it says of itself. No log is loaded yet.
    ///
    /// # Errors
    /// Where another process has it, or its files cannot be read.
    pub fn open(dir: Arc<dyn Dir>) -> Result<Self, OpenError> {
        let disk = Arc::new(Disk::new(dir, MAX_HANDLES));
        let lock = disk.run(Operation::Lock, "", |dir| match dir.lock() {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        })?;
        let lock = lock.ok_or_else(|| OpenError::Locked { location: disk.location() })?;
        let meta = match disk.read_optional(META_PROPERTIES)? {
            Some(bytes) => Some(
                MetaProperties::decode(&bytes)
                    .map_err(|damage| disk.corrupt(META_PROPERTIES, 0, damage))?,
            ),
            None => None,
        };
        let mut found = Found {
            clean: disk.read_optional(CLEAN_SHUTDOWN)?.is_some(),
            names: Vec::new(),
            futures: BTreeMap::new(),
            recovery_points: read_offsets(&disk, RECOVERY_POINTS)?,
            log_starts: read_offsets(&disk, LOG_STARTS)?,
            high_watermarks: read_offsets(&disk, HIGH_WATERMARKS)?,
        };
        *disk.cleaner_points.offsets.lock() = read_offsets(&disk, CLEANER)?;
        // Names of former runs are not given twice.
        let mut last_number = 0;
        for entry in disk.run(Operation::List, "", |dir| dir.list(""))? {
            last_number = last_number.max(number_of(&entry.name).unwrap_or(0));
            if entry.is_dir && is_log_name(&entry.name) {
                found.names.push(entry.name);
            } else if let Some(key) = moves::key_of(&entry.name).filter(|_| entry.is_dir) {
                found.futures.insert(key.to_owned(), entry.name);
            }
        }
        let moved = moves::read_moved(&disk, &found.names)?;
        disk.recovery_points.offsets.lock().clone_from(&found.recovery_points);
        disk.log_starts.offsets.lock().clone_from(&found.log_starts);
        disk.high_watermarks.offsets.lock().clone_from(&found.high_watermarks);
        if found.clean {
            disk.run(Operation::Remove, CLEAN_SHUTDOWN, |dir| {
                dir.remove_file(CLEAN_SHUTDOWN)?;
                dir.sync_dir("")
            })?;
        }
        Ok(Self {
            disk,
            _lock: Some(lock),
            meta: RwLock::new(meta),
            logs: RwLock::default(),
            futures: RwLock::default(),
            moved: Mutex::new(moved),
            found,
            deletions: Mutex::new(last_number),
        })
    }

    /// A directory that could not be opened, kept as one that is offline.
    #[must_use]
    pub fn failed(dir: Arc<dyn Dir>, error: LogError) -> Self {
        Self {
            disk: Arc::new(Disk::offline(dir, error)),
            _lock: None,
            meta: RwLock::default(),
            logs: RwLock::default(),
            futures: RwLock::default(),
            moved: Mutex::default(),
            found: Found::default(),
            deletions: Mutex::default(),
        }
    }

    /// Calls `then` once, when the directory goes offline, or at once where it is.
    pub fn on_offline(&self, then: impl Fn(&LogError) + Send + Sync + 'static) {
        self.disk.on_offline(Box::new(then));
    }

    /// Why the directory is offline, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<LogError>> {
        self.disk.failure().cloned()
    }

    /// The absolute path.
    #[must_use]
    pub fn location(&self) -> String {
        self.disk.location()
    }

    /// Room on the volume.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn space(&self) -> Result<Space, LogError> {
        self.disk.run(Operation::Read, "", Dir::space)
    }

    /// Files that are open now.
    #[must_use]
    pub fn open_handles(&self) -> usize {
        self.disk.open_handles()
    }

    /// Whether the directory was closed in order.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.found.clean
    }

    /// Whose directory it is; none where it was never used.
    #[must_use]
    pub fn meta(&self) -> Option<MetaProperties> {
        *self.meta.read()
    }

    /// Notes whose directory it is.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn set_meta(&self, meta: MetaProperties) -> Result<(), LogError> {
        let mut held = self.meta.write();
        self.disk.replace(META_PROPERTIES, meta.encode().as_bytes())?;
        *held = Some(meta);
        Ok(())
    }

    /// The logs that were found, each to be loaded with [`Self::load`].
    #[must_use]
    pub fn found(&self) -> Vec<String> {
        let moved = self.moved.lock();
        self.found.names.iter().filter(|name| !moved.contains_key(*name)).cloned().collect()
    }

    /// The high watermark that was last checkpointed for a log.
    #[must_use]
    pub fn high_watermark(&self, name: &str) -> Option<Offset> {
        self.found.high_watermarks.get(name).copied()
    }

    /// Opens a log that was found. May run for several logs at once.
    ///
    /// # Errors
    /// Where the disk fails or what was flushed is damaged; the directory is offline then.
    pub fn load(
        &self,
        name: &str,
        config: Arc<LogConfig>,
        now_ms: i64,
    ) -> Result<(Arc<Log>, Recovery), LogError> {
        let checkpointed = self.checkpointed(name);
        let (log, recovery) = Log::open(&self.disk, name, config, checkpointed, now_ms)
            .map_err(|error| self.disk.fail(error))?;
        let log = Arc::new(log);
        self.logs.write().insert(Arc::clone(&log.name), Arc::clone(&log));
        Ok((log, recovery))
    }

    /// What was known of a log when the directory was opened.
    pub(super) fn checkpointed(&self, name: &str) -> Checkpointed {
        let offset = |offsets: &Offsets| offsets.get(name).copied().unwrap_or_default();
        Checkpointed {
            clean: self.found.clean,
            recovery_point: offset(&self.found.recovery_points),
            log_start_offset: offset(&self.found.log_starts),
        }
    }

    /// A log that is open.
    #[must_use]
    pub fn log(&self, topic: &str, partition: PartitionIndex) -> Option<Arc<Log>> {
        self.logs.read().get(&*log_name(topic, partition)).cloned()
    }

    /// All logs that are open, by name.
    #[must_use]
    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.logs.read().values().cloned().collect()
    }

    /// Begins a log, or returns the one that is there. It survives a power cut once it was flushed.
    ///
    /// # Errors
    /// Where a log of another topic has the name, or the disk fails.
    pub fn create(
        &self,
        topic: &str,
        partition: PartitionIndex,
        topic_id: TopicId,
        config: Arc<LogConfig>,
        now_ms: i64,
    ) -> Result<Arc<Log>, CreateError> {
        let name = log_name(topic, partition);
        if let Some(log) = self.log(topic, partition) {
            if log.topic_id() == TopicId::NONE {
                // The log may hold flushed records already, so this cannot wait for a flush.
                let text = encode_partition_metadata(topic_id);
                self.disk.replace(&format!("{name}/{PARTITION_METADATA}"), text.as_bytes())?;
                *log.topic_id.write() = topic_id;
            }
            if log.topic_id() == topic_id {
                return Ok(log);
            }
            return Err(CreateError::Inconsistent { name, found: log.topic_id() });
        }
        self.forget(&name)?;
        self.disk.run(Operation::Create, &name, |dir| dir.create_dir(&name))?;
        self.write_metadata(&name, topic_id)?;
        let checkpointed = Checkpointed {
            clean: false,
            recovery_point: Offset::ZERO,
            log_start_offset: Offset::ZERO,
        };
        let (log, _) = Log::open(&self.disk, &name, config, checkpointed, now_ms)?;
        let log = Arc::new(log);
        self.logs.write().insert(Arc::clone(&log.name), Arc::clone(&log));
        Ok(log)
    }

    /// A former log of that name must lend nothing to the one that is begun.
    pub(super) fn forget(&self, name: &str) -> Result<(), LogError> {
        let disk = &*self.disk;
        let checkpoints =
            [&disk.recovery_points, &disk.cleaner_points, &disk.log_starts, &disk.high_watermarks];
        checkpoints.iter().try_for_each(|one| disk.lower(one, name, Offset::ZERO))
    }

    pub(super) fn write_metadata(&self, name: &str, topic_id: TopicId) -> Result<(), LogError> {
        let metadata = format!("{name}/{PARTITION_METADATA}");
        self.disk.run(Operation::Write, &metadata, |dir| {
            let file = dir.open(&metadata, super::dir::Open::Truncated)?;
            let text = encode_partition_metadata(topic_id);
            file.write_at(0, &mut [io::IoSlice::new(text.as_bytes())])
        })
    }

    /// Takes a log out of use and renames its directory; [`Self::sweep`] removes the files.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn delete(&self, topic: &str, partition: PartitionIndex) -> Result<(), LogError> {
        let name = log_name(topic, partition);
        let Some(log) = self.logs.write().remove(&*name) else { return Ok(()) };
        self.put_away(&log, DELETED)
    }

    /// Takes a log out of use and gives its directory another name.
    pub(super) fn put_away(&self, log: &Log, suffix: &str) -> Result<(), LogError> {
        // Both go by the names of files, which are about to be free.
        let _halted = log.halt();
        log.discard();
        self.rename_away(&log.name, log.topic_id(), suffix)
    }

    pub(super) fn rename_away(
        &self,
        name: &str,
        topic_id: TopicId,
        suffix: &str,
    ) -> Result<(), LogError> {
        let number = {
            let mut deletions = self.deletions.lock();
            *deletions += 1;
            *deletions
        };
        // The id keeps it apart from a later log of that name, the number from its other deletions.
        let to = format!("{name}.{}{number}{suffix}", topic_id.0.simple());
        self.disk.run(Operation::Rename, name, |dir| {
            dir.rename(name, &to)?;
            dir.sync_dir("")
        })
    }

    /// Removes what was deleted, also before a restart.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn sweep(&self) -> Result<usize, LogError> {
        let mut removed = 0;
        for entry in self.disk.run(Operation::List, "", |dir| dir.list(""))? {
            if entry.is_dir && entry.name.ends_with(DELETED) {
                let name = &entry.name;
                self.disk.run(Operation::Remove, name, |dir| dir.remove_dir(name))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Writes recovery points and log start offsets, so that a restart has less to recover and
    /// deleted records stay deleted.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn checkpoint(&self) -> Result<(), LogError> {
        let of = |offset: fn(&Log) -> Offset| {
            let logs = self.logs().into_iter().chain(self.futures());
            logs.map(|log| (log.key.to_string(), offset(&log))).collect::<Offsets>()
        };
        self.disk.write_checkpoint(&self.disk.recovery_points, || of(Log::recovery_point))?;
        self.disk.write_checkpoint(&self.disk.log_starts, || {
            let mut starts = of(Log::log_start_offset);
            starts.retain(|_, start| *start > Offset::ZERO);
            starts
        })
    }

    /// Writes the high watermarks that the caller keeps, by log name.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn checkpoint_high_watermarks(
        &self,
        now: impl FnOnce() -> BTreeMap<String, Offset>,
    ) -> Result<(), LogError> {
        self.disk.write_checkpoint(&self.disk.high_watermarks, now)
    }

    /// Up to where a log is compacted.
    #[must_use]
    pub fn cleaner_point(&self, name: &str) -> Option<Offset> {
        self.disk.cleaner_points.offsets.lock().get(name).copied()
    }

    /// Closes all logs in order, so that the next start has nothing to recover.
    ///
    /// # Errors
    /// Where the disk fails; the next start recovers then.
    pub fn close(&self) -> Result<(), LogError> {
        let logs: Vec<_> = self.logs().into_iter().chain(self.futures()).collect();
        let mut written = false;
        for log in &logs {
            written |= log.finish()?;
        }
        if written {
            self.disk.run(Operation::Sync, "", Dir::sync_all)?;
            logs.iter().for_each(|log| log.finished());
        }
        self.checkpoint()?;
        self.disk.replace(CLEAN_SHUTDOWN, b"{\"version\":0,\"brokerEpoch\":-1}")
    }
}

pub(super) fn read_offsets(disk: &Disk, path: &str) -> Result<Offsets, LogError> {
    match disk.read_optional(path)? {
        Some(bytes) => decode_offsets(&bytes).map_err(|damage| disk.corrupt(path, 0, damage)),
        None => Ok(Offsets::new()),
    }
}

/// The number of a directory that was taken out of use.
fn number_of(name: &str) -> Option<u64> {
    let of = name.strip_suffix(DELETED).or_else(|| name.strip_suffix(moves::STRAY))?;
    of.rsplit_once('.')?.1.get(32..)?.parse().ok()
}

/// Whether a directory is named as a log that is kept.
pub(crate) fn is_log_name(name: &str) -> bool {
    !name.ends_with(DELETED)
        && name
            .rsplit_once('-')
            .is_some_and(|(topic, partition)| !topic.is_empty() && partition.parse::<u32>().is_ok())
}
