//! What every module shares: identities and offsets as newtypes, the clock, the pool for blocking
//! I/O and maps with a replayable order.
//!
//! Nothing here knows of Kafka's protocol, of Raft or of files.

mod blocking;
mod clock;
mod ids;
mod log_limit;
mod planted;

pub use blocking::{Blocking, BlockingStopped, FurtherDelay};
pub use clock::{Clock, SystemClock, TokioClock};
pub use ids::{
    BrokerEpoch, ClusterId, DirectoryId, Epoch, Id, LeaderEpoch, NodeId, Offset, ParseIdError,
    PartitionEpoch, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
pub use log_limit::LogLimit;
pub use planted::Planted;

/// A hash map whose order is the same in every run: its hasher has no random seed.
///
/// For keys that a remote side chooses freely prefer a `BTreeMap`, which cannot be made to collide.
#[expect(clippy::disallowed_types, reason = "its hasher has no random seed")]
pub type HashMap<K, V> = std::collections::HashMap<K, V, rustc_hash::FxBuildHasher>;

/// A hash set whose order is the same in every run; see [`HashMap`].
#[expect(clippy::disallowed_types, reason = "its hasher has no random seed")]
pub type HashSet<K> = std::collections::HashSet<K, rustc_hash::FxBuildHasher>;
