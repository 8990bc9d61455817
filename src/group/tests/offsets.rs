//! Committed offsets: kept, read, deleted, expired.

use kafka_protocol::messages::{
    ListGroupsRequest, OffsetDeleteRequest,
    offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
};

use super::*;
use crate::group::{
    partition_for,
    state::{Change, CommittedOffset, GroupMetadata, MemberMetadata},
};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

fn delete_offset(sim: &mut Sim, topic: &str) -> (i16, Option<i16>) {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(s(topic).into())
        .with_partitions(vec![partition]);
    let request =
        OffsetDeleteRequest::default().with_group_id(s(GROUP).into()).with_topics(vec![topic]);
    let Response::DeleteOffsets(response) = sim.ask(Request::DeleteOffsets(request)) else {
        panic!()
    };
    (response.error_code, response.topics.first().map(|t| t.partitions[0].error_code))
}

#[test]
fn the_unknown_is_minus_one_and_no_error() {
    let mut sim = Sim::new();
    assert_eq!(sim.fetch("nobody", "t"), -1);
    sim.commit_offset("", -1, 3);
    assert_eq!(sim.fetch(GROUP, "other"), -1);
}

#[test]
fn metadata_and_leader_epoch_make_the_round_trip_over_a_restart() {
    let mut sim = Sim::new();
    sim.commit_offset("", -1, 42);
    sim.restart();
    let group = OffsetFetchRequestGroup::default().with_group_id(s(GROUP).into()).with_topics(None);
    let Response::FetchOffsets(all) =
        sim.ask(Request::FetchOffsets { group, require_stable: true })
    else {
        panic!()
    };
    let partition = &all.topics[0].partitions[0];
    assert_eq!(*all.topics[0].name, *"t");
    assert_eq!((partition.committed_offset, partition.committed_leader_epoch), (42, 7));
    assert_eq!(partition.metadata.as_deref(), Some("note"));
}

#[test]
fn an_offset_is_seen_once_it_is_committed() {
    let mut sim = Sim::new();
    sim.hold = true;
    let commit = sim.send(Sim::commit_request(GROUP, "", -1, "t", 9));
    assert!(sim.poll(commit).is_none());
    assert_eq!(sim.fetch(GROUP, "t"), -1);
    sim.commit();
    sim.answer(commit);
    assert_eq!(sim.fetch(GROUP, "t"), 9);
}

#[test]
fn requests_that_arrive_during_an_append_share_the_next_batch() {
    let mut sim = Sim::new();
    for offset in 0..3 {
        let now = sim.now();
        let request = Sim::commit_request(GROUP, "", -1, "t", offset);
        sim.pipeline().request(Token(1_000 + offset as u64), request, now);
        if offset == 0 {
            assert_eq!(sim.pipeline().take_batch().unwrap().0.len(), 1);
        }
    }
    let now = sim.now();
    assert!(sim.pipeline().take_replies().is_empty());
    sim.pipeline().committed(now);
    assert_eq!(sim.pipeline().take_replies().len(), 1);
    assert_eq!(sim.pipeline().take_batch().unwrap().0.len(), 2);
    sim.pipeline().committed(now);
    assert_eq!(sim.pipeline().take_replies().len(), 2);
}

#[test]
fn a_refused_commit_leaves_no_trace() {
    let mut sim = Sim::new();
    sim.commit_offset("", -1, 1);
    sim.hold = true;
    let known = sim.send(Sim::commit_request(GROUP, "", -1, "t", 2));
    let unknown = sim.send(Sim::commit_request("new", "", -1, "t", 2));
    sim.refuse();
    for token in [known, unknown] {
        assert_eq!(sim.poll(token), Some(Err(Failure::CoordinatorNotAvailable)));
    }
    assert_eq!(sim.fetch(GROUP, "t"), 1);
    assert!(!sim.shard().groups.contains_key("new"));
}

#[test]
fn a_refused_deletion_brings_the_group_back() {
    let mut sim = Sim::new();
    let (ids, _) = sim.stable(1);
    sim.leave(&[(&ids[0], None)]);
    sim.hold = true;
    let delete = sim.send(Request::Delete { groups: vec![s(GROUP).into()] });
    assert_eq!(sim.state(), "Dead");
    sim.refuse();
    assert!(matches!(sim.poll(delete), Some(Err(_))));
    assert_eq!(sim.state(), "Empty");
}

#[test]
fn a_commit_larger_than_a_batch_is_split_and_answered_once() {
    let mut sim = Sim::new();
    let mut request = OffsetCommitRequest::default()
        .with_group_id(s(GROUP).into())
        .with_generation_id_or_member_epoch(-1);
    let partitions = (0..10_000).map(|index| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_metadata(Some(s(&"m".repeat(200))))
    });
    request.topics.push(
        OffsetCommitRequestTopic::default()
            .with_name(s("t").into())
            .with_partitions(partitions.collect()),
    );
    let Response::CommitOffsets(response) = sim.ask(Request::CommitOffsets { request, version: 9 })
    else {
        panic!()
    };
    assert!(response.topics[0].partitions.iter().all(|partition| partition.error_code == 0));
    assert_eq!(sim.log.len(), 10_000);
}

