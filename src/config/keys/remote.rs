//! Broker keys of tiered storage.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, Fraction, NonEmpty};
use crate::config::validator::at_least;

definitions! {
    REMOTE:
    "follower.fetch.last.tiered.offset.enable": Boolean = Some("false"), Any, Medium, ClusterWide,
        "Let a new follower start at the end of what is in remote storage";
    "log.local.retention.bytes": Long = Some("-2"), at_least(-2), Medium, ClusterWide,
        "Size kept on local disk of a log with remote storage; -2 as log.retention.bytes";
    "log.local.retention.ms": Long = Some("-2"), at_least(-2), Medium, ClusterWide,
        "Time kept on local disk of a log with remote storage; -2 as log.retention.ms";
    "remote.fetch.max.wait.ms": Int = Some("500"), at_least(1), Medium, ClusterWide,
        "Longest time a fetch waits for remote storage";
    "remote.list.offsets.request.timeout.ms": Long = Some("30000"),
        at_least(1), Medium, ClusterWide,
        "Longest time a ListOffsets request waits for remote storage";
    "remote.log.index.file.cache.total.size.bytes": Long = Some("1073741824"),
        at_least(1), Low, ClusterWide,
        "Disk for indexes fetched from remote storage";
    internal "remote.log.index.file.cache.ttl.ms": Long = Some("900000"),
        at_least(-1), Low, ReadOnly,
        "Time an index fetched from remote storage is kept without use";
    "remote.log.manager.copier.thread.pool.size": Int = Some("10"),
        at_least(1), Medium, ClusterWide,
        "Threads that copy segments to remote storage";
    "remote.log.manager.copy.max.bytes.per.second": Long = Some("9223372036854775807"),
        at_least(1), Medium, ClusterWide,
        "Most bytes a second copied to remote storage";
    "remote.log.manager.copy.quota.window.num": Int = Some("11"), at_least(1), Medium, ReadOnly,
        "Samples kept for the quota on copies to remote storage";
    "remote.log.manager.copy.quota.window.size.seconds": Int = Some("1"),
        at_least(1), Medium, ReadOnly,
        "Length of a sample for the quota on copies to remote storage";
    "remote.log.manager.expiration.thread.pool.size": Int = Some("10"),
        at_least(1), Medium, ClusterWide,
        "Threads that delete expired segments from remote storage";
    "remote.log.manager.fetch.max.bytes.per.second": Long = Some("9223372036854775807"),
        at_least(1), Medium, ClusterWide,
        "Most bytes a second fetched from remote storage";
    "remote.log.manager.fetch.quota.window.num": Int = Some("11"), at_least(1), Medium, ReadOnly,
        "Samples kept for the quota on fetches from remote storage";
    "remote.log.manager.fetch.quota.window.size.seconds": Int = Some("1"),
        at_least(1), Medium, ReadOnly,
        "Length of a sample for the quota on fetches from remote storage";
    "remote.log.manager.follower.thread.pool.size": Int = Some("2"),
        at_least(1), Medium, ClusterWide,
        "Threads that build a follower's state from remote storage";
    "remote.log.manager.task.interval.ms": Long = Some("30000"), at_least(1), Low, ReadOnly,
        "Time between two runs of the remote storage tasks";
    internal "remote.log.manager.task.retry.backoff.max.ms": Long = Some("30000"),
        at_least(1), Low, ReadOnly,
        "Longest pause before a remote storage task is tried again";
    internal "remote.log.manager.task.retry.backoff.ms": Long = Some("500"),
        at_least(1), Low, ReadOnly,
        "First pause before a remote storage task is tried again";
    internal "remote.log.manager.task.retry.jitter": Double = Some("0.2"),
        Fraction(0.0, 0.5), Low, ReadOnly,
        "Random share of the pause before a remote storage task is tried again";
    "remote.log.manager.thread.pool.size": Int = Some("2"), at_least(1), Medium, ReadOnly,
        "Threads of the remote storage tasks";
    "remote.log.metadata.custom.metadata.max.bytes": Int = Some("128"), at_least(0), Low, ReadOnly,
        "Largest metadata that a remote storage may add to a segment";
    "remote.log.metadata.manager.class.name": String = Some("org.apache.kafka.server.log.remote.metadata.storage.TopicBasedRemoteLogMetadataManager"),
        NonEmpty, Medium, ReadOnly,
        "Class that keeps the metadata of remote segments";
    "remote.log.metadata.manager.class.path": String = None, Any, Medium, ReadOnly,
        "Where the class for the metadata of remote segments is loaded from";
    "remote.log.metadata.manager.impl.prefix": String = Some("rlmm.config."),
        NonEmpty, Medium, ReadOnly,
        "Prefix of keys handed to the class for the metadata of remote segments";
    "remote.log.metadata.manager.listener.name": String = None, NonEmpty, Medium, ReadOnly,
        "Listener that the class for the metadata of remote segments connects to";
    "remote.log.reader.max.pending.tasks": Int = Some("100"), at_least(1), Medium, ReadOnly,
        "Reads from remote storage that may wait";
    "remote.log.reader.threads": Int = Some("10"), at_least(1), Medium, ClusterWide,
        "Threads that read from remote storage";
    "remote.log.storage.manager.class.name": String = None, NonEmpty, Medium, ReadOnly,
        "Class that stores segments remotely";
    "remote.log.storage.manager.class.path": String = None, Any, Medium, ReadOnly,
        "Where the class for remote segments is loaded from";
    "remote.log.storage.manager.impl.prefix": String = Some("rsm.config."),
        NonEmpty, Medium, ReadOnly,
        "Prefix of keys handed to the class for remote segments";
    "remote.log.storage.system.enable": Boolean = Some("false"), Any, Medium, ReadOnly,
        "Allow topics to keep old segments in remote storage";
}
