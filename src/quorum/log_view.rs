//! The Raft library's view of the log: what the core knows of it without asking the store.
//!
//! Holds the term boundaries of the whole log and the entries of its tail. Everything that is not
//! yet both applied and durable is in the tail, so that only a lagging peer ever needs older
//! entries; those, and snapshots, are asked of the shell as effects and answered later.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use raft::{
    Error, GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot},
    util::limit_size,
};

use super::{
    log_sizes::{LogSizes, size_bytes},
    store::Loaded,
};

/// Fetches of older entries that may be under way at once.
const FETCHES_MAX: usize = 16;

/// A range of older entries that the core needs from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// First index wanted.
    pub low: u64,
    /// End of the range.
    pub high: u64,
    /// About how much at most.
    pub max_bytes: u64,
}

/// A snapshot that a peer needs since the log no longer reaches back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotWanted {
    /// The peer.
    pub to: u64,
    /// The least index that serves it.
    pub index: u64,
}

#[derive(Default)]
struct Wants {
    new_fetches: Vec<Fetch>,
    /// By first index: who waits for it.
    fetching: BTreeMap<u64, Vec<GetEntriesContext>>,
    /// Only filled while the library is told that a fetch has ended.
    fetched: Option<Vec<Entry>>,
    new_snapshots: Vec<SnapshotWanted>,
    preparing: BTreeMap<u64, u64>,
    prepared: BTreeMap<u64, Snapshot>,
}

pub(super) struct LogView {
    initial: RaftState,
    truncated: (u64, u64),
    /// (first index, term), ascending in both.
    terms: VecDeque<(u64, u64)>,
    sizes: LogSizes,
    tail: VecDeque<Entry>,
    tail_bytes: u64,
    last_index: u64,
    wants: RefCell<Wants>,
}

impl LogView {
    pub(super) fn new(loaded: &Loaded, hard_state: HardState, conf_state: ConfState) -> Self {
        let last_index = loaded.tail.last().map_or(loaded.applied.index, |e| e.index);
        Self {
            initial: RaftState::new(hard_state, conf_state),
            truncated: loaded.truncated,
            terms: loaded.terms.iter().copied().collect(),
            sizes: loaded.sizes.clone(),
            tail_bytes: loaded.tail.iter().map(size_bytes).sum(),
            tail: loaded.tail.iter().cloned().collect(),
            last_index,
            wants: RefCell::default(),
        }
    }

    pub(super) fn truncated(&self) -> (u64, u64) {
        self.truncated
    }

    pub(super) fn sizes(&self) -> &LogSizes {
        &self.sizes
    }

    fn tail_first(&self) -> u64 {
        self.last_index + 1 - self.tail.len() as u64
    }

