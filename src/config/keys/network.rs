//! Broker keys of listeners, connections and requests.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, List};
use crate::config::validator::at_least;

definitions! {
    NETWORK:
    "advertised.listeners": List = None, List { may_be_empty: false }, High, ReadOnly,
        "Addresses handed to clients; those of listeners where unset";
    "connections.max.idle.ms": Long = Some("600000"), Any, Medium, ReadOnly,
        "Close a client connection after this time without a request";
    "fetch.max.bytes": Int = Some("57671680"), at_least(1024), Medium, ReadOnly,
        "Most bytes that one fetch returns, whatever the client asks for";
    "inter.broker.listener.name": String = None, Any, Medium, ReadOnly,
        "Name of the listener that brokers use among themselves";
    "listener.security.protocol.map": String = Some("SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT"),
        Any, Low, PerBroker,
        "Which security protocol each listener name stands for, as NAME:PROTOCOL,…";
    "listeners": List = Some("PLAINTEXT://:9092"), List { may_be_empty: false }, High, PerBroker,
        "Addresses that the node listens on for clients, as NAME://HOST:PORT,…";
    "max.connection.creation.rate": Int = Some("2147483647"), at_least(0), Medium, ClusterWide,
        "Most new connections a second";
    "max.connections": Int = Some("2147483647"), at_least(0), Medium, ClusterWide,
        "Most connections of clients at once";
    "max.connections.per.ip": Int = Some("2147483647"), at_least(0), Medium, ClusterWide,
        "Most connections from one address at once";
    "max.connections.per.ip.overrides": String = Some(""), Any, Medium, ClusterWide,
        "Other limits for single addresses, as ADDRESS:LIMIT,…";
    "max.incremental.fetch.session.cache.slots": Int = Some("1000"), at_least(0), Medium, ReadOnly,
        "Fetch sessions that the node remembers";
    "max.request.partition.size.limit": Int = Some("2000"), at_least(1), Medium, ReadOnly,
        "Most partitions in one DescribeTopicPartitions answer";
    "num.io.threads": Int = Some("8"), at_least(1), High, ClusterWide,
        "Threads that handle requests";
    "num.network.threads": Int = Some("3"), at_least(1), High, ClusterWide,
        "Threads that read requests and write responses, per listener";
    "queued.max.request.bytes": Long = Some("268435456"), Any, Medium, ReadOnly,
        "Memory for requests that are read but not answered; -1 without limit",
        differs "256 MiB instead of no limit: memory is always bounded";
    "queued.max.requests": Int = Some("500"), at_least(1), High, ReadOnly,
        "Requests that may wait before reading pauses";
    "request.timeout.ms": Int = Some("30000"), Any, High, ReadOnly,
        "Longest wait for an answer from another node";
    "socket.connection.setup.timeout.max.ms": Long = Some("30000"), Any, Medium, ReadOnly,
        "Longest wait for a connection to another node after failures";
    "socket.connection.setup.timeout.ms": Long = Some("10000"), Any, Medium, ReadOnly,
        "First wait for a connection to another node";
    "socket.listen.backlog.size": Int = Some("1024"), at_least(1), Medium, ReadOnly,
        "Connections that may wait to be accepted; the system's net.core.somaxconn at most",
        differs "1024 instead of 50, which a burst of clients overflows";
    "socket.receive.buffer.bytes": Int = Some("102400"), Any, High, ReadOnly,
        "Receive buffer of client connections; -1 leaves it to the system";
    "socket.request.max.bytes": Int = Some("104857600"), at_least(1), High, ReadOnly,
        "Largest request that is accepted";
    "socket.send.buffer.bytes": Int = Some("102400"), Any, High, ReadOnly,
        "Send buffer of client connections; -1 leaves it to the system";
}
