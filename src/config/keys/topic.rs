//! Keys of topics.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{
    Any, Between, BetweenOr, Fraction, ListOf, OneOf, ThrottledReplicas,
};
use crate::config::validator::at_least;

definitions! {
    TOPIC:
    "cleanup.policy": List = Some("delete"),
        ListOf { allowed: &["compact", "delete"], may_be_empty: true }, Medium, ClusterWide,
        "What to do with old segments: delete, compact or both";
    "compression.gzip.level": Int = Some("-1"), BetweenOr(1, 9, -1), Medium, ClusterWide,
        "Level for compression.type=gzip";
    "compression.lz4.level": Int = Some("9"), Between(1, 17), Medium, ClusterWide,
        "Level for compression.type=lz4";
    "compression.type": String = Some("producer"),
        OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), Medium, ClusterWide,
        "Codec that batches are stored in; producer keeps what the producer chose";
    "compression.zstd.level": Int = Some("3"), Between(-131_072, 22), Medium, ClusterWide,
        "Level for compression.type=zstd";
    "delete.retention.ms": Long = Some("86400000"), at_least(0), Medium, ClusterWide,
        "Time a tombstone stays readable on a compacted topic";
    "file.delete.delay.ms": Long = Some("60000"), at_least(0), Medium, ClusterWide,
        "Time between a file being given up and its removal";
    "flush.messages": Long = Some("1"), at_least(1), Medium, ClusterWide,
        "Records of a partition after which they are flushed to disk",
        differs "1 instead of no limit: records are on disk before they are acknowledged";
    "flush.ms": Long = Some("9223372036854775807"), at_least(0), Medium, ClusterWide,
        "Longest time a record waits in memory to be flushed to disk";
    "follower.replication.throttled.replicas": List = Some(""),
        ThrottledReplicas, Medium, ClusterWide,
        "Replicas that are throttled as followers, as PARTITION:BROKER,… or *";
    "index.interval.bytes": Int = Some("4096"), at_least(0), Medium, ClusterWide,
        "Bytes of records between two entries of the offset index";
    internal "internal.segment.bytes": Int = None, Any, Medium, ClusterWide,
        "Size of a segment without its lower bound, for tests";
    "leader.replication.throttled.replicas": List = Some(""),
        ThrottledReplicas, Medium, ClusterWide,
        "Replicas that are throttled as leaders, as PARTITION:BROKER,… or *";
    "local.retention.bytes": Long = Some("-2"), at_least(-2), Medium, ClusterWide,
        "Size kept on local disk of a log with remote storage; -2 as retention.bytes";
    "local.retention.ms": Long = Some("-2"), at_least(-2), Medium, ClusterWide,
        "Time kept on local disk of a log with remote storage; -2 as retention.ms";
    "max.compaction.lag.ms": Long = Some("9223372036854775807"), at_least(1), Medium, ClusterWide,
        "Longest time a record stays uncompacted";
    "max.message.bytes": Int = Some("1048588"), at_least(0), Medium, ClusterWide,
        "Largest batch that is accepted, after compression";
    "message.timestamp.after.max.ms": Long = Some("3600000"), at_least(0), Medium, ClusterWide,
        "How far ahead of the broker's clock a record's timestamp may be";
    "message.timestamp.before.max.ms": Long = Some("9223372036854775807"),
        at_least(0), Medium, ClusterWide,
        "How far behind the broker's clock a record's timestamp may be";
    "message.timestamp.type": String = Some("CreateTime"),
        OneOf(&["CreateTime", "LogAppendTime"]), Medium, ClusterWide,
        "Whose clock stamps records: the producer's or the broker's";
    "min.cleanable.dirty.ratio": Double = Some("0.5"), Fraction(0.0, 1.0), Medium, ClusterWide,
        "Uncompacted share of a log from which it is compacted";
    "min.compaction.lag.ms": Long = Some("0"), at_least(0), Medium, ClusterWide,
        "Shortest time a record stays uncompacted";
    "min.insync.replicas": Int = Some("1"), at_least(1), Medium, ClusterWide,
        "Replicas that must be in sync for acks=all to succeed";
    "preallocate": Boolean = Some("false"), Any, Medium, ClusterWide,
        "Reserve a segment's whole size on disk when it is created";
    "remote.log.copy.disable": Boolean = Some("false"), Any, Medium, ClusterWide,
        "Copy no more segments to remote storage, and expire what is there";
    "remote.log.delete.on.disable": Boolean = Some("false"), Any, Medium, ClusterWide,
        "Delete what is in remote storage when it is switched off";
    "remote.storage.enable": Boolean = Some("false"), Any, Medium, ClusterWide,
        "Keep old segments in remote storage";
    "retention.bytes": Long = Some("-1"), Any, Medium, ClusterWide,
        "Size of a partition from which old segments are deleted; -1 without limit";
    "retention.ms": Long = Some("604800000"), at_least(-1), Medium, ClusterWide,
        "Time that records are kept; -1 for ever";
    "segment.bytes": Int = Some("1073741824"), at_least(1_048_576), Medium, ClusterWide,
        "Size of a segment";
    "segment.index.bytes": Int = Some("10485760"), at_least(4), Medium, ClusterWide,
        "Largest size of an index";
    "segment.jitter.ms": Long = Some("0"), at_least(0), Medium, ClusterWide,
        "Most time taken off segment.ms at random";
    "segment.ms": Long = Some("604800000"), at_least(1), Medium, ClusterWide,
        "Time until a new segment is begun";
    "unclean.leader.election.enable": Boolean = Some("false"), Any, Medium, ClusterWide,
        "Allow a replica that was not in sync to lead, at the price of lost records";
}