#[test]
fn long_metadata_is_refused_for_its_partition_alone() {
    let mut sim = Sim::with(Config { offset_metadata_max_bytes: 4, ..Config::default() });
    let partition = |index, metadata: &str| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_metadata(Some(s(metadata)))
    };
    let topic = OffsetCommitRequestTopic::default()
        .with_name(s("t").into())
        .with_partitions(vec![partition(0, "12345"), partition(1, "1234")]);
    let request = OffsetCommitRequest::default()
        .with_group_id(s(GROUP).into())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let Response::CommitOffsets(response) = sim.ask(Request::CommitOffsets { request, version: 9 })
    else {
        panic!()
    };
    let codes: Vec<_> =
        response.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
    assert_eq!(codes, [code(ResponseError::OffsetMetadataTooLarge), 0]);
}

#[test]
fn an_old_client_hears_of_an_illegal_generation_where_the_group_is_missing() {
    let mut sim = Sim::new();
    let Request::CommitOffsets { request, .. } = Sim::commit_request(GROUP, "m", 1, "t", 1) else {
        unreachable!()
    };
    let Response::CommitOffsets(response) = sim.ask(Request::CommitOffsets { request, version: 8 })
    else {
        panic!()
    };
    let partition = &response.topics[0].partitions[0];
    assert_eq!(partition.error_code, code(ResponseError::IllegalGeneration));
}

#[test]
fn offsets_of_topics_that_are_consumed_cannot_be_deleted() {
    let mut sim = Sim::new();
    assert_eq!(delete_offset(&mut sim, "t").0, code(ResponseError::GroupIdNotFound));
    let (ids, generation) = sim.stable(1);
    sim.commit_offset(&ids[0], generation, 5);
    let subscribed = code(ResponseError::GroupSubscribedToTopic);
    assert_eq!(delete_offset(&mut sim, "t"), (0, Some(subscribed)));
    sim.leave(&[(&ids[0], None)]);
    assert_eq!(delete_offset(&mut sim, "t"), (0, Some(0)));
    assert_eq!(sim.fetch(GROUP, "t"), -1);
}

#[test]
fn a_group_in_use_by_another_protocol_keeps_its_offsets() {
    let mut sim = Sim::new();
    let (_, join) = sim.enter(Join { protocol_type: "connect", ..Join::dynamic() });
    sim.advance(3_000);
    sim.joined(join);
    assert_eq!(delete_offset(&mut sim, "t").0, code(ResponseError::NonEmptyGroup));
}

#[test]
fn offsets_of_an_empty_group_expire_after_it_became_empty() {
    let mut sim = Sim::new();
    let (ids, generation) = sim.stable(1);
    sim.commit_offset(&ids[0], generation, 5);
    sim.leave(&[(&ids[0], None)]);
    sim.advance(6 * DAY_MS);
    assert_eq!(sim.fetch(GROUP, "t"), 5);
    sim.advance(DAY_MS + 600_000);
    assert_eq!(sim.fetch(GROUP, "t"), -1);
    assert_eq!(sim.state(), "Dead", "an empty group without offsets goes");
    sim.restart();
    assert_eq!(sim.state(), "Dead");
}

#[test]
fn offsets_of_a_consumer_of_its_own_expire_after_its_last_commit() {
    let mut sim = Sim::new();
    sim.commit_offset("", -1, 1);
    sim.advance(6 * DAY_MS);
    sim.commit_offset("", -1, 2);
    sim.advance(6 * DAY_MS);
    assert_eq!(sim.fetch(GROUP, "t"), 2);
    sim.advance(2 * DAY_MS);
    assert_eq!(sim.fetch(GROUP, "t"), -1);
}

#[test]
fn a_retention_that_the_client_asked_for_counts() {
    let mut sim = Sim::new();
    let Request::CommitOffsets { mut request, .. } = Sim::commit_request(GROUP, "", -1, "t", 1)
    else {
        unreachable!()
    };
    request.retention_time_ms = 3_600_000;
    sim.ask(Request::CommitOffsets { request, version: 4 });
    sim.restart();
    sim.advance(2 * 3_600_000);
    assert_eq!(sim.fetch(GROUP, "t"), -1);
}

#[test]
fn offsets_of_deleted_topics_go_with_them() {
    let mut sim = Sim::new();
    sim.commit_offset("", -1, 1);
    sim.ask(Sim::commit_request(GROUP, "", -1, "u", 2));
    sim.ask(Request::TopicsDeleted(vec![s("t").into()]));
    assert_eq!((sim.fetch(GROUP, "t"), sim.fetch(GROUP, "u")), (-1, 2));
    sim.ask(Request::TopicsDeleted(vec![s("u").into()]));
    assert_eq!(sim.state(), "Dead");
}

