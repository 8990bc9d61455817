//! What clients did and what they were told: the operations of a run, in the order in which they
//! were noted down: a record when it is handed over, all else once it is known.
//!
//! Every record carries a number that is used once in a run, so a record that is read says which
//! operation wrote it. [`crate::check`] holds a history to the rules.

mod file;
mod value;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use self::{
    file::{HistoryFileError, read_ops, write_ops},
    value::{ReadError, epochs, key, number, numbers, value},
};

/// A partition's number.
pub type Partition = i32;
/// What a record carries.
pub type Number = u64;
/// Who does one thing after the other: a producer, a consumer.
pub type Process = u32;
/// Where an operation is in the history.
pub type OpId = usize;

/// For how long single records are noted down as one operation.
const MERGED_US: u64 = 50_000;

/// One thing that a client did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Who.
    pub process: Process,
    /// When it began, since the run did.
    pub began_us: u64,
    /// When it ended; none where it did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_us: Option<u64>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// Up to where records are committed, as a broker said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HighWatermark {
    /// Behind the last one.
    pub offset: i64,
    /// Who said so.
    pub by: i32,
}

/// What was done, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum What {
    /// A record was handed to an idempotent producer. Each process sends to a partition in the
    /// order of its operations.
    Send {
        /// Where to.
        partition: Partition,
        /// What it carries.
        number: Number,
        /// When it was due by the load's rate, which does not wait for the cluster. It begins
        /// later where the producer could not take it yet.
        #[serde(default)]
        due_us: u64,
        /// The broker that acknowledged it, where the client tells.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        by: Option<i32>,
        /// What came of it.
        outcome: Outcome,
    },
    /// A consumer read on.
    Poll {
        /// How it consumes.
        reading: Reading,
        /// From where.
        partition: Partition,
        /// Offsets and numbers.
        records: Vec<(i64, Number)>,
        /// Under which leader epoch records were written: from which of these offsets on which.
        /// Empty where the client does not tell.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        epochs: Vec<(i64, i32)>,
        /// What the broker said is committed; none where the client does not tell.
        high_watermark: Option<HighWatermark>,
    },
    /// A member of the group was given partitions: what it reads from now on.
    Assigned {
        /// Which.
        partitions: Vec<Partition>,
    },
    /// A group's offset was stored, and that acknowledged.
    Commit {
        /// Of what.
        partition: Partition,
        /// The next one to read.
        offset: i64,
    },
    /// A group's stored offset was asked for.
    Committed {
        /// Of what.
        partition: Partition,
        /// What was said.
        offset: i64,
    },
    /// A change of a topic was asked of a node, once.
    Admin {
        /// Of which.
        node: u32,
        /// The topic.
        topic: String,
        /// What was asked.
        change: Change,
        /// What it said.
        answer: Answer,
    },
    /// A node told what it knows.
    Told {
        /// Which.
        node: u32,
        /// How many partitions topics have that are made and deleted in the run.
        topics: BTreeMap<String, i32>,
        /// Of the topic that is written: partition, leader, and leader epoch.
        leaders: Vec<(Partition, i32, i32)>,
    },
    /// Replicas were to be moved.
    Moved {
        /// Of which partition.
        partition: Partition,
        /// To which nodes.
        replicas: Vec<i32>,
        /// Whether the controller took it.
        done: bool,
    },
    /// Something failed that must not, as every outage is shorter than a client's patience.
    Failed {
        /// What.
        reason: String,
    },
}

/// What came of a record that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing was heard.
    Unknown,
    /// It is there, at that offset; -1 where the client was not told at which.
    Acknowledged(i64),
    /// The producer gave it up; it may be there.
    GivenUp(String),
}

/// A change of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is made.
    Create {
        /// With as many.
        partitions: i32,
    },
    /// It is deleted.
    Delete,
    /// It is given more partitions.
    Grow {
        /// As many in all.
        partitions: i32,
    },
    /// Nothing: the controller is asked whether it could be made.
    Look,
}

/// What the controller said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done.
    Done,
    /// The topic is there.
    Exists,
    /// The topic is not there.
    Missing,
    /// The topic has as many partitions, or more.
    HasAsMany,
    /// It was not done, for a reason that says nothing of the topic.
    NotDone,
    /// Nothing is known: it may be done, now or later, or not.
    Unknown,
}

/// How a consumer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// All partitions from their start, along with the writers.
    Along,
    /// What its group assigns to it, from the group's offsets.
    InGroup,
    /// All partitions from their start to their end, once the faults are over.
    AtTheEnd,
}

/// What happens, as it happens.
#[derive(Debug)]
pub struct History {
    began: Instant,
    ops: Vec<Op>,
    next_number: Number,
    /// The last operation of each process that reads record by record.
    reading: BTreeMap<Process, OpId>,
    /// In the order of the acknowledgements.
    acknowledged: BTreeMap<Partition, Vec<Times>>,
    acknowledged_count: usize,
}

/// When a record was handed over, and acknowledged.
#[derive(Debug)]
struct Times {
    sent: Instant,
    acknowledged: Instant,
}

/// How much was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Records handed to producers.
    pub sent: usize,
    /// Records acknowledged.
    pub acknowledged: usize,
    /// Records consumed while nodes were being broken, by all consumers together.
    pub consumed: usize,
    /// Records read in the end.
    pub read: usize,
}

