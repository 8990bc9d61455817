//! Broker keys of consumer and streams groups and of committed offsets.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, List, ListOf, OneOfAnyCase};
use crate::config::validator::at_least;

definitions! {
    GROUP:
    "group.consumer.assignment.interval.ms": Int = Some("1000"), at_least(0), Medium, ClusterWide,
        "Shortest time between two assignments of a consumer group";
    "group.consumer.assignors": List = Some("uniform,range"),
        List { may_be_empty: false }, Medium, ReadOnly,
        "Assignors of consumer groups, the first being the default";
    "group.consumer.heartbeat.interval.ms": Int = Some("5000"), at_least(1), Medium, ReadOnly,
        "Heartbeat interval that members of consumer groups are told";
    "group.consumer.max.assignment.interval.ms": Int = Some("15000"), at_least(0), Medium, ReadOnly,
        "Largest consumer.assignment.interval.ms that a group may set";
    "group.consumer.max.heartbeat.interval.ms": Int = Some("15000"), at_least(1), Medium, ReadOnly,
        "Largest consumer.heartbeat.interval.ms that a group may set";
    "group.consumer.max.session.timeout.ms": Int = Some("60000"), at_least(1), Medium, ReadOnly,
        "Largest consumer.session.timeout.ms that a group may set";
    "group.consumer.max.size": Int = Some("2147483647"), at_least(1), Medium, ReadOnly,
        "Most members of a consumer group";
    "group.consumer.migration.policy": String = Some("bidirectional"),
        OneOfAnyCase(&["disabled", "downgrade", "upgrade", "bidirectional"]), Medium, ReadOnly,
        "Which groups may move between the classic and the consumer protocol";
    "group.consumer.min.assignment.interval.ms": Int = Some("0"), at_least(0), Medium, ReadOnly,
        "Smallest consumer.assignment.interval.ms that a group may set";
    "group.consumer.min.heartbeat.interval.ms": Int = Some("5000"), at_least(1), Medium, ReadOnly,
        "Smallest consumer.heartbeat.interval.ms that a group may set";
    "group.consumer.min.session.timeout.ms": Int = Some("45000"), at_least(1), Medium, ReadOnly,
        "Smallest consumer.session.timeout.ms that a group may set";
    internal "group.consumer.regex.refresh.interval.ms": Int = Some("600000"),
        at_least(10_000), Medium, ReadOnly,
        "Time after which subscriptions by pattern are matched anew";
    "group.consumer.session.timeout.ms": Int = Some("45000"), at_least(1), Medium, ReadOnly,
        "Time without a heartbeat after which a member of a consumer group is out";
    "group.coordinator.append.linger.ms": Int = Some("-1"), at_least(-1), Medium, ReadOnly,
        "Time the coordinator collects records before it appends; -1 adapts";
    "group.coordinator.background.threads": Int = Some("2"), at_least(1), High, ReadOnly,
        "Threads for work of the group coordinator in the background";
    "group.coordinator.cached.buffer.max.bytes": Int = Some("1048588"),
        at_least(524_288), Medium, ClusterWide,
        "Largest buffer that the group coordinator keeps for its next append";
    "group.coordinator.rebalance.protocols": List = Some("classic,consumer,streams"),
        ListOf { allowed: &["consumer", "classic", "share", "streams"], may_be_empty: false },
        Medium, ReadOnly,
        "Group protocols that are served";
    "group.coordinator.threads": Int = Some("4"), at_least(1), High, ReadOnly,
        "Threads of the group coordinator";
    "group.initial.rebalance.delay.ms": Int = Some("3000"), Any, Medium, ReadOnly,
        "Time an empty group waits for more members before its first rebalance";
    "group.max.session.timeout.ms": Int = Some("1800000"), Any, Medium, ReadOnly,
        "Largest session timeout that a member of a classic group may ask for";
    "group.max.size": Int = Some("2147483647"), at_least(1), Medium, ReadOnly,
        "Most members of a classic group";
    "group.min.session.timeout.ms": Int = Some("6000"), Any, Medium, ReadOnly,
        "Smallest session timeout that a member of a classic group may ask for";
    "group.streams.assignment.interval.ms": Int = Some("1000"), at_least(0), Medium, ClusterWide,
        "Shortest time between two assignments of a streams group";
    "group.streams.heartbeat.interval.ms": Int = Some("5000"), at_least(1), Medium, ReadOnly,
        "Heartbeat interval that members of streams groups are told";
    "group.streams.initial.rebalance.delay.ms": Int = Some("3000"), at_least(0), Medium, ReadOnly,
        "Time an empty streams group waits for more members";
    "group.streams.max.assignment.interval.ms": Int = Some("15000"), at_least(0), Medium, ReadOnly,
        "Largest streams.assignment.interval.ms that a group may set";
    "group.streams.max.heartbeat.interval.ms": Int = Some("15000"), at_least(1), Medium, ReadOnly,
        "Largest streams.heartbeat.interval.ms that a group may set";
    "group.streams.max.session.timeout.ms": Int = Some("60000"), at_least(1), Medium, ReadOnly,
        "Largest streams.session.timeout.ms that a group may set";
    "group.streams.max.size": Int = Some("2147483647"), at_least(1), Medium, ReadOnly,
        "Most members of a streams group";
    "group.streams.max.standby.replicas": Int = Some("2"), at_least(0), Medium, ReadOnly,
        "Largest streams.num.standby.replicas that a group may set";
    "group.streams.min.assignment.interval.ms": Int = Some("0"), at_least(0), Medium, ReadOnly,
        "Smallest streams.assignment.interval.ms that a group may set";
    "group.streams.min.heartbeat.interval.ms": Int = Some("5000"), at_least(1), Medium, ReadOnly,
        "Smallest streams.heartbeat.interval.ms that a group may set";
    "group.streams.min.session.timeout.ms": Int = Some("45000"), at_least(1), Medium, ReadOnly,
        "Smallest streams.session.timeout.ms that a group may set";
    "group.streams.num.standby.replicas": Int = Some("0"), at_least(0), Medium, ReadOnly,
        "Standby replicas of each task of a streams group";
    "group.streams.session.timeout.ms": Int = Some("45000"), at_least(1), Medium, ReadOnly,
        "Time without a heartbeat after which a member of a streams group is out";
    "offset.metadata.max.bytes": Int = Some("4096"), Any, High, ReadOnly,
        "Largest metadata of a committed offset";
    "offsets.commit.timeout.ms": Int = Some("5000"), at_least(1), High, ReadOnly,
        "Longest time an offset commit waits for the replicas of the offsets topic";
    "offsets.load.buffer.size": Int = Some("5242880"), at_least(1), High, ReadOnly,
        "Bytes read at a time when offsets are loaded";
    "offsets.retention.check.interval.ms": Long = Some("600000"), at_least(1), High, ReadOnly,
        "Time between two looks for expired offsets";
    "offsets.retention.minutes": Int = Some("10080"), at_least(1), High, ReadOnly,
        "Minutes that offsets outlive the last member of their group";
    "offsets.topic.compression.codec": Int = Some("0"), Any, High, ReadOnly,
        "Number of the codec of the offsets topic: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd";
    "offsets.topic.num.partitions": Int = Some("50"), at_least(1), High, ReadOnly,
        "Partitions of the offsets topic, fixed once it exists";
    "offsets.topic.replication.factor": Short = Some("3"), at_least(1), High, ReadOnly,
        "Replicas of the offsets topic";
    "offsets.topic.segment.bytes": Int = Some("104857600"), at_least(1), High, ReadOnly,
        "Size of a segment of the offsets topic";
}
