//! Planned stops.

use super::*;

impl World {
    /// A planned stop to its end.
    pub(super) fn shut_down(&mut self, id: u32) {
        self.heartbeat(id, true);
        let others: Vec<u32> = self.image.brokers().map(|broker| broker.id.0).collect();
        for other in others.into_iter().filter(|other| *other != id) {
            self.heartbeat(other, false);
        }
        assert_eq!(self.heartbeat(id, true), (0, true, true));
    }
}

#[test]
fn a_broker_shuts_down_when_the_others_know_who_leads_instead() {
    let mut world = World::with_brokers(3);
    let topics = [assigned("a", &[(0, &[1, 2])]), assigned("b", &[(0, &[2, 1])])];
    world.create(topics.into_iter().chain([assigned("alone", &[(0, &[1])])]).collect());
    assert_eq!(world.heartbeat(1, true), (0, false, false));
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, &partition.isr), (Some(NodeId(2)), &nodes(&[2])));
    assert_eq!(world.partition("b", 0).isr, nodes(&[2]));
    assert_eq!(world.partition("alone", 0).leader, Some(NodeId(1)), "nobody else could lead it");
    let ineligible = ResponseError::IneligibleReplica.code();
    assert_eq!(world.alter_isr("a", &[2, 1]), ineligible, "it is about to go");
    assert!(world.create_one(topic("new", 3, 2)).error_code == 0);
    assert!(world.image.partitions_of(NodeId(1)).count() <= 3, "others suffice for what is new");

    let changed_at = world.image.applied_index();
    assert_eq!(world.heartbeat(1, true), (0, false, false));
    world.heartbeat(2, false);
    assert_eq!(world.heartbeat(1, true), (0, false, false), "broker 3 may not know yet");
    world.heartbeat(3, false);
    assert_eq!(world.heartbeat(1, true), (0, true, true));
    assert!(world.image.applied_index() > changed_at);
    assert_eq!(world.partition("alone", 0).leader, None);
    assert_eq!(world.heartbeat(1, true), (0, true, true), "the answer may have been lost");

    let epoch = world.epoch(1);
    world.start(1, epoch);
    assert_eq!(world.partition("alone", 0).leader, Some(NodeId(1)));
    assert_eq!(world.alter_isr("a", &[2, 1]), 0);
}

#[test]
fn a_shutdown_waits_for_no_broker_that_is_gone_and_survives_a_new_controller() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    assert_eq!(world.heartbeat(1, true), (0, false, false));
    let config = Config::defaults(NodeId(2), ClusterId(Uuid::from_u128(1)));
    world.controller = Controller::activate(config, &world.image, world.now_ms);
    assert_eq!(world.heartbeat(1, true), (0, false, false));
    world.heartbeat(2, false);
    world.now_ms += SESSION_MS - 1;
    world.heartbeat(1, true);
    world.heartbeat(2, false);
    world.wait(1);
    assert!(world.image.broker(NodeId(3)).unwrap().fenced);
    world.heartbeat(2, false);
    assert_eq!(world.heartbeat(1, true), (0, true, true));
}

#[test]
fn whoever_was_last_in_sync_leads_again_though_it_was_shutting_down_when_it_ended() {
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    assert_eq!(world.alter_config(2, "a", &[("min.insync.replicas", 0, Some("2"))]), 0);
    assert_eq!(world.alter_isr("a", &[1]), 0);
    assert_eq!(world.partition("a", 0).eligible_leader_replicas, nodes(&[2]));
    world.heartbeat(1, true);
    world.start(2, -1);
    let partition = world.partition("a", 0);
    assert_eq!(
        (partition.leader, &partition.isr),
        (Some(NodeId(1)), &nodes(&[1])),
        "until it goes"
    );
    world.shut_down(1);
    assert_eq!(world.partition("a", 0).leader, None);
    world.start(1, -1);
    let partition = world.partition("a", 0);
    assert_eq!((partition.leader, &partition.isr), (Some(NodeId(1)), &nodes(&[1])));
    world.check_store();
}
