//! A node whose disk fails: what cannot be done is refused, nothing acknowledged is lost, and
//! whoever has to look after it is told where.

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
    client::{ClientError, Lane, Record, Resource, Target, WireError},
    log::{SimFault, SimOperation},
    protocol::batch::{BatchBuilder, BatchOptions, NewRecord},
};
use tokio::time::timeout;

use crate::machine::{Machine, Served, eventually, record};

/// The controller hears of a failed directory soon.
const SETTINGS: &[(&str, &str)] = &[("broker.heartbeat.interval.ms", "50")];
const OFFLINE: &str = "ottla_log_directory_offline{directory=\"/simulated\"}";
/// Kafka's code of KAFKA_STORAGE_ERROR.
const STORAGE_ERROR: i16 = 56;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

fn records(range: std::ops::Range<u32>) -> impl Iterator<Item = Record> {
    range.map(|n| record("k", Some(n.to_string().into_bytes()), 1_000_000))
}

/// Writes numbers, all of which are acknowledged.
async fn write(served: &Served, range: std::ops::Range<u32>) {
    let delivered = served.produce("t", records(range)).await;
    assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
}

async fn numbers(served: &Served) -> Vec<u32> {
    let read = served.consume("t").await;
    read.iter()
        .map(|r| std::str::from_utf8(r.value.as_ref().unwrap()).unwrap().parse().unwrap())
        .collect()
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

fn reasons(served: &Served) -> String {
    let conditions = served.readiness.conditions().into_iter();
    conditions.filter_map(|one| one.reason).collect::<Vec<_>>().join("\n")
}

/// Produce and fetch are refused, now and after the controller has heard, and the rest goes on.
async fn assert_refuses(served: &Served, told: &[&str]) {
    let epoch = |served: &Served| served.node.context().image().applied_index();
    let before = epoch(served);
    assert_eq!(served.figure(OFFLINE), Some(1.0));
    for text in told {
        assert!(reasons(served).contains(text), "{text} is not in {}", reasons(served));
    }
    assert_eq!(produce_once(served).await, STORAGE_ERROR);
    eventually("the controller hears", || (epoch(served) > before).then_some(())).await;
    for _ in 0..3 {
        assert_eq!(produce_once(served).await, STORAGE_ERROR);
        assert_eq!(fetch_once(served).await, STORAGE_ERROR);
    }
    served.client.refresh_all().await.unwrap();
    served.client.describe_configs(&Resource::Broker(1), None, false).await.unwrap();
    served.client.create_topic(&new_topic("other"), true).await.unwrap();
}

fn new_topic(name: &str) -> ottla::client::NewTopic {
    ottla::client::NewTopic {
        name: name.to_owned(),
        partitions: Some(1),
        replication_factor: Some(1),
        configs: Vec::new(),
    }
}

async fn served_with_records(machine: &Machine) -> Served {
    let served = machine.start(SETTINGS).await;
    served.create_topic("t", &[("segment.bytes", "1048576")]).await;
    write(&served, 0..100).await;
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let machine = Machine::default();
    let served = served_with_records(&machine).await;
    machine.dir.set_capacity(Some(0));
    assert_eq!(produce_once(&served).await, STORAGE_ERROR);
    assert_refuses(&served, &["cannot write /simulated/t-0/", "free some space"]).await;
    // The producer of a client gives up in its own time, and says why.
    let given_up = served.produce("t", records(100..101)).await.remove(0).unwrap_err();
    let ClientError::DeadlineExceeded { last, .. } = &given_up else { panic!("{given_up:?}") };
    assert_eq!(last.wire(), Some(WireError::KafkaStorageError), "{given_up}");
    served.stop().await;

    machine.dir.set_capacity(None);
    let served = machine.start(SETTINGS).await;
    assert_eq!(numbers(&served).await, (0..100).collect::<Vec<_>>());
    write(&served, 100..120).await;
    assert_eq!(numbers(&served).await, (0..120).collect::<Vec<_>>());
    served.stop().await;
}

fn fault(operation: SimOperation, path: &str, errno: i32) -> SimFault {
    SimFault { operation, path_contains: path.to_owned(), after: 0, errno }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_fails_is_not_tried_again() {
    let machine = Machine::default();
    let served = served_with_records(&machine).await;
    machine.dir.inject(fault(SimOperation::Sync, "t-0", EIO));
    assert_eq!(produce_once(&served).await, STORAGE_ERROR);
    // What the disk has kept is not known, although it works again.
    machine.dir.clear_faults();
    assert_refuses(&served, &["cannot sync /simulated/t-0/", "restart"]).await;
    assert_eq!(served.figure("ottla_log_flushes_failed_total"), Some(1.0));
    served.stop().await;

    let served = machine.start(SETTINGS).await;
    let after: Vec<u32> = (0..100).collect();
    // The one that was not acknowledged may be there, or not.
    let read = served.consume("t").await;
    assert!(read.len() == 100 || read.len() == 101, "{}", read.len());
    let first = read[..100].iter().map(|r| String::from_utf8(r.value.clone().unwrap().into()));
    assert_eq!(first.map(|n| n.unwrap().parse::<u32>().unwrap()).collect::<Vec<_>>(), after);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_read_takes_its_directory_offline() {
    let machine = Machine::default();
    let served = served_with_records(&machine).await;
    machine.dir.inject(fault(SimOperation::Read, "t-0", EIO));
    assert_eq!(fetch_once(&served).await, STORAGE_ERROR);
    assert_refuses(&served, &["cannot read /simulated/t-0/", "check the disk"]).await;
    served.stop().await;

    machine.dir.clear_faults();
    let served = machine.start(SETTINGS).await;
    assert_eq!(numbers(&served).await, (0..100).collect::<Vec<_>>());
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
    let machine = Machine::default();
    let served = served_with_segments(&machine).await;
    crash(&machine, served).await;
    machine.dir.corrupt(FIRST, 500_000, 1);

    let served = machine.start(SETTINGS).await;
    let read = numbers(&served).await;
    assert!(read.len() > 100 && read.len() < 1_000, "{}", read.len());
    assert_eq!(read, (0..read.len() as u32).collect::<Vec<_>>());
    let kept = machine.files("t-0", ".torn");
    assert!(kept.len() >= 3, "{kept:?}");
    let end = read.len() as u32;
    write(&served, end..end + 10).await;
    assert_eq!(numbers(&served).await, (0..end + 10).collect::<Vec<_>>());
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_what_was_flushed_is_not_cut() {
    let machine = Machine::default();
    let served = served_with_segments(&machine).await;
    served.node.context().partitions.checkpoint();
    let active = machine.files("t-0", ".log").pop().unwrap();
    crash(&machine, served).await;
    machine.dir.corrupt(&format!("t-0/{active}"), 5_000, 1);

    let served = machine.start(SETTINGS).await;
    let told = format!("/simulated/t-0/{active} is corrupt at byte");
    assert_refuses(&served, &[&told, "restore"]).await;
    assert!(!served.readiness.is_ready());
    assert_eq!(machine.files("t-0", ".torn"), Vec::<String>::new());
    served.stop().await;

    // Repaired, it is all there.
    machine.dir.corrupt(&format!("t-0/{active}"), 5_000, 1);
    let served = machine.start(SETTINGS).await;
    assert_eq!(numbers(&served).await.len(), 3_500);
    served.stop().await;
}
