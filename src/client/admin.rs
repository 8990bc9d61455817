//! Administration: topics and configurations.
//!
//! Each call retries what is worth retrying until the operation's deadline, and returns the error
//! of each element apart where the protocol does.

use std::{sync::Arc, time::Duration};

use kafka_protocol::{
    messages::{
        ApiKey, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
        DescribeConfigsRequest, IncrementalAlterConfigsRequest, TopicName,
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        delete_topics_request::DeleteTopicState,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::DescribeConfigsResourceResult,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    },
    protocol::{Message, StrBytes},
};

use super::{
    cluster::{Client, Lane, Target, retrying},
    codec::text,
    error::ClientError,
};
use crate::base::TopicId;

/// A topic to be made.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; the broker's default where none.
    pub partitions: Option<i32>,
    /// How many copies of each; the broker's default where none.
    pub replication_factor: Option<i16>,
    /// Its configuration where it differs from the defaults.
    pub configs: Vec<(String, String)>,
}

/// A topic that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its identity; [`TopicId::NONE`] where the broker does not say.
    pub id: TopicId,
    /// How many partitions it got; -1 where the broker does not say.
    pub partitions: i32,
    /// How many copies of each; -1 where the broker does not say.
    pub replication_factor: i16,
}

/// What a configuration belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A topic.
    Topic(String),
    /// One broker.
    Broker(i32),
    /// What all brokers fall back to.
    BrokerDefaults,
    /// A consumer group.
    Group(String),
}

impl Resource {
    const fn kind(&self) -> i8 {
        match self {
            Self::Topic(_) => 2,
            Self::Broker(_) | Self::BrokerDefaults => 4,
            Self::Group(_) => 32,
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Topic(name) | Self::Group(name) => name.clone(),
            Self::Broker(node) => node.to_string(),
            Self::BrokerDefaults => String::new(),
        }
    }

    const fn target(&self) -> Target {
        match self {
            Self::Broker(node) => Target::Node(*node),
            _ => Target::Any,
        }
    }
}

/// One setting, as a broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; none where it has none, or is secret.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it can be changed while the broker runs.
    pub read_only: bool,
    /// Whether it is secret.
    pub sensitive: bool,
    /// The broker's text about it.
    pub documentation: Option<String>,
}

/// Where a setting's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on this broker while it ran.
    Broker,
    /// Set on all brokers while they ran.
    BrokerDefault,
    /// Set in the broker's file.
    File,
    /// Kafka's default.
    Default,
    /// Set on a consumer group.
    Group,
    /// Something else.
    Unknown,
}

impl ConfigSource {
    const fn from_wire(source: i8) -> Self {
        match source {
            1 => Self::Topic,
            2 => Self::Broker,
            3 => Self::BrokerDefault,
            4 => Self::File,
            5 => Self::Default,
            8 => Self::Group,
            _ => Self::Unknown,
        }
    }

    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Broker => "broker",
            Self::BrokerDefault => "broker-default",
            Self::File => "file",
            Self::Default => "default",
            Self::Group => "group",
            Self::Unknown => "unknown",
        }
    }

    /// Whether somebody chose the value.
    #[must_use]
    pub const fn is_set(self) -> bool {
        !matches!(self, Self::Default | Self::Unknown)
    }
}

/// A change to one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// Gives it a value.
    Set(String, String),
    /// Takes its value away, so that the default counts.
    Unset(String),
    /// Adds to a list.
    Append(String, String),
    /// Takes from a list.
    Subtract(String, String),
}

impl ConfigChange {
    fn to_wire(&self) -> AlterableConfig {
        let (operation, name, value) = match self {
            Self::Set(name, value) => (0, name, Some(value)),
            Self::Unset(name) => (1, name, None),
            Self::Append(name, value) => (2, name, Some(value)),
            Self::Subtract(name, value) => (3, name, Some(value)),
        };
        AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(operation)
            .with_value(value.map(|value| text(value)))
    }
}

/// What became of each named element.
pub type PerElement<T> = Vec<(String, Result<T, ClientError>)>;

pub(crate) fn words(text: &Option<StrBytes>) -> Option<&str> {
    text.as_ref().map(StrBytes::as_str)
}

impl Client {
    pub(super) fn broker_timeout_ms(&self) -> i32 {
        // The broker should give up before the client stops listening.
        let timeout = self.config().request_timeout.saturating_sub(Duration::from_secs(1));
        i32::try_from(timeout.max(Duration::from_secs(1)).as_millis()).unwrap_or(i32::MAX)
    }

