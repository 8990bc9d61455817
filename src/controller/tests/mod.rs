//! Whole decisions: each is encoded, folded, stored and read back, and the image checked in
//! between.

use std::collections::BTreeMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        AllocateProducerIdsRequest, AlterConfigsRequest, AlterPartitionRequest,
        BrokerHeartbeatRequest, BrokerId, BrokerRegistrationRequest, CreatePartitionsRequest,
        CreateTopicsRequest, DeleteTopicsRequest, IncrementalAlterConfigsRequest, TopicName,
        UnregisterBrokerRequest, UpdateFeaturesRequest, alter_configs_request,
        alter_partition_request,
        broker_registration_request::{Feature, Listener},
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
        create_topics_response::CreatableTopicResult,
        delete_topics_request::DeleteTopicState,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        update_features_request::FeatureUpdateKey,
    },
    protocol::StrBytes,
};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};
use uuid::Uuid;

use crate::{
    base::{ClusterId, NodeId, PartitionIndex, TopicId, TopicPartition},
    controller::{
        Config, Controller, ENTRY_MAX_BYTES, ExcludeVoterRequest, ExcludeVoterResponse,
        ReplicaSizesRequest, Request, Response, TopicSizes,
    },
    metadata::{Batch, ConfigResource, MetadataImage, Partition, features},
};

mod brokers;
mod configs;
mod directories;
mod isr;
mod operators;
mod random;
mod reassign;
mod shutdown;
mod topics;
mod upkeep;

const SESSION_MS: u64 = 9_000;

struct World {
    image: MetadataImage,
    controller: Controller,
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    rng: SmallRng,
    now_ms: u64,
    starts: u128,
    /// The newest metadata version that brokers support which start from now on.
    release: i32,
}

impl World {
    fn new() -> Self {
        let image = MetadataImage::default();
        let config = Config::defaults(NodeId(1), ClusterId(Uuid::from_u128(1)));
        let controller = Controller::activate(config, &image, 0);
        let (store, rng) = (BTreeMap::new(), SmallRng::seed_from_u64(7));
        let release = features::METADATA_VERSION_MAX;
        let mut world = Self { image, controller, store, rng, now_ms: 0, starts: 0, release };
        let batches = world.controller.begin(&world.image);
        world.apply(&batches);
        world
    }

    /// A world of `brokers` unfenced brokers; the rack of each is its id modulo two.
    fn with_brokers(brokers: u32) -> Self {
        let mut world = Self::new();
        for id in 1..=brokers {
            world.start(id, -1);
        }
        world
    }

    fn apply(&mut self, batches: &[Batch]) {
        for batch in batches {
            let bytes = batch.encode();
            assert_eq!(bytes.len(), batch.encoded_len());
            assert!(bytes.len() <= ENTRY_MAX_BYTES + 16);
            let batch = Batch::decode(&bytes).unwrap();
            let (image, delta) = self.image.apply(self.image.applied_index() + 1, &batch);
            image.check().unwrap();
            for (key, value) in delta.writes() {
                match value {
                    Some(value) => drop(self.store.insert(key, value)),
                    None => drop(self.store.remove(&key)),
                }
            }
            assert_eq!(*delta.after(), image);
            self.image = image;
        }
    }

    fn submit(&mut self, request: Request) -> Response {
        let decision = self.controller.decide(&self.image, request, self.now_ms, &mut self.rng);
        self.apply(&decision.batches);
        decision.response
    }

    fn check_store(&self) {
        assert_eq!(MetadataImage::load(&self.store).unwrap(), self.image);
        let whole = self.image.writes().map(|(key, value)| (key, value.unwrap()));
        assert_eq!(MetadataImage::load(whole).unwrap(), self.image);
    }

    fn epoch(&self, id: u32) -> i64 {
        self.image.broker(NodeId(id)).map_or(-1, |broker| broker.epoch.0)
    }

    fn register(&mut self, id: u32, previous_epoch: i64) -> i16 {
        self.register_with(id, previous_epoch, &[directory(id, 1), directory(id, 2)])
    }

