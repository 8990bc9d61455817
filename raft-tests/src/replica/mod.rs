//! A simulation of the replicas of one partition.
//!
//! One seed gives one run: the production cores of leader and follower over production logs on
//! simulated disks, the frames of the production wire, and the production controller's core. Disks
//! lose and tear what was not synced; connections break, with frames that arrive late; questions to
//! the controller are lost, doubled and late; nodes are cut off, paused, killed, stopped in order,
//! or lose power, one or all at once; controllers change; records are deleted and
//! `min.insync.replicas` is changed. After every event `check` holds the run against the promises;
//! at the end everything heals, and the replicas must be in sync, equal, and take writes.
//!
//! In most runs an acknowledgement waits for the disk. In the others it does not, and then
//! processes are killed, but no power fails: what an acknowledgement is worth then is Kafka's
//! promise, and another one.

mod check;
mod clients;
mod cluster;
mod counts;
mod faults;
mod host;
mod roles;
mod streams;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use bytes::Bytes;
use ottla::{
    base::{BrokerEpoch, LeaderEpoch, NodeId, Offset, PartitionEpoch},
    controller::{Request, Response},
    metadata::Partition,
    protocol::ResponseError,
    replication::{Bug, isr_request, leader::AlterError},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

pub use self::counts::Counts;
use self::{
    check::Checker,
    cluster::Cluster,
    host::{At, Host, Life},
    streams::Connection,
};
use crate::{
    Options, Outcome, Trace,
    check::Violation,
    heap::Heap,
    machine::digest_of,
    sim::{Failure, network::Network},
};

/// A healed partition has this long to be well again.
const RECOVERY_MS: u64 = 30_000;

/// What a node asks the controller.
#[derive(Debug, Clone, Copy)]
enum Question {
    Register,
    Beat,
    Isr(LeaderEpoch, u64),
}

#[derive(Debug)]
enum Event {
    /// A node's heartbeat is due.
    Beat(At),
    Asked(At, Question, Box<Request>),
    Answered(At, Question, Box<Response>),
    /// No answer has come to a question about the ISR.
    Unanswered(At, LeaderEpoch, u64),
    /// Metadata reaches a node.
    Image(At, usize),
    Expire,
    Frame(u64, bool, Bytes),
    Severed(u64, At),
    Pump(At),
    Deadline(At),
    Flushed(At, u64, u64, Offset),
    Produce,
    Consume,
    Restart(usize),
    Fault,
    Heal,
    Look,
}

/// The whole simulated cluster.
struct Sim {
    options: Options<Bug>,
    rng: SmallRng,
    now_ms: u64,
    heap: Heap<Event>,
    hosts: Vec<Host>,
    cluster: Cluster,
    network: Network,
    connections: BTreeMap<u64, Connection>,
    /// How many connections there have been.
    made: u64,
    checker: Checker,
    /// Whether an acknowledgement waits for the disk.
    is_strict: bool,
    lag_ms: u64,
    values: u64,
    /// Nodes whose cores may have something to do.
    touched: BTreeSet<usize>,
    digest: u64,
    trace: Vec<String>,
    /// The partition epoch that the trace has shown last.
    traced_epoch: Option<PartitionEpoch>,
    counts: Counts,
    faults: bool,
    healed_ms: u64,
    acknowledged_at_heal: u64,
}

/// Runs one seed to its end.
///
/// # Errors
/// Where the simulation itself fails; a broken promise is part of the outcome.
pub fn run(options: Options<Bug>) -> anyhow::Result<Outcome<Counts>> {
    let mut sim = Sim::new(options)?;
    let violation = match sim.all() {
        Ok(()) => None,
        Err(Failure::Broken(violation)) => Some(violation),
        Err(Failure::Simulation(error)) => return Err(error),
    };
    let counts = Counts {
        events: sim.heap.made(),
        acknowledged: sim.checker.acknowledged_count(),
        served: sim.checker.served_count(),
        leaders: sim.checker.leaders_count(),
        ..sim.counts
    };
    Ok(Outcome { violation, digest: sim.digest, counts, trace: sim.trace })
}

impl Sim {
    fn new(options: Options<Bug>) -> anyhow::Result<Self> {
        let mut rng = SmallRng::seed_from_u64(options.seed);
        let nodes = options.nodes.unwrap_or_else(|| [1, 2, 3, 3, 3, 4][rng.random_range(0..6)]);
        let spare = [0, 0, 1, 1, 2][rng.random_range(0..5)];
        let hosts: Vec<Host> =
            (1..=nodes + spare).map(|node| Host::new(NodeId(node as u32))).collect();
        let min_isr = rng.random_range(1..=nodes.min(3));
        let cluster = Cluster::new(&hosts, nodes, min_isr, &mut rng)?;
        let faults_ms = rng.random_range(1_000..8_000);
        let mut sim = Self {
            options,
            now_ms: 0,
            heap: Heap::default(),
            hosts,
            cluster,
            network: Network::new(1..6),
            connections: BTreeMap::new(),
            made: 0,
            checker: Checker::default(),
            is_strict: rng.random_bool(0.8),
            lag_ms: rng.random_range(200..1_500),
            rng,
            values: 0,
            touched: BTreeSet::new(),
            digest: 0,
            trace: Vec::new(),
            traced_epoch: None,
            counts: Counts::default(),
            faults: true,
            healed_ms: 0,
            acknowledged_at_heal: 0,
        };
        for host in 0..nodes + spare {
            sim.at(0, Event::Restart(host));
        }
        sim.at(50, Event::Expire);
        sim.at(100, Event::Produce);
        sim.at(100, Event::Consume);
        sim.at(300, Event::Fault);
        sim.at(faults_ms, Event::Heal);
        Ok(sim)
    }

    fn at(&mut self, delay_ms: u64, event: Event) {
        self.heap.push(self.now_ms + delay_ms, event);
    }

    fn all(&mut self) -> Result<(), Failure> {
        while let Some((time_ms, event)) = self.heap.pop() {
            self.now_ms = time_ms;
            let is_look = matches!(event, Event::Look);
            self.note(&event);
            self.handle(event)?;
            self.say_partition();
            self.settle()?;
            if is_look {
                match self.converged()? {
                    Ok(()) => break,
                    Err(violation) if self.now_ms >= self.healed_ms + RECOVERY_MS => {
                        if self.is_leaderless()? {
                            return Ok(());
                        }
                        return Err(violation.into());
                    }
                    Err(_) => self.at(250, Event::Look),
                }
            }
        }
        for host in &self.hosts {
            let Some(life) = &host.life else { continue };
            let start = life.log.log_start_offset();
            let held = host::read_all(&life.log, start, life.high_watermark)?;
            self.checker.kept(start..life.high_watermark, &held)?;
        }
        let lives = self.hosts.iter().filter_map(|host| host.life.as_ref());
        let end = lives.map(|life| life.high_watermark).max().unwrap_or_default();
        self.checker.reaches(end)?;
        Ok(())
    }

    /// Does what the cores ask for that something happened to, and checks everything.
    fn settle(&mut self) -> Result<(), Failure> {
        if self.touched.is_empty() {
            return Ok(());
        }
        while let Some(host) = self.touched.pop_first() {
            self.serve(host)?;
        }
        if let Some(partition) = self.cluster.newest().partition(self.cluster.partition) {
            self.checker.in_sync(self.cluster.newest(), partition, &self.hosts)?;
        }
        Ok(())
    }

    /// After healing: no reassignment under way, everybody in sync, the logs equal to their ends,
    /// and new writes acknowledged.
    fn converged(&self) -> anyhow::Result<Result<(), Violation>> {
        let broken = |promise, detail| Ok(Err(Violation { promise, detail }));
        let Some(partition) = self.cluster.newest().partition(self.cluster.partition) else {
            return broken("a partition is not lost", String::new());
        };
        if partition.is_reassigning() {
            return broken("a healed reassignment ends", format!("{partition:?}"));
        }
        if partition.isr.len() != partition.replicas.len() {
            return broken("a healed partition has all replicas in sync", format!("{partition:?}"));
        }
        if self.checker.acknowledged_count() < self.acknowledged_at_heal + 5 {
            let detail = format!("{} writes", self.checker.acknowledged_count());
            return broken("a healed partition takes writes", detail);
        }
        let holders = self.hosts.iter().filter(|host| partition.replicas.contains(&host.node));
        let lives: Vec<&Life> = holders.filter_map(|host| host.life.as_ref()).collect();
        let start = lives.iter().map(|life| life.log.log_start_offset()).max();
        let end = lives.iter().map(|life| life.high_watermark).min();
        let (start, end) = (start.unwrap_or_default(), end.unwrap_or_default());
        let far = lives.iter().any(|life| life.log.log_end_offset().since(end) > 40);
        if lives.len() != partition.replicas.len() || far {
            return broken("a healed partition commits what it holds", format!("until {end}"));
        }
        let first = host::read_all(&lives[0].log, start, end)?;
        for life in &lives[1..] {
            if host::read_all(&life.log, start, end)? != first {
                return broken("healed replicas are equal", format!("{start} to {end}"));
            }
        }
        Ok(Ok(()))
    }

    /// Whether nobody may lead any more, as the last one in sync came back with an empty disk, and
    /// it is for an operator to choose whom to trust.
    ///
    /// # Errors
    /// Where nobody has what was committed.
    fn is_leaderless(&mut self) -> Result<bool, Failure> {
        let partition = self.cluster.newest().partition(self.cluster.partition);
        let has_leader = partition.is_none_or(|partition| partition.leader.is_some());
        if self.counts.lost_disks == 0 || has_leader {
            return Ok(false);
        }
        let end = self.checker.committed_end();
        if !self.hosts.iter().any(|host| host.holds >= end) {
            let promise = "what was committed is held by somebody";
            return Err(Violation { promise, detail: format!("until {end}") }.into());
        }
        self.counts.leaderless += 1;
        Ok(true)
    }

    fn life(&mut self, at: At) -> Option<&mut Life> {
        let host = &mut self.hosts[at.host];
        if host.lives == at.life { host.life.as_mut() } else { None }
    }

    /// Whom an event happens to, if to one node alone.
    fn whose(&self, event: &Event) -> Option<At> {
        match event {
            Event::Beat(at)
            | Event::Answered(at, ..)
            | Event::Unanswered(at, ..)
            | Event::Image(at, _)
            | Event::Severed(_, at)
            | Event::Pump(at)
            | Event::Deadline(at)
            | Event::Flushed(at, ..) => Some(*at),
            Event::Frame(id, to_leader, _) => {
                let connection = self.connections.get(id)?;
                Some(if *to_leader { connection.leader } else { connection.follower })
            }
            _ => None,
        }
    }

    /// Adds what the controller has made of the partition to the trace.
    fn say_partition(&mut self) {
        if self.options.trace == Trace::None {
            return;
        }
        let Some(partition) = self.cluster.newest().partition(self.cluster.partition) else {
            return;
        };
        let partition = partition.clone();
        if self.traced_epoch.replace(partition.partition_epoch) != Some(partition.partition_epoch) {
            let Partition { replicas, isr, leader, .. } = &*partition;
            let (elr, known) = (&partition.eligible_leader_replicas, &partition.last_known_elr);
            let (adding, removing) = (&partition.adding_replicas, &partition.removing_replicas);
            let text = format!(
                "partition epoch {}: leader {leader:?}, replicas {replicas:?}, isr {isr:?}, elr \
                 {elr:?}, last known {known:?}, adding {adding:?}, removing {removing:?}",
                partition.partition_epoch
            );
            self.say(|| text);
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        let whose = self.whose(&event);
        let paused = whose.and_then(|at| self.life(at)).map(|life| life.paused_until_ms);
        if let Some(until_ms) = paused.filter(|until_ms| *until_ms > self.now_ms) {
            self.heap.put_off(until_ms, event);
            return Ok(());
        }
        match event {
            Event::Beat(at) => self.beat(at)?,
            Event::Asked(at, question, request) => self.asked(at, question, *request),
            Event::Answered(at, question, response) => self.answered(at, question, *response)?,
            Event::Unanswered(at, epoch, number) => {
                self.altered(at, epoch, number, Err(AlterError::Unanswered));
            }
            Event::Image(at, version) => self.image(at, version)?,
            Event::Expire => {
                self.at(50, Event::Expire);
                self.cluster.tick(self.now_ms);
                self.spread();
            }
            Event::Frame(id, to_leader, frame) => self.frame(id, to_leader, frame)?,
            Event::Severed(id, side) => self.severed(id, side),
            Event::Pump(at) => self.pump(at)?,
            Event::Deadline(at) => {
                if self.life(at).is_some() {
                    self.touched.insert(at.host);
                }
            }
            Event::Flushed(at, role, number, end) => self.flushed(at, role, number, end)?,
            Event::Produce => self.produce()?,
            Event::Consume => self.consume()?,
            Event::Restart(host) => self.restart(host)?,
            Event::Fault => self.fault()?,
            Event::Heal => self.heal(),
            Event::Look => {}
        }
        Ok(())
    }

    fn restart(&mut self, host: usize) -> Result<(), Failure> {
        if self.hosts[host].life.is_some() {
            return Ok(());
        }
        let (partition, now_ms) = (self.cluster.partition, self.now_ms);
        self.hosts[host].start(partition, now_ms)?;
        self.say(|| format!("node {} starts", host + 1));
        self.delete_stray(host)?;
        let here = self.hosts[host].here(host);
        self.at(1, Event::Beat(here));
        self.touched.insert(host);
        Ok(())
    }

    /// Deletes the log of a node that holds no replica, as far as it has heard.
    fn delete_stray(&mut self, host: usize) -> Result<bool, Failure> {
        let (node, version) = (self.hosts[host].node, self.hosts[host].version);
        let partition = self.cluster.image(version).partition(self.cluster.partition);
        // The images from before the topic say nothing of it.
        if partition.is_none_or(|partition| partition.replicas.contains(&node)) {
            return Ok(false);
        }
        self.rest(host);
        if self.hosts[host].delete_log(self.cluster.partition, self.now_ms)? {
            self.counts.removed += 1;
            self.say(|| format!("node {} deletes its log", host + 1));
        }
        Ok(true)
    }

    /// A node registers, or shows that it lives, or asks whether it may go.
    fn beat(&mut self, at: At) -> Result<(), Failure> {
        let (node, version) = (self.hosts[at.host].node, self.hosts[at.host].version);
        let now_ms = self.now_ms;
        let Some(life) = self.life(at) else { return Ok(()) };
        let (broker_epoch, stops_ms) = (life.broker_epoch, life.stops_ms);
        if stops_ms.is_some_and(|stops_ms| stops_ms <= now_ms) {
            self.crash(at.host);
            self.at(500, Event::Restart(at.host));
            return Ok(());
        }
        let again_ms = self.rng.random_range(80..220);
        self.at(again_ms, Event::Beat(at));
        let (question, request) = match broker_epoch {
            None => {
                let incarnation = cluster::incarnation(node, at.life);
                (Question::Register, cluster::registration(&self.hosts[at.host], incarnation))
            }
            Some(epoch) => {
                let request = self.cluster.heartbeat(node, epoch, version, stops_ms.is_some());
                (Question::Beat, request)
            }
        };
        self.ask(at, question, request);
        self.show(at.host);
        Ok(())
    }

    /// Sends a question to the controller: it may be lost, late, or arrive twice.
    fn ask(&mut self, at: At, question: Question, request: Request) {
        let controller = self.hosts.len();
        for delay_ms in self.network.route(&mut self.rng, at.host, controller).into_iter().flatten()
        {
            self.at(delay_ms, Event::Asked(at, question, Box::new(request.clone())));
        }
    }

    fn asked(&mut self, at: At, question: Question, request: Request) {
        // A disk is lost after all that its node had said was heard, or never will be: else its
        // last question could make it the only one in sync.
        if matches!(question, Question::Isr(..)) && at.life <= self.hosts[at.host].lost_life {
            return;
        }
        let response = self.cluster.decide(request, self.now_ms, &mut self.rng);
        let controller = self.hosts.len();
        let delays = self.network.route(&mut self.rng, controller, at.host);
        for delay_ms in delays.into_iter().flatten() {
            self.at(delay_ms, Event::Answered(at, question, Box::new(response.clone())));
        }
        self.spread();
        // What was decided is a fact from here on.
        self.touched.insert(at.host);
    }

    /// The newest metadata is on its way to every node.
    fn spread(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].version < self.cluster.version() && self.rng.random_bool(0.5) {
                self.show(host);
            }
        }
    }

    fn show(&mut self, host: usize) {
        let (controller, version) = (self.hosts.len(), self.cluster.version());
        let at = self.hosts[host].here(host);
        if let Some(delay_ms) = self.network.route(&mut self.rng, controller, host)[0] {
            self.at(delay_ms, Event::Image(at, version));
        }
    }

    fn image(&mut self, at: At, version: usize) -> Result<(), Failure> {
        if self.life(at).is_none() || self.hosts[at.host].version >= version {
            return Ok(());
        }
        self.hosts[at.host].version = version;
        self.touched.insert(at.host);
        self.take_role(at.host)
    }

    fn answered(&mut self, at: At, question: Question, response: Response) -> Result<(), Failure> {
        if self.life(at).is_none() {
            return Ok(());
        }
        self.touched.insert(at.host);
        match (question, response) {
            (Question::Register, Response::BrokerRegistration(response)) => {
                let epoch = (response.error_code == 0).then_some(response.broker_epoch);
                let Some(life) = self.life(at) else { return Ok(()) };
                if life.broker_epoch.is_none() {
                    life.broker_epoch = epoch.map(BrokerEpoch);
                    self.take_role(at.host)?;
                }
            }
            (Question::Beat, Response::BrokerHeartbeat(response)) => {
                let stale = ResponseError::StaleBrokerEpoch.code();
                if response.error_code == stale {
                    // A former life's registration came late. This one's log is not what it was
                    // when it started, so that no stop in order speaks for it any more.
                    self.hosts[at.host].clean = None;
                    if let Some(life) = self.life(at) {
                        life.broker_epoch = None;
                    }
                    self.take_role(at.host)?;
                } else if response.should_shut_down
                    && self.life(at).is_some_and(|life| life.stops_ms.is_some())
                {
                    self.close(at.host)?;
                }
            }
            (Question::Isr(epoch, number), Response::AlterPartition(response)) => {
                let answer = isr_request::answer(&response, self.cluster.partition);
                self.counts.altered += u64::from(answer.is_ok());
                self.counts.refused += u64::from(answer.is_err());
                self.altered(at, epoch, number, answer);
            }
            _ => {}
        }
        Ok(())
    }

    fn altered(&mut self, at: At, epoch: LeaderEpoch, number: u64, answer: Result<(), AlterError>) {
        let now_ms = self.now_ms;
        if self.life(at).is_none() {
            return;
        }
        if let Some((leading, _)) = self.hosts[at.host].leading()
            && leading.core.leader_epoch() == epoch
        {
            leading.core.handle_altered(number, answer, now_ms);
            self.touched.insert(at.host);
        }
    }

    /// A follower does not take what its leader pushed.
    fn checker_refuses(&self, host: usize, why: &str) -> Result<(), Violation> {
        let promise = "a follower takes what its leader pushes";
        Err(Violation { promise, detail: format!("node {}: {why}", host + 1) })
    }

    fn note(&mut self, event: &Event) {
        let whose = self.whose(event);
        let frame = match event {
            Event::Frame(.., frame) => digest_of(frame),
            _ => 0,
        };
        self.digest = digest_of((self.digest, self.now_ms, self.heap.made(), frame));
        if self.options.trace == Trace::All {
            let text = format!("{whose:?} {event:?}");
            self.say(|| text);
        }
    }

    /// Adds a line to the trace.
    fn say(&mut self, line: impl FnOnce() -> String) {
        if self.options.trace > Trace::None {
            let mut text = format!("{:>6} ", self.now_ms);
            let _ = write!(text, "{}", line());
            self.trace.push(text);
        }
    }
}
