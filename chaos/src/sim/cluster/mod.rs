//! Whole clusters under a simulated network, simulated disks and virtual time, with the scenarios,
//! clients and rules of [`crate::run`].
//!
//! Every node is [`ottla::node::Node`] as a process starts it, with QUIC over simulated UDP. All
//! clients share one simulated host, so that their histories have one clock. The seed and the
//! scenario decide everything.

mod course;
mod links;
mod machines;
mod seat;
mod shrink;

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc, time::Duration};

use ottla::{
    base::NodeId,
    cert::{self, NewNode},
    log::SimDir,
    metadata::records::Uuid,
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

pub use self::shrink::shrink;
use self::{
    course::{Course, Result as CourseResult},
    links::Links,
    seat::{Life, Seat, host},
};
use super::{EPOCH_MS, Trace};
use crate::{
    check::{Anomaly, Kind},
    drive::REPLACED_AFTER_MS,
    history::{Op, Summary},
    report::Event,
    scenario::Scenario,
};

/// A run that takes longer, in virtual time, hangs.
const LONGEST: Duration = Duration::from_secs(900);
/// How certificates are made: valid from the day before, for longer than any run.
const DAY_MS: i64 = 86_400_000;

/// What to run.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Decides everything that the scenario leaves open.
    pub seed: u64,
    /// How many nodes, all of them voters.
    pub nodes: u32,
    /// How many of them hold each partition.
    pub replication_factor: i16,
    /// Whether a write is flushed before it is acknowledged.
    pub flush: bool,
    /// What is done to them.
    pub scenario: Scenario,
    /// Whether to keep the trace's lines, not only its digest.
    pub keep_trace: bool,
}

/// What came of a run.
#[derive(Debug)]
pub struct ClusterReport {
    /// How much was checked.
    pub summary: Summary,
    /// What does not hold.
    pub anomalies: Vec<Anomaly>,
    /// What clients did.
    pub ops: Vec<Op>,
    /// What was done, and to whom.
    pub events: Vec<Event>,
    /// What was not done, since this simulation has no such thing.
    pub left_out: Vec<String>,
    /// The longest time for which some partition took no write.
    pub longest_gap: Duration,
    /// How long after the last fault all partitions took writes.
    pub written_after: Option<Duration>,
    /// Everything that happened.
    pub trace: Trace,
    /// How long it took, in virtual time.
    pub took: Duration,
}

impl ClusterReport {
    /// Whether everything holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.anomalies.is_empty()
    }
}

/// What is asked of the simulation from within, done between two of its steps.
type Commands = Arc<Mutex<VecDeque<Command>>>;

/// See [`Commands`].
#[derive(Debug, Clone, Copy)]
enum Command {
    /// The node is gone; what it had written is written.
    Crash(u32),
    /// Its machine is switched on.
    Start(u32),
}

/// All machines, and what is between them.
struct World {
    seats: Vec<Arc<Seat>>,
    links: Links,
    commands: Commands,
}

impl World {
    fn new(config: &ClusterConfig, pki: &TempDir, rng: &mut StdRng) -> anyhow::Result<Arc<Self>> {
        let made_ms = i64::try_from(EPOCH_MS)? - DAY_MS;
        let cluster_id = Uuid { high: rng.random(), low: rng.random() };
        cert::new_ca(pki.path(), Some(cluster_id.into()), made_ms, None)?;
        let (links, commands) = (Links::new(rng.random()), Commands::default());
        let flush = if config.flush { 1 } else { i64::MAX };
        let factor = config.replication_factor.to_string();
        let settings = [
            ("offsets.topic.replication.factor", factor),
            ("offsets.topic.num.partitions", "2".to_owned()),
            ("log.flush.interval.messages", flush.to_string()),
            ("ottla.log.dir.replacement.grace.ms", REPLACED_AFTER_MS.to_owned()),
        ];
        let settings: BTreeMap<_, _> =
            settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut seats = Vec::new();
        for node in 1..=config.nodes {
            let new = NewNode {
                ca: pki.path().to_owned(),
                directory: pki.path().join(host(node)),
                node_id: NodeId(node),
                hosts: Vec::new(),
                days: 30,
                renew: false,
            };
            let certificate = cert::new_node(&new, made_ms)?;
            let shared = (links.clone(), Arc::clone(&commands));
            let seat = Seat::new(node, config.nodes, certificate, shared, &settings, rng.random())?;
            seats.push(Arc::new(seat));
        }
        Ok(Arc::new(Self { seats, links, commands }))
    }

    fn seat(&self, node: u32) -> &Seat {
        &self.seats[node as usize - 1]
    }

    fn ask(&self, command: Command) {
        self.commands.lock().push_back(command);
    }

    /// Does what was asked for, between two steps of the simulation.
    fn obey(&self, sim: &mut turmoil::Sim<'_>) {
        loop {
            let Some(command) = self.commands.lock().pop_front() else { return };
            match command {
                Command::Crash(node) if self.seat(node).life() == Life::Off => {}
                Command::Crash(node) => {
                    let seat = self.seat(node);
                    seat.end();
                    sim.crash(host(node));
                    seat.disks().logs.iter().for_each(SimDir::kill);
                }
                Command::Start(node) => {
                    let seat = self.seat(node);
                    // No power failed: what the last life wrote is there.
                    let store = seat.disks().store;
                    store.crash(store.unsynced());
                    seat.begin();
                    sim.bounce(host(node));
                }
            }
        }
    }
}

/// Runs one seed to its end.
///
/// # Errors
/// Where certificates cannot be made, or the nodes' configuration is refused: faults of this suite.
pub fn run(config: &ClusterConfig) -> anyhow::Result<ClusterReport> {
    let trace = Trace::new(config.keep_trace);
    trace.clone().capture_nodes(|| run_captured(config, trace))
}

fn run_captured(config: &ClusterConfig, trace: Trace) -> anyhow::Result<ClusterReport> {
    let mut rng = StdRng::seed_from_u64(config.seed);
    let pki = TempDir::new()?;
    let world = World::new(config, &pki, &mut rng)?;
    let mut sim = turmoil::Builder::new()
        .rng_seed(rng.random())
        .epoch(std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
        .simulation_duration(LONGEST)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_micros(900))
        .tcp_capacity(4096)
        .udp_capacity(16_384)
        .enable_random_order()
        .build();
    for seat in &world.seats {
        seat.begin();
        let host_seat = Arc::clone(seat);
        sim.host(host(seat.node), move || Arc::clone(&host_seat).live());
        world.links.know(seat.node, sim.lookup(host(seat.node)));
    }
    let course = Course::new(config, Arc::clone(&world), &mut rng)?;
    let result: Arc<Mutex<CourseResult>> = Arc::default();
    let kept = Arc::clone(&result);
    sim.client(course::HOST, async move {
        course.run(&kept).await;
        Ok(())
    });
    let broken = loop {
        match sim.step() {
            Ok(true) => break None,
            Ok(false) => world.obey(&mut sim),
            Err(error) => break Some(error.to_string()),
        }
    };
    let took = sim.elapsed();
    for seat in &world.seats {
        seat.end();
    }
    drop(sim);
    let mut result = std::mem::take(&mut *result.lock());
    let broken = broken.map(|says| Anomaly::of_cluster(Kind::Unavailable, says));
    result.anomalies.extend(broken);
    Ok(ClusterReport {
        summary: result.summary,
        anomalies: result.anomalies,
        ops: result.ops,
        events: result.done.events,
        left_out: result.done.left_out,
        longest_gap: result.longest_gap,
        written_after: result.written_after,
        trace,
        took,
    })
}
