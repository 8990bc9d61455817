//! Partitions that move to other brokers.

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};

use super::*;

impl World {
    /// Asks for replicas of a partition, or for the end of its reassignment.
    pub(super) fn reassign(&mut self, topic: &str, partition: i32, to: Option<&[i32]>) -> i16 {
        self.reassign_with(topic, partition, to, true)
    }

    fn reassign_with(
        &mut self,
        topic: &str,
        partition: i32,
        to: Option<&[i32]>,
        may_resize: bool,
    ) -> i16 {
        let replicas = to.map(|to| to.iter().map(|id| BrokerId(*id)).collect());
        let partition = ReassignablePartition::default()
            .with_partition_index(partition)
            .with_replicas(replicas);
        let topic = ReassignableTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(vec![partition]);
        let request = kafka_protocol::messages::AlterPartitionReassignmentsRequest::default()
            .with_allow_replication_factor_change(may_resize)
            .with_topics(vec![topic]);
        match self.submit(Request::AlterPartitionReassignments(request)) {
            Response::AlterPartitionReassignments(r) => r.responses[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    fn assert_settled(&self, replicas: &[u32], isr: &[u32], leader: u32) {
        let partition = self.partition("a", 0);
        assert!(!partition.is_reassigning(), "{partition:?}");
        assert_eq!((&partition.replicas, &partition.isr), (&nodes(replicas), &nodes(isr)));
        assert_eq!(partition.leader, Some(NodeId(leader)));
    }
}

#[test]
fn a_partition_moves_once_all_that_stay_are_in_sync() {
    let mut world = World::with_brokers(5);
    world.create_one(assigned("a", &[(0, &[1, 2, 3])]));
    let before = world.partition("a", 0);
    assert_eq!(world.reassign("a", 0, Some(&[4, 5, 1])), 0);
    let moving = world.partition("a", 0);
    assert_eq!(moving.replicas, nodes(&[4, 5, 1, 2, 3]));
    assert_eq!(
        (moving.adding_replicas, moving.removing_replicas),
        (nodes(&[4, 5]), nodes(&[2, 3]))
    );
    assert_eq!((moving.leader, moving.isr), (before.leader, before.isr));
    assert_eq!(moving.leader_epoch, before.leader_epoch, "its leader goes on as before");

    assert_eq!(world.alter_isr("a", &[1, 2, 3, 4]), 0);
    assert!(world.partition("a", 0).is_reassigning(), "broker 5 has not caught up");
    assert_eq!(world.alter_isr("a", &[1, 4, 5]), 0);
    world.assert_settled(&[4, 5, 1], &[1, 4, 5], 1);
    let after = world.partition("a", 0);
    assert!(after.leader_epoch > moving.leader_epoch, "those who left are fenced by the epoch");
    assert_eq!(world.elect(0, None), vec![("a".to_owned(), 0, 0)]);
    world.assert_settled(&[4, 5, 1], &[1, 4, 5], 4);
    world.check_store();
}

#[test]
fn a_leader_that_leaves_is_told_that_another_was_elected() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1])]));
    assert_eq!(world.reassign("a", 0, Some(&[2, 3])), 0);
    assert_eq!(world.alter_isr("a", &[1, 2, 3]), ResponseError::NewLeaderElected.code());
    world.assert_settled(&[2, 3], &[2, 3], 2);
}

#[test]
fn what_needs_no_copy_is_done_at_once() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2, 3])]));
    let epoch = world.partition("a", 0).leader_epoch;
    assert_eq!(world.reassign("a", 0, Some(&[3, 1, 2])), 0);
    world.assert_settled(&[3, 1, 2], &[1, 2, 3], 1);
    assert_eq!(world.partition("a", 0).leader_epoch, epoch, "nobody leaves");
    assert_eq!(world.reassign("a", 0, Some(&[3, 2])), 0);
    world.assert_settled(&[3, 2], &[2, 3], 3);
    let applied = world.image.applied_index();
    assert_eq!(world.reassign("a", 0, Some(&[3, 2])), 0);
    assert_eq!(world.image.applied_index(), applied, "there is nothing to change");
}

#[test]
fn a_replica_that_is_out_of_sync_is_waited_for_before_others_leave() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2, 3])]));
    assert_eq!(world.alter_isr("a", &[1, 2]), 0);
    assert_eq!(world.reassign("a", 0, Some(&[1, 3])), 0);
    assert_eq!(world.partition("a", 0).removing_replicas, nodes(&[2]));
    assert_eq!(world.alter_isr("a", &[1, 2, 3]), 0);
    world.assert_settled(&[1, 3], &[1, 3], 1);
}

#[test]
fn a_cancellation_takes_out_what_was_added() {
    let mut world = World::with_brokers(4);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    let idle = ResponseError::NoReassignmentInProgress.code();
    assert_eq!(world.reassign("a", 0, None), idle);
    assert_eq!(world.reassign("a", 0, Some(&[3, 4])), 0);
    assert_eq!(world.alter_isr("a", &[1, 2, 3]), 0);
    let moving = world.partition("a", 0).leader_epoch;
    assert_eq!(world.reassign("a", 0, None), 0);
    world.assert_settled(&[1, 2], &[1, 2], 1);
    assert!(world.partition("a", 0).leader_epoch > moving);
    assert_eq!(world.reassign("a", 0, None), idle);
    assert_eq!(world.alter_isr("a", &[1, 2, 3]), ResponseError::InvalidRequest.code());
}

