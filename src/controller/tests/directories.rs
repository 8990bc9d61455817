//! Log directories that fail, come back and are replaced.

use kafka_protocol::messages::{
    AssignReplicasToDirsRequest,
    assign_replicas_to_dirs_request::{DirectoryData, PartitionData, TopicData},
};

use super::*;
use crate::metadata::directory as no_directory;

impl World {
    pub(super) fn assign(&mut self, broker: u32, at: TopicPartition, to: Uuid) -> i16 {
        let partition = PartitionData::default().with_partition_index(at.partition.0);
        let topic = TopicData::default().with_topic_id(at.topic.0).with_partitions(vec![partition]);
        let directory = DirectoryData::default().with_id(to).with_topics(vec![topic]);
        let request = AssignReplicasToDirsRequest::default()
            .with_broker_id(BrokerId(broker as i32))
            .with_broker_epoch(self.epoch(broker))
            .with_directories(vec![directory]);
        match self.submit(Request::AssignReplicasToDirs(request)) {
            Response::AssignReplicasToDirs(response) => {
                let topics = response.directories.first().map(|directory| &directory.topics[0]);
                topics.map_or(response.error_code, |topic| topic.partitions[0].error_code)
            }
            other => panic!("{other:?}"),
        }
    }

    fn fail(&mut self, broker: u32, directories: &[Uuid]) -> (i16, bool, bool) {
        self.beat(broker, |request| request.with_offline_log_dirs(directories.to_vec()))
    }

    fn leader_and_isr(&self, topic: &str) -> (Option<u32>, Vec<u32>) {
        let partition = self.partition(topic, 0);
        (partition.leader.map(|id| id.0), partition.isr.iter().map(|id| id.0).collect())
    }
}

/// Brokers 1 and 2 hold `a` and `b`, broker 1 in different directories.
fn two_directories() -> World {
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    world.create_one(assigned("b", &[(0, &[1, 2])]));
    assert_eq!(world.assign(1, world.at("a", 0), directory(1, 1)), 0);
    assert_eq!(world.assign(1, world.at("b", 0), directory(1, 2)), 0);
    world
}

#[test]
fn replicas_of_a_failed_directory_begin_anew_on_another_broker_where_that_is_wanted() {
    let mut world = two_directories();
    world.start(3, -1);
    assert_eq!(
        world.alter_config(4, "", &[("ottla.broker.replacement.grace.ms", 0, Some("60000"))]),
        0
    );
    assert_eq!(world.fail(1, &[directory(1, 1)]), (0, false, false));
    let end = world.now_ms + 150_000;
    while world.now_ms < end {
        world.wait(SESSION_MS / 2);
        world.fail(1, &[directory(1, 1)]);
        for id in [2, 3] {
            world.heartbeat(id, false);
        }
    }
    let moving = world.partition("a", 0);
    let target: Vec<_> = moving.target_replicas().collect();
    assert_eq!(target, [NodeId(3), NodeId(2)], "{moving:?}");
}

#[test]
fn a_failed_directory_takes_down_its_own_replicas_only() {
    let mut world = two_directories();
    assert_eq!(world.leader_and_isr("a"), (Some(1), vec![1, 2]), "to be told of is no change");
    assert_eq!(world.fail(1, &[directory(1, 1)]), (0, false, false));
    assert_eq!(world.leader_and_isr("a"), (Some(2), vec![2]));
    assert_eq!(world.leader_and_isr("b"), (Some(1), vec![1, 2]));
    // Though it says that it holds everything: it takes nothing more.
    assert_eq!(world.alter_isr("a", &[2, 1]), ResponseError::IneligibleReplica.code());
    // The last one in sync stops: who has lost its directory must not take over.
    world.shut_down(2);
    assert_eq!(world.leader_and_isr("a").0, None);
    assert_eq!(world.leader_and_isr("b"), (Some(1), vec![1]));
    // Nor when it comes back without that directory.
    assert_eq!(world.register_with(1, -1, &[directory(1, 2)]), 0);
    world.heartbeat(1, false);
    assert_eq!(world.leader_and_isr("a").0, None);
}

