//! A run: a cluster of real processes, clients that work, and a scenario that is done to it.
//!
//! First there are faults, then they end: from then on the cluster must serve again, and all
//! replicas must get in sync. What clients saw is held to [`mod@crate::check`]; the replicas are
//! compared to the byte; what the nodes say of themselves is looked through.

mod cluster;
mod joining;
mod monitor;
mod work;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ottla::{
    base::{Clock as _, SystemClock},
    client::{Client, ClientConfig, ClientError, Compression, TcpConnect},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use self::{cluster::Processes, monitor::Monitor};
use crate::{
    check::{Anomaly, Kind, check},
    clock::Clocks,
    disk::Disks,
    drive::{Done, Driver, REPLACED_AFTER_MS},
    history::{Op, Summary},
    load::{Clients, Load, Shared},
    network::{Network, NetworkError, NetworkKind},
    nodes::{LOOK, Nodes, NodesError, PATIENCE},
    replicas::{self, ReplicasError},
    report::{Report, slices},
    scenario::{Fault, Scenario},
};

/// The topic that is written.
const TOPIC: &str = "numbers";
/// Into how many partitions.
const PARTITIONS: i32 = 6;
/// The longest time between two records, of all writers together.
const PAUSE: Duration = Duration::from_millis(2);
/// How long clients work before the first fault.
const BEFORE: Duration = Duration::from_secs(2);
/// How soon after the last fault all partitions must take writes again. A client that was cut off
/// waits for as long as its request takes to time out.
const WRITTEN_AGAIN: Duration = Duration::from_secs(15);
/// How long a client waits for an answer before it asks elsewhere.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Who reads everything in the end, in the history.
const LAST_READER: u32 = 100;

/// What to run.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The program; see [`crate::kill::binary`].
    pub binary: PathBuf,
    /// Where the nodes keep their data and output.
    pub directory: PathBuf,
    /// How many nodes there are, all of them voters.
    pub nodes: u32,
    /// How many hold each partition.
    pub replication_factor: i16,
    /// Whether each write is flushed before it is acknowledged.
    pub flush: bool,
    /// What joins the nodes; where none, namespaces if they can be had, or else a proxy.
    pub network: Option<NetworkKind>,
    /// Whose clients work.
    pub clients: Clients,
    /// A program of another version, which nodes begin with.
    pub other_binary: Option<PathBuf>,
    /// What is done.
    pub scenario: Scenario,
    /// Decides who is hit, and the load.
    pub seed: u64,
    /// What repeats this run.
    pub repeat: String,
}

/// Why a run could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The nodes do not do what they are told.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// Nothing to join the nodes.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The replicas cannot be compared, or the clients cannot be begun.
    #[error(transparent)]
    Replicas(#[from] ReplicasError),
    /// The client cannot go on.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What came of a run, and all that clients did.
pub struct Outcome {
    /// The verdict and the figures.
    pub report: Report,
    /// The history.
    pub ops: Vec<Op>,
}

struct Run<'a> {
    config: &'a RunConfig,
    cluster: Processes,
    load: Load,
    history: Shared,
    rng: StdRng,
    stop_writing: watch::Sender<bool>,
    stop_reading: watch::Sender<bool>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    done: Done,
    anomalies: Vec<Anomaly>,
}

/// Runs to the end, telling `progress` of everything that is done.
///
/// # Errors
/// Where the nodes do not come up or go down as they should.
pub async fn run(
    config: &RunConfig,
    mut progress: impl FnMut(String),
) -> Result<Outcome, RunError> {
    let mut run = Run::start(config, &mut progress).await?;
    sleep(BEFORE).await;
    let history = Arc::clone(&run.history);
    let Run { cluster, rng, done, .. } = &mut run;
    let driver = Driver::new(cluster, history, rng, done, &mut progress);
    let outcome = match driver.run(&config.scenario).await {
        Ok(()) => run.finish(&mut progress).await,
        Err(error) => Err(error.into()),
    };
    if outcome.is_err() {
        // So that what is on their disks can be looked at.
        run.cluster.nodes.abandon().await;
    }
    outcome
}

