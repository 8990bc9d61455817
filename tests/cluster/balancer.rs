//! A node that joins gets its share by itself, at the balancer's rate, while a producer works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ottla::{
    base::NodeId,
    client::{Acks, Client, NewTopic, Producer, ProducerConfig, Record},
};
use tokio::time::{Instant, sleep};

use crate::{
    machine::{Machine, Served, World},
    wait::LONG,
};

const PARTITIONS: i32 = 24;
const REPLICAS: i16 = 2;
const RECORD_BYTES: usize = 8 << 10;
const RECORDS: usize = 8;
/// What moves is about 12 replicas of 64 KiB: some four seconds at this rate.
const RATE: u64 = 192 << 10;

/// Writes to all partitions until it is told to stop; returns how many records were acknowledged.
async fn produce(client: Client, stop: Arc<AtomicBool>) -> usize {
    let config = ProducerConfig { acks: Acks::All, ..ProducerConfig::default() };
    let producer = Producer::new(client, config);
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        for partition in 0..PARTITIONS {
            let record = Record { value: Some("v".into()), ..Record::default() };
            let receipt = producer.send("t", Some(partition), record).await.unwrap();
            receipt.delivered().await.unwrap();
            written += 1;
        }
    }
    written
}

async fn fill(client: &Client) {
    let config = ProducerConfig { acks: Acks::All, ..ProducerConfig::default() };
    let producer = Producer::new(client.clone(), config);
    let mut receipts = Vec::new();
    for number in 0..RECORDS * PARTITIONS as usize {
        let record = Record { value: Some(vec![7; RECORD_BYTES].into()), ..Record::default() };
        let partition = number as i32 % PARTITIONS;
        receipts.push(producer.send("t", Some(partition), record).await.unwrap());
    }
    producer.flush().await;
    for receipt in receipts {
        receipt.delivered().await.unwrap();
    }
}

/// Replicas, preferred leaderships and leaderships of nodes 1 to 4.
fn shares(node: &Served) -> [[usize; 3]; 4] {
    let image = node.node.context().image();
    let topic = image.topic_by_name("t").unwrap();
    [1, 2, 3, 4].map(|id| {
        let all = || topic.partitions.values();
        let id = NodeId(id);
        [
            all().filter(|one| one.replicas.contains(&id)).count(),
            all().filter(|one| one.preferred_replica() == Some(id)).count(),
            all().filter(|one| one.leader == Some(id)).count(),
        ]
    })
}

fn is_moving(node: &Served) -> bool {
    let image = node.node.context().image();
    let topic = image.topic_by_name("t").unwrap();
    topic.partitions.values().any(|one| one.is_reassigning())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_gets_its_share_by_itself_at_the_balancers_rate() {
    let world = World::new(4);
    let rate = RATE.to_string();
    let settings = [
        ("ottla.balancer.check.interval.seconds", "1"),
        ("ottla.balancer.throttle.bytes.per.second", &*rate),
        ("leader.imbalance.check.interval.seconds", "1"),
    ];
    let start = |id| world.start_with(id, &Machine::default(), &[1, 2, 3], &settings);
    let started: Vec<_> = (1..=3).map(start).collect();
    started[0].bootstrap(&[1, 2, 3]).await.unwrap();
    let mut nodes = Vec::new();
    for node in started {
        nodes.push(node.serves().await);
    }
    let client = nodes[0].client();
    let topic = NewTopic {
        name: "t".to_owned(),
        partitions: Some(PARTITIONS),
        replication_factor: Some(REPLICAS),
        configs: vec![("min.insync.replicas".to_owned(), REPLICAS.to_string())],
    };
    client.create_topic(&topic, false).await.unwrap();
    fill(&client).await;
    let stop = Arc::new(AtomicBool::new(false));
    let producer = tokio::spawn(produce(client.clone(), Arc::clone(&stop)));

    nodes.push(start(4).serves().await);
    let began = Instant::now();
    // Twelve replicas each, and six leaderships.
    let mut moved = None;
    while shares(&nodes[0]) != [[12, 6, 6]; 4] {
        if moved.is_none() && shares(&nodes[0])[3][0] == 12 && !is_moving(&nodes[0]) {
            moved = Some(began.elapsed());
        }
        assert!(began.elapsed() < 2 * LONG, "{:?}", shares(&nodes[0]));
        sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(producer.await.unwrap() > 0, "nothing was refused meanwhile");
    // The new node takes no more than its rate: what bursts, and a grant, may be before.
    let bytes = (12 * RECORDS * RECORD_BYTES) as u64;
    let least = Duration::from_millis((bytes - RATE / 10 - (64 << 10)) * 1_000 / RATE);
    let moved = moved.unwrap_or_else(|| began.elapsed());
    assert!(moved >= least, "{moved:?} instead of {least:?}");
    for node in nodes {
        node.stop().await;
    }
}
