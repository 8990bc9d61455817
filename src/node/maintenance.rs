//! What has to be done to logs from time to time: retention, checkpoints, what was deleted.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::{info, warn};

use crate::{api::Context, replication::Partitions};

/// Runs until the node stops.
pub(super) async fn run(context: Context, mut stop: watch::Receiver<bool>) {
    let mut checkpoint_due = Instant::now();
    let mut retention_due = Instant::now();
    loop {
        let config = context.broker_config();
        let millis = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(1_000).max(1_000));
        let now = Instant::now();
        let job = if now >= checkpoint_due {
            let every = i64::from(config.log_flush_offset_checkpoint_interval_ms);
            checkpoint_due = now + millis(every);
            Some(checkpoint as fn(&Partitions, i64))
        } else if now >= retention_due {
            retention_due = now + millis(config.log_retention_check_interval_ms);
            Some(retain as fn(&Partitions, i64))
        } else {
            None
        };
        if let Some(job) = job {
            let partitions = Arc::clone(&context.partitions);
            let now_ms = context.clock.wall_ms();
            let ran = context.partitions.blocking().run(move || job(&partitions, now_ms));
            if ran.await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = time::sleep_until(checkpoint_due.min(retention_due)) => {}
        }
    }
}

fn checkpoint(partitions: &Partitions, _: i64) {
    partitions.checkpoint();
}

fn retain(partitions: &Partitions, now_ms: i64) {
    for partition in partitions.all().iter().filter(|partition| !partition.is_offline()) {
        let high_watermark = partition.known_high_watermark();
        let log = partition.log();
        log.expire_producers(now_ms);
        match partition.with_log(|log| log.apply_retention(now_ms, high_watermark)) {
            Ok(0) => {}
            Ok(segments) => info!(log = log.name(), segments, "removed old segments"),
            Err(error) => warn!(log = log.name(), %error, "retention failed"),
        }
    }
    for directory in partitions.working_directories() {
        if let Err(error) = directory.sweep() {
            warn!(directory = directory.location(), %error, "deleted logs were not removed");
        }
    }
}
