//! What a client asks first: ApiVersions and Metadata, which creates topics that are missing,
//! through the controller.
//!
//! The endpoint of a broker is that of the listener which the client came in by.
//!
//! References: KIP-35, KIP-511, KIP-584 (features), KIP-516 (topic ids).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, CreateTopicsRequest, MetadataRequest,
    MetadataResponse, TopicName,
    api_versions_response::{FinalizedFeatureKey, SupportedFeatureKey},
    create_topics_request::{CreatableTopic, CreatableTopicConfig},
    metadata_request::MetadataRequestTopic,
    metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
};

use super::{Context, admin};
use crate::{
    base::{NodeId, PartitionIndex, TopicId},
    config::BrokerConfig,
    controller::{self, illegal_topic_name},
    group::OFFSETS_TOPIC,
    metadata::{
        Broker, MetadataImage, Partition, Topic,
        features::{self, SupportedFeature},
        is_internal,
        records::BrokerEndpoint,
    },
    protocol::{ResponseError, StrBytes, api},
};

/// How long a client waits for a topic that its request creates. It asks again on its own, so this
/// only spares it a round.
const CREATE_TIMEOUT_MS: i32 = 5_000;

/// Stands for "none" where a node id is expected.
pub(super) const NO_NODE: BrokerId = BrokerId(-1);

/// The bits of Kafka's operations, as its clients number them.
const fn operations(numbers: &[u8]) -> i32 {
    let (mut bits, mut i) = (0, 0);
    while i < numbers.len() {
        bits |= 1 << numbers[i];
        i += 1;
    }
    bits
}

/// All that can be done to a topic: Read, Write, Create, Delete, Alter, Describe,
/// DescribeConfigs, AlterConfigs.
pub(super) const TOPIC_OPERATIONS: i32 = operations(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// All that can be done to the cluster: Create, Alter, Describe, ClusterAction, DescribeConfigs,
/// AlterConfigs, IdempotentWrite.
pub(super) const CLUSTER_OPERATIONS: i32 = operations(&[5, 7, 8, 9, 10, 11, 12]);

/// ApiVersions 0–4.
pub(super) fn api_versions(
    context: &Context,
    request: &ApiVersionsRequest,
    version: i16,
) -> ApiVersionsResponse {
    api_versions_of(&context.image(), request, version)
}

fn api_versions_of(
    image: &MetadataImage,
    request: &ApiVersionsRequest,
    version: i16,
) -> ApiVersionsResponse {
    let names = [&request.client_software_name, &request.client_software_version];
    if version >= 3 && !names.iter().all(|name| is_software_name(name)) {
        let code = ResponseError::InvalidRequest.code();
        return ApiVersionsResponse::default().with_error_code(code);
    }
    let response = ApiVersionsResponse::default().with_api_keys(api::advertised());
    if version < 3 {
        return response;
    }
    // Clients of version 3 fail on a feature that may be off (KAFKA-17011).
    let supported = features::SUPPORTED.iter().filter(|one| version >= 4 || one.min >= 1);
    let finalized = image.features().map(|(name, level)| {
        FinalizedFeatureKey::default()
            .with_name(name.to_owned().into())
            .with_max_version_level(feature_level(level))
            .with_min_version_level(feature_level(level))
    });
    response
        .with_supported_features(supported.map(supported_feature).collect())
        .with_finalized_features(finalized.collect())
        .with_finalized_features_epoch(i64::try_from(image.applied_index()).unwrap_or(i64::MAX))
}

fn supported_feature(feature: &SupportedFeature) -> SupportedFeatureKey {
    SupportedFeatureKey::default()
        .with_name(StrBytes::from_static_str(feature.name))
        .with_min_version(feature_level(feature.min))
        .with_max_version(feature_level(feature.max))
}

fn feature_level(level: i32) -> i16 {
    i16::try_from(level).unwrap_or(i16::MAX)
}

/// Letters, digits, dots and dashes, with a letter or digit at either end (KIP-511).
fn is_software_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.chars().all(inner) && outer(name.chars().next()) && outer(name.chars().next_back())
}

