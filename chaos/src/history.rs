//! What happened in a run, and what must hold for it.
//!
//! Every record carries a number that is used once. Numbers rise in the order in which records are
//! handed to the producer, so a partition read back must show rising numbers: that says at once
//! that nothing is doubled and nothing overtook.

use std::collections::BTreeMap;

use ottla::client::{BatchError, Fetched};

/// A partition's number.
pub type Partition = i32;
/// What a record carries.
pub type Number = u64;

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A record that was acknowledged is not where it was said to be.
    #[error("{number} was acknowledged at {partition}:{offset}, where {found:?} is read")]
    Lost {
        /// Where.
        partition: Partition,
        /// Where.
        offset: i64,
        /// What was acknowledged.
        number: Number,
        /// What is there.
        found: Option<Number>,
    },
    /// A record that a consumer has read is not there any more.
    #[error("{number} was consumed from {partition}:{offset}, where {found:?} is read")]
    Unread {
        /// Where.
        partition: Partition,
        /// Where.
        offset: i64,
        /// What was consumed.
        number: Number,
        /// What is there.
        found: Option<Number>,
    },
    /// A record is there twice or before one that was sent earlier.
    #[error("{number} at {partition}:{offset} follows {before}")]
    Order {
        /// Where.
        partition: Partition,
        /// Where.
        offset: i64,
        /// What is there.
        number: Number,
        /// What is there before it.
        before: Number,
    },
    /// Offsets do not follow one another.
    #[error("partition {partition} goes on with offset {found} where {expected} is due")]
    Gap {
        /// Where.
        partition: Partition,
        /// The offset that is due.
        expected: i64,
        /// The offset that is read.
        found: i64,
    },
    /// A record that nobody sent there.
    #[error("{number} at {partition}:{offset} was never sent there")]
    Invented {
        /// Where.
        partition: Partition,
        /// Where.
        offset: i64,
        /// What is there.
        number: Number,
    },
    /// The producer gave a record up.
    #[error("{number} was given up: {reason}")]
    GivenUp {
        /// The record.
        number: Number,
        /// The producer's error.
        reason: String,
    },
    /// A consumer failed.
    #[error("a consumer failed: {0}")]
    Consumer(String),
}

/// A record that does not carry a number.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The record.
    #[error("the record at {partition}:{offset} carries no number")]
    NoNumber {
        /// Where.
        partition: Partition,
        /// Where.
        offset: i64,
    },
}

/// What happened.
#[derive(Debug, Default)]
pub struct History {
    sent: BTreeMap<Number, Partition>,
    acknowledged: BTreeMap<(Partition, i64), Number>,
    consumed: BTreeMap<(Partition, i64), Number>,
    read: BTreeMap<Partition, Vec<(i64, Number)>>,
    failures: Vec<Violation>,
}

/// How much was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records handed to the producer.
    pub sent: usize,
    /// Records acknowledged.
    pub acknowledged: usize,
    /// Records consumed while the node was being broken.
    pub consumed: usize,
    /// Records read in the end.
    pub read: usize,
}

impl History {
    /// The next record goes to `partition`: the number that it carries.
    pub fn send(&mut self, partition: Partition) -> Number {
        let number = self.sent.last_key_value().map_or(0, |(last, _)| last + 1);
        self.sent.insert(number, partition);
        number
    }

    /// A record was acknowledged.
    pub fn acknowledged(&mut self, number: Number, partition: Partition, offset: i64) {
        if let Some(other) = self.acknowledged.insert((partition, offset), number) {
            let found = Some(number);
            let lost = Violation::Lost { partition, offset, number: other, found };
            self.failures.push(lost);
        }
    }

