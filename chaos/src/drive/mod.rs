//! Does a scenario to a cluster, whatever that is made of, step by step, and makes it good again.
//!
//! A driver takes the steps in the order of time, chooses whom each hits with the generator that it
//! is given, keeps who is down and what is wrong with network and disks, and writes down what was
//! done. It holds no clock but tokio's and draws from no other generator: over a simulation equal
//! seeds give equal runs.

mod backend;
mod conditions;
mod recovery;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, sleep_until};

pub(crate) use self::backend::{Backend, Disks, Leads, Links, VoterChange};
use self::conditions::{DiskFaults, NetworkFaults};
use crate::{
    load::Shared,
    report::Event,
    scenario::{Fault, Scenario, Step},
};

/// When a log directory's replicas begin anew elsewhere; sooner than an operator would have it.
pub(crate) const REPLACED_AFTER_MS: &str = "3000";
/// How long a certificate lasts that is about to end.
const ENDS_AFTER: Duration = Duration::from_secs(3);
/// How long a node may take to start on a disk that is damaged, and a voter to be removed.
const STARTS: Duration = Duration::from_secs(15);
/// How long it may take that a node is a voter again while others may be broken; what takes longer
/// is put off until all else is well.
const VOTES_AGAIN: Duration = Duration::from_secs(3);
/// How long a fault that needs all replicas is put off until they are in sync.
const IN_SYNC: Duration = Duration::from_secs(5);
/// How long a node may take to join, to become a voter again, or to be emptied.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Why a node that everything lies on is not emptied.
pub(crate) const NO_ROOM: &str = "decommission: no other node could take what a node has";
/// How often something is looked at again.
const LOOK: Duration = Duration::from_millis(20);

/// What was done, and what was not.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// What was done, and to whom.
    pub(crate) events: Vec<Event>,
    /// What the cluster at hand cannot have done to it, and why.
    pub(crate) left_out: Vec<String>,
}

/// See the module.
pub(crate) struct Driver<'a, B, P> {
    backend: &'a mut B,
    /// Is told of everything that is done.
    progress: P,
    history: Shared,
    rng: &'a mut StdRng,
    /// Who does not run, and who stands still, because of which step.
    down: BTreeMap<u32, usize>,
    paused: BTreeMap<u32, usize>,
    /// Who is to be a voter again, as soon as that is possible.
    no_voters: BTreeSet<u32>,
    network: NetworkFaults,
    disks: DiskFaults,
    done: &'a mut Done,
}

impl<'a, B: Backend, P: FnMut(String)> Driver<'a, B, P> {
    pub(crate) fn new(
        backend: &'a mut B,
        history: Shared,
        rng: &'a mut StdRng,
        done: &'a mut Done,
        progress: P,
    ) -> Self {
        Self {
            backend,
            progress,
            history,
            rng,
            down: BTreeMap::new(),
            paused: BTreeMap::new(),
            no_voters: BTreeSet::new(),
            network: NetworkFaults::default(),
            disks: DiskFaults::default(),
            done,
        }
    }

    /// Does what the scenario says, each step when its time has come.
    pub(crate) async fn run(mut self, scenario: &Scenario) -> Result<(), B::Error> {
        let begun = Instant::now();
        let mut moments = Vec::new();
        for (index, step) in scenario.steps.iter().enumerate() {
            if let Some(why) = self.backend.cannot(step.fault) {
                self.leave_out(why);
                continue;
            }
            moments.push((step.at, true, index));
            moments.push((step.at + step.lasts, false, index));
        }
        moments.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (at, begins, index) in moments {
            sleep_until(begun + Duration::from_secs_f64(at)).await;
            self.backend.are_alive()?;
            let step = &scenario.steps[index];
            if begins {
                self.begin(index, step).await?;
            } else {
                self.end(index, step).await?;
            }
        }
        sleep_until(begun + scenario.length()).await;
        for node in std::mem::take(&mut self.no_voters) {
            self.joins(node, PATIENCE).await?;
            self.change_voter(node, VoterChange::Add, PATIENCE).await?;
        }
        Ok(())
    }

    fn say(&mut self, line: String) {
        (self.progress)(line);
    }

    fn leave_out(&mut self, why: String) {
        if !self.done.left_out.contains(&why) {
            self.say(format!("left out: {why}"));
            self.done.left_out.push(why);
        }
    }

    fn now_ms(&self) -> u64 {
        self.history.lock().now_us() / 1_000
    }

    fn is_well(&self, node: u32) -> bool {
        !self.down.contains_key(&node) && !self.paused.contains_key(&node)
    }

