//! The administrators: they bring the members of the quorum to what they want, step by step, asking
//! whoever believes to lead.

use std::collections::BTreeSet;

use ottla::quorum::{Change, Configuration};
use rand::RngExt as _;

use super::{Event, Sim};

/// Within this time a leader has noticed who does not answer, and late messages have arrived.
const NOTICE_MS: u64 = 3_000;

/// Hosts that should vote, and that should take part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) voters: BTreeSet<usize>,
    pub(crate) members: BTreeSet<usize>,
}

impl Sim {
    pub(super) fn administer(&mut self) -> anyhow::Result<()> {
        let pause_ms = self.rng.random_range(50..400);
        self.at(pause_ms, Event::Administer);
        self.admit()?;
        let Some(host) = self.some_leader() else { return Ok(()) };
        let Some(life) = &self.nodes[host].life else { return Ok(()) };
        let steps = self.next_steps(life.core.configuration());
        if steps.is_empty() {
            return Ok(());
        }
        // Nobody can know of a loss before it is noticed, so there is none right before a change.
        if self.now_ms < self.wiped_ms + NOTICE_MS {
            return Ok(());
        }
        let own = self.nodes[host].peer_id;
        let step = steps[self.rng.random_range(0..steps.len())];
        match step {
            Change::Demote(id) | Change::Remove(id) | Change::Replace { remove: id, .. }
                if Some(id) == own =>
            {
                self.transfer_from(host);
            }
            _ => self.change(host, step),
        }
        Ok(())
    }

    /// Asks the host to make a change; it may refuse.
    pub(super) fn change(&mut self, host: usize, change: Change) {
        let Some(life) = &mut self.nodes[host].life else { return };
        let result = life.core.change(change);
        self.counts.changes += u64::from(result.is_ok());
        self.say(|| match result {
            Ok(_) => format!("node {} proposes {change:?}", host + 1),
            Err(error) => format!("node {} refuses {change:?}: {error}", host + 1),
        });
        self.touched.push(host);
    }

    fn transfer_from(&mut self, host: usize) {
        let Some(life) = &mut self.nodes[host].life else { return };
        if let Some(successor) = life.core.best_successor() {
            life.core.transfer_leader(successor);
            self.touched.push(host);
        }
    }

    /// Starts the nodes whose joining was committed; they learn their peer id from it.
    pub(super) fn admit(&mut self) -> anyhow::Result<()> {
        for host in 0..self.nodes.len() {
            if self.nodes[host].peer_id.is_some() {
                continue;
            }
            let member = self.nodes[host].member;
            let lives = self.nodes.iter().filter_map(|node| node.life.as_ref());
            let peer_id = lives
                .flat_map(|life| &life.configuration.members)
                .find_map(|(peer_id, known)| (*known == member).then_some(*peer_id));
            if let Some(peer_id) = peer_id {
                self.nodes[host].join(peer_id, None)?;
                self.hosts.insert(peer_id, host);
                self.say(|| format!("node {} is peer {peer_id} now", host + 1));
                self.at(1, Event::Restart(host));
            }
        }
        self.forget_removed();
        Ok(())
    }

    /// A host that was removed and is wanted again comes with an empty disk: a removed peer stays
    /// removed.
    fn forget_removed(&mut self) {
        let Some((_, newest)) = self.checker.newest_configuration() else { return };
        let newest = newest.clone();
        let lives = self.nodes.iter().filter_map(|node| node.life.as_ref());
        let mut settled = lives.filter(|life| life.core.is_settled());
        if !settled.any(|life| *life.core.configuration() == newest) {
            return;
        }
        for host in self.wanted.members.clone() {
            let peer_id = self.nodes[host].peer_id;
            if peer_id.is_some_and(|id| id <= newest.last_peer_id && !names(&newest, id)) {
                self.lose_disk(host);
            }
        }
    }

    fn next_steps(&self, now: &Configuration) -> Vec<Change> {
        let roles = &now.conf_state;
        let mut steps = Vec::new();
        for host in &self.wanted.members {
            let node = &self.nodes[*host];
            let Some(peer_id) = node.peer_id.filter(|id| names(now, *id)) else {
                if node.peer_id.is_none() {
                    steps.push(Change::Join(node.member));
                }
                continue;
            };
            let votes = roles.voters.contains(&peer_id);
            match (self.wanted.voters.contains(host), votes) {
                (true, false) => {
                    steps.push(Change::Promote(peer_id));
                    let unwanted = roles.voters.iter().find(|id| !self.is_wanted_voter(**id));
                    let replace =
                        |remove: &u64| Change::Replace { promote: peer_id, remove: *remove };
                    steps.extend(unwanted.map(replace));
                }
                (false, true) => steps.push(Change::Demote(peer_id)),
                _ => {}
            }
        }
        let unwanted = now.members.keys().filter(|id| !self.is_wanted_member(**id));
        steps.extend(unwanted.map(|id| Change::Remove(*id)));
        steps
    }

    fn is_wanted_voter(&self, peer_id: u64) -> bool {
        self.wanted.voters.iter().any(|host| self.nodes[*host].peer_id == Some(peer_id))
    }

    fn is_wanted_member(&self, peer_id: u64) -> bool {
        self.wanted.members.iter().any(|host| self.nodes[*host].peer_id == Some(peer_id))
    }

    /// Whether the quorum is what the administrators want, as `now` has it.
    pub(super) fn is_as_wanted(&self, now: &Configuration) -> bool {
        self.next_steps(now).is_empty() && now.conf_state.voters_outgoing.is_empty()
    }
}

fn names(configuration: &Configuration, peer_id: u64) -> bool {
    configuration.members.contains_key(&peer_id)
}
