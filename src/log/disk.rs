//! One directory's disk: the [`Dir`], the open handles and whether it still works.
//!
//! Every access of the log goes through here, so that the first failure takes the directory
//! offline with its cause, whoever meets it. Handles are opened when needed and closed when more
//! than the bound are open; who holds one keeps it alive.
//!
//! Invariant: once offline a directory stays so; a failed sync is never retried.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    checkpoint::{CLEANER, HIGH_WATERMARKS, LOG_STARTS, Offsets, RECOVERY_POINTS, encode_offsets},
    dir::{Dir, File, Open, read_all, replace},
    error::{Damage, LogError, Operation, StorageError},
};
use crate::base::{HashMap, Offset};

/// A handle's name in the cache: a segment's number within this process, and which of its files.
type HandleId = (u64, u8);

type OnOffline = Box<dyn Fn(&LogError) + Send + Sync>;

/// A directory's disk. Shared by all its logs.
pub(crate) struct Disk {
    dir: Arc<dyn Dir>,
    handles: Mutex<Handles>,
    max_handles: usize,
    next_id: AtomicU64,
    failure: OnceLock<Arc<LogError>>,
    on_offline: Mutex<Vec<OnOffline>>,
    pub(crate) recovery_points: Checkpoint,
    pub(crate) cleaner_points: Checkpoint,
    pub(crate) log_starts: Checkpoint,
    pub(crate) high_watermarks: Checkpoint,
}

/// A file with an offset for each log.
pub(crate) struct Checkpoint {
    file: &'static str,
    /// What is in it.
    pub(crate) offsets: Mutex<Offsets>,
}

impl Checkpoint {
    const fn new(file: &'static str) -> Self {
        Self { file, offsets: Mutex::new(Offsets::new()) }
    }
}

#[derive(Default)]
struct Handles {
    open: HashMap<HandleId, (Arc<dyn File>, u64)>,
    by_use: BTreeMap<u64, HandleId>,
    uses: u64,
}

impl Handles {
    fn used(&mut self, id: HandleId) -> Option<Arc<dyn File>> {
        let (file, used) = self.open.get_mut(&id)?;
        // The newest needs no move: a burst on one file touches one map only.
        if *used != self.uses {
            self.by_use.remove(used);
            self.uses += 1;
            *used = self.uses;
            self.by_use.insert(self.uses, id);
        }
        Some(Arc::clone(file))
    }

    fn insert(&mut self, id: HandleId, file: Arc<dyn File>, max: usize) -> Vec<Arc<dyn File>> {
        self.remove(id);
        self.uses += 1;
        self.by_use.insert(self.uses, id);
        self.open.insert(id, (file, self.uses));
        let mut closed = Vec::new();
        while self.open.len() > max {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            closed.extend(self.open.remove(&oldest).map(|(file, _)| file));
        }
        closed
    }

    fn remove(&mut self, id: HandleId) {
        if let Some((_, used)) = self.open.remove(&id) {
            self.by_use.remove(&used);
        }
    }
}

impl Disk {
    pub(crate) fn new(dir: Arc<dyn Dir>, max_handles: usize) -> Self {
        Self {
            dir,
            handles: Mutex::default(),
            max_handles,
            next_id: AtomicU64::new(0),
            failure: OnceLock::new(),
            on_offline: Mutex::default(),
            recovery_points: Checkpoint::new(RECOVERY_POINTS),
            cleaner_points: Checkpoint::new(CLEANER),
            log_starts: Checkpoint::new(LOG_STARTS),
            high_watermarks: Checkpoint::new(HIGH_WATERMARKS),
        }
    }

    /// A disk that failed before, and said so.
    pub(crate) fn offline(dir: Arc<dyn Dir>, error: LogError) -> Self {
        let disk = Self::new(dir, 0);
        Self { failure: Arc::new(error).into(), ..disk }
    }

    /// Calls `then` once, when the directory goes offline, or at once where it is.
    pub(crate) fn on_offline(&self, then: OnOffline) {
        let mut waiting = self.on_offline.lock();
        match self.failure() {
            Some(error) => {
                drop(waiting);
                then(error);
            }
            None => waiting.push(then),
        }
    }

    pub(crate) fn location(&self) -> String {
        self.dir.location()
    }

    pub(crate) fn absolute(&self, path: &str) -> String {
        format!("{}/{path}", self.dir.location())
    }

