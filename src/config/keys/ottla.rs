//! Ottla's own keys, which Kafka does not have. They live beside Kafka's under `ottla.`.

use crate::config::definition::definitions;
use crate::config::validator::{
    Validator::{Any, Endpoints, OneOf},
    at_least,
};

definitions! {
    OTTLA:
    "ottla.balancer.check.interval.seconds": Int = Some("30"), at_least(1), Medium, ClusterWide,
        "How often the controller looks for replicas and leaders that are unevenly spread";
    "ottla.balancer.concurrent.moves": Int = Some("5"), at_least(1), High, ClusterWide,
        "How many partitions the balancer moves at a time; an exchange between two brokers takes two";
    "ottla.balancer.enable": Boolean = Some("true"), Any, High, ClusterWide,
        "Spread replicas and leaders evenly over the brokers and racks, all the time";
    "ottla.balancer.throttle.bytes.per.second": Long = Some("52428800"),
        at_least(0), High, ClusterWide,
        "Most bytes a second that a node sends, and takes, for what the balancer moves; 0 for no limit";
    "ottla.broker.drain": Boolean = Some("false"), Any, High, PerBroker,
        "This broker shall hold nothing: it gets no new replicas; `ottla node decommission` sets it";
    "ottla.broker.replacement.grace.ms": Long = Some("-1"), at_least(-1), Medium, ClusterWide,
        "How long a broker or a log directory is away before the balancer begins its replicas anew on other brokers; -1 for never";
    "ottla.cluster.advertised.listener": String = None, Any, High, ReadOnly,
        "Address at which other nodes reach this one, as HOST:PORT; the listener where unset";
    "ottla.cluster.listener": String = Some("0.0.0.0:9192"), Any, High, ReadOnly,
        "Address of the cluster plane (QUIC, UDP), as HOST:PORT";
    "ottla.cluster.idle.timeout.ms": Int = Some("3000"), at_least(100), Medium, ReadOnly,
        "After how long without a sign of life a connection to another node is given up";
    "ottla.cluster.keep.alive.ms": Int = Some("500"), at_least(10), Medium, ReadOnly,
        "How often a silent connection to another node shows that it is alive";
    "ottla.cluster.suspicion.timeout.ms": Int = Some("500"), at_least(0), Medium, ReadOnly,
        "After what silence the quorum's leader has a broker fenced; 0 waits for its session to end";
    "ottla.cluster.tls.ca": String = None, Any, High, ReadOnly,
        "File of the certificates (PEM) that sign those of the cluster's nodes";
    "ottla.cluster.tls.cert": String = None, Any, High, ReadOnly,
        "File of this node's certificate (PEM); `ottla cert node` makes one";
    "ottla.cluster.tls.key": String = None, Any, High, ReadOnly,
        "File of this node's private key (PEM)";
    "ottla.http.listener": String = Some("127.0.0.1:9644"), Any, High, ReadOnly,
        "Address of health, readiness and metrics, as HOST:PORT; empty for none";
    "ottla.log.dir.replacement.grace.ms": Long = Some("600000"), at_least(-1), Medium, ClusterWide,
        "How long after a log directory failed its replicas begin anew in another one; -1 for never";
    "ottla.log.format": String = Some("text"), OneOf(&["text", "json"]), Medium, ReadOnly,
        "Form of the node's own log";
    "ottla.log.level": String = Some("info"), Any, Medium, ReadOnly,
        "Level of the node's own log, or directives such as info,ottla::quorum=debug";
    "ottla.quorum.voters.target": Int = Some("0"), at_least(0), Medium, ReadOnly,
        "How many voters the quorum's leader sees to by promoting learners; 0 leaves it to operators";
    "ottla.seeds": List = Some(""), Endpoints, High, ReadOnly,
        "Cluster addresses of nodes to join, as HOST:PORT,…";
}
