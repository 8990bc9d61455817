//! A log that moves between two directories under crashes at any point: what was flushed is there,
//! in order, once, wherever it is by then; the copy follows what is cut and deleted.

use proptest::prelude::*;

use super::*;

const EIO: i32 = 5;
const NAME: &str = "t-0";
const INDEX: PartitionIndex = PartitionIndex(0);

#[derive(Debug, Clone)]
enum Step {
    Append {
        records: usize,
        size: usize,
        producer: Option<i64>,
    },
    Flush,
    Checkpoint,
    /// A new leader has cut the log, and writes in its own epoch.
    Truncate {
        back: i64,
    },
    Delete {
        back: i64,
    },
    Begin,
    Copy,
    Swap,
    GiveUp,
    /// The controller is told where the log is.
    Tell,
    /// From the `after`th operation on, one of the disks fails.
    Fault {
        second: bool,
        operation: SimOperation,
        after: u32,
    },
    Crash {
        seed: u64,
    },
    Kill,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![
        Just(SimOperation::Sync),
        Just(SimOperation::Sync),
        Just(SimOperation::Write),
        Just(SimOperation::Read)
    ];
    prop_oneof![
        8 => (1..5usize, 1..900usize, prop::option::of(0..3i64))
            .prop_map(|(records, size, producer)| Step::Append { records, size, producer }),
        3 => Just(Step::Flush),
        1 => Just(Step::Checkpoint),
        1 => (1..20i64).prop_map(|back| Step::Truncate { back }),
        1 => (0..20i64).prop_map(|back| Step::Delete { back }),
        3 => Just(Step::Begin),
        5 => Just(Step::Copy),
        4 => Just(Step::Swap),
        1 => Just(Step::GiveUp),
        2 => Just(Step::Tell),
        2 => (any::<bool>(), operation, 0..30u32)
            .prop_map(|(second, operation, after)| Step::Fault { second, operation, after }),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
    ]
}

/// What the log should hold.
#[derive(Default)]
struct Model {
    records: Vec<Vec<u8>>,
    ends: Vec<usize>,
    flushed: usize,
    /// The log's start, and what of it a crash does not take back.
    start: usize,
    durable_start: usize,
    epoch: i32,
    written: u8,
}

struct World {
    dirs: [SimDir; 2],
    directories: Vec<Arc<LogDirectory>>,
    log: Arc<Log>,
    /// Where the log is, and where the controller believes it to be.
    at: usize,
    said: usize,
    future: Option<Arc<Log>>,
    /// A disk may fail at any time.
    faulty: bool,
    model: Model,
}

impl World {
    fn new() -> Self {
        let dirs = [SimDir::named("-1"), SimDir::named("-2")];
        let directories: Vec<_> = dirs.iter().map(|dir| Arc::new(directory(dir))).collect();
        let log = create(&directories[0], small());
        log.flush().unwrap();
        let model = Model { epoch: 1, ..Model::default() };
        Self { dirs, directories, log, at: 0, said: 0, future: None, faulty: false, model }
    }

    /// Whatever fails takes the node down, which starts again.
    fn step(&mut self, step: &Step) {
        if self.try_step(step).is_none() {
            self.down(|dir, seed| dir.crash(seed), 7);
        }
    }

