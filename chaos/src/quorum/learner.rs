//! A learner that was away while the metadata log grew past what its leader keeps of it.
//!
//! Measured: how long it takes to catch up by a snapshot, what the leader's changes feel of it, and
//! how much memory the nodes take beyond what they have when nothing happens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kafka_protocol::{
    messages::{
        ApiKey, IncrementalAlterConfigsRequest,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        incremental_alter_configs_response::AlterConfigsResourceResponse,
    },
    protocol::StrBytes,
};
use ottla::client::{Client, ClientError, Lane, Target, WireError};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};

use super::{QuorumConfig, QuorumError, changes};
use crate::nodes::{LOOK, Nodes, PATIENCE};

/// The learner; the nodes before it vote.
const LEARNER: u32 = 4;
const VOTERS: [u32; 3] = [1, 2, 3];
/// Entries that make the leader forget what a learner missed: more than twice its margin.
const ENTRIES: u64 = 25_000;
/// Changes under way while the log is made to grow.
const WRITERS: u64 = 32;
/// Changes under way while they are measured, and the pause of each after a change.
const PROBES: u64 = 4;
const PROBE_PAUSE: Duration = Duration::from_millis(10);
/// How long the nodes are left alone before and after.
const REST: Duration = Duration::from_secs(3);
/// How often the nodes are asked for their memory.
const WATCH: Duration = Duration::from_millis(100);
/// How long it is measured what is usual.
const USUAL: Duration = Duration::from_secs(10);
/// Kafka's number of groups among resources.
const GROUP: i8 = 32;

/// What it is held to.
const CAUGHT_UP_MAX_MS: u64 = 10_000;
const SLOWER_MAX: f64 = 2.0;
const MEMORY_MAX_MIB: u64 = 64;

/// How long changes took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// How many there were.
    pub count: usize,
    /// Half took no longer.
    pub median_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
}

impl Latency {
    fn of(mut took_us: Vec<u64>) -> Self {
        took_us.sort_unstable();
        let count = took_us.len();
        let at = |percent: usize| (count * percent).div_ceil(100).saturating_sub(1);
        let of = |percent| took_us.get(at(percent)).copied().unwrap_or_default();
        Self { count, median_us: of(50), p99_us: of(99) }
    }
}

/// Memory of one node.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// The node.
    pub node: u32,
    /// With nothing to do: before, or for the learner afterwards.
    pub idle_mib: u64,
    /// The most while the learner caught up.
    pub most_mib: u64,
}

impl Memory {
    const fn of(node: u32) -> Self {
        Self { node, idle_mib: 0, most_mib: 0 }
    }
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Records that the learner missed.
    pub records: u64,
    /// Entries of the log that hold them.
    pub entries: u64,
    /// How long they took to be written.
    pub written_ms: u64,
    /// From the learner's start until it had applied all that was committed before.
    pub caught_up_ms: u64,
    /// Changes through the leader, without and with a learner that catches up.
    pub usual: Latency,
    /// See `usual`.
    pub meanwhile: Latency,
    /// Of each node.
    pub memory: Vec<Memory>,
    /// What is not as it should be.
    pub missed: Vec<String>,
}

impl Report {
    fn judge(mut self) -> Self {
        if self.caught_up_ms > CAUGHT_UP_MAX_MS {
            self.missed.push(format!("it took {} ms to catch up", self.caught_up_ms));
        }
        let (usual, meanwhile) = (self.usual.p99_us, self.meanwhile.p99_us);
        if meanwhile as f64 > SLOWER_MAX * usual as f64 {
            self.missed.push(format!("p99 of changes was {meanwhile} µs, and is {usual} µs else"));
        }
        for memory in &self.memory {
            let Memory { node, idle_mib, most_mib } = *memory;
            if most_mib > idle_mib + MEMORY_MAX_MIB {
                let missed = format!("node {node} took {most_mib} MiB, and {idle_mib} MiB idle");
                self.missed.push(missed);
            }
        }
        self
    }
}

/// Gives settings to groups that have none: they cost a node no more than metadata, and the image,
/// and so the snapshot, grows with every record.
struct Changes {
    client: Client,
    next: AtomicU64,
}

