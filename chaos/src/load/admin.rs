//! Changes of the metadata while nodes are being broken, and what each node tells of it.
//!
//! A change is asked of one node, once: its answer is what the history holds. Topics get a new name
//! every few seconds, so that no name gathers more changes of unknown outcome than an order of all
//! of them can be searched for.

use std::{collections::BTreeMap, time::Duration};

use kafka_protocol::{
    messages::{
        CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest,
        TopicName, create_partitions_request::CreatePartitionsTopic,
        create_topics_request::CreatableTopic, delete_topics_request::DeleteTopicState,
    },
    protocol::StrBytes,
};
use ottla::client::{Client, ClientError, Lane, Partition, Target, WireError};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use tokio::{
    sync::watch,
    time::{Instant, interval, sleep},
};

use super::{Load, Shared};
use crate::history::{Answer, Change, Process, What};

/// How long a node may take for one change, as it is told.
const NODE_TIMEOUT: Duration = Duration::from_millis(2_500);
/// The longest time between two changes of one administrator.
const PAUSE: Duration = Duration::from_millis(300);
/// For how long topics keep their names.
const NAMED: Duration = Duration::from_secs(5);
/// How many topics there are at a time, and how many partitions each has at most.
const TOPICS: u32 = 2;
const PARTITIONS: i32 = 6;
/// What their names begin with.
const PREFIX: &str = "changing-";
/// How often a node is asked what it knows.
const ASK: Duration = Duration::from_secs(1);
/// How often replicas are moved.
const MOVE: Duration = Duration::from_secs(6);

/// A node, and a client that asks it and nobody else.
pub type Asked = (u32, Client);

