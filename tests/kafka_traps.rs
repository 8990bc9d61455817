//! What servers of Kafka's protocol get wrong, checked at a whole node: where a request is answered
//! element by element, in which version, and what happens to what was not asked for.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Served, call, serve, serve_with};
use kafka_protocol::{
    messages::{
        CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DescribeGroupsRequest,
        FetchRequest, FindCoordinatorRequest, GroupId, IncrementalAlterConfigsRequest,
        InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest,
        ProduceRequest, TopicName,
        create_topics_request::CreatableTopic,
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        fetch_request::{FetchPartition, FetchTopic},
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use ottla::{
    base::{ProducerEpoch, ProducerId},
    protocol::{
        ResponseError,
        batch::{Attributes, BatchBuilder, BatchOptions, NewRecord, Producer},
    },
};
use tokio::{io::AsyncReadExt, net::TcpStream};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = ResponseError::UnknownTopicOrPartition.code();

fn name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

async fn create(stream: &mut TcpStream, topic: &str, timeout_ms: i32) -> i16 {
    let topic = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let request =
        CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms);
    call(stream, &request, 5).await.topics[0].error_code
}

async fn metadata(stream: &mut TcpStream, topic: &str, create: bool) -> i16 {
    let topic = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_allow_auto_topic_creation(create);
    call(stream, &request, 9).await.topics[0].error_code
}

/// A batch with one record for each timestamp.
fn batch(timestamps_ms: &[i64]) -> Bytes {
    batch_with(BatchOptions::default(), timestamps_ms)
}

fn batch_with(options: BatchOptions, timestamps_ms: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for &timestamp_ms in timestamps_ms {
        builder.push(&NewRecord { timestamp_ms, key: None, value: Some(b"v"), headers: &[] });
    }
    builder.build().unwrap().bytes().clone()
}

/// The same as a part of a transaction.
fn transactional(timestamps_ms: &[i64]) -> Bytes {
    let options = BatchOptions {
        attributes: Attributes::default().with_transactional(true),
        producer: Producer { id: ProducerId(1), epoch: ProducerEpoch(0), base_sequence: 0 },
        ..BatchOptions::default()
    };
    batch_with(options, timestamps_ms)
}

/// Produces to several partitions and returns their error codes and base offsets.
async fn produce(stream: &mut TcpStream, to: &[(&str, i32)], records: Bytes) -> Vec<(i16, i64)> {
    let topics = to.iter().map(|(topic, index)| {
        let data =
            PartitionProduceData::default().with_index(*index).with_records(Some(records.clone()));
        TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data])
    });
    let request = ProduceRequest::default()
        .with_transactional_id(None)
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(topics.collect());
    let response = call(stream, &request, 9).await;
    let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    partitions.map(|partition| (partition.error_code, partition.base_offset)).collect()
}

/// Asks for the offsets of some timestamps in partition 0; returns errors, offsets, timestamps.
async fn list(
    stream: &mut TcpStream,
    topic: &str,
    timestamp: i64,
    version: i16,
) -> (i16, i64, i64) {
    let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request =
        ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let response = call(stream, &request, version).await;
    let found = &response.topics[0].partitions[0];
    (found.error_code, found.offset, found.timestamp)
}

