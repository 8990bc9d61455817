//! The event heap, and what happens at each event.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Context as _;
use bytes::Bytes;
use ottla::{
    base::{ClusterId, DirectoryId, NodeId},
    quorum::{
        Configuration, Effects, Identity, Member, Store as _,
        core::{Apply, Fetch, SnapshotWanted},
        raftpb::{Message, MessageType},
        store::{Applied, Point},
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use uuid::Uuid;

use crate::{
    check::{Checker, Violation},
    kv::{Kv, digest_of},
    network::Network,
    node::{Image, Life, Node},
};

const TICK_MS: u64 = 50;
const LOG_MARGIN: u64 = 8;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// How many voters; by the seed if none.
    pub nodes: Option<u64>,
    /// How long faults go on, in simulated milliseconds.
    pub faults_ms: u64,
    /// Whether to keep the text of the trace.
    pub trace: bool,
}

impl Options {
    /// The usual run of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, nodes: None, faults_ms: 15_000, trace: false }
    }
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The promise that was broken, if any.
    pub violation: Option<Violation>,
    /// Of all events.
    pub digest: u64,
    /// The events, if they were to be kept.
    pub trace: Vec<String>,
    /// How many events there were.
    pub events: u64,
    /// Entries that were committed.
    pub committed: usize,
    /// Proposals that were acknowledged.
    pub acknowledged: usize,
    /// Terms that had a leader.
    pub leaders: usize,
    /// Snapshots that were installed.
    pub snapshots: u64,
    /// Crashes.
    pub crashes: u64,
}

/// For one life of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    node: usize,
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
    Propose,
    Crash(usize),
    Restart(usize),
    Fault,
    Heal,
}

struct Sim {
    options: Options,
    rng: SmallRng,
    now_ms: u64,
    heap: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    nodes: Vec<Node>,
    network: Network,
    checker: Checker,
    digest: u64,
    trace: Vec<String>,
    proposals: u64,
    snapshots: u64,
    crashes: u64,
    faults: bool,
}

/// Runs one seed to its end.
///
/// # Errors
/// Where the simulation itself fails; a broken promise is part of the outcome.
pub fn run(options: Options) -> anyhow::Result<Outcome> {
    let mut sim = Sim::new(options)?;
    let violation = match sim.all() {
        Ok(()) => None,
        Err(Failure::Broken(violation)) => Some(violation),
        Err(Failure::Simulation(error)) => return Err(error),
    };
    Ok(Outcome {
        violation,
        digest: sim.digest,
        events: sim.sequence,
        committed: sim.checker.committed_count(),
        acknowledged: sim.checker.acknowledged_count(),
        leaders: sim.checker.leaders_count(),
        snapshots: sim.snapshots,
        crashes: sim.crashes,
        trace: sim.trace,
    })
}

enum Failure {
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
    fn new(options: Options) -> anyhow::Result<Self> {
        let mut rng = SmallRng::seed_from_u64(options.seed);
        let count = options.nodes.unwrap_or_else(|| [1, 3, 5][rng.random_range(0..3)]);
        let member = |peer: u64| Member {
            node_id: NodeId(peer as u32),
            directory_id: DirectoryId(Uuid::from_u128(peer.into())),
        };
        let members = (1..=count).map(|peer| (peer, member(peer))).collect();
        let first = Configuration::of_voters(members);
        let mut nodes = Vec::new();
        for peer_id in 1..=count {
            let node = Node::new(peer_id);
            let cluster_id = ClusterId(Uuid::from_u128(1));
            let identity = Identity { cluster_id, member: member(peer_id), peer_id };
            node.store.initialize(identity, Some(first.clone()))?;
            nodes.push(node);
        }
        let mut sim = Self {
            options,
            rng,
            now_ms: 0,
            heap: BTreeMap::new(),
            sequence: 0,
            nodes,
            network: Network::default(),
            checker: Checker::default(),
            digest: 0,
            trace: Vec::new(),
            proposals: 0,
            snapshots: 0,
            crashes: 0,
            faults: true,
        };
        for node in 0..sim.nodes.len() {
            sim.at(0, Event::Restart(node));
        }
        sim.at(100, Event::Fault);
        sim.at(200, Event::Propose);
        sim.at(options.faults_ms, Event::Heal);
        Ok(sim)
    }

    fn at(&mut self, delay_ms: u64, event: Event) {
        self.sequence += 1;
        self.heap.insert((self.now_ms + delay_ms, self.sequence), event);
    }