    /// How many are acknowledged so far.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged.len()
    }

    /// Something that must not happen.
    pub fn fail(&mut self, violation: Violation) {
        self.failures.push(violation);
    }

    /// A consumer read this while the node was being broken.
    pub fn consumed(&mut self, partition: Partition, records: &[(i64, Number)]) {
        for &(offset, number) in records {
            if let Some(before) = self.consumed.insert((partition, offset), number)
                && before != number
            {
                let found = Some(number);
                let unread = Violation::Unread { partition, offset, number: before, found };
                self.failures.push(unread);
            }
        }
    }

    /// The last reading, from the start of each partition.
    pub fn read(&mut self, partition: Partition, records: &[(i64, Number)]) {
        self.read.entry(partition).or_default().extend_from_slice(records);
    }

    /// What was checked.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            sent: self.sent.len(),
            acknowledged: self.acknowledged.len(),
            consumed: self.consumed.len(),
            read: self.read.values().map(Vec::len).sum(),
        }
    }

    /// Holds everything to the rules.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut violations = self.failures.clone();
        let mut places = BTreeMap::new();
        for (&partition, records) in &self.read {
            let mut before: Option<(i64, Number)> = None;
            for &(offset, number) in records {
                let expected = before.map_or(0, |(offset, _)| offset + 1);
                if offset != expected {
                    violations.push(Violation::Gap { partition, expected, found: offset });
                }
                if self.sent.get(&number) != Some(&partition) {
                    violations.push(Violation::Invented { partition, offset, number });
                }
                if let Some((_, before)) = before
                    && before >= number
                {
                    violations.push(Violation::Order { partition, offset, number, before });
                }
                before = Some((offset, number));
                places.insert((partition, offset), number);
            }
        }
        for (&(partition, offset), &number) in &self.acknowledged {
            let found = places.get(&(partition, offset)).copied();
            if found != Some(number) {
                violations.push(Violation::Lost { partition, offset, number, found });
            }
        }
        for (&(partition, offset), &number) in &self.consumed {
            let found = places.get(&(partition, offset)).copied();
            if found != Some(number) {
                violations.push(Violation::Unread { partition, offset, number, found });
            }
        }
        violations
    }
}

/// What a record of this number says: the number, and a filling.
#[must_use]
pub fn value(number: Number, filling_bytes: usize) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    // Not all zeroes: what a crash tears off reads as zeroes.
    value.resize(8 + filling_bytes, 1 + (number % 250) as u8);
    value
}

/// The offsets and numbers of what was fetched.
///
/// # Errors
/// Where something cannot be read.
pub fn numbers(fetched: &Fetched) -> Result<Vec<(i64, Number)>, ReadError> {
    let partition = fetched.partition.partition;
    let records = fetched.records()?.into_iter().map(|record| {
        let number = record.value.as_ref().and_then(|value| value.first_chunk::<8>());
        let number = number.ok_or(ReadError::NoNumber { partition, offset: record.offset })?;
        Ok((record.offset, Number::from_be_bytes(*number)))
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let mut history = History::default();
        for offset in 0..3 {
            let number = history.send(0);
            history.acknowledged(number, 0, offset);
        }
        history
    }

    #[test]
    fn a_run_without_faults_holds() {
        let mut history = history();
        history.consumed(0, &[(0, 0), (1, 1)]);
        history.read(0, &[(0, 0), (1, 1), (2, 2)]);
        assert_eq!(history.check(), []);
    }

    #[test]
    fn a_lost_record_is_found() {
        let mut history = history();
        history.read(0, &[(0, 0), (1, 1)]);
        let lost = Violation::Lost { partition: 0, offset: 2, number: 2, found: None };
        assert_eq!(history.check(), [lost]);
    }

    #[test]
    fn a_doubled_record_is_found() {
        let mut history = history();
        history.read(0, &[(0, 0), (1, 1), (2, 2), (3, 2)]);
        let order = Violation::Order { partition: 0, offset: 3, number: 2, before: 2 };
        assert_eq!(history.check(), [order]);
    }

    #[test]
    fn a_record_that_was_read_and_vanished_is_found() {
        let mut history = history();
        history.send(0);
        history.consumed(0, &[(3, 3)]);
        history.read(0, &[(0, 0), (1, 1), (2, 2)]);
        let unread = Violation::Unread { partition: 0, offset: 3, number: 3, found: None };
        assert_eq!(history.check(), [unread]);
    }
}
