//! The clients: they write and read registers, and change metadata, and remember what they were
//! told.

use bytes::Bytes;
use ottla::quorum::core::CoreError;
use rand::RngExt as _;

use super::{
    At, Event, Sim,
    node::{Proposal, Reading},
};
use crate::{
    linear::Key,
    machine::{change_topic, set_register},
};

const KEYS: Key = 12;

impl Sim {
    /// Some clients do something. They do not wait for what they did before.
    pub(super) fn clients(&mut self) {
        let pause_ms = if self.faults { self.rng.random_range(1..150) } else { 100 };
        self.at(pause_ms, Event::Clients);
        // A deposed leader may still believe in itself: it is asked as well.
        if let Some(host) = self.some_leader() {
            for _ in 0..self.rng.random_range(1..5) {
                if self.rng.random_range(0..4) == 0 {
                    let payload = change_topic(&mut self.rng);
                    let _ = self.propose(host, Proposal { payload, call: None });
                } else {
                    let key = self.rng.random_range(0..KEYS);
                    let _ = self.write(host, key);
                }
            }
        }
        for _ in 0..self.rng.random_range(0..3) {
            let host = self.rng.random_range(0..self.nodes.len());
            let key = self.rng.random_range(0..KEYS);
            self.read(host, key);
        }
    }

    pub(super) fn some_leader(&mut self) -> Option<usize> {
        let count = self.nodes.iter().filter(|node| node.leads()).count();
        if count == 0 {
            return None;
        }
        let nth = self.rng.random_range(0..count);
        (0..self.nodes.len()).filter(|host| self.nodes[*host].leads()).nth(nth)
    }

    pub(super) fn write(&mut self, host: usize, key: Key) -> Result<(), CoreError> {
        self.values += 1;
        let payload = set_register(key, self.values);
        // The call counts only if it was taken.
        let call = self.history.invoke_write(key, self.values);
        self.propose(host, Proposal { payload, call: Some(call) })
    }

    fn propose(&mut self, host: usize, proposal: Proposal) -> Result<(), CoreError> {
        let Some(life) = &mut self.nodes[host].life else { return Err(CoreError::NotLeader) };
        let place = life.core.propose(proposal.payload.to_vec())?;
        life.proposed.insert((place.index, place.term), proposal);
        self.touched.push(host);
        Ok(())
    }

    pub(super) fn read(&mut self, host: usize, key: Key) {
        if self.nodes[host].life.is_none() {
            return;
        }
        let call = self.history.invoke_read(key);
        let Some(life) = &mut self.nodes[host].life else { return };
        let context = life.next_context;
        life.next_context += 1;
        life.asked.insert(context, Reading { call, key });
        life.core.read_index(context);
        self.touched.push(host);
    }

    /// The reads of this context may be answered once `index` is applied.
    pub(super) fn may_read(&mut self, at: At, context: u64, index: u64) {
        let Some(life) = self.life(at) else { return };
        if let Some(reading) = life.asked.remove(&context) {
            life.reads.push((index, reading));
        }
        self.answer_reads(at);
    }

    pub(super) fn answer_reads(&mut self, at: At) {
        let node = &mut self.nodes[at.node];
        let Some(life) = &mut node.life else { return };
        let applied = life.applied;
        let mut answered = Vec::new();
        life.reads.retain(|(index, reading)| {
            if *index <= applied {
                answered.push((*reading, life.state.register(reading.key)));
            }
            *index > applied
        });
        for (Reading { call, key }, value) in answered {
            self.history.completed_read(call, value);
            self.say(|| format!("node {} reads {key} = {value}", at.node + 1));
        }
    }

    pub(super) fn acknowledge(&mut self, index: u64, proposal: Proposal) {
        if let Some(call) = proposal.call {
            self.history.completed_write(call);
        }
        let payload: Bytes = proposal.payload;
        self.checker.acknowledged(index, payload);
    }
}
