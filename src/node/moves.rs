//! Moves replicas between the log directories of the node, some at a time, no faster than
//! `replica.alter.log.dirs.io.max.bytes.per.second`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet, time};

use super::pace::Pace;
use crate::{
    api::Context,
    base::TopicPartition,
    replication::{Move, Stepped},
};

/// How soon new moves are seen, and a changed rate.
const TICK: Duration = Duration::from_millis(200);
/// How soon a move that waits is looked at again.
const WAIT: Duration = Duration::from_millis(20);

/// Runs until the node stops.
pub(super) async fn run(context: Context, mut stop: watch::Receiver<bool>) {
    let mut pace = Pace::new();
    let mut running: JoinSet<(Arc<Move>, Option<Stepped>)> = JoinSet::new();
    let mut busy = BTreeSet::new();
    // The turn goes round, so that a small replica does not wait for a large one.
    let mut last: Option<TopicPartition> = None;
    loop {
        if running.is_empty() && context.partitions.moves().is_empty() {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = time::sleep(TICK) => continue,
            }
        }
        let config = context.broker_config();
        let directories = context.partitions.directories().len();
        let threads = config.num_replica_alter_log_dirs_threads;
        let threads = threads.and_then(|n| usize::try_from(n).ok()).unwrap_or(directories).max(1);
        let wait = pace.wait(config.replica_alter_log_dirs_io_max_bytes_per_second as f64);
        let mut began = false;
        if wait.is_none() && busy.len() < threads {
            let moves: BTreeMap<_, _> = context
                .partitions
                .moves()
                .into_iter()
                .map(|one| (one.partition().id(), one))
                .filter(|(id, _)| !busy.contains(id))
                .collect();
            let next = moves.iter().find(|(id, _)| last.is_none_or(|last| **id > last));
            if let Some((id, one)) = next.or_else(|| moves.iter().next()) {
                last = Some(*id);
                busy.insert(*id);
                let (one, context) = (Arc::clone(one), context.clone());
                running.spawn(async move {
                    let stepped = context.partitions.step(&one).await;
                    if let Ok(Stepped::Waits) = stepped {
                        time::sleep(WAIT).await;
                    }
                    (one, stepped.ok())
                });
                began = true;
            }
        }
        if began {
            continue;
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(Ok((one, stepped))) = running.join_next() => {
                busy.remove(&one.partition().id());
                if let Some(Stepped::Copied(bytes)) = stepped {
                    pace.spend(bytes);
                }
            }
            () = time::sleep(wait.unwrap_or(TICK).min(TICK)) => {}
        }
    }
    while running.join_next().await.is_some() {}
}
