//! The tables of keys, one file per area, and the look-up by name.
//!
//! Names, types, defaults and validators are those of Kafka 4.3.1 (`KafkaConfig`, `LogConfig`,
//! `GroupConfig`, `ClientMetricsConfigs`), read from the running broker; the words are Ottla's.

mod cluster;
mod group;
mod log;
mod network;
mod oauth;
mod other;
mod ottla;
mod remote;
mod replication;
mod resource;
mod security;
mod share;
mod topic;
mod transaction;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::definition::{Definition, Scope};

type Index = BTreeMap<&'static str, &'static Definition>;

static BROKER: LazyLock<Index> = LazyLock::new(|| {
    index(&[
        cluster::CLUSTER,
        group::GROUP,
        log::LOG,
        network::NETWORK,
        oauth::OAUTH,
        ottla::OTTLA,
        other::OTHER,
        remote::REMOTE,
        replication::REPLICATION,
        security::SECURITY,
        share::SHARE,
        transaction::TRANSACTION,
    ])
});
static TOPIC: LazyLock<Index> = LazyLock::new(|| index(&[topic::TOPIC]));
static GROUP: LazyLock<Index> = LazyLock::new(|| index(&[resource::GROUP_RESOURCE]));
static CLIENT_METRICS: LazyLock<Index> = LazyLock::new(|| index(&[resource::CLIENT_METRICS]));

fn index(tables: &[&'static [Definition]]) -> Index {
    tables.iter().copied().flatten().map(|one| (one.name, one)).collect()
}

fn of(scope: Scope) -> &'static Index {
    match scope {
        Scope::Topic => &TOPIC,
        Scope::Broker => &BROKER,
        Scope::Group => &GROUP,
        Scope::ClientMetrics => &CLIENT_METRICS,
    }
}

/// Every key of a kind of resource, in the order of their names, internal ones included.
pub fn definitions(scope: Scope) -> impl Iterator<Item = &'static Definition> {
    of(scope).values().copied()
}

/// The key of this name. A broker key may carry a listener's prefix,
/// `listener.name.LISTENER.[MECHANISM.]KEY`.
pub fn definition(scope: Scope, name: &str) -> Option<&'static Definition> {
    let exact = of(scope).get(name).copied();
    if exact.is_some() || scope != Scope::Broker {
        return exact;
    }
    let (_listener, key) = name.strip_prefix("listener.name.")?.split_once('.')?;
    let plain = of(scope).get(key).copied().filter(|one| may_be_of_one_listener(one.name));
    plain.or_else(|| {
        let (_mechanism, key) = key.split_once('.')?;
        of(scope).get(key).copied().filter(|one| one.name.starts_with("sasl."))
    })
}

fn may_be_of_one_listener(name: &str) -> bool {
    const OTHERS: [&str; 7] = [
        "connections.max.reauth.ms",
        "max.connection.creation.rate",
        "max.connections",
        "num.network.threads",
        "principal.builder.class",
        "socket.receive.buffer.bytes",
        "socket.send.buffer.bytes",
    ];
    name.starts_with("ssl.") || name.starts_with("sasl.") || OTHERS.contains(&name)
}

/// The valid name that is most like this one, if any is alike enough to be what was meant.
pub fn nearest(scope: Scope, name: &str) -> Option<&'static str> {
    let score = |candidate: &str| strsim::normalized_damerau_levenshtein(name, candidate);
    of(scope)
        .values()
        .filter(|one| !one.internal)
        .map(|one| (score(one.name), one.name))
        .filter(|(score, _)| *score > 0.6)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

/// The broker keys whose value a topic takes where it has none of its own, the first that is set
/// winning, and by how much a value must be multiplied to be in the unit of the topic's key.
pub fn broker_synonyms(topic_key: &str) -> &'static [(&'static str, i64)] {
    const MINUTE_MS: i64 = 60_000;
    const HOUR_MS: i64 = 60 * MINUTE_MS;
    match topic_key {
        "cleanup.policy" => &[("log.cleanup.policy", 1)],
        "compression.gzip.level" => &[("compression.gzip.level", 1)],
        "compression.lz4.level" => &[("compression.lz4.level", 1)],
        "compression.type" => &[("compression.type", 1)],
        "compression.zstd.level" => &[("compression.zstd.level", 1)],
        "delete.retention.ms" => &[("log.cleaner.delete.retention.ms", 1)],
        "file.delete.delay.ms" => &[("log.segment.delete.delay.ms", 1)],
        "flush.messages" => &[("log.flush.interval.messages", 1)],
        "flush.ms" => &[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)],
        "index.interval.bytes" => &[("log.index.interval.bytes", 1)],
        "local.retention.bytes" => &[("log.local.retention.bytes", 1)],
        "local.retention.ms" => &[("log.local.retention.ms", 1)],
        "max.compaction.lag.ms" => &[("log.cleaner.max.compaction.lag.ms", 1)],
        "max.message.bytes" => &[("message.max.bytes", 1)],
        "message.timestamp.after.max.ms" => &[("log.message.timestamp.after.max.ms", 1)],
        "message.timestamp.before.max.ms" => &[("log.message.timestamp.before.max.ms", 1)],
        "message.timestamp.type" => &[("log.message.timestamp.type", 1)],
        "min.cleanable.dirty.ratio" => &[("log.cleaner.min.cleanable.ratio", 1)],
        "min.compaction.lag.ms" => &[("log.cleaner.min.compaction.lag.ms", 1)],
        "min.insync.replicas" => &[("min.insync.replicas", 1)],
        "preallocate" => &[("log.preallocate", 1)],
        "retention.bytes" => &[("log.retention.bytes", 1)],
        "retention.ms" => &[
            ("log.retention.ms", 1),
            ("log.retention.minutes", MINUTE_MS),
            ("log.retention.hours", HOUR_MS),
        ],
        "segment.bytes" => &[("log.segment.bytes", 1)],
        "segment.index.bytes" => &[("log.index.size.max.bytes", 1)],
        "segment.jitter.ms" => &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_MS)],
        "segment.ms" => &[("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)],
        "unclean.leader.election.enable" => &[("unclean.leader.election.enable", 1)],
        _ => &[],
    }
}

/// The broker keys that stand in for another broker key where that is unset, with the factor
/// between their units.
pub(super) fn broker_fallbacks(broker_key: &str) -> &'static [(&'static str, i64)] {
    match broker_key {
        "advertised.listeners" => &[("listeners", 1)],
        "log.dirs" => &[("log.dir", 1)],
        "log.flush.interval.ms" => &broker_synonyms("flush.ms")[1..],
        "log.retention.ms" => &broker_synonyms("retention.ms")[1..],
        "log.roll.ms" => &broker_synonyms("segment.ms")[1..],
        "log.roll.jitter.ms" => &broker_synonyms("segment.jitter.ms")[1..],
        "node.id" => &[("broker.id", 1)],
        _ => &[],
    }
}