impl Summary {
    /// Of these operations.
    #[must_use]
    pub fn of(ops: &[Op]) -> Self {
        let mut summary = Self::default();
        for op in ops {
            match &op.what {
                What::Send { outcome, .. } => {
                    summary.sent += 1;
                    summary.acknowledged +=
                        usize::from(matches!(outcome, Outcome::Acknowledged(_)));
                }
                What::Poll { reading: Reading::AtTheEnd, records, .. } => {
                    summary.read += records.len();
                }
                What::Poll { records, .. } => summary.consumed += records.len(),
                What::Commit { .. }
                | What::Committed { .. }
                | What::Assigned { .. }
                | What::Admin { .. }
                | What::Told { .. }
                | What::Moved { .. }
                | What::Failed { .. } => {}
            }
        }
        summary
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            ops: Vec::new(),
            next_number: 0,
            reading: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            acknowledged_count: 0,
        }
    }
}

impl History {
    /// How long it lasts so far.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        micros(self.began.elapsed())
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// A process hands over a record: which operation that is, and what the record carries.
    pub fn send(&mut self, process: Process, partition: Partition) -> (OpId, Number) {
        self.send_due(process, partition, Instant::now())
    }

    /// The same, of a record that was due at some time.
    pub fn send_due(
        &mut self,
        process: Process,
        partition: Partition,
        due: Instant,
    ) -> (OpId, Number) {
        let number = self.next_number;
        self.next_number += 1;
        let due_us = micros(due.saturating_duration_since(self.began));
        let outcome = Outcome::Unknown;
        let what = What::Send { partition, number, due_us, by: None, outcome };
        (self.begin(process, what), number)
    }

    /// What came of a record.
    pub fn sent(&mut self, op: OpId, came: Outcome) {
        self.sent_by(op, came, None);
    }

    /// The same, where the client tells which broker answered.
    pub fn sent_by(&mut self, op: OpId, came: Outcome, broker: Option<i32>) {
        let now = self.now_us();
        let began = self.began;
        let Some(op) = self.ops.get_mut(op) else { return };
        op.ended_us = Some(now);
        let What::Send { partition, outcome, by, .. } = &mut op.what else { return };
        *by = broker;
        if matches!(came, Outcome::Acknowledged(_)) {
            let sent = began + Duration::from_micros(op.began_us);
            let times = Times { sent, acknowledged: Instant::now() };
            self.acknowledged.entry(*partition).or_default().push(times);
            self.acknowledged_count += 1;
        }
        *outcome = came;
    }

    /// Something that ends as it begins: what is known is that it was so by now.
    pub fn did(&mut self, process: Process, what: What) -> OpId {
        let id = self.begin(process, what);
        self.ops[id].ended_us = Some(self.ops[id].began_us);
        id
    }

    /// Something that began `from_us` and has ended.
    pub fn did_since(&mut self, process: Process, from_us: u64, what: What) -> OpId {
        let id = self.did(process, what);
        self.ops[id].began_us = from_us;
        id
    }

    /// A consumer has read this.
    pub fn polled(
        &mut self,
        process: Process,
        reading: Reading,
        partition: Partition,
        records: Vec<(i64, Number)>,
        high_watermark: Option<HighWatermark>,
    ) {
        let epochs = Vec::new();
        self.did(process, What::Poll { reading, partition, records, epochs, high_watermark });
    }

    /// A consumer that is given one record after the other has read one. Those that follow each
    /// other make one operation.
    pub fn polled_one(
        &mut self,
        process: Process,
        reading: Reading,
        partition: Partition,
        record: (i64, Number),
    ) {
        let now = self.now_us();
        let last = self.reading.get(&process).and_then(|id| self.ops.get_mut(*id));
        if let Some(last) = last.filter(|last| now - last.began_us <= MERGED_US)
            && let What::Poll { partition: at, records, .. } = &mut last.what
            && *at == partition
        {
            records.push(record);
            last.ended_us = Some(now);
            return;
        }
        self.polled(process, reading, partition, vec![record], None);
        self.reading.insert(process, self.ops.len() - 1);
    }

    /// Something that must not fail did.
    pub fn failed(&mut self, process: Process, reason: &impl ToString) {
        self.did(process, What::Failed { reason: reason.to_string() });
    }

    fn begin(&mut self, process: Process, what: What) -> OpId {
        self.reading.remove(&process);
        self.ops.push(Op { process, began_us: self.now_us(), ended_us: None, what });
        self.ops.len() - 1
    }

    /// All of it.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// How many records are acknowledged so far.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged_count
    }

    /// How long after `since` a record of a partition was acknowledged that was sent after it.
    #[must_use]
    pub fn first_after(&self, partition: Partition, since: Instant) -> Option<Duration> {
        let times = self.acknowledged.get(&partition)?;
        let later = &times[times.partition_point(|times| times.acknowledged <= since)..];
        let first = later.iter().find(|times| times.sent > since)?;
        Some(first.acknowledged - since)
    }

    /// The longest time from `from` to `to` without an acknowledgement for a partition.
    #[must_use]
    pub fn longest_gap(&self, partition: Partition, from: Instant, to: Instant) -> Duration {
        let times = self.acknowledged.get(&partition).map_or(&[][..], Vec::as_slice);
        let first = times.partition_point(|times| times.acknowledged < from);
        let within = times[first..].iter().map(|times| times.acknowledged);
        let mut longest = Duration::ZERO;
        let mut last = from;
        for at in within.take_while(|at| *at <= to).chain([to]) {
            longest = longest.max(at - last);
            last = at;
        }
        longest
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
