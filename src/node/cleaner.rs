//! Compaction on this node: which log, when, how fast.
//!
//! One task looks for the logs that gain most, has up to `log.cleaner.threads` of them compacted at
//! a time, and sleeps for `log.cleaner.backoff.ms` where none is worth it. Compactions go in steps
//! on the pool for blocking I/O; between two steps they heed the stop of the node, the topic's
//! settings and `log.cleaner.io.max.bytes.per.second`. All settings are read anew each time, so
//! that they may change at run time.
//!
//! State: the logs that are being compacted, and those that cannot be. Invariant: a log that could
//! not be compacted is not tried again until something about it has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};
use tracing::{debug, error, info, warn};

use super::pace::Pace;
use crate::{
    api::Context,
    base::{Offset, TopicPartition},
    config::BrokerConfig,
    log::{Compact, CompactError, Compacted, Compaction, LogConfig, LogError},
    replication::Partition,
};

/// How soon changed settings are taken up.
const TICK: Duration = Duration::from_secs(1);
/// When to look again whether there is room for a compaction.
const ROOM: Duration = Duration::from_secs(300);

/// What compaction counts.
pub(super) struct Metrics {
    runs: Counter,
    failures: Counter,
    read_bytes: Counter,
    written_bytes: Counter,
    seconds: Histogram,
    running: Gauge,
    dirty_ratio: Gauge,
    uncleanable: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        describe_counter!("ottla_compactions_total", "Compactions of logs that came to their end.");
        describe_counter!("ottla_compactions_failed_total", "Compactions that failed.");
        describe_counter!("ottla_compaction_read_bytes_total", "Bytes of segments compacted.");
        describe_counter!("ottla_compaction_written_bytes_total", "Bytes left of them.");
        describe_histogram!("ottla_compaction_duration_seconds", "How long compactions took.");
        describe_gauge!("ottla_compactions_running", "Logs that are being compacted.");
        describe_gauge!(
            "ottla_compaction_dirtiest_log_ratio",
            "Dirty share of the dirtiest log that may be compacted."
        );
        describe_gauge!(
            "ottla_uncleanable_logs",
            "Logs that could not be compacted and wait for somebody to look after them."
        );
        Self {
            runs: counter!("ottla_compactions_total"),
            failures: counter!("ottla_compactions_failed_total"),
            read_bytes: counter!("ottla_compaction_read_bytes_total"),
            written_bytes: counter!("ottla_compaction_written_bytes_total"),
            seconds: histogram!("ottla_compaction_duration_seconds"),
            running: gauge!("ottla_compactions_running"),
            dirty_ratio: gauge!("ottla_compaction_dirtiest_log_ratio"),
            uncleanable: gauge!("ottla_uncleanable_logs"),
        }
    }
}

/// Why a log is left alone: as long as it is what it was when it failed.
struct Uncleanable {
    config: Arc<LogConfig>,
    log_start_offset: Offset,
    /// When to try again all the same.
    until: Option<Instant>,
}

impl Uncleanable {
    fn holds(&self, partition: &Partition, now: Instant) -> bool {
        let log = partition.log();
        self.until.is_none_or(|until| now < until)
            && *self.config == *log.config()
            && self.log_start_offset == log.log_start_offset()
    }
}

/// How a compaction ended.
enum Outcome {
    Done(Compacted),
    /// The node stops, or the topic is not compacted any more.
    GivenUp,
    Failed(CompactError),
}

struct Cleaner {
    context: Context,
    metrics: Metrics,
    throttle: Arc<Mutex<Pace>>,
    stop: watch::Receiver<bool>,
    running: JoinSet<(Arc<Partition>, Outcome, Duration)>,
    busy: BTreeSet<TopicPartition>,
    uncleanable: BTreeMap<TopicPartition, Uncleanable>,
}

