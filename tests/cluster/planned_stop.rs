//! What clients see of a node that stops in order: its partitions are led elsewhere before it
//! refuses anything. How long the gap in a client's writes is, `scripts/failover` measures.

use std::collections::BTreeSet;

use kafka_protocol::{
    ResponseError,
    messages::{
        ProduceRequest, ProduceResponse,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType},
};
use ottla::{
    base::TopicId,
    client::{Client, Lane, NewTopic, Target},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    machine::{Machine, Served, World},
    wait::eventually,
};

const TOPIC: &str = "t";
const PARTITIONS: i32 = 6;
/// No error of Kafka's.
const NONE: i16 = 0;

/// What became of a writer whose partition's leader stops.
#[derive(Debug)]
enum Moved {
    /// It was told by the one that stops who leads instead.
    To(i32),
    /// It lost the connection.
    Lost,
}

struct Writer {
    client: Client,
    topic: TopicId,
    partition: i32,
}

impl Writer {
    /// One record, in a request of its own, to `node`.
    async fn write(&self, node: i32) -> Option<ProduceResponse> {
        let mut records = bytes::BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut records, [&record()], &options).unwrap();
        let data = PartitionProduceData::default()
            .with_index(self.partition)
            .with_records(Some(records.freeze()));
        let data =
            TopicProduceData::default().with_topic_id(self.topic.0).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![data]);
        self.client.call(Target::Node(node), Lane::GENERAL, &request).await.ok()
    }

    /// Writes to `leader`, one record after the other, until it does not lead any more. It may
    /// refuse a write for that reason only, and has to say who leads instead, and where.
    async fn until_moved(&self, leader: i32, written: &mpsc::UnboundedSender<i32>) -> Moved {
        let mut count = 0;
        loop {
            let Some(answer) = self.write(leader).await else { return Moved::Lost };
            let partition = &answer.responses[0].partition_responses[0];
            if partition.error_code == NONE {
                count += 1;
                written.send(self.partition).unwrap();
                continue;
            }
            // It may have heard that it leads a moment before it does.
            if count == 0 {
                continue;
            }
            let moved = ResponseError::NotLeaderOrFollower.code();
            assert_eq!(partition.error_code, moved, "{partition:?}");
            let next = partition.current_leader.leader_id.0;
            assert!(next >= 0 && next != leader, "{partition:?}");
            let endpoints = &answer.node_endpoints;
            assert!(endpoints.iter().any(|node| node.node_id.0 == next), "{endpoints:?}");
            return Moved::To(next);
        }
    }
}

fn record() -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        timestamp: 1_700_000_000_000,
        offset: 0,
        sequence: -1,
        key: None,
        value: Some("v".into()),
        headers: indexmap::IndexMap::new(),
    }
}

/// The leaders of all partitions, as `node` knows them.
fn leaders(node: &Served) -> Vec<i32> {
    let image = node.node.context().image();
    let topic = image.topic_by_name(TOPIC).unwrap();
    let leaders = topic.partitions.values().map(|partition| partition.leader);
    leaders.map(|leader| leader.map_or(-1, |node| i32::try_from(node.0).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_refuses_nothing_before_others_lead() {
    let world = World::new(3);
    let start = |id: u32| world.start(id, &Machine::default(), &[1, 2, 3]);
    let started: Vec<_> = (1..=3).map(start).collect();
    started[0].bootstrap(&[1, 2, 3]).await.unwrap();
    let mut nodes = Vec::new();
    for node in started {
        nodes.push(node.serves().await);
    }
    let topic = NewTopic {
        name: TOPIC.to_owned(),
        partitions: Some(PARTITIONS),
        replication_factor: Some(3),
        configs: vec![("min.insync.replicas".to_owned(), "2".to_owned())],
    };
    nodes[0].client().create_topic(&topic, false).await.unwrap();
    for node in &nodes {
        node.hears_of(TOPIC).await;
    }

    let first = leaders(&nodes[0])[0];
    let stops = nodes.remove(usize::try_from(first).unwrap() - 1);
    let (written, mut writes) = mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    let topic = nodes[0].node.context().image().topic_by_name(TOPIC).unwrap().id;
    let led = leaders(&nodes[0]);
    let led: Vec<i32> =
        (0..).zip(led).filter(|(_, leader)| *leader == first).map(|p| p.0).collect();
    for partition in led.clone() {
        let writer = Writer { client: nodes[0].client(), topic, partition };
        let written = written.clone();
        writers.spawn(async move {
            let moved = writer.until_moved(first, &written).await;
            (writer, moved)
        });
    }
    // Every one of them is at it before the stop.
    let mut missing: BTreeSet<i32> = led.iter().copied().collect();
    while !missing.is_empty() {
        missing.remove(&writes.recv().await.unwrap());
    }

    let stopping = tokio::spawn(stops.stop());
    while let Some(done) = writers.join_next().await {
        let (writer, moved) = done.unwrap();
        // Whoever lost the connection could have asked any other node.
        let partition = usize::try_from(writer.partition).unwrap();
        let next = match moved {
            Moved::To(next) => next,
            Moved::Lost => leaders(&nodes[0])[partition],
        };
        assert_ne!(next, first, "partition {partition}");
        let answer = writer.write(next).await.expect("it is there");
        let answer = &answer.responses[0].partition_responses[0];
        assert_eq!(answer.error_code, NONE, "{answer:?}");
    }
    stopping.await.unwrap();
    let gone = || nodes.iter().all(|node| !leaders(node).contains(&first)).then_some(());
    eventually("others lead", gone).await;
}