    /// Makes a topic, or only checks whether it could be made.
    ///
    /// # Errors
    /// The broker's refusal, or the failure to reach it.
    pub async fn create_topic(
        &self,
        topic: &NewTopic,
        validate_only: bool,
    ) -> Result<CreatedTopic, ClientError> {
        let configs = topic.configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        });
        let wanted = CreatableTopic::default()
            .with_name(TopicName(text(&topic.name)))
            .with_num_partitions(topic.partitions.unwrap_or(-1))
            .with_replication_factor(topic.replication_factor.unwrap_or(-1))
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(self.broker_timeout_ms())
            .with_validate_only(validate_only);
        let api = ApiKey::CreateTopics;
        retrying!(self, self.deadline(), async {
            let response = self.call(Target::Controller, Lane::GENERAL, &request).await?;
            let subject = || topic.name.clone();
            let Some(result) = response.topics.into_iter().next() else {
                return Err(ClientError::Missing { api, subject: subject().into() });
            };
            ClientError::check(api, result.error_code, words(&result.error_message), subject)?;
            Ok(CreatedTopic {
                id: TopicId(result.topic_id),
                partitions: result.num_partitions,
                replication_factor: result.replication_factor,
            })
        })
    }

    /// Deletes topics.
    ///
    /// # Errors
    /// The failure to reach a broker; each topic has its own.
    pub async fn delete_topics(&self, topics: &[String]) -> Result<PerElement<()>, ClientError> {
        let names = || topics.iter().map(|name| TopicName(text(name)));
        let api = ApiKey::DeleteTopics;
        let build = |version| {
            let request = DeleteTopicsRequest::default().with_timeout_ms(self.broker_timeout_ms());
            Ok(if version >= 6 {
                let states = names().map(|name| DeleteTopicState::default().with_name(Some(name)));
                request.with_topics(states.collect())
            } else {
                request.with_topic_names(names().collect())
            })
        };
        let response = retrying!(self, self.deadline(), async {
            self.call_versioned::<DeleteTopicsRequest, DeleteTopicsRequest>(
                Target::Controller,
                Lane::GENERAL,
                DeleteTopicsRequest::VERSIONS,
                build,
            )
            .await
        })?;
        self.invalidate();
        Ok(response
            .responses
            .into_iter()
            .map(|result| {
                let name = result.name.map(|name| name.to_string()).unwrap_or_default();
                let message = words(&result.error_message);
                let outcome = ClientError::check(api, result.error_code, message, || name.clone());
                (name, outcome)
            })
            .collect())
    }

    /// Raises the number of a topic's partitions to `count`.
    ///
    /// # Errors
    /// The broker's refusal, or the failure to reach it.
    pub async fn create_partitions(&self, topic: &str, count: i32) -> Result<(), ClientError> {
        let wanted = CreatePartitionsTopic::default()
            .with_name(TopicName(text(topic)))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(self.broker_timeout_ms());
        let api = ApiKey::CreatePartitions;
        let done = retrying!(self, self.deadline(), async {
            let response = self.call(Target::Controller, Lane::GENERAL, &request).await?;
            let Some(result) = response.results.into_iter().next() else {
                return Err(ClientError::Missing { api, subject: topic.into() });
            };
            let message = words(&result.error_message);
            ClientError::check(api, result.error_code, message, || topic.to_owned())
        });
        self.invalidate();
        done
    }

    /// The settings of one resource: all of them, or the `names`d.
    ///
    /// # Errors
    /// The broker's refusal, or the failure to reach it.
    pub async fn describe_configs(
        &self,
        resource: &Resource,
        names: Option<&[String]>,
        documentation: bool,
    ) -> Result<Vec<ConfigEntry>, ClientError> {
        let wanted = DescribeConfigsResource::default()
            .with_resource_type(resource.kind())
            .with_resource_name(text(&resource.name()))
            .with_configuration_keys(names.map(|names| names.iter().map(|n| text(n)).collect()));
        let api = ApiKey::DescribeConfigs;
        let build = |version| {
            Ok(DescribeConfigsRequest::default()
                .with_resources(vec![wanted.clone()])
                .with_include_documentation(documentation && version >= 3))
        };
        retrying!(self, self.deadline(), async {
            let response = self
                .call_versioned::<DescribeConfigsRequest, DescribeConfigsRequest>(
                    resource.target(),
                    Lane::GENERAL,
                    DescribeConfigsRequest::VERSIONS,
                    build,
                )
                .await?;
            let Some(result) = response.results.into_iter().next() else {
                return Err(ClientError::Missing { api, subject: resource.name().into() });
            };
            let message = words(&result.error_message);
            ClientError::check(api, result.error_code, message, || resource.name())?;
            Ok(result.configs.into_iter().map(entry).collect())
        })
    }

    /// Changes some settings of one resource, or only checks whether that could be done.
    ///
    /// # Errors
    /// The broker's refusal, or the failure to reach it.
    pub async fn alter_configs(
        &self,
        resource: &Resource,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Result<(), ClientError> {
        self.alter_configs_at(resource.target(), resource, changes, validate_only).await
    }

    /// Changes settings of a broker that may be away, which any other broker has done.
    ///
    /// # Errors
    /// The broker's refusal, or the failure to reach one.
    pub async fn alter_broker_anywhere(
        &self,
        node: i32,
        changes: &[ConfigChange],
    ) -> Result<(), ClientError> {
        self.alter_configs_at(Target::Controller, &Resource::Broker(node), changes, false).await
    }

    async fn alter_configs_at(
        &self,
        target: Target,
        resource: &Resource,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let wanted = AlterConfigsResource::default()
            .with_resource_type(resource.kind())
            .with_resource_name(text(&resource.name()))
            .with_configs(changes.iter().map(ConfigChange::to_wire).collect());
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(vec![wanted])
            .with_validate_only(validate_only);
        let api = ApiKey::IncrementalAlterConfigs;
        retrying!(self, self.deadline(), async {
            let response = self.call(target, Lane::GENERAL, &request).await?;
            let Some(result) = response.responses.into_iter().next() else {
                let subject: Arc<str> = resource.name().into();
                return Err(ClientError::Missing { api, subject });
            };
            let message = words(&result.error_message);
            ClientError::check(api, result.error_code, message, || resource.name())
        })
    }
}

fn entry(config: DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: config.name.to_string(),
        value: config.value.map(|value| value.to_string()),
        source: ConfigSource::from_wire(config.config_source),
        read_only: config.read_only,
        sensitive: config.is_sensitive,
        documentation: config.documentation.map(|text| text.to_string()),
    }
}