    fn all(&mut self) -> Result<(), Failure> {
        let end_ms = self.options.faults_ms + 15_000;
        let mut proposals_at_heal = None;
        while let Some(((time_ms, _), event)) = self.heap.pop_first() {
            if time_ms > end_ms {
                break;
            }
            self.now_ms = time_ms;
            self.note(&event);
            let touched = self.handle(event)?;
            if let Some(node) = touched {
                self.effects(node)?;
                self.checker.state(&mut self.nodes[node])?;
            }
            if !self.faults && proposals_at_heal.is_none() {
                proposals_at_heal = Some(self.checker.acknowledged_count());
            }
        }
        self.checker.kept()?;
        self.converged(proposals_at_heal.unwrap_or(0))?;
        Ok(())
    }

    /// After healing: one leader, everything applied everywhere, and new changes were made.
    fn converged(&self, acknowledged_at_heal: usize) -> Result<(), Failure> {
        let broken = |promise, detail| Err(Failure::Broken(Violation { promise, detail }));
        let lives: Vec<&Life> = self.nodes.iter().filter_map(|n| n.life.as_ref()).collect();
        if lives.iter().filter(|life| life.core.is_leader()).count() != 1 {
            return broken("a healed cluster has one leader", format!("{} nodes", lives.len()));
        }
        let applied: Vec<u64> = lives.iter().map(|life| life.applied).collect();
        if applied.iter().max() != applied.iter().min() || lives.len() != self.nodes.len() {
            return broken("a healed cluster agrees", format!("applied {applied:?}"));
        }
        if self.checker.acknowledged_count() <= acknowledged_at_heal {
            return broken("a healed cluster makes progress", format!("applied {applied:?}"));
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        let line = match event {
            Event::Deliver(m, ..) => format!(
                "{} {:?} {} -> {} term {} index {} log-term {} commit {} entries {} reject {}",
                self.now_ms,
                m.get_msg_type(),
                m.from,
                m.to,
                m.term,
                m.index,
                m.log_term,
                m.commit,
                m.entries.len(),
                m.reject
            ),
            other => format!("{} {other:?}", self.now_ms),
        };
        self.digest = digest_of((self.digest, &line));
        if self.options.trace {
            self.trace.push(line);
        }
    }

    fn life(&mut self, at: At) -> Option<&mut Life> {
        let node = &mut self.nodes[at.node];
        if node.incarnation == at.incarnation { node.life.as_mut() } else { None }
    }

    fn here(&self, node: usize) -> At {
        At { node, incarnation: self.nodes[node].incarnation }
    }

    /// Returns the node whose core may have something to do now.
    fn handle(&mut self, event: Event) -> Result<Option<usize>, Failure> {
        match event {
            Event::Tick(at) => {
                let Some(life) = self.life(at) else { return Ok(None) };
                life.core.tick();
                // Clocks differ a little, so that no two nodes stay in step.
                let jitter = self.rng.random_range(0..3);
                self.at(TICK_MS + jitter, Event::Tick(at));
                Ok(Some(at.node))
            }
            Event::Deliver(message, image, sender) => Ok(self.deliver(*message, image, sender)),
            Event::Synced(at, position, number) => {
                let Some(life) = self.life(at) else { return Ok(None) };
                // Nobody else touches the store in between: one piece.
                life.core.persisted(number);
                let entries = life.to_sync.remove(&number).unwrap_or_default();
                self.nodes[at.node].store.synced(position);
                self.checker.written(&self.nodes[at.node], &entries)?;
                Ok(Some(at.node))
            }
            Event::Apply(at) => self.apply(at),
            Event::StoreImage(at) => self.store_image(at),
            Event::Fetched(at, fetch) => {
                let entries =
                    self.nodes[at.node].store.entries(fetch.low, fetch.high, fetch.max_bytes);
                let Some(life) = self.life(at) else { return Ok(None) };
                life.core.fetched(fetch, entries.unwrap_or_default());
                Ok(Some(at.node))
            }
            Event::Prepare(at, wanted) => Ok(self.prepare(at, wanted)),
            Event::SnapshotSent(at, peer, arrived) => {
                let Some(life) = self.life(at) else { return Ok(None) };
                life.core.snapshot_sent(peer, arrived);
                Ok(Some(at.node))
            }
            Event::Propose => Ok(self.propose()),
            Event::Crash(node) => {
                self.crash(node);
                Ok(None)
            }
            Event::Restart(node) => self.restart(node),
            Event::Fault => {
                self.fault();
                Ok(None)
            }
            Event::Heal => {
                self.faults = false;
                self.network.heal();
                for node in 0..self.nodes.len() {
                    self.at(1, Event::Restart(node));
                }
                Ok(None)
            }
        }
    }

    fn deliver(&mut self, message: Message, image: Option<Image>, sender: At) -> Option<usize> {
        let to = (message.to - 1) as usize;
        let node = &mut self.nodes[to];
        let is_up = node.life.is_some();
        let peer = message.to;
        let mut arrived = is_up;
        if let Some(life) = &mut node.life {
            arrived = !life.core.is_installing();
            if let Some(image) = image.as_ref().filter(|_| arrived) {
                let pairs: Vec<_> = image.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                // The store in memory does not fail.
                let _ = node.store.stage(true, &pairs);
            }
            let _ = life.core.step(message);
        }
        if image.is_some() {
            self.at(5, Event::SnapshotSent(sender, peer, arrived));
        }
        is_up.then_some(to)
    }

    fn apply(&mut self, at: At) -> Result<Option<usize>, Failure> {
        let Some(life) = self.life(at) else { return Ok(None) };
        let applies: VecDeque<Apply> = std::mem::take(&mut life.to_apply);
        for apply in applies {
            match apply {
                Apply::Install(point) => self.install(at, point)?,
                Apply::Entry(entry) => {
                    self.checker.committed(&self.nodes, &entry)?;
                    self.fold(at, entry)?;
                }
            }
        }
        Ok(Some(at.node))
    }

    fn fold(&mut self, at: At, entry: ottla::quorum::core::Committed) -> Result<(), Failure> {
        let peer_id = self.nodes[at.node].peer_id;
        let Some(life) = self.life(at) else { return Ok(()) };
        if entry.index != life.applied + 1 {
            let detail = format!("node {peer_id}: {} after {}", entry.index, life.applied);
            return Err(Violation { promise: "entries apply once, in order", detail }.into());
        }
        life.applied = entry.index;
        if let Some(configuration) = entry.configuration {
            life.configuration = configuration;
        }
        let writes = life.kv.apply(&entry.data).into_iter().collect();
        let (index, term) = (entry.index, entry.term);
        let point = Point { index, term, configuration: life.configuration.clone() };
        life.to_store.push(Applied { point, writes });
        life.core.applied(index);
        let digest = life.kv.digest();
        let acknowledged = life.proposed.remove(&(index, term));
        self.checker.applied(peer_id, index, digest)?;
        if let Some(payload) = acknowledged {
            self.checker.acknowledged(index, payload);
        }
        let delay_ms = self.rng.random_range(0..200);
        self.at(delay_ms, Event::StoreImage(at));
        Ok(())
    }

    fn install(&mut self, at: At, point: Point) -> Result<(), Failure> {
        self.snapshots += 1;
        let image = self.nodes[at.node].store.image();
        let peer_id = self.nodes[at.node].peer_id;
        let Some(life) = self.life(at) else { return Ok(()) };
        life.kv = Kv::load(image);
        life.applied = point.index;
        life.configuration = point.configuration;
        life.core.applied(point.index);
        let digest = life.kv.digest();
        self.checker.applied(peer_id, point.index, digest)?;
        Ok(())
    }

    fn store_image(&mut self, at: At) -> Result<Option<usize>, Failure> {
        let node = &mut self.nodes[at.node];
        if node.incarnation != at.incarnation {
            return Ok(None);
        }
        let Some(life) = &mut node.life else { return Ok(None) };
        for applied in life.to_store.drain(..) {
            node.store.apply(&applied).context("store")?;
            let stored = applied.point.index;
            if stored > life.core.truncated().0 + 2 * LOG_MARGIN
                && let Some(term) = life.core.compact(stored - LOG_MARGIN)
            {
                node.store.compact(stored - LOG_MARGIN, term).context("store")?;
            }
        }
        Ok(Some(at.node))
    }

    fn prepare(&mut self, at: At, wanted: SnapshotWanted) -> Option<usize> {
        let node = &mut self.nodes[at.node];
        let point = node.store.load().ok()?.applied;
        let image = node.store.image();
        let life = self.life(at)?;
        life.snapshots.insert(point.index, image);
        life.core.snapshot_prepared(wanted.to, Some(&point));
        Some(at.node)
    }

    fn propose(&mut self) -> Option<usize> {
        let pause_ms = if self.faults { self.rng.random_range(1..150) } else { 100 };
        // The last changes need time to reach everybody before the end.
        if self.now_ms < self.options.faults_ms + 10_000 {
            self.at(pause_ms, Event::Propose);
        }
        let leads = |node: &Node| node.life.as_ref().is_some_and(|l| l.core.is_leader());
        let leaders: Vec<usize> =
            (0..self.nodes.len()).filter(|i| leads(&self.nodes[*i])).collect();
        if leaders.is_empty() {
            return None;
        }
        // A deposed leader may still believe in itself: it is asked as well.
        let node = leaders[self.rng.random_range(0..leaders.len())];
        let burst = self.rng.random_range(1..6);
        for _ in 0..burst {
            self.proposals += 1;
            let key = self.rng.random_range(0..32);
            let value =
                if self.rng.random_bool(0.2) { String::new() } else { self.proposals.to_string() };
            let payload = Bytes::from(format!("k{key}={value}"));
            if let Some(life) = &mut self.nodes[node].life
                && let Ok(place) = life.core.propose(payload.to_vec())
            {
                life.proposed.insert((place.index, place.term), payload);
            }
        }
        Some(node)
    }

    fn crash(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.life.take().is_some() {
            self.crashes += 1;
            let keep = self.rng.random_range(0..=node.store.unsynced());
            node.store.crash(keep);
        }
    }

    fn restart(&mut self, node: usize) -> Result<Option<usize>, Failure> {
        if self.nodes[node].life.is_some() {
            return Ok(None);
        }
        let seed = self.rng.random();
        self.nodes[node].start(seed)?;
        let at = self.here(node);
        self.at(TICK_MS, Event::Tick(at));
        Ok(Some(node))
    }

    fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let peers: Vec<u64> = self.nodes.iter().map(|n| n.peer_id).collect();
        match self.rng.random_range(0..6) {
            0 | 1 => {
                let node = self.rng.random_range(0..self.nodes.len());
                self.at(0, Event::Crash(node));
                let down_ms = self.rng.random_range(1..3000);
                self.at(down_ms, Event::Restart(node));
            }
            2 => {
                for node in 0..self.nodes.len() {
                    self.at(0, Event::Crash(node));
                    let down_ms = self.rng.random_range(1..500);
                    self.at(down_ms, Event::Restart(node));
                }
            }
            3 => self.network.cut(&mut self.rng, &peers),
            4 => self.network.worsen(&mut self.rng),
            _ => self.network.heal(),
        }
        let pause_ms = self.rng.random_range(100..2000);
        self.at(pause_ms, Event::Fault);
    }

