//! Whole decisions: each is encoded, folded, stored and read back, and the image checked in between.

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
        Config, Controller, ENTRY_MAX_BYTES, ExcludeVoterRequest, ExcludeVoterResponse, Request,
        Response,
    },
    metadata::{Batch, ConfigResource, MetadataImage, Partition, features},
};

mod directories;
mod operators;
mod shutdown;

const SESSION_MS: u64 = 9_000;

struct World {
    image: MetadataImage,
    controller: Controller,
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    rng: SmallRng,
    now_ms: u64,
    starts: u128,
}

impl World {
    fn new() -> Self {
        let image = MetadataImage::default();
        let controller =
            Controller::activate(Config::defaults(NodeId(1), ClusterId(Uuid::nil())), &image, 0);
        let (store, rng) = (BTreeMap::new(), SmallRng::seed_from_u64(7));
        let mut world = Self { image, controller, store, rng, now_ms: 0, starts: 0 };
        world.apply(&[features::bootstrap(ClusterId(Uuid::from_u128(1)))]);
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
            Feature::default()
                .with_name(feature.name.into())
                .with_min_supported_version(feature.min as i16)
                .with_max_supported_version(feature.max as i16)
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

#[test]
fn topics_are_refused_one_by_one_as_kafka_refuses_them() {
    use ResponseError as E;
    let mut world = World::with_brokers(2);
    assert_eq!(world.create_one(topic("a.b", 1, 1)).error_code, 0);
    let long = "x".repeat(250);
    let cases = [
        (topic("fine", 3, 2), 0),
        (topic("a.b", 1, 1), E::TopicAlreadyExists.code()),
        (topic("a_b", 1, 1), E::InvalidTopicException.code()),
        (topic("", 1, 1), E::InvalidTopicException.code()),
        (topic("..", 1, 1), E::InvalidTopicException.code()),
        (topic("a b", 1, 1), E::InvalidTopicException.code()),
        (topic(&long, 1, 1), E::InvalidTopicException.code()),
        (topic("__cluster_metadata", 1, 1), E::InvalidTopicException.code()),
        (topic("none", 0, 1), E::InvalidPartitions.code()),
        (topic("minus", -2, 1), E::InvalidPartitions.code()),
        (topic("rf0", 1, 0), E::InvalidReplicationFactor.code()),
        (topic("rf3", 1, 3), E::InvalidReplicationFactor.code()),
        (topic("many", 1_000_000, 1), E::PolicyViolation.code()),
        (topic("twice", 1, 1), E::InvalidRequest.code()),
        (topic("twice", 1, 1), E::InvalidRequest.code()),
        (assigned("both", &[(0, &[1])]).with_num_partitions(1), E::InvalidRequest.code()),
        (assigned("gap", &[(0, &[1]), (2, &[1])]), E::InvalidReplicaAssignment.code()),
        (assigned("again", &[(0, &[1]), (0, &[2])]), E::InvalidReplicaAssignment.code()),
        (assigned("dup", &[(0, &[1, 1])]), E::InvalidReplicaAssignment.code()),
        (assigned("unknown", &[(0, &[9])]), E::InvalidReplicaAssignment.code()),
        (assigned("uneven", &[(0, &[1]), (1, &[1, 2])]), E::InvalidReplicaAssignment.code()),
        (assigned("empty", &[(0, &[])]), E::InvalidReplicaAssignment.code()),
        (assigned("given", &[(1, &[1, 2]), (0, &[2, 1])]), 0),
        (with_config(topic("odd", 1, 1), "no.such.key", Some("1")), E::InvalidConfig.code()),
        (with_config(topic("bad", 1, 1), "retention.ms", Some("x")), E::InvalidConfig.code()),
        (with_config(topic("null", 1, 1), "retention.ms", None), E::InvalidConfig.code()),
        (with_config(topic("set", 1, 1), "retention.ms", Some("1000")), 0),
    ];
    let results = world.create(cases.iter().map(|(topic, _)| topic.clone()).collect());
    assert_eq!(results.len(), cases.len() - 1, "a name that came twice is answered once");
    for result in &results {
        let (_, expected) = cases.iter().find(|(t, _)| t.name == result.name).unwrap();
        assert_eq!(result.error_code, *expected, "{:?}", result.name);
        assert_eq!(result.error_message.is_some(), *expected != 0, "{:?}", result.name);
    }
    assert_eq!(world.image.topic_count(), 4);
    assert_eq!(world.partition("given", 0).replicas, nodes(&[2, 1]));
    assert_eq!(world.config("set", "retention.ms"), Some("1000"));
    let set = results.iter().find(|r| r.name.as_str() == "set").unwrap();
    let configs = set.configs.as_ref().unwrap();
    let retention = configs.iter().find(|c| c.name.as_str() == "retention.ms").unwrap();
    assert_eq!((retention.value.as_deref(), retention.config_source), (Some("1000"), 1));
    assert!(configs.len() > 20, "every key is listed, not only those that were set");
    world.check_store();
}

#[test]
fn names_collide_within_one_request_too() {
    let mut world = World::with_brokers(1);
    let results = world.create(vec![topic("x.y", 1, 1), topic("x_y", 1, 1)]);
    assert_eq!(results[0].error_code, 0);
    assert_eq!(results[1].error_code, ResponseError::InvalidTopicException.code());
}

#[test]
fn validating_only_changes_nothing() {
    let mut world = World::with_brokers(1);
    let before = world.image.clone();
    let request =
        CreateTopicsRequest::default().with_topics(vec![topic("a", 2, 1)]).with_validate_only(true);
    let Response::CreateTopics(response) = world.submit(Request::CreateTopics(request)) else {
        panic!("another answer");
    };
    assert_eq!((response.topics[0].error_code, response.topics[0].num_partitions), (0, 2));
    assert_eq!(world.image, before);
}

#[test]
fn ten_thousand_partitions_come_and_go_in_one_entry_each() {
    let mut world = World::with_brokers(3);
    let index = world.image.applied_index();
    assert_eq!(world.create_one(topic("wide", 10_000, 3)).error_code, 0);
    assert_eq!(world.image.applied_index(), index + 1);
    assert_eq!(world.image.partition_count(), 10_000);
    let state = DeleteTopicState::default().with_name(Some(TopicName(text("wide"))));
    let request = DeleteTopicsRequest::default().with_topics(vec![state]);
    world.submit(Request::DeleteTopics(request));
    assert_eq!(world.image.applied_index(), index + 2);
    assert_eq!(world.image.partition_count(), 0);
    world.check_store();
}

#[test]
fn topics_are_deleted_by_name_or_id_and_answered_one_by_one() {
    let mut world = World::with_brokers(1);
    world.create(vec![topic("a", 1, 1), topic("b", 1, 1), topic("c", 1, 1)]);
    let id = |name: &str| world.image.topic_by_name(name).unwrap().id.0;
    let named = |name: &str| DeleteTopicState::default().with_name(Some(TopicName(text(name))));
    let by_id = |id: Uuid| DeleteTopicState::default().with_name(None).with_topic_id(id);
    let topics = vec![
        named("a"),
        by_id(id("b")),
        named("missing"),
        by_id(Uuid::from_u128(99)),
        named("c").with_topic_id(id("c")),
        by_id(Uuid::nil()),
    ];
    let request = DeleteTopicsRequest::default().with_topics(topics);
    let Response::DeleteTopics(response) = world.submit(Request::DeleteTopics(request)) else {
        panic!("another answer");
    };
    let codes: Vec<i16> = response.responses.iter().map(|r| r.error_code).collect();
    let expected = [
        0,
        0,
        ResponseError::UnknownTopicOrPartition.code(),
        ResponseError::UnknownTopicId.code(),
        ResponseError::InvalidRequest.code(),
        ResponseError::InvalidRequest.code(),
    ];
    assert_eq!(codes, expected);
    assert_eq!(response.responses[1].name.as_ref().unwrap().as_str(), "b");
    assert_eq!(world.image.topics().map(|t| t.name.to_string()).collect::<Vec<_>>(), ["c"]);
}

#[test]
fn partitions_are_added_and_each_topic_is_answered() {
    let mut world = World::with_brokers(2);
    world.create(vec![topic("a", 2, 2), topic("b", 2, 1)]);
    let more = |name: &str, count| {
        CreatePartitionsTopic::default()
            .with_name(TopicName(text(name)))
            .with_count(count)
            .with_assignments(None)
    };
    let topics = vec![more("a", 5), more("b", 2), more("c", 3)];
    let request = CreatePartitionsRequest::default().with_topics(topics);
    let Response::CreatePartitions(response) = world.submit(Request::CreatePartitions(request))
    else {
        panic!("another answer");
    };
    let codes: Vec<i16> = response.results.iter().map(|r| r.error_code).collect();
    let invalid = ResponseError::InvalidPartitions.code();
    assert_eq!(codes, [0, invalid, ResponseError::UnknownTopicOrPartition.code()]);
    assert_eq!(world.image.topic_by_name("a").unwrap().partitions.len(), 5);
    assert_eq!(world.partition("a", 4).replicas.len(), 2);
}

#[test]
fn leaders_followers_and_racks_are_even() {
    let mut world = World::with_brokers(4);
    world.create_one(topic("even", 24, 2));
    let mut leads = BTreeMap::<NodeId, usize>::new();
    for partition in world.image.topic_by_name("even").unwrap().partitions.values() {
        *leads.entry(partition.leader.unwrap()).or_default() += 1;
        let racks = partition.replicas.iter().map(|id| id.0 % 2);
        assert_eq!(racks.sum::<u32>(), 1, "one replica in each of the two racks");
    }
    assert_eq!(leads.into_values().collect::<Vec<_>>(), [6; 4]);
    for id in 1..=4 {
        assert_eq!(world.image.replica_count(NodeId(id)), 12);
    }
}

#[test]
fn a_fenced_broker_gets_replicas_only_where_others_do_not_suffice() {
    let mut world = World::with_brokers(3);
    world.register(4, -1);
    world.create(vec![topic("three", 8, 3), topic("four", 8, 4)]);
    assert_eq!(world.image.replica_count(NodeId(4)), 8);
    let partition = world.partition("four", 0);
    assert!(!partition.isr.contains(&NodeId(4)) && partition.replicas[3] == NodeId(4));
}

#[test]
fn lists_are_appended_to_and_subtracted_from() {
    let mut world = World::with_brokers(1);
    world.create_one(topic("a", 1, 1));
    assert_eq!(world.alter_config(2, "a", &[("cleanup.policy", 2, Some("compact"))]), 0);
    assert_eq!(world.config("a", "cleanup.policy"), Some("delete,compact"));
    assert_eq!(world.alter_config(2, "a", &[("cleanup.policy", 3, Some("delete"))]), 0);
    assert_eq!(world.config("a", "cleanup.policy"), Some("compact"));
    let invalid = ResponseError::InvalidConfig.code();
    assert_eq!(world.alter_config(2, "a", &[("retention.ms", 2, Some("1"))]), invalid);
    assert_eq!(world.alter_config(2, "a", &[("cleanup.policy", 1, None)]), 0);
    assert_eq!(world.config("a", "cleanup.policy"), None);
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(world.alter_config(2, "b", &[("retention.ms", 0, Some("1"))]), unknown);
    assert_eq!(world.alter_config(4, "", &[("log.retention.ms", 0, Some("5"))]), 0);
    let unregistered = ResponseError::BrokerIdNotRegistered.code();
    assert_eq!(world.alter_config(4, "9", &[("log.retention.ms", 0, Some("5"))]), unregistered);
    world.check_store();
}

#[test]
fn a_leader_whose_lease_runs_out_is_replaced_from_the_isr() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2, 3])]));
    world.now_ms += SESSION_MS - 1;
    world.heartbeat(2, false);
    world.heartbeat(3, false);
    world.wait(1);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, &partition.isr), (Some(NodeId(2)), &nodes(&[2, 3])));
    assert_eq!((partition.leader_epoch.0, partition.partition_epoch.0), (1, 1));
    assert!(world.image.broker(NodeId(1)).unwrap().fenced);
    assert_eq!(world.alter_isr("a", &[2, 3, 1]), ResponseError::IneligibleReplica.code());
    world.heartbeat(1, false);
    assert_eq!(world.alter_isr("a", &[2, 3, 1]), 0);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, partition.leader_epoch.0), (Some(NodeId(2)), 1));
}

