//! Compaction: what is newest stays where it is, through crashes; what is deleted goes in the end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const TRANSACTIONAL: i64 = 9;

fn config() -> Arc<LogConfig> {
    Arc::new(LogConfig {
        segment_bytes: 1500,
        index_interval_bytes: 256,
        compact: true,
        delete: false,
        delete_retention_ms: 100,
        ..LogConfig::default()
    })
}

type Row = (u8, Option<Vec<u8>>);

fn keyed(rows: &[Row], producer: Option<(i64, i32)>, codec: u8) -> Bytes {
    let mut options = BatchOptions {
        codec: crate::protocol::compression::Compression::ALL[codec as usize].into(),
        ..BatchOptions::default()
    };
    if let Some((id, base_sequence)) = producer {
        options.producer = Producer { id: ProducerId(id), epoch: ProducerEpoch(0), base_sequence };
        options.attributes = Attributes(0).with_transactional(id == TRANSACTIONAL);
    }
    let mut builder = BatchBuilder::new(options);
    for (key, value) in rows {
        builder.push(&NewRecord {
            timestamp_ms: NOW_MS,
            key: Some(&[*key]),
            value: value.as_deref(),
            headers: &[(b"h", Some(b"v"))],
        });
    }
    builder.build().unwrap().bytes().clone()
}

/// Offsets, keys and values of all data records in the log.
fn rows(log: &Log) -> Vec<(i64, Row)> {
    let (mut next, end) = (log.log_start_offset(), log.log_end_offset());
    let mut found = Vec::new();
    while next < end {
        let slice = log.read(next, end, 700, true).unwrap().expect("a log can be read to its end");
        for batch in batches(&slice) {
            assert!(batch.last_offset() >= next, "a batch came twice");
            next = batch.last_offset().plus(1);
            if !batch.is_control() {
                found.extend(batch.records(Default::default()).unwrap().map(|record| {
                    let record = record.unwrap();
                    assert_eq!((record.timestamp_ms, record.headers.len()), (NOW_MS, 1));
                    let value = record.value.map(|value| value.to_vec());
                    (record.offset.0, (record.key.unwrap()[0], value))
                }));
            }
        }
    }
    found
}

fn batches(slice: &FileSlice) -> Vec<crate::protocol::batch::Batch> {
    let mut bytes = vec![0; slice.len_bytes as usize];
    assert_eq!(slice.file.read_at(slice.position, &mut bytes).unwrap(), bytes.len());
    Batches::parse_stored(bytes.into()).unwrap()
}

fn begin(log: &Arc<Log>, now_ms: i64, max_map_bytes: usize) -> Compaction {
    let end = log.log_end_offset();
    let stable_offset = log.first_unstable_offset(end).unwrap_or(end);
    log.begin_compaction(Compact { now_ms, stable_offset, max_map_bytes }).unwrap()
}

fn finish(mut compaction: Compaction) -> Result<Compacted, CompactError> {
    loop {
        if let Some(done) = compaction.step()?.done {
            return Ok(done);
        }
    }
}

fn compact(log: &Arc<Log>, now_ms: i64, max_map_bytes: usize) -> Compacted {
    finish(begin(log, now_ms, max_map_bytes)).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Append { rows: Vec<(u8, Option<u8>)>, producer: Option<i64>, codec: u8 },
    End { commit: bool },
    Flush,
    Checkpoint,
    Compact { max_map_bytes: usize, later_ms: i64 },
    CrashWhileCompacting { after: u32, sync: bool, seed: u64 },
    Crash { seed: u64 },
    Kill,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let row = (0..6u8, prop::option::weighted(0.8, any::<u8>()));
    let producer = prop::option::of(prop::sample::select(vec![1, 2, TRANSACTIONAL]));
    prop_oneof![
        12 => (prop::collection::vec(row, 1..6), producer, 0..5u8)
            .prop_map(|(rows, producer, codec)| Step::Append { rows, producer, codec }),
        3 => any::<bool>().prop_map(|commit| Step::End { commit }),
        3 => Just(Step::Flush),
        1 => Just(Step::Checkpoint),
        4 => (prop_oneof![Just(1usize), Just(300), Just(1 << 20)], 0..200i64)
            .prop_map(|(max_map_bytes, later_ms)| Step::Compact { max_map_bytes, later_ms }),
        2 => (0..20u32, prop::bool::weighted(0.8), any::<u64>()).prop_map(|(after, sync, seed)| {
            Step::CrashWhileCompacting { after, sync, seed }
        }),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
    ]
}

/// What was appended, by offset; `None` for a marker's row.
#[derive(Default)]
struct Model {
    rows: Vec<(Option<Row>, Option<i64>, bool)>,
    flushed: usize,
}

