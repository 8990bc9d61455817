//! What a story tells a cluster to do.

use ottla::quorum::Change;

use super::{Failure, Sim};
use crate::linear::Key;

impl Sim {
    pub(crate) fn ask_write(&mut self, host: usize, key: Key) -> Result<(), Failure> {
        let value = self.values + 1;
        let result = self.write(host, key);
        self.say(|| match result {
            Ok(()) => format!("node {} proposes {key} = {value}", host + 1),
            Err(error) => format!("node {} refuses {key} = {value}: {error}", host + 1),
        });
        self.settle()
    }

    pub(crate) fn ask_read(&mut self, host: usize, key: Key) -> Result<(), Failure> {
        self.read(host, key);
        self.settle()
    }

    pub(crate) fn ask_change(&mut self, host: usize, change: Change) -> Result<(), Failure> {
        self.change(host, change);
        self.settle()
    }

    pub(crate) fn ask_transfer(&mut self, host: usize, peer_id: u64) -> Result<(), Failure> {
        if let Some(life) = &mut self.nodes[host].life {
            life.core.transfer_leader(peer_id);
            self.touched.push(host);
        }
        self.settle()
    }

    /// Nothing that was not synced survives.
    pub(crate) fn power_cut(&mut self, host: usize) -> Result<(), Failure> {
        self.nodes[host].store.crash(0);
        self.crash(host);
        self.settle()
    }

    pub(crate) fn power_on(&mut self, host: usize) -> Result<(), Failure> {
        self.admit()?;
        self.restart(host)?;
        self.settle()
    }

    pub(crate) fn lose(&mut self, host: usize) -> Result<(), Failure> {
        self.lose_disk(host);
        self.settle()
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) -> Result<(), Failure> {
        self.network.cut(from, to);
        Ok(())
    }

    pub(crate) fn isolate(&mut self, host: usize) -> Result<(), Failure> {
        for other in (0..self.nodes.len()).filter(|other| *other != host) {
            self.network.cut(host, other);
            self.network.cut(other, host);
        }
        Ok(())
    }

    pub(crate) fn mend(&mut self) -> Result<(), Failure> {
        self.network.heal();
        Ok(())
    }
}
