//! One simulated host: who it is, its disk, and what a crash takes away.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use imbl::OrdMap;
use ottla::{
    base::{ClusterId, DirectoryId, NodeId, Planted},
    quorum::{
        Configuration, Core, CoreConfig, Identity, MemStore, Member, Store as _,
        core::{Apply, Bug},
        raftpb::Entry,
        store::{Applied, Point},
    },
};
use uuid::Uuid;

use super::faults::CrashPoint;
use crate::{
    linear::{CallId, Key},
    machine::State,
};

/// The pairs of a stored image.
pub(crate) type Image = OrdMap<Bytes, Bytes>;

pub(crate) struct Node {
    pub(crate) member: Member,
    /// None until it takes part.
    pub(crate) peer_id: Option<u64>,
    pub(crate) store: MemStore,
    /// None while it is down.
    pub(crate) life: Option<Life>,
    /// Tells the events of one life from those of another.
    pub(crate) incarnation: u64,
    /// Where it will crash, and how long it will be down then.
    pub(crate) armed: Option<(CrashPoint, u64)>,
}

/// A read whose answer is on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) call: CallId,
    pub(crate) key: Key,
}

/// A proposal that somebody waits for.
#[derive(Debug, Clone)]
pub(crate) struct Proposal {
    pub(crate) payload: Bytes,
    pub(crate) call: Option<CallId>,
}

/// What a crash takes away.
pub(crate) struct Life {
    pub(crate) core: Core,
    pub(crate) state: State,
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
    /// Proposals of this life's leaderships, by index and term.
    pub(crate) proposed: BTreeMap<(u64, u64), Proposal>,
    /// Reads that wait for an index, by context.
    pub(crate) asked: BTreeMap<u64, Reading>,
    /// Reads that wait for their index to be applied.
    pub(crate) reads: Vec<(u64, Reading)>,
    pub(crate) next_context: u64,
    pub(crate) seen_commit: u64,
}

/// Of the core, so small that fetches and snapshots are part of every run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    pub(crate) seed: u64,
    pub(crate) bug: Planted<Bug>,
}

impl Tuning {
    fn config(self, peer_id: u64) -> CoreConfig {
        let mut config = CoreConfig::new(peer_id, self.seed);
        config.tail_max_bytes = 400;
        config.message_max_bytes = 300;
        config.inflight_messages_max = 4;
        config.caught_up_max_entries = 10;
        config.bug = self.bug;
        config
    }
}

pub(crate) fn cluster_id() -> ClusterId {
    ClusterId(Uuid::from_u128(1))
}

/// A node's identity with its `directory`-th disk.
pub(crate) fn member(host: usize, directory: u64) -> Member {
    let id = u128::from(directory) << 64 | host as u128;
    Member { node_id: NodeId(host as u32 + 1), directory_id: DirectoryId(Uuid::from_u128(id)) }
}

impl Node {
    pub(crate) fn new(member: Member) -> Self {
        let (store, life, peer_id, armed) = (MemStore::new(), None, None, None);
        Self { member, peer_id, store, life, incarnation: 0, armed }
    }

    /// Makes the node take part as `peer_id`; a first voter knows the first configuration.
    pub(crate) fn join(
        &mut self,
        peer_id: u64,
        first: Option<Configuration>,
    ) -> anyhow::Result<()> {
        let identity = Identity { cluster_id: cluster_id(), member: self.member, peer_id };
        self.store.initialize(identity, first)?;
        self.peer_id = Some(peer_id);
        Ok(())
    }

    /// Starts from what the store holds. Nothing happens on a node that takes no part.
    pub(crate) fn start(&mut self, tuning: Tuning) -> anyhow::Result<()> {
        let Some(peer_id) = self.peer_id else { return Ok(()) };
        self.incarnation += 1;
        let loaded = self.store.load()?;
        let core = Core::new(tuning.config(peer_id), &loaded)?;
        let Point { index, configuration, .. } = loaded.applied;
        self.life = Some(Life {
            core,
            state: State::load(self.store.image())?,
            applied: index,
            configuration,
            to_apply: VecDeque::new(),
            to_store: Vec::new(),
            snapshots: BTreeMap::new(),
            to_sync: BTreeMap::new(),
            disk_free_ms: 0,
            proposed: BTreeMap::new(),
            asked: BTreeMap::new(),
            reads: Vec::new(),
            next_context: 0,
            seen_commit: index,
        });
        Ok(())
    }

    pub(crate) fn leads(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.core.is_leader())
    }
}
