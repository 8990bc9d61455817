//! Metadata changes without end: topics with names of their own, made and deleted through each
//! node.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use kafka_protocol::{
    messages::{
        CreateTopicsRequest, DeleteTopicsRequest, TopicName, create_topics_request::CreatableTopic,
        delete_topics_request::DeleteTopicState,
    },
    protocol::StrBytes,
};
use ottla::{
    base::TopicId,
    client::{Client, ClientConfig, ClientError, Lane, Target, TcpConnect, WireError},
};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::model::{Ack, Model, Outcome};

/// How long a node may take for one change, as it is told.
const NODE_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How long one answer is waited for.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause before a change that was not done is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// How many topics one writer keeps.
const KEPT: usize = 10;

pub(super) type Shared = Arc<Mutex<Model>>;

/// Makes and deletes topics through one node.
pub(super) struct Writer {
    pub(super) node: u32,
    pub(super) prefix: String,
    pub(super) client: Client,
    pub(super) model: Shared,
    pub(super) seed: u64,
}

/// A client that asks `address` and nobody else, as long as it learns of nobody else.
pub(super) fn client(address: String, seed: u64) -> Result<Client, ClientError> {
    let config = ClientConfig {
        bootstrap: vec![address],
        client_id: "chaos".to_owned(),
        connect_timeout: Duration::from_secs(1),
        request_timeout: REQUEST_TIMEOUT,
        seed,
        ..ClientConfig::default()
    };
    Client::new(config, Arc::new(TcpConnect))
}

impl Writer {
    /// Goes on until `stop`.
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let mut kept: VecDeque<String> = VecDeque::new();
        for number in 0u64.. {
            let name = format!("{}-{number}", self.prefix);
            if !self.until_done(&name, Self::create, &mut stop).await {
                return;
            }
            if rng.random_bool(0.1) {
                // There is one of that name: it must be refused.
                self.create(&name).await;
            }
            kept.push_back(name);
            if kept.len() > KEPT
                && let Some(oldest) = kept.pop_front()
            {
                self.model.lock().deletes(&oldest);
                if !self.until_done(&oldest, Self::delete, &mut stop).await {
                    return;
                }
            }
            sleep(Duration::from_millis(rng.random_range(0..=10))).await;
        }
    }

    /// Tries until it is done, or until `stop`, and then says false.
    async fn until_done(
        &self,
        name: &str,
        change: impl AsyncFn(&Self, &str) -> Outcome,
        stop: &mut watch::Receiver<bool>,
    ) -> bool {
        while !*stop.borrow_and_update() {
            match change(self, name).await {
                Outcome::Acknowledged(_) | Outcome::Already => return true,
                Outcome::Unknown | Outcome::NotDone => sleep(PAUSE).await,
            }
        }
        false
    }

    async fn create(&self, name: &str) -> Outcome {
        let topic = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(NODE_TIMEOUT.as_millis() as i32);
        let sent = Instant::now();
        let answer = self.client.call(Target::Any, Lane::GENERAL, &request).await;
        let answer = answer.map(|answer| {
            let topic = answer.topics.first();
            topic.map(|topic| (topic.error_code, TopicId(topic.topic_id)))
        });
        let outcome = self.outcome(sent, answer, WireError::TopicAlreadyExists);
        self.model.lock().create(name, outcome);
        outcome
    }

    async fn delete(&self, name: &str) -> Outcome {
        let name_ = TopicName(StrBytes::from_string(name.to_owned()));
        let request = DeleteTopicsRequest::default()
            .with_topics(vec![DeleteTopicState::default().with_name(Some(name_))])
            .with_timeout_ms(NODE_TIMEOUT.as_millis() as i32);
        let sent = Instant::now();
        let answer = self.client.call(Target::Any, Lane::GENERAL, &request).await;
        let answer = answer.map(|answer| {
            let topic = answer.responses.first();
            topic.map(|topic| (topic.error_code, TopicId(topic.topic_id)))
        });
        let outcome = self.outcome(sent, answer, WireError::UnknownTopicOrPartition);
        self.model.lock().delete(name, outcome);
        outcome
    }

    fn outcome(
        &self,
        sent: Instant,
        answer: Result<Option<(i16, TopicId)>, ClientError>,
        already: WireError,
    ) -> Outcome {
        let (code, id) = match answer {
            Ok(Some(answer)) => answer,
            Err(ClientError::Connect { .. }) => return Outcome::NotDone,
            Ok(None) | Err(_) => return Outcome::Unknown,
        };
        let decided = match WireError::try_from_code(code) {
            None => Outcome::Acknowledged(id),
            Some(error) if error == already => Outcome::Already,
            Some(WireError::RequestTimedOut) => return Outcome::Unknown,
            Some(error) => {
                *self.model.lock().refused.entry(format!("{error:?}")).or_default() += 1;
                return Outcome::NotDone;
            }
        };
        // Either way the controller has decided.
        let ack = Ack { node: self.node, sent, at: Instant::now() };
        self.model.lock().acks.push(ack);
        decided
    }
}
