//! A log directory of one node fails: only its replicas go, others lead them, and they begin anew.

use std::time::Duration;

use ottla::{
    base::{NodeId, PartitionIndex, TopicPartition},
    client::{Acks, Client, ConfigChange, NewTopic, Producer, ProducerConfig, Record, Resource},
    log::{Dir as _, SimFault, SimOperation},
    metadata::Partition,
};
use tokio::time::timeout;

use crate::{
    machine::{Machine, Served, World},
    wait::{LONG, eventually},
};

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];
const GRACE: &str = "ottla.log.dir.replacement.grace.ms";
const ZERO: PartitionIndex = PartitionIndex(0);

async fn write(client: &Client, topic: &str) {
    let config =
        ProducerConfig { acks: Acks::All, delivery_timeout: LONG / 2, ..Default::default() };
    let producer = Producer::new(client.clone(), config);
    let record = Record { value: Some(vec![7; 1_000].into()), ..Record::default() };
    for _ in 0..20 {
        let receipt = producer.send(topic, Some(0), record.clone()).await.unwrap();
        producer.flush().await;
        receipt.delivered().await.unwrap();
    }
}

fn known(node: &Served, topic: &str) -> Option<Partition> {
    let image = node.node.context().image();
    Some(Partition::clone(image.topic_by_name(topic)?.partition(ZERO)?))
}

/// Where the log of a topic's replica on this node ends.
fn end(node: &Served, topic: &str) -> Option<i64> {
    let context = node.node.context();
    let topic = context.image().topic_by_name(topic)?.id;
    let replica = context.partitions.lookup(TopicPartition { topic, partition: ZERO })?;
    (!replica.is_offline()).then(|| replica.log().log_end_offset().0)
}

/// The topics whose replicas of this node lie in its second directory.
fn in_second(node: &Served) -> Vec<&'static str> {
    let second = &node.node.context().partitions.directories()[1];
    TOPICS.into_iter().filter(|topic| second.log(topic, ZERO).is_some()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_directory_costs_its_replicas_only_which_begin_anew() {
    let world = World::new(3);
    let machines: Vec<_> = (0..3).map(|_| Machine::with_two_directories()).collect();
    let start = |id: u32| world.start(id, &machines[id as usize - 1], &[1, 2, 3]);
    let started: Vec<_> = (1..=3).map(start).collect();
    started[0].bootstrap(&[1, 2, 3]).await.unwrap();
    let mut nodes = Vec::new();
    for node in started {
        nodes.push(node.serves().await);
    }
    let client = nodes[1].client();
    let set = |value: &'static str| {
        let change = ConfigChange::Set(GRACE.to_owned(), value.to_owned());
        let client = client.clone();
        async move {
            client.alter_configs(&Resource::BrokerDefaults, &[change], false).await.unwrap();
        }
    };
    set("-1").await;
    for topic in TOPICS {
        let new = NewTopic {
            name: topic.to_owned(),
            partitions: Some(1),
            replication_factor: Some(3),
            configs: vec![("min.insync.replicas".to_owned(), "2".to_owned())],
        };
        client.create_topic(&new, false).await.unwrap();
        write(&client, topic).await;
    }
    let failing = &nodes[0];
    let told = failing.node.context().partitions.misplaced();
    eventually("the controller knows the directories", || told.borrow().is_empty().then_some(()))
        .await;
    let gone = in_second(failing);
    assert!(!gone.is_empty() && gone.len() < TOPICS.len(), "{gone:?}");

    machines[0].second().inject(SimFault {
        operation: SimOperation::Write,
        path_contains: String::new(),
        after: 0,
        errno: 5,
    });
    // Others go on, and this node with the rest.
    for topic in TOPICS {
        timeout(LONG, write(&client, topic)).await.unwrap();
    }
    let one = NodeId(1);
    for topic in TOPICS {
        let is_gone = gone.contains(&topic);
        eventually(topic, || {
            let known = known(&nodes[1], topic)?;
            let is_led_elsewhere = known.leader.is_some_and(|leader| leader != one);
            let is_right = if is_gone {
                known.isr.len() == 2 && !known.isr.contains(&one) && is_led_elsewhere
            } else {
                known.isr.len() == 3
            };
            is_right.then_some(())
        })
        .await;
    }
    // Without a grace, nothing begins anew.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(gone.iter().all(|topic| end(failing, topic).is_none()));

    set("100").await;
    for topic in &gone {
        eventually("it begins anew", || {
            let held = end(failing, topic)?;
            let is_back = known(&nodes[1], topic)?.isr.contains(&one);
            (held == 40 && is_back).then_some(())
        })
        .await;
    }
    for topic in TOPICS {
        timeout(LONG, write(&client, topic)).await.unwrap();
    }

    // The disk is repaired, with what was on it: nothing is there twice.
    nodes.remove(0).stop().await;
    machines[0].second().clear_faults();
    let node = start(1).serves().await;
    for topic in &gone {
        eventually("it is in sync", || (end(&node, topic)? == 60).then_some(())).await;
    }
    assert_eq!(in_second(&node), Vec::<&str>::new());
    let strays = machines[0].second().list("").unwrap();
    let strays = strays.iter().filter(|entry| entry.name.ends_with("-stray")).count();
    assert_eq!(strays, gone.len());
    nodes.push(node);
    for node in nodes {
        node.stop().await;
    }
}