#[test]
fn a_single_replica_waits_for_its_directory() {
    let mut world = World::with_brokers(1);
    world.create_one(topic("a", 1, 1));
    world.assign(1, world.at("a", 0), directory(1, 1));
    world.fail(1, &[directory(1, 1)]);
    assert_eq!(world.leader_and_isr("a").0, None);
    world.heartbeat(1, false);
    assert_eq!(world.leader_and_isr("a").0, None);
    world.start(1, -1);
    assert_eq!(world.leader_and_isr("a"), (Some(1), vec![1]));
}

#[test]
fn a_broker_that_lost_all_of_its_directories_is_fenced_until_it_starts_again() {
    let mut world = two_directories();
    let all = [directory(1, 1), directory(1, 2)];
    assert_eq!(world.fail(1, &all), (0, true, false));
    for topic in ["a", "b"] {
        assert_eq!(world.leader_and_isr(topic), (Some(2), vec![2]));
    }
    assert_eq!(world.fail(1, &all), (0, true, false));
    world.start(1, -1);
    assert!(!world.image.broker(NodeId(1)).unwrap().fenced);
}

#[test]
fn a_replica_that_is_assigned_to_an_offline_directory_is_out_of_sync() {
    for to in [directory(1, 9), no_directory::LOST.0] {
        let mut world = World::with_brokers(2);
        world.create_one(assigned("a", &[(0, &[1, 2])]));
        assert_eq!(world.assign(1, world.at("a", 0), to), 0);
        assert_eq!(world.leader_and_isr("a"), (Some(2), vec![2]));
    }
}

#[test]
fn a_replica_whose_disk_was_replaced_does_not_lead_for_what_it_was() {
    let mut world = two_directories();
    let at = world.at("a", 0);
    // The last leader loses all, the other one lacks what was written since.
    assert_eq!(world.alter_isr("a", &[1]), 0);
    world.fail(1, &[directory(1, 1)]);
    assert_eq!(world.leader_and_isr("a"), (None, vec![]));
    assert_eq!(world.register_with(1, -1, &[directory(1, 2), directory(1, 3)]), 0);
    world.heartbeat(1, false);
    assert_eq!(world.assign(1, at, directory(1, 3)), 0);
    assert_eq!(world.leader_and_isr("a"), (None, vec![]));
    world.shut_down(1);
    world.start(1, world.epoch(1));
    assert_eq!(world.leader_and_isr("a"), (None, vec![]));
}

#[test]
fn a_single_replica_begins_anew_on_another_disk() {
    let mut world = World::with_brokers(1);
    world.create_one(topic("a", 1, 1));
    world.assign(1, world.at("a", 0), directory(1, 1));
    assert_eq!(world.register_with(1, -1, &[directory(1, 2)]), 0);
    world.heartbeat(1, false);
    assert_eq!(world.leader_and_isr("a").0, None);
    assert_eq!(world.assign(1, world.at("a", 0), directory(1, 2)), 0);
    assert_eq!(world.leader_and_isr("a"), (Some(1), vec![1]));
}

#[test]
fn a_broker_with_other_disks_does_not_lead_for_what_it_was() {
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    assert_eq!(world.alter_isr("a", &[1]), 0);
    world.wait(SESSION_MS);
    assert_eq!(world.register_with(1, -1, &[directory(1, 8)]), 0);
    world.heartbeat(1, false);
    assert_eq!(world.leader_and_isr("a"), (None, vec![]));
}

#[test]
fn an_assignment_is_refused_where_there_is_no_such_replica() {
    use ResponseError as E;
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1])]));
    let at = world.at("a", 0);
    assert_eq!(world.assign(2, at, directory(2, 1)), E::NotLeaderOrFollower.code());
    let beyond = TopicPartition { partition: PartitionIndex(1), ..at };
    assert_eq!(world.assign(1, beyond, directory(1, 1)), E::UnknownTopicOrPartition.code());
    let unknown = TopicPartition { topic: TopicId(Uuid::from_u128(5)), ..at };
    assert_eq!(world.assign(1, unknown, directory(1, 1)), E::UnknownTopicId.code());
    assert_eq!(world.assign(9, at, directory(9, 1)), E::BrokerIdNotRegistered.code());
}
