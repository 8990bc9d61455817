//! What can go wrong with a log, and the state of a directory that has failed.

use std::{fmt, io, sync::Arc};

use crate::base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// What was asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening or creating a file.
    Open,
    /// Reading a file.
    Read,
    /// Writing a file.
    Write,
    /// Making a file or directory survive a power cut.
    Sync,
    /// Cutting a file.
    Truncate,
    /// Moving a file or directory.
    Rename,
    /// Removing a file or directory.
    Remove,
    /// Listing a directory.
    List,
    /// Making a directory.
    Create,
    /// Claiming the directory for this process.
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Truncate => "truncate",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::List => "list",
            Self::Create => "create",
            Self::Lock => "lock",
        })
    }
}

/// The disk refused an operation.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {operation} {path}: {source}")]
pub struct StorageError {
    /// What was asked for.
    pub operation: Operation,
    /// The file or directory, absolute.
    pub path: String,
    /// The system's answer.
    pub source: Arc<io::Error>,
}

impl StorageError {
    fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// What is wrong with stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A batch's length cannot be right.
    #[error("a batch of impossible length {0}")]
    Length(i32),
    /// A batch of a format other than version 2.
    #[error("a batch with magic {0}, only 2 is stored")]
    Magic(i8),
    /// A batch of a codec that does not exist.
    #[error("a batch with the unknown codec {0}")]
    Codec(u8),
    /// A batch's content does not match its CRC.
    #[error("a batch whose CRC is {computed:#010x} instead of {stored:#010x}")]
    Crc {
        /// The CRC in its header.
        stored: u32,
        /// The CRC of its bytes.
        computed: u32,
    },
    /// Counts or offsets within a batch contradict each other.
    #[error("a batch whose record count and offsets contradict each other")]
    Counts,
    /// A batch starts below the end of the one before it.
    #[error("a batch at offset {found} where {expected} or more was due")]
    Offset {
        /// Its base offset.
        found: Offset,
        /// The lowest that would be right.
        expected: Offset,
    },
    /// A batch of an earlier leader epoch than the one before it.
    #[error("a batch of leader epoch {found} where {expected} or more was due")]
    Epoch {
        /// Its leader epoch.
        found: LeaderEpoch,
        /// The lowest that would be right.
        expected: LeaderEpoch,
    },
    /// The file ends within a batch.
    #[error("the file ends within a batch")]
    Torn,
    /// The log ends before the offset up to which it was flushed.
    #[error("the log ends at offset {end} though it was flushed up to {flushed}")]
    Short {
        /// Where it ends.
        end: Offset,
        /// What a checkpoint says was flushed.
        flushed: Offset,
    },
    /// A checkpoint, index or snapshot that does not parse.
    #[error("not in the format that its name promises")]
    Format,
    /// The records of a batch do not decode.
    #[error("a batch whose records do not decode")]
    Records,
}

/// Why an operation on a log failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The disk refused. The directory is offline from then on.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Stored bytes are damaged. The directory is offline from then on.
    #[error("{path} is corrupt at byte {position}: {damage}")]
    Corrupt {
        /// The file, absolute.
        path: String,
        /// Where in the file.
        position: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// The directory failed earlier.
    #[error("log directory {location} is offline since: {cause}")]
    Offline {
        /// The directory.
        location: String,
        /// The first failure.
        cause: Arc<Self>,
    },
    /// The log was deleted or closed.
    #[error("the log of {0} is closed")]
    Closed(Arc<str>),
    /// An offset outside of what the log holds.
    #[error("offset {offset} is outside of {start}..={end}")]
    OffsetOutOfRange {
        /// What was asked for.
        offset: Offset,
        /// Log start offset.
        start: Offset,
        /// The highest offset that would be in range.
        end: Offset,
    },
}

impl LogError {
    /// What brings a directory back that went offline for this.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Storage(error) if error.is_full() => {
                "free some space on its volume, then restart the node"
            }
            Self::Storage(_) => {
                "check the disk (the system's log may say more), its mount and its permissions, \
                 then restart the node"
            }
            Self::Corrupt { .. } => {
                "restore the file from a copy, or move the partition's directory away and lose \
                 what is only in it, then restart the node"
            }
            Self::Offline { cause, .. } => cause.remedy(),
            Self::Closed(_) | Self::OffsetOutOfRange { .. } => "restart the node",
        }
    }
}

/// Why batches were not appended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The log itself failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// All batches of one append together exceed `segment.bytes`.
    #[error("{bytes} bytes exceed the segment size of {segment_bytes}")]
    LargerThanSegment {
        /// Size of the append.
        bytes: u64,
        /// The limit.
        segment_bytes: u32,
    },
    /// A newer instance of the producer has taken over.
    #[error("producer {producer_id} has epoch {current}, the batch has {found}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: ProducerId,
        /// The batch's epoch.
        found: ProducerEpoch,
        /// The log's.
        current: ProducerEpoch,
    },
    /// A gap or an old duplicate in an idempotent producer's sequence.
    #[error("producer {producer_id} sent sequence {found} after {last}")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: ProducerId,
        /// The batch's first sequence number.
        found: i32,
        /// The last one in the log; -1 for none.
        last: i32,
    },
    /// A batch outside of a transaction while its producer has one open.
    #[error("producer {producer_id} has a transaction open and sent a batch outside of it")]
    InvalidTxnState {
        /// The producer.
        producer_id: ProducerId,
    },
    /// A marker of a transaction coordinator that has been replaced.
    #[error("marker for producer {producer_id} has coordinator epoch {found}, now {current}")]
    TransactionCoordinatorFenced {
        /// The producer.
        producer_id: ProducerId,
        /// The marker's epoch.
        found: i32,
        /// The log's.
        current: i32,
    },
    /// What should be a validated batch is none.
    #[error("not a batch: {0}")]
    Damaged(Damage),
    /// A replicated batch that does not continue the log.
    #[error("a batch at offset {found} does not continue the log at {end}")]
    UnexpectedOffset {
        /// The batch's base offset.
        found: Offset,
        /// The log end offset.
        end: Offset,
    },
}
