//! What goes into the core and what comes out of it.

use bytes::Bytes;
use raft::{
    StateRole,
    eraftpb::{Message, MessageType},
};

use super::Bug;
use crate::{
    base::Planted,
    quorum::{
        identity::Configuration,
        log_view::{Fetch, SnapshotWanted},
        store::{Point, Write},
    },
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
    /// A learner that misses at most this many entries may become a voter.
    pub caught_up_max_entries: u64,
    /// Where the election timeouts come from. Two lives of one peer must not share it.
    pub seed: u64,
    /// A mistake to make on purpose.
    pub bug: Planted<Bug>,
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
            caught_up_max_entries: 128,
            seed,
            bug: Planted::NONE,
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
    /// A message for another peer, such as this node was before its disk was lost.
    #[error("{kind:?} is for peer {to}, and this node is peer {peer_id}")]
    Misdirected {
        /// What arrived.
        kind: MessageType,
        /// For whom.
        to: u64,
        /// Who this is.
        peer_id: u64,
    },
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
    /// On a leader, the entry that brought the configuration, once a majority has it on disk that
    /// this is committed ([`super::Core::is_settled`]).
    pub settled: Option<u64>,
    /// Of each other peer; empty unless this node leads.
    pub peers: Vec<PeerProgress>,
}
