//! The store contract, for both sides.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use raft::eraftpb::{Entry, HardState};
use uuid::Uuid;

use super::{recorded::copy, *};
use crate::{
    base::{ClusterId, DirectoryId, NodeId},
    quorum::identity::Member,
};

/// Everything a reopened store shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contents {
    loaded: Loaded,
    point: Point,
    image: Vec<(Bytes, Bytes)>,
    log: Vec<Entry>,
}

pub(super) fn contents(store: &dyn Store) -> Contents {
    let loaded = store.load().unwrap();
    let mut reader = store.open_image().unwrap();
    let (point, image) = (reader.point().clone(), read_all(&mut *reader, usize::MAX));
    assert_eq!(read_all(&mut *reader, 3), image);
    let low = loaded.truncated.0 + 1;
    let log = store.entries(low, u64::MAX, u64::MAX).unwrap_or_default();
    Contents { loaded, point, image, log }
}

/// An image read piece by piece.
fn read_all(reader: &mut dyn ImageReader, max_bytes: usize) -> Pairs {
    let mut all = Pairs::new();
    loop {
        let after = all.last().map(|(key, _)| key.clone());
        let pairs = reader.read(after.as_deref(), max_bytes).unwrap();
        if pairs.is_empty() {
            return all;
        }
        all.extend(pairs);
    }
}

fn identity() -> Identity {
    let directory_id = DirectoryId(Uuid::from_u128(7));
    let member = Member { node_id: NodeId(3), directory_id };
    Identity { cluster_id: ClusterId(Uuid::from_u128(9)), member, peer_id: 1 }
}

fn configuration() -> Configuration {
    Configuration::of_voters(BTreeMap::from([(1, identity().member)]))
}

fn entry(index: u64, term: u64) -> Entry {
    let data = format!("{index}@{term}").into();
    Entry { index, term, data, ..Entry::default() }
}

/// One call of the store, as a generator makes them; [`Script`] turns them into valid ones.
#[derive(Debug, Clone)]
enum Step {
    /// Appends, going back over the uncommitted end of the log by some entries.
    Append {
        back: u64,
        count: u64,
        new_term: bool,
    },
    Apply {
        count: u64,
        keys: Vec<(u8, Option<u8>)>,
    },
    Compact {
        keep: u64,
    },
    Install {
        ahead: u64,
        keys: Vec<u8>,
    },
    StageOnly,
    Vote,
    Recover,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = prop::collection::vec((0..6u8, prop::option::of(any::<u8>())), 0..4);
    let step = prop_oneof![
        6 => (0..3u64, 1..5u64, any::<bool>())
            .prop_map(|(back, count, new_term)| Step::Append { back, count, new_term }),
        4 => (1..5u64, keys).prop_map(|(count, keys)| Step::Apply { count, keys }),
        1 => (0..4u64).prop_map(|keep| Step::Compact { keep }),
        1 => (1..5u64, prop::collection::vec(0..6u8, 0..4))
            .prop_map(|(ahead, keys)| Step::Install { ahead, keys }),
        1 => Just(Step::StageOnly),
        1 => Just(Step::Vote),
        1 => Just(Step::Recover),
    ];
    prop::collection::vec(step, 1..24)
}

/// Keeps to what the core does: never overwrites what is applied, never compacts beyond it.
#[derive(Debug, Clone, Copy)]
struct Script {
    last: u64,
    applied: u64,
    term: u64,
    number: u64,
}

impl Script {
    fn new() -> Self {
        Self { last: 1, applied: 1, term: 1, number: 0 }
    }

    fn run(&mut self, store: &dyn Store, step: &Step) {
        match step {
            Step::Append { back, count, new_term } => {
                self.term += u64::from(*new_term);
                let first = (self.last + 1 - back.min(&self.last)).max(self.applied + 1);
                self.last = first + count - 1;
                let entries = (first..=self.last).map(|i| entry(i, self.term)).collect();
                self.persist(store, Write { entries, ..Write::default() });
            }
            Step::Apply { count, keys } => {
                let index = (self.applied + count).min(self.last);
                let bytes = |b: u8| Bytes::from(vec![b]);
                let writes = keys.iter().map(|(k, v)| (bytes(*k), v.map(bytes))).collect();
                self.applied = index;
                let point = Point { index, term: self.term, configuration: configuration() };
                store.apply(&Applied { point, writes }).unwrap();
            }
            Step::Compact { keep } => {
                let index = self.applied.saturating_sub(*keep);
                store.compact(index, self.term).unwrap();
            }
            Step::Install { ahead, keys } => {
                let pairs: Vec<_> =
                    keys.iter().map(|k| (Bytes::from(vec![*k]), Bytes::from("staged"))).collect();
                store.stage(true, &pairs).unwrap();
                self.last += ahead;
                self.applied = self.last;
                let point =
                    Point { index: self.last, term: self.term, configuration: configuration() };
                self.persist(store, Write { install: Some(point), ..Write::default() });
            }
            Step::StageOnly => {
                store.stage(true, &[(Bytes::from("left"), Bytes::from("over"))]).unwrap();
            }
            Step::Vote => {
                self.term += 1;
                self.persist(store, Write::default());
            }
            Step::Recover => self.recover(store),
        }
    }

