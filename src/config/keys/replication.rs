//! Broker keys of replication and of moving replicas.

use crate::config::definition::definitions;
use crate::config::validator::Validator::Any;
use crate::config::validator::at_least;

definitions! {
    REPLICATION:
    "alter.log.dirs.replication.quota.window.num": Int = Some("11"), at_least(1), Low, ReadOnly,
        "Samples kept for the quota on moves between directories";
    "alter.log.dirs.replication.quota.window.size.seconds": Int = Some("1"),
        at_least(1), Low, ReadOnly,
        "Length of a sample for the quota on moves between directories";
    "default.replication.factor": Int = Some("1"), Any, Medium, ReadOnly,
        "Replicas of a topic that is created without saying how many";
    internal "follower.replication.throttled.rate": Long = Some("9223372036854775807"),
        at_least(0), Medium, ClusterWide,
        "Most bytes a second of replication for throttled followers";
    internal "leader.replication.throttled.rate": Long = Some("9223372036854775807"),
        at_least(0), Medium, ClusterWide,
        "Most bytes a second of replication for throttled leaders";
    "min.insync.replicas": Int = Some("1"), at_least(1), High, ClusterWide,
        "Replicas that must be in sync for acks=all to succeed";
    "num.replica.alter.log.dirs.threads": Int = None, Any, High, ReadOnly,
        "Threads that move replicas between directories";
    "num.replica.fetchers": Int = Some("1"), at_least(1), High, ClusterWide,
        "Streams that replicate from each other node";
    internal "replica.alter.log.dirs.io.max.bytes.per.second": Long = Some("9223372036854775807"),
        at_least(0), Medium, ClusterWide,
        "Most bytes a second moved between directories";
    "replica.fetch.backoff.ms": Int = Some("1000"), at_least(0), Medium, ReadOnly,
        "Pause of a follower after a failed fetch";
    "replica.fetch.max.bytes": Int = Some("1048576"), at_least(0), Medium, ReadOnly,
        "Bytes of one partition that a follower takes at a time";
    "replica.fetch.min.bytes": Int = Some("1"), Any, High, ReadOnly,
        "Bytes that a follower waits for";
    "replica.fetch.response.max.bytes": Int = Some("10485760"), at_least(0), Medium, ReadOnly,
        "Bytes that a follower takes at a time over all partitions";
    "replica.fetch.wait.max.ms": Int = Some("500"), Any, High, ReadOnly,
        "Longest time a follower waits for new records";
    "replica.high.watermark.checkpoint.interval.ms": Long = Some("5000"), Any, High, ReadOnly,
        "Time between two writes of the high watermarks";
    "replica.lag.time.max.ms": Long = Some("30000"), Any, High, ReadOnly,
        "Time without catching up after which a follower is out of sync";
    "replica.selector.class": String = None, Any, Medium, ReadOnly,
        "Class that chooses the replica a consumer reads from";
    "replica.socket.receive.buffer.bytes": Int = Some("65536"), Any, High, ReadOnly,
        "Receive buffer of a replication connection";
    "replica.socket.timeout.ms": Int = Some("30000"), Any, High, ReadOnly,
        "Longest wait on a replication connection";
    "replication.quota.window.num": Int = Some("11"), at_least(1), Low, ReadOnly,
        "Samples kept for replication quotas";
    "replication.quota.window.size.seconds": Int = Some("1"), at_least(1), Low, ReadOnly,
        "Length of a sample for replication quotas";
    "unclean.leader.election.enable": Boolean = Some("false"), Any, High, ClusterWide,
        "Allow a replica that was not in sync to lead, at the price of lost records";
    internal "unclean.leader.election.interval.ms": Long = Some("300000"),
        at_least(1), Medium, ReadOnly,
        "Time between two looks for partitions that need an unclean election";
}
