//! A run from within: the clients, what is done to the nodes, and what must come about then.

use std::{sync::Arc, time::Duration};

use ottla::{
    base::PartitionIndex,
    client::{Client, ClientConfig, Compression},
    log::{Dir as _, Open, SimDir},
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tracing::info;

use super::{
    ClusterConfig, World,
    machines::Machines,
    seat::{KAFKA_PORT, host},
};
use crate::{
    check::{Anomaly, Kind, check, unread},
    drive::{Done, Driver},
    history::{History, Op, Summary},
    load::{Clients, Load, Role, Shared, Worker},
    scenario::Scenario,
    sim::{EPOCH_MS, SimConnect},
};

/// Where all clients are.
pub(super) const HOST: &str = "clients";
pub(super) const TOPIC: &str = "numbers";
const PARTITIONS: i32 = 3;
/// How long a cluster may take to come up.
const COMES_UP: Duration = Duration::from_secs(60);
/// How soon after the last fault all partitions must take writes again: a client that was cut off
/// waits for as long as its request takes to time out.
const WRITTEN_AGAIN: Duration = Duration::from_secs(15);
/// How soon all replicas must be in sync.
const IN_SYNC: Duration = Duration::from_secs(60);
/// How soon consumers must have read everything.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// How soon the replicas must be equal once nothing is written.
const EQUAL: Duration = Duration::from_secs(10);
/// How long a client waits for an answer before it asks elsewhere.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

/// What came of it.
#[derive(Default)]
pub(super) struct Result {
    pub(super) summary: Summary,
    pub(super) anomalies: Vec<Anomaly>,
    pub(super) ops: Vec<Op>,
    pub(super) done: Done,
    pub(super) longest_gap: Duration,
    pub(super) written_after: Option<Duration>,
}

/// A run that has not begun.
pub(super) struct Course {
    machines: Machines,
    scenario: Scenario,
    load: Load,
    history: Shared,
    rng: StdRng,
    result: Result,
}

impl Course {
    pub(super) fn new(
        config: &ClusterConfig,
        world: Arc<World>,
        rng: &mut StdRng,
    ) -> anyhow::Result<Self> {
        let load = Load {
            topic: TOPIC.to_owned(),
            partitions: PARTITIONS,
            replication_factor: config.replication_factor,
            min_insync_replicas: 2.min(config.replication_factor),
            compression: Compression::None,
            pause: Duration::from_millis(40),
            filling_bytes: 300,
            started_ms: i64::try_from(EPOCH_MS)?,
            seed: rng.random(),
        };
        let machines =
            Machines::new(world, config.replication_factor, StdRng::seed_from_u64(rng.random()));
        Ok(Self {
            machines,
            scenario: config.scenario.clone(),
            load,
            history: Shared::default(),
            rng: StdRng::seed_from_u64(rng.random()),
            result: Result::default(),
        })
    }

    /// Runs to the end; what is known by then is in `result`, also where it never ends.
    pub(super) async fn run(mut self, result: &Mutex<Result>) {
        *self.history.lock() = History::default();
        if let Err(anomaly) = self.go().await {
            self.result.anomalies.push(anomaly);
        }
        let history = self.history.lock();
        self.result.anomalies.extend(check(history.ops()));
        self.result.summary = Summary::of(history.ops());
        self.result.ops = history.ops().to_vec();
        *result.lock() = std::mem::take(&mut self.result);
    }

    async fn go(&mut self) -> std::result::Result<(), Anomaly> {
        let client = self.client(COMES_UP)?;
        let operator = self.client(COMES_UP)?;
        self.machines.operates_through(operator);
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Anomaly::of_cluster(Kind::Unavailable, format!("{what}: {error}"))
        };
        let made = Instant::now();
        while let Err(error) = self.load.create_topic(&client).await {
            if made.elapsed() > COMES_UP {
                return Err(failed("no topic can be made", &error));
            }
            sleep(LOOK).await;
        }
        let (stop_writing, writing) = watch::channel(false);
        let (stop_reading, reading) = watch::channel(false);
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for worker in Clients::Own.workers() {
            let client = self.client(COMES_UP * 3)?;
            let of = if worker.role == Role::Writer { &writing } else { &reading };
            let task = self.work(worker, client, of.clone());
            if worker.role == Role::Writer { writers.push(task) } else { readers.push(task) }
        }
        if self.written_since(Instant::now(), COMES_UP).await.is_none() {
            return Err(failed("before any fault", &"not all partitions are written"));
        }
        let driver = Driver::new(
            &mut self.machines,
            Arc::clone(&self.history),
            &mut self.rng,
            &mut self.result.done,
            |line| info!("{line}"),
        );
        driver.run(&self.scenario).await?;

        let over = Instant::now();
        self.result.written_after = self.written_since(over, WRITTEN_AGAIN).await;
        if self.result.written_after.is_none() {
            let says = format!("not all partitions are written within {WRITTEN_AGAIN:?}");
            self.result.anomalies.push(Anomaly::of_cluster(Kind::Unavailable, says));
        }
        let end = Instant::now();
        if let Some(says) = self.comes_about(IN_SYNC, |this| this.machines.out_of_sync()).await {
            let says = format!("not in sync within {IN_SYNC:?}: {says}");
            self.result.anomalies.push(Anomaly::of_cluster(Kind::Unavailable, says));
        }
        stop_writing.send_replace(true);
        join(writers).await;
        info!("everything is written");
        let read = Instant::now();
        let left = loop {
            let left = unread(self.history.lock().ops());
            if left.is_empty() || read.elapsed() >= READ_AGAIN {
                break left;
            }
            sleep(LOOK * 10).await;
        };
        self.result.anomalies.extend(left);
        stop_reading.send_replace(true);
        join(readers).await;
        let of_reader = 0;
        let read = async {
            self.load.committed(of_reader, &client, &self.history).await?;
            self.load.read(of_reader, &client, &self.history).await
        };
        read.await.map_err(|error| failed("the last reading", &error))?;
        if let Some(says) = self.comes_about(EQUAL, Self::unequal).await {
            self.result.anomalies.push(Anomaly::of_cluster(Kind::Diverged, says));
        }
        self.result.longest_gap = self.longest_gap(end);
        for seat in &self.machines.world.seats {
            for why in seat.endings() {
                let says = format!("node {} ended: {why}", seat.node);
                self.result.anomalies.push(Anomaly::of_cluster(Kind::NodeFailed, says));
            }
        }
        Ok(())
    }

    fn client(&mut self, operation_timeout: Duration) -> std::result::Result<Client, Anomaly> {
        let nodes = self.machines.world.seats.iter().map(|seat| seat.node);
        let config = ClientConfig {
            bootstrap: nodes.map(|node| format!("{}:{KAFKA_PORT}", host(node))).collect(),
            client_id: "chaos".to_owned(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: REQUEST_TIMEOUT,
            operation_timeout,
            seed: self.rng.random(),
            ..ClientConfig::default()
        };
        Client::new(config, Arc::new(SimConnect))
            .map_err(|error| Anomaly::of_cluster(Kind::Unavailable, error.to_string()))
    }

    fn work(&self, worker: Worker, client: Client, stop: watch::Receiver<bool>) -> JoinHandle<()> {
        let (load, history) = (self.load.clone(), Arc::clone(&self.history));
        tokio::spawn(async move {
            match worker.role {
                Role::Writer => load.write(worker.process, &client, &history, stop).await,
                Role::Reader => load.consume(worker.process, &client, &history, stop).await,
                Role::Member => {
                    load.consume_in_group(worker.process, &client, &history, stop).await;
                }
            }
        })
    }

    /// Waits until a write to each partition is acknowledged that was sent after `since`.
    async fn written_since(&self, since: Instant, within: Duration) -> Option<Duration> {
        while since.elapsed() < within {
            let after: Option<Vec<_>> = {
                let history = self.history.lock();
                (0..PARTITIONS).map(|partition| history.first_after(partition, since)).collect()
            };
            if let Some(after) = after {
                return after.into_iter().max();
            }
            sleep(LOOK).await;
        }
        None
    }

    /// Waits until nothing is `missing`, and else returns what still is.
    async fn comes_about(
        &self,
        within: Duration,
        missing: impl Fn(&Self) -> Option<String>,
    ) -> Option<String> {
        let from = Instant::now();
        loop {
            let says = missing(self)?;
            if from.elapsed() >= within {
                return Some(says);
            }
            sleep(LOOK * 10).await;
        }
    }

    /// Which partition's replicas are not equal to the byte.
    fn unequal(&self) -> Option<String> {
        let Some(image) = self.machines.image() else { return Some("no node serves".to_owned()) };
        let topic = image.topic_by_name(TOPIC)?;
        topic.partitions.iter().find_map(|(index, partition)| {
            let mut replicas = partition.replicas.iter().map(|node| {
                let bytes = bytes_of(&self.machines.world.seat(node.0).working_disks(), *index);
                (node.0, bytes)
            });
            let (first, expected) = replicas.next()?;
            let other = replicas.find(|(_, bytes)| *bytes != expected)?;
            Some(format!(
                "{TOPIC}-{index}: node {first} has {} bytes, node {} has {}, and they differ",
                expected.len(),
                other.0,
                other.1.len()
            ))
        })
    }

    fn longest_gap(&self, until: Instant) -> Duration {
        let history = self.history.lock();
        let from = history.began();
        let gaps = (0..PARTITIONS).map(|partition| history.longest_gap(partition, from, until));
        gaps.max().unwrap_or_default()
    }
}

/// All segments of a replica, one after the other.
fn bytes_of(disks: &[SimDir], partition: PartitionIndex) -> Vec<u8> {
    let name = format!("{TOPIC}-{partition}");
    let mut all = Vec::new();
    for dir in disks {
        for entry in dir.list(&name).unwrap_or_default() {
            if !entry.name.ends_with(".log") {
                continue;
            }
            let path = format!("{name}/{}", entry.name);
            let Ok(file) = dir.open(&path, Open::Existing) else { continue };
            let mut bytes = vec![0; file.len_bytes().unwrap_or(0) as usize];
            let read = file.read_at(0, &mut bytes).unwrap_or(0);
            all.extend_from_slice(&bytes[..read]);
        }
    }
    all
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        // A panic in a client ends the simulation.
        let _ = task.await;
    }
}