/// Runs until the node stops.
pub(super) async fn run(context: Context, metrics: Metrics, mut stop: watch::Receiver<bool>) {
    let mut cleaner = Cleaner {
        context,
        metrics,
        throttle: Arc::new(Mutex::new(Pace::new())),
        stop: stop.clone(),
        running: JoinSet::new(),
        busy: BTreeSet::new(),
        uncleanable: BTreeMap::new(),
    };
    let mut looked: Option<Instant> = None;
    loop {
        let config = cleaner.context.broker_config();
        let threads = usize::try_from(config.log_cleaner_threads).unwrap_or(0);
        let backoff =
            Duration::from_millis(u64::try_from(config.log_cleaner_backoff_ms).unwrap_or(0));
        let is_due = looked.is_none_or(|looked| looked.elapsed() >= backoff);
        if config.log_cleaner_enable && cleaner.running.len() < threads && is_due {
            let began = match cleaner.most_urgent().await {
                Some(partition) => cleaner.begin(partition, &config),
                None => false,
            };
            looked = (!began).then(Instant::now);
            continue;
        }
        let wait = looked.map_or(TICK, |looked| backoff.saturating_sub(looked.elapsed()).min(TICK));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(Ok((partition, outcome, took))) = cleaner.running.join_next() => {
                if cleaner.ended(&partition, outcome, took) {
                    looked = None;
                }
            }
            // A backoff of nothing must not keep a core busy.
            () = time::sleep(wait.max(Duration::from_millis(1))) => {}
        }
    }
    // They see the stop after their step.
    while cleaner.running.join_next().await.is_some() {}
}

impl Cleaner {
    /// The partition whose log gains most from a compaction, if any is worth it.
    async fn most_urgent(&mut self) -> Option<Arc<Partition>> {
        let now = Instant::now();
        let partitions = self.context.partitions.all();
        let compacted: BTreeMap<_, _> = partitions
            .into_iter()
            .filter(|partition| partition.log().config().compact)
            .map(|partition| (partition.id(), partition))
            .collect();
        self.uncleanable.retain(|id, uncleanable| {
            compacted.get(id).is_some_and(|partition| uncleanable.holds(partition, now))
        });
        self.metrics.uncleanable.set(self.uncleanable.len() as f64);
        let left_alone =
            |id: &TopicPartition| self.busy.contains(id) || self.uncleanable.contains_key(id);
        let candidates: Vec<_> =
            compacted.into_iter().filter(|(id, _)| !left_alone(id)).map(|(_, log)| log).collect();
        let now_ms = self.context.clock.wall_ms();
        let look = move || look(candidates, now_ms);
        let (partition, ratio) = self.context.partitions.blocking().run(look).await.ok()?;
        self.metrics.dirty_ratio.set(ratio);
        partition
    }

    fn begin(&mut self, partition: Arc<Partition>, config: &BrokerConfig) -> bool {
        let stable_offset = partition.stable_end();
        let threads = usize::try_from(config.log_cleaner_threads).unwrap_or(1).max(1);
        let memory = usize::try_from(config.log_cleaner_dedupe_buffer_size_bytes).unwrap_or(0);
        let how = Compact {
            now_ms: self.context.clock.wall_ms(),
            stable_offset,
            max_map_bytes: memory / threads,
        };
        let Some(compaction) = partition.log().begin_compaction(how) else { return false };
        self.busy.insert(partition.id());
        self.metrics.running.set(self.busy.len() as f64);
        let (context, stop) = (self.context.clone(), self.stop.clone());
        let throttle = Arc::clone(&self.throttle);
        self.running.spawn(async move {
            let started = Instant::now();
            let outcome = compact(compaction, context, throttle, stop).await;
            (partition, outcome, started.elapsed())
        });
        true
    }

