//! Sees who leads, all the time.

use std::sync::Arc;

use ottla::client::Client;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Duration, MissedTickBehavior, interval},
};

use crate::{load::Shared, nodes::Watcher, report::Leaders};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);

/// Who led, from the start on.
pub(super) struct Monitor {
    seen: Arc<Mutex<Vec<Leaders>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Monitor {
    pub(super) fn start(client: Client, nodes: Watcher, topic: &str, history: Shared) -> Self {
        let seen = Arc::<Mutex<Vec<Leaders>>>::default();
        let (stop, stopped) = watch::channel(false);
        let watching = watch_leaders(client, nodes, topic.to_owned(), history, Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut stopped = stopped;
            tokio::select! {
                () = watching => {}
                _ = stopped.changed() => {}
            }
        });
        Self { seen, stop, task }
    }

    /// Who led when that was last seen.
    pub(super) fn now(&self) -> Leaders {
        let none = Leaders { at_ms: 0, controller: None, partitions: Vec::new() };
        self.seen.lock().last().cloned().unwrap_or(none)
    }

    /// All that was seen.
    pub(super) async fn finish(&mut self) -> Vec<Leaders> {
        self.stop.send_replace(true);
        let _ = (&mut self.task).await;
        std::mem::take(&mut self.seen.lock())
    }
}

async fn watch_leaders(
    client: Client,
    nodes: Watcher,
    topic: String,
    history: Shared,
    seen: Arc<Mutex<Vec<Leaders>>>,
) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let topics = [topic.as_str()];
        let (controller, refreshed) = tokio::join!(nodes.leader(), client.refresh(&topics, false));
        let mut partitions = seen.lock().last().map_or_else(Vec::new, |it| it.partitions.clone());
        if refreshed.is_ok()
            && let Some(topic) = client.view().topic(&topic)
        {
            partitions = topic.partitions.iter().map(|partition| partition.leader).collect();
        }
        let at_ms = history.lock().now_us() / 1_000;
        let mut seen = seen.lock();
        let changed = seen
            .last()
            .is_none_or(|last| (last.controller, &last.partitions) != (controller, &partitions));
        if changed {
            seen.push(Leaders { at_ms, controller, partitions });
        }
    }
}