    fn try_step(&mut self, step: &Step) -> Option<()> {
        match step {
            Step::Append { records, size, producer } => {
                return self.append(*records, *size, *producer);
            }
            Step::Flush => {
                self.log.flush().ok()?;
                self.model.flushed = self.model.records.len();
            }
            Step::Checkpoint => {
                let start = self.model.start;
                self.directories[self.at].checkpoint().ok()?;
                self.model.durable_start = start;
            }
            Step::Truncate { back } => {
                let to = self.log.log_end_offset().plus(-back).max(self.log.log_start_offset());
                // What is cut is not committed, so it was not acknowledged by whoever matters.
                // A batch that it lies in goes whole. Where that is all that is left, the log starts
                // over, and may be found empty after a crash.
                let ends = self.model.ends.iter().copied();
                let kept = ends.filter(|end| *end as i64 <= to.0).max().unwrap_or(0);
                let kept = if kept > self.model.start { kept } else { 0 };
                self.model.flushed = self.model.flushed.min(kept);
                self.log.truncate_to(to).ok()?;
                self.cut_model();
                self.model.flushed = self.model.flushed.min(self.model.records.len());
                self.model.epoch += 1;
            }
            Step::Delete { back } => {
                let end = self.log.log_end_offset();
                let to = end.plus(-back).max(self.log.log_start_offset());
                self.model.start = to.0 as usize;
                self.log.delete_records(to, end).ok()?;
            }
            Step::Begin => {
                if self.future.is_none() {
                    let to = &self.directories[1 - self.at];
                    self.future = Some(to.begin_future(&self.log, small(), NOW_MS).ok()?);
                }
            }
            Step::Copy => {
                if let Some(future) = &self.future {
                    copy(&self.log, future, 1_500, NOW_MS).ok()?;
                }
            }
            Step::Swap => return self.swap(),
            Step::GiveUp => {
                if let Some(future) = self.future.take() {
                    self.directories[1 - self.at].drop_future(&future).ok()?;
                }
            }
            Step::Tell => {
                self.said = self.at;
                self.directories[1 - self.at].delete_moved(NAME).ok()?;
            }
            Step::Fault { second, operation, after } => {
                self.faulty = true;
                self.dirs[usize::from(*second)].inject(SimFault {
                    operation: *operation,
                    path_contains: String::new(),
                    after: *after,
                    errno: EIO,
                });
            }
            Step::Crash { seed } => self.down(|dir, seed| dir.crash(seed), *seed),
            Step::Kill => self.down(|dir, _| dir.kill(), 0),
            Step::Restart => {
                for directory in &self.directories {
                    directory.close().ok()?;
                }
                self.model.flushed = self.model.records.len();
                self.model.durable_start = self.model.start;
                self.down(|dir, _| dir.kill(), 0);
            }
        }
        Some(())
    }

    fn swap(&mut self) -> Option<()> {
        let Some(future) = self.future.clone() else { return Some(()) };
        let (from, to) = (&self.directories[self.at], &self.directories[1 - self.at]);
        if from.has_moved("t", INDEX) || to.has_moved("t", INDEX) {
            return Some(());
        }
        let mut published = None;
        let swapped = swap((&self.log, from), (&future, to), NOW_MS, |log| {
            published = Some(Arc::clone(log));
        });
        if let Ok(log) = swapped {
            assert!(published.is_some_and(|published| Arc::ptr_eq(&published, &log)));
            assert_eq!(log.active_producers(), self.log.active_producers());
            assert_eq!(log.leader_epochs(), self.log.leader_epochs());
            assert_eq!(log.log_start_offset(), self.log.log_start_offset());
            (self.log, self.at, self.future) = (log, 1 - self.at, None);
            // All of it was flushed first, and where it starts.
            self.model.flushed = self.model.records.len();
            self.model.durable_start = self.model.start;
            return Some(());
        }
        if self.directories[self.at].failure().is_none() {
            // The log goes on where it was: what is acknowledged now must be there after a crash.
            self.append(1, 10, None)?;
            self.log.flush().ok()?;
            self.model.flushed = self.model.records.len();
        }
        None
    }

    fn append(&mut self, records: usize, size: usize, producer: Option<i64>) -> Option<()> {
        self.model.written = self.model.written.wrapping_add(1);
        let values = vec![vec![self.model.written; size]; records];
        let producer = producer.map(|id| (id, self.next_sequence(id)));
        let how = Append { leader_epoch: LeaderEpoch(self.model.epoch), ..client() };
        let before = self.model.records.len();
        self.model.records.extend(values.clone());
        self.model.ends.push(self.model.records.len());
        let appended = self.log.append(&[batch(&values, producer)], how).ok()?;
        assert_eq!(appended.first_offset.0, before as i64);
        Some(())
    }

    fn next_sequence(&self, id: i64) -> i32 {
        let active = self.log.active_producers();
        let known = active.iter().find(|producer| producer.producer_id.0 == id);
        known.map_or(0, |producer| producer.last_sequence + 1)
    }

    /// The node ends and starts again, as it does where it has several directories.
    fn down(&mut self, end: impl Fn(&SimDir, u64), seed: u64) {
        (self.future, self.faulty) = (None, false);
        self.directories.clear();
        for (n, dir) in self.dirs.iter().enumerate() {
            dir.clear_faults();
            end(dir, seed.wrapping_add(n as u64));
        }
        self.directories = self.dirs.iter().map(|dir| Arc::new(directory(dir))).collect();
        settle(&self.directories).unwrap();
        for directory in &self.directories {
            for name in directory.found() {
                directory.load(&name, small(), NOW_MS).unwrap();
            }
        }
        let there: Vec<usize> =
            (0..2).filter(|n| self.directories[*n].log("t", INDEX).is_some()).collect();
        self.at = match *there {
            [at] => at,
            [_, _] => {
                // As an image would that says where it is.
                let stray = &self.directories[1 - self.said];
                stray.set_aside(&stray.log("t", INDEX).unwrap()).unwrap();
                self.said
            }
            _ => panic!("the log is gone"),
        };
        self.log = create(&self.directories[self.at], small());
        let to = &self.directories[1 - self.at];
        self.future = to.load_future(NAME, Some(&self.log), small(), NOW_MS).unwrap();
        if self.said == self.at {
            to.delete_moved(NAME).unwrap();
        }
        let start = self.log.log_start_offset().0 as usize;
        assert!(start <= self.model.start, "more was deleted than was asked for");
        assert!(start >= self.model.durable_start, "undeleted");
        self.model.start = start;
        self.cut_model();
    }