#[test]
fn a_broker_is_fenced_also_where_that_was_refused_at_first() {
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    world.now_ms += SESSION_MS - 1;
    world.heartbeat(2, false);
    world.now_ms += 1;
    let refused = world.controller.tick(&world.image, world.now_ms);
    assert!(!refused.batches.is_empty());
    assert!(world.controller.next_tick_ms().unwrap() <= world.now_ms, "it is tried again at once");
    world.wait(0);
    assert_eq!(world.partition("a", 0).leader, Some(NodeId(2)));
    world.wait(0);
    assert!(world.controller.next_tick_ms().unwrap() > world.now_ms, "there is nothing more to do");
}

#[test]
fn the_last_in_sync_stays_eligible_and_leads_again() {
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    assert_eq!(world.alter_isr("a", &[1]), 0);
    world.now_ms += SESSION_MS - 1;
    world.heartbeat(2, false);
    world.wait(1);
    let partition = world.partition("a", 0);
    assert_eq!(partition.leader, None, "broker 2 is out of sync and must not lead");
    assert_eq!(partition.eligible_leader_replicas, nodes(&[1]));
    world.heartbeat(1, false);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, partition.recovering), (Some(NodeId(1)), false));
}

#[test]
fn who_a_lower_minimum_can_do_without_is_eligible_no_more() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2, 3])]));
    let set = |world: &mut World, kind, name: &str, min_isr: &str| {
        world.alter_config(kind, name, &[("min.insync.replicas", 0, Some(min_isr))])
    };
    assert_eq!(set(&mut world, 2, "a", "3"), 0);
    assert_eq!(world.alter_isr("a", &[1]), 0);
    assert_eq!(world.partition("a", 0).eligible_leader_replicas, nodes(&[2, 3]));
    assert_eq!(set(&mut world, 2, "a", "2"), 0);
    assert_eq!(world.partition("a", 0).eligible_leader_replicas, nodes(&[2, 3]));
    let applied = world.image.applied_index();
    assert_eq!(set(&mut world, 2, "a", "1"), 0);
    assert_eq!(world.partition("a", 0).eligible_leader_replicas, nodes(&[]));
    assert_eq!(world.image.applied_index(), applied + 1, "with the setting, or not at all");
    // A default for all counts where the topic has none of its own; one for a broker cannot count.
    assert_eq!(world.alter_config(2, "a", &[("min.insync.replicas", 1, None)]), 0);
    assert_eq!(set(&mut world, 4, "", "2"), 0);
    assert_eq!(world.alter_isr("a", &[1, 2]), 0);
    assert_eq!(world.alter_isr("a", &[1]), 0);
    assert_eq!(world.partition("a", 0).eligible_leader_replicas, nodes(&[2]));
    assert_eq!(set(&mut world, 4, "", "1"), 0);
    assert_eq!(world.partition("a", 0).eligible_leader_replicas, nodes(&[]));
    assert_eq!(set(&mut world, 4, "1", "2"), ResponseError::InvalidConfig.code());
    world.check_store();
}

