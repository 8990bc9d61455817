//! The quorum's core: Raft without I/O.
//!
//! Inputs are ticks, messages, proposals and the ends of what earlier effects asked for; after any of
//! them [`Core::take_effects`] says what to do. The methods come in that order: construction, getters,
//! inputs, outputs.
//!
//! # What the shell owes the core
//! - [`Effects::writes`] become durable in order; then [`Core::persisted`] with the last number.
//! - [`Effects::messages`] may be sent at once, lost, reordered and doubled.
//! - [`Effects::applies`] are applied in order; then [`Core::applied`] with the last index.
//! - Every fetch and every snapshot asked for is answered, if only with nothing.
//!
//! # Invariants
//! - A message that depends on a write is kept back until that write is durable. A leader may send
//!   entries before it has them on disk (thesis 10.2.1), but not before its term and vote are there: a
//!   sole voter needs no other's vote, and could after a crash lead the same term with other entries.
//! - Election timeouts come from the seeded generator alone, one per change of term or role. The
//!   library's own draw is overwritten after every input.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use raft::{
    Config, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole,
    eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

pub use super::log_view::{Fetch, SnapshotWanted};
use super::{
    identity::{Configuration, Member, stored},
    log_view::{LogView, size_bytes},
    logger::tracing_logger,
    store::{Loaded, Point, Write},
};

/// Bounds and intervals of the core. Ticks are the shell's.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// This node's peer id; not 0.
    pub peer_id: u64,
    /// An election starts after this many to twice as many ticks without a leader.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// The largest entry that may be proposed.
    pub entry_max_bytes: usize,
    /// How much of the log one message carries.
    pub message_max_bytes: u64,
    /// Append messages under way to one peer.
    pub inflight_messages_max: usize,
    /// Proposals that are not committed yet; more are refused.
    pub uncommitted_max_bytes: u64,
    /// Entries kept in memory for followers that are nearly up to date.
    pub tail_max_bytes: u64,
    /// Committed entries not applied yet, above which a follower takes no more.
    pub apply_backlog_max_bytes: u64,
    /// Where the election timeouts come from.
    pub seed: u64,
}

impl CoreConfig {
    /// The defaults for a peer.
    #[must_use]
    pub const fn new(peer_id: u64, seed: u64) -> Self {
        Self {
            peer_id,
            election_ticks: 10,
            heartbeat_ticks: 2,
            entry_max_bytes: 1 << 20,
            message_max_bytes: 1 << 20,
            inflight_messages_max: 64,
            uncommitted_max_bytes: 16 << 20,
            tail_max_bytes: 16 << 20,
            apply_backlog_max_bytes: 32 << 20,
            seed,
        }
    }
}

/// Why the core refuses an input.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// This node does not lead, or is handing over.
    #[error("not the leader of the metadata quorum")]
    NotLeader,
    /// Too much is proposed and not committed.
    #[error("too many metadata changes under way")]
    Busy,
    /// The entry is larger than one may be.
    #[error("a metadata change of {size_bytes} bytes exceeds {max_bytes}")]
    TooLarge {
        /// The entry.
        size_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// A message that no peer sends, or that contradicts this node's log.
    #[error("{0:?} from peer {1} is not acceptable")]
    BadMessage(MessageType, u64),
    /// The library refused.
    #[error("the Raft library refused")]
    Raft(#[from] raft::Error),
}

/// Where a proposal went: it is the entry at `index`, if that entry's term is `term` once applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposed {
    /// Index of the entry.
    pub index: u64,
    /// Term of the proposing leader.
    pub term: u64,
}

/// A committed entry, durable on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Index of the entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What was proposed. Empty for a leader's first entry and for changes of the configuration.
    pub data: Bytes,
    /// The configuration from this entry on, where it changes.
    pub configuration: Option<Configuration>,
}

/// A step of applying.
#[derive(Debug, Clone, PartialEq)]
pub enum Apply {
    /// The stored image was replaced by a snapshot of this point: load it.
    Install(Point),
    /// Fold an entry into the image.
    Entry(Committed),
}

