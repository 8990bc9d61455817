//! Replicas of whole nodes: equal to the byte, also after one was away.

use std::{sync::Arc, time::Duration};

use kafka_protocol::{
    messages::{
        DeleteRecordsRequest, TopicName,
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    },
    protocol::StrBytes,
};
use ottla::{
    base::{NodeId, Offset, PartitionIndex, TopicPartition},
    client::{Acks, Client, Lane, NewTopic, Producer, ProducerConfig, Record, Target},
    replication::Partition,
};
use tokio::time::timeout;

use crate::{
    machine::{Machine, Served, World},
    wait::eventually,
};

const TOPIC: &str = "t";
/// More than what catches up beside the tail: 8 MiB.
const FAR_BEHIND: usize = 12 << 20;

struct Three {
    world: World,
    machines: Vec<Machine>,
    /// None while it is away.
    nodes: Vec<Option<Served>>,
}

impl Three {
    /// Three nodes, and a topic that each of them holds.
    async fn start() -> Self {
        let world = World::new(3);
        let machines: Vec<_> = (0..3).map(|_| Machine::default()).collect();
        let start = |id: u32| world.start(id, &machines[id as usize - 1], &[1, 2, 3]);
        let started: Vec<_> = (1..=3).map(start).collect();
        started[0].bootstrap(&[1, 2, 3]).await.unwrap();
        let mut nodes = Vec::new();
        for node in started {
            nodes.push(Some(node.serves().await));
        }
        let three = Self { world, machines, nodes };
        let topic = NewTopic {
            name: TOPIC.to_owned(),
            partitions: Some(1),
            replication_factor: Some(3),
            configs: vec![("min.insync.replicas".to_owned(), "2".to_owned())],
        };
        three.node(1).client().create_topic(&topic, false).await.unwrap();
        for id in 1..=3 {
            three.node(id).hears_of(TOPIC).await;
        }
        three
    }

    fn node(&self, id: u32) -> &Served {
        self.nodes[id as usize - 1].as_ref().expect("it is there")
    }

    fn replica(&self, id: u32) -> Option<Arc<Partition>> {
        let context = self.node(id).node.context();
        let topic = context.image().topic_by_name(TOPIC)?.id;
        context.partitions.lookup(TopicPartition { topic, partition: PartitionIndex(0) })
    }

    /// The leader, as `id` knows it.
    fn leader(&self, id: u32) -> u32 {
        let image = self.node(id).node.context().image();
        let topic = image.topic_by_name(TOPIC).unwrap();
        topic.partition(PartitionIndex(0)).unwrap().leader.expect("there is one").0
    }

    async fn stop(&mut self, id: u32) {
        self.nodes[id as usize - 1].take().expect("it is there").stop().await;
    }

    async fn start_again(&mut self, id: u32) {
        let started = self.world.start(id, &self.machines[id as usize - 1], &[1, 2, 3]);
        self.nodes[id as usize - 1] = Some(started.serves().await);
    }

    /// Waits until all three are in sync.
    async fn in_sync(&self, id: u32) {
        let isr = || {
            let image = self.node(id).node.context().image();
            let topic = image.topic_by_name(TOPIC)?;
            (topic.partition(PartitionIndex(0))?.isr.len() == 3).then_some(())
        };
        eventually("all are in sync", isr).await;
    }

    /// All bytes of a node's log.
    fn bytes(&self, id: u32) -> Vec<u8> {
        let replica = self.replica(id).expect("it holds one");
        let log = replica.log();
        let (mut from, end) = (log.log_start_offset(), log.log_end_offset());
        let mut bytes = Vec::new();
        while let Some(slice) = log.read(from, end, 1, true).unwrap() {
            let mut batch = vec![0; slice.len_bytes as usize];
            slice.read_at(0, &mut batch).unwrap();
            let last = ottla::client::batches(batch.clone().into()).last().unwrap().last_offset;
            bytes.extend(batch);
            from = Offset(last + 1);
        }
        bytes
    }

    fn assert_equal(&self) {
        let first = self.bytes(1);
        assert!(!first.is_empty());
        assert!(first == self.bytes(2) && first == self.bytes(3), "replicas differ");
    }
}

