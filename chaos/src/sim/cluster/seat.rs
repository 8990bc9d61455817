//! A simulated machine and the lives of the node on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use ottla::{
    api::Published,
    base::{Blocking, Clock, FurtherDelay, NodeId, TokioClock},
    cert::Files,
    cluster::{VotersChange, VotersError},
    config::NodeConfig,
    log::{Dir, SimDir},
    metadata::MetadataImage,
    node::{Beginning, ClusterSeams, Node, Operator, READINESS, Seams},
    observability::{Readiness, Registry},
    quorum::{self, MemStore},
    replication::Partitions,
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Command, Commands,
    links::{Links, SimResolver, SimUdp},
};
use crate::{
    drive::VoterChange,
    sim::{SimListener, now_ms},
};

/// Where each node listens to clients, and to other nodes.
pub(super) const KAFKA_PORT: u16 = 9092;
pub(super) const CLUSTER_PORT: u16 = 9192;
/// The slowest simulated access to a disk, before and after the access itself.
const SLOWEST_DISK: Duration = Duration::from_millis(4);
/// How often whoever founds the cluster tries.
const FOUNDING: Duration = Duration::from_millis(100);

/// The host name of a node.
pub(super) fn host(node: u32) -> String {
    format!("node-{node}")
}

/// How a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Its machine is off.
    Off,
    /// It starts, or serves.
    Up,
    /// It ended, in order or because it gave up.
    Ended,
}

/// What of a node can be looked at from outside.
#[derive(Clone)]
struct Window {
    published: Published,
    partitions: Arc<Partitions>,
    quorum: quorum::Handle<MetadataImage>,
}

/// A machine, what is on its disks, and the node that lives on it.
pub(super) struct Seat {
    pub(super) node: u32,
    config: Arc<NodeConfig>,
    certificate: Files,
    links: Links,
    disks: Mutex<Disks>,
    /// Seeds of the node's lives, one after another.
    seeds: Mutex<StdRng>,
    life: Mutex<Life>,
    /// How many lives have begun.
    lives: AtomicU64,
    /// Why it gave up, where nothing excused it.
    endings: Mutex<Vec<String>>,
    excused: AtomicBool,
    commands: Commands,
    window: Mutex<Option<Window>>,
    stop: watch::Sender<bool>,
    /// Who votes first, where this node names them.
    founds: Option<BTreeSet<NodeId>>,
    wiped: AtomicBool,
    /// How much longer each disk takes, and the pools that wait for them.
    delays: Mutex<[Duration; 2]>,
    log_further: FurtherDelay,
    quorum_further: FurtherDelay,
    skew_ms: Arc<AtomicI64>,
    /// What the node is asked to ask its cluster for, while it lives.
    asks: Mutex<Option<mpsc::UnboundedSender<Ask>>>,
}

/// A change of the voters that is asked for.
struct Ask {
    node: u32,
    change: VoterChange,
    within: Duration,
    answer: oneshot::Sender<Result<(), VotersError>>,
}

/// Why the voters do not change.
#[derive(Debug, thiserror::Error)]
pub(super) enum VoterChangeError {
    /// Whoever was asked does not run.
    #[error("it does not run")]
    Down,
    /// Whoever was asked does not answer.
    #[error("no answer in time")]
    TooLate,
    /// The cluster refuses.
    #[error(transparent)]
    Refused(#[from] VotersError),
}

/// The wall clock of a machine, which may be off.
#[derive(Debug)]
struct SkewedClock {
    right: Arc<TokioClock>,
    skew_ms: Arc<AtomicI64>,
}

impl Clock for SkewedClock {
    fn wall_ms(&self) -> i64 {
        self.right.wall_ms() + self.skew_ms.load(Ordering::Relaxed)
    }
}

/// What outlives a node.
#[derive(Clone)]
pub(super) struct Disks {
    pub(super) logs: Vec<SimDir>,
    pub(super) store: Arc<MemStore>,
}

impl Disks {
    fn new() -> Self {
        let logs = vec![SimDir::named("-1"), SimDir::named("-2")];
        Self { logs, store: Arc::new(MemStore::new()) }
    }
}

impl Seat {
    pub(super) fn new(
        node: u32,
        nodes: u32,
        certificate: Files,
        (links, commands): (Links, Commands),
        settings: &BTreeMap<String, String>,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let disks = Disks::new();
        let seeds: Vec<_> = (1..=nodes).map(|it| format!("{}:{CLUSTER_PORT}", host(it))).collect();
        let locations: Vec<_> = disks.logs.iter().map(|dir| dir.location()).collect();
        let own = [
            ("node.id", node.to_string()),
            ("log.dirs", locations.join(",")),
            ("listeners", format!("PLAINTEXT://0.0.0.0:{KAFKA_PORT}")),
            ("advertised.listeners", format!("PLAINTEXT://{}:{KAFKA_PORT}", host(node))),
            ("ottla.cluster.listener", format!("0.0.0.0:{CLUSTER_PORT}")),
            ("ottla.cluster.advertised.listener", format!("{}:{CLUSTER_PORT}", host(node))),
            ("ottla.seeds", seeds.join(",")),
        ];
        let mut all = settings.clone();
        all.extend(own.map(|(name, value)| (name.to_owned(), value)));
        let founds = (node == 1).then(|| (1..=nodes).map(NodeId).collect());
        Ok(Self {
            node,
            config: Arc::new(NodeConfig::from_settings(all)?),
            certificate,
            links,
            disks: Mutex::new(disks),
            seeds: Mutex::new(StdRng::seed_from_u64(seed)),
            life: Mutex::new(Life::Off),
            lives: AtomicU64::new(0),
            endings: Mutex::default(),
            excused: AtomicBool::new(false),
            commands,
            window: Mutex::default(),
            stop: watch::Sender::new(false),
            founds,
            wiped: AtomicBool::new(false),
            delays: Mutex::default(),
            log_further: FurtherDelay::default(),
            quorum_further: FurtherDelay::default(),
            skew_ms: Arc::default(),
            asks: Mutex::default(),
        })
    }

