//! Flushing: by `flush.messages`, shared by all who wait for it, and by `flush.ms`.

use std::{sync::Arc, time::Duration};

use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::{AppendError, Inner, Partition, Shared, role::Role};
use crate::{
    base::{BlockingStopped, Offset},
    log::LogError,
};

impl Partition {
    /// After appends as the leader: starts a flush, or the timer for one.
    pub(super) fn flush_if_due(self: &Arc<Self>, inner: &mut Inner) {
        let unflushed = self.log().log_end_offset().since(inner.flushed);
        if unflushed <= 0 {
            return;
        }
        if unflushed < inner.config.flush_messages {
            self.start_flush_timer(inner);
        } else if !std::mem::replace(&mut inner.flushing, true) {
            self.start_flush();
        }
    }

    /// After appends as a follower, whose core has flushes made by `flush.messages`.
    pub(super) fn flush_in_time(self: &Arc<Self>, inner: &mut Inner) {
        let unflushed = self.log().log_end_offset().since(inner.flushed);
        if (1..inner.config.flush_messages).contains(&unflushed) {
            self.start_flush_timer(inner);
        }
    }

    /// Has what is in the log now flushed by `flush.ms`.
    fn start_flush_timer(self: &Arc<Self>, inner: &mut Inner) {
        let flush_ms = u64::try_from(inner.config.flush_ms).unwrap_or(0);
        if inner.config.flush_ms == i64::MAX || std::mem::replace(&mut inner.flush_timer, true) {
            return;
        }
        let partition = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(flush_ms)).await;
            if let Some(partition) = partition.upgrade() {
                partition.flush_by_time();
            }
        });
    }

    fn flush_by_time(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.flush_timer = false;
        if !std::mem::replace(&mut inner.flushing, true) {
            self.start_flush();
        }
    }

    /// Flushes for all who wait, until nobody does.
    fn start_flush(self: &Arc<Self>) {
        let partition = Arc::clone(self);
        tokio::spawn(async move { while partition.flush_once().await {} });
    }

    /// Returns whether there is more to flush.
    async fn flush_once(self: &Arc<Self>) -> bool {
        let flushed = self.run_flush().await;
        let mut inner = self.inner.lock();
        let failed = match flushed {
            Ok(Ok(())) => {
                inner.flushed = self.log().recovery_point();
                self.count_flushed(&mut inner);
                false
            }
            // The directory is offline now and says why; whoever waits learns that the outcome is
            // not known.
            Ok(Err(error)) => {
                inner.writes.fail(&AppendError::Log(error.into()));
                true
            }
            Err(_) => {
                inner.writes.fail(&AppendError::NotLeader);
                true
            }
        };
        let unflushed = self.log().log_end_offset().since(inner.flushed);
        let is_leading = matches!(inner.role, Role::Leading(_));
        if !failed && is_leading && unflushed >= inner.config.flush_messages.max(1) {
            return true;
        }
        inner.flushing = false;
        if unflushed > 0 && !failed {
            // They came while the timer, if it was up, found this flush under way.
            self.start_flush_timer(&mut inner);
        }
        false
    }

    pub(super) fn count_flushed(self: &Arc<Self>, inner: &mut Inner) {
        let now_ms = self.shared.now_ms();
        if let Role::Leading(leading) = &mut inner.role {
            leading.core.handle_own_acknowledged(inner.flushed, now_ms);
            self.lead_on(inner);
        }
        inner.writes.complete(inner.flushed, inner.high_watermark);
    }

    /// Flushes for the follower's core, which asked for it under `number`.
    pub(super) fn flush_for_follower(self: &Arc<Self>, number: u64) {
        let partition = Arc::clone(self);
        tokio::spawn(async move {
            let flushed = partition.run_flush().await;
            let mut inner = partition.inner.lock();
            match flushed {
                Ok(Ok(())) => partition.handle_follower_flushed(inner, number),
                // The directory is offline now and says why; or the node stops.
                Ok(Err(_)) | Err(_) => partition.give_up(&mut inner),
            }
        });
    }

    fn handle_follower_flushed(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, number: u64) {
        // What is true of the log as it is now, whatever was cut while the flush ran.
        let flushed: Offset = self.log().recovery_point();
        inner.flushed = flushed;
        if let Role::Following(following) = &mut inner.role {
            following.core.handle_flushed(number, flushed);
        }
        self.follow_on(inner);
    }

    async fn run_flush(self: &Arc<Self>) -> Result<Result<(), LogError>, BlockingStopped> {
        let partition = Arc::clone(self);
        let Shared { blocking, metrics, .. } = &*self.shared;
        let started = Instant::now();
        let flushed = blocking.run(move || partition.with_log(|log| log.flush().map(drop))).await;
        match &flushed {
            Ok(Ok(())) => metrics.flush_seconds.record(started.elapsed().as_secs_f64()),
            // Not tried: another one failed before, or the log is gone.
            Ok(Err(LogError::Offline { .. } | LogError::Closed(_))) | Err(_) => {}
            Ok(Err(_)) => metrics.failed_flushes.increment(1),
        }
        flushed
    }
}
