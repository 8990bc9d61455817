//! A small Kafka client, for the command line, the benchmarks and the chaos suite.
//!
//! [`Client`] holds connections and metadata and administers; [`Producer`] writes, [`Consumer`]
//! reads. Bytes go over whatever [`Connect`] opens: the network in production, the simulation's
//! own streams in tests. Retries have a budget and a deadline, and wait with a jitter that a seed
//! decides. Responses pass the shape guard before the codec sees them.
//!
//! It must not read a clock besides tokio's, nor import anything above `protocol`.

mod admin;
mod assignment;
mod cluster;
mod codec;
mod connect;
mod connection;
mod consumer;
mod describe;
mod error;
mod fetched;
mod groups;
mod membership;
mod metadata;
mod offsets;
mod produce;
mod producer;
pub(crate) mod raw;
mod reassign;
mod records;
mod versions;
mod wire;

pub use admin::{
    ConfigChange, ConfigEntry, ConfigSource, CreatedTopic, NewTopic, PerElement, Resource,
};
pub use assignment::Assignor;
pub use cluster::{Client, ClientConfig, Lane, Target};
pub(crate) use cluster::{Retry, retrying};
pub use connect::{Connect, Stream, TcpConnect};
pub use consumer::{Consumer, ConsumerConfig};
pub use describe::{LeaderWord, PartitionDescription, TopicDescription};
pub use error::{ClientError, Malformed};
pub use fetched::{BatchError, ConsumedRecord, Fetched, RawBatch, batches};
pub use groups::{GroupDescription, GroupListing, GroupMember};
pub use membership::GroupConfig;
pub use metadata::{BrokerView, ClusterView, PartitionView, TopicView};
pub use offsets::{Committed, OffsetSpec, Partition};
pub use produce::Acks;
pub use producer::{Delivery, Producer, ProducerConfig, Receipt};
pub use reassign::{BrokerDescription, Directory, DiskUse, Reassignment, ReplicaPlace};
pub use records::{Header, Record, partition_for_key};
pub use wire::{Compression, Error as WireError, FollowerLag};
