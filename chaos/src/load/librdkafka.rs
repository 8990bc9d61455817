//! Clients of librdkafka, which most stock clients are built on.
//!
//! Each runs on threads of its own, as in any program that uses it, and tells the history what its
//! callbacks say. Settings are its defaults but for how long it waits for a silent broker, and how
//! soon a group misses a member: both as the project's own clients have them, so that both kinds
//! can be held to one bound.

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{COMMIT, GROUP, Load, MISSED, PATIENCE, POLL, STAYS, Shared, give_up, pace::Pace};
use crate::history::{self, OpId, Outcome, Process, Reading, What};

/// How long it waits for the answer of a broker.
const SILENCE: Duration = Duration::from_secs(5);
/// How long it waits before it hands over again what did not fit.
const FULL: Duration = Duration::from_millis(10);

impl Load {
    /// Writes as `process` through the brokers at `bootstrap` until `stop`, and then until all of
    /// it is acknowledged.
    pub async fn write_stock(
        &self,
        process: Process,
        bootstrap: &str,
        history: &Shared,
        mut stop: watch::Receiver<bool>,
    ) {
        let deliveries = Deliveries { history: history.clone() };
        let mut config = settings(bootstrap);
        config
            .set("enable.idempotence", "true")
            .set("request.timeout.ms", in_ms(SILENCE))
            .set("compression.type", self.compression.name())
            .set("message.timeout.ms", in_ms(PATIENCE));
        let producer: ThreadedProducer<_> = match config.create_with_context(deliveries) {
            Ok(producer) => producer,
            Err(error) => return history.lock().failed(process, &error),
        };
        let mut rng = SmallRng::seed_from_u64(self.seed ^ u64::from(process));
        let mut pace = Pace::new(self.pause);
        while let Some(due) = pace.next(&mut rng, &mut stop).await {
            let partition = rng.random_range(0..self.partitions);
            let filling_bytes = rng.random_range(0..=self.filling_bytes);
            let (op, number) = history.lock().send_due(process, partition, due);
            let (key, value) = (history::key(number), history::value(number, filling_bytes));
            let record = BaseRecord::with_opaque_to(&self.topic, op)
                .partition(partition)
                .key(&key)
                .payload(&value);
            let mut handed_over = producer.send(record);
            while let Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) =
                handed_over
            {
                tokio::time::sleep(FULL).await;
                handed_over = producer.send(record);
            }
            if let Err((error, _)) = handed_over {
                give_up(history, op, &error);
            }
        }
        let flushing = on_thread(move || producer.flush(PATIENCE)).await;
        if let Err(error) = flushing {
            history.lock().failed(process, &error);
        }
    }

    /// Consumes along with the writers until `stop`.
    pub async fn consume_stock(
        &self,
        process: Process,
        bootstrap: &str,
        history: &Shared,
        stop: watch::Receiver<bool>,
    ) {
        let mut config = settings(bootstrap);
        // It demands a group, which it does not join.
        config.set("group.id", "chaos-along").set("auto.offset.reset", "error");
        config.set("enable.auto.commit", "false");
        let mut all = TopicPartitionList::new();
        for partition in 0..self.partitions {
            let added = all.add_partition_offset(&self.topic, partition, Offset::Offset(0));
            if let Err(error) = added {
                return history.lock().failed(process, &error);
            }
        }
        let noted = history.clone();
        let consumed = on_thread(move || {
            let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet)?;
            consumer.assign(&all)?;
            while !*stop.borrow() {
                poll(process, Reading::Along, &consumer, &noted);
            }
            Ok::<_, KafkaError>(())
        });
        if let Err(error) = consumed.await {
            history.lock().failed(process, &error);
        }
    }

    /// Consumes as a member of a group until `stop`, leaving and joining again now and then.
    pub async fn consume_in_group_stock(
        &self,
        process: Process,
        bootstrap: &str,
        history: &Shared,
        stop: watch::Receiver<bool>,
    ) {
        let mut config = settings(bootstrap);
        config
            .set("group.id", GROUP)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", in_ms(MISSED))
            // How long a rebalance waits for it.
            .set("max.poll.interval.ms", in_ms(MISSED));
        let (topic, noted, seed) = (self.topic.clone(), history.clone(), self.seed);
        let consumed = on_thread(move || {
            let mut rng = SmallRng::seed_from_u64(seed ^ u64::from(process));
            while !*stop.borrow() {
                let stays = rng.random_range(STAYS);
                belong(process, &config, &topic, &noted, &stop, stays)?;
            }
            Ok::<_, KafkaError>(())
        });
        if let Err(error) = consumed.await {
            history.lock().failed(process, &error);
        }
    }
}

fn settings(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("client.id", "chaos-librdkafka")
        .set("socket.timeout.ms", in_ms(SILENCE));
    config
}

