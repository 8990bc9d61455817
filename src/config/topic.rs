//! The configuration of a topic, typed.

use std::collections::BTreeSet;

use super::fields::{FromValue, config_struct, text_enum};
use super::layers::TopicLayers;
use super::value::Value;

text_enum! {
    /// Which codec the broker stores batches in.
    CompressionType {
        /// As the producer chose.
        Producer = "producer",
        /// Not compressed.
        Uncompressed = "uncompressed",
        /// gzip.
        Gzip = "gzip",
        /// Snappy.
        Snappy = "snappy",
        /// LZ4.
        Lz4 = "lz4",
        /// Zstandard.
        Zstd = "zstd",
    }
}

text_enum! {
    /// Whose clock stamps records.
    TimestampType {
        /// The producer's.
        CreateTime = "CreateTime",
        /// The broker's.
        LogAppendTime = "LogAppendTime",
    }
}

/// What is done with old segments. Neither is possible, and keeps everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Keep the newest record of each key.
    pub compact: bool,
    /// Delete segments by age and size.
    pub delete: bool,
}

impl FromValue for CleanupPolicy {
    fn from_value(value: Option<Value>) -> Option<Self> {
        let value = value?;
        let has = |policy: &str| value.as_list().iter().any(|one| one == policy);
        Some(Self { compact: has("compact"), delete: has("delete") })
    }
}

/// Replicas whose replication is throttled while they are out of sync (KIP-73).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ThrottledReplicas {
    /// None of the topic.
    #[default]
    None,
    /// All of the topic.
    All,
    /// These, as partition and broker.
    Named(BTreeSet<(i32, i32)>),
}

impl ThrottledReplicas {
    /// Whether the replica of `partition` on `broker` is among them.
    pub fn contains(&self, partition: i32, broker: i32) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(replicas) => replicas.contains(&(partition, broker)),
        }
    }
}

impl FromValue for ThrottledReplicas {
    fn from_value(value: Option<Value>) -> Option<Self> {
        let value = value?;
        Some(match value.as_list() {
            [] => Self::None,
            [all] if all == "*" => Self::All,
            pairs => Self::Named(pairs.iter().filter_map(|pair| replica(pair)).collect()),
        })
    }
}

fn replica(pair: &str) -> Option<(i32, i32)> {
    let (partition, broker) = pair.split_once(':')?;
    Some((partition.trim().parse().ok()?, broker.trim().parse().ok()?))
}

config_struct! {
    /// What a partition's log and the produce path need to know of their topic.
    TopicConfig from TopicLayers<'_> {
        /// What is done with old segments.
        cleanup_policy: CleanupPolicy = "cleanup.policy",
        /// Level of gzip where the broker compresses; -1 is the library's own.
        compression_gzip_level: i32 = "compression.gzip.level",
        /// Level of LZ4 where the broker compresses.
        compression_lz4_level: i32 = "compression.lz4.level",
        /// Codec of stored batches.
        compression_type: CompressionType = "compression.type",
        /// Level of Zstandard where the broker compresses.
        compression_zstd_level: i32 = "compression.zstd.level",
        /// Time that tombstones stay readable.
        delete_retention_ms: i64 = "delete.retention.ms",
        /// Records after which the log is flushed; 1 flushes before every acknowledgement.
        flush_messages: i64 = "flush.messages",
        /// Longest time until a record is flushed.
        flush_ms: i64 = "flush.ms",
        /// Replicas that are throttled as followers.
        follower_replication_throttled_replicas: ThrottledReplicas =
            "follower.replication.throttled.replicas",
        /// Bytes of records between two index entries.
        index_interval_bytes: i32 = "index.interval.bytes",
        /// Replicas that are throttled as leaders.
        leader_replication_throttled_replicas: ThrottledReplicas =
            "leader.replication.throttled.replicas",
        /// Longest time a record stays uncompacted.
        max_compaction_lag_ms: i64 = "max.compaction.lag.ms",
        /// Largest batch.
        max_message_bytes: i32 = "max.message.bytes",
        /// How far ahead a timestamp may be.
        message_timestamp_after_max_ms: i64 = "message.timestamp.after.max.ms",
        /// How far behind a timestamp may be.
        message_timestamp_before_max_ms: i64 = "message.timestamp.before.max.ms",
        /// Whose clock stamps records.
        message_timestamp_type: TimestampType = "message.timestamp.type",
        /// Uncompacted share of the log from which it is compacted.
        min_cleanable_dirty_ratio: f64 = "min.cleanable.dirty.ratio",
        /// Shortest time a record stays uncompacted.
        min_compaction_lag_ms: i64 = "min.compaction.lag.ms",
        /// Replicas that must be in sync for `acks=all`.
        min_insync_replicas: i32 = "min.insync.replicas",
        /// Size from which old segments are deleted; -1 without limit.
        retention_bytes: i64 = "retention.bytes",
        /// Age from which segments are deleted; -1 for never.
        retention_ms: i64 = "retention.ms",
        /// Size of a segment.
        segment_bytes: i32 = "segment.bytes",
        /// Largest size of an index.
        segment_index_bytes: i32 = "segment.index.bytes",
        /// Most time taken off `segment_ms` at random.
        segment_jitter_ms: i64 = "segment.jitter.ms",
        /// Time until a new segment is begun.
        segment_ms: i64 = "segment.ms",
        /// Whether a replica that was not in sync may lead.
        unclean_leader_election_enable: bool = "unclean.leader.election.enable",
    }
}

impl Default for TopicConfig {
    /// The configuration of a topic for which, and for whose broker, nothing is set.
    fn default() -> Self {
        let broker = super::layers::BrokerLayers::DEFAULTS;
        Self::resolve(TopicLayers { topic: &(), broker })
    }
}
