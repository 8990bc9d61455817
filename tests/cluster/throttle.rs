//! Replicas that move no faster than they may, while what is in sync goes on as ever.
//!
//! Times are measured from below only, as a rate is kept however slow the machine is; that something
//! gets ready is waited for.

use std::time::Duration;

use ottla::client::{
    Acks, Client, ConfigChange, NewTopic, Partition, Producer, ProducerConfig, Record, Resource,
};
use tokio::time::{Instant, sleep};

use crate::{
    machine::{Machine, Served, World},
    wait::{LONG, eventually},
};

const RECORD_BYTES: usize = 16 << 10;
const RECORDS: usize = 192;
/// What moves: 3 MiB.
const MOVED_BYTES: u64 = (RECORDS * RECORD_BYTES) as u64;

async fn start() -> Vec<Served> {
    let world = World::new(3);
    let settings = [("ottla.balancer.enable", "false")];
    let start = |id| world.start_with(id, &Machine::default(), &[1, 2, 3], &settings);
    let started: Vec<_> = (1..=3).map(start).collect();
    started[0].bootstrap(&[1, 2, 3]).await.unwrap();
    let mut nodes = Vec::new();
    for node in started {
        nodes.push(node.serves().await);
    }
    nodes
}

async fn create(client: &Client, name: &str, replicas: i16) {
    let topic = NewTopic {
        name: name.to_owned(),
        partitions: Some(1),
        replication_factor: Some(replicas),
        configs: vec![("min.insync.replicas".to_owned(), replicas.to_string())],
    };
    client.create_topic(&topic, false).await.unwrap();
}

/// Returns once all is acknowledged by all in sync.
async fn write(client: &Client, topic: &str, records: usize) {
    let config = ProducerConfig { acks: Acks::All, ..ProducerConfig::default() };
    let producer = Producer::new(client.clone(), config);
    let mut receipts = Vec::new();
    for _ in 0..records {
        let record = Record { value: Some(vec![7; RECORD_BYTES].into()), ..Record::default() };
        receipts.push(producer.send(topic, Some(0), record).await.unwrap());
    }
    producer.flush().await;
    for receipt in receipts {
        receipt.delivered().await.unwrap();
    }
}

async fn set(client: &Client, resource: Resource, pairs: &[(&str, &str)]) {
    let change =
        |(key, value): &(&str, &str)| ConfigChange::Set((*key).to_owned(), (*value).to_owned());
    let changes: Vec<_> = pairs.iter().map(change).collect();
    client.alter_configs(&resource, &changes, false).await.unwrap();
}

async fn set_rates(client: &Client, key: &str, rate: u64) {
    for node in 1..=3 {
        set(client, Resource::Broker(node), &[(key, &rate.to_string())]).await;
    }
}

/// Waits until all nodes have heard of all that was done.
async fn heard(nodes: &[Served]) {
    let image = |node: &Served| node.node.context().image().applied_index();
    let newest = nodes.iter().map(image).max().unwrap();
    let all = || nodes.iter().all(|node| image(node) >= newest).then_some(());
    eventually("all have heard", all).await;
}

async fn replicas(client: &Client, topic: &str) -> Vec<i32> {
    client.invalidate();
    client.topic(topic).await.unwrap().partition(0).unwrap().replicas.clone()
}

async fn begin_to_move(client: &Client, topic: &str, to: &[i32]) {
    let wanted = [(Partition::new(topic, 0), Some(to.to_vec()))];
    for (_, outcome) in client.reassign(&wanted).await.unwrap() {
        outcome.unwrap();
    }
}

async fn settled(client: &Client) {
    let deadline = Instant::now() + LONG;
    while !client.list_reassignments().await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "it is still on the move");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The metrics of all nodes: how much was throttled on that side.
fn throttled_bytes(nodes: &[Served], side: &str, by: &str) -> f64 {
    let label = format!("{{side=\"{side}\",by=\"{by}\"}} ");
    let lines = |node: &Served| {
        let text = node.registry.render();
        let found = text
            .lines()
            .filter_map(|line| line.strip_prefix("ottla_replication_throttled_bytes_total"))
            .find_map(|line| line.strip_prefix(&*label).map(str::to_owned));
        found.expect("it is counted").parse::<f64>().unwrap()
    };
    nodes.iter().map(lines).sum()
}

async fn a_move_takes_the_time_that_its_rate_gives(side: &str) {
    let rate = MOVED_BYTES / 2;
    let nodes = start().await;
    let client = nodes[0].client();
    create(&client, "t", 1).await;
    write(&client, "t", RECORDS).await;
    let from = replicas(&client, "t").await;
    let to: Vec<i32> = (1..=3).filter(|id| !from.contains(id)).collect();
    let list = format!("{side}.replication.throttled.replicas");
    set(&client, Resource::Topic("t".to_owned()), &[(&list, "*")]).await;
    set_rates(&client, &format!("{side}.replication.throttled.rate"), rate).await;
    heard(&nodes).await;
    let began = Instant::now();
    begin_to_move(&client, "t", &to[..1]).await;
    settled(&client).await;
    let took = began.elapsed();
    // Two seconds less what bursts for a tenth of one, and a frame or grant, which may be before.
    assert!(took > Duration::from_millis(1_500), "{took:?}");
    let counted = throttled_bytes(&nodes, side, "operator");
    let bytes = MOVED_BYTES as f64;
    assert!((bytes * 0.9..bytes * 1.7).contains(&counted), "{counted} of {bytes}");
    assert!(throttled_bytes(&nodes, side, "balancer") == 0.0);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_sends_throttled_replicas_no_more_than_its_rate() {
    a_move_takes_the_time_that_its_rate_gives("leader").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_has_no_more_sent_to_it_than_its_rate() {
    a_move_takes_the_time_that_its_rate_gives("follower").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_sync_is_not_slowed_and_another_rate_counts_at_once() {
    let nodes = start().await;
    let client = nodes[0].client();
    create(&client, "t", 2).await;
    write(&client, "t", RECORDS).await;
    let from = replicas(&client, "t").await;
    let third: Vec<i32> = (1..=3).filter(|id| !from.contains(id)).collect();
    let to = [from[0], from[1], third[0]];
    let lists = ["leader", "follower"].map(|side| format!("{side}.replication.throttled.replicas"));
    let lists = lists.each_ref().map(|list| (&**list, "*"));
    set(&client, Resource::Topic("t".to_owned()), &lists).await;
    // What is to be copied would take half an hour.
    let slow = MOVED_BYTES / 1_800;
    for side in ["leader", "follower"] {
        set_rates(&client, &format!("{side}.replication.throttled.rate"), slow).await;
    }
    heard(&nodes).await;
    begin_to_move(&client, "t", &to).await;
    // Of the same partition, to both that are in sync and are throttled as well by their names: at
    // the throttle's rate this would take another half an hour.
    write(&client, "t", RECORDS).await;
    assert_eq!(client.list_reassignments().await.unwrap().len(), 1, "the third waits yet");
    for side in ["leader", "follower"] {
        set_rates(&client, &format!("{side}.replication.throttled.rate"), 1 << 40).await;
    }
    settled(&client).await;
    assert_eq!(replicas(&client, "t").await, to);
    for node in nodes {
        node.stop().await;
    }
}
