//! A cluster of real processes under a load of records, to which an empty node is added.
//!
//! Checked: the balancer gives the new node its share by itself, until each node is within a tenth
//! of even by replicas, bytes and leaders; no node takes more of what moves in any second than the
//! balancer's throttle allows; the producer's p99 stays under twice what it was; nothing
//! acknowledged is lost or doubled, and in the end all replicas are equal to the byte.
//!
//! What the new node takes is counted by what arrived there, not by what the throttle let pass.

mod report;

use std::{path::PathBuf, sync::Arc, time::Duration};

use ottla::{
    base::{Clock as _, SystemClock},
    client::{
        Acks, Client, ClientConfig, Compression, NewTopic, Producer, ProducerConfig, Record,
        TcpConnect,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, interval, sleep},
};

pub use self::report::{Latency, Report, Share};
use crate::{
    check::check,
    history::{Summary, What},
    load::{Load, Shared},
    nodes::{Nodes, NodesError},
    replicas::{ReplicasError, compare, create_topic, in_sync},
};

/// The node that is added; those before it are the voters.
const ADDED: u32 = 4;
const VOTERS: [u32; 3] = [1, 2, 3];
/// What is written to, and what only lies there.
const LOAD: &str = "numbers";
const BALLAST: &str = "ballast";
const LOAD_PARTITIONS: i32 = 12;
const BALLAST_PARTITIONS: i32 = 36;
const REPLICATION_FACTOR: i16 = 3;
/// How large the ballast's records are.
const RECORD_BYTES: usize = 16 << 10;
/// How often it is looked how much has arrived.
const WATCH: Duration = Duration::from_millis(100);
/// How long the new node may take beyond what the rate gives.
const LATE: Duration = Duration::from_secs(180);
const RECEIVED: &str = "ottla_replication_received_bytes_total";
const THROTTLED: &str =
    "ottla_replication_throttled_bytes_total{side=\"follower\",by=\"balancer\"}";

/// What to run.
#[derive(Debug, Clone)]
pub struct GrowConfig {
    /// The program; see [`crate::kill::binary`].
    pub binary: PathBuf,
    /// Where the nodes keep their data and output.
    pub directory: PathBuf,
    /// How much lies on each of the first three nodes, besides the load.
    pub ballast_mib: u64,
    /// The balancer's throttle.
    pub throttle_bytes_per_second: u64,
    /// How many records a second are written meanwhile.
    pub records_per_second: u32,
    /// How long it is measured what is usual.
    pub usual: Duration,
    /// Decides the load.
    pub seed: u64,
}

struct Run<'a> {
    config: &'a GrowConfig,
    nodes: Nodes,
    client: Client,
    load: Load,
    history: Shared,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What has arrived at the new node by when.
type Arrivals = Vec<(Instant, f64)>;

/// Runs to the end, telling `progress` of every part.
///
/// # Errors
/// Where the nodes do not come up or go down as they should, or do not carry on.
pub async fn run(
    config: &GrowConfig,
    mut progress: impl FnMut(String),
) -> Result<Report, ReplicasError> {
    let mut run = Run::start(config).await?;
    progress("filling".to_owned());
    run.fill().await?;
    in_sync(&mut run.nodes, &run.client, BALLAST, REPLICATION_FACTOR).await?;
    let before = run.shares(&VOTERS).await?;
    run.work();
    // Connections are made, and the disk gets done with what was filled in.
    sleep(config.usual).await;
    let from_us = run.now_us();
    sleep(config.usual).await;
    let grown_us = run.now_us();
    progress(format!("usual: {}", run.latency(from_us, grown_us)));
    run.nodes.start(ADDED, &VOTERS)?;
    let (began, arrivals) = run.until_even(&mut progress).await?;
    let even_us = run.now_us();
    let took = began.elapsed();
    sleep(config.usual).await;
    let ended_us = run.now_us();
    let after = run.shares(&[1, 2, 3, ADDED]).await?;
    let throttled = run.nodes.metric(ADDED, THROTTLED).await.unwrap_or_default();
    let mut report = Report {
        before,
        after,
        took_ms: took.as_millis() as u64,
        throttle_bytes_per_second: config.throttle_bytes_per_second,
        throttled_bytes: throttled as u64,
        most_bytes_per_second: run.fastest(&arrivals),
        usual: run.latency(from_us, grown_us),
        meanwhile: run.latency(grown_us, even_us),
        afterwards: run.latency(even_us, ended_us),
        summary: Summary::default(),
        compared_batches: 0,
        missed: Vec::new(),
    };
    run.finish(&mut report, &mut progress).await?;
    report.judge();
    Ok(report)
}

