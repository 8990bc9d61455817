//! Seeded crashes: what was flushed is there, in order, once; the producers' state is a replay.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append { records: usize, size: usize, producer: Option<i64> },
    Flush,
    Checkpoint,
    Truncate { back: i64 },
    Crash { seed: u64 },
    Kill,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..5usize, 1..900usize, prop::option::of(0..3i64))
            .prop_map(|(records, size, producer)| Step::Append { records, size, producer }),
        3 => Just(Step::Flush),
        1 => Just(Step::Checkpoint),
        1 => (1..20i64).prop_map(|back| Step::Truncate { back }),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
    ]
}

/// What the log should hold.
#[derive(Default)]
struct Model {
    records: Vec<Vec<u8>>,
    /// Ends of batches: a cut falls on one of these.
    ends: Vec<usize>,
    flushed: usize,
    written: u8,
}

struct World {
    dir: SimDir,
    directory: Option<LogDirectory>,
    log: Arc<Log>,
    model: Model,
}

impl World {
    fn new() -> Self {
        let dir = SimDir::new();
        let directory = directory(&dir);
        let log = create(&directory, small());
        Self { dir, directory: Some(directory), log, model: Model::default() }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append { records, size, producer } => self.append(*records, *size, *producer),
            Step::Flush => {
                let end = self.log.flush().unwrap();
                assert_eq!(end, self.log.log_end_offset());
                self.model.flushed = self.model.records.len();
            }
            Step::Checkpoint => self.directory.as_ref().unwrap().checkpoint().unwrap(),
            Step::Truncate { back } => {
                let to = self.log.log_end_offset().plus(-back).max(Offset::ZERO);
                self.log.truncate_to(to).unwrap();
                self.cut_model();
                self.model.flushed = self.model.flushed.min(self.model.records.len());
            }
            Step::Crash { seed } => {
                self.directory = None;
                self.dir.crash(*seed);
                self.reopen();
            }
            Step::Kill => {
                self.directory = None;
                self.dir.kill();
                let before = self.model.records.len();
                self.reopen();
                assert_eq!(self.model.records.len(), before, "a killed process lost records");
            }
            Step::Restart => {
                self.directory.as_ref().unwrap().close().unwrap();
                self.model.flushed = self.model.records.len();
                self.directory = None;
                self.reopen();
            }
        }
    }

    fn append(&mut self, records: usize, size: usize, producer: Option<i64>) {
        self.model.written = self.model.written.wrapping_add(1);
        let values = vec![vec![self.model.written; size]; records];
        let producer = producer.map(|id| (id, self.next_sequence(id)));
        let appended = self.log.append(&[batch(&values, producer)], client()).unwrap();
        assert_eq!(appended.first_offset.0, self.model.records.len() as i64);
        self.model.records.extend(values);
        self.model.ends.push(self.model.records.len());
    }

    fn next_sequence(&self, id: i64) -> i32 {
        let active = self.log.active_producers();
        active
            .iter()
            .find(|producer| producer.producer_id.0 == id)
            .map_or(0, |producer| producer.last_sequence + 1)
    }

    fn reopen(&mut self) {
        let directory = directory(&self.dir);
        self.log = match directory.found().first().cloned() {
            Some(name) => directory.load(&name, small(), NOW_MS).unwrap().0,
            None => create(&directory, small()),
        };
        // As a node does once it knows the partition: gives back the id that a crash may take.
        create(&directory, small());
        self.directory = Some(directory);
        self.cut_model();
        // What is there now was either flushed or survived; a later crash may still take the rest.
    }

    /// The log may be shorter than the model, at a batch's end; the model follows.
    fn cut_model(&mut self) {
        let end = self.log.log_end_offset().0 as usize;
        assert!(end <= self.model.records.len(), "the log invented records");
        let whole = end == 0 || self.model.ends.contains(&end);
        assert!(whole, "the log was cut within a batch");
        self.model.records.truncate(end);
        self.model.ends.retain(|at| *at <= end);
    }

    fn check(&self) {
        assert!(self.model.records.len() >= self.model.flushed, "flushed records are lost");
        let expected: Vec<_> = self
            .model
            .records
            .iter()
            .enumerate()
            .map(|(at, value)| (Offset(at as i64), value.clone()))
            .collect();
        let found = read_all(&self.log);
        let offsets = |records: &[(Offset, Vec<u8>)]| -> Vec<(i64, u8, usize)> {
            records.iter().map(|(at, value)| (at.0, value[0], value.len())).collect()
        };
        assert_eq!(offsets(&found), offsets(&expected));
        assert!(found == expected, "bytes of a record changed");
        let before = self.log.active_producers();
        let _writer = self.log.writer.lock();
        self.log.rebuild_producers(Vec::new()).unwrap();
        assert_eq!(self.log.active_producers(), before, "the producers are not a replay");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_was_flushed_survives_every_crash(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            if !matches!(step, Step::Append { .. }) {
                world.check();
            }
        }
        world.check();
    }
}