/// Waits until the group has a coordinator that answers.
async fn coordinate(stream: &mut TcpStream, group: &'static str) {
    let key = StrBytes::from_static_str(group);
    let find = FindCoordinatorRequest::default().with_key(key.clone());
    let describe = DescribeGroupsRequest::default().with_groups(vec![GroupId(key)]);
    let found = async {
        while call(stream, &find, 3).await.error_code != 0
            || call(stream, &describe, 5).await.groups[0].error_code != 0
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(common::LONG, found).await.expect("the group has no coordinator");
}

async fn served_topic(served: &Served) -> TcpStream {
    let mut stream = served.connect().await;
    assert_eq!(create(&mut stream, "topic", 10_000).await, 0);
    stream
}

#[tokio::test]
async fn every_special_timestamp_of_list_offsets_means_what_it_does_in_kafka() {
    let served = serve().await;
    let mut stream = served_topic(&served).await;
    for timestamp in [-1, -2, -4] {
        assert_eq!(list(&mut stream, "topic", timestamp, 9).await, (0, 0, -1), "{timestamp}");
    }
    for timestamp in [-3, -5, 1] {
        assert_eq!(list(&mut stream, "topic", timestamp, 9).await, (0, -1, -1), "{timestamp}");
    }
    // The latest timestamp is not that of the last record.
    produce(&mut stream, &[("topic", 0)], batch(&[1_000, 3_000, 2_000])).await;
    for (timestamp, found) in [
        (-1, (0, 3, -1)),
        (-2, (0, 0, -1)),
        (-3, (0, 1, 3_000)),
        (-4, (0, 0, -1)),
        (-5, (0, -1, -1)),
        (1_500, (0, 1, 3_000)),
        (3_001, (0, -1, -1)),
    ] {
        assert_eq!(list(&mut stream, "topic", timestamp, 9).await, found, "{timestamp}");
    }
    let unknown = list(&mut stream, "topic", -7, 9).await;
    assert_eq!(unknown, (ResponseError::UnsupportedVersion.code(), -1, -1));
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn a_fetch_within_a_batch_gets_all_of_it_and_every_partition_its_own_error() {
    let served = serve().await;
    let mut stream = served_topic(&served).await;
    produce(&mut stream, &[("topic", 0)], batch(&[1, 2, 3])).await;
    let partition = |index, offset| {
        FetchPartition::default()
            .with_partition(index)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20)
    };
    let topic = |topic, partitions| {
        FetchTopic::default().with_topic(name(topic)).with_partitions(partitions)
    };
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_bytes(1 << 20)
        .with_topics(vec![
            topic("topic", vec![partition(0, 2), partition(9, 0)]),
            topic("no-such", vec![partition(0, 0)]),
        ]);
    let response = call(&mut stream, &request, 11).await;
    let found: Vec<_> = response.responses.iter().flat_map(|topic| &topic.partitions).collect();
    let codes: Vec<_> = found.iter().map(|partition| partition.error_code).collect();
    assert_eq!(codes, [0, UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_OR_PARTITION]);
    let records = found[0].records.as_ref().unwrap();
    // Base offset 0 and three records, though the fetch began at the last of them.
    assert_eq!(records[..8], [0; 8]);
    assert_eq!(records[57..61], [0, 0, 0, 3]);
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn each_element_of_a_request_is_answered_with_its_own_error() {
    let served = serve().await;
    let mut stream = served_topic(&served).await;
    let to = [("topic", 0), ("topic", 9), ("no-such", 0), ("topic", 0)];
    assert_eq!(
        produce(&mut stream, &to, batch(&[1])).await,
        [(0, 0), (UNKNOWN_TOPIC_OR_PARTITION, -1), (UNKNOWN_TOPIC_OR_PARTITION, -1), (0, 1)]
    );
    let partition = |index, offset| {
        DeleteRecordsPartition::default().with_partition_index(index).with_offset(offset)
    };
    let partitions = vec![partition(0, 1), partition(9, 0)];
    let topic = DeleteRecordsTopic::default().with_name(name("topic")).with_partitions(partitions);
    let gone =
        DeleteRecordsTopic::default().with_name(name("no")).with_partitions(vec![partition(0, 0)]);
    let request =
        DeleteRecordsRequest::default().with_topics(vec![topic, gone]).with_timeout_ms(10_000);
    let response = call(&mut stream, &request, 1).await;
    let found = response.topics.iter().flat_map(|topic| &topic.partitions);
    let found: Vec<_> = found.map(|found| (found.error_code, found.low_watermark)).collect();
    let unknown = (UNKNOWN_TOPIC_OR_PARTITION, -1);
    assert_eq!(found, [(0, 1), unknown, unknown]);

    for group in ["kept", "none"] {
        coordinate(&mut stream, group).await;
    }
    let group = |group: &'static str| GroupId(StrBytes::from_static_str(group));
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(name("topic"))
        .with_partitions(vec![partition]);
    let commit = OffsetCommitRequest::default()
        .with_group_id(group("kept"))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let committed = call(&mut stream, &commit, 5).await;
    assert_eq!(committed.topics[0].partitions[0].error_code, 0);
    let request =
        DeleteGroupsRequest::default().with_groups_names(vec![group("none"), group("kept")]);
    let response = call(&mut stream, &request, 1).await;
    // In the order of their coordinators.
    let mut found: Vec<_> =
        response.results.iter().map(|one| (one.group_id.as_str(), one.error_code)).collect();
    found.sort_unstable();
    assert_eq!(found, [("kept", 0), ("none", ResponseError::GroupIdNotFound.code())]);
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn topics_are_created_by_metadata_only_where_node_and_request_allow_it() {
    let served = serve().await;
    let mut stream = served.connect().await;
    assert_eq!(metadata(&mut stream, "one", false).await, UNKNOWN_TOPIC_OR_PARTITION);
    // Kafka's clients ask again where a topic that is being created is not there at once.
    assert_eq!(metadata(&mut stream, "one", true).await, 0);
    assert_eq!(metadata(&mut stream, "one", false).await, 0);
    served.node.stop().await.unwrap();

    let served = serve_with(&[("auto.create.topics.enable", "false")]).await;
    let mut stream = served.connect().await;
    for create in [true, false] {
        assert_eq!(metadata(&mut stream, "one", create).await, UNKNOWN_TOPIC_OR_PARTITION);
    }
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn a_request_without_time_is_not_carried_out_in_secret() {
    let served = serve().await;
    let mut stream = served.connect().await;
    let code = create(&mut stream, "topic", 0).await;
    assert_eq!(code, ResponseError::RequestTimedOut.code());
    // Whatever the controller still had to do, it has done before this.
    assert_eq!(create(&mut stream, "other", 10_000).await, 0);
    assert_eq!(metadata(&mut stream, "topic", false).await, UNKNOWN_TOPIC_OR_PARTITION);
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_wants_transactions_is_told_at_once_that_there_are_none() {
    let served = serve().await;
    let mut stream = served.connect().await;
    let refused = ResponseError::TransactionalIdAuthorizationFailed.code();
    let key = StrBytes::from_static_str("id");
    for version in 1..=6 {
        let request = FindCoordinatorRequest::default().with_key_type(1);
        let request = match version {
            4.. => request.with_coordinator_keys(vec![key.clone()]),
            _ => request.with_key(key.clone()),
        };
        let response = call(&mut stream, &request, version).await;
        let code = response.coordinators.first().map_or(response.error_code, |one| one.error_code);
        assert_eq!(code, refused, "version {version}");
    }
    for version in 0..=5 {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(key.clone().into()))
            .with_transaction_timeout_ms(60_000);
        let response = call(&mut stream, &request, version).await;
        assert_eq!(response.error_code, refused, "version {version}");
    }
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn a_batch_of_a_transaction_is_refused_and_holds_up_nobody() {
    let served = serve().await;
    let mut stream = served_topic(&served).await;
    let refused = ResponseError::TransactionalIdAuthorizationFailed.code();
    let to = [("topic", 0)];
    assert_eq!(produce(&mut stream, &to, transactional(&[1])).await, [(refused, -1)]);
    assert_eq!(produce(&mut stream, &to, batch(&[2])).await, [(0, 0)]);
    let partition = ListOffsetsPartition::default().with_timestamp(-1);
    let topic =
        ListOffsetsTopic::default().with_name(name("topic")).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_isolation_level(1)
        .with_topics(vec![topic]);
    let response = call(&mut stream, &request, 9).await;
    assert_eq!(response.topics[0].partitions[0].offset, 1, "the last stable offset");
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn limits_of_connections_change_at_run_time() {
    let served = serve().await;
    let mut stream = served.connect().await;
    let set = |key: &'static str, value: &'static str| {
        let config = AlterableConfig::default()
            .with_name(StrBytes::from_static_str(key))
            .with_value(Some(StrBytes::from_static_str(value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(4)
            .with_resource_name(StrBytes::from_static_str("1"))
            .with_configs(vec![config]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    let limit = set("max.connections.per.ip", "1");
    assert_eq!(call(&mut stream, &limit, 0).await.responses[0].error_code, 0);
    // The change is followed a moment after it was answered.
    let refused = async {
        loop {
            let mut second = served.connect().await;
            let read = tokio::time::timeout(Duration::from_millis(50), second.read_u8());
            if let Ok(Err(_)) = read.await {
                return;
            }
        }
    };
    tokio::time::timeout(common::LONG, refused).await.expect("nobody was refused");
    let other = set("max.connections.per.ip.overrides", "127.0.0.1:5");
    assert_eq!(call(&mut stream, &other, 0).await.responses[0].error_code, 0);
    let served_again = async {
        loop {
            let mut second = served.connect().await;
            let read = tokio::time::timeout(Duration::from_millis(50), second.read_u8());
            if read.await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(common::LONG, served_again).await.expect("the override has no effect");
    served.node.stop().await.unwrap();
}
