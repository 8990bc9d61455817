//! Where a value comes from: the layers of configuration and the order in which they are asked.

use std::collections::BTreeMap;

use super::definition::{Definition, Scope};
use super::keys::{broker_fallbacks, broker_synonyms, definition};
use super::value::Value;

/// The place a value was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Set for this topic.
    Topic,
    /// Set at run time for this broker.
    Broker,
    /// Set at run time for all brokers.
    ClusterDefault,
    /// Set in the node's file.
    Static,
    /// Nobody set it.
    Default,
    /// Set for this subscription to the metrics of clients.
    ClientMetrics,
    /// Set for this group.
    Group,
}

impl Source {
    /// The number of this source in a DescribeConfigs response.
    pub const fn wire(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::Broker => 2,
            Self::ClusterDefault => 3,
            Self::Static => 4,
            Self::Default => 5,
            Self::ClientMetrics => 7,
            Self::Group => 8,
        }
    }
}

/// One layer: what was set in one place, as text. Texts in it are valid, since whatever enters a
/// layer was validated; one that is not (written by a newer release, say) counts as unset.
pub trait Layer {
    /// The text that was set for this key here.
    fn value(&self, name: &str) -> Option<&str>;

    /// The keys that are set here.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;
}

impl Layer for () {
    fn value(&self, _name: &str) -> Option<&str> {
        None
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(std::iter::empty())
    }
}

impl Layer for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.keys().map(String::as_str))
    }
}

impl<L: Layer + ?Sized> Layer for Option<&L> {
    fn value(&self, name: &str) -> Option<&str> {
        self.and_then(|layer| layer.value(name))
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.iter().flat_map(|layer| layer.names()))
    }
}

/// What is set at the levels of a broker, the most specific first.
#[derive(Clone, Copy)]
pub struct BrokerLayers<'a> {
    /// Set at run time for this broker.
    pub broker: &'a dyn Layer,
    /// Set at run time for all brokers.
    pub cluster_default: &'a dyn Layer,
    /// Set in the node's file.
    pub file: &'a dyn Layer,
}

impl BrokerLayers<'static> {
    /// Nothing is set: every key has its default.
    pub const DEFAULTS: Self = Self { broker: &(), cluster_default: &(), file: &() };
}

/// A value and where it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The key under which it was found: the one asked for or one of its synonyms.
    pub name: &'static str,
    /// The value, in the unit of the key that was asked for; `None` for a key that is unset.
    pub value: Option<Value>,
    /// Where.
    pub source: Source,
}

impl BrokerLayers<'_> {
    /// The value of a broker key, its stand-ins asked where it is unset.
    ///
    /// # Panics
    /// If there is no such key.
    pub fn find(&self, name: &str) -> Found {
        let key = broker_key(name);
        first(self.all(key), key)
    }

    /// What is set of a broker key for one listener alone.
    ///
    /// # Panics
    /// If there is no such key.
    pub fn find_for_listener(&self, listener: &str, name: &str) -> Option<Value> {
        let key = broker_key(name);
        let name = format!("listener.name.{}.{name}", listener.to_ascii_lowercase());
        let layers = [self.broker, self.cluster_default, self.file].into_iter();
        let mut set = layers.filter_map(|layer| key.parse(layer.value(&name)?).ok());
        set.next()
    }

    /// The values that a topic may take from its broker, the winning one first.
    pub(super) fn find_for_topic(&self, key: &'static Definition) -> Vec<Found> {
        let synonyms = broker_synonyms(key.name).iter();
        synonyms.flat_map(|(name, factor)| self.candidates(broker_key(name), *factor)).collect()
    }

    /// Every value that is set for a broker key or a stand-in of it, the winning one first.
    pub(super) fn all(&self, key: &'static Definition) -> Vec<Found> {
        let mut all = self.candidates(key, 1);
        for (fallback, factor) in broker_fallbacks(key.name) {
            all.extend(self.candidates(broker_key(fallback), *factor));
        }
        all
    }

    /// Every value that is set for a broker key itself, in the unit that a factor leads to, the
    /// winning one first and the default last.
    pub(super) fn candidates(&self, key: &'static Definition, factor: i64) -> Vec<Found> {
        let set = [
            (self.broker, Source::Broker),
            (self.cluster_default, Source::ClusterDefault),
            (self.file, Source::Static),
        ];
        let set = set.into_iter().filter_map(|(layer, source)| {
            let value = key.parse(layer.value(key.name)?).ok()?;
            Some((value, source))
        });
        set.chain(key.default_value().map(|value| (value, Source::Default)))
            .map(|(value, source)| Found {
                name: key.name,
                value: Some(scale(value, factor)),
                source,
            })
            .collect()
    }
}

/// What is set for a topic, and below it for its broker.
#[derive(Clone, Copy)]
pub struct TopicLayers<'a> {
    /// Set for the topic.
    pub topic: &'a dyn Layer,
    /// Set for the broker, which topics inherit.
    pub broker: BrokerLayers<'a>,
}

impl TopicLayers<'_> {
    /// The value of a topic key.
    ///
    /// # Panics
    /// If there is no such key.
    pub fn find(&self, name: &str) -> Found {
        let key = definition(Scope::Topic, name).expect("callers ask for keys of the table");
        first(self.all(key), key)
    }

    /// Every value that is set for a topic key, the winning one first.
    pub(super) fn all(&self, key: &'static Definition) -> Vec<Found> {
        let own = self.topic.value(key.name).and_then(|text| key.parse(text).ok());
        let own =
            own.map(|value| Found { name: key.name, value: Some(value), source: Source::Topic });
        own.into_iter().chain(self.broker.find_for_topic(key)).collect()
    }
}

fn broker_key(name: &str) -> &'static Definition {
    definition(Scope::Broker, name).expect("callers ask for keys of the table")
}

fn first(candidates: Vec<Found>, key: &'static Definition) -> Found {
    candidates.into_iter().next().unwrap_or_else(|| Found {
        name: key.name,
        value: key.default_value(),
        source: Source::Default,
    })
}

/// Brings a value into the unit of the key that it stands in for. Only hours and minutes have
/// another unit, and -1 hours means what -1 ms means.
fn scale(value: Value, factor: i64) -> Value {
    match value.as_integer() {
        Some(number) if factor != 1 && number >= 0 => Value::Long(number.saturating_mul(factor)),
        Some(number) if factor != 1 => Value::Long(number),
        _ => value,
    }
}
