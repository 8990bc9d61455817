//! The log a shard keeps its records in, as the coordinator sees it.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use crate::base::Offset;

/// A future behind a pointer, so that the trait can be used as `dyn ShardLog`.
pub type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;

/// One partition of an internal topic during one leadership of this node.
///
/// An implementation belongs to the leader epoch it was made for: once that has passed, every
/// method fails with its `NotLeader`.
pub trait ShardLog: Send + Sync + 'static {
    /// Appends one whole record batch (v2, offsets from 0) and waits until it is committed.
    ///
    /// The caller never has two appends under way. Ends when the leadership does, whatever the
    /// state of the replicas: the caller has no other way out of a wait for them.
    ///
    /// # Errors
    /// See [`AppendError`], which says of each error whether the batch may be in the log.
    fn append(&self, batch: Bytes) -> BoxFuture<'_, Result<(), AppendError>>;

    /// Where the log began and ended when this leadership began: what is to be replayed.
    ///
    /// # Errors
    /// Where the leadership has passed or the log directory is offline.
    fn extent(&self) -> BoxFuture<'_, Result<std::ops::Range<Offset>, ReadError>>;

    /// Whole committed batches from the one that holds `from` on, about `max_bytes` of them.
    ///
    /// At least one, however large. Waits until there is one: records that an earlier leader left
    /// uncommitted become visible only with the high watermark. Empty where nothing is left
    /// at or after `from` because compaction has removed it.
    ///
    /// # Errors
    /// Where the leadership has passed or the log cannot be read.
    fn read(&self, from: Offset, max_bytes: usize) -> BoxFuture<'_, Result<Bytes, ReadError>>;
}

/// Why an append did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Refused before it was written: this node does not lead the partition any more.
    #[error("this node is not the partition's leader")]
    NotLeader,
    /// Refused before it was written: fewer replicas are in sync than the topic asks for.
    #[error("not enough replicas are in sync")]
    NotEnoughReplicas,
    /// Refused before it was written: over `max.message.bytes`.
    #[error("the batch is larger than the topic allows")]
    TooLarge,
    /// The log directory failed; the batch may be in the log.
    #[error("the log directory failed")]
    Storage,
    /// The leadership ended before the batch was committed; it may be committed yet.
    #[error("leadership was lost before the batch was committed")]
    OutcomeUnknown,
}

impl AppendError {
    /// Whether the batch is certainly not in the log, so that the state can go back and go on.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::NotEnoughReplicas | Self::TooLarge => true,
            Self::NotLeader | Self::Storage | Self::OutcomeUnknown => false,
        }
    }

    /// What a client is told whose request depended on the batch, as Kafka maps it.
    #[must_use]
    pub const fn response_error(self) -> ResponseError {
        match self {
            Self::NotEnoughReplicas => ResponseError::CoordinatorNotAvailable,
            Self::TooLarge => ResponseError::UnknownServerError,
            Self::NotLeader | Self::Storage | Self::OutcomeUnknown => ResponseError::NotCoordinator,
        }
    }
}

/// Why the log could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead the partition any more.
    #[error("this node is not the partition's leader")]
    NotLeader,
    /// The log directory failed.
    #[error("the log directory failed")]
    Storage,
}
