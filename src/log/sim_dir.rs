//! A file system in memory that loses and tears what was not synced, for simulation and tests.
//!
//! The model of a power cut: of each file, blocks of 512 bytes that were written since its last
//! sync survive or not, in any combination, and so does its length; of the changes to directories a
//! prefix survives, in the order they were made, as a journal keeps them. Syncing a directory makes
//! every change up to the last one in that directory durable. A killed process loses nothing.
//!
//! Invariant: what was synced is never lost. Handles from before a crash refuse to work, as their
//! process is gone.

use std::{collections::BTreeMap, io, io::IoSlice, sync::Arc};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::dir::{Dir, Entry, File, Lock, Open, Space, parent};

const BLOCK_BYTES: usize = 512;

/// What a fault applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimOperation {
    /// Any write to a file.
    Write,
    /// Any read of a file.
    Read,
    /// Any sync of a file or directory.
    Sync,
}

/// A failure to come, injected by a test.
#[derive(Debug, Clone)]
pub struct SimFault {
    /// Which operations fail.
    pub operation: SimOperation,
    /// Only those whose path contains this text.
    pub path_contains: String,
    /// How many of those succeed before.
    pub after: u32,
    /// The system's error number, such as `EIO`'s 5.
    pub errno: i32,
}

/// A simulated directory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SimDir(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    name: &'static str,
    generation: u64,
    inodes: Vec<Inode>,
    live: Tree,
    durable: Tree,
    /// Changes of `live` that are not in `durable` yet.
    journal: Vec<Change>,
    locked: bool,
    capacity_bytes: Option<u64>,
    faults: Vec<SimFault>,
}

#[derive(Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Ranges of `live` that were written since the last sync, and lengths that were set.
    unsynced: bool,
}

/// Full path to what is there; the root is implied.
type Tree = BTreeMap<String, Node>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Debug, Clone)]
enum Change {
    Put(String, Node),
    Rename(String, String),
    Remove(String),
}

impl Change {
    fn touches(&self, dir: &str) -> bool {
        match self {
            Self::Put(path, _) | Self::Remove(path) => parent(path) == dir,
            Self::Rename(from, to) => parent(from) == dir || parent(to) == dir,
        }
    }

    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Put(path, node) => {
                tree.insert(path.clone(), *node);
            }
            Self::Remove(path) => {
                let below = format!("{path}/");
                tree.retain(|key, _| key != path && !key.starts_with(&below));
            }
            Self::Rename(from, to) => {
                let below = format!("{from}/");
                let moved: Vec<String> = tree
                    .range(from.clone()..)
                    .map(|(key, _)| key.clone())
                    .filter(|key| key == from || key.starts_with(&below))
                    .collect();
                for key in moved {
                    if let Some(node) = tree.remove(&key) {
                        tree.insert(format!("{to}{}", &key[from.len()..]), node);
                    }
                }
            }
        }
    }
}

impl State {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.journal.push(change);
    }

    fn fault(&mut self, operation: SimOperation, path: &str) -> io::Result<()> {
        for fault in &mut self.faults {
            if fault.operation == operation && path.contains(&fault.path_contains) {
                if fault.after == 0 {
                    return Err(io::Error::from_raw_os_error(fault.errno));
                }
                fault.after -= 1;
            }
        }
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        let files = self.live.values().filter_map(|node| match node {
            Node::File(inode) => Some(self.inodes[*inode].live.len() as u64),
            Node::Dir => None,
        });
        files.sum()
    }
}

impl Inode {
    /// What a power cut leaves of it.
    fn tear(&mut self, rng: &mut SmallRng) {
        if !self.unsynced {
            return;
        }
        match rng.random_range(0..4) {
            0 => {}
            1 => self.durable.clone_from(&self.live),
            kind => {
                let (short, long) = if self.live.len() < self.durable.len() {
                    (self.live.len(), self.durable.len())
                } else {
                    (self.durable.len(), self.live.len())
                };
                // Never below what both agree on: that much was synced.
                let len = rng.random_range(short..=long);
                let torn = self.mix(len, kind == 2, rng);
                self.durable = torn;
            }
        }
        self.live.clone_from(&self.durable);
        self.unsynced = false;
    }