impl Changes {
    /// Through `node` from here on.
    fn through(&self, nodes: &Nodes, node: u32, seed: u64) -> Result<Arc<Self>, ClientError> {
        let client = changes::client(nodes.kafka_address(node), seed)?;
        let next = AtomicU64::new(self.next.load(Ordering::Relaxed));
        Ok(Arc::new(Self { client, next }))
    }

    /// One entry with `records` records, as soon as somebody takes it. To be made twice changes
    /// nothing.
    async fn make(&self, records: u64) -> Result<(), ClientError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + PATIENCE;
        loop {
            match self.attempt(number, records).await {
                Err(_) if Instant::now() < until => sleep(LOOK).await,
                done => return done,
            }
        }
    }

    async fn attempt(&self, number: u64, records: u64) -> Result<(), ClientError> {
        let resources = (0..records).map(|group| {
            let config = AlterableConfig::default()
                .with_name(StrBytes::from_static_str("consumer.session.timeout.ms"))
                .with_value(Some(StrBytes::from_static_str("50000")));
            AlterConfigsResource::default()
                .with_resource_type(GROUP)
                .with_resource_name(StrBytes::from_string(format!("group-{number}-{group}")))
                .with_configs(vec![config])
        });
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources.collect());
        let answer = self.client.call(Target::Any, Lane::GENERAL, &request).await?;
        let refused = |one: &AlterConfigsResourceResponse| {
            let error = WireError::try_from_code(one.error_code)?;
            let (api, subject) =
                (ApiKey::IncrementalAlterConfigs, one.resource_name.as_str().into());
            let message = one.error_message.as_deref().map(Into::into);
            Some(ClientError::Refused { api, subject, error, message })
        };
        answer.responses.iter().find_map(refused).map_or(Ok(()), Err)
    }

    /// Makes `entries` of them, as fast as it goes.
    async fn write(self: &Arc<Self>, entries: u64, records: u64) -> Result<(), QuorumError> {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let changes = Arc::clone(self);
            let share = entries / WRITERS + u64::from(writer < entries % WRITERS);
            writers.spawn(async move {
                for _ in 0..share {
                    changes.make(records).await?;
                }
                Ok::<(), ClientError>(())
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap_or(Err(ClientError::OutcomeUnknown))?;
        }
        Ok(())
    }
}

/// Measures how long changes take, until it is told to end.
struct Probe {
    took_us: Arc<Mutex<Vec<u64>>>,
    tasks: JoinSet<Result<(), ClientError>>,
}

impl Probe {
    fn start(changes: &Arc<Changes>) -> Self {
        let took_us = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..PROBES {
            let (changes, took_us) = (Arc::clone(changes), Arc::clone(&took_us));
            tasks.spawn(async move {
                loop {
                    let begun = Instant::now();
                    changes.make(1).await?;
                    took_us.lock().push(begun.elapsed().as_micros() as u64);
                    sleep(PROBE_PAUSE).await;
                }
            });
        }
        Self { took_us, tasks }
    }

    async fn end(mut self) -> Result<Latency, QuorumError> {
        // Only a probe that failed has ended.
        if let Some(Ok(failed)) = self.tasks.try_join_next() {
            failed?;
        }
        self.tasks.shutdown().await;
        Ok(Latency::of(std::mem::take(&mut *self.took_us.lock())))
    }
}

