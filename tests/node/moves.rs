//! Replicas that move between the log directories of a node which goes on serving them.

use std::time::Duration;

use kafka_protocol::{
    messages::{
        AlterReplicaLogDirsRequest, DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName,
        alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic},
    },
    protocol::StrBytes,
};
use ottla::{
    base::PartitionIndex,
    client::{Lane, Resource, Target},
    log::{Dir as _, SimFault, SimOperation},
};
use tokio::time::timeout;

use crate::{
    faults::{SETTINGS, all, numbers, records, write},
    machine::{Machine, Served},
    wait::{LONG, eventually},
};

const FIRST: &str = "/simulated";
const SECOND: &str = "/simulated-2";
const THROTTLE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
const NOTHING: i16 = 0;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const STORAGE_ERROR: i16 = 56;
const LOG_DIR_NOT_FOUND: i16 = 57;

/// What the node answers to the wish for a topic's first partition in a directory.
async fn move_to(served: &Served, topic: &str, path: &str) -> i16 {
    let topic = AlterReplicaLogDirTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![0]);
    let directory = AlterReplicaLogDir::default()
        .with_path(StrBytes::from_string(path.to_owned()))
        .with_topics(vec![topic]);
    let request = AlterReplicaLogDirsRequest::default().with_dirs(vec![directory]);
    let response = served.client.call(Target::Node(1), Lane::GENERAL, &request).await.unwrap();
    response.results[0].partitions[0].error_code
}

async fn describe(served: &Served) -> DescribeLogDirsResponse {
    let request = DescribeLogDirsRequest::default().with_topics(None);
    served.client.call(Target::Node(1), Lane::GENERAL, &request).await.unwrap()
}

/// The directories that hold the topic, and those that hold a copy with how much it misses.
async fn places(served: &Served, topic: &str) -> (Vec<String>, Vec<(String, i64)>) {
    let (mut logs, mut copies) = (Vec::new(), Vec::new());
    for directory in describe(served).await.results {
        let path = directory.log_dir.to_string();
        for found in directory.topics.iter().filter(|found| found.name.as_str() == topic) {
            for one in &found.partitions {
                if one.is_future_key {
                    copies.push((path.clone(), one.offset_lag));
                } else {
                    logs.push(path.clone());
                }
            }
        }
    }
    (logs, copies)
}

async fn place(served: &Served, topic: &str) -> String {
    let (logs, _) = places(served, topic).await;
    // Also while it goes from one directory to the other.
    assert_eq!(logs.len(), 1, "{logs:?}");
    logs[0].clone()
}

fn other(path: &str) -> &'static str {
    if path == FIRST { SECOND } else { FIRST }
}

