//! Broker keys of partition logs, many of them the defaults of topic keys.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, Between, BetweenOr, Fraction, List, ListOf, OneOf};
use crate::config::validator::at_least;

definitions! {
    LOG:
    "auto.create.topics.enable": Boolean = Some("true"), Any, High, ReadOnly,
        "Create a topic when a client asks for its metadata and allows it";
    "compression.gzip.level": Int = Some("-1"), BetweenOr(1, 9, -1), Medium, ClusterWide,
        "Level for compression.type=gzip";
    "compression.lz4.level": Int = Some("9"), Between(1, 17), Medium, ClusterWide,
        "Level for compression.type=lz4";
    "compression.type": String = Some("producer"),
        OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), High, ClusterWide,
        "Codec that batches are stored in; producer keeps what the producer chose";
    "compression.zstd.level": Int = Some("3"), Between(-131_072, 22), Medium, ClusterWide,
        "Level for compression.type=zstd";
    "cordoned.log.dirs": List = Some(""), List { may_be_empty: true }, Medium, PerBroker,
        "Data directories that take no new replicas";
    "delete.topic.enable": Boolean = Some("true"), Any, High, ReadOnly,
        "Allow topics to be deleted";
    "log.cleaner.backoff.ms": Long = Some("15000"), at_least(0), Medium, ClusterWide,
        "Pause of a compaction thread that found nothing to do";
    "log.cleaner.dedupe.buffer.size": Long = Some("134217728"), Any, Medium, ClusterWide,
        "Memory for the keys seen in a compaction, over all threads";
    "log.cleaner.delete.retention.ms": Long = Some("86400000"), at_least(0), Medium, ClusterWide,
        "Time a tombstone stays readable on a compacted topic";
    "log.cleaner.enable": Boolean = Some("true"), Any, Medium, ReadOnly,
        "Run compaction";
    "log.cleaner.io.buffer.load.factor": Double = Some("0.9"), Any, Medium, ClusterWide,
        "How full the buffer of keys may get";
    "log.cleaner.io.buffer.size": Int = Some("524288"), at_least(0), Medium, ClusterWide,
        "Memory for reading and writing in compaction, over all threads";
    "log.cleaner.io.max.bytes.per.second": Double = Some("1.7976931348623157E308"),
        Any, Medium, ClusterWide,
        "Most bytes a second that compaction reads and writes";
    "log.cleaner.max.compaction.lag.ms": Long = Some("9223372036854775807"),
        at_least(1), Medium, ClusterWide,
        "Longest time a record stays uncompacted";
    "log.cleaner.min.cleanable.ratio": Double = Some("0.5"),
        Fraction(0.0, 1.0), Medium, ClusterWide,
        "Uncompacted share of a log from which it is compacted";
    "log.cleaner.min.compaction.lag.ms": Long = Some("0"), at_least(0), Medium, ClusterWide,
        "Shortest time a record stays uncompacted";
    "log.cleaner.threads": Int = Some("1"), at_least(0), Medium, ClusterWide,
        "Threads for compaction";
    "log.cleanup.policy": List = Some("delete"),
        ListOf { allowed: &["compact", "delete"], may_be_empty: true }, Medium, ClusterWide,
        "What to do with old segments: delete, compact or both";
    "log.dir": List = Some("/var/lib/ottla"), List { may_be_empty: false }, High, ReadOnly,
        "Directory for data, where log.dirs is unset",
        differs "/var/lib/ottla instead of a directory under /tmp";
    "log.dir.failure.timeout.ms": Long = Some("30000"), at_least(1), Low, ReadOnly,
        "Time to tell the controller of a failed directory before the node stops";
    "log.dirs": List = None, List { may_be_empty: false }, High, ReadOnly,
        "Directories for data; log.dir where unset";
    "log.flush.interval.messages": Long = Some("1"), at_least(1), High, ClusterWide,
        "Records of a partition after which they are flushed to disk",
        differs "1 instead of no limit: records are on disk before they are acknowledged";
    "log.flush.interval.ms": Long = None, Any, High, ClusterWide,
        "Longest time a record waits in memory to be flushed to disk";
    "log.flush.offset.checkpoint.interval.ms": Int = Some("60000"), at_least(0), High, ReadOnly,
        "Time between two writes of the recovery points";
    "log.flush.scheduler.interval.ms": Long = Some("9223372036854775807"), Any, High, ReadOnly,
        "Time between two looks for logs to flush";
    "log.flush.start.offset.checkpoint.interval.ms": Int = Some("60000"),
        at_least(0), High, ReadOnly,
        "Time between two writes of the log start offsets";
    "log.index.interval.bytes": Int = Some("4096"), at_least(0), Medium, ClusterWide,
        "Bytes of records between two entries of the offset index";
    "log.index.size.max.bytes": Int = Some("10485760"), at_least(4), Medium, ClusterWide,
        "Largest size of an index";
    internal "log.initial.task.delay.ms": Long = Some("30000"), at_least(0), Low, ReadOnly,
        "Pause after the start before the log's regular tasks run";
    "log.message.timestamp.after.max.ms": Long = Some("3600000"), at_least(0), Medium, ClusterWide,
        "How far ahead of the broker's clock a record's timestamp may be";
    "log.message.timestamp.before.max.ms": Long = Some("9223372036854775807"),
        at_least(0), Medium, ClusterWide,
        "How far behind the broker's clock a record's timestamp may be";
    "log.message.timestamp.type": String = Some("CreateTime"),
        OneOf(&["CreateTime", "LogAppendTime"]), Medium, ClusterWide,
        "Whose clock stamps records: the producer's or the broker's";
    "log.preallocate": Boolean = Some("false"), Any, Medium, ClusterWide,
        "Reserve a segment's whole size on disk when it is created";
    "log.retention.bytes": Long = Some("-1"), Any, High, ClusterWide,
        "Size of a partition from which old segments are deleted; -1 without limit";
    "log.retention.check.interval.ms": Long = Some("300000"), at_least(1), Medium, ReadOnly,
        "Time between two looks for segments to delete";
    "log.retention.hours": Int = Some("168"), Any, High, ReadOnly,
        "Hours that records are kept, where minutes and milliseconds are unset";
    "log.retention.minutes": Int = None, Any, High, ReadOnly,
        "Minutes that records are kept, where milliseconds are unset";
    "log.retention.ms": Long = None, Any, High, ClusterWide,
        "Time that records are kept; -1 for ever";
    "log.roll.hours": Int = Some("168"), at_least(1), High, ReadOnly,
        "Hours until a new segment is begun, where milliseconds are unset";
    "log.roll.jitter.hours": Int = Some("0"), at_least(0), High, ReadOnly,
        "Most hours taken off at random, where milliseconds are unset";
    "log.roll.jitter.ms": Long = None, Any, High, ClusterWide,
        "Most time taken off log.roll.ms at random";
    "log.roll.ms": Long = None, Any, High, ClusterWide,
        "Time until a new segment is begun";
    "log.segment.bytes": Int = Some("1073741824"), at_least(1_048_576), High, ClusterWide,
        "Size of a segment";
    "log.segment.delete.delay.ms": Long = Some("60000"), at_least(0), High, ClusterWide,
        "Time between a file being given up and its removal";
    "message.max.bytes": Int = Some("1048588"), at_least(0), High, ClusterWide,
        "Largest batch that is accepted, after compression";
    "num.partitions": Int = Some("1"), at_least(1), Medium, ReadOnly,
        "Partitions of a topic that is created without saying how many";
    "num.recovery.threads.per.data.dir": Int = Some("2"), at_least(1), High, ClusterWide,
        "Threads per data directory that load logs at the start";
    internal "producer.id.expiration.check.interval.ms": Int = Some("600000"),
        at_least(1), Low, ReadOnly,
        "Time between two looks for expired producer ids";
    "producer.id.expiration.ms": Int = Some("86400000"), at_least(1), Low, ClusterWide,
        "Time that a producer's last sequence is remembered after its last write";
}
