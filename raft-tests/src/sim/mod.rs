//! What happens at each event.

mod admin;
mod clients;
mod counts;
mod disk;
mod faults;
pub(crate) mod network;
pub(crate) mod node;
mod script;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    ops::Range,
};

use ottla::quorum::{
    Configuration,
    core::{Bug, Fetch, SnapshotWanted},
    raftpb::{Message, StateRole},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

pub use self::counts::Counts;
use self::{
    admin::Wanted,
    network::Network,
    node::{Image, Life, Node, Tuning, member},
};
use crate::{
    Options, Outcome, Trace,
    check::{Checker, Violation},
    heap::Heap,
    linear::History,
    machine::digest_of,
};

const TICK_MS: u64 = 50;
/// A healed cluster has this long to do its work.
const RECOVERY_MS: u64 = 30_000;

/// For one life of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) node: usize,
    incarnation: u64,
}

#[derive(Debug)]
enum Event {
    Tick(At),
    Deliver(Box<Message>, Option<Image>, At),
    Synced(At, u64, u64),
    Apply(At),
    StoreImage(At),
    Fetched(At, Fetch),
    Prepare(At, SnapshotWanted),
    SnapshotSent(At, u64, bool),
    Clients,
    Administer,
    Crash(usize),
    Restart(usize),
    Fault,
    Heal,
    Look,
}

/// How long things take, in milliseconds.
#[derive(Debug, Clone)]
struct Pace {
    jitter: Range<u64>,
    sync: Range<u64>,
    slow_sync: Range<u64>,
    slow_percent: u32,
    apply: Range<u64>,
    store: Range<u64>,
    /// Entries that stay in the log behind the stored image.
    log_margin: u64,
}

/// The whole simulated cluster.
pub(crate) struct Sim {
    options: Options<Bug>,
    rng: SmallRng,
    now_ms: u64,
    heap: Heap<Event>,
    pub(crate) nodes: Vec<Node>,
    /// Nodes as they were before they lost their disks.
    graveyard: Vec<Node>,
    /// Where a peer is to be found.
    hosts: BTreeMap<u64, usize>,
    disks: u64,
    network: Network,
    pace: Pace,
    wanted: Wanted,
    checker: Checker,
    history: History,
    values: u64,
    /// Nodes whose cores may have something to do.
    touched: Vec<usize>,
    digest: u64,
    pub(crate) trace: Vec<String>,
    roles: BTreeMap<u64, (StateRole, u64)>,
    counts: Counts,
    faults: bool,
    healed_ms: u64,
    wiped_ms: u64,
    acknowledged_at_heal: u64,
}

/// Runs one seed to its end.
///
/// # Errors
/// Where the simulation itself fails; a broken promise is part of the outcome.
pub fn run(options: Options<Bug>) -> anyhow::Result<Outcome<Counts>> {
    let mut sim = Sim::random(options)?;
    let violation = match sim.all() {
        Ok(()) => None,
        Err(Failure::Broken(violation)) => Some(violation),
        Err(Failure::Simulation(error)) => return Err(error),
    };
    let counts = sim.counts();
    Ok(Outcome { violation, digest: sim.digest, counts, trace: sim.trace })
}

pub(crate) enum Failure {
    Broken(Violation),
    Simulation(anyhow::Error),
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Simulation(error)
    }
}

impl Sim {
    /// A cluster to which things happen by chance.
    fn random(options: Options<Bug>) -> anyhow::Result<Self> {
        let mut rng = SmallRng::seed_from_u64(options.seed);
        let voters = options.nodes.unwrap_or_else(|| [1, 3, 3, 5][rng.random_range(0..4)]);
        let spare = rng.random_range(0..3);
        let faults_ms = rng.random_range(1_000..10_000);
        let pace = Pace {
            jitter: 0..3,
            sync: 1..8,
            slow_sync: 100..900,
            slow_percent: 1,
            apply: 0..6,
            store: 0..200,
            log_margin: 8,
        };
        let mut sim = Self::new(options, rng, pace, Network::new(1..6), voters, spare)?;
        sim.at(100, Event::Fault);
        sim.at(200, Event::Clients);
        sim.at(300, Event::Administer);
        sim.at(faults_ms, Event::Heal);
        Ok(sim)
    }

    /// A cluster to which only happens what it is told to: no time varies.
    pub(crate) fn scripted(voters: usize, spare: usize, seed: u64) -> anyhow::Result<Self> {
        let options = Options { trace: Trace::Story, ..Options::new(seed) };
        let pace = Pace {
            jitter: 0..1,
            sync: 2..3,
            slow_sync: 2..3,
            slow_percent: 0,
            apply: 1..2,
            store: 5..6,
            log_margin: 4,
        };
        let rng = SmallRng::seed_from_u64(seed);
        let mut sim = Self::new(options, rng, pace, Network::new(5..6), voters, spare)?;
        sim.wanted = Wanted::default();
        Ok(sim)
    }