impl<'a> Run<'a> {
    async fn start(
        config: &'a RunConfig,
        progress: &mut impl FnMut(String),
    ) -> Result<Self, RunError> {
        let mut rng = StdRng::seed_from_u64(config.seed);
        let mut done = Done::default();
        let (mut nodes, no_disks) = prepare(config, &mut rng, &mut done.left_out, progress).await?;
        if config.scenario.steps.iter().any(|step| matches!(step.fault, Fault::Skew { .. })) {
            let clocks = Clocks::new(config.nodes, &config.directory).map_err(NodesError::from)?;
            nodes.go_by(clocks);
        }
        if let Some(other) = &config.other_binary {
            nodes.begin_with(other);
        }
        nodes.set("offsets.topic.replication.factor", &config.replication_factor.to_string());
        if !config.flush {
            nodes.set("log.flush.interval.messages", &i64::MAX.to_string());
        }
        let all: Vec<u32> = (1..=config.nodes).collect();
        for node in &all {
            nodes.start(*node, &all)?;
        }
        nodes.bootstrap(&all).await?;
        nodes.leader().await?;
        let client = connect(&nodes, config, REQUEST_TIMEOUT, PATIENCE, &mut rng)?;
        let load = Load {
            topic: TOPIC.to_owned(),
            partitions: PARTITIONS,
            replication_factor: config.replication_factor,
            min_insync_replicas: 2.min(config.replication_factor),
            compression: Compression::Lz4,
            pause: PAUSE,
            filling_bytes: 2_000,
            started_ms: SystemClock.wall_ms(),
            seed: rng.random(),
        };
        replicas::create_topic(&load, &client).await?;
        let history = Shared::default();
        let watching = connect(&nodes, config, LOOK * 25, LOOK * 25, &mut rng)?;
        let monitor = Monitor::start(watching, nodes.watcher(), TOPIC, Arc::clone(&history));
        let factor = config.replication_factor;
        let mut run = Self {
            config,
            cluster: Processes { count: config.nodes, factor, nodes, client, monitor, no_disks },
            load,
            history,
            rng,
            stop_writing: watch::Sender::new(false),
            stop_reading: watch::Sender::new(false),
            writers: Vec::new(),
            readers: Vec::new(),
            done,
            anomalies: Vec::new(),
        };
        run.work()?;
        run.written_since(Instant::now(), PATIENCE).await?;
        Ok(run)
    }

    /// Waits until a write to each partition is acknowledged that was sent after `since`. None
    /// where that does not come about.
    async fn written_since(
        &mut self,
        since: Instant,
        within: Duration,
    ) -> Result<Option<Duration>, RunError> {
        while since.elapsed() < within {
            let after: Option<Vec<_>> = {
                let history = self.history.lock();
                (0..PARTITIONS).map(|partition| history.first_after(partition, since)).collect()
            };
            if let Some(after) = after {
                return Ok(after.into_iter().max());
            }
            self.cluster.nodes.are_alive()?;
            sleep(LOOK).await;
        }
        Ok(None)
    }

