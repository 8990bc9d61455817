//! Runs coordinators over their shards of an internal topic.
//!
//! A coordinator's state is the fold of one partition's records. What decides is a [`Shard`]: a
//! state machine without I/O that takes requests and the time and returns [`Effects`]. The
//! [`Pipeline`] collects its records into batches and holds responses back until what they depend
//! on is committed; it does no I/O either. The [`Runtime`] is the thin shell of tasks around them:
//! one per loaded shard, which replays the partition, appends through a [`ShardLog`], keeps the
//! timers and ends with the leadership.
//!
//! The group coordinator is the first user. The transaction coordinator is to be another: nothing
//! here knows what a record means, and no coordinator imports another.
//!
//! Invariants:
//! - At most one batch of a shard is being appended; what arrives meanwhile shares the next ones.
//! - A response leaves only after every record decided before it is committed, or fails with them.
//! - A batch that was refused takes all later ones with it and the state goes back to before it.
//! - A batch with an unknown outcome ends the shard, which then loads anew from the log.

mod batches;
mod log;
mod pipeline;
mod runtime;
mod shard;
mod task;

pub use log::{AppendError, BoxFuture, ReadError, ShardLog};
pub use pipeline::Pipeline;
pub use runtime::{Runtime, Settings};
pub use shard::{Effects, Failure, Now, Record, ReplayError, Shard, Source, Token};