/// Metadata 0–13.
pub(super) async fn metadata(
    context: &Context,
    request: MetadataRequest,
    version: i16,
    listener: &str,
) -> MetadataResponse {
    let mut image = context.settled_image().await;
    let topics = request.topics.filter(|topics| version > 0 || !topics.is_empty());
    let config = context.broker_config();
    let mut refused = BTreeMap::new();
    if let Some(topics) = &topics
        && request.allow_auto_topic_creation
        && config.auto_create_topics_enable
        && is_well_formed(topics, version)
    {
        let missing = missing(&image, topics);
        if !missing.is_empty() {
            refused = create(context, &image, &config, missing).await.into_iter().collect();
            image = context.image();
        }
    }
    let view = View { image: &image, listener, version };
    let mut described = match topics {
        None => image.topics().map(|topic| view.topic(topic)).collect(),
        Some(topics) => view.topics(topics, &refused),
    };
    if version >= 8 && request.include_topic_authorized_operations {
        for topic in described.iter_mut().filter(|topic| topic.error_code == 0) {
            topic.topic_authorized_operations = TOPIC_OPERATIONS;
        }
    }
    let with_operations =
        (8..=10).contains(&version) && request.include_cluster_authorized_operations;
    MetadataResponse::default()
        .with_brokers(view.brokers(|node| context.departed_lately(node)))
        .with_cluster_id(image.cluster_id().map(|id| id.to_string().into()))
        .with_controller_id(controller_id(context))
        .with_topics(described)
        .with_cluster_authorized_operations(if with_operations {
            CLUSTER_OPERATIONS
        } else {
            i32::MIN
        })
}

/// The node that decides about topics, where clients send their wishes first.
pub(super) fn controller_id(context: &Context) -> BrokerId {
    context.quorum.status().leader().map_or(NO_NODE, |leader| leader.node_id.wire().into())
}

/// Where `node` is reached through the listener, if it is registered there.
pub(super) fn endpoint<'a>(
    image: &'a MetadataImage,
    node: NodeId,
    listener: &str,
) -> Option<&'a BrokerEndpoint> {
    image.broker(node)?.endpoint(listener)
}

pub(super) fn port(endpoint: &BrokerEndpoint) -> i32 {
    i32::try_from(endpoint.port).unwrap_or(0)
}

pub(super) fn broker_ids(nodes: &[NodeId]) -> Vec<BrokerId> {
    nodes.iter().map(|node| node.wire().into()).collect()
}

pub(super) fn topic_name(name: &str) -> TopicName {
    StrBytes::from_string(name.to_owned()).into()
}

/// Which code a topic that does not exist is answered with.
pub(super) fn unknown_topic(name: &str) -> ResponseError {
    if illegal_topic_name(name).is_some() {
        ResponseError::InvalidTopicException
    } else {
        ResponseError::UnknownTopicOrPartition
    }
}

/// The replicas whose brokers are away, or cannot reach their disk.
pub(super) fn offline_replicas(image: &MetadataImage, partition: &Partition) -> Vec<NodeId> {
    let is_online = |node: NodeId, broker: &Broker| {
        !broker.fenced && partition.directory(node).is_some_and(|dir| broker.has_online(dir))
    };
    let replicas = partition.replicas.iter().copied();
    replicas.filter(|node| !image.broker(*node).is_some_and(|b| is_online(*node, b))).collect()
}

/// From version 12 on a topic is named by name or id; before, only by name.
fn is_well_formed(topics: &[MetadataRequestTopic], version: i16) -> bool {
    version >= 12 || topics.iter().all(|t| t.name.is_some() && TopicId(t.topic_id) == TopicId::NONE)
}

