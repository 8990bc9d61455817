//! `--throttle` of `topic reassign` and `node decommission`: Kafka's own settings (KIP-73), as
//! `kafka-reassign-partitions` sets them, for the time of a move.
//!
//! Leaders are throttled by all replicas that are there, followers by those that are added, and the
//! rates are those of the brokers that take part. What an operator had set himself is in force
//! again afterwards (`Throttled`), or, where another run of the command began the move and nobody
//! knows any more whose settings they are, taken away only by name (`lift`).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
};

use super::{
    balance::{Cluster, MoveRow},
    failure::Failure,
};
use crate::client::{Client, ConfigChange, ConfigSource, Resource};

const RATES: [&str; 2] =
    ["leader.replication.throttled.rate", "follower.replication.throttled.rate"];
const REPLICAS: [&str; 2] =
    ["leader.replication.throttled.replicas", "follower.replication.throttled.replicas"];
/// Names all replicas of a topic.
const ALL: &str = "*";

/// What a command throttled, and what was there before.
#[derive(Debug, Default)]
pub(super) struct Throttled {
    brokers: BTreeMap<i32, [Option<String>; 2]>,
    topics: BTreeMap<String, [BTreeSet<String>; 2]>,
}

/// Brokers and topics with settings of their own.
#[derive(Debug, Default)]
pub(super) struct Found {
    brokers: Vec<i32>,
    topics: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "brokers {:?} and topics {:?}", self.brokers, self.topics)
    }
}

impl Throttled {
    /// Has these moves take no more than `rate` bytes a second at each node. Before they begin.
    pub(super) async fn set(
        &mut self,
        client: &Client,
        moves: &[MoveRow],
        rate: u64,
    ) -> Result<(), Failure> {
        let mut brokers = BTreeSet::new();
        let mut topics = BTreeMap::<&str, [BTreeSet<String>; 2]>::new();
        for one in moves.iter().filter(|one| !one.copies.is_empty()) {
            let [leaders, followers] = topics.entry(&one.topic).or_default();
            let name = |node: &i32| format!("{}:{node}", one.partition);
            leaders.extend(one.from.iter().map(name));
            followers.extend(one.copies.iter().map(name));
            brokers.extend(one.from.iter().chain(&one.copies).copied());
        }
        for broker in brokers {
            if let Entry::Vacant(before) = self.brokers.entry(broker) {
                before.insert(own(client, &Resource::Broker(broker), &RATES).await?);
            }
            let changes = RATES.map(|key| ConfigChange::Set(key.to_owned(), rate.to_string()));
            client.alter_broker_anywhere(broker, &changes).await?;
        }
        for (topic, lists) in topics {
            self.name_replicas(client, topic, lists).await?;
        }
        Ok(())
    }

    async fn name_replicas(
        &mut self,
        client: &Client,
        topic: &str,
        lists: [BTreeSet<String>; 2],
    ) -> Result<(), Failure> {
        let resource = Resource::Topic(topic.to_owned());
        let before = own(client, &resource, &REPLICAS).await?;
        let named = self.topics.entry(topic.to_owned()).or_default();
        let mut changes = Vec::new();
        for (side, mut list) in lists.into_iter().enumerate() {
            let has = entries(before[side].as_deref());
            list.retain(|entry| !has.contains(entry));
            // Where all are named, nothing can be added.
            if has.contains(ALL) || list.is_empty() {
                continue;
            }
            let text = list.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            changes.push(ConfigChange::Append(REPLICAS[side].to_owned(), text));
            named[side].extend(list);
        }
        if !changes.is_empty() {
            client.alter_configs(&resource, &changes, false).await?;
        }
        Ok(())
    }

