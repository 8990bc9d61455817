//! The load on nodes that are being broken: writers, a consumer at the log's end, the members of a
//! group, and a last reading of everything.
//!
//! Records are due at a rate that does not wait for the cluster: a stall delays all records that
//! are due meanwhile, and their latencies count from when they were due. Each client is the
//! project's own or librdkafka; the last reading is the project's own,
//! since it looks at batches.

mod admin;
mod clients;
mod librdkafka;
mod own;
mod pace;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ottla::client::{
    Client, ClientError, Compression, Consumer, ConsumerConfig, NewTopic, OffsetSpec, Partition,
    WireError,
};
use parking_lot::Mutex;

pub use self::{
    admin::Asked,
    clients::{Clients, Role, Worker},
};
use crate::history::{self, History, OpId, Outcome, Process, Reading, What};

/// A history that several tasks write.
pub type Shared = Arc<Mutex<History>>;

/// How long a record may take; far longer than any outage.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(200);
/// How often a member of a group stores how far it is.
const COMMIT: Duration = Duration::from_millis(500);
/// For how long a member of a group stays.
const STAYS: std::ops::Range<Duration> = Duration::from_secs(3)..Duration::from_secs(10);
/// After how long a member that was killed with its coordinator is not waited for.
const MISSED: Duration = Duration::from_secs(10);
/// The group that consumes.
const GROUP: &str = "chaos";
/// How many records may be on their way.
const UNDER_WAY: usize = 20_000;

/// What is written.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where.
    pub topic: String,
    /// Into how many partitions.
    pub partitions: i32,
    /// How many nodes hold each.
    pub replication_factor: i16,
    /// How many must be in sync for a write to be taken.
    pub min_insync_replicas: i16,
    /// How batches are compressed.
    pub compression: Compression,
    /// The longest time between two records of a writer; half of it on average.
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
            replication_factor: Some(self.replication_factor),
            configs: vec![
                ("min.insync.replicas".to_owned(), self.min_insync_replicas.to_string()),
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

    /// Asks what the group has stored.
    ///
    /// # Errors
    /// Where nobody says so in time.
    pub async fn committed(
        &self,
        process: Process,
        client: &Client,
        history: &Shared,
    ) -> Result<(), ClientError> {
        let partitions: Vec<_> = self.all_partitions().collect();
        for (partition, committed) in client.committed(GROUP, Some(&partitions)).await? {
            let (partition, offset) = (partition.partition, committed.offset);
            history.lock().did(process, What::Committed { partition, offset });
        }
        Ok(())
    }

    /// Reads everything as `process`, from the start to where the log ends now.
    ///
    /// # Errors
    /// Where the end cannot be had.
    pub async fn read(
        &self,
        process: Process,
        client: &Client,
        history: &Shared,
    ) -> Result<(), ClientError> {
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
                history.lock().failed(process, &"the end of the log is never reached");
                return Ok(());
            };
            let partition = fetched.partition.partition;
            match history::numbers(&fetched) {
                Ok(records) => {
                    let end = records.last().map_or(0, |(offset, _)| offset + 1);
                    let epochs = history::epochs(&fetched).unwrap_or_default();
                    let what = What::Poll {
                        reading: Reading::AtTheEnd,
                        partition,
                        records,
                        epochs,
                        high_watermark: None,
                    };
                    history.lock().did(process, what);
                    if left.get(&fetched.partition).is_some_and(|wanted| *wanted <= end) {
                        left.remove(&fetched.partition);
                    }
                }
                Err(error) => {
                    history.lock().failed(process, &error);
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

fn give_up(history: &Shared, op: OpId, error: &impl ToString) {
    history.lock().sent(op, Outcome::GivenUp(error.to_string()));
}