    /// Returns whether something was compacted, so that there may be more at once.
    fn ended(&mut self, partition: &Partition, outcome: Outcome, took: Duration) -> bool {
        self.busy.remove(&partition.id());
        self.metrics.running.set(self.busy.len() as f64);
        let log = partition.log();
        let log = log.name();
        match outcome {
            Outcome::GivenUp => debug!(log, "a compaction was given up"),
            Outcome::Done(done) => {
                self.metrics.runs.increment(1);
                self.metrics.read_bytes.increment(done.read_bytes);
                self.metrics.written_bytes.increment(done.written_bytes);
                self.metrics.seconds.record(took.as_secs_f64());
                let Compacted { clean_to, read_bytes, written_bytes, merged_segments } = done;
                info!(log, %clean_to, read_bytes, written_bytes, merged_segments, ?took, "compacted");
                return read_bytes > 0;
            }
            Outcome::Failed(failure) => self.failed(partition, &failure),
        }
        false
    }

    fn failed(&mut self, partition: &Partition, failure: &CompactError) {
        self.metrics.failures.increment(1);
        let log = partition.log();
        let name = log.name();
        let until = match failure {
            // The directory has failed, which was told there; its logs are not looked at again.
            CompactError::Log(LogError::Storage(_) | LogError::Offline { .. }) => return,
            CompactError::Log(_) => {
                error!(
                    log = name, error = %failure,
                    "this log cannot be compacted and keeps growing; it is left alone until the \
                     node restarts, its topic's settings change, or its damaged records are \
                     deleted (DeleteRecords, retention)"
                );
                None
            }
            CompactError::NoRoom { .. } => {
                warn!(
                    log = name, error = %failure, retry_after = ?ROOM,
                    "not enough room to compact a log: free some of the volume"
                );
                Some(Instant::now() + ROOM)
            }
        };
        let (config, log_start_offset) = (log.config(), log.log_start_offset());
        self.uncleanable.insert(partition.id(), Uncleanable { config, log_start_offset, until });
        self.metrics.uncleanable.set(self.uncleanable.len() as f64);
    }
}

/// The partition that gains most, and the highest share of dirty bytes. Blocks.
fn look(candidates: Vec<Arc<Partition>>, now_ms: i64) -> (Option<Arc<Partition>>, f64) {
    let dirty = candidates.into_iter().filter_map(|partition| {
        let stable_offset = partition.stable_end();
        let dirtiness = partition.log().dirtiness(now_ms, stable_offset)?;
        Some((dirtiness, partition))
    });
    let (mut ratio, mut most) = (0.0_f64, None);
    for (dirtiness, partition) in dirty {
        ratio = ratio.max(dirtiness.ratio);
        let is_more = most.as_ref().is_none_or(|(most, _)| dirtiness.cmp_urgency(most).is_gt());
        if is_more && dirtiness.is_due(&partition.log().config()) {
            most = Some((dirtiness, partition));
        }
    }
    (most.map(|(_, partition)| partition), ratio)
}

/// Compacts a log, as fast as it may.
async fn compact(
    mut compaction: Compaction,
    context: Context,
    throttle: Arc<Mutex<Pace>>,
    mut stop: watch::Receiver<bool>,
) -> Outcome {
    let blocking = context.partitions.blocking();
    loop {
        loop {
            let rate = context.broker_config().log_cleaner_io_max_bytes_per_second;
            let Some(wait) = throttle.lock().wait(rate) else { break };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = time::sleep(wait.min(TICK)) => {}
            }
        }
        if *stop.borrow() || !compaction.log().config().compact {
            let _ = blocking.run(move || compaction.abandon()).await;
            return Outcome::GivenUp;
        }
        let stepped = blocking.run(move || {
            let step = compaction.step();
            (compaction, step)
        });
        let Ok((went_on, step)) = stepped.await else { return Outcome::GivenUp };
        compaction = went_on;
        match step {
            Err(error) => return Outcome::Failed(error),
            Ok(step) => {
                throttle.lock().spend(step.bytes);
                if let Some(done) = step.done {
                    return Outcome::Done(done);
                }
            }
        }
    }
}