impl<'a> Run<'a> {
    /// Nodes and topics.
    async fn start(config: &'a GrowConfig) -> Result<Self, ReplicasError> {
        let mut rng = StdRng::seed_from_u64(config.seed);
        let mut nodes = Nodes::prepare(&config.binary, &config.directory, ADDED)?;
        let rate = config.throttle_bytes_per_second.to_string();
        nodes.set("ottla.balancer.throttle.bytes.per.second", &rate);
        // By default it looks every half a minute, and hands leaderships back every five.
        nodes.set("ottla.balancer.check.interval.seconds", "2");
        nodes.set("leader.imbalance.check.interval.seconds", "2");
        for node in VOTERS {
            nodes.start(node, &VOTERS)?;
        }
        nodes.bootstrap(&VOTERS).await?;
        nodes.leader().await?;
        let client_config = ClientConfig {
            bootstrap: VOTERS.iter().map(|node| nodes.kafka_address(*node)).collect(),
            client_id: "chaos".to_owned(),
            seed: rng.random(),
            ..ClientConfig::default()
        };
        let client = Client::new(client_config, Arc::new(TcpConnect))?;
        let load = Load {
            topic: LOAD.to_owned(),
            partitions: LOAD_PARTITIONS,
            replication_factor: REPLICATION_FACTOR,
            min_insync_replicas: 2,
            compression: Compression::None,
            // Half of it on average.
            pause: Duration::from_secs(2) / config.records_per_second.max(1),
            filling_bytes: 2_000,
            started_ms: SystemClock.wall_ms(),
            seed: rng.random(),
        };
        create_topic(&load, &client).await?;
        let ballast = NewTopic {
            name: BALLAST.to_owned(),
            partitions: Some(BALLAST_PARTITIONS),
            replication_factor: Some(REPLICATION_FACTOR),
            configs: vec![("min.insync.replicas".to_owned(), "2".to_owned())],
        };
        client.create_topic(&ballast, false).await?;
        let (history, stop) = (Shared::default(), watch::Sender::new(false));
        Ok(Self { config, nodes, client, load, history, stop, tasks: Vec::new() })
    }

    /// Partitions of three sizes.
    async fn fill(&self) -> Result<(), ReplicasError> {
        let config = ProducerConfig { acks: Acks::All, ..ProducerConfig::default() };
        let producer = Producer::new(self.client.clone(), config);
        let records = (self.config.ballast_mib << 20) / RECORD_BYTES as u64;
        let weight = |partition: i32| u64::try_from(partition % 3 + 1).unwrap_or(1);
        let weights: u64 = (0..BALLAST_PARTITIONS).map(weight).sum();
        let mut receipts = Vec::new();
        for partition in 0..BALLAST_PARTITIONS {
            for _ in 0..records * weight(partition) / weights {
                let value = Some(vec![b'b'; RECORD_BYTES].into());
                let record = Record { value, ..Record::default() };
                receipts.push(producer.send(BALLAST, Some(partition), record).await?);
            }
        }
        producer.flush().await;
        for receipt in receipts {
            receipt.delivered().await?;
        }
        Ok(())
    }

    fn work(&mut self) {
        let (load, client, history) =
            (self.load.clone(), self.client.clone(), self.history.clone());
        let stopped = self.stop.subscribe();
        let writing = async move { load.write(1, &client, &history, stopped).await };
        self.tasks.push(tokio::spawn(writing));
    }

    fn now_us(&self) -> u64 {
        self.history.lock().now_us()
    }

    /// Of the records that were due in that time.
    fn latency(&self, from_us: u64, to_us: u64) -> Latency {
        let history = self.history.lock();
        let took = history.ops().iter().filter_map(|op| match op.what {
            What::Send { due_us, .. } if (from_us..to_us).contains(&due_us) => {
                Some(op.ended_us?.saturating_sub(due_us))
            }
            _ => None,
        });
        Latency::of(took.collect())
    }

