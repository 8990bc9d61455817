//! Changes at run time: what AlterConfigs, IncrementalAlterConfigs and CreateTopics may set.
//!
//! Pure: takes what is set now and what is asked for, returns the changes to record or why not.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;

use super::definition::{Definition, Scope, UpdateMode};
use super::keys::{definition, nearest};
use super::layers::{BrokerLayers, Layer, TopicLayers};
use super::topic::TopicConfig;
use super::value::{InvalidReason, Value};

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Give it this value.
    Set,
    /// Take away what is set, so that the next layer shows through.
    Delete,
    /// Add elements to a list.
    Append,
    /// Remove elements from a list.
    Subtract,
}

impl Operation {
    /// The operation of this number in an IncrementalAlterConfigs request.
    pub const fn from_wire(number: i8) -> Option<Self> {
        match number {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }
}

/// A change to one key, as asked for.
#[derive(Clone, Copy, Debug)]
pub struct Alteration<'a> {
    /// The key.
    pub name: &'a str,
    /// What to do with it.
    pub operation: Operation,
    /// The value; not looked at for `Delete`.
    pub value: Option<&'a str>,
}

/// What the keys are set on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A topic.
    Topic,
    /// One broker.
    Broker,
    /// All brokers.
    ClusterDefault,
    /// A group.
    Group,
    /// A subscription to the metrics of clients.
    ClientMetrics,
}

impl Target {
    /// The set of keys that it has.
    pub const fn scope(self) -> Scope {
        match self {
            Self::Topic => Scope::Topic,
            Self::Broker | Self::ClusterDefault => Scope::Broker,
            Self::Group => Scope::Group,
            Self::ClientMetrics => Scope::ClientMetrics,
        }
    }
}

/// A change to record: the new text of a key, or that it is no longer set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub name: String,
    /// The text; `None` takes it away.
    pub value: Option<String>,
}

/// Why a change is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AlterError {
    /// No such key.
    #[error("unknown key {name}{}", .nearest.map(|one| format!("; did you mean {one}?")).unwrap_or_default())]
    UnknownKey {
        /// The name.
        name: String,
        /// A name that may have been meant.
        nearest: Option<&'static str>,
    },
    /// Not a value of the key.
    #[error("invalid value {value} for {name}: {reason}")]
    InvalidValue {
        /// The key.
        name: String,
        /// The text, hidden for sensitive keys.
        value: String,
        /// Why not.
        reason: InvalidReason,
    },
    /// A value is needed.
    #[error("null value not supported for {name}")]
    NoValue {
        /// The key.
        name: String,
    },
    /// The key came twice in one request.
    #[error("{name} is there twice")]
    Duplicate {
        /// The key.
        name: String,
    },
    /// Elements can only be added to and removed from lists.
    #[error("cannot append to or subtract from {name}: it is no list")]
    NotAList {
        /// The key.
        name: String,
    },
    /// Only the node's file can set it.
    #[error("{name} cannot be changed while the node runs; set it in the file and restart")]
    ReadOnly {
        /// The key.
        name: String,
    },
    /// It cannot be set for all brokers at once.
    #[error("{name} can only be set for one broker; name its id")]
    OneBrokerOnly {
        /// The key.
        name: String,
    },
    /// Two keys contradict each other.
    #[error("{lower} ({low}) must not be greater than {upper} ({high})")]
    Conflict {
        /// The key that must be the lower one.
        lower: &'static str,
        /// Its value.
        low: i64,
        /// The key that must be the greater one.
        upper: &'static str,
        /// Its value.
        high: i64,
    },
    /// Tiered storage is asked for, and there is none.
    #[error("remote.storage.enable needs tiered storage, which this cluster does not have")]
    NoRemoteStorage,
}

impl AlterError {
    /// The error code that goes to the client. As in Kafka, what is wrong with a broker's key is an
    /// invalid request, and what is wrong with any other is an invalid configuration.
    pub const fn response_error(&self, target: Target) -> ResponseError {
        match (self, target) {
            (Self::NoValue { .. } | Self::Duplicate { .. }, _) => ResponseError::InvalidRequest,
            (Self::NotAList { .. }, _) => ResponseError::InvalidConfig,
            (_, Target::Broker | Target::ClusterDefault) => ResponseError::InvalidRequest,
            _ => ResponseError::InvalidConfig,
        }
    }
}

