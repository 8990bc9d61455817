//! Broker keys of the node, its identity and the metadata quorum.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, List, ListOf};
use crate::config::validator::at_least;

definitions! {
    CLUSTER:
    "auto.leader.rebalance.enable": Boolean = Some("true"), Any, High, ReadOnly,
        "Hand leadership back to preferred replicas at intervals";
    "broker.heartbeat.interval.ms": Int = Some("2000"), Any, Medium, ReadOnly,
        "Time between two heartbeats of a broker to the controller";
    "broker.id": Int = Some("-1"), Any, High, ReadOnly,
        "Former name of node.id";
    "broker.rack": String = None, Any, Medium, ReadOnly,
        "Rack of the broker, used to place replicas and to choose a near one for fetches";
    "broker.session.timeout.ms": Int = Some("9000"), Any, Medium, ReadOnly,
        "Time without a heartbeat after which a broker is fenced";
    "controlled.shutdown.enable": Boolean = Some("true"), Any, Medium, ReadOnly,
        "Hand leadership away before the node stops";
    "controller.listener.names": List = Some(""), List { may_be_empty: true }, High, ReadOnly,
        "Names of the listeners that controllers use",
        differs "optional: controllers talk over the cluster plane";
    internal "controller.performance.always.log.threshold.ms": Long = Some("2000"),
        at_least(0), Medium, ReadOnly,
        "Log every controller event that takes longer than this";
    internal "controller.performance.sample.period.ms": Long = Some("60000"),
        at_least(100), Medium, ReadOnly,
        "Time between two summaries of the controller's slowest events";
    "controller.quorum.append.linger.ms": Int = Some("25"), at_least(0), Medium, ReadOnly,
        "Time the quorum's leader collects writes before it flushes them";
    "controller.quorum.auto.join.enable": Boolean = Some("false"), Any, Low, ReadOnly,
        "Let a controller join the quorum's voters by itself";
    "controller.quorum.bootstrap.servers": List = Some(""), Any, High, ReadOnly,
        "Addresses at which the quorum can be found";
    "controller.quorum.election.backoff.max.ms": Int = Some("1000"), at_least(0), High, ReadOnly,
        "Longest pause before another election after a lost one";
    "controller.quorum.election.timeout.ms": Int = Some("1000"), at_least(0), High, ReadOnly,
        "Time a candidate waits for votes before it tries again";
    "controller.quorum.fetch.max.bytes": Int = Some("1048576"), at_least(1), Low, ReadOnly,
        "Largest answer to a fetch of the metadata log";
    "controller.quorum.fetch.snapshot.max.bytes": Int = Some("1048576"), at_least(1), Low, ReadOnly,
        "Largest answer to a fetch of a metadata snapshot";
    "controller.quorum.fetch.timeout.ms": Int = Some("2000"), at_least(0), High, ReadOnly,
        "Time without word from the leader after which an election starts";
    "controller.quorum.request.timeout.ms": Int = Some("2000"), at_least(0), Medium, ReadOnly,
        "Longest wait for the answer to a request between voters";
    "controller.quorum.retry.backoff.ms": Int = Some("20"), at_least(0), Low, ReadOnly,
        "Pause before a failed request between voters is sent again";
    "controller.quorum.voters": List = Some(""), Any, High, ReadOnly,
        "The fixed voters as ID@HOST:PORT,…";
    "controller.quota.window.num": Int = Some("11"), at_least(1), Low, ReadOnly,
        "Samples kept for the quota on controller mutations";
    "controller.quota.window.size.seconds": Int = Some("1"), at_least(1), Low, ReadOnly,
        "Length of a sample for the quota on controller mutations";
    "controller.socket.timeout.ms": Int = Some("30000"), Any, Medium, ReadOnly,
        "Longest wait on a connection to a controller";
    "early.start.listeners": List = None, List { may_be_empty: true }, High, ReadOnly,
        "Listeners that open before authorization is ready";
    "initial.broker.registration.timeout.ms": Int = Some("60000"), Any, Medium, ReadOnly,
        "Longest wait for the first registration before the node gives up";
    internal "internal.metadata.delete.delay.millis": Long = Some("60000"), Any, Low, ReadOnly,
        "Time a metadata segment stays on disk after it was given up";
    internal "internal.metadata.log.segment.bytes": Int = None, Any, Low, ReadOnly,
        "Size of a metadata segment, for tests";
    internal "internal.metadata.max.batch.size.in.bytes": Int = Some("8388608"), Any, Low, ReadOnly,
        "Largest batch of the metadata log";
    "leader.imbalance.check.interval.seconds": Long = Some("300"), at_least(1), High, ReadOnly,
        "Time between two looks for leaders that are not the preferred ones";
    "metadata.log.dir": String = None, Any, High, ReadOnly,
        "Directory for the metadata log; the first of log.dirs where unset";
    "metadata.log.max.record.bytes.between.snapshots": Long = Some("20971520"),
        at_least(1), High, ReadOnly,
        "Metadata bytes after which a snapshot is made";
    "metadata.log.max.snapshot.interval.ms": Long = Some("3600000"), at_least(0), High, ReadOnly,
        "Time after which a metadata snapshot is made if anything changed";
    "metadata.log.segment.bytes": Int = Some("1073741824"), at_least(8_388_608), High, ReadOnly,
        "Size of a segment of the metadata log";
    "metadata.log.segment.ms": Long = Some("604800000"), Any, High, ReadOnly,
        "Time until a new segment of the metadata log is begun";
    "metadata.max.idle.interval.ms": Int = Some("500"), at_least(0), Low, ReadOnly,
        "Time between empty records of an idle metadata log; 0 for none";
    "metadata.max.retention.bytes": Long = Some("104857600"), Any, High, ReadOnly,
        "Size of the metadata log and snapshots that are kept";
    "metadata.max.retention.ms": Long = Some("604800000"), Any, High, ReadOnly,
        "Time that the metadata log and snapshots are kept";
    "node.id": Int = None, at_least(0), High, ReadOnly,
        "Number of this node, unique in the cluster";
    "process.roles": List = Some("broker,controller"),
        ListOf { allowed: &["broker", "controller"], may_be_empty: false }, High, ReadOnly,
        "What this process is: broker, controller or both",
        differs "optional, and every node is both";
    internal "server.max.startup.time.ms": Long = Some("9223372036854775807"),
        at_least(0), Medium, ReadOnly,
        "Longest time that a start may take";
    internal "unstable.api.versions.enable": Boolean = Some("false"), Any, High, ReadOnly,
        "Offer versions of APIs that are not final";
    internal "unstable.feature.versions.enable": Boolean = Some("false"), Any, High, ReadOnly,
        "Offer versions of features that are not final";
}
