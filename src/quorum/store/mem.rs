//! The simulated store: every unsynced write can be lost, as a power cut loses it.

use std::{collections::VecDeque, ops::Bound};

use bytes::Bytes;
use imbl::OrdMap;
use parking_lot::Mutex;
use raft::eraftpb::{Entry, HardState};

use super::{Applied, ImageReader, Loaded, Pairs, Point, Recovered, Store, StoreError, Write};
use crate::quorum::identity::{Configuration, Identity};

#[derive(Debug, Clone, Default)]
struct State {
    identity: Option<Identity>,
    hard_state: HardState,
    truncated: (u64, u64),
    log: OrdMap<u64, Entry>,
    applied: Point,
    image: OrdMap<Bytes, Bytes>,
    staged: OrdMap<Bytes, Bytes>,
}

#[derive(Debug, Default)]
struct Inner {
    /// States after each write that is not known to be synced. The first is durable.
    states: VecDeque<State>,
    /// How many writes were made before the first of `states`.
    base: u64,
    fail_next_persist: bool,
}

/// A store in memory that keeps its state after every unsynced write, so that a crash can choose
/// which of them survive.
#[derive(Debug)]
pub struct MemStore(Mutex<Inner>);

impl Default for MemStore {
    fn default() -> Self {
        let inner = Inner { states: VecDeque::from([State::default()]), ..Inner::default() };
        Self(Mutex::new(inner))
    }
}

impl MemStore {
    /// An unused store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes without syncing. Returns a position for [`MemStore::synced`]: the simulation lets
    /// virtual time pass between the two.
    pub fn write(&self, writes: &[Write]) -> u64 {
        let mut inner = self.0.lock();
        for write in writes {
            inner.change(|state| state.write(write));
        }
        inner.position()
    }

    /// Everything up to `position` has reached the disk.
    pub fn synced(&self, position: u64) {
        let mut inner = self.0.lock();
        while inner.base < position && inner.states.len() > 1 {
            inner.states.pop_front();
            inner.base += 1;
        }
    }

    /// How many of the latest writes a crash could lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.0.lock().states.len() - 1
    }

    /// Loses all but the first `keep` unsynced writes.
    pub fn crash(&self, keep: usize) {
        let mut inner = self.0.lock();
        inner.states.truncate(keep + 1);
        let dropped = inner.states.len() as u64 - 1;
        let survivor = inner.current().clone();
        inner.states = VecDeque::from([survivor]);
        inner.base += dropped;
        inner.fail_next_persist = false;
    }

    /// Makes the next [`Store::persist`] fail, unless a crash comes before.
    pub fn fail_next_persist(&self) {
        self.0.lock().fail_next_persist = true;
    }

    /// What the stored image stands for.
    #[must_use]
    pub fn applied(&self) -> Point {
        self.0.lock().current().applied.clone()
    }

    /// The stored image.
    #[must_use]
    pub fn image(&self) -> OrdMap<Bytes, Bytes> {
        self.0.lock().current().image.clone()
    }

    /// The stored log, the part that was not compacted.
    #[must_use]
    pub fn log(&self) -> OrdMap<u64, Entry> {
        self.0.lock().current().log.clone()
    }

    /// What a crash that loses the most would leave: the durable hard state and log.
    #[must_use]
    pub fn durable(&self) -> (HardState, OrdMap<u64, Entry>, (u64, u64)) {
        let inner = self.0.lock();
        let state = &inner.states[0];
        (state.hard_state.clone(), state.log.clone(), state.truncated)
    }
}

impl Inner {
    fn current(&self) -> &State {
        self.states.back().expect("there is always one state")
    }

    fn change(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.current().clone();
        change(&mut state);
        self.states.push_back(state);
    }

    fn position(&self) -> u64 {
        self.base + self.states.len() as u64 - 1
    }
}

impl State {
    fn write(&mut self, write: &Write) {
        if let Some(point) = &write.install {
            self.log.clear();
            self.truncated = (point.index, point.term);
            self.image = std::mem::take(&mut self.staged);
            self.applied = point.clone();
        }
        if let Some(first) = write.entries.first() {
            self.log = self.log.split(&first.index).0;
            self.log.extend(write.entries.iter().map(|e| (e.index, e.clone())));
        }
        if let Some(hard_state) = &write.hard_state {
            self.hard_state = hard_state.clone();
        }
    }
}