    /// The faults are over: what must come about now, and what the whole run shows.
    async fn finish(&mut self, progress: &mut impl FnMut(String)) -> Result<Outcome, RunError> {
        let over = Instant::now();
        let written = self.written_since(over, WRITTEN_AGAIN).await?;
        if written.is_none() {
            let says = format!("not all partitions are written within {WRITTEN_AGAIN:?}");
            self.anomalies.push(Anomaly::of_cluster(Kind::Unavailable, says));
        }
        let in_sync = replicas::in_sync(
            &mut self.cluster.nodes,
            &self.cluster.client,
            TOPIC,
            self.config.replication_factor,
        );
        let in_sync = match in_sync.await {
            Ok(()) => Some(over.elapsed()),
            Err(error @ ReplicasError::OutOfSync(_)) => {
                self.anomalies.push(Anomaly::of_cluster(Kind::Unavailable, error.to_string()));
                None
            }
            Err(error) => return Err(error.into()),
        };
        let end = Instant::now();
        self.end_work().await?;
        progress("reading everything".to_owned());
        self.load.committed(LAST_READER, &self.cluster.client, &self.history).await?;
        self.load.read(LAST_READER, &self.cluster.client, &self.history).await?;
        self.arrived().await?;
        let failed = self.cluster.restart_failed(TOPIC, progress).await?;
        let longest_gap_ms = self.longest_gap(end).as_millis() as u64;
        let leaders = self.cluster.monitor.finish().await;
        self.cluster.nodes.stop_all().await?;
        progress("comparing the replicas".to_owned());
        let directories = (1..=self.config.nodes)
            .flat_map(|node| self.cluster.nodes.log_directories(node))
            .filter(|directory| !failed.contains(directory))
            .collect();
        self.cluster.nodes.unmount()?;
        let RunConfig { binary, replication_factor, .. } = self.config;
        let compared =
            replicas::compare(binary, directories, TOPIC, PARTITIONS, *replication_factor).await?;
        let diverged = compared.problems.into_iter();
        let diverged = diverged.map(|says| Anomaly::of_cluster(Kind::Diverged, says));
        self.anomalies.extend(diverged);
        for node in 1..=self.config.nodes {
            self.anomalies.extend(panics(node, &self.cluster.nodes.log(node))?);
        }
        let history = self.history.lock();
        let ops = history.ops().to_vec();
        let seconds = history.began().elapsed().as_secs_f64();
        self.anomalies.extend(check(&ops));
        let (packets_passed, packets_lost) =
            self.cluster.nodes.network().map_or((0, 0), Network::packets);
        let report = Report {
            scenario: self.config.scenario.clone(),
            seed: self.config.seed,
            nodes: self.config.nodes,
            replication_factor: self.config.replication_factor,
            flush: self.config.flush,
            repeat: self.config.repeat.clone(),
            seconds,
            events: std::mem::take(&mut self.done.events),
            left_out: std::mem::take(&mut self.done.left_out),
            leaders,
            slices: slices(&ops),
            summary: Summary::of(&ops),
            longest_gap_ms,
            written_after_ms: written.map(|it| it.as_millis() as u64),
            in_sync_after_ms: in_sync.map(|it| it.as_millis() as u64),
            packets_passed,
            packets_lost,
            anomalies: std::mem::take(&mut self.anomalies),
        };
        Ok(Outcome { report, ops })
    }

    fn longest_gap(&self, until: Instant) -> Duration {
        let history = self.history.lock();
        let from = history.began();
        let gaps = (0..PARTITIONS).map(|partition| history.longest_gap(partition, from, until));
        gaps.max().unwrap_or_default()
    }
}

/// Nodes that do not run yet, on disks of the suite's own where the scenario needs them; and why they
/// have none, where rights do not suffice.
async fn prepare(
    config: &RunConfig,
    rng: &mut StdRng,
    left_out: &mut Vec<String>,
    progress: &mut impl FnMut(String),
) -> Result<(Nodes, Option<String>), RunError> {
    let mut nodes = joining::join(config, rng.random(), left_out, progress).await?;
    if !config.scenario.steps.iter().any(|step| step.fault.needs_disks()) {
        return Ok((nodes, None));
    }
    let no_disks = match Disks::new(config.nodes, &config.directory) {
        Ok(disks) => {
            nodes.put_on(disks);
            nodes.set("ottla.log.dir.replacement.grace.ms", REPLACED_AFTER_MS);
            None
        }
        Err(error) => Some(format!("faults of disks: {}", with_causes(&error))),
    };
    Ok((nodes, no_disks))
}

fn connect(
    nodes: &Nodes,
    config: &RunConfig,
    request_timeout: Duration,
    operation_timeout: Duration,
    rng: &mut StdRng,
) -> Result<Client, ClientError> {
    let config = ClientConfig {
        bootstrap: (1..=config.nodes).map(|node| nodes.kafka_address(node)).collect(),
        client_id: "chaos".to_owned(),
        connect_timeout: Duration::from_secs(1),
        request_timeout,
        operation_timeout,
        seed: rng.random(),
        ..ClientConfig::default()
    };
    Client::new(config, Arc::new(TcpConnect))
}

/// Panics that a node's output tells of.
fn panics(node: u32, log: &Path) -> Result<Vec<Anomaly>, RunError> {
    let failed = |source| RunError::Read { path: log.to_owned(), source };
    let said = String::from_utf8_lossy(&fs::read(log).map_err(failed)?).into_owned();
    let panics = said.lines().filter(|line| line.contains("panicked at"));
    Ok(panics
        .map(|line| Anomaly::of_cluster(Kind::NodeFailed, format!("node {node}: {line}")))
        .collect())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut says = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        says.push_str(": ");
        says.push_str(&error.to_string());
        cause = error.source();
    }
    says
}