impl Model {
    /// Rows by offset with whether their transaction was aborted.
    fn data(&self) -> BTreeMap<i64, (Row, bool)> {
        let mut data = BTreeMap::new();
        let mut open = Vec::new();
        for (at, (row, producer, commit)) in self.rows.iter().enumerate() {
            let at = at as i64;
            match row {
                Some(row) => {
                    data.insert(at, (row.clone(), false));
                    if *producer == Some(TRANSACTIONAL) {
                        open.push(at);
                    }
                }
                None => {
                    for at in open.drain(..) {
                        data.get_mut(&at).unwrap().1 = !commit;
                    }
                }
            }
        }
        data
    }
}

struct World {
    dir: SimDir,
    directory: Option<LogDirectory>,
    log: Arc<Log>,
    model: Model,
    now_ms: i64,
}

impl World {
    fn new() -> Self {
        let dir = SimDir::new();
        let directory = directory(&dir);
        let log = create(&directory, config());
        let (model, now_ms) = (Model::default(), NOW_MS);
        Self { dir, directory: Some(directory), log, model, now_ms }
    }

    fn sequence(&self, id: i64) -> i32 {
        let active = self.log.active_producers();
        let held = active.iter().find(|producer| producer.producer_id.0 == id);
        held.map_or(0, |producer| producer.last_sequence + 1)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append { rows, producer, codec } => {
                let rows: Vec<Row> = rows
                    .iter()
                    .map(|(key, value)| (*key, value.map(|value| vec![value; value as usize])))
                    .collect();
                let id = producer.map(|id| (id, self.sequence(id)));
                self.log.append(&[keyed(&rows, id, *codec)], client()).unwrap();
                self.model.rows.extend(rows.into_iter().map(|row| (Some(row), *producer, false)));
            }
            Step::End { commit } => {
                let how = Append { origin: Origin::Coordinator, ..client() };
                self.log.append(&[marker(TRANSACTIONAL, *commit)], how).unwrap();
                self.model.rows.push((None, Some(TRANSACTIONAL), *commit));
            }
            Step::Flush => {
                self.log.flush().unwrap();
                self.model.flushed = self.model.rows.len();
            }
            Step::Checkpoint => self.directory.as_ref().unwrap().checkpoint().unwrap(),
            Step::Compact { max_map_bytes, later_ms } => {
                self.now_ms += later_ms;
                compact(&self.log, self.now_ms, *max_map_bytes);
            }
            Step::CrashWhileCompacting { after, sync, seed } => {
                use SimOperation::{Sync, Write};
                let operation = if *sync { Sync } else { Write };
                let path_contains = String::new();
                let fault = SimFault { operation, path_contains, after: *after, errno: 5 };
                self.dir.inject(fault);
                drop(finish(begin(&self.log, self.now_ms, 1 << 20)));
                self.crash(*seed);
            }
            Step::Crash { seed } => self.crash(*seed),
            Step::Kill => {
                self.directory = None;
                self.dir.kill();
                self.reopen();
            }
            Step::Restart => {
                self.directory.as_ref().unwrap().close().unwrap();
                self.model.flushed = self.model.rows.len();
                self.directory = None;
                self.reopen();
            }
        }
    }

    fn crash(&mut self, seed: u64) {
        self.directory = None;
        self.dir.crash(seed);
        self.reopen();
    }

    fn reopen(&mut self) {
        let directory = directory(&self.dir);
        self.log = match directory.found().first().cloned() {
            Some(name) => directory.load(&name, config(), NOW_MS).unwrap().0,
            None => create(&directory, config()),
        };
        create(&directory, config());
        self.directory = Some(directory);
        let end = self.log.log_end_offset().0 as usize;
        assert!(end >= self.model.flushed, "flushed records are lost");
        self.model.rows.truncate(end);
    }

    fn check(&self) {
        let data = self.model.data();
        let found: BTreeMap<i64, Row> = rows(&self.log).into_iter().collect();
        for (offset, row) in &found {
            assert_eq!(data.get(offset).map(|(row, _)| row), Some(row), "a record changed");
        }
        let mut newest = BTreeMap::new();
        for (offset, ((key, value), aborted)) in &data {
            if !aborted {
                newest.insert(*key, (*offset, value));
            }
        }
        for (offset, value) in newest.values() {
            assert!(value.is_none() || found.contains_key(offset), "a newest value is gone");
        }
        let clean_to = self.directory.as_ref().unwrap().cleaner_point("t-0").unwrap_or_default();
        let mut keys = BTreeSet::new();
        for (offset, (key, _)) in found.range(..clean_to.0) {
            assert!(keys.insert(*key), "a key is twice in what is clean");
            assert!(!data[offset].1, "data of an aborted transaction is left in what is clean");
        }
        let before = self.log.active_producers();
        let _writer = self.log.writer.lock();
        self.log.rebuild_producers(Vec::new()).unwrap();
        assert_eq!(self.log.active_producers(), before, "the producers are not a replay");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_newest_of_each_key_stays_through_crashes(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            if !matches!(step, Step::Append { .. } | Step::End { .. }) {
                world.check();
            }
        }
        world.check();
    }
}

/// Appends enough under other keys that everything before lies in closed segments.
fn push_out(log: &Arc<Log>) {
    for key in 100..104 {
        log.append(&[keyed(&[(key, Some(vec![0; 700]))], None, 0)], client()).unwrap();
    }
    log.flush().unwrap();
}

