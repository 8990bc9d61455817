//! Keys of groups and of subscriptions to the metrics of clients.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, Between, OffsetReset, OneOf};
use crate::config::validator::at_least;

definitions! {
    GROUP_RESOURCE:
    "consumer.assignment.interval.ms": Int = Some("1000"), at_least(0), Medium, ClusterWide,
        "Shortest time between two assignments of this consumer group";
    "consumer.heartbeat.interval.ms": Int = Some("5000"), at_least(1), Medium, ClusterWide,
        "Heartbeat interval that members of this consumer group are told";
    "consumer.session.timeout.ms": Int = Some("45000"), at_least(1), Medium, ClusterWide,
        "Time without a heartbeat after which a member of this consumer group is out";
    "share.assignment.interval.ms": Int = Some("1000"), at_least(0), Medium, ClusterWide,
        "Shortest time between two assignments of this share group";
    "share.auto.offset.reset": String = Some("latest"), OffsetReset, Medium, ClusterWide,
        "Where this share group starts reading";
    "share.delivery.count.limit": Int = Some("5"), at_least(2), Medium, ClusterWide,
        "Deliveries of a record to this share group before it is given up";
    "share.heartbeat.interval.ms": Int = Some("5000"), at_least(1), Medium, ClusterWide,
        "Heartbeat interval that members of this share group are told";
    "share.isolation.level": String = Some("read_uncommitted"),
        OneOf(&["read_committed", "read_uncommitted"]), Medium, ClusterWide,
        "Whether this share group reads records of transactions that are not committed";
    "share.partition.max.record.locks": Int = Some("2000"), at_least(100), Medium, ClusterWide,
        "Records of a partition that this share group may hold at once";
    "share.record.lock.duration.ms": Int = Some("30000"), at_least(1000), Medium, ClusterWide,
        "Time a member of this share group has to finish a record";
    "share.renew.acknowledge.enable": Boolean = Some("true"), Any, Medium, ClusterWide,
        "Let members of this share group extend the time they have for a record";
    "share.session.timeout.ms": Int = Some("45000"), at_least(1), Medium, ClusterWide,
        "Time without a heartbeat after which a member of this share group is out";
    "streams.assignment.interval.ms": Int = Some("1000"), at_least(0), Medium, ClusterWide,
        "Shortest time between two assignments of this streams group";
    "streams.heartbeat.interval.ms": Int = Some("5000"), at_least(1), Medium, ClusterWide,
        "Heartbeat interval that members of this streams group are told";
    "streams.initial.rebalance.delay.ms": Int = Some("3000"), at_least(0), Medium, ClusterWide,
        "Time this streams group waits for more members when it is empty";
    "streams.num.standby.replicas": Int = Some("0"), at_least(0), Medium, ClusterWide,
        "Standby replicas of each task of this streams group";
    "streams.session.timeout.ms": Int = Some("45000"), at_least(1), Medium, ClusterWide,
        "Time without a heartbeat after which a member of this streams group is out";
}

definitions! {
    CLIENT_METRICS:
    "interval.ms": Int = Some("300000"), Between(100, 3_600_000), Medium, ClusterWide,
        "Time between two pushes of metrics by a client";
    "match": List = Some(""), Any, Medium, ClusterWide,
        "Which clients are asked, as KEY=PATTERN,…";
    "metrics": List = Some(""), Any, Medium, ClusterWide,
        "Prefixes of the metrics that are asked for; * for all";
}