    async fn begin(&mut self, index: usize, step: &Step) -> Result<(), B::Error> {
        let fault = step.fault;
        // A fault of the network may hit who does not run; a process is hit by one at a time.
        let nodes = self.backend.nodes();
        let all: Vec<u32> =
            (1..=nodes).filter(|node| !fault.needs_process() || self.is_well(*node)).collect();
        let leads = self.backend.leads();
        let known = |node: Option<u32>| node.filter(|node| all.contains(node));
        let (leader, controller) = (known(leads.partition), known(leads.controller));
        let mut hits = step.target.choose(&all, leader, controller, self.rng);
        if fault.destroys() || fault == Fault::RemoveVoter {
            // One after the other, as an operator would, and never so many that none is left.
            hits.truncate(1);
            let can_spare_one = all.len() == nodes as usize && self.no_voters.is_empty();
            if !can_spare_one || !self.gets_in_sync().await {
                self.say(format!("{:>6.2} s: {fault} is left out, not all is in sync", step.at));
                return Ok(());
            }
        }
        if hits.is_empty() {
            return Ok(());
        }
        let (from_ms, what) = (self.now_ms(), fault.to_string());
        self.say(format!("{:>6.2} s: {what}, node {hits:?}, {} s", step.at, step.lasts));
        self.done.events.push(Event {
            step: index,
            what,
            nodes: hits.clone(),
            from_ms,
            to_ms: None,
        });
        if fault.is_of_network() {
            self.network.begin(index, fault, hits);
            self.set_links();
        } else if fault.is_of_disk() {
            if fault.needs_process() {
                for node in &hits {
                    self.backend.excuse(*node, true);
                    self.down.insert(*node, index);
                }
            }
            self.disks.begin(index, fault, hits);
            self.set_disks();
        } else if fault.is_of_cluster() {
            let changed = self.change(fault, hits).await?;
            if let Some(event) = self.done.events.last_mut() {
                event.nodes = changed;
            }
        } else {
            self.hit(index, fault, &hits).await?;
        }
        Ok(())
    }

    /// Whether every replica is in sync, soon where nothing is wrong any more.
    async fn gets_in_sync(&self) -> bool {
        let until = Instant::now() + IN_SYNC;
        let may_wait = self.network.is_empty() && self.disks.is_empty();
        loop {
            let is_in_sync = self.backend.is_in_sync().await;
            if is_in_sync || !may_wait || Instant::now() >= until {
                return is_in_sync;
            }
            sleep(LOOK * 5).await;
        }
    }

    /// Changes what nodes go by. Returns those that did not refuse.
    async fn change(&mut self, fault: Fault, hits: Vec<u32>) -> Result<Vec<u32>, B::Error> {
        let mut changed = Vec::new();
        for node in hits {
            match fault {
                Fault::Skew { by_ms } => self.backend.skew(node, by_ms)?,
                Fault::ExpireCertificate => {
                    self.backend.renew_certificate(node, Some(ENDS_AFTER)).await?;
                }
                _ => {
                    let removed = self.change_voter(node, VoterChange::Remove, STARTS).await;
                    if let Err(error) = removed {
                        self.say(format!("         {error}"));
                        continue;
                    }
                }
            }
            changed.push(node);
        }
        Ok(changed)
    }

    /// Does something to processes.
    async fn hit(&mut self, index: usize, fault: Fault, hits: &[u32]) -> Result<(), B::Error> {
        if matches!(fault, Fault::PowerCut { .. }) {
            hits.iter().for_each(|node| self.backend.switch_off(*node));
        }
        if fault.kills() {
            self.backend.kill(hits).await?;
        }
        if matches!(fault, Fault::Stop | Fault::ChangeVersion) {
            self.backend.stop(hits).await?;
        }
        for node in hits {
            match fault {
                Fault::Decommission => self.decommission(*node).await?,
                Fault::Pause => self.backend.pause(*node, true)?,
                _ => {}
            }
            match fault {
                Fault::Pause => drop(self.paused.insert(*node, index)),
                _ => drop(self.down.insert(*node, index)),
            }
        }
        // Power fails everywhere before any disk is looked at.
        for node in hits {
            match fault {
                Fault::PowerCut { torn } => {
                    self.backend.cut_power(*node, torn.then_some(&mut *self.rng))?;
                }
                Fault::Wipe => self.backend.wipe(*node)?,
                Fault::Corrupt { files } => {
                    if let Some(at) = self.backend.flip_bit(*node, files, self.rng)? {
                        self.say(format!("         a bit flips at {at}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn end(&mut self, index: usize, step: &Step) -> Result<(), B::Error> {
        let Some(at) = self.done.events.iter().position(|event| event.step == index) else {
            return Ok(());
        };
        let hits = self.done.events[at].nodes.clone();
        let fault = step.fault;
        if fault.is_of_network() {
            self.network.end(index);
            self.set_links();
        } else if fault.is_of_disk() {
            self.disks.end(index);
            self.set_disks();
        }
        for node in hits {
            match fault {
                Fault::Skew { .. } => self.backend.skew(node, 0)?,
                Fault::ExpireCertificate => self.backend.renew_certificate(node, None).await?,
                Fault::RemoveVoter => self.votes_again(node).await,
                Fault::Pause => {
                    self.paused.remove(&node);
                    self.backend.pause(node, false)?;
                }
                _ if !fault.needs_process() => {}
                _ => {
                    self.come_back(node, fault).await?;
                    self.down.remove(&node);
                }
            }
        }
        self.done.events[at].to_ms = Some(self.now_ms());
        Ok(())
    }

    fn set_links(&mut self) {
        let all: Vec<u32> = (1..=self.backend.nodes()).collect();
        self.backend.set_links(self.network.conditions(&all));
    }

    fn set_disks(&mut self) {
        self.backend.set_disks(self.disks.conditions(self.backend.nodes()));
    }
}
