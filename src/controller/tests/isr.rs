//! Who is in sync, who is eligible, and who leads when a broker is gone.

use super::*;

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
