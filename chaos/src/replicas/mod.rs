//! A cluster of real processes under a load of records, whose nodes are killed, paused, or stopped
//! in order and started again.
//!
//! Checked: nothing acknowledged is lost, doubled or moved; nothing that a consumer read vanishes;
//! in the end, once all replicas are in sync, they are equal to the byte (`ottla log verify
//! --cluster`). Measured: how long no write is acknowledged in the partitions that a node led.

mod report;

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use ottla::{
    base::{Clock as _, SystemClock},
    client::{Client, ClientConfig, ClientError, Compression, TcpConnect},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    process::Command,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

pub use self::report::{Report, Round};
use crate::{
    check::check,
    history::Summary,
    load::{Load, Shared},
    nodes::{LOOK, Nodes, NodesError, PATIENCE},
};

/// The topic.
const TOPIC: &str = "numbers";
/// Into how many partitions it is written.
const PARTITIONS: i32 = 6;
/// How long the nodes are left alone to learn what is usual.
const USUAL: Duration = Duration::from_secs(3);

/// What to run.
#[derive(Debug, Clone)]
pub struct ReplicasConfig {
    /// The program; see [`crate::kill::binary`].
    pub binary: PathBuf,
    /// Where the nodes keep their data and output.
    pub directory: PathBuf,
    /// How many nodes there are, all of them voters.
    pub nodes: u32,
    /// How many hold each partition.
    pub replication_factor: i16,
    /// When it ends.
    pub length: Length,
    /// What is done to nodes; by lot where there are several.
    pub faults: Vec<Fault>,
    /// Decides to whom, when, and for how long; and the load.
    pub seed: u64,
}

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// After that many faults.
    Rounds(u32),
    /// After the fault that is under way then.
    For(Duration),
}

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP for one to five seconds.
    Pause,
    /// SIGTERM, and a new start: one node after the other.
    Stop,
}

/// Why a run could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum ReplicasError {
    /// The nodes do not do what they are told.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// The client cannot go on.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nothing is acknowledged any more.
    #[error("no write to partition {partition} is acknowledged within {PATIENCE:?} after {what}")]
    Stuck {
        /// Which.
        partition: i32,
        /// What was done before.
        what: String,
    },
    /// Replicas stay out of sync.
    #[error("not all replicas are in sync within {PATIENCE:?}: {0}")]
    OutOfSync(String),
    /// The comparison prints no JSON.
    #[error("cannot read what `ottla log verify --cluster` prints")]
    Verify(#[from] serde_json::Error),
}

impl From<io::Error> for ReplicasError {
    fn from(error: io::Error) -> Self {
        Self::Nodes(error.into())
    }
}

struct Run<'a> {
    config: &'a ReplicasConfig,
    nodes: Nodes,
    client: Client,
    load: Load,
    history: Shared,
    rng: StdRng,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    report: Report,
}

/// Runs to the end, telling `progress` of every round.
///
/// # Errors
/// Where the nodes do not come up or go down as they should, or do not carry on.
pub async fn run(
    config: &ReplicasConfig,
    mut progress: impl FnMut(String),
) -> Result<Report, ReplicasError> {
    let mut run = Run::start(config).await?;
    run.usual().await?;
    progress(format!("without faults: gaps of up to {} ms", run.report.usual_gap_ms));
    let begun = Instant::now();
    for round in 1.. {
        let over = match config.length {
            Length::Rounds(rounds) => round > rounds,
            Length::For(length) => begun.elapsed() >= length,
        };
        if over {
            break;
        }
        let done = run.round(round).await?;
        progress(done.to_string());
        run.report.rounds.push(done);
    }
    run.finish(&mut progress).await
}

impl<'a> Run<'a> {
    /// Nodes, topic and load.
    async fn start(config: &'a ReplicasConfig) -> Result<Self, ReplicasError> {
        let mut rng = StdRng::seed_from_u64(config.seed);
        let mut nodes = Nodes::prepare(&config.binary, &config.directory, config.nodes)?;
        let all: Vec<u32> = (1..=config.nodes).collect();
        for node in &all {
            nodes.start(*node, &all)?;
        }
        nodes.bootstrap(&all).await?;
        nodes.leader().await?;
        let client = Client::new(
            ClientConfig {
                bootstrap: all.iter().map(|node| nodes.kafka_address(*node)).collect(),
                client_id: "chaos".to_owned(),
                seed: rng.random(),
                ..ClientConfig::default()
            },
            Arc::new(TcpConnect),
        )?;
        let load = Load {
            topic: TOPIC.to_owned(),
            partitions: PARTITIONS,
            replication_factor: config.replication_factor,
            min_insync_replicas: 2.min(config.replication_factor),
            compression: Compression::Lz4,
            pause: Duration::from_millis(2),
            filling_bytes: 2_000,
            started_ms: SystemClock.wall_ms(),
            seed: rng.random(),
        };
        let history = Shared::default();
        let stop = watch::Sender::new(false);
        let mut run = Self {
            config,
            nodes,
            client,
            load,
            history,
            rng,
            stop,
            tasks: Vec::new(),
            report: Report::default(),
        };
        create_topic(&run.load, &run.client).await?;
        run.work();
        run.carries_on((0..PARTITIONS).collect(), Instant::now(), "the start").await?;
        run.in_sync().await?;
        Ok(run)
    }

