//! A node whose disk fails: what cannot be done is refused, nothing acknowledged is lost, the rest
//! goes on, and whoever has to look after it is told where.

use std::time::Duration;

use kafka_protocol::{
    messages::{
        FetchRequest, ProduceRequest, TopicName,
        fetch_request::{FetchPartition, FetchTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use ottla::{
    base::{NodeId, PartitionIndex},
    client::{ClientError, Lane, Record, Target},
    log::{Dir as _, SimDir, SimFault, SimOperation},
    node::NodeFailure,
    protocol::batch::{BatchBuilder, BatchOptions, NewRecord},
};
use tokio::time::timeout;

use crate::{
    machine::{Machine, Served, record},
    wait::eventually,
};

pub(crate) const SETTINGS: &[(&str, &str)] = &[("log.retention.ms", "-1")];
const OFFLINE: &str = "ottla_log_directory_offline{directory=\"/simulated\"}";
/// Kafka's code of KAFKA_STORAGE_ERROR.
const STORAGE_ERROR: i16 = 56;
const EIO: i32 = 5;

pub(crate) fn records(range: std::ops::Range<u32>) -> impl Iterator<Item = Record> {
    range.map(|n| record("k", Some(n.to_string().into_bytes()), 1_000_000))
}

/// Writes numbers, all of which are acknowledged.
pub(crate) async fn write(served: &Served, topic: &str, range: std::ops::Range<u32>) {
    let delivered = served.produce(topic, records(range)).await;
    assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
}

pub(crate) async fn numbers(served: &Served, topic: &str) -> Vec<u32> {
    let read = served.consume(topic).await;
    read.iter()
        .map(|r| std::str::from_utf8(r.value.as_ref().unwrap()).unwrap().parse().unwrap())
        .collect()
}

pub(crate) fn all(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

/// The error code that one produce request gets.
async fn produce_once(served: &Served) -> i16 {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value = [7; 100];
    builder.push(&NewRecord { timestamp_ms: 1, value: Some(&value), ..NewRecord::default() });
    let records = builder.build().unwrap().bytes().clone();
    let id = served.client.topic("t").await.unwrap().id;
    let partition = PartitionProduceData::default().with_index(0).with_records(Some(records));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_topic_id(id.0)
        .with_partition_data(vec![partition]);
    let request =
        ProduceRequest::default().with_acks(-1).with_timeout_ms(5_000).with_topic_data(vec![topic]);
    let response = served.client.call(Target::Node(1), Lane::GENERAL, &request).await.unwrap();
    response.responses[0].partition_responses[0].error_code
}

/// The error code that one fetch request gets.
async fn fetch_once(served: &Served) -> i16 {
    let id = served.client.topic("t").await.unwrap().id;
    let partition = FetchPartition::default().with_partition(0).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_static_str("t")))
        .with_topic_id(id.0)
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(100)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let response = served.client.call(Target::Node(1), Lane::GENERAL, &request).await.unwrap();
    match response.responses.first() {
        Some(topic) => topic.partitions[0].error_code,
        None => response.error_code,
    }
}

/// Produce and fetch are refused, now and after the controller has heard, and the rest goes on.
async fn assert_refuses(served: &Served, told: &[&str]) {
    assert_eq!(served.figure(OFFLINE), Some(1.0));
    let error = served.node.context().partitions.directories()[0].failure().unwrap();
    let line = format!("{error}: {}", error.remedy());
    for text in told {
        assert!(line.contains(text), "{text} is not in {line}");
    }
    eventually("the controller hears", || {
        let image = served.node.context().image();
        image.topic_by_name("t")?.partition(PartitionIndex(0))?.leader.is_none().then_some(())
    })
    .await;
    for _ in 0..3 {
        assert_eq!(produce_once(served).await, STORAGE_ERROR);
        assert_eq!(fetch_once(served).await, STORAGE_ERROR);
    }
    assert_eq!(served.figure("ottla_offline_replicas"), Some(1.0));
    assert!(served.readiness.is_ready());
    assert!(timeout(Duration::from_millis(50), served.node.failed()).await.is_err());
    let known = numbers(served, "other").await;
    let end = known.len() as u32;
    write(served, "other", end..end + 10).await;
    served.create_topic("new", &[]).await;
    write(served, "new", 0..10).await;
    assert_eq!(numbers(served, "other").await, all(0..end + 10));
}

/// A producer gives up in the end. Once there is room, all that was acknowledged is there, and more
/// is taken.
async fn assert_recovers_with_room(machine: &Machine, served: Served) {
    // A client's producer tries as long as it may.
    let given_up = served.produce("t", records(100..101)).await.remove(0);
    assert!(matches!(given_up, Err(ClientError::Undelivered { .. })), "{given_up:?}");
    served.stop().await;

    machine.dir.set_capacity(None);
    let served = machine.start(SETTINGS).await;
    assert_eq!(numbers(&served, "t").await, all(0..100));
    write(&served, "t", 100..120).await;
    assert_eq!(numbers(&served, "t").await, all(0..120));
    served.stop().await;
}

/// Records in a topic in the only directory.
async fn served_alone(machine: &Machine) -> Served {
    let served = machine.start(SETTINGS).await;
    served.create_topic("t", &[]).await;
    write(&served, "t", 0..100).await;
    served
}

/// Records in a topic in each of two directories.
async fn served_with_records(machine: &Machine) -> Served {
    let served = machine.start(SETTINGS).await;
    for topic in ["t", "other"] {
        served.create_topic(topic, &[("segment.bytes", "1048576"), ("retention.ms", "-1")]).await;
        write(&served, topic, 0..100).await;
    }
    eventually("the controller knows the directories", || {
        let misplaced = served.node.context().partitions.misplaced();
        misplaced.borrow().is_empty().then_some(())
    })
    .await;
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let machine = Machine::with_two_directories();
    let served = served_with_records(&machine).await;
    machine.dir.set_capacity(Some(0));
    assert_eq!(produce_once(&served).await, STORAGE_ERROR);
    assert_refuses(&served, &["cannot write /simulated/t-0/", "free some space"]).await;
    assert_recovers_with_room(&machine, served).await;
}

fn fault(operation: SimOperation, path: &str, errno: i32) -> SimFault {
    SimFault { operation, path_contains: path.to_owned(), after: 0, errno }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_fails_is_not_tried_again() {
    let machine = Machine::with_two_directories();
    let served = served_with_records(&machine).await;
    machine.dir.inject(fault(SimOperation::Sync, "t-0", EIO));
    assert_eq!(produce_once(&served).await, STORAGE_ERROR);
    // What the disk has kept is not known, although it works again.
    machine.dir.clear_faults();
    assert_refuses(&served, &["cannot sync /simulated/t-0/", "restart"]).await;
    assert_eq!(served.figure("ottla_log_flushes_failed_total"), Some(1.0));
    served.stop().await;

    let served = machine.start(SETTINGS).await;
    // The one that was not acknowledged may be there, or not.
    let read = served.consume("t").await;
    assert!(read.len() == 100 || read.len() == 101, "{}", read.len());
    for (n, record) in read[..100].iter().enumerate() {
        assert_eq!(record.value.as_deref(), Some(n.to_string().as_bytes()));
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_read_takes_its_directory_offline() {
    let machine = Machine::with_two_directories();
    let served = served_with_records(&machine).await;
    machine.dir.inject(fault(SimOperation::Read, "t-0", EIO));
    assert_eq!(fetch_once(&served).await, STORAGE_ERROR);
    assert_refuses(&served, &["cannot read /simulated/t-0/", "check the disk"]).await;
    served.stop().await;

    machine.dir.clear_faults();
    let served = machine.start(SETTINGS).await;
    assert_eq!(numbers(&served, "t").await, all(0..100));
    served.stop().await;
}

/// Ends a node so that its directory is not marked as closed in order.
async fn crash(machine: &Machine, served: Served) {
    machine.dir.inject(fault(SimOperation::Sync, "", EIO));
    timeout(Duration::from_secs(30), served.stop()).await.unwrap();
    machine.dir.clear_faults();
    machine.dir.kill();
}

/// Three segments of a megabyte.
async fn served_with_segments(machine: &Machine) -> Served {
    let served = served_with_records(machine).await;
    let large =
        (100..3_500).map(|n: u32| record("k", Some(format!("{n:0>1000}").into()), 1_000_000));
    let delivered = served.produce("t", large).await;
    assert!(delivered.iter().all(Result::is_ok));
    served
}

const FIRST: &str = "t-0/00000000000000000000.log";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_what_was_not_known_to_be_flushed_is_cut_and_kept() {
    let machine = Machine::with_two_directories();
    let served = served_with_segments(&machine).await;
    crash(&machine, served).await;
    machine.dir.corrupt(FIRST, 500_000, 1);

    let served = machine.start(SETTINGS).await;
    let read = numbers(&served, "t").await;
    assert!(read.len() > 100 && read.len() < 1_000, "{}", read.len());
    assert_eq!(read, all(0..read.len() as u32));
    let kept = machine.files("t-0", ".torn");
    assert!(kept.len() >= 3, "{kept:?}");
    let end = read.len() as u32;
    write(&served, "t", end..end + 10).await;
    assert_eq!(numbers(&served, "t").await, all(0..end + 10));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_what_was_flushed_is_not_cut() {
    let machine = Machine::with_two_directories();
    let served = served_with_segments(&machine).await;
    served.node.context().partitions.checkpoint();
    let active = machine.files("t-0", ".log").pop().unwrap();
    crash(&machine, served).await;
    machine.dir.corrupt(&format!("t-0/{active}"), 5_000, 1);

    let served = machine.start(SETTINGS).await;
    let told = format!("/simulated/t-0/{active} is corrupt at byte");
    assert_refuses(&served, &[&told, "restore"]).await;
    assert_eq!(machine.files("t-0", ".torn"), Vec::<String>::new());
    served.stop().await;

    // Repaired, it is all there.
    machine.dir.corrupt(&format!("t-0/{active}"), 5_000, 1);
    let served = machine.start(SETTINGS).await;
    assert_eq!(numbers(&served, "t").await.len(), 3_500);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_only_directory_fails_says_so_and_ends() {
    let machine = Machine::default();
    let served = served_alone(&machine).await;
    machine.dir.set_capacity(Some(0));
    assert_eq!(produce_once(&served).await, STORAGE_ERROR);
    assert_eq!(fetch_once(&served).await, STORAGE_ERROR);
    let failure = timeout(Duration::from_secs(30), served.node.failed()).await.unwrap();
    assert!(matches!(failure, NodeFailure::Directories(_)), "{failure}");
    for text in ["cannot write /simulated/t-0/", "free some space"] {
        assert!(failure.to_string().contains(text), "{failure}");
    }
    // So others lead from now on.
    assert!(served.node.context().image().broker(NodeId(1)).unwrap().fenced);
    let mut conditions = served.readiness.conditions().into_iter();
    assert!(conditions.any(|one| one.reason.is_some_and(|why| why.contains("free some space"))));
    assert_recovers_with_room(&machine, served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_only_directory_is_damaged_does_not_start() {
    let machine = Machine::default();
    let served = served_alone(&machine).await;
    served.node.context().partitions.checkpoint();
    crash(&machine, served).await;
    machine.dir.corrupt(FIRST, 100, 1);
    let error = machine.try_start(SETTINGS).await.err().unwrap().to_string();
    assert!(error.contains("/simulated/t-0/00000000000000000000.log is corrupt"), "{error}");
    assert!(error.contains("restore the file"), "{error}");

    machine.dir.corrupt(FIRST, 100, 1);
    let served = machine.start(SETTINGS).await;
    assert_eq!(numbers(&served, "t").await, all(0..100));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_there_at_a_start_is_waited_for() {
    let machine = Machine::with_two_directories();
    served_with_records(&machine).await.stop().await;
    let second = machine.second.clone().unwrap();
    second.inject(fault(SimOperation::Read, "meta.properties", EIO));
    let served = machine.start(SETTINGS).await;
    let told = served.figure("ottla_log_directory_offline{directory=\"/simulated-2\"}");
    assert_eq!(told, Some(1.0));
    assert_eq!(numbers(&served, "t").await, all(0..100));
    // Nothing is begun in its place, which would be served as if it were all there was.
    let led = |topic| {
        let image = served.node.context().image();
        let topic = image.topic_by_name(topic).unwrap().partition(PartitionIndex(0));
        topic.unwrap().leader.is_some()
    };
    assert!(led("t") && !led("other"));
    assert!(machine.dir.list("other-0").is_err());
    served.create_topic("new", &[]).await;
    write(&served, "new", 0..10).await;
    served.stop().await;

    second.clear_faults();
    let served = machine.start(SETTINGS).await;
    for topic in ["t", "other"] {
        assert_eq!(numbers(&served, topic).await, all(0..100));
    }
    assert_eq!(numbers(&served, "new").await, all(0..10));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_a_replaced_disk_begin_anew() {
    let mut machine = Machine::with_two_directories();
    served_with_records(&machine).await.stop().await;
    machine.second = Some(SimDir::named("-2"));
    let served = machine.start(SETTINGS).await;
    assert_eq!(numbers(&served, "t").await, all(0..100));
    // No other replica can have what was on it.
    write(&served, "other", 0..10).await;
    assert_eq!(numbers(&served, "other").await, all(0..10));
    served.stop().await;
}
