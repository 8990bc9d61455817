//! One simulated node: the core, its store, its state machine, and what is under way.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use imbl::OrdMap;
use ottla::quorum::{
    Configuration, Core, CoreConfig, MemStore, Store as _,
    core::Apply,
    raftpb::Entry,
    store::{Applied, Point},
};

use crate::kv::Kv;

/// An image that was prepared for a peer.
pub(crate) type Image = OrdMap<Bytes, Bytes>;

pub(crate) struct Node {
    pub(crate) peer_id: u64,
    pub(crate) store: MemStore,
    /// None while it is down.
    pub(crate) life: Option<Life>,
    /// Tells the events of one life from those of another.
    pub(crate) incarnation: u64,
}

/// What a crash takes away.
pub(crate) struct Life {
    pub(crate) core: Core,
    pub(crate) kv: Kv,
    pub(crate) applied: u64,
    pub(crate) configuration: Configuration,
    pub(crate) to_apply: VecDeque<Apply>,
    pub(crate) to_store: Vec<Applied>,
    /// Snapshots on offer, by index.
    pub(crate) snapshots: BTreeMap<u64, Image>,
    /// Entries on their way to the disk, by the number of the write.
    pub(crate) to_sync: BTreeMap<u64, Vec<Entry>>,
    /// When the disk has done what it was asked for so far.
    pub(crate) disk_free_ms: u64,
    /// Proposals of this life's leaderships: index and term to payload.
    pub(crate) proposed: BTreeMap<(u64, u64), Bytes>,
    pub(crate) seen_commit: u64,
}

impl Node {
    pub(crate) fn new(peer_id: u64) -> Self {
        Self { peer_id, store: MemStore::new(), life: None, incarnation: 0 }
    }

    /// Starts from what the store holds.
    pub(crate) fn start(&mut self, seed: u64) -> anyhow::Result<()> {
        self.incarnation += 1;
        let loaded = self.store.load()?;
        let mut config = CoreConfig::new(self.peer_id, seed);
        // Small, so that fetches and snapshots are part of every run.
        config.tail_max_bytes = 400;
        config.message_max_bytes = 300;
        config.inflight_messages_max = 4;
        let core = Core::new(config, &loaded)?;
        let Point { index, configuration, .. } = loaded.applied;
        self.life = Some(Life {
            core,
            kv: Kv::load(self.store.image()),
            applied: index,
            configuration,
            to_apply: VecDeque::new(),
            to_store: Vec::new(),
            snapshots: BTreeMap::new(),
            to_sync: BTreeMap::new(),
            disk_free_ms: 0,
            proposed: BTreeMap::new(),
            seen_commit: index,
        });
        Ok(())
    }
}