    /// What each node has of both topics.
    async fn shares(&self, nodes: &[u32]) -> Result<Vec<Share>, ReplicasError> {
        self.client.refresh(&[LOAD, BALLAST], false).await?;
        let ids: Vec<i32> = nodes.iter().filter_map(|node| i32::try_from(*node).ok()).collect();
        let disks = self.client.disk_use(&ids).await;
        let view = self.client.view();
        let topics = [LOAD, BALLAST].iter().filter_map(|name| view.topic(name));
        let all: Vec<_> = topics.flat_map(|topic| &topic.partitions).collect();
        let share = |(node, id): (&u32, i32)| {
            let sizes = disks.get(&id).and_then(Option::as_ref).map(|disk| &disk.replicas);
            let ours = |topic: &str| topic == LOAD || topic == BALLAST;
            let sizes = sizes.into_iter().flatten().filter(|(at, _)| ours(&at.topic));
            Share {
                node: *node,
                replicas: all.iter().filter(|one| one.replicas.contains(&id)).count() as u64,
                bytes: sizes.map(|(_, bytes)| *bytes).sum(),
                preferred: all.iter().filter(|one| one.replicas.first() == Some(&id)).count()
                    as u64,
                leads: all.iter().filter(|one| one.leader == id).count() as u64,
            }
        };
        Ok(nodes.iter().zip(ids).map(share).collect())
    }

    /// Waits until all nodes have their share and nothing moves. Returns when the first replica
    /// began to move, and what arrived at the new node since.
    async fn until_even(
        &mut self,
        progress: &mut impl FnMut(String),
    ) -> Result<(Instant, Arrivals), ReplicasError> {
        let began = Instant::now();
        let bytes = self.config.ballast_mib << 20;
        let least = bytes / self.config.throttle_bytes_per_second.max(1);
        let until = began + Duration::from_secs(least) + LATE;
        let (mut looks, mut arrivals) = (interval(WATCH), Arrivals::new());
        let mut look = 0_u32;
        loop {
            looks.tick().await;
            self.nodes.are_alive()?;
            if let Some(bytes) = self.nodes.metric(ADDED, RECEIVED).await {
                arrivals.push((Instant::now(), bytes));
            }
            look += 1;
            if !look.is_multiple_of(10) {
                continue;
            }
            let shares = self.shares(&[1, 2, 3, ADDED]).await?;
            let moving = self.client.list_reassignments().await?.len();
            if look.is_multiple_of(50) {
                let waited = began.elapsed().as_secs();
                progress(format!("after {waited} s: {moving} partitions move, {}", shares[3]));
            }
            if moving == 0 && report::off(&shares).is_empty() {
                return Ok((began, arrivals));
            }
            if Instant::now() >= until {
                progress(format!("{shares:?}"));
                return Err(NodesError::TooLate("an even share of the new node").into());
            }
        }
    }

    /// The most that arrived in any second, less what the load brings.
    fn fastest(&self, arrivals: &Arrivals) -> u64 {
        let mut most = 0.0_f64;
        let second = Duration::from_secs(1);
        for (at, (from, had)) in arrivals.iter().enumerate() {
            let Some((to, has)) = arrivals[at..].iter().find(|(to, _)| *to - *from >= second)
            else {
                break;
            };
            most = most.max((has - had) / (*to - *from).as_secs_f64());
        }
        let load = u64::from(self.config.records_per_second) * self.load.filling_bytes as u64;
        (most as u64).saturating_sub(load / 2)
    }

    /// Ends the load, reads everything, ends the nodes, and compares what they have.
    async fn finish(
        mut self,
        report: &mut Report,
        progress: &mut impl FnMut(String),
    ) -> Result<(), ReplicasError> {
        self.stop.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                self.history.lock().failed(0, &error);
            }
        }
        progress("reading everything".to_owned());
        self.load.read(2, &self.client, &self.history).await?;
        for topic in [LOAD, BALLAST] {
            in_sync(&mut self.nodes, &self.client, topic, REPLICATION_FACTOR).await?;
        }
        self.nodes.stop_all().await?;
        progress("comparing the replicas".to_owned());
        for (topic, partitions) in [(LOAD, LOAD_PARTITIONS), (BALLAST, BALLAST_PARTITIONS)] {
            let directories = (1..=ADDED).map(|node| self.nodes.data(node)).collect();
            let binary = &self.config.binary;
            let found = compare(binary, directories, topic, partitions, REPLICATION_FACTOR).await?;
            report.compared_batches += found.batches;
            report.missed.extend(found.problems);
        }
        let history = self.history.lock();
        report.summary = Summary::of(history.ops());
        report.missed.extend(check(history.ops()).iter().map(ToString::to_string));
        Ok(())
    }
}