    fn register_with(&mut self, id: u32, previous_epoch: i64, directories: &[Uuid]) -> i16 {
        self.starts += 1;
        let listener = Listener::default()
            .with_name("PLAINTEXT".into())
            .with_host("localhost".into())
            .with_port(9092);
        let supported = features::SUPPORTED.iter().map(|feature| {
            let is_version = feature.name == features::METADATA_VERSION;
            let max = if is_version { self.release } else { feature.max };
            Feature::default()
                .with_name(feature.name.into())
                .with_min_supported_version(feature.min as i16)
                .with_max_supported_version(max as i16)
        });
        let request = BrokerRegistrationRequest::default()
            .with_broker_id(BrokerId(id as i32))
            .with_cluster_id(ClusterId(Uuid::from_u128(1)).to_string().into())
            .with_incarnation_id(Uuid::from_u128(self.starts))
            .with_listeners(vec![listener])
            .with_features(supported.collect())
            .with_rack(Some(format!("rack-{}", id % 2).into()))
            .with_log_dirs(directories.to_vec())
            .with_previous_broker_epoch(previous_epoch);
        match self.submit(Request::BrokerRegistration(request)) {
            Response::BrokerRegistration(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, id: u32, want_shut_down: bool) -> (i16, bool, bool) {
        self.beat(id, |request| request.with_want_shut_down(want_shut_down))
    }

    fn beat(
        &mut self,
        id: u32,
        with: impl FnOnce(BrokerHeartbeatRequest) -> BrokerHeartbeatRequest,
    ) -> (i16, bool, bool) {
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(id as i32))
            .with_broker_epoch(self.epoch(id))
            .with_current_metadata_offset(self.image.applied_index() as i64);
        match self.submit(Request::BrokerHeartbeat(with(request))) {
            Response::BrokerHeartbeat(r) => (r.error_code, r.is_fenced, r.should_shut_down),
            other => panic!("{other:?}"),
        }
    }

    fn start(&mut self, id: u32, previous_epoch: i64) {
        assert_eq!(self.register(id, previous_epoch), 0);
        assert_eq!(self.heartbeat(id, false), (0, false, false));
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        let decision = self.controller.tick(&self.image, self.now_ms);
        self.apply(&decision.batches);
    }

    fn create(&mut self, topics: Vec<CreatableTopic>) -> Vec<CreatableTopicResult> {
        let request = CreateTopicsRequest::default().with_topics(topics);
        match self.submit(Request::CreateTopics(request)) {
            Response::CreateTopics(response) => response.topics,
            other => panic!("{other:?}"),
        }
    }

    fn create_one(&mut self, topic: CreatableTopic) -> CreatableTopicResult {
        self.create(vec![topic]).remove(0)
    }

    fn at(&self, topic: &str, partition: i32) -> TopicPartition {
        let topic = self.image.topic_by_name(topic).unwrap().id;
        TopicPartition { topic, partition: PartitionIndex(partition) }
    }

    fn partition(&self, topic: &str, partition: i32) -> Partition {
        (**self.image.partition(self.at(topic, partition)).unwrap()).clone()
    }

    fn alter_isr(&mut self, topic: &str, isr: &[u32]) -> i16 {
        self.alter_isr_at(topic, isr, self.partition(topic, 0).partition_epoch.0)
    }

    fn alter_isr_at(&mut self, topic: &str, isr: &[u32], partition_epoch: i32) -> i16 {
        let (at, partition) = (self.at(topic, 0), self.partition(topic, 0));
        let leader = partition.leader.unwrap().0;
        let member = |id: &u32| {
            alter_partition_request::BrokerState::default()
                .with_broker_id(BrokerId(*id as i32))
                .with_broker_epoch(self.epoch(*id))
        };
        let wanted = alter_partition_request::PartitionData::default()
            .with_leader_epoch(partition.leader_epoch.0)
            .with_partition_epoch(partition_epoch)
            .with_new_isr_with_epochs(isr.iter().map(member).collect());
        let topic = alter_partition_request::TopicData::default()
            .with_topic_id(at.topic.0)
            .with_partitions(vec![wanted]);
        let request = AlterPartitionRequest::default()
            .with_broker_id(BrokerId(leader as i32))
            .with_broker_epoch(self.epoch(leader))
            .with_topics(vec![topic]);
        match self.submit(Request::AlterPartition(request)) {
            Response::AlterPartition(r) => r.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    fn alter_config(&mut self, kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)]) -> i16 {
        let config = |(name, operation, value): &(&str, i8, Option<&str>)| {
            AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(*operation)
                .with_value(value.map(text))
        };
        let resource = AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(changes.iter().map(config).collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        match self.submit(Request::IncrementalAlterConfigs(request)) {
            Response::IncrementalAlterConfigs(r) => r.responses[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    fn config(&self, topic: &str, key: &str) -> Option<&str> {
        self.image.config_value(&ConfigResource::topic(topic), key)
    }
}

/// A log directory of a broker.
fn directory(broker: u32, number: u32) -> Uuid {
    Uuid::from_u128(u128::from(broker * 1_000 + number))
}

fn text(text: &str) -> StrBytes {
    text.to_owned().into()
}

fn topic(name: &str, partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic {
    let assignment = |(partition, brokers): &(i32, &[i32])| {
        CreatableReplicaAssignment::default()
            .with_partition_index(*partition)
            .with_broker_ids(brokers.iter().map(|id| BrokerId(*id)).collect())
    };
    topic(name, -1, -1).with_assignments(assignments.iter().map(assignment).collect())
}

fn with_config(topic: CreatableTopic, name: &str, value: Option<&str>) -> CreatableTopic {
    let config = CreatableTopicConfig::default().with_name(text(name)).with_value(value.map(text));
    topic.with_configs(vec![config])
}

fn nodes(ids: &[u32]) -> Box<[NodeId]> {
    ids.iter().map(|id| NodeId(*id)).collect()
}