/// The names that a request asks for in vain, and that could be created.
fn missing(image: &MetadataImage, topics: &[MetadataRequestTopic]) -> BTreeSet<String> {
    let by_name = topics.iter().filter(|topic| TopicId(topic.topic_id) == TopicId::NONE);
    by_name
        .filter_map(|topic| topic.name.as_deref())
        .filter(|name| image.topic_by_name(name).is_none() && illegal_topic_name(name).is_none())
        // These belong to coordinators that know how to set them up.
        .filter(|name| **name == *OFFSETS_TOPIC || !is_internal(name))
        .map(ToString::to_string)
        .collect()
}

/// A topic that could not be created, and the code that its entry gets.
type Refused = (TopicName, ResponseError);

/// Creates topics; returns those that it could not.
pub(super) async fn create(
    context: &Context,
    image: &MetadataImage,
    config: &BrokerConfig,
    names: BTreeSet<String>,
) -> Vec<Refused> {
    let topics = names.iter().map(|name| creatable(image, config, name)).collect();
    let request =
        CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(CREATE_TIMEOUT_MS);
    let request = controller::Request::CreateTopics(request);
    match context.ask_controller(request, CREATE_TIMEOUT_MS).await {
        Ok(controller::Response::CreateTopics(response)) => response
            .topics
            .into_iter()
            .filter_map(|topic| Some((topic.name, ResponseError::try_from_code(topic.error_code)?)))
            .map(|(name, code)| (name, creation_code(code)))
            .collect(),
        other => {
            let code = creation_code(admin::failure(other).code);
            names.iter().map(|name| (topic_name(name), code)).collect()
        }
    }
}

/// How Metadata says that a topic was not created. What may be over soon has a code on which a
/// client asks again.
const fn creation_code(code: ResponseError) -> ResponseError {
    match code {
        ResponseError::TopicAlreadyExists | ResponseError::RequestTimedOut => {
            ResponseError::LeaderNotAvailable
        }
        ResponseError::InvalidTopicException | ResponseError::InvalidReplicationFactor => code,
        _ => ResponseError::UnknownTopicOrPartition,
    }
}

/// A topic as it is created for a client that only named it.
fn creatable(image: &MetadataImage, config: &BrokerConfig, name: &str) -> CreatableTopic {
    let topic = CreatableTopic::default().with_name(topic_name(name));
    if name != OFFSETS_TOPIC {
        return topic.with_num_partitions(-1).with_replication_factor(-1);
    }
    // Differs from Kafka: where there are fewer brokers than the offsets topic shall have replicas,
    // it has as many as there are, so that groups work before the cluster has grown.
    let active = image.brokers().filter(|broker| broker.is_active()).count();
    let active = i16::try_from(active).unwrap_or(i16::MAX).max(1);
    let set = |name, value: String| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(value.into()))
    };
    topic
        .with_num_partitions(config.offsets_topic_num_partitions)
        .with_replication_factor(config.offsets_topic_replication_factor.min(active))
        .with_configs(vec![
            set("cleanup.policy", "compact".to_owned()),
            set("compression.type", "producer".to_owned()),
            set("segment.bytes", config.offsets_topic_segment_bytes.to_string()),
        ])
}

/// The cluster as Metadata shows it to one client.
#[derive(Debug, Clone, Copy)]
struct View<'a> {
    image: &'a MetadataImage,
    listener: &'a str,
    version: i16,
}