/// What the shell is to do.
#[derive(Debug, Default)]
pub struct Effects {
    /// To make durable, in order.
    pub writes: Vec<Write>,
    /// To send.
    pub messages: Vec<Message>,
    /// To apply, in order.
    pub applies: Vec<Apply>,
    /// Reads that are linearizable once their index is applied: (context, index).
    pub reads: Vec<(u64, u64)>,
    /// Older entries to read from the store.
    pub fetches: Vec<Fetch>,
    /// Snapshots to prepare.
    pub snapshots: Vec<SnapshotWanted>,
}

impl Effects {
    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.messages.is_empty()
            && self.applies.is_empty()
            && self.reads.is_empty()
            && self.fetches.is_empty()
            && self.snapshots.is_empty()
    }
}

/// What the leader knows of a peer's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    /// The peer.
    pub peer_id: u64,
    /// Last index that is known to be durable there.
    pub matched: u64,
    /// Whether it was heard of lately.
    pub active: bool,
}

/// The core's state at a glance.
#[derive(Debug, Clone, PartialEq)]
pub struct CoreStatus {
    /// This node.
    pub peer_id: u64,
    /// Its role.
    pub role: StateRole,
    /// Its term.
    pub term: u64,
    /// The leader of that term, if known.
    pub leader: Option<u64>,
    /// Last index of the log.
    pub last_index: u64,
    /// Last index that is committed as far as this node knows.
    pub commit: u64,
    /// Last index that is applied.
    pub applied: u64,
    /// Of each other peer; empty unless this node leads.
    pub peers: Vec<PeerProgress>,
}

/// A step whose consequences wait until it is durable.
#[derive(Debug)]
struct Pending {
    number: u64,
    is_write: bool,
    messages: Vec<Message>,
    install: Option<Point>,
    vote: (u64, u64),
}

