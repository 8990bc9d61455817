//! Configuration: the table of keys, the layers that values come from, and typed structs for the
//! rest of the node.
//!
//! Every broker, topic, group and client-metrics key of Kafka 4.3 is known here by Kafka's own
//! name, with its type, default, validation and documentation; Ottla's own keys live beside them
//! under `ottla.`. A value is looked for in the topic's own settings, then in what was set at run
//! time for the broker, then for all brokers, then in the node's file, then in the table. What is
//! set at run time is kept by the metadata plane; this module only gives it meaning.
//!
//! Invariants: whatever enters a layer was validated by [`incremental`], [`replace`], [`new_topic`]
//! or [`NodeConfig`]; every default of the table satisfies its own validator; every key that a
//! typed struct reads has the type of its field.
//!
//! It must not read a clock or keep state; the only I/O is reading the node's file.
//!
//! References: KIP-226 (dynamic broker configuration), KIP-339 (incremental changes).

mod alter;
mod broker;
mod definition;
mod describe;
mod fields;
mod keys;
mod layers;
mod listener;
mod node;
#[cfg(test)]
mod tests;
mod topic;
mod validator;
mod value;

pub use alter::{
    AlterError, Alteration, Change, Operation, Target, incremental, new_topic, replace,
};
pub use broker::BrokerConfig;
pub use definition::{Definition, Importance, Scope, UpdateMode, ValueType};
pub use describe::{
    Entry, Synonym, describe_broker, describe_client_metrics, describe_cluster_default,
    describe_group, describe_topic,
};
pub use keys::{broker_synonyms, definition, definitions, nearest};
pub use layers::{BrokerLayers, Found, Layer, Source, TopicLayers};
pub use listener::{CLUSTER_LISTENER, Listener, ListenerError, SecurityProtocol};
pub use node::{
    Address, ClusterTls, LoadError, LogFormat, NodeConfig, Problem, ProblemReason, Warning,
};
pub use topic::{CleanupPolicy, CompressionType, ThrottledReplicas, TimestampType, TopicConfig};
pub use validator::Validator;
pub use value::{InvalidReason, Value};
