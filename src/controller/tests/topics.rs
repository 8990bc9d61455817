//! Topics that come, grow and go, and where their replicas are placed.

use super::*;

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
