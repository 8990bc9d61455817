//! The producer: gathers records into batches and sees them written, in order and, unless that is
//! turned off, once.
//!
//! Callers hand records to one task, which owns everything below. Per partition it fills an open
//! batch until that is full or has lingered, then queues it. Batches of a partition are numbered
//! (sequence) when they are first sent.
//!
//! Invariants: a partition's queue is in the order of its sequences, batches without one last; a
//! partition sends one batch at a time until one got through, at first and after each failure, and
//! to one leader at a time, so that no batch overtakes another; the producer id changes only while
//! nothing is in flight. A batch that may
//! have been written under an old id is never sent under a new one.
//!
//! Reference: KIP-98.

mod batch;
mod task;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, ProducerId};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use self::task::Task;
use super::{
    cluster::{Client, Lane, Target, retrying},
    error::ClientError,
    offsets::Partition,
    produce::Acks,
    records::{Record, Writer, partition_for_key},
    wire::Compression,
};
use crate::base;

/// How a producer behaves.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// When a batch counts as written.
    pub acks: Acks,
    /// The codec of batches.
    pub compression: Compression,
    /// The codec's level; its default where none.
    pub compression_level: Option<i32>,
    /// How long a batch waits for more records.
    pub linger: Duration,
    /// When a batch is full, in bytes before compression.
    pub batch_bytes: usize,
    /// The largest request.
    pub request_bytes: usize,
    /// How many requests may be in flight per broker. At most 5 keep their order when idempotent.
    pub in_flight: usize,
    /// Whether records are written once although requests are repeated. Needs `acks` of all.
    pub idempotent: bool,
    /// How long a record may take from being handed over to being acknowledged.
    pub delivery_timeout: Duration,
    /// How much may wait to be written; more makes `send` wait.
    pub buffer_bytes: usize,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            compression: Compression::None,
            compression_level: None,
            linger: Duration::from_millis(5),
            batch_bytes: 16 << 10,
            request_bytes: 1 << 20,
            in_flight: 5,
            idempotent: true,
            delivery_timeout: Duration::from_secs(120),
            buffer_bytes: 32 << 20,
        }
    }
}

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The partition's number.
    pub partition: i32,
    /// The record's offset; -1 where the broker did not say.
    pub offset: i64,
    /// What the broker stamped it with; -1 where it kept the record's own time.
    pub log_append_time_ms: i64,
    /// The id of the broker that appended it; none where an earlier attempt may have.
    pub broker: Option<i32>,
}

type Outcome = Result<Delivery, ClientError>;

/// Tells what became of a record.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Outcome>);

impl Receipt {
    /// Waits until the record is written or given up.
    ///
    /// # Errors
    /// Why it was given up.
    pub async fn delivered(self) -> Outcome {
        self.0.await.unwrap_or(Err(ClientError::Closed))
    }
}

enum Command {
    Send { to: Partition, record: Record, reply: oneshot::Sender<Outcome>, held: Permit },
    Flush(oneshot::Sender<()>),
}

type Permit = OwnedSemaphorePermit;

/// A producer. Dropping it abandons what was not flushed.
#[derive(Debug)]
pub struct Producer {
    client: Client,
    commands: mpsc::Sender<Command>,
    buffer: Arc<Semaphore>,
    config: Arc<ProducerConfig>,
    /// Where records without a key go; the task moves on with each batch.
    sticky: Sticky,
    task: tokio::task::AbortHandle,
}

type Sticky = Arc<Mutex<BTreeMap<Arc<str>, u32>>>;

impl Producer {
    /// Starts a producer's task.
    #[must_use]
    pub fn new(client: Client, mut config: ProducerConfig) -> Self {
        config.idempotent &= config.acks == Acks::All;
        config.in_flight = config.in_flight.max(1);
        if config.idempotent {
            config.in_flight = config.in_flight.min(5);
        }
        let config = Arc::new(config);
        let (commands, inbox) = mpsc::channel(1024);
        let sticky = Sticky::default();
        let task = Task::new(client.clone(), Arc::clone(&config), Arc::clone(&sticky), inbox);
        let task = tokio::spawn(task.run()).abort_handle();
        let buffer = Arc::new(Semaphore::new(config.buffer_bytes.min(Semaphore::MAX_PERMITS)));
        Self { client, commands, buffer, config, sticky, task }
    }

    /// Hands over a record; waits while the buffer is full. Without a partition, one is chosen as
    /// Kafka's producers do: by the key, or else batch by batch in turn.
    ///
    /// # Errors
    /// Where the topic cannot be found, the record is too large or the producer has ended.
    pub async fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        record: Record,
    ) -> Result<Receipt, ClientError> {
        let size_bytes = record.size_bytes();
        let limit_bytes = self.config.request_bytes.min(self.config.buffer_bytes);
        if size_bytes > limit_bytes {
            return Err(ClientError::RecordTooLarge { size_bytes, limit_bytes });
        }
        let view = match self.client.view().topic(topic) {
            Some(view) => Arc::clone(view),
            None => {
                let deadline = self.client.deadline();
                retrying!(self.client, deadline, async { self.client.topic(topic).await })?
            }
        };
        let count = i32::try_from(view.partitions.len()).unwrap_or(i32::MAX);
        let partition = match (partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, count),
            (None, None) => {
                let turn = *self.sticky.lock().entry(Arc::clone(&view.name)).or_default();
                i32::try_from(turn % u32::try_from(count.max(1)).unwrap_or(1)).unwrap_or(0)
            }
        };
        let permits = u32::try_from(size_bytes).unwrap_or(u32::MAX);
        let buffer = Arc::clone(&self.buffer);
        let held = buffer.acquire_many_owned(permits).await.map_err(|_| ClientError::Closed)?;
        let (reply, receipt) = oneshot::channel();
        let to = Partition { topic: Arc::clone(&view.name), partition };
        let command = Command::Send { to, record, reply, held };
        self.commands.send(command).await.map_err(|_| ClientError::Closed)?;
        Ok(Receipt(receipt))
    }

    /// Sends what waits, and returns when all of it is written or given up.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.commands.send(Command::Flush(done)).await.is_ok() {
            // An ended task has nothing left to flush.
            drop(flushed.await);
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks for a producer id and epoch; sequences begin at 0.
pub(crate) async fn identify(client: &Client) -> Result<Writer, ClientError> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let response = client.call(Target::Any, Lane::GENERAL, &request).await?;
    ClientError::check(ApiKey::InitProducerId, response.error_code, None, || "producer".into())?;
    Ok(Writer {
        id: base::ProducerId(response.producer_id.0),
        epoch: base::ProducerEpoch(response.producer_epoch),
        base_sequence: 0,
    })
}
