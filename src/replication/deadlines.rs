//! When partitions want to be looked after: one timer for all of them.

use std::{collections::BTreeSet, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep_until};

use super::Partitions;
use crate::base::TopicPartition;

/// The deadlines by time, one for each partition that has one.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    queue: Mutex<BTreeSet<(u64, TopicPartition)>>,
    earlier: Notify,
}

impl Deadlines {
    /// Has the partition looked after at `at_ms` instead of `former_ms`.
    pub(super) fn set(&self, id: TopicPartition, former_ms: Option<u64>, at_ms: u64) {
        let mut queue = self.queue.lock();
        if let Some(former_ms) = former_ms {
            queue.remove(&(former_ms, id));
        }
        let is_first = queue.first().is_none_or(|(first_ms, _)| at_ms < *first_ms);
        queue.insert((at_ms, id));
        drop(queue);
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// Whose time has come by `now_ms`; else when the next one's does.
    fn due(&self, now_ms: u64) -> Result<TopicPartition, Option<u64>> {
        let mut queue = self.queue.lock();
        match queue.first().copied() {
            Some((at_ms, id)) if at_ms <= now_ms => {
                queue.pop_first();
                Ok(id)
            }
            other => Err(other.map(|(at_ms, _)| at_ms)),
        }
    }
}

impl Partitions {
    /// Looks after partitions in time, until it is dropped.
    pub async fn keep_deadlines(&self) {
        let deadlines = &self.shared.deadlines;
        loop {
            match deadlines.due(self.shared.now_ms()) {
                Ok(id) => {
                    if let Some(partition) = self.lookup(id) {
                        partition.handle_deadline();
                    }
                }
                Err(None) => deadlines.earlier.notified().await,
                Err(Some(at_ms)) => {
                    let at = self.shared.origin + Duration::from_millis(at_ms);
                    tokio::select! {
                        () = sleep_until(at) => {}
                        () = deadlines.earlier.notified() => {}
                    }
                }
            }
        }
    }
}