    /// `len` bytes, each block of which is the old or the new one; with `ordered` the new ones
    /// come first.
    fn mix(&self, len: usize, ordered: bool, rng: &mut SmallRng) -> Vec<u8> {
        let mut mixed = self.durable.clone();
        mixed.resize(len, 0);
        let blocks = len.div_ceil(BLOCK_BYTES);
        let kept = rng.random_range(0..=blocks);
        for block in 0..blocks {
            let keep = if ordered { block < kept } else { rng.random_bool(0.5) };
            let start = block * BLOCK_BYTES;
            let end = (start + BLOCK_BYTES).min(len).min(self.live.len());
            if keep && start < end {
                mixed[start..end].copy_from_slice(&self.live[start..end]);
            }
        }
        mixed
    }
}

impl SimDir {
    /// An empty directory on a volume without bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Self::new`], told from others by a name.
    #[must_use]
    pub fn named(name: &'static str) -> Self {
        Self(Arc::new(Mutex::new(State { name, ..State::default() })))
    }

    /// The machine loses power: what was not synced is lost, kept or torn as `seed` says.
    /// Every handle and the lock are gone, as are injected faults.
    pub fn crash(&self, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut state = self.0.lock();
        let kept = rng.random_range(0..=state.journal.len());
        let State { journal, durable, .. } = &mut *state;
        for change in journal.drain(..).take(kept) {
            change.apply(durable);
        }
        state.live = state.durable.clone();
        for inode in &mut state.inodes {
            inode.tear(&mut rng);
        }
        state.generation += 1;
        state.locked = false;
        state.faults.clear();
    }

    /// The process dies, the machine does not: nothing that was written is lost, but every handle
    /// and the lock are gone.
    pub fn kill(&self) {
        let mut state = self.0.lock();
        state.generation += 1;
        state.locked = false;
    }

