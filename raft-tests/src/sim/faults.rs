//! What goes wrong, and when.

use ottla::quorum::raftpb::EntryType;
use rand::RngExt as _;

use super::{
    Event, Sim,
    node::{Node, member},
};

/// What a node is about to do, or has just done, when it crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Persist,
    Send,
    Apply,
    Install,
}

/// Where a node is to crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CrashPoint {
    pub(crate) step: Step,
    pub(crate) is_after: bool,
    /// How often it gets past before it crashes.
    pub(crate) spared: u32,
}

impl Sim {
    pub(super) fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let hosts = self.nodes.len();
        let host = self.rng.random_range(0..hosts);
        match self.rng.random_range(0..12) {
            0 | 1 => {
                self.at(0, Event::Crash(host));
                let down_ms = self.rng.random_range(1..3000);
                self.at(down_ms, Event::Restart(host));
            }
            2 => {
                for host in 0..hosts {
                    self.at(0, Event::Crash(host));
                    let down_ms = self.rng.random_range(1..500);
                    self.at(down_ms, Event::Restart(host));
                }
            }
            3..=5 => self.arm(host),
            6 => self.network.cut_some(&mut self.rng, hosts),
            7 => self.network.worsen(&mut self.rng),
            8 => self.want_others(),
            9 => self.wipe(host),
            10 => self.hand_over(),
            _ => self.network.heal(),
        }
        let pause_ms = self.rng.random_range(50..1200);
        self.at(pause_ms, Event::Fault);
    }

    fn arm(&mut self, host: usize) {
        let step = match self.rng.random_range(0..8) {
            0..=2 => Step::Persist,
            3..=4 => Step::Send,
            5 => Step::Apply,
            _ => Step::Install,
        };
        let is_after = self.rng.random();
        let spared = if step == Step::Install { 0 } else { self.rng.random_range(0..30) };
        let down_ms = self.rng.random_range(1..1500);
        self.nodes[host].armed = Some((CrashPoint { step, is_after, spared }, down_ms));
    }

    /// A node has got to a point where it may be meant to crash. Returns whether it did.
    pub(super) fn reach(&mut self, host: usize, step: Step, is_after: bool) -> bool {
        let Some((point, down_ms)) = &mut self.nodes[host].armed else { return false };
        if point.step != step || point.is_after != is_after {
            return false;
        }
        if point.spared > 0 {
            point.spared -= 1;
            return false;
        }
        let down_ms = *down_ms;
        self.crash(host);
        self.counts.points += 1;
        self.at(down_ms, Event::Restart(host));
        true
    }

    /// Ends the host's life. Of the writes that were not synced some are kept, in their order: the
    /// disk drops a torn batch whole, and all that came after it.
    pub(super) fn crash(&mut self, host: usize) {
        let node = &mut self.nodes[host];
        node.armed = None;
        if node.life.take().is_some() {
            self.counts.crashes += 1;
            let keep = self.rng.random_range(0..=node.store.unsynced());
            node.store.crash(keep);
            self.say(|| format!("node {} crashes", host + 1));
        }
    }

    /// The administrators change their minds about who should vote, and who should take part at
    /// all.
    fn want_others(&mut self) {
        let hosts = self.nodes.len();
        self.wanted.members = (0..hosts).filter(|_| self.rng.random_bool(0.8)).collect();
        self.wanted.members.insert(self.rng.random_range(0..hosts));
        let members: Vec<usize> = self.wanted.members.iter().copied().collect();
        let voters = members.iter().filter(|_| self.rng.random_bool(0.7)).copied().collect();
        self.wanted.voters = voters;
        let one = members[self.rng.random_range(0..members.len())];
        self.wanted.voters.insert(one);
    }

    fn hand_over(&mut self) {
        let Some(host) = self.some_leader() else { return };
        let Some(life) = &mut self.nodes[host].life else { return };
        let peers: Vec<u64> = life.core.configuration().members.keys().copied().collect();
        let to = peers[self.rng.random_range(0..peers.len())];
        life.core.transfer_leader(to);
        self.touched.push(host);
    }

    /// A host loses its disk, where the others can do without it: one wiped voter at a time, of
    /// three or more. What it had promised counts no more from here on, so what was durable there
    /// is kept aside for the checks.
    pub(super) fn wipe(&mut self, host: usize) {
        let Some(peer_id) = self.nodes[host].peer_id else { return };
        if self.may_wipe(peer_id) {
            self.lose_disk(host);
            let down_ms = self.rng.random_range(1..500);
            self.at(down_ms, Event::Restart(host));
        }
    }

    pub(super) fn lose_disk(&mut self, host: usize) {
        self.crash(host);
        self.wiped_ms = self.now_ms;
        self.disks += 1;
        let mut blank = Node::new(member(host, self.disks));
        blank.incarnation = self.nodes[host].incarnation + 1;
        let former = std::mem::replace(&mut self.nodes[host], blank);
        self.say(|| format!("node {} loses its disk", host + 1));
        if former.peer_id.is_some() {
            self.counts.wipes += 1;
            self.graveyard.push(former);
        }
    }

    fn may_wipe(&self, peer_id: u64) -> bool {
        let Some((index, configuration)) = self.checker.newest_configuration() else {
            return false;
        };
        let changes = self.nodes.iter().any(|node| {
            let log = node.store.log();
            log.range(index + 1..).any(|(_, e)| e.get_entry_type() != EntryType::EntryNormal)
        });
        let is_here = |id: &u64| self.nodes.iter().any(|node| node.peer_id == Some(*id));
        let roles = &configuration.conf_state;
        let is_settled = self
            .nodes
            .iter()
            .filter_map(|node| node.life.as_ref())
            .any(|life| life.core.is_settled() && life.core.configuration() == configuration);
        !changes
            && is_settled
            && roles.voters_outgoing.is_empty()
            && roles.voters.iter().all(is_here)
            && (roles.voters.len() >= 3 || !roles.voters.contains(&peer_id))
    }
}
