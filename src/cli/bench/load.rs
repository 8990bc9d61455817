//! One producer's requests to one broker.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep_until};

use super::{
    LoadArgs,
    join::{Due, Join, histogram},
    template::Template,
};
use crate::{
    base::{Clock as _, SystemClock},
    client::{
        Acks, Client, ClientError, Lane, TopicView,
        raw::{self, Addressed, Connection, Pending, Writer},
    },
    protocol::batch::add_sequence,
};

/// When what is written counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) from: Instant,
    pub(super) until: Instant,
}

/// What one worker measured.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) records: u64,
    pub(super) latencies: Histogram<u64>,
}

struct Sent {
    pending: Pending,
    batches: Vec<(i32, Due)>,
    at: Instant,
}

struct Target {
    partition: i32,
    next_sequence: i32,
}

/// One producer at one broker.
pub(super) struct Worker {
    pub(super) acks: Acks,
    pub(super) in_flight: usize,
    request_batches: usize,
    connection: Arc<Connection>,
    version: i16,
    client: Client,
    topic: Arc<TopicView>,
    targets: Vec<Target>,
    turn: usize,
    identity: Option<Writer>,
    template: Template,
    sent: VecDeque<Sent>,
    window: Window,
    measured: Measured,
    join: Option<Arc<Join>>,
    acknowledged: Arc<AtomicU64>,
}

