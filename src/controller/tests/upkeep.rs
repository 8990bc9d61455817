//! What the controller does by itself, at intervals.

use std::sync::atomic::Ordering;

use super::*;

const IMBALANCE_MS: u64 = 300_000;

impl World {
    /// Time passes while these brokers live.
    fn live(&mut self, ms: u64, brokers: &[u32]) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.wait((end - self.now_ms).min(SESSION_MS / 2));
            for id in brokers {
                self.heartbeat(*id, false);
            }
        }
    }

    fn set_for_all(&mut self, key: &str, value: &str) {
        assert_eq!(self.alter_config(4, "", &[(key, 0, Some(value))]), 0);
    }

    fn settle(&mut self, topic: &str) {
        let partition = self.partition(topic, 0);
        let all: Vec<u32> = partition.replicas.iter().map(|id| id.0).collect();
        self.alter_isr(topic, &all);
    }
}

#[test]
fn leadership_goes_back_to_the_preferred_replica_once_it_is_in_sync() {
    let mut world = World::with_brokers(2);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    world.live(SESSION_MS, &[2]);
    world.heartbeat(1, false);
    assert_eq!(world.partition("a", 0).leader, Some(NodeId(2)));
    world.live(IMBALANCE_MS, &[1, 2]);
    assert_eq!(world.partition("a", 0).leader, Some(NodeId(2)), "it is not in sync");
    world.settle("a");
    world.live(IMBALANCE_MS, &[1, 2]);
    assert_eq!(world.partition("a", 0).leader, Some(NodeId(1)));
    assert!(world.controller.next_tick_ms().unwrap() > world.now_ms);
}

#[test]
fn a_new_broker_gets_its_share_a_few_partitions_at_a_time() {
    let mut world = World::with_brokers(2);
    for topic in 0..9 {
        world.create_one(assigned(&format!("t{topic}"), &[(0, &[1, 2])]));
    }
    world.start(3, -1);
    let moving = |world: &World| {
        let topics = (0..9).filter(|t| world.partition(&format!("t{t}"), 0).is_reassigning());
        topics.map(|t| format!("t{t}")).collect::<Vec<_>>()
    };
    world.set_for_all("ottla.balancer.enable", "false");
    world.live(120_000, &[1, 2, 3]);
    assert_eq!(moving(&world).len(), 0, "it is switched off");
    world.set_for_all("ottla.balancer.enable", "true");
    world.set_for_all("ottla.balancer.concurrent.moves", "2");
    let mut planned = Vec::new();
    for _ in 0..10 {
        world.live(30_000, &[1, 2, 3]);
        assert!(moving(&world).len() <= 2);
        planned.push(world.controller.config.planned_moves.load(Ordering::Relaxed));
        for topic in moving(&world) {
            assert!(world.partition(&topic, 0).is_balancing, "it keeps to the balancer's rate");
            world.settle(&topic);
            assert!(!world.partition(&topic, 0).is_balancing);
        }
    }
    let held = |id| {
        let topics = (0..9).map(|t| world.partition(&format!("t{t}"), 0));
        topics.filter(|partition| partition.replicas.contains(&NodeId(id))).count()
    };
    assert_eq!([held(1), held(2), held(3)], [5, 9, 4], "broker 2 is alone in its rack");
    assert_eq!(planned[..3], [2, 0, 0], "moves that waited for their turn");
    let prefers = |id| {
        let topics = (0..9).map(|t| world.partition(&format!("t{t}"), 0));
        topics.filter(|partition| partition.preferred_replica() == Some(NodeId(id))).count()
    };
    assert_eq!([prefers(1), prefers(2), prefers(3)], [3, 3, 3]);
    world.check_store();
}