    /// Takes entries that are on their way to the store.
    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index <= self.last_index + 1, "the log has no holes");
        assert!(first.index > self.truncated.0, "what was compacted is not overwritten");
        while self.last_index >= first.index {
            if let Some(stale) = self.tail.pop_back() {
                self.tail_bytes -= size_bytes(&stale);
                self.sizes.pop(&stale);
            }
            self.last_index -= 1;
        }
        while self.terms.back().is_some_and(|(start, _)| *start >= first.index) {
            self.terms.pop_back();
        }
        for entry in entries {
            if self.terms.back().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push_back((entry.index, entry.term));
            }
            self.tail_bytes += size_bytes(entry);
            self.sizes.push(entry);
            self.tail.push_back(entry.clone());
            self.last_index = entry.index;
        }
    }

    /// Takes what a step brings: a snapshot, if there is one, and then entries.
    pub(super) fn append_after(&mut self, snapshot: &Snapshot, entries: &[Entry]) {
        if !snapshot.is_empty() {
            let metadata = snapshot.get_metadata();
            self.install(metadata.index, metadata.term);
        }
        self.append(entries);
    }

    /// Whether there is a change of the configuration in `low..=high`, as far as that is in memory.
    pub(super) fn has_change(&self, low: u64, high: u64) -> bool {
        let first = self.tail_first();
        let (low, high) = (low.max(first), high.min(self.last_index));
        let is_change = |e: &Entry| e.get_entry_type() != EntryType::EntryNormal;
        low <= high
            && self.tail.range((low - first) as usize..=(high - first) as usize).any(is_change)
    }

    /// A snapshot replaces the log.
    fn install(&mut self, index: u64, term: u64) {
        self.truncated = (index, term);
        self.last_index = index;
        self.terms.clear();
        self.sizes = LogSizes::default();
        self.tail.clear();
        self.tail_bytes = 0;
    }

    /// Forgets entries of the tail up to `index` while it is larger than `max_bytes`.
    pub(super) fn shrink_tail(&mut self, index: u64, max_bytes: u64) {
        while self.tail_bytes > max_bytes {
            let Some(first) = self.tail.front().filter(|e| e.index <= index) else { return };
            self.tail_bytes -= size_bytes(first);
            self.tail.pop_front();
        }
    }

    /// Forgets the log up to `index`; returns that entry's term.
    pub(super) fn compact(&mut self, index: u64) -> Option<u64> {
        let term = self.term_of(index)?;
        self.truncated = (index, term);
        while self.terms.get(1).is_some_and(|(start, _)| *start <= index + 1) {
            self.terms.pop_front();
        }
        if let Some((start, _)) = self.terms.front_mut() {
            *start = (*start).max(index + 1);
        }
        if index == self.last_index {
            self.terms.clear();
        }
        self.sizes.compact(index);
        while self.tail.front().is_some_and(|e| e.index <= index) {
            if let Some(first) = self.tail.pop_front() {
                self.tail_bytes -= size_bytes(&first);
            }
        }
        Some(term)
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        if index < self.truncated.0 || index > self.last_index {
            return None;
        }
        let after = self.terms.partition_point(|(start, _)| *start <= index);
        after.checked_sub(1).map(|i| self.terms[i].1)
    }

    pub(super) fn take_fetches(&self) -> Vec<Fetch> {
        std::mem::take(&mut self.wants.borrow_mut().new_fetches)
    }

    pub(super) fn take_snapshots_wanted(&self) -> Vec<SnapshotWanted> {
        std::mem::take(&mut self.wants.borrow_mut().new_snapshots)
    }

    /// The answer to a fetch; returns who waits for it. Followed by [`LogView::end_fetched`].
    pub(super) fn begin_fetched(&self, low: u64, entries: Vec<Entry>) -> Vec<GetEntriesContext> {
        let mut wants = self.wants.borrow_mut();
        wants.fetched = Some(entries);
        wants.fetching.remove(&low).unwrap_or_default()
    }

    pub(super) fn end_fetched(&self) {
        self.wants.borrow_mut().fetched = None;
    }

    /// The answer to [`SnapshotWanted`]; none where it could not be made.
    pub(super) fn prepared(&self, to: u64, snapshot: Option<Snapshot>) {
        let mut wants = self.wants.borrow_mut();
        wants.preparing.remove(&to);
        if let Some(snapshot) = snapshot {
            wants.prepared.insert(to, snapshot);
        }
    }

    fn older(
        &self,
        low: u64,
        high: u64,
        max_bytes: u64,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let mut wants = self.wants.borrow_mut();
        let held = wants.fetched.iter().flatten().skip_while(|e| e.index < low);
        let mut found: Vec<Entry> = held.take_while(|e| e.index < high).cloned().collect();
        if found.first().is_some_and(|e| e.index == low) {
            limit_size(&mut found, Some(max_bytes));
            return Ok(found);
        }
        if !context.can_async() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        if let Some(waiting) = wants.fetching.get_mut(&low) {
            waiting.push(context);
        } else if wants.fetching.len() < FETCHES_MAX {
            wants.fetching.insert(low, vec![context]);
            wants.new_fetches.push(Fetch { low, high, max_bytes });
        }
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.truncated.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last_index + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into();
        let first = self.tail_first();
        if low < first {
            return self.older(low, high.min(first), max_size.unwrap_or(u64::MAX), context);
        }
        let range = (low - first) as usize..(high - first) as usize;
        // Count before cloning: a lagging peer asks for the whole rest each time.
        let mut total = 0;
        let within = |(n, entry): &(usize, &Entry)| {
            total += size_bytes(entry);
            *n == 0 || max_size.is_none_or(|max| total <= max)
        };
        let mut found: Vec<Entry> =
            self.tail.range(range).enumerate().take_while(within).map(|(_, e)| e.clone()).collect();
        limit_size(&mut found, max_size);
        Ok(found)
    }

    fn term(&self, index: u64) -> Result<u64> {
        self.term_of(index).ok_or(Error::Store(if index < self.truncated.0 {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        }))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last_index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let mut wants = self.wants.borrow_mut();
        let index = request_index.max(self.truncated.0);
        if let Some(snapshot) = wants.prepared.remove(&to)
            && snapshot.get_metadata().index >= index
        {
            return Ok(snapshot);
        }
        if wants.preparing.insert(to, index).is_none() {
            wants.new_snapshots.push(SnapshotWanted { to, index });
        }
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
