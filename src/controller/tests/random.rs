//! Any sequence of requests.

use super::*;

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
    Reassign(u8, Vec<u8>),
    Cancel(u8),
    Sync(u8, u8),
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
        (0..4u8, prop::collection::vec(1..5u8, 1..4)).prop_map(|(t, to)| Step::Reassign(t, to)),
        (0..4u8).prop_map(Step::Cancel),
        (0..4u8, any::<u8>()).prop_map(|(t, who)| Step::Sync(t, who)),
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
            Step::Reassign(t, to) => {
                let to: Vec<i32> = to.into_iter().map(i32::from).collect();
                self.reassign(&name(t), 0, Some(&to));
            }
            Step::Cancel(t) => drop(self.reassign(&name(t), 0, None)),
            Step::Sync(t, who) => self.sync(&name(t), who),
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

    /// The leader has `who`, by bits, in sync.
    fn sync(&mut self, name: &str, who: u8) {
        let Some(topic) = self.image.topic_by_name(name) else { return };
        let partition = topic.partition(PartitionIndex(0)).unwrap();
        let Some(leader) = partition.leader else { return };
        let is_in = |id: &u32| who & (1 << (id % 8)) != 0 || *id == leader.0;
        let isr: Vec<u32> = partition.replicas.iter().map(|id| id.0).filter(is_in).collect();
        self.alter_isr(name, &isr);
    }

    /// A reassignment whose brokers and log directories are all there ends once its leader has all of them in sync.
    fn assert_moves_end(&mut self, name: &str) {
        let Some(topic) = self.image.topic_by_name(name) else { return };
        let partition = topic.partition(PartitionIndex(0)).unwrap();
        let is_there = |id: &NodeId| {
            self.image.broker(*id).is_some_and(|broker| partition.is_active_on(broker))
        };
        let can_end = partition.leader.is_some() && partition.replicas.iter().all(is_there);
        if can_end && partition.is_reassigning() {
            if partition.recovering {
                // It says first that it has taken over, alone.
                self.resize(name, false);
            }
            self.resize(name, true);
            assert!(!self.partition(name, 0).is_reassigning(), "it never ends");
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
                    let leaves = was.replicas.iter().any(|node| !is.replicas.contains(node));
                    prop_assert!(!same_epoch || !leaves, "who leaves is fenced");
                    let in_sync = is.target_replicas().all(|node| is.isr.contains(&node));
                    prop_assert!(!is.is_reassigning() || !in_sync, "over once all are in sync");
                }
            }
        }
        world.check_store();
        for broker in 1..5 {
            world.heartbeat(broker, false);
        }
        for name in (0..4).map(|topic| format!("t{topic}")) {
            world.assert_moves_end(&name);
        }
    }
}
