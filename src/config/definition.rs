//! What a configuration key is: name, type, default, validation, importance, where it may be
//! changed, and one line for people.

use std::fmt;

use super::broker::BrokerConfig;
use super::keys::broker_synonyms;
use super::node::NodeConfig;
use super::topic::TopicConfig;
use super::validator::Validator;
use super::value::{InvalidReason, Value};

/// The type of a key's value, as DescribeConfigs names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// `true` or `false`.
    Boolean,
    /// Any text.
    String,
    /// 32 bits, signed.
    Int,
    /// 16 bits, signed.
    Short,
    /// 64 bits, signed.
    Long,
    /// A floating-point number.
    Double,
    /// Values parted by commas.
    List,
    /// The name of a Java class.
    Class,
    /// A text that is never shown.
    Password,
}

impl ValueType {
    /// The number of this type in a DescribeConfigs response.
    pub const fn wire(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
            Self::Class => 8,
            Self::Password => 9,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Int => "int",
            Self::Short => "short",
            Self::Long => "long",
            Self::Double => "double",
            Self::List => "list",
            Self::Class => "class",
            Self::Password => "password",
        })
    }
}

/// How much a key matters to somebody who reads the list for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// Worth knowing for every operator.
    High,
    /// Worth knowing for some loads.
    Medium,
    /// Seldom changed.
    Low,
}

/// Where a broker key may be changed while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateMode {
    /// In the file only; takes effect at the next start.
    ReadOnly,
    /// For one broker by its id.
    PerBroker,
    /// For one broker, or for all of them at once.
    ClusterWide,
}

/// The kind of resource that a set of keys belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A topic.
    Topic,
    /// A broker, or the default of all brokers.
    Broker,
    /// A consumer, share or streams group.
    Group,
    /// A subscription to the metrics of clients.
    ClientMetrics,
}

/// A key with everything that is known about it before anybody sets it.
#[derive(Debug)]
pub struct Definition {
    /// The full name, such as `log.retention.ms`.
    pub name: &'static str,
    /// The type of the value.
    pub value_type: ValueType,
    /// The default as text. `None` means unset, which some keys have as their default.
    pub default: Option<&'static str>,
    /// What a value must satisfy beyond its type.
    pub validator: Validator,
    /// How much the key matters.
    pub importance: Importance,
    /// Where it may be changed at run time. Topic and group keys always may.
    pub update_mode: UpdateMode,
    /// One line for people.
    pub documentation: &'static str,
    /// Whether it is accepted but not listed, as those that Kafka keeps for its own tests.
    pub internal: bool,
    /// How Ottla differs from Kafka at this key; `None` where it does not.
    pub deviation: Option<&'static str>,
}

impl Definition {
    /// Whether the value must never be shown or logged.
    pub fn is_sensitive(&self) -> bool {
        self.value_type == ValueType::Password
    }

    /// Whether only the node's file can set it.
    pub fn is_read_only(&self) -> bool {
        self.update_mode == UpdateMode::ReadOnly
    }

    /// Whether anything in this release reads the key. Others are accepted, kept and shown, so that
    /// tools and files written for Kafka work, but change nothing.
    pub fn has_effect(&self) -> bool {
        let of_topics = |name: &str| {
            let mut synonyms = TopicConfig::KEYS.iter().flat_map(|key| broker_synonyms(key));
            TopicConfig::KEYS.contains(&name) || synonyms.any(|(synonym, _)| *synonym == name)
        };
        BrokerConfig::KEYS.contains(&self.name)
            || NodeConfig::KEYS.contains(&self.name)
            || of_topics(self.name)
    }

    /// Everything worth saying about the key in one text: what it is, what it accepts, how Ottla
    /// differs from Kafka, and whether it has an effect.
    pub fn explanation(&self) -> String {
        let mut text = format!("{}.", self.documentation);
        if let Some(accepted) = self.validator.describe() {
            text += &format!(" Valid values: {accepted}.");
        }
        if let Some(deviation) = self.deviation {
            text += &format!(" Differs from Kafka: {deviation}.");
        }
        if !self.has_effect() {
            text += " Accepted for compatibility; Ottla does not use it.";
        }
        text
    }

    /// Parses and validates the text of a value.
    pub fn parse(&self, text: &str) -> Result<Value, InvalidReason> {
        let value = Value::parse(self.value_type, text)?;
        self.validator.check(&value)?;
        Ok(value)
    }

    /// The default, parsed; `None` for a key that is unset by default.
    pub fn default_value(&self) -> Option<Value> {
        self.default.map(|text| {
            // The table is constant and a test parses every default in it.
            Value::parse(self.value_type, text).expect("a default of the table parses")
        })
    }
}

/// Writes a table of definitions, one key to an entry:
/// `"name": Type = default, validator, importance, update mode, "documentation";` with `internal`
/// in front and, where Ottla differs from Kafka, `, differs "how"` before the semicolon.
macro_rules! definitions {
    ($(#[$meta:meta])* $table:ident: $(
        $($internal:ident)? $name:literal: $type:ident = $default:expr, $validator:expr, $importance:ident, $mode:ident,
        $documentation:literal $(, differs $deviation:literal)?;
    )+) => {
        $(#[$meta])*
        pub(crate) static $table: &[$crate::config::Definition] = &[$(
            $crate::config::Definition {
                name: $name,
                value_type: $crate::config::ValueType::$type,
                default: $default,
                validator: $validator,
                importance: $crate::config::Importance::$importance,
                update_mode: $crate::config::UpdateMode::$mode,
                documentation: $documentation,
                internal: definitions!(@flag $($internal)?),
                deviation: definitions!(@option $($deviation)?),
            },
        )+];
    };
    (@flag) => { false };
    (@flag internal) => { true };
    (@option) => { None };
    (@option $deviation:literal) => { Some($deviation) };
}
pub(super) use definitions;