#[test]
fn a_leader_elected_under_a_lower_minimum_leaves_nobody_eligible() {
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    let set = |world: &mut World, min_isr| {
        world.alter_config(2, "a", &[("min.insync.replicas", 0, Some(min_isr))])
    };
    assert_eq!(set(&mut world, "2"), 0);
    world.wait(SESSION_MS);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, &partition.isr), (None, &nodes(&[])));
    assert_eq!(partition.eligible_leader_replicas, nodes(&[1, 2]));
    assert_eq!(set(&mut world, "1"), 0);
    world.heartbeat(2, false);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, &partition.isr), (Some(NodeId(2)), &nodes(&[2])));
    assert_eq!(partition.eligible_leader_replicas, nodes(&[]));
}

#[test]
fn a_leader_that_asks_for_the_isr_as_it_is_gets_a_new_partition_epoch() {
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    let before = world.partition("a", 0);
    assert_eq!(world.alter_isr("a", &[1, 2]), 0);
    let after = world.partition("a", 0);
    assert_eq!(after.partition_epoch.0, before.partition_epoch.0 + 1);
    assert_eq!((after.leader_epoch, &after.isr), (before.leader_epoch, &before.isr));
    // So that a leader can fence a question of its own whose answer was lost.
    let outdated = ResponseError::InvalidUpdateVersion.code();
    assert_eq!(world.alter_isr_at("a", &[1], before.partition_epoch.0), outdated);
}