    /// As the recovery of a lost quorum does it: everything is kept, under another peer id.
    fn recover(&mut self, store: &dyn Store) {
        self.term += 10;
        let loaded = store.load().unwrap();
        let known = loaded.identity.unwrap();
        let identity = Identity { peer_id: known.peer_id + 1_000_000, ..known };
        let voters = BTreeMap::from([(identity.peer_id, identity.member)]);
        let recovered = Recovered {
            identity,
            hard_state: HardState { term: self.term, commit: self.applied, ..HardState::default() },
            point: Point { configuration: Configuration::of_voters(voters), ..loaded.applied },
            tail: loaded.tail,
        };
        store.recover(&recovered).unwrap();
    }

    fn persist(&mut self, store: &dyn Store, write: Write) {
        self.number += 1;
        let (term, vote) = (self.term, 1 + self.number % 3);
        let hard_state = HardState { term, vote, commit: self.applied, ..HardState::default() };
        let hard_state = Some(hard_state);
        store.persist(&[Write { number: self.number, hard_state, ..write }]).unwrap();
    }
}

fn started(store: &dyn Store) -> Script {
    store.initialize(identity(), Some(configuration())).unwrap();
    Script::new()
}

#[test]
fn an_unused_store_is_empty_and_is_initialized_once() {
    let directory = tempfile::tempdir().unwrap();
    let on_disk = RocksStore::open(directory.path()).unwrap();
    let in_memory = MemStore::new();
    for store in [&on_disk as &dyn Store, &in_memory] {
        assert_eq!(store.load().unwrap(), Loaded::default());
        store.initialize(identity(), Some(configuration())).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.identity, Some(identity()));
        assert_eq!((loaded.truncated, loaded.applied.index), ((1, 1), 1));
        assert_eq!(loaded.applied.configuration, configuration());
        let again = store.initialize(identity(), None);
        assert!(matches!(again, Err(StoreError::InUse(user)) if *user == identity()));
    }
}

#[test]
fn a_recovered_store_keeps_image_and_tail_under_its_new_identity() {
    let directory = tempfile::tempdir().unwrap();
    let mut on_disk = RocksStore::open(directory.path()).unwrap();
    let in_memory = MemStore::new();
    let recovered = Recovered {
        identity: Identity { peer_id: 1_000_001, ..identity() },
        hard_state: HardState { term: 70, commit: 7, ..HardState::default() },
        point: Point {
            index: 5,
            term: 1,
            configuration: Configuration::of_voters(BTreeMap::from([(
                1_000_001,
                identity().member,
            )])),
        },
        tail: (6..=8).map(|index| entry(index, 2)).collect(),
    };
    let mut images = Vec::new();
    for store in [&on_disk as &dyn Store, &in_memory] {
        let mut script = started(store);
        script.run(store, &Step::Append { back: 0, count: 9, new_term: false });
        let keys = (0..6).map(|key| (key, Some(key))).collect();
        script.run(store, &Step::Apply { count: 4, keys });
        images.push(contents(store).image);
        store.recover(&recovered).unwrap();
    }
    // Synced: neither a crash nor a restart takes it back.
    in_memory.crash(0);
    drop(on_disk);
    on_disk = RocksStore::open(directory.path()).unwrap();
    for (store, image) in [&on_disk as &dyn Store, &in_memory].into_iter().zip(images) {
        let found = contents(store);
        assert_eq!((image.len(), &found.image), (6, &image));
        assert_eq!(found.loaded.identity, Some(recovered.identity));
        assert_eq!(found.loaded.hard_state, recovered.hard_state);
        assert_eq!(found.loaded.truncated, (5, 1));
        assert_eq!(found.loaded.terms, [(6, 2)]);
        assert_eq!(found.loaded.applied, recovered.point);
        assert_eq!((&found.loaded.tail, &found.log), (&recovered.tail, &recovered.tail));
    }
}

#[test]
fn image_writes_from_before_an_installed_snapshot_are_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let on_disk = RocksStore::open(directory.path()).unwrap();
    let in_memory = MemStore::new();
    for store in [&on_disk as &dyn Store, &in_memory] {
        let mut script = started(store);
        script.run(store, &Step::Append { back: 0, count: 3, new_term: false });
        script.run(store, &Step::Install { ahead: 5, keys: vec![1, 2] });
        let before = contents(store);
        let late = Applied {
            point: Point { index: 3, term: 1, configuration: configuration() },
            writes: vec![(Bytes::from("late"), Some(Bytes::from("write")))],
        };
        store.apply(&late).unwrap();
        assert_eq!(contents(store), before);
        assert_eq!(before.image.len(), 2);
    }
}

