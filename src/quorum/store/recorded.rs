//! What drivers write, recorded, so that the store on disk can be reopened at every prefix of it.

use std::{fs, path::Path};

use parking_lot::Mutex;

use super::{conformance::contents, *};

/// A call that writes.
#[derive(Debug, Clone)]
enum Call {
    Initialize(Identity, Option<Configuration>),
    Recover(Recovered),
    Persist(Vec<Write>),
    Apply(Applied),
    Compact(u64, u64),
    Stage(bool, Pairs),
}

impl Call {
    fn make(&self, store: &dyn Store) -> Result<(), StoreError> {
        match self.clone() {
            Self::Initialize(identity, first) => store.initialize(identity, first),
            Self::Recover(recovered) => store.recover(&recovered),
            Self::Persist(writes) => store.persist(&writes),
            Self::Apply(applied) => store.apply(&applied),
            Self::Compact(index, term) => store.compact(index, term),
            Self::Stage(first, pairs) => store.stage(first, &pairs),
        }
    }
}

/// The store in memory, which remembers what was written to it.
#[derive(Debug, Default)]
pub(in crate::quorum) struct RecordedStore {
    store: MemStore,
    calls: Mutex<Vec<Call>>,
}

/// How many calls of each kind there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::quorum) struct Recorded {
    pub(in crate::quorum) overwrites: usize,
    pub(in crate::quorum) installs: usize,
    pub(in crate::quorum) applies: usize,
    pub(in crate::quorum) compactions: usize,
    pub(in crate::quorum) chunks: usize,
    pub(in crate::quorum) recoveries: usize,
}

impl RecordedStore {
    fn record(&self, call: Call) -> Result<(), StoreError> {
        // One after the other, so that they are recorded in the order in which they took effect.
        let mut calls = self.calls.lock();
        call.make(&self.store)?;
        calls.push(call);
        Ok(())
    }

    /// What was recorded.
    pub(in crate::quorum) fn recorded(&self) -> Recorded {
        let (mut recorded, mut last_index) = (Recorded::default(), 0);
        for call in &*self.calls.lock() {
            match call {
                Call::Initialize(..) => {}
                Call::Recover(_) => recorded.recoveries += 1,
                Call::Apply(_) => recorded.applies += 1,
                Call::Compact(..) => recorded.compactions += 1,
                Call::Stage(..) => recorded.chunks += 1,
                Call::Persist(writes) => {
                    for write in writes {
                        recorded.installs += usize::from(write.install.is_some());
                        let first = write.entries.first().map(|entry| entry.index);
                        recorded.overwrites +=
                            usize::from(first.is_some_and(|index| index <= last_index));
                        last_index = write.entries.last().map_or(last_index, |e| e.index);
                    }
                }
            }
        }
        recorded
    }

    /// Makes the recorded calls to a store on disk. Then opens what is there after a kill behind
    /// each of them, and after a power cut within each of them: it must show exactly the calls
    /// that were made whole.
    pub(in crate::quorum) fn assert_every_prefix_reopens(&self) {
        let directory = tempfile::tempdir().unwrap();
        let on_disk = RocksStore::open(directory.path()).unwrap();
        let in_memory = MemStore::new();
        let mut shown = vec![(log_of(directory.path()).1, contents(&in_memory))];
        for call in &*self.calls.lock() {
            call.make(&on_disk).unwrap();
            call.make(&in_memory).unwrap();
            shown.push((log_of(directory.path()).1, contents(&in_memory)));
        }
        drop(on_disk);
        for (n, prefix) in shown.windows(2).enumerate() {
            let [(before_bytes, before), (size_bytes, after)] = prefix else { continue };
            let torn_bytes = before_bytes + (size_bytes - before_bytes) * (n as u64 % 7 + 1) / 8;
            for (cut_bytes, expected) in [(*size_bytes, after), (torn_bytes, before)] {
                let copied = tempfile::tempdir().unwrap();
                copy(directory.path(), copied.path());
                let log = fs::OpenOptions::new().write(true).open(log_of(copied.path()).0).unwrap();
                log.set_len(cut_bytes).unwrap();
                let reopened = RocksStore::open(copied.path()).unwrap();
                let expected = if torn_bytes == *size_bytes { after } else { expected };
                assert!(contents(&reopened) == *expected, "call {n}, {cut_bytes} bytes");
            }
        }
    }
}

/// The only write-ahead log in `directory`, and its size.
fn log_of(directory: &Path) -> (std::path::PathBuf, u64) {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let logs: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == "log")).collect();
    let [log] = &logs[..] else { panic!("{logs:?}") };
    (log.clone(), fs::metadata(log).unwrap().len())
}

/// Copies a store's files as a crash leaves them.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "LOCK" {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

impl Store for RecordedStore {
    fn load(&self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn initialize(
        &self,
        identity: Identity,
        first: Option<Configuration>,
    ) -> Result<(), StoreError> {
        self.record(Call::Initialize(identity, first))
    }

    fn recover(&self, recovered: &Recovered) -> Result<(), StoreError> {
        self.record(Call::Recover(recovered.clone()))
    }

    fn persist(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.record(Call::Persist(writes.to_vec()))
    }

    fn apply(&self, applied: &Applied) -> Result<(), StoreError> {
        self.record(Call::Apply(applied.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError> {
        self.store.entries(low, high, max_bytes)
    }

    fn compact(&self, index: u64, term: u64) -> Result<(), StoreError> {
        self.record(Call::Compact(index, term))
    }

    fn open_image(&self) -> Result<Box<dyn ImageReader>, StoreError> {
        self.store.open_image()
    }

    fn stage(&self, first: bool, pairs: &[(Bytes, Bytes)]) -> Result<(), StoreError> {
        self.record(Call::Stage(first, pairs.to_vec()))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.store.sync()
    }
}