impl View<'_> {
    /// The brokers that are there, and those that were until lately.
    fn brokers(&self, departed_lately: impl Fn(NodeId) -> bool) -> Vec<MetadataResponseBroker> {
        let is_listed = |broker: &&Arc<Broker>| !broker.fenced || departed_lately(broker.id);
        let described = self.image.brokers().filter(is_listed).filter_map(|broker| {
            let endpoint = broker.endpoint(self.listener)?;
            Some(
                MetadataResponseBroker::default()
                    .with_node_id(broker.id.wire().into())
                    .with_host(endpoint.host.clone().into())
                    .with_port(port(endpoint))
                    .with_rack(broker.rack.clone().map(Into::into)),
            )
        });
        described.collect()
    }

    /// The topics of a request, each once.
    fn topics(
        &self,
        topics: Vec<MetadataRequestTopic>,
        refused: &BTreeMap<TopicName, ResponseError>,
    ) -> Vec<MetadataResponseTopic> {
        if !is_well_formed(&topics, self.version) {
            let code = ResponseError::InvalidRequest;
            let refuse = |topic: MetadataRequestTopic| {
                // Before version 12 the name cannot be null.
                failed(code).with_name(Some(topic.name.unwrap_or_default()))
            };
            return topics.into_iter().map(refuse).collect();
        }
        let mut seen = BTreeSet::new();
        let first = |t: &MetadataRequestTopic| seen.insert((t.topic_id, t.name.clone()));
        topics.into_iter().filter(first).map(|topic| self.requested(topic, refused)).collect()
    }

    fn requested(
        &self,
        topic: MetadataRequestTopic,
        refused: &BTreeMap<TopicName, ResponseError>,
    ) -> MetadataResponseTopic {
        let id = TopicId(topic.topic_id);
        let Some(name) = topic.name.filter(|_| id == TopicId::NONE) else {
            return match self.image.topic(id) {
                Some(topic) => self.topic(topic),
                None => failed(ResponseError::UnknownTopicId).with_name(None).with_topic_id(id.0),
            };
        };
        if let Some(topic) = self.image.topic_by_name(&name) {
            return self.topic(topic);
        }
        let code = refused.get(&name).copied().unwrap_or_else(|| unknown_topic(&name));
        failed(code).with_is_internal(is_internal(&name)).with_name(Some(name))
    }

    fn topic(&self, topic: &Topic) -> MetadataResponseTopic {
        let partitions = topic.partitions.iter().map(|(index, one)| self.partition(*index, one));
        MetadataResponseTopic::default()
            .with_name(Some(topic_name(&topic.name)))
            .with_topic_id(topic.id.0)
            .with_is_internal(topic.is_internal())
            .with_partitions(partitions.collect())
    }

    fn partition(&self, index: PartitionIndex, partition: &Partition) -> MetadataResponsePartition {
        let leader = partition.leader;
        let reachable =
            leader.filter(|leader| endpoint(self.image, *leader, self.listener).is_some());
        // Version 0 names only brokers that are there, and says so where it left one out.
        let shown = |nodes: &[NodeId]| -> Vec<NodeId> {
            let is_shown = |node: &NodeId| self.version > 0 || self.is_alive(*node);
            nodes.iter().copied().filter(is_shown).collect()
        };
        let (replicas, isr) = (shown(&partition.replicas), shown(&partition.isr));
        let is_complete =
            replicas.len() == partition.replicas.len() && isr.len() == partition.isr.len();
        let error_code = match (reachable, leader) {
            (Some(_), _) if is_complete => 0,
            (Some(_), _) => ResponseError::ReplicaNotAvailable.code(),
            (None, Some(leader)) if self.version >= 6 && self.image.broker(leader).is_some() => {
                ResponseError::ListenerNotFound.code()
            }
            (None, _) => ResponseError::LeaderNotAvailable.code(),
        };
        MetadataResponsePartition::default()
            .with_error_code(error_code)
            .with_partition_index(index.0)
            .with_leader_id(reachable.map_or(NO_NODE, |leader| leader.wire().into()))
            .with_leader_epoch(partition.leader_epoch.0)
            .with_replica_nodes(broker_ids(&replicas))
            .with_isr_nodes(broker_ids(&isr))
            .with_offline_replicas(broker_ids(&offline_replicas(self.image, partition)))
    }

    fn is_alive(&self, node: NodeId) -> bool {
        let broker = self.image.broker(node);
        broker.is_some_and(|broker| !broker.fenced && broker.endpoint(self.listener).is_some())
    }
}

