//! The load on a node that is being broken: writes, a consumer at the log's end, a last reading.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ottla::client::Compression;
use ottla::client::{
    Acks, Client, ClientError, Consumer, ConsumerConfig, NewTopic, OffsetSpec, Partition, Producer,
    ProducerConfig, Receipt, Record, WireError,
};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{sync::watch, task::JoinSet, time};

use crate::history::{self, History, Number, Violation};

/// A history that several tasks write.
pub type Shared = Arc<Mutex<History>>;

/// How long a record may take; far longer than any outage.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(200);
/// How many records may be on their way.
const UNDER_WAY: usize = 2_000;

/// What is written.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where.
    pub topic: String,
    /// Into how many partitions.
    pub partitions: i32,
    /// How batches are compressed.
    pub compression: Compression,
    /// The longest wait between two records.
    pub pause: Duration,
    /// The most that a record carries besides its number.
    pub filling_bytes: usize,
    /// When it begins, in milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Decides the rest.
    pub seed: u64,
}

impl Load {
    /// Makes the topic, or finds that it was made although the answer was lost.
    ///
    /// # Errors
    /// Any other refusal.
    pub async fn create_topic(&self, client: &Client) -> Result<(), ClientError> {
        let topic = NewTopic {
            name: self.topic.clone(),
            partitions: Some(self.partitions),
            replication_factor: Some(1),
            configs: vec![
                ("segment.bytes".to_owned(), (1 << 20).to_string()),
                // All of it is read in the end, however long the run.
                ("retention.ms".to_owned(), "-1".to_owned()),
            ],
        };
        match client.create_topic(&topic, false).await {
            Err(error) if error.wire() == Some(WireError::TopicAlreadyExists) => Ok(()),
            created => created.map(drop),
        }
    }

    /// Writes until `stop`, and then until all of it is acknowledged.
    pub async fn write(&self, client: &Client, history: &Shared, mut stop: watch::Receiver<bool>) {
        let config = ProducerConfig {
            acks: Acks::All,
            compression: self.compression,
            idempotent: true,
            delivery_timeout: PATIENCE,
            ..ProducerConfig::default()
        };
        let producer = Producer::new(client.clone(), config);
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let mut receipts = JoinSet::new();
        let started = time::Instant::now();
        while !*stop.borrow_and_update() {
            let partition = rng.random_range(0..self.partitions);
            let filling_bytes = rng.random_range(0..=self.filling_bytes);
            let number = history.lock().send(partition);
            let value = history::value(number, filling_bytes).into();
            let elapsed_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
            let timestamp_ms = self.started_ms.saturating_add(elapsed_ms);
            let record = Record { value: Some(value), timestamp_ms, ..Record::default() };
            match producer.send(&self.topic, Some(partition), record).await {
                Ok(receipt) => drop(receipts.spawn(acknowledge(receipt, number, history.clone()))),
                Err(error) => give_up(history, number, &error),
            }
            while receipts.len() > UNDER_WAY {
                receipts.join_next().await;
            }
            while receipts.try_join_next().is_some() {}
            time::sleep(rng.random_range(Duration::ZERO..=self.pause)).await;
        }
        producer.flush().await;
        while receipts.join_next().await.is_some() {}
    }

    /// Consumes at the log's end until `stop`: nothing that it sees may ever vanish.
    pub async fn consume(&self, client: &Client, history: &Shared, stop: watch::Receiver<bool>) {
        let mut consumer = self.consumer(client);
        while !*stop.borrow() {
            match consumer.poll(POLL).await {
                Ok(Some(fetched)) => match history::numbers(&fetched) {
                    Ok(records) => {
                        history.lock().consumed(fetched.partition.partition, &records);
                    }
                    Err(error) => fail(history, &error),
                },
                Ok(None) => {}
                Err(error) => {
                    fail(history, &error);
                    return;
                }
            }
        }
    }

    /// Reads everything, from the start to where the log ends now.
    ///
    /// # Errors
    /// Where the end cannot be had.
    pub async fn read(&self, client: &Client, history: &Shared) -> Result<(), ClientError> {
        let specs: Vec<_> =
            self.all_partitions().map(|partition| (partition, OffsetSpec::Latest)).collect();
        let mut left: BTreeMap<Partition, i64> = client
            .list_offsets(&specs)
            .await?
            .into_iter()
            .filter_map(|(partition, end)| Some((partition, end.filter(|end| *end > 0)?)))
            .collect();
        let mut consumer = self.consumer(client);
        while !left.is_empty() {
            let Some(fetched) = consumer.poll(PATIENCE).await? else {
                fail(history, &"the end of the log is never reached");
                return Ok(());
            };
            match history::numbers(&fetched) {
                Ok(records) => {
                    history.lock().read(fetched.partition.partition, &records);
                    let end = records.last().map_or(0, |(offset, _)| offset + 1);
                    if left.get(&fetched.partition).is_some_and(|wanted| *wanted <= end) {
                        left.remove(&fetched.partition);
                    }
                }
                Err(error) => {
                    fail(history, &error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn all_partitions(&self) -> impl Iterator<Item = Partition> {
        (0..self.partitions).map(|partition| Partition::new(&*self.topic, partition))
    }

    fn consumer(&self, client: &Client) -> Consumer {
        let config = ConsumerConfig { reset: None, ..ConsumerConfig::default() };
        let mut consumer = Consumer::new(client.clone(), config);
        consumer.assign(self.all_partitions().map(|partition| (partition, 0)));
        consumer
    }
}

async fn acknowledge(receipt: Receipt, number: Number, history: Shared) {
    match receipt.delivered().await {
        Ok(delivery) => {
            tracing::debug!(number, delivery.partition, delivery.offset, "acknowledged");
            history.lock().acknowledged(number, delivery.partition, delivery.offset);
        }
        Err(error) => give_up(&history, number, &error),
    }
}

fn give_up(history: &Shared, number: Number, error: &ClientError) {
    history.lock().fail(Violation::GivenUp { number, reason: error.to_string() });
}

fn fail(history: &Shared, error: &impl ToString) {
    history.lock().fail(Violation::Consumer(error.to_string()));
}