#[test]
fn a_replica_back_from_an_unclean_stop_is_out_of_sync() {
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    world.start(1, -1);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, &partition.isr), (Some(NodeId(2)), &nodes(&[2])));
    assert_eq!(partition.eligible_leader_replicas, nodes(&[]));
}

#[test]
fn a_single_replica_leads_again_after_any_stop() {
    let mut world = World::with_brokers(1);
    world.create_one(topic("a", 1, 1));
    for clean in [true, false] {
        let epoch = world.partition("a", 0).leader_epoch;
        let previous = if clean {
            assert_eq!(world.heartbeat(1, true), (0, true, true));
            world.epoch(1)
        } else {
            -1
        };
        world.start(1, previous);
        let partition = world.partition("a", 0);
        assert_eq!((partition.leader, &partition.isr), (Some(NodeId(1)), &nodes(&[1])));
        assert!(partition.leader_epoch > epoch, "a former leader's epoch is fenced");
        assert_eq!(partition.recovering, !clean);
    }
    assert_eq!(world.alter_isr("a", &[1]), 0);
    assert!(!world.partition("a", 0).recovering);
}

#[test]
fn a_former_registration_is_refused() {
    let mut world = World::with_brokers(1);
    let old = world.epoch(1);
    world.start(1, old);
    let request =
        AllocateProducerIdsRequest::default().with_broker_id(BrokerId(1)).with_broker_epoch(old);
    let Response::AllocateProducerIds(response) =
        world.submit(Request::AllocateProducerIds(request))
    else {
        panic!("another answer");
    };
    assert_eq!(response.error_code, ResponseError::StaleBrokerEpoch.code());
}