    fn new(
        options: Options<Bug>,
        rng: SmallRng,
        pace: Pace,
        network: Network,
        voters: usize,
        spare: usize,
    ) -> anyhow::Result<Self> {
        let members = (0..voters).map(|host| (host as u64 + 1, member(host, 0))).collect();
        let first = Configuration::of_voters(members);
        let mut nodes = Vec::new();
        for host in 0..voters + spare {
            let mut node = Node::new(member(host, 0));
            if host < voters {
                node.join(host as u64 + 1, Some(first.clone()))?;
            }
            nodes.push(node);
        }
        let hosts: BTreeSet<usize> = (0..voters).collect();
        let mut sim = Self {
            options,
            rng,
            now_ms: 0,
            heap: Heap::default(),
            nodes,
            graveyard: Vec::new(),
            hosts: hosts.iter().map(|host| (*host as u64 + 1, *host)).collect(),
            disks: 0,
            network,
            pace,
            wanted: Wanted { voters: hosts.clone(), members: hosts },
            checker: Checker::new(first),
            history: History::default(),
            values: 0,
            touched: Vec::new(),
            digest: 0,
            trace: Vec::new(),
            roles: BTreeMap::new(),
            counts: Counts::default(),
            faults: true,
            healed_ms: 0,
            wiped_ms: 0,
            acknowledged_at_heal: 0,
        };
        for host in 0..sim.nodes.len() {
            sim.at(0, Event::Restart(host));
        }
        Ok(sim)
    }

    fn counts(&self) -> Counts {
        Counts {
            events: self.heap.made(),
            committed: self.checker.committed_count(),
            acknowledged: self.checker.acknowledged_count(),
            calls: self.history.completed_count() as u64,
            leaders: self.checker.leaders_count(),
            configurations: self.checker.configurations_count(),
            ..self.counts
        }
    }

    fn at(&mut self, delay_ms: u64, event: Event) {
        self.heap.push(self.now_ms + delay_ms, event);
    }

    fn draw(&mut self, range: &Range<u64>) -> u64 {
        self.rng.random_range(range.clone())
    }

    /// Runs until a healed cluster is well again, or has had its time.
    fn all(&mut self) -> Result<(), Failure> {
        while let Some((time_ms, event)) = self.heap.pop() {
            let is_look = matches!(event, Event::Look);
            self.turn(time_ms, event)?;
            if is_look {
                match self.converged() {
                    Ok(()) => break,
                    Err(violation) if self.now_ms >= self.healed_ms + RECOVERY_MS => {
                        return Err(violation.into());
                    }
                    Err(_) => self.at(250, Event::Look),
                }
            }
        }
        self.checker.kept()?;
        match self.history.unexplained() {
            None => Ok(()),
            Some(key) => {
                let (promise, detail) = ("reads and writes are linearizable", format!("key {key}"));
                Err(Violation { promise, detail }.into())
            }
        }
    }

    /// Lets `time_ms` pass.
    pub(crate) fn pass(&mut self, time_ms: u64) -> Result<(), Failure> {
        let end_ms = self.now_ms + time_ms;
        while self.heap.next_ms().is_some_and(|at_ms| at_ms <= end_ms) {
            if let Some((at_ms, event)) = self.heap.pop() {
                self.turn(at_ms, event)?;
            }
        }
        self.now_ms = end_ms;
        Ok(())
    }

    fn turn(&mut self, time_ms: u64, event: Event) -> Result<(), Failure> {
        self.now_ms = time_ms;
        self.note(&event);
        self.handle(event)?;
        self.settle()
    }

    /// Does what the cores ask for that something happened to.
    pub(crate) fn settle(&mut self) -> Result<(), Failure> {
        while let Some(host) = self.touched.pop() {
            self.effects(host)?;
            self.checker.state(&mut self.nodes[host])?;
            self.note_role(host);
        }
        Ok(())
    }

    /// After healing: one leader, the members that are wanted, everything applied everywhere, and
    /// new changes were made.
    fn converged(&self) -> Result<(), Violation> {
        let broken = |promise, detail| Err(Violation { promise, detail });
        let leaders: Vec<&Life> =
            self.nodes.iter().filter(|n| n.leads()).filter_map(|n| n.life.as_ref()).collect();
        let [leader] = leaders[..] else {
            return broken("a healed cluster has one leader", format!("{} of them", leaders.len()));
        };
        if !self.is_as_wanted(leader.core.configuration()) {
            let detail = format!("{:?} and not {:?}", leader.core.configuration(), self.wanted);
            return broken("a healed cluster gets the members that are wanted", detail);
        }
        let members = self.wanted.members.iter();
        let lives: Vec<_> = members.filter_map(|host| self.nodes[*host].life.as_ref()).collect();
        let applied: Vec<u64> = lives.iter().map(|life| life.applied).collect();
        let slack = 20; // Clients never rest, so that nobody is ever quite at the end.
        let behind = applied.iter().any(|at| at + slack < leader.core.commit());
        if behind || lives.len() != self.wanted.members.len() {
            return broken("a healed cluster agrees", format!("applied {applied:?}"));
        }
        if self.checker.acknowledged_count() <= self.acknowledged_at_heal {
            return broken("a healed cluster makes progress", format!("applied {applied:?}"));
        }
        Ok(())
    }

