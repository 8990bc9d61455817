//! A whole node under a simulated network, simulated disks and virtual time, crashed as a seed
//! says.
//!
//! A crash is a power cut (unsynced writes are lost, kept or torn) or the death of the process
//! (nothing written is lost). The seed decides everything; nothing else does.

pub mod cluster;
mod net;
mod trace;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ottla::{
    base::{Blocking, TokioClock},
    client::{Client, ClientConfig, Compression},
    config::NodeConfig,
    log::SimDir,
    node::{Beginning, Node, Operator, READINESS, Seams},
    observability::{Readiness, Registry},
    quorum::MemStore,
};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::watch;
use tracing::info;

pub use self::{
    net::{SimConnect, SimListener},
    trace::Trace,
};
use crate::{
    check::{Anomaly, check},
    history::Summary,
    load::{Load, Shared},
};

const NODE: &str = "node";
const PORT: u16 = 9092;
/// Virtual time starts here, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// The slowest simulated access to a disk, before and after the access itself.
const SLOWEST_DISK: Duration = Duration::from_millis(15);
/// A run that takes longer, in virtual time, hangs.
const LONGEST: Duration = Duration::from_secs(300);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct SimConfig {
    /// Decides everything.
    pub seed: u64,
    /// How often the node is crashed.
    pub crashes: u32,
    /// Whether to keep the trace's lines, not only its digest.
    pub keep_trace: bool,
}

impl SimConfig {
    /// The usual run of `seed`.
    #[must_use]
    pub const fn of_seed(seed: u64) -> Self {
        Self { seed, crashes: 6, keep_trace: false }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// How much was checked.
    pub summary: Summary,
    /// What does not hold.
    pub anomalies: Vec<Anomaly>,
    /// Why the run did not end as it should, where it did not.
    pub broken: Option<String>,
    /// Everything that happened, packets included.
    pub trace: Trace,
    /// How long it took, in virtual time.
    pub took: Duration,
}

impl Report {
    /// Whether everything holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broken.is_none() && self.anomalies.is_empty()
    }
}

/// The machine that the node runs on: what outlives a crash.
#[derive(Clone)]
struct Machine {
    dir: SimDir,
    store: Arc<MemStore>,
    /// Seeds of the node's lives, one after another.
    seeds: Arc<Mutex<StdRng>>,
    config: Arc<NodeConfig>,
    fatal: Arc<Mutex<Option<String>>>,
}

impl Machine {
    fn new(config: Arc<NodeConfig>, seed: u64) -> Self {
        Self {
            dir: SimDir::new(),
            store: Arc::new(MemStore::new()),
            seeds: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
            config,
            fatal: Arc::default(),
        }
    }

    /// One life of the node.
    async fn live(self) -> turmoil::Result {
        let draw = || self.seeds.lock().random::<u64>();
        let (seed, log_io, quorum_io) = (draw(), draw(), draw());
        let fatal = Arc::clone(&self.fatal);
        let seams = Seams {
            clock: TokioClock::starting_at(now_ms()),
            directories: vec![Arc::new(self.dir.clone())],
            store: Arc::clone(&self.store) as _,
            log_io: Blocking::simulated(log_io, SLOWEST_DISK),
            quorum_io: Blocking::simulated(quorum_io, SLOWEST_DISK),
            seed,
            registry: Registry::new(),
            readiness: Readiness::new(READINESS),
            operator: Operator::default(),
            cluster: None,
            beginning: Beginning::Alone,
            fatal: Arc::new(move |error| *fatal.lock() = Some(error.to_string())),
        };
        let listener = SimListener::bind(PORT).await?;
        let listeners = vec![("PLAINTEXT".to_owned(), listener)];
        let _node = Node::start(self.config, seams, listeners).await?;
        info!("the node serves");
        std::future::pending().await
    }

    fn cut_power(&self, rng: &mut StdRng) {
        self.dir.crash(rng.random());
        self.store.crash(rng.random_range(0..=self.store.unsynced()));
    }
}