#[test]
fn a_cancellation_loses_nothing_unless_that_is_allowed() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1])]));
    assert_eq!(world.reassign("a", 0, Some(&[2, 3])), 0);
    assert_eq!(world.alter_isr("a", &[1, 2]), 0);
    // The one replica of before fails, and with it what it alone could give back.
    world.start(1, -1);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, &partition.isr), (Some(NodeId(2)), &nodes(&[2])));
    let refused = ResponseError::InvalidReplicaAssignment.code();
    assert_eq!(world.reassign("a", 0, None), refused);
    assert!(world.partition("a", 0).is_reassigning());
    let allow = ("unclean.leader.election.enable", 0, Some("true"));
    assert_eq!(world.alter_config(2, "a", &[allow]), 0);
    assert_eq!(world.reassign("a", 0, None), 0);
    world.assert_settled(&[1], &[1], 1);
    assert!(world.partition("a", 0).recovering, "it leads without what was written meanwhile");
}

#[test]
fn an_eligible_replica_takes_over_where_a_reassignment_is_cancelled() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    assert_eq!(world.alter_config(2, "a", &[("min.insync.replicas", 0, Some("2"))]), 0);
    assert_eq!(world.reassign("a", 0, Some(&[3, 2])), 0);
    assert_eq!(world.alter_isr("a", &[1, 3]), 0);
    world.now_ms += SESSION_MS - 1;
    world.heartbeat(2, false);
    world.heartbeat(3, false);
    world.wait(1);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, &partition.isr), (Some(NodeId(3)), &nodes(&[3])));
    assert_eq!(partition.eligible_leader_replicas, nodes(&[1]));
    assert_eq!(world.reassign("a", 0, None), 0);
    let partition = world.partition("a", 0);
    assert_eq!(partition.replicas, nodes(&[2, 1]));
    assert_eq!(partition.leader, None, "only broker 1 has it all, and is away");
    assert_eq!(partition.eligible_leader_replicas, nodes(&[1]));
    world.heartbeat(1, false);
    world.assert_settled(&[2, 1], &[1], 1);
}

#[test]
fn another_reassignment_replaces_the_one_under_way() {
    let mut world = World::with_brokers(5);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    assert_eq!(world.reassign("a", 0, Some(&[3, 4])), 0);
    assert_eq!(world.alter_isr("a", &[1, 2, 3]), 0);
    assert_eq!(world.reassign("a", 0, Some(&[5, 3])), 0);
    let moving = world.partition("a", 0);
    assert_eq!(moving.replicas, nodes(&[5, 3, 1, 2, 4]));
    assert_eq!(moving.adding_replicas, nodes(&[3, 5]));
    assert_eq!(moving.removing_replicas, nodes(&[1, 2, 4]));
    assert_eq!(world.alter_isr("a", &[1, 2, 3, 5]), ResponseError::NewLeaderElected.code());
    world.assert_settled(&[5, 3], &[3, 5], 5);
    // What was to go stays, if it is named now.
    assert_eq!(world.reassign("a", 0, Some(&[4, 5])), 0);
    assert_eq!(world.reassign("a", 0, Some(&[5, 3])), 0);
    world.assert_settled(&[5, 3], &[3, 5], 5);
}

#[test]
fn assignments_that_cannot_be_are_refused() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    let invalid = ResponseError::InvalidReplicaAssignment.code();
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    let factor = ResponseError::InvalidReplicationFactor.code();
    for replicas in [&[][..], &[1, 1], &[1, 9], &[-1]] {
        assert_eq!(world.reassign("a", 0, Some(replicas)), invalid, "{replicas:?}");
    }
    assert_eq!(world.reassign("a", 1, Some(&[1])), unknown);
    assert_eq!(world.reassign("b", 0, Some(&[1])), unknown);
    assert_eq!(world.reassign_with("a", 0, Some(&[3]), false), factor);
    assert_eq!(world.reassign_with("a", 0, Some(&[3, 1]), false), 0);
    assert_eq!(
        world.reassign_with("a", 0, Some(&[3, 1, 2]), false),
        factor,
        "what goes is not counted"
    );
    assert_eq!(world.reassign_with("a", 0, Some(&[3, 2]), false), 0);
}

#[test]
fn a_fenced_broker_neither_ends_nor_stops_a_reassignment() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    assert_eq!(world.reassign("a", 0, Some(&[1, 3])), 0);
    world.now_ms += SESSION_MS - 1;
    world.heartbeat(1, false);
    world.heartbeat(2, false);
    world.wait(1);
    assert!(world.partition("a", 0).is_reassigning());
    assert_eq!(world.alter_isr("a", &[1, 3]), ResponseError::IneligibleReplica.code());
    world.heartbeat(3, false);
    assert_eq!(world.alter_isr("a", &[1, 3]), 0);
    world.assert_settled(&[1, 3], &[1, 3], 1);
}

#[test]
fn a_minimum_counts_no_replica_that_has_left() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2, 3])]));
    assert_eq!(world.alter_config(2, "a", &[("min.insync.replicas", 0, Some("2"))]), 0);
    assert_eq!(world.reassign("a", 0, Some(&[1])), 0);
    world.assert_settled(&[1], &[1], 1);
    assert_eq!(world.partition("a", 0).eligible_leader_replicas, nodes(&[]));
    // Partitions that are added have as many replicas as those that stay.
    assert_eq!(world.reassign("a", 0, Some(&[1, 2])), 0);
    assert_eq!(world.reassign("a", 0, Some(&[3])), 0);
    assert_eq!(world.partition("a", 0).replicas.len(), 3);
    let grown = CreatePartitionsTopic::default()
        .with_name(TopicName(text("a")))
        .with_count(2)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default().with_topics(vec![grown]);
    drop(world.submit(Request::CreatePartitions(request)));
    assert_eq!(world.partition("a", 1).replicas.len(), 1);
}
