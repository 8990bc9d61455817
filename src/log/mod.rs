//! Partition logs on disk, in Kafka's own format.
//!
//! A partition is a directory of segments: `.log` holds record batches (version 2) as they came,
//! `.index` and `.timeindex` find them, `.txnindex` names aborted transactions, `.snapshot` holds
//! the state of the producers; `leader-epoch-checkpoint` and `partition.metadata` lie beside.
//! Kafka's own tools read all of them.
//!
//! Everything here blocks and nothing starts a thread or reads a clock: callers decide where it
//! runs and say what time it is. All disk access passes the [`Dir`] seam. Records are decoded by
//! compaction and by lookups of timestamps only.
//!
//! Invariants: a batch once visible never changes; what [`Log::flush`] answered survives a power
//! cut; a directory that failed once is offline for good and says why.

pub(crate) mod checkpoint;
mod clean;
mod compact;
mod compaction;
mod config;
mod dir;
mod directory;
mod disk;
mod epochs;
mod error;
mod header;
mod index;
mod moves;
mod order;
mod output;
mod partition;
mod producers;
mod read;
mod recovery;
mod scan;
mod segment;
mod sim_dir;
mod std_dir;
mod swap;
#[cfg(test)]
mod tests;
mod truncate;

pub use checkpoint::MetaProperties;
pub use compact::{Compact, Dirtiness};
pub use compaction::{CompactError, Compacted, Compaction, Step};
pub use config::LogConfig;
pub use dir::{Dir, Entry, File, Lock, Open, Space};
pub(crate) use directory::is_log_name;
pub use directory::{CreateError, LogDirectory, OpenError};
pub use epochs::EpochStart;
pub use error::{AppendError, Damage, LogError, Operation, StorageError};
pub use moves::{Copied, CopyError, CopyTurn, SwapError, copy, settle, swap};
pub use partition::{Append, Appended, FileSlice, Log, StampedHeader};
pub use producers::{ActiveProducer, Origin};
pub use read::TimestampBatch;
pub use recovery::Recovery;
pub use segment::{AbortedTxn, TimestampOffset};
pub use sim_dir::{SimDir, SimFault, SimOperation};
pub use std_dir::StdDir;