    fn life(&mut self, at: At) -> Option<&mut Life> {
        let node = &mut self.nodes[at.node];
        if node.incarnation == at.incarnation { node.life.as_mut() } else { None }
    }

    fn here(&self, node: usize) -> At {
        At { node, incarnation: self.nodes[node].incarnation }
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Tick(at) => {
                let Some(life) = self.life(at) else { return Ok(()) };
                life.core.tick();
                // Clocks differ a little, so that no two nodes stay in step.
                let jitter_ms = self.draw(&self.pace.jitter.clone());
                self.at(TICK_MS + jitter_ms, Event::Tick(at));
                self.touched.push(at.node);
            }
            Event::Deliver(message, image, sender) => self.deliver(*message, image, sender)?,
            Event::Synced(at, position, number) => self.synced(at, position, number)?,
            Event::Apply(at) => self.apply(at)?,
            Event::StoreImage(at) => self.store_image(at)?,
            Event::Fetched(at, fetch) => self.fetched(at, fetch),
            Event::Prepare(at, wanted) => self.prepare(at, wanted),
            Event::SnapshotSent(at, peer, arrived) => {
                let Some(life) = self.life(at) else { return Ok(()) };
                life.core.snapshot_sent(peer, arrived);
                self.touched.push(at.node);
            }
            Event::Clients => self.clients(),
            Event::Administer => self.administer()?,
            Event::Crash(host) => self.crash(host),
            Event::Restart(host) => self.restart(host)?,
            Event::Fault => self.fault(),
            Event::Heal => self.heal(),
            Event::Look => {}
        }
        Ok(())
    }

    fn heal(&mut self) {
        self.faults = false;
        self.network.heal();
        self.acknowledged_at_heal = self.checker.acknowledged_count();
        for host in 0..self.nodes.len() {
            self.nodes[host].armed = None;
            self.at(1, Event::Restart(host));
        }
        self.healed_ms = self.now_ms;
        self.at(500, Event::Look);
    }

    pub(crate) fn restart(&mut self, host: usize) -> Result<(), Failure> {
        if self.nodes[host].life.is_some() || self.nodes[host].peer_id.is_none() {
            return Ok(());
        }
        let tuning = Tuning { seed: self.rng.random(), bug: self.options.bug };
        self.nodes[host].start(tuning)?;
        self.checker.started(&self.nodes[host])?;
        self.say(|| format!("node {} starts", host + 1));
        let at = self.here(host);
        self.at(TICK_MS, Event::Tick(at));
        self.touched.push(host);
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        self.digest = match event {
            Event::Deliver(m, ..) => digest_of((
                (self.digest, self.now_ms, m.get_msg_type() as i32, m.from, m.to),
                (m.term, m.index, m.log_term, m.commit, m.entries.len(), m.reject),
            )),
            Event::Synced(at, position, number) => {
                digest_of((self.digest, self.now_ms, at.node, position, number))
            }
            Event::Tick(at) | Event::Apply(at) | Event::StoreImage(at) => {
                digest_of((self.digest, self.now_ms, at.node, at.incarnation))
            }
            _ => digest_of((self.digest, self.now_ms, self.heap.made())),
        };
        if self.options.trace == Trace::All {
            let text = match event {
                Event::Deliver(message, ..) => traffic::describe(message),
                other => format!("{other:?}"),
            };
            self.say(|| text);
        }
    }

    /// Adds a line to the trace.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if self.options.trace > Trace::None {
            let mut text = format!("{:>6} ", self.now_ms);
            let _ = write!(text, "{}", line());
            self.trace.push(text);
        }
    }

    fn note_role(&mut self, host: usize) {
        if self.options.trace == Trace::None {
            return;
        }
        let node = &self.nodes[host];
        let (Some(peer_id), Some(life)) = (node.peer_id, &node.life) else { return };
        let now = (life.core.role(), life.core.term());
        if self.roles.insert(peer_id, now) != Some(now) {
            let (role, term) = now;
            self.say(|| format!("node {} is {role:?} in term {term}", host + 1));
        }
    }
}
