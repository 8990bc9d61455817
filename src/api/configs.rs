//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs.
//!
//! Whatever is set is found in the image and the node's file, and described by [`crate::config`];
//! what is to change goes to the controller, which answers each resource by itself.
//!
//! References: KIP-133, KIP-226 (sources, synonyms), KIP-339 (incremental), KIP-569 (types and
//! documentation).

use std::collections::BTreeSet;

use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    alter_configs_response::AlterConfigsResourceResponse as ReplaceResult,
    describe_configs_request::DescribeConfigsResource,
    describe_configs_response::{
        DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
    },
    incremental_alter_configs_response::AlterConfigsResourceResponse as AlterResult,
};

use super::{Context, admin::failure, discovery::unknown_topic, each_once, error::WireError};
use crate::{
    config::{self, Entry, NodeConfig, TopicLayers},
    controller,
    metadata::{ConfigResource, ConfigResourceType, MetadataImage},
    protocol::{ResponseError, StrBytes},
};

/// DescribeConfigs 1–4.
pub(super) fn describe_configs(
    context: &Context,
    request: DescribeConfigsRequest,
    _version: i16,
) -> DescribeConfigsResponse {
    let image = context.image();
    let shown =
        Shown { synonyms: request.include_synonyms, documentation: request.include_documentation };
    let key = |one: &DescribeConfigsResource| (one.resource_type, one.resource_name.clone());
    let results = each_once(request.resources, key).map(|resource| {
        let entries = entries(&image, &context.node, &resource);
        shown.result(resource, entries)
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

/// All that is known of the configuration of one resource.
fn entries(
    image: &MetadataImage,
    node: &NodeConfig,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Entry>, WireError> {
    let name = resource.resource_name.as_str();
    let invalid = |message: String| Err(WireError::new(ResponseError::InvalidRequest, message));
    let kind = ConfigResourceType::from_wire(resource.resource_type);
    let own = |kind| image.config_map(&ConfigResource { kind, name: name.into() });
    let broker = image.config_map(&ConfigResource::broker(node.node_id));
    let cluster_default = image.config_map(&ConfigResource::all_brokers());
    let layers = node.layers(&broker, &cluster_default);
    Ok(match kind {
        Some(ConfigResourceType::Topic) => {
            if image.topic_by_name(name).is_none() {
                return Err(unknown_topic(name).into());
            }
            let topic = own(ConfigResourceType::Topic);
            config::describe_topic(TopicLayers { topic: &topic, broker: layers })
        }
        Some(ConfigResourceType::Broker) if name.is_empty() => {
            config::describe_cluster_default(&cluster_default)
        }
        Some(ConfigResourceType::Broker) => {
            if name.parse() != Ok(node.node_id.0) {
                let id = node.node_id;
                return invalid(format!(
                    "Only broker {id} and the default of all brokers (an empty name) can be \
                     described here, not '{name}': ask that broker"
                ));
            }
            config::describe_broker(layers)
        }
        Some(ConfigResourceType::BrokerLogger) => {
            // Differs from Kafka: there are no named loggers, but one filter for the whole node.
            return invalid("Log levels are served over HTTP, at /loglevel".to_owned());
        }
        Some(kind @ (ConfigResourceType::Group | ConfigResourceType::ClientMetrics)) => {
            if name.is_empty() {
                return invalid("The name of the resource must not be empty".to_owned());
            }
            match kind {
                ConfigResourceType::Group => config::describe_group(&own(kind), layers),
                _ => config::describe_client_metrics(&own(kind)),
            }
        }
        None => {
            return invalid(format!("Unsupported resource type {}", resource.resource_type));
        }
    })
}

/// What a request wants to see of each key.
#[derive(Debug, Clone, Copy)]
struct Shown {
    synonyms: bool,
    documentation: bool,
}

impl Shown {
    fn result(
        self,
        resource: DescribeConfigsResource,
        entries: Result<Vec<Entry>, WireError>,
    ) -> DescribeConfigsResult {
        let result = DescribeConfigsResult::default()
            .with_error_message(None)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name);
        let keys = resource.configuration_keys.filter(|keys| !keys.is_empty());
        let keys = keys.map(|keys| keys.into_iter().collect::<BTreeSet<StrBytes>>());
        let is_wanted =
            |entry: &Entry| keys.as_ref().is_none_or(|keys| keys.contains(entry.name.as_bytes()));
        match entries {
            Ok(entries) => {
                let wanted = entries.into_iter().filter(is_wanted);
                result.with_configs(wanted.map(|entry| self.entry(entry)).collect())
            }
            Err(error) => result
                .with_error_code(error.code.code())
                .with_error_message(error.message.map(Into::into)),
        }
    }

    fn entry(self, entry: Entry) -> DescribeConfigsResourceResult {
        let synonyms = entry.synonyms.into_iter().filter(|_| self.synonyms).map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(synonym.name.into())
                .with_value(synonym.value.map(Into::into))
                .with_source(synonym.source.wire())
        });
        DescribeConfigsResourceResult::default()
            .with_name(entry.name.into())
            .with_value(entry.value.map(Into::into))
            .with_read_only(entry.is_read_only)
            .with_config_source(entry.source.wire())
            .with_is_sensitive(entry.is_sensitive)
            .with_synonyms(synonyms.collect())
            .with_config_type(entry.value_type.wire())
            .with_documentation(self.documentation.then(|| entry.documentation.into()))
    }
}

/// AlterConfigs 0–2.
pub(super) async fn alter_configs(
    context: &Context,
    request: AlterConfigsRequest,
    _version: i16,
) -> AlterConfigsResponse {
    let named: Vec<(i8, StrBytes)> =
        request.resources.iter().map(|r| (r.resource_type, r.resource_name.clone())).collect();
    let asked = controller::Request::AlterConfigs(request);
    match context.ask_controller(asked, timeout_ms(context)).await {
        Ok(controller::Response::AlterConfigs(response)) => response,
        other => {
            let error = failure(other);
            let responses = named.into_iter().map(|(kind, name)| {
                ReplaceResult::default()
                    .with_error_code(error.code.code())
                    .with_error_message(error.message.clone().map(Into::into))
                    .with_resource_type(kind)
                    .with_resource_name(name)
            });
            AlterConfigsResponse::default().with_responses(responses.collect())
        }
    }
}

/// IncrementalAlterConfigs 0–1.
pub(super) async fn incremental_alter_configs(
    context: &Context,
    request: IncrementalAlterConfigsRequest,
    _version: i16,
) -> IncrementalAlterConfigsResponse {
    let named: Vec<(i8, StrBytes)> =
        request.resources.iter().map(|r| (r.resource_type, r.resource_name.clone())).collect();
    let asked = controller::Request::IncrementalAlterConfigs(request);
    match context.ask_controller(asked, timeout_ms(context)).await {
        Ok(controller::Response::IncrementalAlterConfigs(response)) => response,
        other => {
            let error = failure(other);
            let responses = named.into_iter().map(|(kind, name)| {
                AlterResult::default()
                    .with_error_code(error.code.code())
                    .with_error_message(error.message.clone().map(Into::into))
                    .with_resource_type(kind)
                    .with_resource_name(name)
            });
            IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
        }
    }
}

/// These requests bring no timeout of their own.
fn timeout_ms(context: &Context) -> i32 {
    context.broker_config().request_timeout_ms
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kafka_protocol::messages::{ApiKey, ResponseKind};

    use super::*;
    use crate::{
        base::TopicId,
        metadata::{
            Batch, Record,
            records::{ConfigRecord, TopicRecord},
        },
        protocol::api,
    };

    fn node() -> NodeConfig {
        let settings = [
            ("node.id", "1"),
            ("log.dirs", "/tmp/ottla"),
            ("listeners", "PLAINTEXT://127.0.0.1:9092"),
            ("log.retention.hours", "5"),
        ];
        let settings: BTreeMap<String, String> =
            settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        NodeConfig::from_settings(settings).unwrap()
    }

    fn image() -> MetadataImage {
        let topic = TopicRecord {
            name: "orders".to_owned(),
            topic_id: TopicId(uuid::Uuid::from_u128(7)).into(),
        };
        let config =
            |kind: ConfigResourceType, resource: &str, name: &str, value: &str| -> Record {
                ConfigRecord {
                    resource_type: i32::from(kind.wire()),
                    resource_name: resource.to_owned(),
                    name: name.to_owned(),
                    value: Some(value.to_owned()),
                }
                .into()
            };
        let records = vec![
            topic.into(),
            config(ConfigResourceType::Topic, "orders", "cleanup.policy", "compact"),
            config(ConfigResourceType::Broker, "", "message.max.bytes", "2000000"),
        ];
        MetadataImage::default().apply(1, &Batch::new(records)).0
    }

    fn describe(kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsResult {
        let keys = keys.map(|keys| keys.iter().map(|k| (*k).to_owned().into()).collect());
        let resource = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(name.to_owned().into())
            .with_configuration_keys(keys);
        let entries = entries(&image(), &node(), &resource);
        Shown { synonyms: true, documentation: true }.result(resource, entries)
    }

    #[test]
    fn a_topic_shows_every_key_with_its_source_and_synonyms() {
        let all = describe(2, "orders", None);
        assert_eq!(all.error_code, 0);
        let key = |name: &str| all.configs.iter().find(|c| c.name.as_str() == name).unwrap();
        assert_eq!(key("cleanup.policy").value.as_deref(), Some("compact"));
        assert_eq!(key("cleanup.policy").config_source, 1);
        assert_eq!(key("max.message.bytes").value.as_deref(), Some("2000000"));
        assert_eq!(key("max.message.bytes").config_source, 3);
        assert_eq!(key("retention.ms").value.as_deref(), Some("18000000"));
        assert_eq!(key("retention.ms").synonyms[0].name.as_str(), "log.retention.hours");
        for entry in &all.configs {
            assert!(entry.documentation.as_ref().is_some_and(|text| !text.is_empty()), "{entry:?}");
            assert_ne!(entry.config_type, 0, "{entry:?}");
        }
        assert!(all.configs.len() > 25);
    }

    #[test]
    fn only_the_keys_asked_for_are_shown() {
        let names = |result: &DescribeConfigsResult| -> Vec<String> {
            result.configs.iter().map(|c| c.name.to_string()).collect()
        };
        assert_eq!(names(&describe(2, "orders", Some(&["retention.ms", "no"]))), ["retention.ms"]);
        assert!(names(&describe(2, "orders", Some(&[]))).len() > 25);
        assert_eq!(names(&describe(4, "", None)), ["message.max.bytes"]);
        assert!(names(&describe(4, "1", None)).len() > 100);
    }

    #[test]
    fn resources_that_cannot_be_described_say_why() {
        let code = |kind, name| describe(kind, name, None).error_code;
        assert_eq!(code(2, "none"), ResponseError::UnknownTopicOrPartition.code());
        assert_eq!(code(2, "a b"), ResponseError::InvalidTopicException.code());
        for (kind, name) in [(4, "2"), (4, "x"), (8, "1"), (16, ""), (32, ""), (3, "1")] {
            let result = describe(kind, name, None);
            assert_eq!(result.error_code, ResponseError::InvalidRequest.code(), "{kind} {name}");
            assert!(result.error_message.is_some());
        }
    }

    #[test]
    fn every_version_encodes() {
        let results = vec![describe(2, "orders", None), describe(4, "1", None)];
        let response = DescribeConfigsResponse::default().with_results(results);
        for version in 1..=4 {
            let response = ResponseKind::DescribeConfigs(response.clone());
            api::encode_response(ApiKey::DescribeConfigs, version, 1, &response).unwrap();
        }
    }
}