/// See the module.
pub struct Core {
    raw: RawNode<LogView>,
    config: CoreConfig,
    rng: SmallRng,
    timeout_ticks: usize,
    term_and_role: (u64, StateRole),
    configuration: Configuration,
    pending: VecDeque<Pending>,
    /// Term and vote that are on disk.
    durable_vote: (u64, u64),
    /// Entries handed out and not applied yet: (index, size).
    unapplied: VecDeque<(u64, u64)>,
    unapplied_bytes: u64,
    /// The snapshot that is being installed.
    installing: Option<u64>,
    effects: Effects,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Core {
    /// The core of a node whose store holds `loaded`. A sole voter leads at once.
    ///
    /// # Errors
    /// Where the configuration is not valid.
    pub fn new(config: CoreConfig, loaded: &Loaded) -> Result<Self, CoreError> {
        let mut hard_state = loaded.hard_state.clone();
        // The applied image proves that much was committed, also where only an older commit index
        // got to the disk.
        hard_state.commit = hard_state.commit.max(loaded.applied.index);
        let configuration = loaded.applied.configuration.clone();
        let durable_vote = (hard_state.term, hard_state.vote);
        let view = LogView::new(loaded, hard_state, configuration.conf_state.clone());
        let raft_config = Config {
            id: config.peer_id,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: loaded.applied.index,
            max_size_per_msg: config.message_max_bytes,
            max_inflight_msgs: config.inflight_messages_max,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            batch_append: true,
            max_uncommitted_size: config.uncommitted_max_bytes,
            max_committed_size_per_ready: config.message_max_bytes,
            ..Config::default()
        };
        let raw = RawNode::new(&raft_config, view, &tracing_logger())?;
        let mut core = Self {
            term_and_role: (0, StateRole::Follower),
            timeout_ticks: 0,
            rng: SmallRng::seed_from_u64(config.seed),
            configuration,
            pending: VecDeque::new(),
            durable_vote,
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            installing: None,
            effects: Effects::default(),
            raw,
            config,
        };
        core.draw_timeout();
        core.after_input();
        if core.is_sole_voter() {
            core.raw.campaign()?;
            core.after_input();
        }
        Ok(core)
    }

    // Getters.

    /// Whether this node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The configuration as of the last committed entry that was handed out.
    #[must_use]
    pub const fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Index and term of the last compacted entry.
    #[must_use]
    pub fn truncated(&self) -> (u64, u64) {
        self.raw.store().truncated()
    }

    /// The state at a glance.
    #[must_use]
    pub fn status(&self) -> CoreStatus {
        let raft = &self.raw.raft;
        let progress = |(id, p): (&u64, &raft::Progress)| PeerProgress {
            peer_id: *id,
            matched: p.matched,
            active: p.recent_active,
        };
        let mut peers: Vec<_> = if self.is_leader() {
            raft.prs().iter().filter(|(id, _)| **id != raft.id).map(progress).collect()
        } else {
            Vec::new()
        };
        peers.sort_by_key(|p| p.peer_id);
        CoreStatus {
            peer_id: raft.id,
            role: raft.state,
            term: raft.term,
            leader: Some(raft.leader_id).filter(|id| *id != 0),
            last_index: raft.raft_log.last_index(),
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            peers,
        }
    }

    /// Whether a leader could answer a linearizable read: it has committed in its own term.
    #[must_use]
    pub fn can_read(&self) -> bool {
        self.is_leader() && self.raw.raft.commit_to_current_term()
    }

    /// Whether a snapshot is being installed. Until that is applied another one is not taken, and must
    /// not be staged.
    #[must_use]
    pub const fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    fn is_sole_voter(&self) -> bool {
        self.configuration.is_sole_voter(self.config.peer_id)
    }

    // Inputs.

    /// Time passes.
    pub fn tick(&mut self) {
        // A sole voter elects itself on the spot; the library asserts that its log is durable then.
        if !self.is_leader() && self.is_sole_voter() && !self.pending.is_empty() {
            return;
        }
        self.raw.tick();
        self.after_input();
    }

    /// A message arrived.
    ///
    /// # Errors
    /// Where the message makes no sense; it had no effect then.
    pub fn step(&mut self, message: Message) -> Result<(), CoreError> {
        let kind = message.get_msg_type();
        let past_log = kind == MessageType::MsgHeartbeat
            && message.term >= self.raw.raft.term
            && message.commit > self.raw.raft.raft_log.last_index();
        if kind == MessageType::MsgPropose || message.to != self.config.peer_id || past_log {
            return Err(CoreError::BadMessage(kind, message.from));
        }
        if kind == MessageType::MsgSnapshot && self.is_installing() {
            return Ok(());
        }
        let is_append = kind == MessageType::MsgAppend && !message.entries.is_empty();
        if is_append && self.unapplied_bytes > self.config.apply_backlog_max_bytes {
            return Ok(()); // The leader sends it again.
        }
        let result = self.raw.step(message);
        self.after_input();
        match result {
            Ok(()) | Err(raft::Error::StepPeerNotFound | raft::Error::ProposalDropped) => Ok(()),
            Err(raft::Error::StepLocalMsg) => Err(CoreError::BadMessage(kind, 0)),
            Err(other) => Err(CoreError::Raft(other)),
        }
    }

    /// Proposes an entry.
    ///
    /// # Errors
    /// Where it is refused; nothing was proposed then.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<Proposed, CoreError> {
        let size_bytes = data.len();
        if size_bytes > self.config.entry_max_bytes {
            let max_bytes = self.config.entry_max_bytes;
            return Err(CoreError::TooLarge { size_bytes, max_bytes });
        }
        self.check_leads()?;
        let result = self.raw.propose(Vec::new(), data);
        self.proposed(result)
    }

    /// Proposes a change of the configuration; `added` says who new peers are.
    ///
    /// # Errors
    /// Where it is refused; nothing was proposed then.
    pub fn propose_change(
        &mut self,
        mut change: ConfChangeV2,
        added: &[(u64, Member)],
    ) -> Result<Proposed, CoreError> {
        self.check_leads()?;
        if self.raw.raft.has_pending_conf() {
            return Err(CoreError::Busy);
        }
        let members = added.iter().map(|(id, member)| stored::Member::new(*id, *member)).collect();
        change.context = stored::Added { members }.encode_to_vec().into();
        let result = self.raw.propose_conf_change(Vec::new(), change);
        self.proposed(result)
    }

    fn check_leads(&self) -> Result<(), CoreError> {
        let leads = self.is_leader() && self.raw.raft.lead_transferee.is_none();
        if leads { Ok(()) } else { Err(CoreError::NotLeader) }
    }