#[test]
fn a_tombstone_goes_after_the_horizon_and_not_before() {
    let directory = directory(&SimDir::new());
    let log = create(&directory, config());
    log.append(&[keyed(&[(1, Some(vec![1])), (2, Some(vec![2]))], None, 4)], client()).unwrap();
    log.append(&[keyed(&[(1, None)], None, 0)], client()).unwrap();
    let of_key = |key: u8| -> Vec<(i64, Option<Vec<u8>>)> {
        let all = rows(&log).into_iter();
        all.filter(|(_, row)| row.0 == key).map(|(at, row)| (at, row.1)).collect()
    };
    let mut now_ms = NOW_MS;
    for _ in 0..2 {
        push_out(&log);
        compact(&log, now_ms, 1 << 20);
        assert_eq!(of_key(1), [(2, None)]);
        now_ms += 99;
    }
    push_out(&log);
    compact(&log, now_ms, 1 << 20);
    assert_eq!(of_key(1), []);
    assert_eq!(of_key(2), [(1, Some(vec![2]))]);
}

#[test]
fn a_reader_goes_on_with_the_old_file() {
    let directory = directory(&SimDir::new());
    let log = create(&directory, config());
    for value in 0..3 {
        log.append(&[keyed(&[(1, Some(vec![value]))], None, 0)], client()).unwrap();
    }
    push_out(&log);
    let held = log.read(Offset(0), log.log_end_offset(), 300, true).unwrap().unwrap();
    let before = batches(&held);
    let done = compact(&log, NOW_MS, 1 << 20);
    assert!(done.written_bytes < done.read_bytes);
    assert_eq!(batches(&held), before);
    assert_eq!(rows(&log)[0], (2, (1, Some(vec![2]))));
}

#[test]
fn a_log_is_due_until_it_is_clean() {
    let directory = directory(&SimDir::new());
    let log = create(&directory, config());
    let is_due = |now_ms| {
        let dirtiness = log.dirtiness(now_ms, log.log_end_offset());
        dirtiness.is_some_and(|dirtiness| dirtiness.is_due(&log.config()))
    };
    assert!(!is_due(NOW_MS));
    push_out(&log);
    assert!(is_due(NOW_MS));
    assert_eq!(log.dirtiness(NOW_MS, Offset::ZERO), None);
    compact(&log, NOW_MS, 1 << 20);
    assert!(!is_due(NOW_MS));
    let lag = LogConfig {
        max_compaction_lag_ms: 10,
        min_cleanable_dirty_ratio: 1.0,
        ..(*config()).clone()
    };
    log.set_config(Arc::new(lag));
    push_out(&log);
    assert!(!is_due(NOW_MS + 10));
    assert!(is_due(NOW_MS + 11));
}

fn files(dir: &SimDir, suffix: &str) -> Vec<String> {
    let entries = dir.list("t-0").unwrap().into_iter().map(|entry| entry.name);
    entries.filter(|name| name.ends_with(suffix)).collect()
}

#[test]
fn a_log_is_compacted_once_at_a_time_and_a_compaction_may_be_given_up() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let log = create(&directory, config());
    for value in 0..3 {
        log.append(&[keyed(&[(1, Some(vec![value]))], None, 0)], client()).unwrap();
    }
    push_out(&log);
    let before = rows(&log);
    let mut compaction = begin(&log, NOW_MS, 1 << 20);
    let how = Compact { now_ms: NOW_MS, stable_offset: Offset(9), max_map_bytes: 1 };
    assert!(log.begin_compaction(how).is_none());
    while files(&dir, ".cleaned").is_empty() {
        assert_eq!(compaction.step().unwrap().done, None);
    }
    compaction.abandon();
    assert_eq!(files(&dir, ".cleaned"), Vec::<String>::new());
    assert_eq!(rows(&log), before);
    compact(&log, NOW_MS, 1 << 20);
    assert_ne!(rows(&log), before);
}

#[test]
fn a_compaction_does_not_fill_the_disk() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let log = create(&directory, config());
    push_out(&log);
    dir.set_capacity(Some(0));
    let refused = finish(begin(&log, NOW_MS, 1 << 20)).unwrap_err();
    assert!(matches!(refused, CompactError::NoRoom { usable_bytes: 0, .. }), "{refused}");
    assert!(directory.failure().is_none());
    dir.set_capacity(None);
    assert!(compact(&log, NOW_MS, 1 << 20).clean_to > Offset::ZERO);
}

#[test]
fn damage_stops_a_compaction_and_nothing_else() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let log = create(&directory, config());
    push_out(&log);
    dir.corrupt("t-0/00000000000000000000.log", 200, 1);
    let refused = finish(begin(&log, NOW_MS, 1 << 20)).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("/t-0/00000000000000000000.log is corrupt at byte 0"), "{text}");
    assert!(directory.failure().is_none());
    push_out(&log);
}