impl Worker {
    #[expect(
        clippy::too_many_arguments,
        reason = "called once; a struct would only name them again"
    )]
    pub(super) async fn new(
        client: &Client,
        args: &LoadArgs,
        lane: Lane,
        node: i32,
        topic: Arc<TopicView>,
        identity: Option<Writer>,
        window: Window,
        join: Option<Arc<Join>>,
        acknowledged: Arc<AtomicU64>,
    ) -> Result<Self, ClientError> {
        let (connection, version) = raw::produce_connection(client, node, lane, &topic).await?;
        let led = topic.partitions.iter().filter(|partition| partition.leader == node);
        let target = |partition| Target { partition, next_sequence: 0 };
        Ok(Self {
            acks: args.acks.into(),
            in_flight: args.in_flight.max(1),
            request_batches: (args.request_bytes / args.batch_bytes.max(1)).max(1),
            connection,
            version,
            client: client.clone(),
            targets: led.map(|led| target(led.partition)).collect(),
            topic,
            turn: 0,
            identity,
            template: Template::new(args.record_size, args.batch_bytes, args.compression.into()),
            sent: VecDeque::new(),
            window,
            measured: Measured { records: 0, latencies: histogram() },
            join,
            acknowledged,
        })
    }

    /// Keeps `in_flight` requests in flight, each with a full batch for as many partitions as fit.
    pub(super) async fn flat_out(mut self) -> Result<Measured, ClientError> {
        let per_request = self.request_batches.min(self.targets.len());
        let count = self.template.most();
        while Instant::now() < self.window.until {
            while self.sent.len() < self.in_flight {
                let now = Instant::now();
                let due = Due {
                    first: now,
                    step: Duration::ZERO,
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                };
                self.send(std::iter::repeat_n(due, per_request)).await?;
            }
            self.settle_oldest().await?;
        }
        self.finish().await
    }

    /// Sends records as they fall due: one every `step`, gathered for `linger`.
    pub(super) async fn at_rate(
        mut self,
        start: Instant,
        step: Duration,
        linger: Duration,
    ) -> Result<Measured, ClientError> {
        let most = u64::try_from(self.template.most()).unwrap_or(u64::MAX);
        let mut sent = 0u64;
        let step_ns = step.as_nanos().max(1);
        let due_at = |n: u64| {
            let nanos = u64::try_from(step_ns * u128::from(n)).unwrap_or(u64::MAX);
            start + Duration::from_nanos(nanos)
        };
        let mut tick = start;
        loop {
            let now = Instant::now();
            let until = now.min(self.window.until);
            let elapsed = until.saturating_duration_since(start).as_nanos();
            // The first is due at the start.
            let due = u64::try_from(elapsed / step_ns).unwrap_or(u64::MAX).saturating_add(1);
            if due > sent && self.sent.len() < self.in_flight {
                let mut batches = Vec::new();
                // As many full batches as one request takes; the rest stays due.
                let limit = self.request_batches.min(self.targets.len());
                while sent < due && batches.len() < limit {
                    let count = (due - sent).min(most);
                    let count_u32 = u32::try_from(count).unwrap_or(u32::MAX);
                    batches.push(Due { first: due_at(sent), step, count: count_u32 });
                    sent += count;
                }
                self.send(batches.into_iter()).await?;
            }
            if now >= self.window.until && sent >= due {
                return self.finish().await;
            }
            while tick <= now {
                tick += linger.max(Duration::from_micros(100));
            }
            let behind = sent < due && self.sent.len() < self.in_flight;
            if behind {
                continue;
            }
            if self.sent.is_empty() {
                sleep_until(tick).await;
            } else if self.sent.len() >= self.in_flight {
                self.settle_oldest().await?;
            } else {
                let ready = match self.sent.front_mut() {
                    Some(front) => tokio::select! {
                        biased;
                        answer = front.pending.answer() => Some(answer),
                        () = sleep_until(tick) => None,
                    },
                    None => None,
                };
                if let Some(answer) = ready {
                    self.settle(answer)?;
                }
            }
        }
    }

    async fn send(&mut self, batches: impl Iterator<Item = Due>) -> Result<(), ClientError> {
        let timestamp_ms = SystemClock.wall_ms();
        let mut addressed = Vec::new();
        let mut meta = Vec::new();
        for due in batches {
            let count = usize::try_from(due.count).unwrap_or(1);
            let body = self.template.body(count, timestamp_ms)?;
            let turn = self.turn;
            self.turn = if turn + 1 == self.targets.len() { 0 } else { turn + 1 };
            let target = &mut self.targets[turn];
            let writer = self.identity.map_or(Writer::default(), |identity| Writer {
                base_sequence: target.next_sequence,
                ..identity
            });
            target.next_sequence = add_sequence(target.next_sequence, body.count);
            let (name, id) = (Arc::clone(&self.topic.name), self.topic.id);
            addressed.push(Addressed::new(name, id, target.partition, &body, writer));
            meta.push((target.partition, due));
        }
        let frame =
            raw::encode(&addressed, self.acks, 30_000, self.version, self.client.client_id())?;
        let at = Instant::now();
        let pending = self.connection.send(frame).await?;
        self.sent.push_back(Sent { pending, batches: meta, at });
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<(), ClientError> {
        let Some(front) = self.sent.front_mut() else { return Ok(()) };
        let answer = raw::answer_within(&self.connection, &mut front.pending, &self.client).await;
        self.settle(answer)
    }

    fn settle(&mut self, answer: Result<bytes::Bytes, ClientError>) -> Result<(), ClientError> {
        let done = Instant::now();
        let Some(sent) = self.sent.pop_front() else { return Ok(()) };
        let answer = answer?;
        let offsets = if self.acks == Acks::None {
            Vec::new()
        } else {
            raw::base_offsets(&self.connection, answer, self.version, &self.topic.name)?
        };
        for (partition, due) in sent.batches {
            let due = if due.step.is_zero() { Due { first: sent.at, ..due } } else { due };
            if let (Some(join), Some((_, offset))) =
                (&self.join, offsets.iter().find(|(answered, _)| *answered == partition))
            {
                join.written(partition, *offset, due);
            }
            self.acknowledged.fetch_add(u64::from(due.count), Ordering::Relaxed);
            let counts = if due.step.is_zero() {
                (self.window.from..self.window.until).contains(&done)
            } else {
                due.first >= self.window.from
            };
            if counts {
                self.measured.records += u64::from(due.count);
                due.record(done, &mut self.measured.latencies);
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Measured, ClientError> {
        while !self.sent.is_empty() {
            self.settle_oldest().await?;
        }
        Ok(self.measured)
    }
}