/// Waits until the topic is there and nowhere else, and the controller knows.
async fn has_moved(served: &Served, topic: &str, path: &str) {
    let deadline = tokio::time::Instant::now() + LONG;
    while places(served, topic).await != (vec![path.to_owned()], Vec::new()) {
        assert!(tokio::time::Instant::now() < deadline, "it is still on the move");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let context = served.node.context();
    let mut directories = context.partitions.directories().iter();
    let to = directories.find(|one| one.location() == path).unwrap().meta().unwrap().directory_id;
    eventually("the controller knows", || {
        let image = context.image();
        let partition = image.topic_by_name(topic)?.partition(PartitionIndex(0))?;
        (partition.directories.first() == Some(&to)).then_some(())
    })
    .await;
    eventually("nothing is left behind", || {
        let moved = context.partitions.directories().iter().any(|one| !one.moved().is_empty());
        (!moved).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_moves_while_it_is_written_and_read() {
    let machine = Machine::with_two_directories();
    let served = machine.start(SETTINGS).await;
    served.create_topic("t", &[("segment.bytes", "1048576")]).await;
    write(&served, "t", 0..2_000).await;
    let (mut end, mut at) = (2_000, place(&served, "t").await);
    for _ in 0..3 {
        let to = other(&at);
        assert_eq!(move_to(&served, "t", to).await, NOTHING);
        loop {
            write(&served, "t", end..end + 100).await;
            end += 100;
            if place(&served, "t").await == to {
                break;
            }
        }
        has_moved(&served, "t", to).await;
        assert_eq!(numbers(&served, "t").await, all(0..end));
        to.clone_into(&mut at);
    }
    assert_eq!(served.figure("ottla_directory_moves_total"), Some(3.0));
    served.stop().await;
    let served = machine.start(SETTINGS).await;
    assert_eq!(numbers(&served, "t").await, all(0..end));
    assert_eq!(place(&served, "t").await, at);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_move_is_shown_resumed_and_cancelled() {
    let machine = Machine::with_two_directories();
    let served = machine.start(SETTINGS).await;
    served.create_topic("t", &[]).await;
    let large = |range: std::ops::Range<u32>| {
        records(range).map(|mut record| {
            record.value = Some(vec![7; 4_000].into());
            record
        })
    };
    served.produce("t", large(0..1_000)).await;
    let at = place(&served, "t").await;
    // About a step a minute.
    served.set(Resource::BrokerDefaults, THROTTLE, "20000").await;
    assert_eq!(move_to(&served, "t", other(&at)).await, NOTHING);
    assert_eq!(move_to(&served, "t", other(&at)).await, NOTHING);
    let (logs, copies) = places(&served, "t").await;
    assert_eq!(logs, [at.as_str()]);
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].0, other(&at));
    assert!(copies[0].1 > 0 && copies[0].1 <= 1_000, "{copies:?}");
    served.stop().await;

    // The copy goes on after a restart, at another rate.
    let served = machine.start(SETTINGS).await;
    assert_eq!(places(&served, "t").await.1.len(), 1);
    served.set(Resource::BrokerDefaults, THROTTLE, "9223372036854775807").await;
    has_moved(&served, "t", other(&at)).await;
    assert_eq!(served.consume("t").await.len(), 1_000);

    // Whoever asks for where it is gives up a move.
    served.set(Resource::BrokerDefaults, THROTTLE, "20000").await;
    served.produce("t", large(0..1_000)).await;
    let now = other(&at);
    assert_eq!(move_to(&served, "t", &at).await, NOTHING);
    assert_eq!(places(&served, "t").await.1.len(), 1);
    assert_eq!(move_to(&served, "t", now).await, NOTHING);
    assert_eq!(places(&served, "t").await, (vec![now.to_owned()], Vec::new()));
    assert_eq!(served.consume("t").await.len(), 2_000);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_that_cannot_be_met_is_refused_or_remembered() {
    let machine = Machine::with_two_directories();
    let served = machine.start(SETTINGS).await;
    served.create_topic("t", &[]).await;
    write(&served, "t", 0..10).await;
    assert_eq!(move_to(&served, "t", "/nowhere").await, LOG_DIR_NOT_FOUND);
    // Directories take turns otherwise.
    for topic in ["a", "b", "c"] {
        assert_eq!(move_to(&served, topic, SECOND).await, UNKNOWN_TOPIC_OR_PARTITION);
        served.create_topic(topic, &[]).await;
        write(&served, topic, 0..10).await;
        assert_eq!(place(&served, topic).await, SECOND);
    }
    let at = place(&served, "t").await;
    let second = machine.second.clone().unwrap();
    second.inject(SimFault {
        operation: SimOperation::Write,
        path_contains: String::new(),
        after: 0,
        errno: 5,
    });
    let to = if at == SECOND { FIRST } else { SECOND };
    // The disk fails under the copy, or under the log.
    let _ = timeout(LONG, move_to(&served, "t", to)).await.unwrap();
    eventually("the directory is offline", || {
        let directories = served.node.context().partitions.directories();
        directories[1].failure().map(drop)
    })
    .await;
    assert_eq!(move_to(&served, "a", FIRST).await, STORAGE_ERROR);
    assert_eq!(move_to(&served, "t", SECOND).await, STORAGE_ERROR);
    served.stop().await;

    second.clear_faults();
    let served = machine.start(SETTINGS).await;
    for topic in ["t", "a", "b", "c"] {
        assert_eq!(numbers(&served, topic).await, all(0..10));
        assert_eq!(places(&served, topic).await.0.len(), 1);
    }
    assert!(machine.dir.list("").unwrap().iter().all(|entry| !entry.name.ends_with("-stray")));
    served.stop().await;
}