#[test]
fn a_fetch_stays_within_its_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let on_disk = RocksStore::open(directory.path()).unwrap();
    let in_memory = MemStore::new();
    for store in [&on_disk as &dyn Store, &in_memory] {
        let mut script = started(store);
        script.run(store, &Step::Append { back: 0, count: 20, new_term: false });
        let indices = |low, high, max| -> Vec<u64> {
            store.entries(low, high, max).unwrap().iter().map(|e| e.index).collect()
        };
        assert_eq!(indices(5, 8, u64::MAX), [5, 6, 7]);
        assert_eq!(indices(5, 20, 0), [5]);
        assert_eq!(indices(5, 20, 7), [5, 6]);
        assert!(matches!(store.entries(22, 30, 1), Err(StoreError::MissingEntry { index: 22 })));
        store
            .apply(&Applied {
                point: Point { index: 10, term: 1, configuration: configuration() },
                writes: Vec::new(),
            })
            .unwrap();
        store.compact(6, 1).unwrap();
        assert!(matches!(store.entries(6, 9, 1), Err(StoreError::MissingEntry { index: 6 })));
    }
}

#[test]
fn an_opened_image_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let on_disk = RocksStore::open(directory.path()).unwrap();
    let in_memory = MemStore::new();
    for store in [&on_disk as &dyn Store, &in_memory] {
        let mut script = started(store);
        script.run(store, &Step::Append { back: 0, count: 9, new_term: false });
        let keys: Vec<_> = (0..6).map(|key| (key, Some(key))).collect();
        script.run(store, &Step::Apply { count: 3, keys });
        let before = contents(store);
        let mut reader = store.open_image().unwrap();
        // One pair at least, however small the piece.
        assert_eq!(reader.read(None, 0).unwrap(), before.image[..1]);
        let changed = (0..6).map(|key| (key, (key % 2 == 0).then_some(9))).collect();
        script.run(store, &Step::Apply { count: 3, keys: changed });
        script.run(store, &Step::Install { ahead: 5, keys: vec![1, 2] });
        assert_ne!(contents(store).image, before.image);
        assert_eq!(*reader.point(), before.point);
        assert_eq!(read_all(&mut *reader, 5), before.image);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Reopened after every prefix of a sequence of writes, the store on disk shows what the store
    /// in memory shows.
    #[test]
    fn a_store_reopened_at_any_prefix_shows_that_prefix(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let in_memory = MemStore::new();
        let mut on_disk = RocksStore::open(directory.path()).unwrap();
        let mut scripts = (started(&on_disk), started(&in_memory));
        for step in &steps {
            scripts.0.run(&on_disk, step);
            scripts.1.run(&in_memory, step);
            // Closed without a flush: everything comes back from the write-ahead log.
            drop(on_disk);
            on_disk = RocksStore::open(directory.path()).unwrap();
            prop_assert_eq!(contents(&on_disk), contents(&in_memory));
        }
    }

    /// A write-ahead log that is torn anywhere gives the state after some prefix of the writes.
    #[test]
    fn a_torn_store_shows_some_prefix(steps in steps(), cut in 0..10_000u64) {
        let directory = tempfile::tempdir().unwrap();
        let on_disk = RocksStore::open(directory.path()).unwrap();
        let in_memory = MemStore::new();
        let mut script = started(&on_disk);
        let mut model = started(&in_memory);
        let mut prefixes = vec![contents(&MemStore::new()), contents(&in_memory)];
        for step in &steps {
            script.run(&on_disk, step);
            model.run(&in_memory, step);
            prefixes.push(contents(&in_memory));
        }
        let torn = tempfile::tempdir().unwrap();
        copy(directory.path(), torn.path());
        let files = std::fs::read_dir(torn.path()).unwrap().map(|f| f.unwrap().path());
        let log = files.filter(|f| f.extension().is_some_and(|e| e == "log")).max().unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
        let size_bytes = file.metadata().unwrap().len();
        file.set_len(size_bytes * cut / 10_000).unwrap();
        let found = contents(&RocksStore::open(torn.path()).unwrap());
        prop_assert!(prefixes.contains(&found), "{found:?} of {prefixes:?}");
    }

    /// A simulated crash gives the state after some prefix, and keeps all that was synced.
    #[test]
    fn a_crashed_store_in_memory_keeps_what_was_synced(steps in steps(), keep in 0..30usize) {
        let store = MemStore::new();
        let mut script = started(&store);
        let mut prefixes = vec![contents(&store)];
        let mut durable = 0;
        for step in &steps {
            script.run(&store, step);
            prefixes.push(contents(&store));
            // Not by counting: a step that finds nothing to do writes nothing.
            if store.unsynced() == 0 {
                durable = prefixes.len() - 1;
            }
        }
        store.crash(keep.min(store.unsynced()));
        prop_assert!(prefixes[durable..].contains(&contents(&store)));
    }
}