    /// Does what a node's core asks for.
    fn effects(&mut self, node: usize) -> Result<(), Failure> {
        let at = self.here(node);
        loop {
            let Some(life) = self.life(at) else { return Ok(()) };
            let effects = life.core.take_effects();
            if effects.is_empty() {
                return Ok(());
            }
            self.take(at, effects)?;
        }
    }

    fn take(&mut self, at: At, effects: Effects) -> Result<(), Failure> {
        for message in effects.messages {
            self.send(at, message)?;
        }
        for write in effects.writes {
            let position = self.nodes[at.node].store.write(std::slice::from_ref(&write));
            let slow = self.rng.random_range(0..100) == 0;
            let sync_ms = self.rng.random_range(if slow { 100..900 } else { 1..8 });
            let now_ms = self.now_ms;
            let Some(life) = self.life(at) else { return Ok(()) };
            life.disk_free_ms = life.disk_free_ms.max(now_ms) + sync_ms;
            let delay_ms = life.disk_free_ms - now_ms;
            life.to_sync.insert(write.number, write.entries);
            self.at(delay_ms, Event::Synced(at, position, write.number));
        }
        if !effects.applies.is_empty() {
            let delay_ms = self.rng.random_range(0..6);
            if let Some(life) = self.life(at) {
                life.to_apply.extend(effects.applies);
            }
            self.at(delay_ms, Event::Apply(at));
        }
        for fetch in effects.fetches {
            let delay_ms = self.rng.random_range(0..10);
            self.at(delay_ms, Event::Fetched(at, fetch));
        }
        for wanted in effects.snapshots {
            let delay_ms = self.rng.random_range(0..30);
            self.at(delay_ms, Event::Prepare(at, wanted));
        }
        Ok(())
    }

    fn send(&mut self, at: At, message: Message) -> Result<(), Failure> {
        self.checker.sent(&self.nodes[at.node], &message)?;
        let mut image = None;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let index = message.get_snapshot().get_metadata().index;
            image = self.life(at).and_then(|life| life.snapshots.get(&index).cloned());
        }
        let delays = self.network.route(&mut self.rng, message.from, message.to);
        if delays.is_empty() && image.is_some() {
            self.at(300, Event::SnapshotSent(at, message.to, false));
        }
        for delay_ms in delays {
            let message = Box::new(message.clone());
            self.at(delay_ms, Event::Deliver(message, image.clone(), at));
        }
        Ok(())
    }
}
