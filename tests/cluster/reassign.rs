//! Replicas that move to other nodes with what they hold.

use std::time::Duration;

use ottla::client::{
    Client, Consumer, ConsumerConfig, NewTopic, Partition, Producer, ProducerConfig, Record,
};
use tokio::time::{Instant, sleep};

use crate::{
    machine::{Machine, World},
    wait::LONG,
};

const RECORDS: usize = 500;

async fn write(client: &Client) {
    let producer = Producer::new(client.clone(), ProducerConfig::default());
    let mut receipts = Vec::new();
    for number in 0..RECORDS {
        let record = Record { value: Some(number.to_string().into()), ..Record::default() };
        receipts.push(producer.send("t", Some(0), record).await.unwrap());
    }
    producer.flush().await;
    for receipt in receipts {
        receipt.delivered().await.unwrap();
    }
}

async fn read(client: &Client) -> Vec<String> {
    let mut consumer = Consumer::new(client.clone(), ConsumerConfig::default());
    consumer.assign([(Partition::new("t", 0), 0)]);
    let mut found = Vec::new();
    while found.len() < RECORDS {
        let fetched = consumer.poll(LONG).await.unwrap().expect("there is more to read");
        for record in fetched.records().unwrap() {
            found.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
    }
    found
}

/// Who holds the partition, once it is not on the move any more.
async fn settled(client: &Client) -> Vec<i32> {
    let deadline = Instant::now() + LONG;
    loop {
        if client.list_reassignments().await.unwrap().is_empty() {
            client.invalidate();
            let topic = client.topic("t").await.unwrap();
            return topic.partition(0).unwrap().replicas.clone();
        }
        assert!(Instant::now() < deadline, "it is still on the move");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_moves_to_other_nodes_with_all_it_holds() {
    let world = World::new(3);
    let started: Vec<_> =
        (1..=3).map(|id| world.start(id, &Machine::default(), &[1, 2, 3])).collect();
    started[0].bootstrap(&[1, 2, 3]).await.unwrap();
    let mut nodes = Vec::new();
    for node in started {
        nodes.push(node.serves().await);
    }
    let client = nodes[0].client();
    let topic = NewTopic {
        name: "t".to_owned(),
        partitions: Some(1),
        replication_factor: Some(1),
        configs: Vec::new(),
    };
    client.create_topic(&topic, false).await.unwrap();
    write(&client).await;
    let at = Partition::new("t", 0);
    let first = settled(&client).await;
    let others: Vec<i32> = (1..=3).filter(|id| !first.contains(id)).collect();

    let outcomes = client.reassign(&[(at.clone(), Some(others.clone()))]).await.unwrap();
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
    assert_eq!(settled(&client).await, others, "none of those who had it before");
    let expected: Vec<String> = (0..RECORDS).map(|number| number.to_string()).collect();
    assert_eq!(read(&client).await, expected);

    let nobody = client.reassign(&[(at.clone(), None)]).await.unwrap();
    assert!(nobody[0].1.is_err(), "there is nothing to cancel any more");
    let unknown = client.reassign(&[(at, Some(vec![4711]))]).await.unwrap();
    assert!(unknown[0].1.as_ref().is_err_and(|error| error.to_string().contains("4711")));
    for node in nodes {
        node.stop().await;
    }
}