async fn write(client: &Client, acks: Acks, records: usize, size_bytes: usize) {
    let idempotent = acks == Acks::All;
    let config = ProducerConfig { acks, idempotent, ..ProducerConfig::default() };
    let producer = Producer::new(client.clone(), config);
    let mut receipts = Vec::new();
    for number in 0..records {
        let value = vec![number as u8; size_bytes].into();
        let record = Record { value: Some(value), ..Record::default() };
        receipts.push(producer.send(TOPIC, Some(0), record).await.unwrap());
    }
    producer.flush().await;
    for receipt in receipts {
        receipt.delivered().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_on_all_replicas() {
    let three = Three::start().await;
    three.in_sync(1).await;
    for _ in 0..5 {
        write(&three.node(2).client(), Acks::All, 100, 300).await;
        // Without waiting: it was acknowledged.
        three.assert_equal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_catches_up() {
    let mut three = Three::start().await;
    three.in_sync(1).await;
    // A leader goes in order, so that another one leads.
    let away = three.leader(1);
    let there = away % 3 + 1;
    three.stop(away).await;
    assert_ne!(three.leader(there), away);
    let client = three.node(there).client();
    write(&client, Acks::All, FAR_BEHIND / 65_536, 65_536).await;
    three.start_again(away).await;
    // Some more, while it catches up.
    write(&client, Acks::All, 100, 300).await;
    three.in_sync(there).await;
    write(&client, Acks::All, 1, 300).await;
    three.assert_equal();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_what_was_deleted_since_begins_anew() {
    let mut three = Three::start().await;
    three.in_sync(1).await;
    let away = three.leader(1) % 3 + 1;
    write(&three.node(away).client(), Acks::All, 10, 300).await;
    three.stop(away).await;
    let there = away % 3 + 1;
    let client = three.node(there).client();
    write(&client, Acks::All, 10, 300).await;
    let leader = three.leader(there);
    let start = Offset(15);
    delete_before(&client, leader, start).await;
    write(&client, Acks::All, 10, 300).await;
    three.start_again(away).await;
    three.in_sync(there).await;
    write(&client, Acks::All, 1, 300).await;
    three.assert_equal();
    assert_eq!(three.replica(away).unwrap().log().log_start_offset(), start);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_deleted_on_all_replicas_of_an_idle_topic() {
    let three = Three::start().await;
    three.in_sync(1).await;
    let leader = three.leader(1);
    let client = three.node(leader).client();
    write(&client, Acks::All, 10, 300).await;
    let all = |what: &'static str, of: fn(&Partition) -> Offset, offset: Offset| {
        let three = &three;
        let have = move || {
            let mut replicas = (1..=3).filter_map(|id| three.replica(id));
            replicas.all(|replica| of(&replica) == offset).then_some(())
        };
        eventually(what, have)
    };
    // All was told by then that was to be told.
    all("all is committed", Partition::known_high_watermark, Offset(10)).await;
    delete_before(&client, leader, Offset(4)).await;
    let begin = all("all begin later", |replica| replica.log().log_start_offset(), Offset(4));
    // Not only when something else is to be told.
    timeout(Duration::from_secs(10), begin).await.expect("they hear of it at once");
}

async fn delete_before(client: &Client, leader: u32, offset: Offset) {
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset.0);
    let topic = DeleteRecordsTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(TOPIC)))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let target = Target::Node(i32::try_from(leader).unwrap());
    let answer = client.call(target, Lane::GENERAL, &request).await.unwrap();
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_a_lost_leader_is_cut() {
    let mut three = Three::start().await;
    three.in_sync(1).await;
    let lost = three.leader(1);
    write(&three.node(lost).client(), Acks::All, 10, 300).await;
    // Clients still reach it, and no node does.
    let transport = three.node(lost).cluster().transport().cloned();
    let client = three.node(lost).client();
    client.topic(TOPIC).await.unwrap();
    transport.expect("it has one").stop().await;
    write(&client, Acks::Leader, 5, 300).await;
    let tail = three.bytes(lost);

    let there = lost % 3 + 1;
    let context = three.node(there).node.context();
    let fenced = || context.image().broker(NodeId(lost)).filter(|broker| broker.fenced).map(drop);
    eventually("the lost one is fenced", fenced).await;
    assert_ne!(three.leader(there), lost);
    write(&three.node(there).client(), Acks::All, 3, 300).await;
    assert!(!three.bytes(there).starts_with(&tail));

    three.stop(lost).await;
    three.start_again(lost).await;
    three.in_sync(there).await;
    write(&three.node(there).client(), Acks::All, 1, 300).await;
    three.assert_equal();
}
