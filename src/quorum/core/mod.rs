//! The quorum's core: Raft without I/O.
//!
//! Inputs are ticks, messages, proposals and the ends of what earlier effects asked for; after any
//! of them [`Core::take_effects`] says what to do. The methods come in that order: construction,
//! getters, inputs, outputs.
//!
//! # What the shell owes the core
//! - [`Effects::writes`] become durable in order; then [`Core::persisted`] with the last number.
//! - [`Effects::messages`] may be sent at once, lost, reordered and doubled.
//! - [`Effects::applies`] are applied in order; then [`Core::applied`] with the last index.
//! - Every fetch and every snapshot asked for is answered, if only with nothing.
//!
//! # Invariants
//! - A message that depends on a write is kept back until that write is durable. A leader may send
//!   entries before it has them on disk (thesis 10.2.1), but not before its term and vote are
//!   there: a sole voter needs no other's vote, and could after a crash lead the same term with
//!   other entries.
//! - Election timeouts come from the seeded generator alone, one per change of term or role. The
//!   library's own draw is overwritten after every input.

mod bug;
mod members;
mod output;
mod point;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, VecDeque};

use raft::{
    Config, RawNode, ReadOnlyOption, SnapshotStatus, StateRole,
    eraftpb::{Entry, Message, MessageType},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use self::point::snapshot_at;
pub use self::{
    bug::Bug,
    members::{Change, ChangeError},
    types::{Apply, Committed, CoreConfig, CoreError, CoreStatus, Effects, PeerProgress, Proposed},
};
pub use super::log_view::{Fetch, SnapshotWanted};
use super::{
    identity::Configuration,
    log_view::LogView,
    logger::tracing_logger,
    store::{Loaded, Point},
};

/// A step whose consequences wait until it is durable.
#[derive(Debug)]
struct Pending {
    number: u64,
    is_write: bool,
    messages: Vec<Message>,
    install: Option<Point>,
    vote: (u64, u64),
    /// As of the last write; a later one is not on disk.
    commit: u64,
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
    /// Commit index that is on disk, at least.
    durable_commit: u64,
    /// Commit index that was last given to the disk.
    written_commit: u64,
    /// Commit index up to which changes of the configuration were looked for.
    checked_commit: u64,
    /// Entry that brought the configuration.
    configuration_index: u64,
    /// Entries handed out and not applied yet: (index, size).
    unapplied: VecDeque<(u64, u64)>,
    unapplied_bytes: u64,
    /// The snapshot that is being installed.
    installing: Option<u64>,
    /// Ticks so far.
    ticks: u64,
    /// When a peer was last heard of, in ticks.
    heard: BTreeMap<u64, u64>,
    /// Sets the reads of this life of the node apart from all others.
    read_prefix: [u8; 16],
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
        let commit = hard_state.commit;
        let view = LogView::new(loaded, hard_state, configuration.conf_state.clone());
        let raft_config = Config {
            id: config.peer_id,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: loaded.applied.index,
            max_size_per_msg: config.message_max_bytes,
            max_inflight_msgs: config.inflight_messages_max,
            check_quorum: true,
            pre_vote: !config.bug.is(Bug::SkipPreVote) || loaded.hard_state.term <= 1,
            read_only_option: ReadOnlyOption::Safe,
            // The library would put entries behind an empty message for another index.
            batch_append: false,
            max_uncommitted_size: config.uncommitted_max_bytes,
            max_committed_size_per_ready: config.message_max_bytes,
            ..Config::default()
        };
        let raw = RawNode::new(&raft_config, view, &tracing_logger())?;
        let mut rng = SmallRng::seed_from_u64(config.seed);
        let mut read_prefix = [0; 16];
        read_prefix[..8].copy_from_slice(&config.peer_id.to_be_bytes());
        read_prefix[8..].copy_from_slice(&rng.random::<u64>().to_be_bytes());
        let mut core = Self {
            term_and_role: (0, StateRole::Follower),
            timeout_ticks: 0,
            rng,
            ticks: 0,
            heard: BTreeMap::new(),
            read_prefix,
            configuration,
            pending: VecDeque::new(),
            durable_vote,
            durable_commit: commit,
            written_commit: commit,
            checked_commit: commit,
            configuration_index: loaded.applied.index,
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            installing: None,
            effects: Effects::default(),
            raw,
            config,
        };
        if core.config.bug.is(Bug::ReuseReadContext) {
            core.read_prefix = [0; 16];
        }
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
            settled: self.is_settled().then_some(self.configuration_index),
            peers,
        }
    }

    /// Whether a leader could answer a linearizable read: it has committed in its own term.
    #[must_use]
    pub fn can_read(&self) -> bool {
        self.is_leader() && self.raw.raft.commit_to_current_term()
    }

    /// Whether a snapshot is being installed. Until that is applied another one is not taken, and
    /// must not be staged.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.installing.is_some() || self.raw.raft.snap().is_some()
    }

    /// The last index that is committed as far as this node knows.
    #[must_use]
    pub fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// The role.
    #[must_use]
    pub fn role(&self) -> StateRole {
        self.raw.raft.state
    }

    fn is_sole_voter(&self) -> bool {
        self.configuration.is_sole_voter(self.config.peer_id)
    }

    // Inputs.

    /// Time passes.
    pub fn tick(&mut self) {
        self.ticks += 1;
        if self.must_not_campaign() {
            return;
        }
        self.raw.tick();
        self.after_input();
    }

    /// A sole voter elects itself on the spot; the library asserts that its log is durable then.
    /// And before an election it reads the entries that are not applied, which a snapshot that is
    /// being installed has replaced.
    fn must_not_campaign(&self) -> bool {
        let is_writing = self.is_sole_voter() && !self.pending.is_empty();
        !self.is_leader() && (is_writing || self.is_installing())
    }

    /// A message arrived.
    ///
    /// # Errors
    /// Where the message makes no sense; it had no effect then.
    pub fn step(&mut self, mut message: Message) -> Result<(), CoreError> {
        let (kind, to, peer_id) = (message.get_msg_type(), message.to, self.config.peer_id);
        if to != peer_id {
            return Err(CoreError::Misdirected { kind, to, peer_id });
        }
        let past_log = kind == MessageType::MsgHeartbeat
            && message.term >= self.raw.raft.term
            && message.commit > self.raw.raft.raft_log.last_index();
        // The library would take entries for others, and acknowledge some that it does not have.
        let astray = kind == MessageType::MsgAppend && !follow(message.index, &message.entries);
        if kind == MessageType::MsgPropose || past_log || astray {
            return Err(CoreError::BadMessage(kind, message.from));
        }
        // Leave to campaign for an earlier term, which the library would take for this one's.
        let is_grant = kind == MessageType::MsgRequestPreVoteResponse && !message.reject;
        if is_grant && message.term != self.raw.raft.term + 1 {
            return Ok(());
        }
        let is_member = self.configuration.members.contains_key(&message.from);
        if is_member && message.term == self.raw.raft.term {
            self.heard.insert(message.from, self.ticks);
        }
        if kind == MessageType::MsgTimeoutNow && self.must_not_campaign() {
            return Ok(());
        }
        if kind == MessageType::MsgSnapshot && self.is_installing() {
            return Ok(());
        }
        let is_append = kind == MessageType::MsgAppend && !message.entries.is_empty();
        if is_append && self.unapplied_bytes > self.config.apply_backlog_max_bytes {
            return Ok(()); // The leader sends it again.
        }
        if is_append && self.config.bug.is(Bug::ApplyPastCommit) {
            message.commit = message.index + message.entries.len() as u64;
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
        if self.config.bug.is(Bug::StaleRead) {
            return self.effects.reads.push((context, self.commit()));
        }
        // The leader takes an acknowledgement of a context for one of its leadership at that time,
        // so no two reads of any node may have the same.
        let mut full = self.read_prefix.to_vec();
        full.extend(context.to_be_bytes());
        self.raw.read_index(full);
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
        // The library refuses a snapshot that does not name its receiver.
        let named = point.filter(|point| point.configuration.members.contains_key(&to));
        let snapshot = named.map(snapshot_at);
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
            let last_index = self.raw.raft.raft_log.last_index();
            self.raw.advance_apply_to(index);
            // The library leaves a joint configuration by itself here, but tells nobody until the
            // next heartbeat.
            if self.raw.raft.raft_log.last_index() > last_index {
                self.raw.raft.bcast_append();
            }
        }
        let log = &self.raw.raft.raft_log;
        let evictable = log.applied.min(log.persisted);
        let tail_max_bytes = self.config.tail_max_bytes;
        self.raw.mut_store().shrink_tail(evictable, tail_max_bytes);
        self.after_input();
    }

    /// Up to where the log is to be forgotten, if the image is stored up to `stored`: it keeps
    /// `entries` and `bytes` for a peer that was away, and becomes no larger than twice either.
    #[must_use]
    pub fn compaction_point(&self, stored: u64, entries: u64, bytes: u64) -> Option<u64> {
        let (truncated, sizes) = (self.truncated().0, self.raw.store().sizes());
        let is_long = stored.saturating_sub(truncated) >= 2 * entries.max(1);
        let by_entries = is_long.then(|| stored - entries);
        let is_large = sizes.total_bytes() >= 2 * bytes.max(1);
        let by_bytes = sizes.start_within(bytes).filter(|_| is_large).map(|start| start - 1);
        let index = by_entries.max(by_bytes)?.min(stored);
        (index > truncated).then_some(index)
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

/// Whether entries are those right after `index`.
fn follow(index: u64, entries: &[Entry]) -> bool {
    (index.saturating_add(1)..).zip(entries).all(|(index, entry)| entry.index == index)
}