#[test]
fn large_partitions_move_once_their_leaders_have_said_how_large_they_are() {
    let mut world = World::with_brokers(2);
    for (topic, node) in [("a", 1), ("b", 1), ("c", 2), ("d", 2)] {
        world.create_one(assigned(topic, &[(0, &[node])]));
    }
    let moving = |world: &World| {
        let topics = ["a", "b", "c", "d"].into_iter();
        topics.filter(|topic| world.partition(topic, 0).is_reassigning()).collect::<Vec<_>>()
    };
    world.live(120_000, &[1, 2]);
    assert_eq!(moving(&world), [""; 0], "by count it is even");
    let report = |world: &mut World, node: u32, epoch: i64, topics: &[(&str, u64)]| {
        let sizes = |(name, gib): &(&str, u64)| TopicSizes {
            topic_id: world.image.topic_by_name(name).unwrap().id.into(),
            partitions: vec![0, 4711],
            bytes: vec![gib << 30, 1],
        };
        let (broker_id, topics) = (node as i32, topics.iter().map(sizes).collect());
        let request = ReplicaSizesRequest { broker_id, broker_epoch: epoch, topics };
        let Response::ReplicaSizes(answer) = world.submit(Request::ReplicaSizes(request)) else {
            panic!("another answer");
        };
        answer.error_code
    };
    let epoch = |world: &World, node| world.image.broker(NodeId(node)).unwrap().epoch.0;
    let (first, second) = (epoch(&world, 1), epoch(&world, 2));
    let stale = i32::from(ResponseError::StaleBrokerEpoch.code());
    assert_eq!(report(&mut world, 1, first - 1, &[("a", 40)]), stale);
    assert_eq!(report(&mut world, 2, second, &[("a", 40), ("c", 1), ("d", 1)]), 0);
    world.live(30_000, &[1, 2]);
    assert_eq!(moving(&world), [""; 0], "broker 2 does not lead what it calls large");
    assert_eq!(report(&mut world, 1, first, &[("a", 40), ("b", 40)]), 0);
    world.live(30_000, &[1, 2]);
    // Two small ones come back for the large one.
    let large: Vec<_> = moving(&world).into_iter().filter(|topic| "ab".contains(topic)).collect();
    assert_eq!(large.len(), 1, "{:?}", moving(&world));
}

#[test]
fn a_broker_that_is_drained_gets_nothing_new_and_loses_what_it_has() {
    let mut world = World::with_brokers(3);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    assert_eq!(world.alter_config(4, "1", &[("ottla.broker.drain", 0, Some("true"))]), 0);
    world.create_one(topic("b", 6, 2));
    for partition in 0..6 {
        assert!(!world.partition("b", partition).replicas.contains(&NodeId(1)));
    }
    world.live(30_000, &[1, 2, 3]);
    assert_eq!(
        world.partition("a", 0).target_replicas().collect::<Vec<_>>(),
        [NodeId(3), NodeId(2)]
    );
    world.settle("a");
    assert_eq!(world.partition("a", 0).replicas, nodes(&[3, 2]));
}

#[test]
fn replicas_of_a_broker_that_is_away_for_long_begin_anew_elsewhere_where_that_is_wanted() {
    let mut world = World::with_brokers(4);
    world.create_one(assigned("a", &[(0, &[1, 2])]));
    world.create_one(assigned("b", &[(0, &[1])]));
    world.live(600_000, &[2, 3, 4]);
    assert_eq!(world.partition("a", 0).replicas, nodes(&[1, 2]), "it is off by default");
    world.set_for_all("ottla.broker.replacement.grace.ms", "120000");
    // It was seen to be away already, but comes back between two looks, and goes again.
    world.set_for_all("ottla.balancer.enable", "false");
    world.start(1, -1);
    world.live(2 * SESSION_MS, &[2, 3, 4]);
    world.set_for_all("ottla.balancer.enable", "true");
    world.live(100_000, &[2, 3, 4]);
    assert!(!world.partition("a", 0).is_reassigning(), "it has not been away for so long");
    world.live(90_000, &[2, 3, 4]);
    let moving = world.partition("a", 0);
    assert!(moving.is_reassigning() && moving.is_balancing, "{moving:?}");
    assert_eq!(moving.removing_replicas, nodes(&[1]));
    // Nobody could send that one to anybody.
    assert_eq!(world.partition("b", 0).leader, None);
    assert!(!world.partition("b", 0).is_reassigning());
    let remaining: Vec<u32> = moving.target_replicas().map(|id| id.0).collect();
    world.alter_isr("a", &remaining);
    assert!(!world.partition("a", 0).replicas.contains(&NodeId(1)));
}
