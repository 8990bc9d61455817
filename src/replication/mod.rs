//! Partitions: leader state, high watermarks, waiting requests.
//!
//! State: for each replica of this node a [`Partition`], which joins a log with what its role knows,
//! one of two cores without I/O ([`leader`], [`follower`]), and with the requests that wait for it
//! (`waiting`). [`Partitions`] holds all of them and follows the metadata image. What leader and
//! follower say to each other is in [`subscription`] and [`wire`]; `streams` carries it.
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

mod alter;
mod bug;
mod deadlines;
mod directories;
pub mod follower;
mod internal_log;
pub mod isr_request;
pub mod leader;
mod manager;
mod metrics;
mod moves;
mod partition;
mod replacement;
mod streams;
pub mod subscription;
mod tail;
#[cfg(test)]
mod tests;
mod throttle;
mod waiting;
pub mod wire;

pub use alter::AskController;
pub use bug::Bug;
pub use directories::Misplaced;
pub use internal_log::InternalLog;
pub use manager::{OpenError, Partitions, PartitionsConfig};
pub use metrics::Metrics;
pub use moves::{Move, MoveError, Stepped};
pub(crate) use partition::WaitGuard;
pub use partition::{
    Acks, AppendError, Appended, FetchError, Fetched, Isolation, Lag, Partition, Source,
};
pub use replacement::Lost;
pub use streams::Opener;
pub use throttle::Budget;
pub(crate) use waiting::FetchWait;