    /// The log may be shorter than the model, at a batch's end; the model follows.
    fn cut_model(&mut self) {
        let end = self.log.log_end_offset().0 as usize;
        assert!(end <= self.model.records.len(), "the log invented records");
        let whole = end == 0 || end == self.model.start || self.model.ends.contains(&end);
        assert!(whole, "the log was cut within a batch");
        self.model.records.truncate(end);
        self.model.ends.retain(|at| *at <= end);
        // A log that begins anew where it starts, within a former batch, may be cut to there again.
        if self.model.ends.last() != Some(&end) {
            self.model.ends.push(end);
        }
        self.model.start = self.model.start.min(end);
    }

    fn check(&self) {
        assert!(self.model.records.len() >= self.model.flushed, "flushed records are lost");
        let others = self.directories[1 - self.at].log("t", INDEX);
        assert!(others.is_none(), "both directories have the replica");
        if self.faulty {
            return;
        }
        let found = read_all(&self.log);
        let from = self.model.start;
        let expected = self.model.records[from..].iter().enumerate();
        let expected: Vec<_> =
            expected.map(|(n, value)| (Offset((from + n) as i64), value.clone())).collect();
        assert_eq!(found.len(), expected.len());
        assert!(found == expected, "bytes of a record changed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_flushed_is_in_one_directory_after_every_crash(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            if matches!(step, Step::Swap | Step::Crash { .. } | Step::Kill | Step::Restart) {
                world.check();
            }
        }
        world.down(|dir, seed| dir.crash(seed), 1);
        world.check();
    }
}

/// Each operation of a swap fails once, on each of the disks, and a power cut follows.
#[test]
fn a_swap_may_end_at_any_operation() {
    let mut swaps = 0;
    for (second, operation) in [false, true].into_iter().flat_map(|second| {
        [SimOperation::Sync, SimOperation::Write, SimOperation::Read].map(|one| (second, one))
    }) {
        for after in 0..60 {
            let mut world = World::new();
            let append = Step::Append { records: 3, size: 900, producer: Some(1) };
            for step in [&append, &append, &Step::Flush, &Step::Begin, &Step::Copy, &append] {
                world.step(step);
            }
            world.step(&Step::Fault { second, operation, after });
            world.step(&Step::Swap);
            swaps += usize::from(world.at == 1);
            world.check();
            world.down(|dir, seed| dir.crash(seed), u64::from(after));
            world.check();
            world.step(&Step::Swap);
            world.step(&Step::Tell);
            world.step(&append);
            world.step(&Step::Flush);
            world.check();
        }
    }
    assert!((60..359).contains(&swaps), "{swaps}");
}

#[test]
fn a_copy_follows_what_is_cut_compacted_and_deleted() {
    let mut world = World::new();
    let append = Step::Append { records: 4, size: 900, producer: Some(1) };
    for step in [&append, &append, &append, &Step::Begin, &Step::Copy, &Step::Copy] {
        world.step(step);
    }
    let turn = world.log.begin_copy().unwrap();
    let how = Compact { now_ms: NOW_MS, stable_offset: Offset(12), max_map_bytes: 1 << 20 };
    assert!(world.log.begin_compaction(how).is_none(), "compacted beside a copy");
    drop(turn);
    let future = world.future.clone().unwrap();
    let copied = future.log_end_offset();
    assert!(copied > Offset::ZERO && copied < world.log.log_end_offset());
    world.step(&Step::Truncate { back: 12 });
    for step in [&append, &append, &append, &Step::Delete { back: 3 }, &Step::Copy] {
        world.step(step);
    }
    assert_eq!(future.leader_epochs().last().unwrap().epoch, LeaderEpoch(2));
    for step in [&Step::Swap, &Step::Tell] {
        world.step(step);
    }
    assert_eq!(world.at, 1);
    assert_eq!(world.log.log_start_offset(), Offset(9));
    world.check();
}