    /// Bounds the volume: writes beyond it fail as on a full disk. `None` lifts the bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity_bytes = bytes;
    }

    /// Lets operations fail until [`Self::clear_faults`] or a crash.
    pub fn inject(&self, fault: SimFault) {
        self.0.lock().faults.push(fault);
    }

    /// Ends all injected faults.
    pub fn clear_faults(&self) {
        self.0.lock().faults.clear();
    }

    /// Flips bits of one stored byte, behind everyone's back.
    pub fn corrupt(&self, path: &str, position: usize, mask: u8) {
        let mut state = self.0.lock();
        if let Some(Node::File(inode)) = state.live.get(path).copied() {
            let inode = &mut state.inodes[inode];
            for content in [&mut inode.live, &mut inode.durable] {
                if let Some(byte) = content.get_mut(position) {
                    *byte ^= mask;
                }
            }
        }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Dir for SimDir {
    fn open(&self, path: &str, open: Open) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        let inode = match state.live.get(path).copied() {
            Some(Node::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(inode)) => {
                if open == Open::Truncated {
                    let inode = &mut state.inodes[inode];
                    inode.live.clear();
                    inode.unsynced = true;
                }
                inode
            }
            None if open == Open::Existing => return Err(not_found()),
            None => {
                let dir = parent(path);
                if !dir.is_empty() && state.live.get(dir) != Some(&Node::Dir) {
                    return Err(not_found());
                }
                let inode = state.inodes.len();
                state.inodes.push(Inode::default());
                state.change(Change::Put(path.to_owned(), Node::File(inode)));
                inode
            }
        };
        let generation = state.generation;
        let path = path.to_owned();
        Ok(Arc::new(SimFile { dir: self.clone(), generation, inode, path }))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        match state.live.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            None => {
                state.change(Change::Put(path.to_owned(), Node::Dir));
                Ok(())
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.live.contains_key(from) {
            return Err(not_found());
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.live.contains_key(path) {
            state.change(Change::Remove(path.to_owned()));
        }
        Ok(())
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.live.contains_key(path) {
            return Err(not_found());
        }
        state.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let state = self.0.lock();
        if !path.is_empty() && state.live.get(path) != Some(&Node::Dir) {
            return Err(not_found());
        }
        let below = if path.is_empty() { String::new() } else { format!("{path}/") };
        let entries =
            state.live.range(below.clone()..).take_while(|(key, _)| key.starts_with(&below));
        let entries = entries.filter(|(key, _)| !key[below.len()..].contains('/'));
        Ok(entries
            .map(|(key, node)| Entry {
                name: key[below.len()..].to_owned(),
                is_dir: *node == Node::Dir,
                len_bytes: match node {
                    Node::Dir => 0,
                    Node::File(inode) => state.inodes[*inode].live.len() as u64,
                },
            })
            .collect())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.fault(SimOperation::Sync, path)?;
        let last = state.journal.iter().rposition(|change| change.touches(path));
        let State { journal, durable, .. } = &mut *state;
        for change in journal.drain(..last.map_or(0, |last| last + 1)) {
            change.apply(durable);
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.fault(SimOperation::Sync, "")?;
        let State { journal, durable, inodes, .. } = &mut *state;
        journal.drain(..).for_each(|change| change.apply(durable));
        for inode in inodes.iter_mut().filter(|inode| inode.unsynced) {
            inode.durable.clone_from(&inode.live);
            inode.unsynced = false;
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let mut state = self.0.lock();
        if state.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked = true;
        Ok(Box::new(SimLock { dir: self.clone(), generation: state.generation }))
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.0.lock();
        let total_bytes = state.capacity_bytes.unwrap_or(1 << 40);
        Ok(Space { total_bytes, usable_bytes: total_bytes.saturating_sub(state.used_bytes()) })
    }

    fn location(&self) -> String {
        format!("/simulated{}", self.0.lock().name)
    }
}

#[derive(Debug)]
struct SimLock {
    dir: SimDir,
    generation: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.dir.0.lock();
        if state.generation == self.generation {
            state.locked = false;
        }
    }
}

#[derive(Debug)]
struct SimFile {
    dir: SimDir,
    generation: u64,
    inode: usize,
    path: String,
}

impl SimFile {
    fn with<T>(
        &self,
        operation: Option<SimOperation>,
        then: impl FnOnce(&mut Inode) -> T,
    ) -> io::Result<T> {
        let mut state = self.dir.0.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("this handle belongs to a process that died"));
        }
        if let Some(operation) = operation {
            state.fault(operation, &self.path)?;
        }
        Ok(then(&mut state.inodes[self.inode]))
    }

    fn room_for(&self, end: u64) -> io::Result<u64> {
        let state = self.dir.0.lock();
        let len = state.inodes[self.inode].live.len() as u64;
        let room = state
            .capacity_bytes
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used_bytes()));
        Ok(end.saturating_sub(len).saturating_sub(room))
    }
}

impl File for SimFile {
    fn write_at(&self, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes = parts.iter().map(|part| &part[..]).collect::<Vec<_>>().concat();
        let missing = self.room_for(position + bytes.len() as u64)? as usize;
        // A full disk takes what fits, as the system's does.
        let fits = bytes.len().saturating_sub(missing);
        self.with(Some(SimOperation::Write), |inode| {
            let start = position as usize;
            if inode.live.len() < start + fits {
                inode.live.resize(start + fits, 0);
            }
            inode.live[start..start + fits].copy_from_slice(&bytes[..fits]);
            inode.unsynced = true;
        })?;
        if missing == 0 { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(Some(SimOperation::Read), |inode| {
            let start = (position as usize).min(inode.live.len());
            let end = (start + buffer.len()).min(inode.live.len());
            buffer[..end - start].copy_from_slice(&inode.live[start..end]);
            end - start
        })
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.with(None, |inode| inode.live.len() as u64)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.with(Some(SimOperation::Write), |inode| {
            inode.live.resize(len_bytes as usize, 0);
            inode.unsynced = true;
        })
    }

    fn is_cached(&self, _: u64, _: usize) -> bool {
        true
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(Some(SimOperation::Sync), |inode| {
            if inode.unsynced {
                inode.durable.clone_from(&inode.live);
                inode.unsynced = false;
            }
        })
    }
}