    /// A number for a segment, never used again in this process.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn failure(&self) -> Option<&Arc<LogError>> {
        self.failure.get()
    }

    /// Refuses where the directory has failed.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        self.failure().map_or(Ok(()), |cause| {
            Err(LogError::Offline { location: self.location(), cause: Arc::clone(cause) })
        })
    }

    /// Takes the directory offline.
    pub(crate) fn fail(&self, error: LogError) -> LogError {
        if self.failure.set(Arc::new(error.clone())).is_ok() {
            tracing::error!(
                directory = self.location(), %error, remedy = error.remedy(),
                "a log directory goes offline: nothing in it is read or written from now on"
            );
            // Out of the lock: what is called may look at the directory.
            let waiting = std::mem::take(&mut *self.on_offline.lock());
            waiting.iter().for_each(|then| then(&error));
        }
        error
    }

    pub(crate) fn corrupt(&self, path: &str, position: u64, damage: Damage) -> LogError {
        self.fail(LogError::Corrupt { path: self.absolute(path), position, damage })
    }

    pub(crate) fn failed(&self, operation: Operation, path: &str, error: io::Error) -> LogError {
        let path = self.absolute(path);
        self.fail(StorageError { operation, path, source: Arc::new(error) }.into())
    }

    /// Runs one operation on the directory; a failure takes it offline.
    pub(crate) fn run<T>(
        &self,
        operation: Operation,
        path: &str,
        run: impl FnOnce(&dyn Dir) -> io::Result<T>,
    ) -> Result<T, LogError> {
        self.check()?;
        run(&*self.dir).map_err(|error| self.failed(operation, path, error))
    }

    /// As [`Self::run`], where a missing file is an answer and not a failure.
    pub(crate) fn run_optional<T>(
        &self,
        operation: Operation,
        path: &str,
        run: impl FnOnce(&dyn Dir) -> io::Result<T>,
    ) -> Result<Option<T>, LogError> {
        self.check()?;
        match run(&*self.dir) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(operation, path, error)),
        }
    }

    /// The handle of a file, opened where it is not.
    pub(crate) fn handle(
        &self,
        id: HandleId,
        path: impl Fn() -> String,
        open: Open,
    ) -> Result<Arc<dyn File>, LogError> {
        self.check()?;
        if let Some(file) = self.handles.lock().used(id) {
            return Ok(file);
        }
        let path = path();
        let file = self.run(Operation::Open, &path, |dir| dir.open(&path, open))?;
        // Closed outside of the lock.
        let closed = self.handles.lock().insert(id, Arc::clone(&file), self.max_handles);
        drop(closed);
        Ok(file)
    }

    /// Closes the handles of a segment.
    pub(crate) fn forget(&self, segment: u64) {
        let mut handles = self.handles.lock();
        for kind in 0..4 {
            handles.remove((segment, kind));
        }
    }

    /// Replaces a small file atomically and durably.
    pub(crate) fn replace(&self, path: &str, content: &[u8]) -> Result<(), LogError> {
        self.run(Operation::Write, path, |dir| replace(dir, path, content))
    }

    /// Reads a small file that may be missing.
    pub(crate) fn read_optional(&self, path: &str) -> Result<Option<Vec<u8>>, LogError> {
        self.run_optional(Operation::Read, path, |dir| read_all(dir, path))
    }

    /// Writes the offsets that `now` finds into a checkpoint, where they are others. Nobody lowers
    /// one of them meanwhile.
    pub(crate) fn write_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        now: impl FnOnce() -> Offsets,
    ) -> Result<(), LogError> {
        let mut offsets = checkpoint.offsets.lock();
        let now = now();
        if *offsets != now {
            self.write_offsets(checkpoint.file, &now)?;
            *offsets = now;
        }
        Ok(())
    }

    /// Lowers a log's offset in a checkpoint, before the log is cut below it or begun anew: what
    /// comes in the place of its records must not be taken for what was there, flushed, clean,
    /// deleted or committed.
    pub(crate) fn lower(
        &self,
        checkpoint: &Checkpoint,
        log: &str,
        to: Offset,
    ) -> Result<(), LogError> {
        let mut offsets = checkpoint.offsets.lock();
        if offsets.get(log).is_none_or(|offset| *offset <= to) {
            return Ok(());
        }
        Self::set_offset(&mut offsets, log, to);
        self.write_offsets(checkpoint.file, &offsets)
    }

    /// Notes up to where a log is compacted.
    pub(crate) fn raise_cleaner_point(&self, log: &str, to: Offset) -> Result<(), LogError> {
        let mut offsets = self.cleaner_points.offsets.lock();
        Self::set_offset(&mut offsets, log, to);
        self.write_offsets(CLEANER, &offsets)
    }

    fn set_offset(offsets: &mut Offsets, log: &str, to: Offset) {
        if to == Offset::ZERO {
            offsets.remove(log);
        } else {
            offsets.insert(log.to_owned(), to);
        }
    }

    fn write_offsets(&self, file: &str, offsets: &Offsets) -> Result<(), LogError> {
        let offsets = offsets.iter().map(|(name, offset)| (name.as_str(), *offset));
        self.replace(file, encode_offsets(offsets).as_bytes())
    }

    pub(crate) fn open_handles(&self) -> usize {
        self.handles.lock().open.len()
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("dir", &self.dir).field("failure", &self.failure).finish()
    }
}