    /// Takes away what was set, and has in force again what was before.
    pub(super) async fn restore(&self, client: &Client) -> Result<(), Failure> {
        for (topic, named) in &self.topics {
            let resource = Resource::Topic(topic.clone());
            let now = own(client, &resource, &REPLICAS).await?;
            let changes: Vec<_> = (0..REPLICAS.len())
                .filter_map(|side| without(REPLICAS[side], now[side].as_deref(), &named[side]))
                .collect();
            if !changes.is_empty() {
                client.alter_configs(&resource, &changes, false).await?;
            }
        }
        for (broker, before) in &self.brokers {
            let changes: Vec<_> = RATES
                .iter()
                .zip(before)
                .map(|(key, before)| match before {
                    Some(rate) => ConfigChange::Set((*key).to_owned(), rate.clone()),
                    None => ConfigChange::Unset((*key).to_owned()),
                })
                .collect();
            client.alter_broker_anywhere(*broker, &changes).await?;
        }
        Ok(())
    }
}

/// Takes names from a list that is `now` so.
fn without(key: &str, now: Option<&str>, named: &BTreeSet<String>) -> Option<ConfigChange> {
    let now = entries(now);
    let gone: Vec<&str> = now.iter().filter(|one| named.contains(*one)).map(|s| &**s).collect();
    match gone.len() {
        0 => None,
        all if all == now.len() => Some(ConfigChange::Unset(key.to_owned())),
        _ => Some(ConfigChange::Subtract(key.to_owned(), gone.join(","))),
    }
}

/// The brokers with rates of their own, and the topics that name replicas. None where no broker
/// has any: names alone throttle nothing.
pub(super) async fn find(client: &Client, cluster: &Cluster) -> Result<Option<Found>, Failure> {
    let mut found = Found::default();
    for broker in &cluster.brokers {
        let resource = Resource::Broker(broker.node);
        let is_there = !cluster.is_away(broker.node);
        if is_there && own(client, &resource, &RATES).await?.iter().any(Option::is_some) {
            found.brokers.push(broker.node);
        }
    }
    if found.brokers.is_empty() {
        return Ok(None);
    }
    let topics: BTreeSet<_> = cluster.partitions.iter().map(|one| &one.key.topic).collect();
    for topic in topics {
        let resource = Resource::Topic(topic.to_string());
        if own(client, &resource, &REPLICAS).await?.iter().any(Option::is_some) {
            found.topics.push(topic.to_string());
        }
    }
    Ok(Some(found))
}

/// Takes all of these throttles away.
pub(super) async fn lift(client: &Client, found: &Found) -> Result<(), Failure> {
    for topic in &found.topics {
        let changes = REPLICAS.map(|key| ConfigChange::Unset(key.to_owned()));
        client.alter_configs(&Resource::Topic(topic.clone()), &changes, false).await?;
    }
    // Last, so that a run that was cut off is made up for by the next.
    for broker in &found.brokers {
        let changes = RATES.map(|key| ConfigChange::Unset(key.to_owned()));
        client.alter_broker_anywhere(*broker, &changes).await?;
    }
    Ok(())
}

/// What is set on that very broker or topic.
async fn own(
    client: &Client,
    resource: &Resource,
    keys: &[&str; 2],
) -> Result<[Option<String>; 2], Failure> {
    let names: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let found = client.describe_configs(resource, Some(&names), false).await?;
    let is_own = |source| matches!(source, ConfigSource::Topic | ConfigSource::Broker);
    Ok(keys.map(|key| {
        let entry = found.iter().find(|one| one.name == key && is_own(one.source))?;
        entry.value.clone()
    }))
}

fn entries(list: Option<&str>) -> BTreeSet<String> {
    let all = list.unwrap_or_default().split(',').map(str::trim);
    all.filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_named_for_a_move_is_taken_away() {
        let named = entries(Some("0:1,0:2"));
        let taken = |now| match without("k", now, &named) {
            None => "nothing".to_owned(),
            Some(ConfigChange::Unset(_)) => "all".to_owned(),
            Some(ConfigChange::Subtract(_, list)) => list,
            Some(other) => panic!("{other:?}"),
        };
        assert_eq!(taken(None), "nothing");
        assert_eq!(taken(Some("*")), "nothing");
        assert_eq!(taken(Some("0:1,0:2")), "all");
        assert_eq!(taken(Some("0:1,5:1")), "0:1");
    }
}
