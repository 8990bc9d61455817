//! What the quorum replicates: a state machine that it does not look into.

use bytes::Bytes;

/// A committed entry that the state machine cannot take. All nodes meet it at the same index, so no
/// node may pass it by: the driver ends the process.
#[derive(Debug, thiserror::Error)]
#[error("entry {index} cannot be applied")]
pub struct ApplyError {
    /// The entry's index in the log.
    pub index: u64,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// One change of the stored image: a key, and its value or its absence.
pub type ImageWrite = (Bytes, Option<Bytes>);

/// An immutable state that entries are folded into, stored as keys and values.
///
/// Implementations are pure: the same entries in the same order give the same state on every node,
/// and [`Machine::load`] of everything that [`Machine::writes`] ever said gives the state back.
pub trait Machine: Sized + Send + Sync + 'static {
    /// What an entry changed.
    type Delta: Send + Sync + 'static;

    /// The state before any entry.
    fn empty() -> Self;

    /// The state that was stored as `pairs`, as of the entry at `applied_index`.
    ///
    /// # Errors
    /// Where a pair is none that this machine writes.
    fn load(
        applied_index: u64,
        pairs: &mut dyn Iterator<Item = (Bytes, Bytes)>,
    ) -> Result<Self, ApplyError>;

    /// The state after the entry at `index`, and what changed.
    ///
    /// # Errors
    /// Where the payload cannot be read.
    fn apply(&self, index: u64, payload: &[u8]) -> Result<(Self, Self::Delta), ApplyError>;

    /// The change in its stored form, given the state after it.
    fn writes(&self, delta: &Self::Delta) -> Vec<ImageWrite>;
}