    fn work(&mut self) {
        let (load, client, history) =
            (self.load.clone(), self.client.clone(), self.history.clone());
        let stopped = self.stop.subscribe();
        let writing = async move { load.write(1, &client, &history, stopped).await };
        self.tasks.push(tokio::spawn(writing));
        let (load, client, history) =
            (self.load.clone(), self.client.clone(), self.history.clone());
        let stopped = self.stop.subscribe();
        let consuming = async move { load.consume(2, &client, &history, stopped).await };
        self.tasks.push(tokio::spawn(consuming));
    }

    /// How long no write is acknowledged where nothing is done.
    async fn usual(&mut self) -> Result<(), ReplicasError> {
        let from = Instant::now();
        sleep(USUAL).await;
        self.report.usual_gap_ms = self.longest_gap(from, Instant::now());
        Ok(())
    }

    fn longest_gap(&self, from: Instant, to: Instant) -> u64 {
        let history = self.history.lock();
        let gaps = (0..PARTITIONS).map(|partition| history.longest_gap(partition, from, to));
        gaps.max().unwrap_or_default().as_millis() as u64
    }

    async fn round(&mut self, round: u32) -> Result<Round, ReplicasError> {
        let fault = self.config.faults[self.rng.random_range(0..self.config.faults.len())];
        sleep(Duration::from_millis(self.rng.random_range(100..=600))).await;
        let node = self.victim(round, fault).await?;
        let led = self.led_by(node).await?;
        let others: Vec<u32> = self.nodes.running().filter(|other| *other != node).collect();
        let since = Instant::now();
        let pause = Duration::from_millis(self.rng.random_range(1_000..=5_000));
        match fault {
            Fault::Kill => self.nodes.kill(node).await?,
            Fault::Pause => {
                self.nodes.signal(node, Signal::STOP)?;
                sleep(pause).await;
                self.nodes.signal(node, Signal::CONT)?;
            }
            Fault::Stop => self.nodes.stop(node).await?,
        }
        let what = format!("round {round}, {fault:?} of node {node}");
        let gaps_ms = self.carries_on(led, since, &what).await?;
        if fault != Fault::Pause {
            sleep(pause / 4).await;
            self.nodes.start(node, &others)?;
        }
        // All nodes serve again; but now and then the next fault comes before the replicas are in
        // sync again, where no figure is taken of it.
        self.nodes.leader().await?;
        let in_sync = round.is_multiple_of(4) || fault == Fault::Stop || self.rng.random_bool(0.7);
        if in_sync {
            self.in_sync().await?;
        }
        let longest_ms = self.longest_gap(since, Instant::now());
        let counts = self.report.rounds.last().is_none_or(|last| last.in_sync);
        let paused_ms = (fault == Fault::Pause).then_some(pause.as_millis() as u64);
        Ok(Round { round, fault, node, paused_ms, counts, gaps_ms, longest_ms, in_sync })
    }

    /// One node after the other, or one by lot, or the leader of a partition.
    async fn victim(&mut self, round: u32, fault: Fault) -> Result<u32, ReplicasError> {
        if fault == Fault::Stop {
            return Ok(round % self.config.nodes + 1);
        }
        if self.rng.random_bool(0.4) {
            return Ok(self.rng.random_range(1..=self.config.nodes));
        }
        let partition = self.rng.random_range(0..PARTITIONS);
        self.client.refresh(&[TOPIC], false).await?;
        let leader = self.client.topic(TOPIC).await?;
        let leader = leader.partition(partition).map(|partition| partition.leader);
        let leader = leader.and_then(|leader| u32::try_from(leader).ok());
        Ok(leader.filter(|leader| *leader > 0).unwrap_or(1))
    }

    async fn led_by(&self, node: u32) -> Result<Vec<i32>, ReplicasError> {
        self.client.refresh(&[TOPIC], false).await?;
        let topic = self.client.topic(TOPIC).await?;
        let led = topic.partitions.iter().filter(|p| u32::try_from(p.leader) == Ok(node));
        Ok(led.map(|partition| partition.partition).collect())
    }

    /// Waits until a write to each of `partitions` is acknowledged that was sent after `since`.
    /// Returns how long that took for each.
    async fn carries_on(
        &mut self,
        partitions: Vec<i32>,
        since: Instant,
        what: &str,
    ) -> Result<Vec<u64>, ReplicasError> {
        let until = Instant::now() + PATIENCE;
        let mut gaps_ms = Vec::new();
        for partition in partitions {
            loop {
                if let Some(gap) = self.history.lock().first_after(partition, since) {
                    gaps_ms.push(gap.as_millis() as u64);
                    break;
                }
                if Instant::now() >= until {
                    return Err(ReplicasError::Stuck { partition, what: what.to_owned() });
                }
                self.nodes.are_alive()?;
                sleep(LOOK).await;
            }
        }
        Ok(gaps_ms)
    }

