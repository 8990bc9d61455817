//! Puts together when records fell due and when they were read.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// When the records of a batch fell due: the first, and how far apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) first: Instant,
    pub(super) step: Duration,
    pub(super) count: u32,
}

impl Due {
    /// Records how long after each record was due `done` was, in microseconds.
    pub(super) fn record(self, done: Instant, histogram: &mut Histogram<u64>) {
        let first = done.saturating_duration_since(self.first);
        for n in 0..self.count {
            let latency = first.saturating_sub(self.step * n);
            // Beyond the histogram's range counts as its end.
            histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

/// A histogram of microseconds up to an hour, exact to 0.1 %.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds that are valid")
}

#[derive(Debug, Default)]
struct Halves {
    due: BTreeMap<(i32, i64), Due>,
    read: BTreeMap<(i32, i64), Instant>,
    done: Vec<(Due, Instant)>,
}

/// Batches that were written and batches that were read, by partition and base offset. Either half
/// may come first: a consumer may see a batch before its producer sees the acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Join(Mutex<Halves>);

impl Join {
    pub(super) fn written(&self, partition: i32, base_offset: i64, due: Due) {
        let mut halves = self.0.lock();
        match halves.read.remove(&(partition, base_offset)) {
            Some(read) => halves.done.push((due, read)),
            None => drop(halves.due.insert((partition, base_offset), due)),
        }
    }

    pub(super) fn read(&self, partition: i32, base_offset: i64, at: Instant) {
        let mut halves = self.0.lock();
        match halves.due.remove(&(partition, base_offset)) {
            Some(due) => halves.done.push((due, at)),
            None => drop(halves.read.insert((partition, base_offset), at)),
        }
    }

    /// How many written batches have not been read.
    pub(super) fn missing(&self) -> usize {
        self.0.lock().due.len()
    }

    /// The times from due to read, of records due from `since` on.
    pub(super) fn histogram(&self, since: Instant) -> Histogram<u64> {
        let mut latencies = histogram();
        let halves = self.0.lock();
        for (due, read) in halves.done.iter().filter(|(due, _)| due.first >= since) {
            due.record(*read, &mut latencies);
        }
        latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_record_counts_from_when_it_was_due() {
        let start = Instant::now();
        let due = Due { first: start, step: Duration::from_millis(10), count: 3 };
        let join = Join::default();
        join.read(0, 7, start + Duration::from_millis(50));
        join.written(0, 7, due);
        join.written(0, 10, due);
        let latencies = join.histogram(start);
        assert_eq!((latencies.len(), join.missing()), (3, 1));
        assert!(latencies.equivalent(latencies.max(), 50_000));
        assert!(latencies.equivalent(latencies.min(), 30_000));
    }
}
