//! Clients of the project's own.

use std::time::Duration;

use ottla::client::{
    Acks, Client, ClientError, Consumer, ConsumerConfig, Fetched, GroupConfig, OffsetSpec,
    Producer, ProducerConfig, Receipt, Record,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{sync::watch, task::JoinSet, time};

use super::{
    COMMIT, GROUP, Load, MISSED, PATIENCE, POLL, STAYS, Shared, UNDER_WAY, give_up, pace::Pace,
};
use crate::history::{self, HighWatermark, OpId, Outcome, Process, Reading, What};

impl Load {
    /// Writes as `process` until `stop`, and then until all of it is acknowledged.
    pub async fn write(
        &self,
        process: Process,
        client: &Client,
        history: &Shared,
        mut stop: watch::Receiver<bool>,
    ) {
        let config = ProducerConfig {
            acks: Acks::All,
            compression: self.compression,
            idempotent: true,
            delivery_timeout: PATIENCE,
            ..ProducerConfig::default()
        };
        let producer = Producer::new(client.clone(), config);
        let mut rng = SmallRng::seed_from_u64(self.seed ^ u64::from(process));
        let mut receipts = JoinSet::new();
        let started = time::Instant::now();
        let mut pace = Pace::new(self.pause);
        while let Some(due) = pace.next(&mut rng, &mut stop).await {
            let partition = rng.random_range(0..self.partitions);
            let filling_bytes = rng.random_range(0..=self.filling_bytes);
            let (op, number) = history.lock().send_due(process, partition, due);
            let key = Some(history::key(number).into());
            let value = Some(history::value(number, filling_bytes).into());
            let elapsed_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
            let timestamp_ms = self.started_ms.saturating_add(elapsed_ms);
            let record = Record { key, value, timestamp_ms, ..Record::default() };
            match producer.send(&self.topic, Some(partition), record).await {
                Ok(receipt) => drop(receipts.spawn(acknowledge(receipt, op, history.clone()))),
                Err(error) => give_up(history, op, &error),
            }
            while receipts.len() > UNDER_WAY {
                receipts.join_next().await;
            }
            while receipts.try_join_next().is_some() {}
        }
        producer.flush().await;
        while receipts.join_next().await.is_some() {}
    }

    /// Consumes along with the writers until `stop`.
    pub async fn consume(
        &self,
        process: Process,
        client: &Client,
        history: &Shared,
        stop: watch::Receiver<bool>,
    ) {
        let mut consumer = self.consumer(client);
        while !*stop.borrow() {
            match consumer.poll(POLL).await {
                Ok(fetched) => note(process, Reading::Along, fetched, history),
                Err(error) => {
                    history.lock().failed(process, &error);
                    return;
                }
            }
        }
    }

    /// Consumes as a member of a group until `stop`, leaving and joining again now and then.
    pub async fn consume_in_group(
        &self,
        process: Process,
        client: &Client,
        history: &Shared,
        stop: watch::Receiver<bool>,
    ) {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ u64::from(process));
        let mut worked = time::Instant::now();
        while !*stop.borrow() {
            let stays = rng.random_range(STAYS);
            match self.belong(process, client, history, &stop, stays).await {
                Ok(()) => worked = time::Instant::now(),
                // A commit or a farewell that its coordinator did not live to answer. The member
                // joins again, and is given again what is not stored.
                Err(error) if worked.elapsed() < PATIENCE => {
                    tracing::debug!(process, %error, "joining again");
                    time::sleep(POLL).await;
                }
                Err(error) => {
                    history.lock().failed(process, &error);
                    return;
                }
            }
        }
    }

    async fn belong(
        &self,
        process: Process,
        client: &Client,
        history: &Shared,
        stop: &watch::Receiver<bool>,
        stays: Duration,
    ) -> Result<(), ClientError> {
        let config = ConsumerConfig { reset: Some(OffsetSpec::Earliest), ..Default::default() };
        let mut consumer = Consumer::new(client.clone(), config);
        let by_hand = GroupConfig {
            auto_commit: None,
            session_timeout: MISSED,
            rebalance_timeout: MISSED,
            ..GroupConfig::new(GROUP)
        };
        consumer.subscribe(&[&self.topic], by_hand);
        let mut commit_at = time::Instant::now() + COMMIT;
        let mut assignments = consumer.assignments();
        // Who leaves before the group has formed keeps it from forming.
        let mut until = None;
        while !*stop.borrow() && until.is_none_or(|until| time::Instant::now() < until) {
            let fetched = consumer.poll(POLL).await?;
            if consumer.assignments() != assignments {
                assignments = consumer.assignments();
                until = until.or_else(|| Some(time::Instant::now() + stays));
                let partitions = consumer.positions().keys().map(|it| it.partition).collect();
                history.lock().did(process, What::Assigned { partitions });
            }
            note(process, Reading::InGroup, fetched, history);
            if time::Instant::now() >= commit_at {
                self.commit(process, &mut consumer, history).await?;
                commit_at = time::Instant::now() + COMMIT;
            }
        }
        self.commit(process, &mut consumer, history).await?;
        consumer.close().await
    }

    async fn commit(
        &self,
        process: Process,
        consumer: &mut Consumer,
        history: &Shared,
    ) -> Result<(), ClientError> {
        let from_us = history.lock().now_us();
        match consumer.commit().await {
            Ok(stored) => {
                for (partition, offset) in stored {
                    let what = What::Commit { partition: partition.partition, offset };
                    history.lock().did_since(process, from_us, what);
                }
                Ok(())
            }
            // The group's members change: whoever gets the partitions next reads them again.
            Err(error) if error.wire().is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn note(process: Process, reading: Reading, fetched: Option<Fetched>, history: &Shared) {
    let Some(fetched) = fetched else { return };
    let read = history::numbers(&fetched).and_then(|it| Ok((it, history::epochs(&fetched)?)));
    let (records, epochs) = match read {
        Ok(read) => read,
        Err(error) => {
            history.lock().failed(process, &error);
            return;
        }
    };
    let partition = fetched.partition.partition;
    let high_watermark = Some(HighWatermark { offset: fetched.high_watermark, by: fetched.by });
    let what = What::Poll { reading, partition, records, epochs, high_watermark };
    history.lock().did(process, what);
}

async fn acknowledge(receipt: Receipt, op: OpId, history: Shared) {
    match receipt.delivered().await {
        Ok(delivery) => {
            tracing::debug!(op, delivery.partition, delivery.offset, "acknowledged");
            let acknowledged = Outcome::Acknowledged(delivery.offset);
            history.lock().sent_by(op, acknowledged, delivery.broker);
        }
        Err(error) => give_up(&history, op, &error),
    }
}