impl Load {
    /// Makes, grows, looks for and deletes topics until `stop`, each through some node.
    pub async fn administer(
        &self,
        process: Process,
        nodes: &[Asked],
        history: &Shared,
        stop: watch::Receiver<bool>,
    ) {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ u64::from(process));
        let began = history.lock().began();
        while !*stop.borrow() {
            let period = began.elapsed().as_secs() / NAMED.as_secs();
            let topic = format!("{PREFIX}{period}-{}", rng.random_range(0..TOPICS));
            let partitions = rng.random_range(1..=PARTITIONS);
            let change = match rng.random_range(0..10) {
                0..=2 => Change::Create { partitions },
                3..=4 => Change::Delete,
                5..=6 => Change::Grow { partitions },
                _ => Change::Look,
            };
            let Some((node, client)) = nodes.choose(&mut rng) else { return };
            let from_us = history.lock().now_us();
            let answer = ask(client, &topic, change).await;
            let what = What::Admin { node: *node, topic, change, answer };
            history.lock().did_since(process, from_us, what);
            sleep(rng.random_range(Duration::ZERO..=PAUSE)).await;
        }
    }

    /// Notes down what a node tells of topics and leaders, again and again until `stop`.
    pub async fn watch(
        &self,
        process: Process,
        (node, client): Asked,
        history: &Shared,
        stop: watch::Receiver<bool>,
    ) {
        let mut ticks = interval(ASK);
        while !*stop.borrow() {
            ticks.tick().await;
            self.told(process, node, &client, history).await;
        }
    }

    /// Asks a node once what it knows.
    pub async fn told(&self, process: Process, node: u32, client: &Client, history: &Shared) {
        let from_us = history.lock().now_us();
        let request = MetadataRequest::default().with_topics(None);
        // It does not answer while it is down: that is seen elsewhere.
        let answer = client.call(Target::Any, Lane::GENERAL, &request).await;
        let Ok(answer) = answer else { return };
        let (mut topics, mut leaders) = (BTreeMap::new(), Vec::new());
        for topic in answer.topics.iter().filter(|topic| topic.error_code == 0) {
            let name = topic.name.as_ref().map_or("", |name| name.as_str());
            if name.starts_with(PREFIX) {
                topics.insert(name.to_owned(), topic.partitions.len() as i32);
            } else if name == self.topic {
                let all = topic.partitions.iter();
                leaders =
                    all.map(|it| (it.partition_index, it.leader_id.0, it.leader_epoch)).collect();
            }
        }
        history.lock().did_since(process, from_us, What::Told { node, topics, leaders });
    }

    /// Moves replicas to other nodes until `stop`, where there are more nodes than replicas.
    pub async fn rearrange(
        &self,
        process: Process,
        client: &Client,
        nodes: u32,
        history: &Shared,
        stop: watch::Receiver<bool>,
    ) {
        let count = usize::try_from(self.replication_factor).unwrap_or(0);
        let all: Vec<i32> = (1..=nodes).map(|node| node as i32).collect();
        let mut rng = SmallRng::seed_from_u64(self.seed ^ u64::from(process));
        let mut next = Instant::now() + MOVE;
        while count < all.len() && !*stop.borrow() {
            sleep(Duration::from_millis(100)).await;
            if Instant::now() < next {
                continue;
            }
            next = Instant::now() + MOVE;
            let partition = rng.random_range(0..self.partitions);
            let replicas: Vec<i32> = all.sample(&mut rng, count).copied().collect();
            let wanted = (Partition::new(&*self.topic, partition), Some(replicas.clone()));
            let from_us = history.lock().now_us();
            let outcome = client.reassign(&[wanted]).await;
            let done = outcome.is_ok_and(|all| all.iter().all(|(_, one)| one.is_ok()));
            let what = What::Moved { partition, replicas, done };
            history.lock().did_since(process, from_us, what);
        }
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// Asks for one change, and says what the answer means.
async fn ask(client: &Client, topic: &str, change: Change) -> Answer {
    let timeout_ms = NODE_TIMEOUT.as_millis() as i32;
    let code = match change {
        Change::Create { .. } | Change::Look => {
            let partitions = match change {
                Change::Create { partitions } => partitions,
                _ => 1,
            };
            let wanted = CreatableTopic::default()
                .with_name(name(topic))
                .with_num_partitions(partitions)
                .with_replication_factor(1);
            let request = CreateTopicsRequest::default()
                .with_topics(vec![wanted])
                .with_timeout_ms(timeout_ms)
                .with_validate_only(change == Change::Look);
            let answer = client.call(Target::Any, Lane::GENERAL, &request).await;
            answer.map(|answer| answer.topics.first().map(|topic| topic.error_code))
        }
        Change::Delete => {
            let wanted = DeleteTopicState::default().with_name(Some(name(topic)));
            let request = DeleteTopicsRequest::default()
                .with_topics(vec![wanted])
                .with_timeout_ms(timeout_ms);
            let answer = client.call(Target::Any, Lane::GENERAL, &request).await;
            answer.map(|answer| answer.responses.first().map(|topic| topic.error_code))
        }
        Change::Grow { partitions } => {
            let wanted =
                CreatePartitionsTopic::default().with_name(name(topic)).with_count(partitions);
            let request = CreatePartitionsRequest::default()
                .with_topics(vec![wanted.with_assignments(None)])
                .with_timeout_ms(timeout_ms);
            let answer = client.call(Target::Any, Lane::GENERAL, &request).await;
            answer.map(|answer| answer.results.first().map(|topic| topic.error_code))
        }
    };
    match code {
        Ok(Some(code)) => meaning(change, code),
        Err(ClientError::Connect { .. }) => Answer::NotDone,
        Ok(None) | Err(_) => Answer::Unknown,
    }
}

fn meaning(change: Change, code: i16) -> Answer {
    match (change, WireError::try_from_code(code)) {
        (Change::Look, None) => Answer::Missing,
        (_, None) => Answer::Done,
        (_, Some(WireError::TopicAlreadyExists)) => Answer::Exists,
        (_, Some(WireError::UnknownTopicOrPartition)) => Answer::Missing,
        (Change::Grow { .. }, Some(WireError::InvalidPartitions)) => Answer::HasAsMany,
        (_, Some(WireError::RequestTimedOut | WireError::UnknownServerError)) => Answer::Unknown,
        (_, Some(_)) => Answer::NotDone,
    }
}
