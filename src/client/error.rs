//! What can go wrong between the client and a cluster, and which of it is worth another try.

use std::{io, sync::Arc};

use kafka_protocol::messages::ApiKey;

use super::wire::{CompressionError, Error as WireError, ShapeError};

/// A failed call. Cheap to clone, since all records of a batch fail with the same one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No connection came about.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// `host:port`.
        address: Arc<str>,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The connection ended while something was expected of it.
    #[error("lost the connection to {address} before it answered")]
    Disconnected {
        /// `host:port`.
        address: Arc<str>,
    },
    /// A broker did not answer in time.
    #[error("no answer from {address} to {api:?} within {timeout_ms} ms")]
    Timeout {
        /// `host:port`.
        address: Arc<str>,
        /// What was asked.
        api: ApiKey,
        /// How long the client waited.
        timeout_ms: u64,
    },
    /// The deadline of the whole operation passed; `last` is what the latest attempt met.
    #[error("gave up after {attempts} attempts: {last}")]
    DeadlineExceeded {
        /// How often it was tried.
        attempts: u32,
        /// The latest failure.
        last: Arc<Self>,
    },
    /// Broker and client share no version of an API.
    #[error("{address} serves no version of {api:?} that this client speaks ({min} to {max})")]
    UnsupportedVersion {
        /// `host:port`.
        address: Arc<str>,
        /// What was to be asked.
        api: ApiKey,
        /// The lowest version the client speaks.
        min: i16,
        /// The highest version the client speaks.
        max: i16,
    },
    /// A response that is not what the protocol says, so the connection was closed.
    #[error("{address} sent a malformed response to {api:?}: {source}")]
    Malformed {
        /// `host:port`.
        address: Arc<str>,
        /// What was asked.
        api: ApiKey,
        /// What is wrong with it.
        source: Malformed,
    },
    /// A request that the codec cannot express in the version the broker speaks.
    #[error("cannot express {api:?} in version {version}, the newest that broker and client share")]
    Inexpressible {
        /// What was to be asked.
        api: ApiKey,
        /// The version.
        version: i16,
    },
    /// The cluster said no.
    #[error("{api:?} of {subject} failed with {error:?}{}", detail(.message))]
    Refused {
        /// What was asked.
        api: ApiKey,
        /// The topic, partition, group or resource it was about.
        subject: Arc<str>,
        /// Kafka's error code.
        error: WireError,
        /// The broker's own words, where it had any.
        message: Option<Arc<str>>,
    },
    /// A response left out what was asked for.
    #[error("the response to {api:?} does not mention {subject}")]
    Missing {
        /// What was asked.
        api: ApiKey,
        /// What is absent.
        subject: Arc<str>,
    },
    /// A partition that has no leader now.
    #[error("partition {topic}-{partition} has no leader")]
    NoLeader {
        /// The topic.
        topic: Arc<str>,
        /// The partition's number.
        partition: i32,
    },
    /// A node id that the cluster's metadata does not list.
    #[error("the cluster knows no broker {node}")]
    UnknownBroker {
        /// The id.
        node: i32,
    },
    /// A batch that was given up although it may have been written.
    #[error("no acknowledgement in time; the records may or may not have been written")]
    OutcomeUnknown,
    /// A record that does not fit into a batch of the configured size.
    #[error("the record takes {size_bytes} bytes, more than the limit of {limit_bytes}")]
    RecordTooLarge {
        /// What the record takes.
        size_bytes: usize,
        /// What is allowed.
        limit_bytes: usize,
    },
    /// A batch that never got through.
    #[error("not delivered in time, after {attempts} attempts; nothing was written")]
    Undelivered {
        /// How often it was sent.
        attempts: u32,
    },
    /// Records that could not be compressed.
    #[error("cannot compress a batch: {source}")]
    Compression {
        /// Why.
        source: Arc<CompressionError>,
    },
    /// Records that could not be read out of a batch.
    #[error("a record batch is invalid: {source}")]
    Batch {
        /// Why.
        source: Arc<super::fetched::BatchError>,
    },
    /// A group whose leader shares out partitions in a way this client cannot read.
    #[error("the assignment in group {group} is not in the consumer protocol")]
    ForeignAssignment {
        /// The group.
        group: Arc<str>,
    },
    /// A position outside the partition, and nothing said where to go on.
    #[error("{partition} has no offset {offset}")]
    OutOfRange {
        /// The partition.
        partition: super::offsets::Partition,
        /// The position.
        offset: i64,
    },
    /// The producer, consumer or client was closed.
    #[error("the client has been closed")]
    Closed,
    /// A bootstrap address that is not `host:port`.
    #[error("'{0}' is not an address: expected HOST:PORT")]
    Address(Arc<str>),
}