/// The changes that an IncrementalAlterConfigs request makes to what is set on a target. Keys that
/// would not change are left out.
///
/// `brokers` is what topics inherit; it matters where two keys are checked against each other.
pub fn incremental(
    target: Target,
    current: &dyn Layer,
    brokers: BrokerLayers<'_>,
    alterations: &[Alteration<'_>],
) -> Result<Vec<Change>, AlterError> {
    refuse_duplicates(alterations)?;
    let mut changes = Vec::new();
    for one in alterations {
        if one.operation != Operation::Delete && one.value.is_none() {
            return Err(AlterError::NoValue { name: one.name.to_owned() });
        }
        let value = match (one.operation, one.value) {
            // A key that is unknown (any more) can still be taken away.
            (Operation::Delete, _) | (_, None) => None,
            (Operation::Set, Some(text)) => {
                known(target, one.name)?;
                Some(text.to_owned())
            }
            (operation, Some(text)) => Some(edit_list(target, current, one.name, operation, text)?),
        };
        if let Some(text) = &value {
            validate(target, one.name, text)?;
        } else if let Some(key) = definition(target.scope(), one.name) {
            check_update_mode(target, key, one.name)?;
        }
        if value.as_deref() != current.value(one.name) {
            changes.push(Change { name: one.name.to_owned(), value });
        }
    }
    check_together(target, current, brokers, &changes)?;
    Ok(changes)
}

/// The changes that an AlterConfigs request makes: what it does not name is taken away.
pub fn replace(
    target: Target,
    current: &dyn Layer,
    brokers: BrokerLayers<'_>,
    values: &[(&str, Option<&str>)],
) -> Result<Vec<Change>, AlterError> {
    let named: BTreeSet<&str> = values.iter().map(|(name, _)| *name).collect();
    let gone = current.names().filter(|name| !named.contains(name));
    let gone = gone.map(|name| Alteration { name, operation: Operation::Delete, value: None });
    let set = values.iter().map(|(name, value)| Alteration {
        name,
        operation: Operation::Set,
        value: *value,
    });
    incremental(target, current, brokers, &set.chain(gone).collect::<Vec<_>>())
}

/// Validates the settings of a topic that is about to be created.
pub fn new_topic(
    brokers: BrokerLayers<'_>,
    values: &[(&str, Option<&str>)],
) -> Result<BTreeMap<String, String>, AlterError> {
    let changes = replace(Target::Topic, &(), brokers, values)?;
    Ok(changes.into_iter().filter_map(|one| Some((one.name, one.value?))).collect())
}

fn refuse_duplicates(alterations: &[Alteration<'_>]) -> Result<(), AlterError> {
    let mut seen = BTreeSet::new();
    for one in alterations {
        if !seen.insert(one.name) {
            return Err(AlterError::Duplicate { name: one.name.to_owned() });
        }
    }
    Ok(())
}

fn known(target: Target, name: &str) -> Result<&'static Definition, AlterError> {
    definition(target.scope(), name).ok_or_else(|| AlterError::UnknownKey {
        name: name.to_owned(),
        nearest: nearest(target.scope(), name),
    })
}

fn validate(target: Target, name: &str, text: &str) -> Result<(), AlterError> {
    let key = known(target, name)?;
    check_update_mode(target, key, name)?;
    key.parse(text).map(drop).map_err(|reason| AlterError::InvalidValue {
        name: name.to_owned(),
        value: if key.is_sensitive() { "[hidden]".to_owned() } else { text.to_owned() },
        reason,
    })
}

fn check_update_mode(target: Target, key: &Definition, name: &str) -> Result<(), AlterError> {
    // A key of one listener belongs to the one broker that has the listener.
    let of_listener = name != key.name;
    match (target, key.update_mode) {
        (Target::Broker | Target::ClusterDefault, UpdateMode::ReadOnly) => {
            Err(AlterError::ReadOnly { name: name.to_owned() })
        }
        (Target::ClusterDefault, mode) if mode == UpdateMode::PerBroker || of_listener => {
            Err(AlterError::OneBrokerOnly { name: name.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Adds elements to a list, or removes them. Where the target has no value, the default of the
/// table is what is edited, as in Kafka, and not what another layer sets.
fn edit_list(
    target: Target,
    current: &dyn Layer,
    name: &str,
    operation: Operation,
    text: &str,
) -> Result<String, AlterError> {
    let key = known(target, name)?;
    let parse = |text: &str| match Value::parse(key.value_type, text) {
        Ok(Value::List(list)) => Ok(list),
        _ => Err(AlterError::NotAList { name: name.to_owned() }),
    };
    let mut list = parse(current.value(name).or(key.default).unwrap_or_default())?;
    for element in parse(text)? {
        match operation {
            Operation::Append if !list.contains(&element) => list.push(element),
            Operation::Subtract => list.retain(|one| *one != element),
            _ => {}
        }
    }
    Ok(list.join(","))
}

/// What is set on a target once changes are made.
struct Changed<'a> {
    before: &'a dyn Layer,
    changes: &'a [Change],
}

impl Layer for Changed<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        match self.changes.iter().find(|one| one.name == name) {
            Some(change) => change.value.as_deref(),
            None => self.before.value(name),
        }
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        let old = self.before.names().filter(|name| self.value(name).is_some());
        let new = self.changes.iter().map(|one| one.name.as_str());
        let new = new.filter(|name| self.before.value(name).is_none());
        Box::new(old.chain(new.filter(|name| self.value(name).is_some())))
    }
}

fn check_together(
    target: Target,
    current: &dyn Layer,
    brokers: BrokerLayers<'_>,
    changes: &[Change],
) -> Result<(), AlterError> {
    let after = Changed { before: current, changes };
    let layers = match target {
        Target::Topic => TopicLayers { topic: &after, broker: brokers },
        Target::Broker => {
            TopicLayers { topic: &(), broker: BrokerLayers { broker: &after, ..brokers } }
        }
        Target::ClusterDefault => {
            TopicLayers { topic: &(), broker: BrokerLayers { cluster_default: &after, ..brokers } }
        }
        Target::Group | Target::ClientMetrics => return Ok(()),
    };
    if layers.find("remote.storage.enable").value == Some(Value::Boolean(true)) {
        return Err(AlterError::NoRemoteStorage);
    }
    check_lags(&TopicConfig::resolve(layers))
}

/// Checks the keys of a topic against each other.
pub(super) fn check_lags(config: &TopicConfig) -> Result<(), AlterError> {
    let (low, high) = (config.min_compaction_lag_ms, config.max_compaction_lag_ms);
    if low <= high {
        return Ok(());
    }
    let (lower, upper) = ("min.compaction.lag.ms", "max.compaction.lag.ms");
    Err(AlterError::Conflict { lower, low, upper, high })
}