    async fn in_sync(&mut self) -> Result<(), ReplicasError> {
        in_sync(&mut self.nodes, &self.client, TOPIC, self.config.replication_factor).await
    }

    /// Ends the load, reads everything, ends the nodes, and compares what they have.
    async fn finish(mut self, progress: &mut impl FnMut(String)) -> Result<Report, ReplicasError> {
        self.carries_on((0..PARTITIONS).collect(), Instant::now(), "the last fault").await?;
        self.in_sync().await?;
        self.stop.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                self.history.lock().failed(0, &error);
            }
        }
        progress("reading everything".to_owned());
        self.load.read(3, &self.client, &self.history).await?;
        self.in_sync().await?;
        self.nodes.stop_all().await?;
        progress("comparing the replicas".to_owned());
        let directories = (1..=self.config.nodes).map(|node| self.nodes.data(node)).collect();
        let ReplicasConfig { binary, replication_factor, .. } = self.config;
        let compared = compare(binary, directories, TOPIC, PARTITIONS, *replication_factor).await?;
        let history = self.history.lock();
        let mut report = self.report;
        report.summary = Summary::of(history.ops());
        report.broken = check(history.ops()).iter().map(ToString::to_string).collect();
        report.broken.extend(compared.problems);
        report.compared_batches = compared.batches;
        report.sum_up();
        Ok(report)
    }
}

/// Brokers register one after the other; until enough have, a topic is refused.
pub(crate) async fn create_topic(load: &Load, client: &Client) -> Result<(), ReplicasError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match load.create_topic(client).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= until => return Err(error.into()),
            Err(_) => sleep(LOOK).await,
        }
    }
}

/// Waits until all replicas of all partitions are in sync.
pub(crate) async fn in_sync(
    nodes: &mut Nodes,
    client: &Client,
    topic: &str,
    replication_factor: i16,
) -> Result<(), ReplicasError> {
    let until = Instant::now() + PATIENCE;
    let wanted = usize::try_from(replication_factor).unwrap_or(0);
    loop {
        nodes.are_alive()?;
        let refreshed = client.refresh(&[topic], false).await;
        let view = client.view();
        let topic = view.topic(topic);
        let full = topic.is_some_and(|topic| {
            topic.partitions.iter().all(|p| p.leader > 0 && p.isr.len() == wanted)
        });
        if refreshed.is_ok() && full {
            return Ok(());
        }
        if Instant::now() >= until {
            let partitions = topic.map(|topic| format!("{:?}", topic.partitions));
            return Err(ReplicasError::OutOfSync(partitions.unwrap_or_default()));
        }
        sleep(LOOK).await;
    }
}

/// What a comparison of replicas found.
pub(crate) struct Compared {
    /// How many batches, over all replicas.
    pub(crate) batches: u64,
    /// Where they differ.
    pub(crate) problems: Vec<String>,
}

/// Compares the replicas as a user would.
pub(crate) async fn compare(
    binary: &Path,
    directories: Vec<PathBuf>,
    topic: &str,
    partitions: i32,
    replication_factor: i16,
) -> Result<Compared, ReplicasError> {
    let mut command = Command::new(binary);
    command.args(["log", "verify", "--cluster", "--output", "json"]);
    for directory in directories {
        command.arg("--dir").arg(directory);
    }
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = timeout(PATIENCE * 10, command.output()).await;
    let output = output.map_err(|_| NodesError::TooLate("the comparison of replicas"))??;
    let compared: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let mut found = Compared { batches: 0, problems: Vec::new() };
    let mut seen = 0;
    for partition in compared {
        let name = partition["partition"].as_str().unwrap_or_default();
        if !name.starts_with(topic) {
            continue;
        }
        seen += 1;
        found.batches += partition["batches"].as_u64().unwrap_or(0);
        let problems = partition["problems"].as_array().cloned().unwrap_or_default();
        found.problems.extend(problems.iter().map(|problem| format!("{name}: {problem}")));
        let replicas = partition["replicas"].as_array().cloned().unwrap_or_default();
        // All were in sync, and nothing was written since.
        let ends: Vec<_> = replicas.iter().map(|r| &r["log_end_offset"]).collect();
        let wanted = usize::try_from(replication_factor).unwrap_or(0);
        if ends.len() != wanted || ends.iter().any(|end| *end != &partition["to"]) {
            let says = format!("{name}: of {wanted} replicas, not all end alike: {partition}");
            found.problems.push(says);
        }
    }
    if seen != partitions {
        found.problems.push(format!("{seen} of {partitions} partitions lie on disk"));
    }
    Ok(found)
}