/// What is wrong with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The guard refused it.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The codec refused what the guard had passed.
    #[error("the codec cannot read it")]
    Codec,
    /// It answers another request than the one at the head of the queue.
    #[error("its correlation id is {found}, expected {expected}")]
    Correlation {
        /// What it says.
        found: i32,
        /// What the oldest request has.
        expected: i32,
    },
    /// A frame longer than the client allows, or with a negative length.
    #[error("its frame claims {0} bytes")]
    FrameLength(i32),
}

fn detail(message: &Option<Arc<str>>) -> String {
    message.as_ref().map_or_else(String::new, |text| format!(": {text}"))
}

impl ClientError {
    /// An error code of the cluster about `subject`.
    pub(crate) fn refused(
        api: ApiKey,
        subject: impl Into<Arc<str>>,
        error: WireError,
        message: Option<&str>,
    ) -> Self {
        let message = message.filter(|text| !text.is_empty()).map(Into::into);
        Self::Refused { api, subject: subject.into(), error, message }
    }

    /// `Err` where `code` is an error code.
    pub(crate) fn check(
        api: ApiKey,
        code: i16,
        message: Option<&str>,
        subject: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        WireError::try_from_code(code)
            .map_or(Ok(()), |error| Err(Self::refused(api, subject(), error, message)))
    }

    /// Kafka's error code, where the cluster answered with one.
    #[must_use]
    pub fn wire(&self) -> Option<WireError> {
        match self {
            Self::Refused { error, .. } => Some(*error),
            Self::DeadlineExceeded { last, .. } => last.wire(),
            _ => None,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Disconnected { .. }
            | Self::Timeout { .. }
            | Self::NoLeader { .. }
            | Self::Missing { .. }
            | Self::UnknownBroker { .. } => true,
            Self::Refused { error, .. } => error.is_retriable(),
            _ => false,
        }
    }

    /// Whether nothing that would serve the call could be reached in time.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Disconnected { .. }
            | Self::Timeout { .. }
            | Self::NoLeader { .. }
            | Self::UnknownBroker { .. }
            | Self::Undelivered { .. }
            | Self::OutcomeUnknown => true,
            Self::DeadlineExceeded { last, .. } => last.is_unreachable() || last.is_retriable(),
            Self::Refused { error, .. } => matches!(error, WireError::RequestTimedOut),
            _ => false,
        }
    }

    /// Whether the client's picture of leaders and brokers is out of date.
    #[must_use]
    pub(crate) fn invalidates_metadata(&self) -> bool {
        match self {
            Self::Refused { error, .. } => matches!(
                error,
                WireError::NotLeaderOrFollower
                    | WireError::LeaderNotAvailable
                    | WireError::UnknownTopicOrPartition
                    | WireError::UnknownTopicId
                    | WireError::InconsistentTopicId
                    | WireError::FencedLeaderEpoch
                    | WireError::UnknownLeaderEpoch
                    | WireError::ReplicaNotAvailable
                    | WireError::OffsetNotAvailable
                    | WireError::NotController
                    | WireError::KafkaStorageError
            ),
            _ => self.is_retriable(),
        }
    }
}