/// Has a learner miss `records` records, and catch up.
///
/// # Errors
/// Where the nodes do not come up or go down as they should, or changes are refused.
pub async fn run(
    config: &QuorumConfig,
    records: u64,
    mut progress: impl FnMut(String),
) -> Result<Report, QuorumError> {
    let mut nodes = Nodes::prepare(&config.binary, &config.directory, LEARNER)?;
    for node in VOTERS {
        nodes.start(node, &VOTERS)?;
    }
    nodes.bootstrap(&VOTERS).await?;
    let leader = nodes.leader().await?;
    let client = changes::client(nodes.kafka_address(leader), config.seed)?;
    let changes = Arc::new(Changes { client, next: AtomicU64::new(0) });
    changes.make(1).await?;
    nodes.start(LEARNER, &VOTERS)?;
    let target = nodes_applied(&nodes, leader).await;
    caught_up(&mut nodes, target).await?;
    let had = nodes_applied(&nodes, LEARNER).await;
    nodes.stop(LEARNER).await?;
    progress(format!("node {LEARNER} is away, node {leader} leads"));

    let per_entry = (records / ENTRIES).max(1);
    let entries = records.div_ceil(per_entry);
    let begun = Instant::now();
    changes.write(entries, per_entry).await?;
    let written = begun.elapsed();
    progress(format!("{records} records in {entries} entries within {written:?}"));
    sleep(REST).await;
    // Another one may lead by now.
    let leader = nodes.leader().await?;
    let changes = changes.through(&nodes, leader, config.seed)?;
    let mut memory: Vec<Memory> = VOTERS.map(Memory::of).into();
    let usual = usual(&nodes, &changes, &mut memory).await?;
    progress(format!("usual: {usual:?}"));

    let mut missed = Vec::new();
    let kept_from = nodes.metric(leader, "ottla_raft_log_start_index").await.unwrap_or_default();
    if kept_from <= had as f64 + 1.0 {
        let text = format!("the leader kept the log from {kept_from} on, so there was no snapshot");
        missed.push(text);
    }
    let target = nodes_applied(&nodes, leader).await;
    let probe = Probe::start(&changes);
    let begun = Instant::now();
    nodes.start(LEARNER, &VOTERS)?;
    memory.push(Memory::of(LEARNER));
    let mut looks = interval(WATCH);
    while nodes_applied(&nodes, LEARNER).await < target {
        looks.tick().await;
        most(&nodes, &mut memory).await;
        nodes.are_alive()?;
        if begun.elapsed() > PATIENCE {
            return Err(QuorumError::Stuck(LEARNER));
        }
    }
    let caught_up = begun.elapsed();
    let meanwhile = probe.end().await?;
    most(&nodes, &mut memory).await;
    sleep(REST).await;
    if let Some(learner) = memory.last_mut() {
        learner.idle_mib = mib(&nodes, LEARNER).await;
    }
    nodes.stop_all().await?;
    let ms = |duration: Duration| duration.as_millis() as u64;
    let (written_ms, caught_up_ms) = (ms(written), ms(caught_up));
    let report =
        Report { records, entries, written_ms, caught_up_ms, usual, meanwhile, memory, missed };
    Ok(report.judge())
}

/// How long changes take, and what memory the nodes have, when nothing else happens.
async fn usual(
    nodes: &Nodes,
    changes: &Arc<Changes>,
    memory: &mut [Memory],
) -> Result<Latency, QuorumError> {
    let probe = Probe::start(changes);
    let (begun, mut looks) = (Instant::now(), interval(WATCH));
    while begun.elapsed() < USUAL {
        looks.tick().await;
        // As often as later on, since it costs them something.
        most(nodes, memory).await;
    }
    let latency = probe.end().await?;
    sleep(REST).await;
    for one in memory {
        one.idle_mib = mib(nodes, one.node).await;
        one.most_mib = one.idle_mib;
    }
    Ok(latency)
}

async fn caught_up(nodes: &mut Nodes, target: u64) -> Result<(), QuorumError> {
    let until = Instant::now() + PATIENCE;
    while nodes_applied(nodes, LEARNER).await < target {
        nodes.are_alive()?;
        if Instant::now() >= until {
            return Err(QuorumError::Stuck(LEARNER));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

async fn nodes_applied(nodes: &Nodes, node: u32) -> u64 {
    nodes.metric(node, "ottla_raft_applied_index").await.unwrap_or_default() as u64
}

async fn mib(nodes: &Nodes, node: u32) -> u64 {
    let bytes = nodes.metric(node, "process_resident_memory_bytes").await.unwrap_or_default();
    bytes as u64 >> 20
}

async fn most(nodes: &Nodes, memory: &mut [Memory]) {
    for one in memory {
        one.most_mib = one.most_mib.max(mib(nodes, one.node).await);
    }
}