/// The wall clock of a simulated host.
fn now_ms() -> i64 {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    i64::try_from(u128::from(EPOCH_MS) + elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// Runs one seed to its end.
///
/// # Errors
/// Where the node's configuration is refused, which is a fault of this suite.
pub fn run(config: SimConfig) -> anyhow::Result<Report> {
    let trace = Trace::new(config.keep_trace);
    trace.clone().capture(|| run_captured(config, trace))
}

fn run_captured(config: SimConfig, trace: Trace) -> anyhow::Result<Report> {
    let mut rng = StdRng::seed_from_u64(config.seed);
    let machine = Machine::new(node_config()?, rng.random());
    let mut sim = turmoil::Builder::new()
        .rng_seed(rng.random())
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
        .simulation_duration(LONGEST)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(4096)
        .enable_random_order()
        .build();
    let host = machine.clone();
    sim.host(NODE, move || host.clone().live());

    let load = Load {
        topic: "numbers".to_owned(),
        partitions: 3,
        replication_factor: 1,
        min_insync_replicas: 1,
        compression: compression(&mut rng),
        pause: Duration::from_millis(8),
        filling_bytes: 6_000,
        started_ms: i64::try_from(EPOCH_MS)?,
        seed: rng.random(),
    };
    let history = Shared::default();
    let (stop, stopped) = watch::channel(false);
    let (created, is_created) = watch::channel(false);
    let writer = client("writer", rng.random())?;
    let consumer = client("consumer", rng.random())?;
    sim.client("writer", {
        let (load, history, stopped) = (load.clone(), history.clone(), stopped.clone());
        async move {
            load.create_topic(&writer).await?;
            info!("the topic is made");
            created.send_replace(true);
            load.write(1, &writer, &history, stopped).await;
            info!("everything is written");
            Ok(load.read(3, &writer, &history).await?)
        }
    });
    sim.client("consumer", {
        let (load, history, mut is_created) = (load, history.clone(), is_created);
        async move {
            is_created.wait_for(|created| *created).await?;
            load.consume(2, &consumer, &history, stopped).await;
            Ok(())
        }
    });

    let broken = drive(&mut sim, config.crashes, &machine, &mut rng, &stop).err();
    let took = sim.elapsed();
    drop(sim);
    let history = history.lock();
    Ok(Report {
        summary: Summary::of(history.ops()),
        anomalies: check(history.ops()),
        broken: machine.fatal.lock().take().or(broken.map(|error| error.to_string())),
        trace,
        took,
    })
}

/// Crashes the node again and again, then lets the clients come to their end.
fn drive(
    sim: &mut turmoil::Sim<'_>,
    crashes: u32,
    machine: &Machine,
    rng: &mut StdRng,
    stop: &watch::Sender<bool>,
) -> turmoil::Result {
    for _ in 0..crashes {
        // Some crashes hit the start, most hit a node under load.
        let up_ms = if rng.random_bool(0.25) { 60 } else { 2_000 };
        advance(sim, Duration::from_millis(rng.random_range(1..=up_ms)))?;
        let at = sim.elapsed();
        sim.crash(NODE);
        let power = rng.random_bool(0.75);
        if power {
            machine.cut_power(rng);
        } else {
            machine.dir.kill();
        }
        info!(?at, power, "crash");
        advance(sim, Duration::from_millis(rng.random_range(1..=700)))?;
        info!(at = ?sim.elapsed(), "restart");
        sim.bounce(NODE);
    }
    advance(sim, Duration::from_secs(1))?;
    stop.send_replace(true);
    while !sim.step()? {}
    Ok(())
}

fn advance(sim: &mut turmoil::Sim<'_>, by: Duration) -> turmoil::Result {
    let until = sim.elapsed() + by;
    while sim.elapsed() < until {
        if sim.step()? {
            return Err("the clients ended before the run did".into());
        }
    }
    Ok(())
}

fn client(name: &str, seed: u64) -> anyhow::Result<Client> {
    let config = ClientConfig {
        bootstrap: vec![format!("{NODE}:{PORT}")],
        client_id: name.to_owned(),
        connect_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_secs(3),
        operation_timeout: Duration::from_secs(120),
        seed,
        ..ClientConfig::default()
    };
    Ok(Client::new(config, Arc::new(SimConnect))?)
}

fn compression(rng: &mut StdRng) -> Compression {
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    codecs[rng.random_range(0..codecs.len())]
}

fn node_config() -> anyhow::Result<Arc<NodeConfig>> {
    let settings = [
        ("node.id", "1".to_owned()),
        ("log.dirs", "/simulated".to_owned()),
        ("listeners", format!("PLAINTEXT://0.0.0.0:{PORT}")),
        ("advertised.listeners", format!("PLAINTEXT://{NODE}:{PORT}")),
        ("offsets.topic.replication.factor", "1".to_owned()),
    ];
    let settings: BTreeMap<String, String> =
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(Arc::new(NodeConfig::from_settings(settings)?))
}