    /// One life of the node. Returns only where the suite itself fails.
    pub(super) async fn live(self: Arc<Self>) -> turmoil::Result {
        let draw = || self.seeds.lock().random::<u64>();
        let (seed, log_io, quorum_io) = (draw(), draw(), draw());
        let disks = self.disks.lock().clone();
        let right = TokioClock::starting_at(now_ms());
        let clock = Arc::new(SkewedClock { right, skew_ms: Arc::clone(&self.skew_ms) });
        let now_ms = clock.wall_ms();
        let operator = Operator::default();
        let fatal = Arc::clone(&self);
        let (socket, _bound) = SimUdp::bind(self.node, CLUSTER_PORT, self.links.clone()).await?;
        let seams = Seams {
            clock,
            directories: disks.logs.iter().map(|dir| Arc::new(dir.clone()) as _).collect(),
            store: disks.store,
            log_io: Blocking::slowed(log_io, SLOWEST_DISK, self.log_further.clone()),
            quorum_io: Blocking::slowed(quorum_io, SLOWEST_DISK, self.quorum_further.clone()),
            seed,
            registry: Registry::new(),
            readiness: Readiness::new(READINESS),
            operator: operator.clone(),
            cluster: Some(ClusterSeams {
                credentials: self.certificate.load(NodeId(self.node), now_ms)?,
                socket,
                resolver: Arc::new(SimResolver),
                watch: None,
            }),
            beginning: Beginning::Waits,
            fatal: Arc::new(move |error| fatal.ends(error.to_string())),
        };
        let (asks, asked) = mpsc::unbounded_channel();
        *self.asks.lock() = Some(asks);
        tokio::spawn(answer(operator.clone(), asked));
        let founds = self.founds.clone().filter(|_| !self.wiped.load(Ordering::Relaxed));
        if let Some(voters) = founds {
            tokio::spawn(found(operator, voters));
        }
        let listener = SimListener::bind(KAFKA_PORT).await?;
        let listeners = vec![("PLAINTEXT".to_owned(), listener)];
        let mut stop = self.stop.subscribe();
        tokio::select! {
            started = Node::start(Arc::clone(&self.config), seams, listeners) => match started {
                Ok(node) => self.serve(node).await,
                Err(error) => self.ends(format!("it does not start: {}", with_causes(&error))),
            },
            // A process that is told to stop while it starts does so at once.
            _ = stop.wait_for(|stop| *stop) => *self.life.lock() = Life::Ended,
        }
        std::future::pending().await
    }

    async fn serve(&self, node: Node) {
        info!(node = self.node, "serves");
        let context = node.context();
        let window = Window {
            published: context.published.clone(),
            partitions: Arc::clone(&context.partitions),
            quorum: context.quorum.clone(),
        };
        *self.window.lock() = Some(window);
        let mut stop = self.stop.subscribe();
        tokio::select! {
            failure = node.failed() => self.ends(failure.to_string()),
            _ = stop.wait_for(|stop| *stop) => {
                let ended = node.stop().await;
                info!(node = self.node, "has stopped");
                match ended {
                    Ok(()) => *self.life.lock() = Life::Ended,
                    Err(error) => self.ends(format!("it does not stop: {}", with_causes(&error))),
                }
            }
        }
    }

    /// The node gives up, as a process would: nothing of it goes on.
    fn ends(&self, why: String) {
        warn!(node = self.node, why, "ends");
        if !self.excused.load(Ordering::Relaxed) {
            self.endings.lock().push(why);
        }
        *self.life.lock() = Life::Ended;
        self.commands.lock().push_back(Command::Crash(self.node));
    }