fn failed(code: ResponseError) -> MetadataResponseTopic {
    MetadataResponseTopic::default().with_error_code(code.code())
}

#[cfg(test)]
pub(super) mod tests {
    use kafka_protocol::messages::{ApiKey, ResponseKind};
    use uuid::Uuid;

    use super::*;
    use crate::{
        base::ClusterId,
        metadata::{
            Batch, Record,
            records::{PartitionRecord, RegisterBrokerRecord, TopicRecord},
        },
    };

    fn broker(id: u32, fenced: bool) -> Record {
        let end_points = vec![BrokerEndpoint {
            name: "PLAINTEXT".to_owned(),
            host: format!("host-{id}"),
            port: 9092,
            security_protocol: 0,
        }];
        RegisterBrokerRecord {
            broker_id: id,
            broker_epoch: i64::from(id),
            end_points,
            fenced,
            ..RegisterBrokerRecord::default()
        }
        .into()
    }

    fn topic(name: &str, id: u128, leaders: &[Option<u32>]) -> Vec<Record> {
        let topic_id = TopicId(Uuid::from_u128(id)).into();
        let mut records = vec![TopicRecord { name: name.to_owned(), topic_id }.into()];
        for (index, leader) in (0..).zip(leaders) {
            let partition = PartitionRecord {
                partition_id: index,
                topic_id,
                replicas: vec![1, 2],
                isr: vec![1],
                leader: *leader,
                leader_epoch: 4,
                directories: vec![Uuid::nil().into(); 2],
                ..PartitionRecord::default()
            };
            records.push(partition.into());
        }
        records
    }

    /// Broker 1 is alive, 2 is fenced; `orders` has a partition without a leader.
    pub(in super::super) fn image() -> MetadataImage {
        let mut records = features::bootstrap(ClusterId(Uuid::from_u128(9))).records;
        records.extend([broker(1, false), broker(2, true)]);
        records.extend(topic("orders", 7, &[Some(1), None]));
        records.extend(topic(OFFSETS_TOPIC, 8, &[Some(1), Some(1), Some(1)]));
        MetadataImage::default().apply(5, &Batch::new(records)).0
    }

    fn by_name(name: &str) -> MetadataRequestTopic {
        MetadataRequestTopic::default().with_name(Some(topic_name(name)))
    }

    fn by_id(id: u128) -> MetadataRequestTopic {
        MetadataRequestTopic::default().with_name(None).with_topic_id(Uuid::from_u128(id))
    }

    #[test]
    fn topics_are_found_by_name_and_by_id() {
        let image = image();
        let view = View { image: &image, listener: "PLAINTEXT", version: 13 };
        let asked = vec![by_name("orders"), by_id(7), by_id(99), by_name("no"), by_name("a b")];
        let found = view.topics(asked, &BTreeMap::new());
        for topic in &found[..2] {
            assert_eq!((topic.error_code, topic.topic_id), (0, Uuid::from_u128(7)));
            assert_eq!(topic.name, Some(topic_name("orders")));
            assert_eq!(topic.partitions[0].leader_id, BrokerId(1));
            assert_eq!(topic.partitions[0].offline_replicas, [BrokerId(2)]);
            let missing = &topic.partitions[1];
            assert_eq!(missing.error_code, ResponseError::LeaderNotAvailable.code());
            assert_eq!(missing.leader_id, NO_NODE);
        }
        let codes: Vec<_> =
            found[2..].iter().map(|topic| (topic.error_code, &topic.name)).collect();
        let codes_of = |code: ResponseError| code.code();
        assert_eq!(codes[0], (codes_of(ResponseError::UnknownTopicId), &None));
        assert_eq!(codes[1].0, codes_of(ResponseError::UnknownTopicOrPartition));
        assert_eq!(codes[2].0, codes_of(ResponseError::InvalidTopicException));
    }

