//! The controller and the metadata: the production controller's core, as one node that every
//! question reaches or not. How a quorum agrees on what it decides is the other simulation's
//! matter.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use ottla::{
    base::{BrokerEpoch, NodeId, PartitionIndex, TopicPartition},
    controller::{Config, Controller, Request, Response},
    metadata::{ConfigResource, MetadataImage, features},
    protocol::{
        StrBytes,
        messages::{
            AlterPartitionReassignmentsRequest, BrokerHeartbeatRequest, BrokerId,
            BrokerRegistrationRequest, CreateTopicsRequest, IncrementalAlterConfigsRequest,
            TopicName,
            alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
            broker_registration_request::{Feature, Listener},
            create_topics_request::{
                CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
            },
            incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        },
    },
};
use rand::rngs::SmallRng;
use uuid::Uuid;

use super::host::Host;
use crate::sim::node::cluster_id;

/// The topic whose partition is simulated.
pub(super) const TOPIC: &str = "t";
/// `broker.session.timeout.ms`.
const SESSION_MS: u64 = 800;
/// Kafka's number for the configuration of a topic.
const TOPIC_RESOURCE: i8 = 2;
const MIN_ISR: &str = "min.insync.replicas";

pub(super) struct Cluster {
    controller: Controller,
    images: Vec<MetadataImage>,
    pub(super) partition: TopicPartition,
}

impl Cluster {
    /// A cluster of registered brokers, each in its first life, and a partition with a replica on
    /// the first `replicas` of them.
    pub(super) fn new(
        hosts: &[Host],
        replicas: usize,
        min_isr: usize,
        rng: &mut SmallRng,
    ) -> anyhow::Result<Self> {
        let bootstrap = features::bootstrap(cluster_id());
        let image = MetadataImage::default().apply(1, &bootstrap).0;
        let partition = TopicPartition { topic: Default::default(), partition: PartitionIndex(0) };
        let controller = Controller::activate(config(), &image, 0);
        let mut cluster = Self { controller, images: vec![image], partition };
        for host in hosts {
            let node = host.node;
            cluster.decide(registration(host, incarnation(node, 1)), 0, rng);
            let epoch = cluster.broker_epoch(node).context("a broker has registered")?;
            cluster.decide(cluster.heartbeat(node, epoch, cluster.version(), false), 0, rng);
        }
        let assignment = CreatableReplicaAssignment::default()
            .with_partition_index(0)
            .with_broker_ids((1..=replicas as i32).map(BrokerId).collect());
        let config = CreatableTopicConfig::default()
            .with_name(MIN_ISR.into())
            .with_value(Some(min_isr.to_string().into()));
        let topic = CreatableTopic::default()
            .with_name(TopicName(TOPIC.into()))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(vec![assignment])
            .with_configs(vec![config]);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        cluster.decide(Request::CreateTopics(request), 0, rng);
        let Some(topic) = cluster.newest().topic_by_name(TOPIC) else {
            bail!("the topic was not created");
        };
        cluster.partition.topic = topic.id;
        Ok(cluster)
    }

    pub(super) fn newest(&self) -> &MetadataImage {
        &self.images[self.images.len() - 1]
    }

    /// How many images there are; each names the one before it by its index.
    pub(super) fn version(&self) -> usize {
        self.images.len() - 1
    }

    pub(super) fn image(&self, version: usize) -> &MetadataImage {
        &self.images[version]
    }

    pub(super) fn decide(&mut self, request: Request, now_ms: u64, rng: &mut SmallRng) -> Response {
        let image = self.newest().clone();
        let decision = self.controller.decide(&image, request, now_ms, rng);
        self.fold(&decision.batches);
        decision.response
    }

    /// Fences whose lease ran out.
    pub(super) fn tick(&mut self, now_ms: u64) {
        let image = self.newest().clone();
        let decision = self.controller.tick(&image, now_ms);
        self.fold(&decision.batches);
    }

    /// Another node becomes the controller.
    pub(super) fn fail_over(&mut self, now_ms: u64) {
        self.controller = Controller::activate(config(), self.newest(), now_ms);
    }

    pub(super) fn broker_epoch(&self, node: NodeId) -> Option<BrokerEpoch> {
        self.newest().broker(node).map(|broker| broker.epoch)
    }

    pub(super) fn heartbeat(
        &self,
        node: NodeId,
        epoch: BrokerEpoch,
        version: usize,
        want_shut_down: bool,
    ) -> Request {
        let applied = self.image(version).applied_index();
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(node.wire()))
            .with_broker_epoch(epoch.0)
            .with_current_metadata_offset(applied as i64)
            .with_want_shut_down(want_shut_down);
        Request::BrokerHeartbeat(request)
    }

    fn fold(&mut self, batches: &[ottla::metadata::Batch]) {
        for batch in batches {
            let image = self.newest();
            let next = image.apply(image.applied_index() + 1, batch).0;
            self.images.push(next);
        }
    }
}

fn config() -> Config {
    let file = [("broker.session.timeout.ms", SESSION_MS.to_string())];
    let file = file.map(|(key, value)| (key.to_owned(), value));
    Config { file: BTreeMap::from(file), ..Config::defaults(NodeId(1), cluster_id()) }
}

/// Names a life of a node.
pub(super) fn incarnation(node: NodeId, life: u64) -> Uuid {
    Uuid::from_u128(u128::from(life) << 32 | u128::from(node.0))
}

/// A node registers, with the registration under which it stopped in order, if it did.
pub(super) fn registration(host: &Host, incarnation: Uuid) -> Request {
    let listener = Listener::default()
        .with_name("PLAINTEXT".into())
        .with_host("localhost".into())
        .with_port(9092);
    let supported = features::SUPPORTED.iter().map(|feature| {
        Feature::default()
            .with_name(feature.name.into())
            .with_min_supported_version(feature.min as i16)
            .with_max_supported_version(feature.max as i16)
    });
    let cluster_id = cluster_id().to_string();
    let request = BrokerRegistrationRequest::default()
        .with_broker_id(BrokerId(host.node.wire()))
        .with_cluster_id(StrBytes::from_string(cluster_id))
        .with_incarnation_id(incarnation)
        .with_listeners(vec![listener])
        .with_features(supported.collect())
        .with_log_dirs(vec![host.directory_id()])
        .with_previous_broker_epoch(host.clean.map_or(-1, |epoch| epoch.0));
    Request::BrokerRegistration(request)
}

/// Somebody has the partition move to `target`, or cancels that.
pub(super) fn reassign(target: Option<&[NodeId]>) -> Request {
    let brokers = |target: &[NodeId]| target.iter().map(|node| BrokerId(node.wire())).collect();
    let partition =
        ReassignablePartition::default().with_partition_index(0).with_replicas(target.map(brokers));
    let topic = ReassignableTopic::default()
        .with_name(TopicName(TOPIC.into()))
        .with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default()
        .with_allow_replication_factor_change(true)
        .with_topics(vec![topic]);
    Request::AlterPartitionReassignments(request)
}

/// Somebody sets `min.insync.replicas`.
pub(super) fn set_min_isr(min_isr: usize) -> Request {
    let config = AlterableConfig::default()
        .with_name(MIN_ISR.into())
        .with_value(Some(min_isr.to_string().into()));
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(TOPIC.into())
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    Request::IncrementalAlterConfigs(request)
}

/// `min.insync.replicas` as an image has it.
pub(super) fn min_isr(image: &MetadataImage) -> usize {
    let value = image.config_value(&ConfigResource::topic(TOPIC), MIN_ISR);
    value.and_then(|value| value.parse().ok()).unwrap_or(1)
}