#[test]
fn producer_ids_are_never_given_twice() {
    let mut world = World::with_brokers(2);
    let mut next = 0;
    for id in [1, 2, 1] {
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(BrokerId(id))
            .with_broker_epoch(world.epoch(id as u32));
        let Response::AllocateProducerIds(response) =
            world.submit(Request::AllocateProducerIds(request))
        else {
            panic!("another answer");
        };
        assert_eq!((response.producer_id_start.0, response.producer_id_len), (next, 1000));
        next += 1000;
    }
    world.check_store();
}

#[test]
fn a_feature_is_not_raised_beyond_what_a_broker_supports() {
    let mut world = World::with_brokers(1);
    let mut update = |name: &str, level| {
        let key = FeatureUpdateKey::default()
            .with_feature(text(name))
            .with_max_version_level(level)
            .with_upgrade_type(1);
        let request = UpdateFeaturesRequest::default().with_feature_updates(vec![key]);
        match world.submit(Request::UpdateFeatures(request)) {
            Response::UpdateFeatures(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    };
    let refused = ResponseError::InvalidUpdateVersion.code();
    assert_eq!(update(features::METADATA_VERSION, 99), refused);
    assert_eq!(update("no.such.feature", 1), refused);
    assert_eq!(update("eligible.leader.replicas.version", 0), refused, "needs the upgrade type");
    assert_eq!(update("eligible.leader.replicas.version", 1), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Create(u8, i32, i16),
    Delete(u8),
    Grow(u8, i32),
    Start(u8, bool),
    Heartbeat(u8, bool),
    Wait(u16),
    Shrink(u8),
    Expand(u8),
    Config(u8, bool),
    Replace(u8),
    Unregister(u8),
    Fail(u8, u8),
    Assign(u8, u8, u8),
    Elect(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4u8, 1..6i32, 1..4i16).prop_map(|(t, p, r)| Step::Create(t, p, r)),
        (0..4u8).prop_map(Step::Delete),
        (0..4u8, 1..9i32).prop_map(|(t, p)| Step::Grow(t, p)),
        (1..5u8, any::<bool>()).prop_map(|(b, clean)| Step::Start(b, clean)),
        (1..5u8, prop::bool::weighted(0.1)).prop_map(|(b, stop)| Step::Heartbeat(b, stop)),
        (0..6_000u16).prop_map(Step::Wait),
        (0..4u8).prop_map(Step::Shrink),
        (0..4u8).prop_map(Step::Expand),
        (0..4u8, any::<bool>()).prop_map(|(t, set)| Step::Config(t, set)),
        (0..4u8).prop_map(Step::Replace),
        (1..5u8).prop_map(Step::Unregister),
        (1..5u8, 0..4u8).prop_map(|(b, which)| Step::Fail(b, which)),
        (0..4u8, 1..5u8, 0..4u8).prop_map(|(t, b, to)| Step::Assign(t, b, to)),
        any::<bool>().prop_map(Step::Elect),
    ]
}

impl World {
    fn take(&mut self, step: Step) {
        let name = |topic: u8| format!("t{topic}");
        match step {
            Step::Create(t, partitions, rf) => {
                drop(self.create_one(topic(&name(t), partitions, rf)));
            }
            Step::Delete(t) => {
                let names = vec![TopicName(text(&name(t)))];
                let request = DeleteTopicsRequest::default().with_topic_names(names);
                drop(self.submit(Request::DeleteTopics(request)));
            }
            Step::Grow(t, count) => {
                let topic = CreatePartitionsTopic::default()
                    .with_name(TopicName(text(&name(t))))
                    .with_count(count)
                    .with_assignments(None);
                let request = CreatePartitionsRequest::default().with_topics(vec![topic]);
                drop(self.submit(Request::CreatePartitions(request)));
            }
            Step::Start(b, clean) => {
                let previous = if clean { self.epoch(u32::from(b)) } else { -1 };
                self.register(u32::from(b), previous);
            }
            Step::Heartbeat(b, stop) => drop(self.heartbeat(u32::from(b), stop)),
            Step::Wait(ms) => self.wait(u64::from(ms)),
            Step::Shrink(t) => self.resize(&name(t), false),
            Step::Expand(t) => self.resize(&name(t), true),
            Step::Config(t, set) => {
                let change = if set {
                    ("min.insync.replicas", 0, Some("2"))
                } else {
                    ("min.insync.replicas", 1, None)
                };
                self.alter_config(2, &name(t), &[change]);
            }
            Step::Replace(t) => {
                let config = alter_configs_request::AlterableConfig::default()
                    .with_name(text("unclean.leader.election.enable"))
                    .with_value(Some(text("true")));
                let resource = alter_configs_request::AlterConfigsResource::default()
                    .with_resource_type(2)
                    .with_resource_name(text(&name(t)))
                    .with_configs(vec![config]);
                let request = AlterConfigsRequest::default().with_resources(vec![resource]);
                drop(self.submit(Request::AlterConfigs(request)));
            }
            Step::Elect(unclean) => drop(self.elect(i8::from(unclean), None)),
            Step::Unregister(b) => {
                let request =
                    UnregisterBrokerRequest::default().with_broker_id(BrokerId(i32::from(b)));
                drop(self.submit(Request::UnregisterBroker(request)));
            }
            Step::Fail(b, which) => {
                let b = u32::from(b);
                let failed = (1..3).filter(|number| which & number != 0);
                let failed: Vec<_> = failed.map(|n| directory(b, u32::from(n))).collect();
                self.beat(b, |request| request.with_offline_log_dirs(failed));
            }
            Step::Assign(t, b, to) => {
                if let Some(topic) = self.image.topic_by_name(&name(t)) {
                    let at = TopicPartition { topic: topic.id, partition: PartitionIndex(0) };
                    self.assign(u32::from(b), at, directory(u32::from(b), u32::from(to)));
                }
            }
        }
    }

    fn resize(&mut self, name: &str, whole: bool) {
        let Some(topic) = self.image.topic_by_name(name) else { return };
        let partition = topic.partition(PartitionIndex(0)).unwrap();
        let Some(leader) = partition.leader else { return };
        let all: Vec<u32> = partition.replicas.iter().map(|id| id.0).collect();
        self.alter_isr(name, if whole { &all } else { std::slice::from_ref(&leader.0) });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Every image on the way keeps the invariants (`apply` checks), epochs never go back, and
    /// what is stored is what was folded.
    #[test]
    fn any_sequence_of_requests_keeps_the_invariants(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::with_brokers(3);
        for step in steps {
            let before = world.image.clone();
            world.take(step);
            for topic in before.topics() {
                for (index, was) in &topic.partitions {
                    let at = TopicPartition { topic: topic.id, partition: *index };
                    let Some(is) = world.image.partition(at) else { continue };
                    prop_assert!(is.leader_epoch >= was.leader_epoch);
                    prop_assert!(is.partition_epoch >= was.partition_epoch);
                    let same_epoch = is.leader_epoch == was.leader_epoch;
                    prop_assert!(!same_epoch || is.leader == was.leader, "one leader per epoch");
                }
            }
        }
        world.check_store();
    }
}