    fn proposed(&mut self, result: raft::Result<()>) -> Result<Proposed, CoreError> {
        self.after_input();
        match result {
            Ok(()) => Ok(Proposed {
                index: self.raw.raft.raft_log.last_index(),
                term: self.raw.raft.term,
            }),
            Err(raft::Error::ProposalDropped) => Err(CoreError::Busy),
            Err(other) => Err(CoreError::Raft(other)),
        }
    }

    /// Asks for an index from which on a read is linearizable. The answer can get lost with the
    /// leadership or a message: ask again.
    pub fn read_index(&mut self, context: u64) {
        self.raw.read_index(context.to_be_bytes().to_vec());
        self.after_input();
    }

    /// Offers the leadership to a peer.
    pub fn transfer_leader(&mut self, to: u64) {
        self.raw.transfer_leader(to);
        self.after_input();
    }

    /// A message to the peer was not delivered.
    pub fn unreachable(&mut self, peer_id: u64) {
        self.raw.report_unreachable(peer_id);
        self.after_input();
    }

    /// The transfer of a snapshot to the peer has ended.
    pub fn snapshot_sent(&mut self, peer_id: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(peer_id, status);
        self.after_input();
    }

    /// Answers [`Effects::snapshots`]: `point` can be streamed to the peer; none where it failed.
    pub fn snapshot_prepared(&mut self, to: u64, point: Option<&Point>) {
        let snapshot = point.map(snapshot_at);
        let ready = snapshot.is_some();
        self.raw.store().prepared(to, snapshot);
        if ready && self.is_leader() && self.raw.raft.prs().get(to).is_some() {
            self.raw.raft.send_append(to);
        }
        self.after_input();
    }

    /// Answers [`Effects::fetches`].
    pub fn fetched(&mut self, fetch: Fetch, entries: Vec<Entry>) {
        for context in self.raw.store().begin_fetched(fetch.low, entries) {
            self.raw.on_entries_fetched(context);
        }
        self.raw.store().end_fetched();
        self.after_input();
    }

    /// The write with this number, and all before it, are durable.
    pub fn persisted(&mut self, number: u64) {
        self.settle(number);
        self.after_input();
    }

