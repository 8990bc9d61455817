//! Requests that wait for a partition: writes for their acknowledgement, fetches for records.
//!
//! Nothing here polls. A partition wakes exactly the writes that its progress completes, and a
//! fetch when as many bytes have come as it misses.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio::sync::{Notify, oneshot};

use super::{AppendError, Appended};
use crate::base::Offset;

/// How far a write must have come before its producer hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// This replica has flushed it.
    Flushed,
    /// Every replica of the ISR holds it.
    Committed,
}

/// Where the outcome of an append goes.
pub(crate) type Reply = oneshot::Sender<Result<Appended, AppendError>>;

#[derive(Debug)]
struct Write {
    end: Offset,
    until: Until,
    outcome: Appended,
    reply: Reply,
}

/// Writes that are appended but not yet to be acknowledged, in the order of their offsets.
#[derive(Debug, Default)]
pub(crate) struct WaitingWrites(VecDeque<Write>);

impl WaitingWrites {
    /// Adds a write, which ends at `end`.
    pub(crate) fn push(&mut self, end: Offset, until: Until, outcome: Appended, reply: Reply) {
        if self.0.len() == self.0.capacity() {
            // Producers that gave up would otherwise stay for as long as nothing commits.
            self.0.retain(|write| !write.reply.is_closed());
        }
        // At the back, unless it is a batch that was sent again.
        let at = self.0.partition_point(|write| write.end <= end);
        self.0.insert(at, Write { end, until, outcome, reply });
    }

    /// Acknowledges all that `flushed` and `committed` cover.
    pub(crate) fn complete(&mut self, flushed: Offset, committed: Offset) {
        let done = |write: &Write| match write.until {
            Until::Flushed => write.end <= flushed,
            Until::Committed => write.end <= committed,
        };
        let reach = flushed.max(committed);
        let mut kept = VecDeque::new();
        while self.0.front().is_some_and(|write| write.end <= reach) {
            let Some(write) = self.0.pop_front() else { break };
            if done(&write) {
                drop(write.reply.send(Ok(write.outcome)));
            } else {
                kept.push_front(write);
            }
        }
        for write in kept {
            self.0.push_front(write);
        }
    }

    /// Tells all that wait that this node can no longer say what became of their write.
    pub(crate) fn fail(&mut self, error: &AppendError) {
        for write in self.0.drain(..) {
            drop(write.reply.send(Err(error.clone())));
        }
    }
}

/// A fetch that waits for bytes in any of its partitions.
#[derive(Debug, Default)]
pub(crate) struct FetchWait {
    missing_bytes: AtomicI64,
    ready: Notify,
}

impl FetchWait {
    /// A fetch that misses this many bytes.
    pub(crate) fn missing(bytes: i64) -> Arc<Self> {
        Arc::new(Self { missing_bytes: AtomicI64::new(bytes), ready: Notify::new() })
    }

    /// Waits until the bytes have come or something happened that the client should hear of.
    pub(crate) async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Counts anew what is missing, after a look at the partitions.
    pub(crate) fn reset(&self, bytes: i64) {
        self.missing_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes came that the fetch may see.
    pub(crate) fn handle_bytes(&self, bytes: i64) {
        if self.missing_bytes.fetch_sub(bytes, Ordering::Relaxed) <= bytes {
            self.ready.notify_one();
        }
    }

    /// Something happened that the client should hear of at once.
    pub(crate) fn handle_change(&self) {
        self.ready.notify_one();
    }
}

/// The fetches that wait for one partition.
#[derive(Debug, Default)]
pub(crate) struct WaitingFetches(Vec<Arc<FetchWait>>);

impl WaitingFetches {
    pub(crate) fn add(&mut self, fetch: Arc<FetchWait>) {
        self.0.push(fetch);
    }

    pub(crate) fn remove(&mut self, fetch: &Arc<FetchWait>) {
        self.0.retain(|waiting| !Arc::ptr_eq(waiting, fetch));
    }

    pub(crate) fn handle_bytes(&self, bytes: i64) {
        for fetch in &self.0 {
            fetch.handle_bytes(bytes);
        }
    }

    pub(crate) fn handle_change(&self) {
        for fetch in &self.0 {
            fetch.handle_change();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(first: i64) -> Appended {
        Appended {
            base_offset: Offset(first),
            log_append_time_ms: None,
            log_start_offset: Offset(0),
        }
    }

    #[test]
    fn a_write_is_acknowledged_once_what_it_waits_for_has_come() {
        let mut writes = WaitingWrites::default();
        let mut replies = Vec::new();
        for (end, until) in [(5, Until::Committed), (7, Until::Flushed), (9, Until::Committed)] {
            let (reply, outcome) = oneshot::channel();
            writes.push(Offset(end), until, appended(end - 1), reply);
            replies.push(outcome);
        }
        writes.complete(Offset(8), Offset(0));
        assert!(replies[0].try_recv().is_err());
        assert_eq!(replies[1].try_recv().unwrap().unwrap(), appended(6));
        writes.complete(Offset(8), Offset(5));
        assert_eq!(replies[0].try_recv().unwrap().unwrap(), appended(4));
        writes.fail(&AppendError::NotLeader);
        assert!(matches!(replies[2].try_recv().unwrap(), Err(AppendError::NotLeader)));
    }

    #[tokio::test]
    async fn a_fetch_wakes_when_its_bytes_have_come() {
        let fetch = FetchWait::missing(100);
        let mut fetches = WaitingFetches::default();
        fetches.add(Arc::clone(&fetch));
        fetches.handle_bytes(60);
        assert!(futures::poll!(Box::pin(fetch.ready())).is_pending());
        fetches.handle_bytes(40);
        fetch.ready().await;
        fetches.remove(&fetch);
        fetches.handle_bytes(1_000);
        assert!(futures::poll!(Box::pin(fetch.ready())).is_pending());
    }
}