    #[test]
    fn ids_before_version_12_are_refused() {
        let image = image();
        let view = View { image: &image, listener: "PLAINTEXT", version: 11 };
        let found = view.topics(vec![by_id(7), by_name("orders")], &BTreeMap::new());
        assert!(found.iter().all(|t| t.error_code == ResponseError::InvalidRequest.code()));
        assert!(found.iter().all(|t| t.name.is_some()));
    }

    #[test]
    fn version_0_leaves_out_and_reports_replicas_that_are_away() {
        let image = image();
        let view = View { image: &image, listener: "PLAINTEXT", version: 0 };
        let found = view.topics(vec![by_name("orders")], &BTreeMap::new());
        let first = &found[0].partitions[0];
        assert_eq!(first.replica_nodes, [BrokerId(1)]);
        assert_eq!(first.error_code, ResponseError::ReplicaNotAvailable.code());
    }

    #[test]
    fn a_leader_without_the_listener_is_told_apart_from_version_6_on() {
        let image = image();
        for (version, code) in
            [(5, ResponseError::LeaderNotAvailable), (6, ResponseError::ListenerNotFound)]
        {
            let view = View { image: &image, listener: "OTHER", version };
            let found = view.topics(vec![by_name("orders")], &BTreeMap::new());
            assert_eq!(found[0].partitions[0].error_code, code.code());
            assert!(view.brokers(|_| false).is_empty());
        }
    }

    #[test]
    fn every_version_of_metadata_encodes() {
        let image = image();
        for version in 0..=13 {
            let view = View { image: &image, listener: "PLAINTEXT", version };
            let asked = vec![by_name("orders"), by_name("no"), by_id(3)];
            let response = MetadataResponse::default()
                .with_brokers(view.brokers(|_| false))
                .with_topics(view.topics(asked, &BTreeMap::new()));
            assert_eq!(response.brokers.len(), 1);
            let response = ResponseKind::Metadata(response);
            api::encode_response(ApiKey::Metadata, version, 1, &response).unwrap();
        }
    }

    #[test]
    fn only_what_can_be_created_is_created() {
        let names = missing(
            &image(),
            &[
                by_name("orders"),
                by_name("new"),
                by_name("new"),
                by_name("a b"),
                by_name("__transaction_state"),
                by_id(3),
            ],
        );
        assert_eq!(names, BTreeSet::from(["new".to_owned()]));
    }

    #[test]
    fn the_offsets_topic_has_no_more_replicas_than_brokers_are_alive() {
        let topic = creatable(&image(), &BrokerConfig::default(), OFFSETS_TOPIC);
        assert_eq!((topic.num_partitions, topic.replication_factor), (50, 1));
        assert!(topic.configs.iter().any(|c| c.value.as_deref() == Some("compact")));
        let topic = creatable(&image(), &BrokerConfig::default(), "new");
        assert_eq!((topic.num_partitions, topic.replication_factor), (-1, -1));
    }

    #[test]
    fn api_versions_names_features_as_far_as_the_version_bears_them() {
        let client = |name: &'static str| {
            ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str(name))
                .with_client_software_version(StrBytes::from_static_str("1.0"))
        };
        let image = image();
        for version in 0..=4 {
            let response = api_versions_of(&image, &client("a-client"), version);
            assert_eq!(response.error_code, 0);
            assert_eq!(response.finalized_features.is_empty(), version < 3);
            let may_be_off = response.supported_features.iter().any(|f| f.min_version == 0);
            assert_eq!(may_be_off, version >= 4);
            let response = ResponseKind::ApiVersions(response);
            api::encode_response(ApiKey::ApiVersions, version, 1, &response).unwrap();
        }
        for name in ["", "-a", "a-", "a b"] {
            let response = api_versions_of(&image, &client(name), 3);
            assert_eq!(response.error_code, ResponseError::InvalidRequest.code(), "{name}");
        }
    }
}