    /// Everything up to `index` is applied.
    pub fn applied(&mut self, index: u64) {
        while let Some((_, size)) = self.unapplied.pop_front_if(|(first, _)| *first <= index) {
            self.unapplied_bytes -= size;
        }
        self.installing = self.installing.filter(|installing| *installing > index);
        if index > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index);
        }
        let log = &self.raw.raft.raft_log;
        let evictable = log.applied.min(log.persisted);
        let tail_max_bytes = self.config.tail_max_bytes;
        self.raw.mut_store().shrink_tail(evictable, tail_max_bytes);
        self.after_input();
    }

    /// Forgets the log up to `index`, which must be stored as applied. Returns the term to hand to
    /// [`super::Store::compact`] with it; none where there is nothing to forget.
    pub fn compact(&mut self, index: u64) -> Option<u64> {
        let log = &self.raw.raft.raft_log;
        if index <= self.raw.store().truncated().0 || index > log.applied.min(log.persisted) {
            return None;
        }
        self.raw.mut_store().compact(index)
    }

    // Outputs.

    /// What to do since the last call.
    #[must_use]
    pub fn take_effects(&mut self) -> Effects {
        while self.raw.has_ready() {
            let ready = self.raw.ready();
            self.process(ready);
        }
        let mut effects = std::mem::take(&mut self.effects);
        effects.fetches = self.raw.store().take_fetches();
        effects.snapshots = self.raw.store().take_snapshots_wanted();
        effects
    }

    fn process(&mut self, mut ready: Ready) {
        let number = ready.number();
        let write = self.write_of(&mut ready);
        for state in ready.take_read_states() {
            if let Ok(context) = state.request_ctx.try_into().map(u64::from_be_bytes) {
                self.effects.reads.push((context, state.index));
            }
        }
        let hard_state = self.raw.raft.hard_state();
        let vote = (hard_state.term, hard_state.vote);
        let mut messages = ready.take_messages();
        if vote == self.durable_vote {
            self.effects.messages.append(&mut messages);
        }
        messages.extend(ready.take_persisted_messages());
        let committed = ready.take_committed_entries();
        let install = write.as_ref().and_then(|w| w.install.clone());
        let is_write = write.is_some();
        self.raw.advance_append_async(ready);
        if let Some(point) = &install {
            self.installing = Some(point.index);
            self.configuration = point.configuration.clone();
        }
        self.pending.push_back(Pending { number, is_write, messages, install, vote });
        self.effects.writes.extend(write);
        for entry in committed {
            self.hand_out(entry);
        }
        if self.pending.iter().all(|p| !p.is_write) {
            self.settle(number);
        }
    }

    /// What must be durable before this step counts. A new commit index alone is not written: it goes
    /// along with the next write, and the applied index implies it.
    fn write_of(&mut self, ready: &mut Ready) -> Option<Write> {
        if !ready.must_sync() {
            return None;
        }
        let mut write = Write { number: ready.number(), ..Write::default() };
        write.hard_state = Some(self.raw.raft.hard_state());
        if !ready.snapshot().is_empty() {
            let point = point_of(ready.snapshot());
            self.raw.mut_store().install(point.index, point.term);
            write.install = Some(point);
        }
        write.entries = ready.take_entries();
        self.raw.mut_store().append(&write.entries);
        Some(write)
    }

    fn settle(&mut self, number: u64) {
        let mut last = None;
        while let Some(step) = self.pending.pop_front_if(|p| p.number <= number || !p.is_write) {
            last = Some(step.number);
            self.durable_vote = step.vote;
            self.effects.messages.extend(step.messages);
            if let Some(point) = step.install {
                self.effects.applies.push(Apply::Install(point));
            }
        }
        if let Some(last) = last {
            self.raw.on_persist_ready(last);
        }
    }

    fn hand_out(&mut self, entry: Entry) {
        let mut committed = Committed {
            index: entry.index,
            term: entry.term,
            data: Bytes::new(),
            configuration: None,
        };
        match entry.entry_type {
            EntryType::EntryNormal => committed.data = entry.data.clone(),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.change_configuration(&entry);
                committed.configuration = Some(self.configuration.clone());
            }
        }
        let size = size_bytes(&entry);
        self.unapplied.push_back((entry.index, size));
        self.unapplied_bytes += size;
        self.effects.applies.push(Apply::Entry(committed));
    }

    /// A change that cannot be made is passed by, on every node alike: they share the configuration.
    fn change_configuration(&mut self, entry: &Entry) {
        let Ok(change) = ConfChangeV2::parse_from_bytes(&entry.data) else {
            tracing::error!(index = entry.index, "unreadable change of the quorum passed by");
            return;
        };
        match self.raw.apply_conf_change(&change) {
            Ok(conf_state) => {
                let added = stored::Added::decode(&change.context[..]).unwrap_or_default();
                self.configuration.conf_state = conf_state;
                self.configuration
                    .members
                    .extend(added.members.iter().filter_map(stored::Member::read));
                self.configuration.retain_named();
            }
            Err(error) => {
                tracing::error!(index = entry.index, %error, "change of the quorum passed by");
            }
        }
    }

    fn after_input(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.state);
        if now != self.term_and_role {
            self.term_and_role = now;
            self.draw_timeout();
        }
        self.raw.raft.set_randomized_election_timeout(self.timeout_ticks);
    }

    fn draw_timeout(&mut self) {
        let least = self.config.election_ticks;
        self.timeout_ticks = self.rng.random_range(least..2 * least);
    }
}

fn snapshot_at(point: &Point) -> Snapshot {
    let mut metadata = SnapshotMetadata::default();
    metadata.set_conf_state(point.configuration.conf_state.clone());
    metadata.index = point.index;
    metadata.term = point.term;
    let mut snapshot = Snapshot::default();
    snapshot.set_metadata(metadata);
    // The image itself is streamed beside the message; only who the peers are goes along.
    snapshot.data = point.configuration.to_stored().encode_to_vec().into();
    snapshot
}

fn point_of(snapshot: &Snapshot) -> Point {
    let metadata = snapshot.get_metadata();
    let mut configuration = stored::Configuration::decode(&snapshot.data[..])
        .ok()
        .and_then(Configuration::from_stored)
        .unwrap_or_default();
    configuration.conf_state = metadata.get_conf_state().clone();
    Point { index: metadata.index, term: metadata.term, configuration }
}