fn in_ms(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Does what blocks on a thread of its own.
async fn on_thread(
    blocks: impl FnOnce() -> Result<(), KafkaError> + Send + 'static,
) -> Result<(), OnThreadError> {
    let (done, ended) = oneshot::channel();
    thread::Builder::new().name("librdkafka".to_owned()).spawn(move || {
        // Who waits may be gone.
        drop(done.send(blocks()));
    })?;
    ended.await.map_err(|_| OnThreadError::Panicked)?.map_err(OnThreadError::from)
}

#[derive(Debug, thiserror::Error)]
enum OnThreadError {
    #[error("no thread can be had for librdkafka")]
    Thread(#[from] io::Error),
    #[error("librdkafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("a thread with librdkafka panicked")]
    Panicked,
}

/// Says what it has to say where that is asked for: its outages are the suite's doing.
macro_rules! quiet {
    () => {
        fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
            tracing::debug!(facility, message, "librdkafka");
        }

        fn error(&self, error: KafkaError, reason: &str) {
            tracing::debug!(%error, reason, "librdkafka");
        }
    };
}

/// A client that nothing else is to be heard of.
struct Quiet;

impl ClientContext for Quiet {
    quiet!();
}

impl ConsumerContext for Quiet {}

/// Hears what becomes of records.
struct Deliveries {
    history: Shared,
}

impl ClientContext for Deliveries {
    quiet!();
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = OpId;

    fn delivery(&self, result: &DeliveryResult<'_>, op: OpId) {
        match result {
            Ok(record) => {
                // It takes a record for written where a later one of its producer is, and then does
                // not know at which offset.
                let offset = record.offset().max(-1);
                tracing::debug!(op, offset, "acknowledged to librdkafka");
                self.history.lock().sent(op, Outcome::Acknowledged(offset));
            }
            Err((error, _)) => give_up(&self.history, op, error),
        }
    }
}

/// Hears what a member is given.
struct Member {
    process: Process,
    history: Shared,
    /// Whether it was given anything yet.
    belongs: AtomicBool,
}

impl ClientContext for Member {
    quiet!();
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let partitions = match rebalance {
            Rebalance::Assign(given) => {
                self.belongs.store(true, Ordering::Relaxed);
                given.elements().iter().map(|it| it.partition()).collect()
            }
            Rebalance::Revoke(_) => Vec::new(),
            Rebalance::Error(error) => {
                tracing::debug!(%error, "rebalance of librdkafka");
                return;
            }
        };
        self.history.lock().did(self.process, What::Assigned { partitions });
    }
}

/// One stay in the group.
fn belong(
    process: Process,
    config: &ClientConfig,
    topic: &str,
    history: &Shared,
    stop: &watch::Receiver<bool>,
    stays: Duration,
) -> Result<(), KafkaError> {
    let belongs = AtomicBool::new(false);
    let member = Member { process, history: history.clone(), belongs };
    let consumer: BaseConsumer<Member> = config.create_with_context(member)?;
    consumer.subscribe(&[topic])?;
    let mut stored = BTreeMap::new();
    let mut commit_at = Instant::now() + COMMIT;
    // Who leaves before the group has formed keeps it from forming.
    let mut until = None;
    while !*stop.borrow() && until.is_none_or(|until| Instant::now() < until) {
        if until.is_none() && consumer.context().belongs.load(Ordering::Relaxed) {
            until = Some(Instant::now() + stays);
        }
        poll(process, Reading::InGroup, &consumer, history);
        if Instant::now() >= commit_at {
            commit(process, &consumer, &mut stored, history)?;
            commit_at = Instant::now() + COMMIT;
        }
    }
    commit(process, &consumer, &mut stored, history)
}

/// Stores how far the member has come, where that is news.
fn commit(
    process: Process,
    consumer: &BaseConsumer<Member>,
    stored: &mut BTreeMap<i32, i64>,
    history: &Shared,
) -> Result<(), KafkaError> {
    let mut news = TopicPartitionList::new();
    let mut noted = Vec::new();
    for at in consumer.position()?.elements() {
        let Offset::Offset(offset) = at.offset() else { continue };
        if stored.get(&at.partition()) != Some(&offset) {
            news.add_partition_offset(at.topic(), at.partition(), Offset::Offset(offset))?;
            noted.push((at.partition(), offset));
        }
    }
    if noted.is_empty() {
        return Ok(());
    }
    let from_us = history.lock().now_us();
    // Refused while the group's members change, or not answered where its coordinator does:
    // whoever gets the partitions next reads them again.
    if let Err(error) = consumer.commit(&news, CommitMode::Sync) {
        tracing::debug!(process, %error, "not stored by librdkafka");
        return Ok(());
    }
    for (partition, offset) in noted {
        stored.insert(partition, offset);
        history.lock().did_since(process, from_us, What::Commit { partition, offset });
    }
    Ok(())
}

/// Takes in one record, if one comes.
fn poll<C: ConsumerContext>(
    process: Process,
    reading: Reading,
    consumer: &BaseConsumer<C>,
    history: &Shared,
) {
    match consumer.poll(POLL) {
        None => {}
        Some(Ok(record)) => {
            let (partition, offset) = (record.partition(), record.offset());
            match history::number(partition, offset, record.key(), record.payload()) {
                Ok(number) => {
                    history.lock().polled_one(process, reading, partition, (offset, number));
                }
                Err(error) => history.lock().failed(process, &error),
            }
        }
        // It goes on by itself, unless it says that it cannot.
        Some(Err(error)) => {
            let gone = error.rdkafka_error_code() == Some(RDKafkaErrorCode::OffsetOutOfRange)
                || error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset)
                || matches!(error, KafkaError::MessageConsumptionFatal(_));
            if gone {
                history.lock().failed(process, &error);
            }
            tracing::debug!(process, %error, "librdkafka");
        }
    }
}
