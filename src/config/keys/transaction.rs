//! Broker keys of transactions.

use crate::config::definition::definitions;
use crate::config::validator::Validator::Any;
use crate::config::validator::at_least;

definitions! {
    TRANSACTION:
    "add.partitions.to.txn.retry.backoff.max.ms": Int = Some("100"), at_least(0), High, ReadOnly,
        "Longest time a transactional produce waits for its partition to be added";
    "add.partitions.to.txn.retry.backoff.ms": Int = Some("20"), at_least(1), High, ReadOnly,
        "Pause between attempts to add a partition to a transaction";
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": Int = Some("10000"),
        at_least(1), Low, ReadOnly,
        "Time between two looks for transactions that timed out";
    "transaction.max.timeout.ms": Int = Some("900000"), at_least(1), High, ReadOnly,
        "Largest transaction timeout that a producer may ask for";
    "transaction.partition.verification.enable": Boolean = Some("true"), Any, Low, ClusterWide,
        "Check that a partition is part of the transaction before a write";
    "transaction.remove.expired.transaction.cleanup.interval.ms": Int = Some("3600000"),
        at_least(1), Low, ReadOnly,
        "Time between two looks for expired transactional ids";
    "transaction.state.log.load.buffer.size": Int = Some("5242880"), at_least(1), High, ReadOnly,
        "Bytes read at a time when transactions are loaded";
    "transaction.state.log.min.isr": Int = Some("2"), at_least(1), High, ReadOnly,
        "min.insync.replicas of the transaction topic";
    "transaction.state.log.num.partitions": Int = Some("50"), at_least(1), High, ReadOnly,
        "Partitions of the transaction topic, fixed once it exists";
    "transaction.state.log.replication.factor": Short = Some("3"), at_least(1), High, ReadOnly,
        "Replicas of the transaction topic";
    "transaction.state.log.segment.bytes": Int = Some("104857600"), at_least(1), High, ReadOnly,
        "Size of a segment of the transaction topic";
    "transaction.two.phase.commit.enable": Boolean = Some("false"), Any, Low, ReadOnly,
        "Allow transactions that an outside coordinator decides";
    "transactional.id.expiration.ms": Int = Some("604800000"), at_least(1), High, ReadOnly,
        "Time without use after which a transactional id is forgotten";
}
