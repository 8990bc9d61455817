//! Putting another log in the place of a partition's own, which has moved to another directory.
//!
//! Appends wait for it as for another appender; reads go on, in the old log or in the new one.

use std::{sync::Arc, time::Duration};

use tokio::time;

use super::Partition;
use crate::{
    base::BlockingStopped,
    log::{Log, LogError},
};

/// How often to look whether whoever changes the log is done.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Partition {
    /// Reads the log, anew where another has taken its place meanwhile.
    ///
    /// # Errors
    /// Where `read` fails.
    pub fn with_log<T>(&self, read: impl Fn(&Log) -> Result<T, LogError>) -> Result<T, LogError> {
        loop {
            let log = self.log();
            match read(&log) {
                Err(LogError::Closed(_)) if !Arc::ptr_eq(&log, &self.log()) => {}
                outcome => return outcome,
            }
        }
    }

    /// Runs `job`, on the pool, while nobody appends to the log or cuts it. Goes on to its end also
    /// where the caller does not.
    pub(in crate::replication) async fn exchange<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, BlockingStopped> {
        let partition = Arc::clone(self);
        let exchange = tokio::spawn(async move {
            partition.hold().await;
            let held = Arc::clone(&partition);
            let outcome = partition.shared.blocking.run(move || job(&held)).await;
            partition.release();
            outcome
        });
        exchange.await.unwrap_or(Err(BlockingStopped))
    }

    /// Puts `log`, which holds what the one before held, in its place.
    pub(in crate::replication) fn replace_log(&self, log: &Arc<Log>) {
        self.log.store(Arc::clone(log));
    }

    async fn hold(&self) {
        loop {
            {
                let mut inner = self.inner.lock();
                inner.held = true;
                if !inner.writing {
                    return;
                }
            }
            time::sleep(LOOK_EVERY).await;
        }
    }

    fn release(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.held = false;
        inner.flushed = self.log().recovery_point();
        self.count_flushed(&mut inner);
        if inner.pending.is_empty() {
            return self.change_role(inner);
        }
        inner.writing = true;
        drop(inner);
        self.append_pending();
    }
}
