//! What DescribeConfigs answers, and what `ottla config` shows.

use super::definition::{Definition, Scope, ValueType};
use super::keys::{definition, definitions};
use super::layers::{BrokerLayers, Found, Layer, Source, TopicLayers};
use super::value::Value;

/// A key of a resource with its value and everything known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub name: String,
    /// The value as text; `None` where it is unset or must not be shown.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
    /// Whether it cannot be changed at run time.
    pub is_read_only: bool,
    /// Whether its value must not be shown.
    pub is_sensitive: bool,
    /// Every value that is set for the key, the winning one first.
    pub synonyms: Vec<Synonym>,
    /// The type of the value.
    pub value_type: ValueType,
    /// One paragraph for people.
    pub documentation: String,
}

/// One of the values that compete for a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Synonym {
    /// The key under which it is set.
    pub name: String,
    /// The value as text; `None` where it must not be shown.
    pub value: Option<String>,
    /// Where it is set.
    pub source: Source,
}

/// Every key of a topic.
pub fn describe_topic(layers: TopicLayers<'_>) -> Vec<Entry> {
    public(Scope::Topic).map(|key| entry(key, layers.all(key))).collect()
}

/// Every key of a broker, and those of single listeners, and internal ones, that are set: what is in
/// force must be seen, a throttle above all.
pub fn describe_broker(layers: BrokerLayers<'_>) -> Vec<Entry> {
    let describe = |key: &'static Definition| {
        let found = layers.candidates(key, 1);
        let is_set = found.iter().any(|one| one.source != Source::Default);
        (is_set || !key.internal).then(|| entry(key, found))
    };
    let mut entries: Vec<Entry> = definitions(Scope::Broker).filter_map(describe).collect();
    let set = [
        (layers.broker, Source::Broker),
        (layers.cluster_default, Source::ClusterDefault),
        (layers.file, Source::Static),
    ];
    for (layer, source) in set {
        for name in layer.names().filter(|name| name.starts_with("listener.name.")) {
            let is_new = entries.iter().all(|one| one.name != name);
            if let Some(one) = set_entry(layer, Scope::Broker, name, source).filter(|_| is_new) {
                entries.push(one);
            }
        }
    }
    entries
}

/// What is set at run time for all brokers, and nothing else.
pub fn describe_cluster_default(layer: &dyn Layer) -> Vec<Entry> {
    let names = layer.names();
    names.filter_map(|name| set_entry(layer, Scope::Broker, name, Source::ClusterDefault)).collect()
}

/// Every key of a group. Where the group sets nothing, its broker's `group.` key counts.
pub fn describe_group(group: &dyn Layer, brokers: BrokerLayers<'_>) -> Vec<Entry> {
    let describe = |key: &'static Definition| {
        let broker_key = definition(Scope::Broker, &format!("group.{}", key.name));
        let inherited = broker_key.map(|one| brokers.candidates(one, 1)).unwrap_or_default();
        let own = own_value(group, key, Source::Group);
        entry(key, own.into_iter().chain(inherited).collect())
    };
    public(Scope::Group).map(describe).collect()
}

/// Every key of a subscription to the metrics of clients.
pub fn describe_client_metrics(layer: &dyn Layer) -> Vec<Entry> {
    let describe = |key: &'static Definition| {
        let own = own_value(layer, key, Source::ClientMetrics);
        let default = key.default_value().map(|value| Found {
            name: key.name,
            value: Some(value),
            source: Source::Default,
        });
        entry(key, own.into_iter().chain(default).collect())
    };
    public(Scope::ClientMetrics).map(describe).collect()
}

fn public(scope: Scope) -> impl Iterator<Item = &'static Definition> {
    definitions(scope).filter(|key| !key.internal)
}

fn own_value(layer: &dyn Layer, key: &'static Definition, source: Source) -> Option<Found> {
    let value = key.parse(layer.value(key.name)?).ok()?;
    Some(Found { name: key.name, value: Some(value), source })
}

/// A key that is set in one layer, described by that layer alone.
fn set_entry(layer: &dyn Layer, scope: Scope, name: &str, source: Source) -> Option<Entry> {
    let key = definition(scope, name)?;
    let value = key.parse(layer.value(name)?).ok();
    let mut one = entry(key, vec![Found { name: key.name, value, source }]);
    name.clone_into(&mut one.name);
    for synonym in &mut one.synonyms {
        name.clone_into(&mut synonym.name);
    }
    Some(one)
}

fn entry(key: &'static Definition, found: Vec<Found>) -> Entry {
    let is_sensitive = key.is_sensitive();
    let text =
        |value: &Option<Value>| value.as_ref().filter(|_| !is_sensitive).map(ToString::to_string);
    let winner = found.first();
    Entry {
        name: key.name.to_owned(),
        value: match winner {
            Some(winner) => text(&winner.value),
            None => text(&key.default_value()),
        },
        source: winner.map_or(Source::Default, |winner| winner.source),
        is_read_only: key.is_read_only(),
        is_sensitive,
        synonyms: found
            .iter()
            .map(|one| Synonym {
                name: one.name.to_owned(),
                value: text(&one.value),
                source: one.source,
            })
            .collect(),
        value_type: key.value_type,
        documentation: key.explanation(),
    }
}
