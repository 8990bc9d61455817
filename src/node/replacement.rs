//! Has the replicas of a log directory that failed begin anew in another one of the node, once it
//! has been offline for `ottla.log.dir.replacement.grace.ms` (see `replication::replacement`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::{info, warn};

use crate::{api::Context, replication::Lost};

/// How often to look.
const TICK: Duration = Duration::from_millis(500);
/// How often to say that there is no room.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// Runs until the node stops.
pub(super) async fn run(context: Context, mut stop: watch::Receiver<bool>) {
    let mut failed = BTreeMap::<String, Instant>::new();
    let mut said: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = time::sleep(TICK) => {}
        }
        for directory in context.partitions.directories() {
            if directory.failure().is_some() {
                failed.entry(directory.location()).or_insert_with(Instant::now);
            }
        }
        let grace_ms = context.broker_config().ottla_log_dir_replacement_grace_ms;
        let Ok(grace_ms) = u64::try_from(grace_ms) else { continue };
        let grace = Duration::from_millis(grace_ms);
        if !failed.values().any(|since| since.elapsed() >= grace) {
            continue;
        }
        let is_over = |lost: &Lost| match &lost.directory {
            Some(directory) => failed.get(directory).is_some_and(|since| since.elapsed() >= grace),
            // It may be in any of them.
            None => failed.values().all(|since| since.elapsed() >= grace),
        };
        let mut lost = context.partitions.lost(&context.image());
        lost.retain(is_over);
        if lost.is_empty() {
            continue;
        }
        let (partitions, replicas) = (Arc::clone(&context.partitions), lost.len());
        let place = move || partitions.place_anew(lost);
        let Ok(placed) = context.partitions.blocking().run(place).await else { return };
        if placed > 0 {
            info!(
                replicas = placed,
                ?grace,
                "replicas of a failed log directory begin anew in another one"
            );
        }
        if placed < replicas && said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            said = Some(Instant::now());
            warn!(
                replicas = replicas - placed,
                "no log directory of this node has room for replicas of a failed one: free some \
                 space, repair the disk and restart the node, or move them to other nodes \
                 (ottla topic reassign)"
            );
        }
    }
}
