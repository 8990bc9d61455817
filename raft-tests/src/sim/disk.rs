//! What a node's core asks for: writes, messages, applying, snapshots. The shell of production in
//! virtual time.

use std::collections::VecDeque;

use anyhow::Context as _;
use ottla::quorum::{
    Effects, Store as _,
    core::{Apply, Committed, Fetch, SnapshotWanted},
    store::{Applied, Point, Write},
};
use rand::RngExt as _;

use super::{At, Event, Failure, Sim, faults::Step};
use crate::machine::State;

impl Sim {
    pub(super) fn effects(&mut self, node: usize) -> Result<(), Failure> {
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
        for write in effects.writes {
            if !self.write_out(at, write) {
                return Ok(());
            }
        }
        for message in effects.messages {
            if !self.send(at, message)? {
                return Ok(());
            }
        }
        if !effects.applies.is_empty() {
            let delay_ms = self.draw(&self.pace.apply.clone());
            if let Some(life) = self.life(at) {
                life.to_apply.extend(effects.applies);
            }
            self.at(delay_ms, Event::Apply(at));
        }
        for (context, index) in effects.reads {
            self.may_read(at, context, index);
        }
        for fetch in effects.fetches {
            let delay_ms = self.draw(&self.pace.sync.clone());
            self.at(delay_ms, Event::Fetched(at, fetch));
        }
        for wanted in effects.snapshots {
            let delay_ms = self.draw(&self.pace.sync.clone());
            self.at(delay_ms, Event::Prepare(at, wanted));
        }
        Ok(())
    }

    /// Returns whether the node is still there.
    fn write_out(&mut self, at: At, write: Write) -> bool {
        let step = if write.install.is_some() { Step::Install } else { Step::Persist };
        if self.reach(at.node, step, false) {
            return false;
        }
        let position = self.nodes[at.node].store.write(std::slice::from_ref(&write));
        let is_slow = self.rng.random_range(0..100) < self.pace.slow_percent;
        let range = if is_slow { self.pace.slow_sync.clone() } else { self.pace.sync.clone() };
        let sync_ms = self.draw(&range);
        let now_ms = self.now_ms;
        let Some(life) = self.life(at) else { return false };
        life.disk_free_ms = life.disk_free_ms.max(now_ms) + sync_ms;
        let delay_ms = life.disk_free_ms - now_ms;
        life.to_sync.insert(write.number, write.entries);
        self.at(delay_ms, Event::Synced(at, position, write.number));
        true
    }

    pub(super) fn synced(&mut self, at: At, position: u64, number: u64) -> Result<(), Failure> {
        let Some(life) = self.life(at) else { return Ok(()) };
        let entries = life.to_sync.remove(&number).unwrap_or_default();
        let is_install = life.core.is_installing();
        self.nodes[at.node].store.synced(position);
        self.checker.written(&self.nodes[at.node], &entries)?;
        // On the disk, but the core was not told.
        let step = if is_install { Step::Install } else { Step::Persist };
        if self.reach(at.node, step, true) {
            return Ok(());
        }
        if let Some(life) = self.life(at) {
            life.core.persisted(number);
            self.touched.push(at.node);
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, at: At) -> Result<(), Failure> {
        let Some(life) = self.life(at) else { return Ok(()) };
        let applies: VecDeque<Apply> = std::mem::take(&mut life.to_apply);
        for apply in applies {
            if self.reach(at.node, Step::Apply, false) {
                return Ok(());
            }
            match apply {
                Apply::Install(point) => self.install(at, point)?,
                Apply::Entry(entry) => {
                    self.checker.committed(&self.nodes, &self.graveyard, &entry)?;
                    self.fold(at, entry)?;
                }
            }
            self.answer_reads(at);
            if self.reach(at.node, Step::Apply, true) {
                return Ok(());
            }
        }
        self.touched.push(at.node);
        Ok(())
    }

    fn fold(&mut self, at: At, entry: Committed) -> Result<(), Failure> {
        let host = at.node;
        let Some(life) = &self.nodes[host].life else { return Ok(()) };
        self.checker.follows(host, life, entry.index)?;
        let Some(life) = self.life(at) else { return Ok(()) };
        life.applied = entry.index;
        let (index, term) = (entry.index, entry.term);
        let changed = entry.configuration.is_some();
        if let Some(configuration) = entry.configuration {
            life.configuration = configuration;
        }
        let writes = life.state.apply(index, &entry.data)?;
        let point = Point { index, term, configuration: life.configuration.clone() };
        life.to_store.push(Applied { point, writes });
        life.core.applied(index);
        let acknowledged = life.proposed.remove(&(index, term));
        let roles = changed.then(|| life.configuration.conf_state.clone());
        self.checker.applied(&self.nodes[host], index)?;
        self.say(|| match roles {
            None => format!("node {} applies {index}", host + 1),
            Some(roles) => format!(
                "node {} applies {index}: voters {:?}, outgoing {:?}, learners {:?}",
                host + 1,
                roles.voters,
                roles.voters_outgoing,
                roles.learners
            ),
        });
        if let Some(proposal) = acknowledged {
            self.acknowledge(index, proposal);
        }
        let delay_ms = self.draw(&self.pace.store.clone());
        self.at(delay_ms, Event::StoreImage(at));
        Ok(())
    }

    fn install(&mut self, at: At, point: Point) -> Result<(), Failure> {
        self.counts.snapshots += 1;
        let image = self.nodes[at.node].store.image();
        let Some(life) = self.life(at) else { return Ok(()) };
        let index = point.index;
        life.state = State::load(image)?;
        life.applied = index;
        life.configuration = point.configuration;
        life.core.applied(index);
        self.checker.installed(&self.nodes[at.node], index)?;
        self.say(|| format!("node {} installs the snapshot at {index}", at.node + 1));
        Ok(())
    }

    pub(super) fn store_image(&mut self, at: At) -> Result<(), Failure> {
        let margin = self.pace.log_margin;
        let node = &mut self.nodes[at.node];
        if node.incarnation != at.incarnation {
            return Ok(());
        }
        let Some(life) = &mut node.life else { return Ok(()) };
        for applied in life.to_store.drain(..) {
            node.store.apply(&applied).context("store")?;
            let stored = applied.point.index;
            if stored > life.core.truncated().0 + 2 * margin
                && let Some(term) = life.core.compact(stored - margin)
            {
                node.store.compact(stored - margin, term).context("store")?;
            }
        }
        self.touched.push(at.node);
        Ok(())
    }

    pub(super) fn fetched(&mut self, at: At, fetch: Fetch) {
        let entries = self.nodes[at.node].store.entries(fetch.low, fetch.high, fetch.max_bytes);
        if let Some(life) = self.life(at) {
            life.core.fetched(fetch, entries.unwrap_or_default());
            self.touched.push(at.node);
        }
    }

    pub(super) fn prepare(&mut self, at: At, wanted: SnapshotWanted) {
        let store = &self.nodes[at.node].store;
        let (point, image) = (store.applied(), store.image());
        // One in ten cannot be made.
        let works = self.pace.slow_percent == 0 || self.rng.random_range(0..10) > 0;
        let Some(life) = self.life(at) else { return };
        life.snapshots.insert(point.index, image);
        life.core.snapshot_prepared(wanted.to, works.then_some(&point));
        self.touched.push(at.node);
    }
}