    pub(super) fn life(&self) -> Life {
        *self.life.lock()
    }

    /// How many lives have begun.
    pub(super) fn lives(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// Why it gave up, each time.
    pub(super) fn endings(&self) -> Vec<String> {
        self.endings.lock().clone()
    }

    /// Whether it may give up from now on.
    pub(super) fn excuse(&self, excused: bool) {
        self.excused.store(excused, Ordering::Relaxed);
    }

    /// Its disks are empty, as if new. Whoever founded a cluster does not do so again.
    pub(super) fn wipe(&self) {
        *self.disks.lock() = Disks::new();
        self.wiped.store(true, Ordering::Relaxed);
    }

    /// How much longer the first or second disk takes. The first holds the quorum's store, too; logs
    /// share one pool, which goes by the slower disk.
    pub(super) fn slow_disk(&self, number: u32, delay: Duration) {
        let mut delays = self.delays.lock();
        delays[number as usize - 1] = delay;
        self.quorum_further.set(delays[0]);
        self.log_further.set(delays[0].max(delays[1]));
    }

    /// How far its wall clock is off from now on.
    pub(super) fn skew(&self, by_ms: i64) {
        self.skew_ms.store(by_ms, Ordering::Relaxed);
    }

    /// Has the node ask for a change of the voters, on its own machine.
    pub(super) async fn change_voter(
        &self,
        node: u32,
        change: VoterChange,
        within: Duration,
    ) -> Result<(), VoterChangeError> {
        let (answer, answered) = oneshot::channel();
        let asks = self.asks.lock().clone().ok_or(VoterChangeError::Down)?;
        asks.send(Ask { node, change, within, answer }).map_err(|_| VoterChangeError::Down)?;
        let answer = timeout(within, answered).await.map_err(|_| VoterChangeError::TooLate)?;
        Ok(answer.map_err(|_| VoterChangeError::Down)??)
    }

    /// Whether the node is a member of its cluster, and knows its leader.
    pub(super) fn is_member(&self) -> bool {
        self.window.lock().as_ref().is_some_and(|it| it.quorum.status().leader().is_some())
    }

    /// The machine is on, and a new life begins.
    pub(super) fn begin(&self) {
        *self.life.lock() = Life::Up;
        self.lives.fetch_add(1, Ordering::Relaxed);
        self.stop.send_replace(false);
    }

    /// The machine is off: nothing of the node is left but its disks.
    pub(super) fn end(&self) {
        *self.life.lock() = Life::Off;
        *self.window.lock() = None;
        *self.asks.lock() = None;
    }

    /// Asks the node to end in order.
    pub(super) fn ask_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// The metadata that the node serves clients from.
    pub(super) fn image(&self) -> Option<Arc<MetadataImage>> {
        Some(self.window.lock().as_ref()?.published.image())
    }

    /// Whether the node leads the quorum, and in which term.
    pub(super) fn leads_quorum(&self) -> Option<u64> {
        let status = self.window.lock().as_ref()?.quorum.status();
        status.is_leader().then_some(status.raft.term)
    }

    /// The disks that hold the logs that the node goes by: those that it has not given up.
    pub(super) fn working_disks(&self) -> Vec<SimDir> {
        let mut logs = self.disks().logs;
        if let Some(window) = &*self.window.lock() {
            let working: BTreeSet<_> =
                window.partitions.working_directories().map(|it| it.location()).collect();
            logs.retain(|dir| working.contains(&dir.location()));
        }
        logs
    }

    pub(super) fn disks(&self) -> Disks {
        self.disks.lock().clone()
    }
}

/// Changes the voters as an operator of this node would.
async fn answer(operator: Operator, mut asked: mpsc::UnboundedReceiver<Ask>) {
    while let Some(Ask { node, change, within, answer }) = asked.recv().await {
        // Whoever asked is told that it does not run.
        let Some(cluster) = operator.cluster() else { continue };
        let change = match change {
            VoterChange::Add => VotersChange::Add,
            VoterChange::Remove => VotersChange::Remove,
        };
        let until = Instant::now() + within;
        let _ = answer.send(cluster.change_voters(change, NodeId(node), None, until).await);
    }
}

/// Names the first voters, once all of them answer.
async fn found(operator: Operator, voters: BTreeSet<NodeId>) {
    loop {
        sleep(FOUNDING).await;
        let Some(cluster) = operator.cluster() else { continue };
        match cluster.bootstrap(&voters).await {
            Ok(_) | Err(ottla::cluster::BootstrapError::Exists { .. }) => return,
            Err(error) => info!(%error, "not founded yet"),
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut says = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        says = format!("{says}: {next}");
        cause = next.source();
    }
    says
}
