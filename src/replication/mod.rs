//! Partitions: leader state, high watermarks, waiting requests.
//!
//! State: for each replica of this node a [`Partition`], which joins a log with what its
//! leader knows ([`leader`], a core without I/O) and with the requests that wait for it
//! (`waiting`). [`Partitions`] holds all of them and follows the metadata image. What a replica does
//! that does not lead is [`follower`], what the two say to each other [`subscription`] and [`wire`];
//! no shell connects them yet.
//!
//! Invariants:
//! - Batches of one connection are appended in the order in which they arrived.
//! - No lock is held over a write or a flush: one appender and one flusher at a time work for all
//!   who wait (group commit).
//! - Consumers see nothing at or beyond the high watermark.
//!
//! Must not: propose metadata changes by itself, or decode records.
//!
//! References: KIP-101, KIP-966; Kafka's design, "Replication".

mod bug;
mod directories;
pub mod follower;
mod internal_log;
pub mod isr_request;
pub mod leader;
mod manager;
mod metrics;
mod partition;
pub mod subscription;
#[cfg(test)]
mod tests;
mod waiting;
pub mod wire;

pub use bug::Bug;
pub use directories::Misplaced;
pub use internal_log::InternalLog;
pub use manager::{OpenError, Partitions, PartitionsConfig};
pub use metrics::Metrics;
pub(crate) use partition::WaitGuard;
pub use partition::{Acks, AppendError, Appended, FetchError, Fetched, Isolation, Partition};
pub(crate) use waiting::FetchWait;
