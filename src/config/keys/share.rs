//! Broker keys of share groups and their coordinator.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, Between, List};
use crate::config::validator::at_least;

definitions! {
    SHARE:
    "group.share.assignment.interval.ms": Int = Some("1000"), at_least(0), Medium, ClusterWide,
        "Shortest time between two assignments of a share group";
    "group.share.assignors": List = Some("simple"), List { may_be_empty: false }, Medium, ReadOnly,
        "Assignors of share groups";
    "group.share.delivery.count.limit": Int = Some("5"), Between(2, 10), Medium, ReadOnly,
        "Deliveries of a record to a share group before it is given up";
    "group.share.heartbeat.interval.ms": Int = Some("5000"), at_least(1), Medium, ReadOnly,
        "Heartbeat interval that members of share groups are told";
    internal "group.share.initialize.retry.interval.ms": Int = Some("30000"),
        at_least(1), Low, ReadOnly,
        "Pause before the state of a share partition is initialized again";
    "group.share.max.assignment.interval.ms": Int = Some("15000"), at_least(0), Medium, ReadOnly,
        "Largest share.assignment.interval.ms that a group may set";
    "group.share.max.delivery.count.limit": Int = Some("10"), Between(5, 25), Medium, ReadOnly,
        "Largest share.delivery.count.limit that a group may set";
    "group.share.max.heartbeat.interval.ms": Int = Some("15000"), at_least(1), Medium, ReadOnly,
        "Largest share.heartbeat.interval.ms that a group may set";
    "group.share.max.partition.max.record.locks": Int = Some("4000"),
        Between(2000, 10_000), Medium, ReadOnly,
        "Largest share.partition.max.record.locks that a group may set";
    "group.share.max.record.lock.duration.ms": Int = Some("60000"),
        Between(30_000, 3_600_000), Medium, ReadOnly,
        "Largest share.record.lock.duration.ms that a group may set";
    "group.share.max.session.timeout.ms": Int = Some("60000"), at_least(1), Medium, ReadOnly,
        "Largest share.session.timeout.ms that a group may set";
    "group.share.max.share.sessions": Int = Some("2000"), at_least(1), Medium, ReadOnly,
        "Most share sessions of a broker";
    "group.share.max.size": Int = Some("200"), Between(1, 1000), Medium, ReadOnly,
        "Most members of a share group";
    "group.share.min.assignment.interval.ms": Int = Some("0"), at_least(0), Medium, ReadOnly,
        "Smallest share.assignment.interval.ms that a group may set";
    "group.share.min.delivery.count.limit": Int = Some("2"), Between(2, 5), Medium, ReadOnly,
        "Smallest share.delivery.count.limit that a group may set";
    "group.share.min.heartbeat.interval.ms": Int = Some("5000"), at_least(1), Medium, ReadOnly,
        "Smallest share.heartbeat.interval.ms that a group may set";
    "group.share.min.partition.max.record.locks": Int = Some("100"),
        Between(100, 2000), Medium, ReadOnly,
        "Smallest share.partition.max.record.locks that a group may set";
    "group.share.min.record.lock.duration.ms": Int = Some("15000"),
        Between(1000, 30_000), Medium, ReadOnly,
        "Smallest share.record.lock.duration.ms that a group may set";
    "group.share.min.session.timeout.ms": Int = Some("45000"), at_least(1), Medium, ReadOnly,
        "Smallest share.session.timeout.ms that a group may set";
    "group.share.partition.max.record.locks": Int = Some("2000"),
        Between(100, 10_000), Medium, ReadOnly,
        "Records of a partition that a share group may hold at once";
    internal "group.share.persister.class.name": String = Some("org.apache.kafka.server.share.persister.DefaultStatePersister"),
        Any, Medium, ReadOnly,
        "Class that keeps the state of share groups";
    "group.share.record.lock.duration.ms": Int = Some("30000"),
        Between(1000, 3_600_000), Medium, ReadOnly,
        "Time a share group's member has to finish a record";
    "group.share.session.timeout.ms": Int = Some("45000"), at_least(1), Medium, ReadOnly,
        "Time without a heartbeat after which a member of a share group is out";
    "share.coordinator.append.linger.ms": Int = Some("-1"), at_least(-1), Medium, ReadOnly,
        "Time the share coordinator collects records before it appends; -1 adapts";
    "share.coordinator.cached.buffer.max.bytes": Int = Some("1048588"),
        at_least(524_288), Medium, ClusterWide,
        "Largest buffer that the share coordinator keeps for its next append";
    internal "share.coordinator.cold.partition.snapshot.interval.ms": Int = Some("300000"),
        at_least(1), Low, ReadOnly,
        "Time after which an idle share partition is written as a snapshot";
    "share.coordinator.load.buffer.size": Int = Some("5242880"), at_least(1), High, ReadOnly,
        "Bytes read at a time when share state is loaded";
    "share.coordinator.snapshot.update.records.per.snapshot": Int = Some("500"),
        Between(0, 500), Medium, ReadOnly,
        "Updates of a share partition between two snapshots";
    "share.coordinator.state.topic.compression.codec": Int = Some("0"), Any, High, ReadOnly,
        "Number of the codec of the share state topic";
    "share.coordinator.state.topic.min.isr": Short = Some("2"), at_least(1), High, ReadOnly,
        "min.insync.replicas of the share state topic";
    "share.coordinator.state.topic.num.partitions": Int = Some("50"), at_least(1), High, ReadOnly,
        "Partitions of the share state topic, fixed once it exists";
    internal "share.coordinator.state.topic.prune.interval.ms": Int = Some("300000"),
        at_least(1), Low, ReadOnly,
        "Time between two cuts of the share state topic";
    "share.coordinator.state.topic.replication.factor": Short = Some("3"),
        at_least(1), High, ReadOnly,
        "Replicas of the share state topic";
    "share.coordinator.state.topic.segment.bytes": Int = Some("104857600"),
        at_least(1), High, ReadOnly,
        "Size of a segment of the share state topic";
    "share.coordinator.threads": Int = Some("1"), at_least(1), Medium, ReadOnly,
        "Threads of the share coordinator";
    "share.coordinator.write.timeout.ms": Int = Some("5000"), at_least(1), High, ReadOnly,
        "Longest time a write of the share coordinator waits for its replicas";
    "share.fetch.purgatory.purge.interval.requests": Int = Some("1000"), Any, Medium, ReadOnly,
        "Waiting share fetches after which finished ones are cleared";
}