#[test]
fn deleting_a_group_deletes_its_offsets() {
    let mut sim = Sim::new();
    sim.commit_offset("", -1, 1);
    sim.ask(Request::Delete { groups: vec![s(GROUP).into()] });
    assert_eq!(sim.fetch(GROUP, "t"), -1);
    sim.restart();
    assert_eq!(sim.fetch(GROUP, "t"), -1);
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut sim = Sim::new();
    sim.stable(1);
    sim.ask(Sim::commit_request("idle", "", -1, "t", 1));
    let mut list = |states: &[&str], types: &[&str]| {
        let request = ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|text| s(text)).collect())
            .with_types_filter(types.iter().map(|text| s(text)).collect());
        let Response::List(response) = sim.ask(Request::List(request)) else { panic!() };
        response.groups.iter().map(|group| group.group_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list(&[], &[]), ["g", "idle"]);
    assert_eq!(list(&["stable"], &["Classic"]), ["g"]);
    assert_eq!(list(&["Empty"], &[]), ["idle"]);
    assert!(list(&[], &["consumer"]).is_empty());
}

#[test]
fn groups_are_described() {
    let mut sim = Sim::new();
    let (ids, _) = sim.stable(1);
    let groups = vec![s(GROUP).into(), s("none").into()];
    let Response::Describe(response) =
        sim.ask(Request::Describe { groups: groups.clone(), version: 6 })
    else {
        panic!()
    };
    let [group, none] = &response.groups[..] else { panic!() };
    assert_eq!((&*group.group_state, &*group.protocol_data), ("Stable", "range"));
    assert_eq!(*group.members[0].member_id, *ids[0]);
    assert_eq!(group.members[0].member_assignment, "parts");
    assert_eq!(*group.members[0].client_host, *"/127.0.0.1");
    assert_eq!(none.error_code, code(ResponseError::GroupIdNotFound));
    let Response::Describe(response) = sim.ask(Request::Describe { groups, version: 5 }) else {
        panic!()
    };
    assert_eq!((response.groups[1].error_code, &*response.groups[1].group_state), (0, "Dead"));
}

#[test]
fn groups_are_kept_where_kafka_looks_for_them() {
    // As Kafka 4.3.1's Utils.abs(id.hashCode()) % 50 answers.
    let expected = [
        ("", 0),
        ("g", 3),
        ("my-group", 12),
        ("polygenelubricants", 0),
        ("gr\u{fc}\u{df}e-\u{1f600}", 27),
    ];
    for (id, partition) in expected {
        assert_eq!(partition_for(id, 50), partition, "{id}");
    }
}

#[test]
fn records_read_back_as_they_were_written() {
    let member = MemberMetadata {
        id: "m".into(),
        instance: Some("i".into()),
        client_id: "c".into(),
        client_host: "/h".into(),
        rebalance_timeout_ms: 1,
        session_timeout_ms: 2,
        subscription: Bytes::from_static(b"s"),
        assignment: Bytes::new(),
    };
    let metadata = GroupMetadata {
        protocol_type: "consumer".into(),
        generation: 3,
        protocol: Some("range".into()),
        leader: Some("m".into()),
        state_timestamp_ms: 4,
        members: vec![member.clone(), MemberMetadata { instance: None, ..member }],
    };
    let offset = |expire_timestamp_ms, leader_epoch| CommittedOffset {
        offset: 5,
        leader_epoch,
        metadata: "note".into(),
        commit_timestamp_ms: 6,
        expire_timestamp_ms,
    };
    let (group, topic) = (crate::group::Str::from("g"), crate::group::Str::from("t"));
    let of = |offset| Change::Offset {
        group: group.clone(),
        topic: topic.clone(),
        partition: 1,
        offset,
    };
    let changes = [
        Change::Group { group: group.clone(), metadata: Some(metadata) },
        Change::Group { group: group.clone(), metadata: None },
        of(Some(offset(None, 9))),
        // Version 1, the one that can expire, has no leader epoch.
        of(Some(offset(Some(7), -1))),
        of(None),
    ];
    for change in changes {
        let record = change.encode();
        assert_eq!(Change::decode(&record), Ok(Some(change)));
        for end in 0..record.value.as_ref().map_or(0, Bytes::len) {
            let value = record.value.as_ref().map(|value| value.slice(..end));
            assert!(Change::decode(&Record { key: record.key.clone(), value }).is_err());
        }
    }
}

#[test]
fn flexible_values_with_tags_are_read() {
    // OffsetCommitValue version 4: offset, epoch, compact metadata, time, one tagged field.
    let mut value = BytesMut::new();
    value.put_i16(4);
    value.put_i64(11);
    value.put_i32(2);
    value.put_slice(&[3, b'h', b'i']);
    value.put_i64(99);
    value.put_slice(&[1, 0, 16]);
    value.put_slice(&[7; 16]);
    let key = Change::Offset { group: "g".into(), topic: "t".into(), partition: 0, offset: None };
    let record = Record { key: key.encode().key, value: Some(value.freeze()) };
    let Ok(Some(Change::Offset { offset: Some(offset), .. })) = Change::decode(&record) else {
        panic!()
    };
    assert_eq!((offset.offset, offset.leader_epoch, &*offset.metadata), (11, 2, "hi"));
}
