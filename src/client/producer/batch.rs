//! Batches of one partition on their way, in the order of their sequences.

use std::collections::VecDeque;

use tokio::{sync::oneshot, time::Instant};

use super::{Delivery, Outcome, Permit};
use crate::client::records::{Body, Record};

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Outcome>,
    pub(super) _held: Permit,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) records: Vec<Record>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) size_bytes: usize,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) body: Body,
    pub(super) waiters: Vec<Waiter>,
    pub(super) sequence: Option<i32>,
    pub(super) since: Instant,
    pub(super) attempts: u32,
    pub(super) maybe_written: bool,
}

impl Batch {
    pub(super) fn finish(self, outcome: &Outcome) {
        for (n, waiter) in (0i64..).zip(self.waiters) {
            let outcome = outcome.clone().map(|delivery| Delivery {
                offset: if delivery.offset < 0 { -1 } else { delivery.offset + n },
                ..delivery
            });
            // The caller may not care.
            drop(waiter.reply.send(outcome));
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) open: Option<Open>,
    pub(super) ready: VecDeque<Batch>,
    pub(super) in_flight: usize,
    /// The node that what is in flight went to.
    pub(super) node: i32,
    pub(super) next_sequence: i32,
    /// Whether the last batch that was answered got through. Until one has, the next could
    /// overtake it: a broker takes any sequence of a producer that it does not know.
    pub(super) flows: bool,
}

impl Queue {
    /// Whether a batch may go to `node` now, where `limit` may be in flight. A new leader gets none
    /// before the former one has answered or is given up: it takes sequences only in their order,
    /// and remembers only the last few.
    pub(super) fn may_send(&self, node: i32, limit: usize) -> bool {
        let limit = if self.flows { limit } else { 1 };
        self.in_flight < limit && (self.in_flight == 0 || self.node == node)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.ready.is_empty() && self.in_flight == 0
    }

    pub(super) fn put_back(&mut self, batch: Batch) {
        let later = |other: &Batch| match (other.sequence, batch.sequence) {
            (Some(other), Some(own)) => other.wrapping_sub(own) > 0,
            (other, _) => other.is_none(),
        };
        let at = self.ready.iter().position(later).unwrap_or(self.ready.len());
        self.ready.insert(at, batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Compression;

    #[test]
    fn a_batch_waits_for_the_first_one_and_for_those_at_a_former_leader() {
        let mut queue = Queue::default();
        assert!(queue.may_send(1, 5));
        (queue.in_flight, queue.node) = (1, 1);
        assert!(!queue.may_send(1, 5), "the first may fail");
        queue.flows = true;
        assert!(queue.may_send(1, 5));
        assert!(!queue.may_send(2, 5), "the first may yet be written there");
        queue.in_flight = 5;
        assert!(!queue.may_send(1, 5));
        queue.in_flight = 0;
        assert!(queue.may_send(2, 5));
    }

    #[test]
    fn a_batch_goes_back_to_its_place() {
        let body = Body {
            bytes: bytes::Bytes::new(),
            count: 1,
            compression: Compression::None,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
        };
        let batch = |sequence| Batch {
            body: body.clone(),
            waiters: Vec::new(),
            sequence,
            since: Instant::now(),
            attempts: 1,
            maybe_written: false,
        };
        let mut queue = Queue::default();
        for sequence in [None, Some(7), Some(5), Some(6)] {
            queue.put_back(batch(sequence));
        }
        let order: Vec<_> = queue.ready.iter().map(|batch| batch.sequence).collect();
        assert_eq!(order, [Some(5), Some(6), Some(7), None]);
    }
}