impl Store for MemStore {
    fn load(&self) -> Result<Loaded, StoreError> {
        let inner = self.0.lock();
        let state = inner.current();
        let mut loaded = Loaded {
            identity: state.identity,
            hard_state: state.hard_state.clone(),
            truncated: state.truncated,
            applied: state.applied.clone(),
            tail: state.log.range(state.applied.index + 1..).map(|(_, e)| e.clone()).collect(),
            ..Loaded::default()
        };
        let mut next = state.truncated.0 + 1;
        for (index, entry) in &state.log {
            if *index != next {
                return Err(StoreError::MissingEntry { index: next });
            }
            loaded.note(entry);
            next += 1;
        }
        if state.applied.index >= next {
            return Err(StoreError::MissingEntry { index: next });
        }
        Ok(loaded)
    }

    fn initialize(
        &self,
        identity: Identity,
        first: Option<Configuration>,
    ) -> Result<(), StoreError> {
        let mut inner = self.0.lock();
        if let Some(user) = inner.current().identity {
            return Err(StoreError::InUse(Box::new(user)));
        }
        inner.change(|state| {
            state.identity = Some(identity);
            if let Some(configuration) = first {
                state.truncated = (1, 1);
                state.applied = Point { index: 1, term: 1, configuration };
                state.hard_state.term = 1;
                state.hard_state.commit = 1;
            }
        });
        let position = inner.position();
        drop(inner);
        self.synced(position);
        Ok(())
    }

    fn recover(&self, recovered: &Recovered) -> Result<(), StoreError> {
        let mut inner = self.0.lock();
        inner.change(|state| {
            state.identity = Some(recovered.identity);
            state.hard_state = recovered.hard_state.clone();
            state.truncated = (recovered.point.index, recovered.point.term);
            state.applied = recovered.point.clone();
            state.log = recovered.tail.iter().map(|e| (e.index, e.clone())).collect();
        });
        let position = inner.position();
        drop(inner);
        self.synced(position);
        Ok(())
    }

    fn persist(&self, writes: &[Write]) -> Result<(), StoreError> {
        if self.0.lock().fail_next_persist {
            return Err(StoreError::Injected);
        }
        let position = self.write(writes);
        self.synced(position);
        Ok(())
    }

    fn apply(&self, applied: &Applied) -> Result<(), StoreError> {
        let mut inner = self.0.lock();
        if applied.point.index <= inner.current().applied.index {
            return Ok(());
        }
        inner.change(|state| {
            for (key, value) in &applied.writes {
                match value {
                    Some(value) => state.image.insert(key.clone(), value.clone()),
                    None => state.image.remove(key),
                };
            }
            state.applied = applied.point.clone();
        });
        Ok(())
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError> {
        let inner = self.0.lock();
        let log = &inner.current().log;
        let mut found = Vec::new();
        let mut size_bytes = 0;
        for (_, entry) in log.range(low..high) {
            size_bytes += entry.data.len() as u64;
            if !found.is_empty() && size_bytes > max_bytes {
                break;
            }
            found.push(entry.clone());
        }
        match found.first() {
            Some(entry) if entry.index == low => Ok(found),
            _ => Err(StoreError::MissingEntry { index: low }),
        }
    }

    fn compact(&self, index: u64, term: u64) -> Result<(), StoreError> {
        let mut inner = self.0.lock();
        if index > inner.current().truncated.0 {
            inner.change(|state| {
                state.log = state.log.split(&index).1;
                state.truncated = (index, term);
            });
        }
        Ok(())
    }

    fn open_image(&self) -> Result<Box<dyn ImageReader>, StoreError> {
        let state = self.0.lock().current().clone();
        Ok(Box::new(MemImage { point: state.applied, image: state.image }))
    }

    fn stage(&self, first: bool, pairs: &[(Bytes, Bytes)]) -> Result<(), StoreError> {
        self.0.lock().change(|state| {
            if first {
                state.staged.clear();
            }
            state.staged.extend(pairs.iter().cloned());
        });
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let position = self.0.lock().position();
        self.synced(position);
        Ok(())
    }
}

struct MemImage {
    point: Point,
    image: OrdMap<Bytes, Bytes>,
}

impl ImageReader for MemImage {
    fn point(&self) -> &Point {
        &self.point
    }

    fn read(&mut self, after: Option<&[u8]>, max_bytes: usize) -> Result<Pairs, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut pairs = Pairs::new();
        let mut size_bytes = 0;
        for (key, value) in self.image.range::<_, [u8]>((from, Bound::Unbounded)) {
            size_bytes += key.len() + value.len();
            if !pairs.is_empty() && size_bytes > max_bytes {
                break;
            }
            pairs.push((key.clone(), value.clone()));
        }
        Ok(pairs)
    }
}
