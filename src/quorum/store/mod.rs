//! What must survive a restart, behind a seam: on disk in production, in memory in simulation.
//!
//! A store keeps, side by side: the node's identity, Raft's hard state, the log from just after the
//! truncation point, and the applied image with the index, term and configuration it stands for.
//!
//! # Contract (held by the conformance suite for every implementation)
//! - All writes take effect in the order in which they were called. After a crash the store is what
//!   some prefix of them made it, and that prefix holds everything up to the last synced write.
//! - Each [`Write`], each [`Applied`], each compaction takes effect whole or not at all.
//! - [`Store::persist`] returns when its writes are synced. [`Store::apply`] and [`Store::compact`]
//!   need no sync: the log still holds what the image lost.
//! - A snapshot that is installed replaces log and image; image writes for an earlier index that
//!   come later are dropped, since what they change is gone.

mod mem;
mod rocks;
mod rocks_image;

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(super) mod recorded;

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};

pub use self::{mem::MemStore, rocks::RocksStore};
use super::{
    identity::{Configuration, Identity},
    log_sizes::LogSizes,
    machine::ImageWrite,
};

/// Why the store failed. After a failed write its state is unknown: nothing may be retried.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error("the metadata store failed")]
    Rocks(#[from] rocksdb::Error),
    /// The directory cannot be created.
    #[error("cannot create the directory of the metadata store")]
    Directory(#[from] std::io::Error),
    /// Something stored cannot be read back.
    #[error("the metadata store holds an unreadable {what}")]
    Corrupt {
        /// What was read.
        what: &'static str,
    },
    /// The log has a hole, or does not reach the applied index.
    #[error("the metadata log misses entry {index}")]
    MissingEntry {
        /// The first index that is missing.
        index: u64,
    },
    /// The store belongs to another member or cluster already.
    #[error("the metadata store is in use by {0:?} already")]
    InUse(Box<Identity>),
    /// The system starts no more threads.
    #[error("no thread for reading the metadata store")]
    NoThread(#[source] std::io::Error),
    /// A reader of the image ended early.
    #[error("the reader of the metadata store has ended")]
    ReaderStopped,
    /// A test asked for this failure.
    #[error("injected failure")]
    Injected,
}

impl StoreError {
    /// Whether what is stored is damaged, and not merely out of reach.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Rocks(error) => error.kind() == rocksdb::ErrorKind::Corruption,
            Self::Corrupt { .. } | Self::MissingEntry { .. } => true,
            _ => false,
        }
    }
}

/// The point of the log that an image stands for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Point {
    /// Index of the last entry in the image.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The configuration as of that entry.
    pub configuration: Configuration,
}

/// What one step of the core asks to make durable, in one piece.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Write {
    /// Passed back to the core when this write is durable.
    pub number: u64,
    /// The new hard state.
    pub hard_state: Option<HardState>,
    /// Makes the staged image the current one and empties the log.
    pub install: Option<Point>,
    /// Consecutive entries; whatever the log holds from the first of them on is replaced.
    pub entries: Vec<Entry>,
}

/// Entries folded into the image, as of the last of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// What the image stands for after these writes.
    pub point: Point,
    /// The changes, in order.
    pub writes: Vec<ImageWrite>,
}

/// What a store is to hold once its quorum was given up.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// The former identity under a new peer id.
    pub identity: Identity,
    /// The new hard state.
    pub hard_state: HardState,
    /// What the image stands for, unchanged but for the configuration.
    pub point: Point,
    /// All entries after `point`.
    pub tail: Vec<Entry>,
}

/// What a store holds when a node starts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// None in a store that was never used.
    pub identity: Option<Identity>,
    /// The last hard state.
    pub hard_state: HardState,
    /// Index and term of the last entry that was compacted away.
    pub truncated: (u64, u64),
    /// Where each term starts in the log, as (first index, term), from `truncated.0 + 1` on.
    pub terms: Vec<(u64, u64)>,
    /// How large the log is, from where on.
    pub sizes: LogSizes,
    /// What the stored image stands for.
    pub applied: Point,
    /// The entries after `applied.index`.
    pub tail: Vec<Entry>,
}

/// The stored image as of one moment, while writes go on: what a snapshot for a peer is read from,
/// piece by piece. Holding one keeps what it shows from being cleaned up, so there should be few.
pub trait ImageReader: Send {
    /// What the image stands for.
    fn point(&self) -> &Point;

    /// The pairs after the key `after`, or the first ones, in the order of the keys: about
    /// `max_bytes`, at least one, none at the end. Blocking.
    ///
    /// # Errors
    /// Where the store fails.
    fn read(&mut self, after: Option<&[u8]>, max_bytes: usize) -> Result<Pairs, StoreError>;
}

/// Pairs of an image.
pub type Pairs = Vec<(Bytes, Bytes)>;

/// The quorum's durable state. Blocking: called on the pool, except by tests and simulations.
pub trait Store: Send + Sync + 'static {
    /// Reads everything but the image.
    ///
    /// # Errors
    /// Where the store fails, or what it holds does not fit together.
    fn load(&self) -> Result<Loaded, StoreError>;

    /// Makes an unused store a member's, with the cluster's first configuration (its log then
    /// begins at index 1, term 1, so that a later peer gets the configuration with a snapshot), or
    /// with none for a peer that joins an existing cluster. Synced.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where the store has an identity.
    fn initialize(
        &self,
        identity: Identity,
        first: Option<Configuration>,
    ) -> Result<(), StoreError>;

    /// Makes the store another member's: the image stays, and the log is emptied but for the tail.
    /// One step, synced. For a node that does not run.
    ///
    /// # Errors
    /// After any the store must not be used again.
    fn recover(&self, recovered: &Recovered) -> Result<(), StoreError>;

    /// Makes `writes` durable, in order, with one sync.
    ///
    /// # Errors
    /// After any the store must not be used again.
    fn persist(&self, writes: &[Write]) -> Result<(), StoreError>;

    /// Writes to the image together with what it then stands for. Not synced.
    ///
    /// # Errors
    /// After any the store must not be used again.
    fn apply(&self, applied: &Applied) -> Result<(), StoreError>;

    /// The entries in `low..high`, at least one and at most about `max_bytes`.
    ///
    /// # Errors
    /// [`StoreError::MissingEntry`] where `low` is not in the log.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError>;

    /// Forgets the entries up to `index`, whose term is `term`. Not synced.
    ///
    /// # Errors
    /// After any the store must not be used again.
    fn compact(&self, index: u64, term: u64) -> Result<(), StoreError>;

    /// Opens the image as of now, to be read piece by piece while writes go on.
    ///
    /// # Errors
    /// Where the store fails.
    fn open_image(&self) -> Result<Box<dyn ImageReader>, StoreError>;

    /// Adds to the image that is to be installed; `first` forgets what was staged before. Not
    /// synced. Must not be called while a snapshot is being installed.
    ///
    /// # Errors
    /// After any the store must not be used again.
    fn stage(&self, first: bool, pairs: &[(Bytes, Bytes)]) -> Result<(), StoreError>;

    /// Syncs everything written so far, for a clean stop.
    ///
    /// # Errors
    /// After any the store must not be used again.
    fn sync(&self) -> Result<(), StoreError>;
}

impl Loaded {
    /// Takes the next entry of the log.
    fn note(&mut self, entry: &Entry) {
        if self.terms.last().is_none_or(|(_, last)| *last != entry.term) {
            self.terms.push((entry.index, entry.term));
        }
        self.sizes.push(entry);
    }
}
