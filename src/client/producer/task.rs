//! The task that owns a producer's batches, numbers them and sees them written.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    Command, Delivery, Outcome, ProducerConfig, Sticky,
    batch::{Batch, Open, Queue, Waiter},
    identify,
};
use crate::{
    base::TopicId,
    client::{
        admin::words,
        cluster::{self, Client, Lane, Target},
        connection,
        error::ClientError,
        offsets::Partition,
        produce::{self, Acks, Addressed},
        records::{Body, Writer},
        wire::Error as WireError,
    },
    protocol::batch::add_sequence,
};

struct Answered {
    node: i32,
    batches: Vec<(Partition, Batch)>,
    answer: Result<Option<ProduceResponse>, ClientError>,
}

enum Side {
    Refreshed(Result<(), ClientError>),
    Identified(Result<Writer, ClientError>),
}

pub(super) struct Task {
    client: Client,
    lane: Lane,
    config: Arc<ProducerConfig>,
    sticky: Sticky,
    inbox: mpsc::Receiver<Command>,
    partitions: BTreeMap<Partition, Queue>,
    /// Requests in flight by node.
    nodes: BTreeMap<i32, usize>,
    requests: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// The one request for metadata or a producer id that is under way.
    side: Option<BoxFuture<'static, Side>>,
    identity: Option<Writer>,
    /// Whether a producer id is to be had before anything else is sent.
    resetting: bool,
    flushes: Vec<oneshot::Sender<()>>,
    /// Nothing is sent before: set after a failure.
    wait_until: Option<Instant>,
    /// How many answers in a row were failures.
    failures: u32,
}

impl Task {
    pub(super) fn new(
        client: Client,
        config: Arc<ProducerConfig>,
        sticky: Sticky,
        inbox: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            lane: client.lane(),
            client,
            resetting: config.idempotent,
            config,
            sticky,
            inbox,
            partitions: BTreeMap::new(),
            nodes: BTreeMap::new(),
            requests: FuturesUnordered::new(),
            side: None,
            identity: None,
            flushes: Vec::new(),
            wait_until: None,
            failures: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut open = true;
        while open || !self.partitions.values().all(Queue::is_idle) {
            self.close_due();
            self.expire();
            self.start_side();
            self.send_ready();
            if self.partitions.values().all(Queue::is_idle) {
                // Whoever asked may have stopped waiting.
                self.flushes.drain(..).for_each(|done| done.send(()).unwrap_or(()));
            }
            let wake = self.next_wake();
            tokio::select! {
                biased;
                Some(answered) = self.requests.next(), if !self.requests.is_empty() => {
                    self.take_answer(answered);
                }
                side = async { self.side.as_mut().expect("guarded by the condition").await },
                    if self.side.is_some() => {
                    self.side = None;
                    self.take_side(side);
                }
                command = self.inbox.recv(), if open => match command {
                    None => open = false,
                    Some(command) => {
                        self.take_command(command);
                        // What else is there makes fuller batches.
                        while let Ok(command) = self.inbox.try_recv() {
                            self.take_command(command);
                        }
                    }
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Flush(done) => self.flushes.push(done),
            Command::Send { to, record, reply, held } => {
                let size_bytes = record.size_bytes();
                let queue = self.partitions.entry(to.clone()).or_default();
                let full = queue
                    .open
                    .as_ref()
                    .is_some_and(|open| open.size_bytes + size_bytes > self.config.batch_bytes);
                if full {
                    self.close(&to);
                }
                let queue = self.partitions.entry(to.clone()).or_default();
                let open = queue.open.get_or_insert_with(|| Open {
                    records: Vec::new(),
                    waiters: Vec::new(),
                    size_bytes: 0,
                    since: Instant::now(),
                });
                open.records.push(record);
                open.waiters.push(Waiter { reply, _held: held });
                open.size_bytes += size_bytes;
                if open.size_bytes >= self.config.batch_bytes {
                    self.close(&to);
                }
            }
        }
    }

    /// Encodes a partition's open batch and queues it.
    fn close(&mut self, partition: &Partition) {
        let Some(queue) = self.partitions.get_mut(partition) else { return };
        let Some(Open { records, waiters, since, .. }) = queue.open.take() else { return };
        if records.iter().any(|record| record.key.is_none()) {
            let mut sticky = self.sticky.lock();
            let turn = sticky.entry(Arc::clone(&partition.topic)).or_default();
            *turn = turn.wrapping_add(1);
        }
        let config = &self.config;
        let encoded = Body::encode(&records, config.compression, config.compression_level);
        let sequence = None;
        match encoded {
            Ok(body) => queue.ready.push_back(Batch {
                body,
                waiters,
                sequence,
                since,
                attempts: 0,
                maybe_written: false,
            }),
            Err(error) => {
                for waiter in waiters {
                    drop(waiter.reply.send(Err(error.clone())));
                }
            }
        }
    }

    fn close_due(&mut self) {
        let now = Instant::now();
        let flushing = !self.flushes.is_empty();
        let due = |queue: &Queue| {
            queue.open.as_ref().is_some_and(|open| {
                flushing || now.saturating_duration_since(open.since) >= self.config.linger
            })
        };
        let due = self.partitions.iter().filter(|(_, queue)| due(queue));
        for partition in due.map(|(partition, _)| partition.clone()).collect::<Vec<_>>() {
            self.close(&partition);
        }
    }

    /// Gives up batches that took too long.
    fn expire(&mut self) {
        let now = Instant::now();
        let timeout = self.config.delivery_timeout;
        for queue in self.partitions.values_mut() {
            while let Some(batch) =
                queue.ready.front().filter(|batch| now.duration_since(batch.since) >= timeout)
            {
                let error = if batch.maybe_written {
                    ClientError::OutcomeUnknown
                } else {
                    ClientError::Undelivered { attempts: batch.attempts }
                };
                self.resetting |= batch.sequence.is_some();
                if let Some(batch) = queue.ready.pop_front() {
                    batch.finish(&Err(error));
                }
            }
        }
    }

    /// Asks for a producer id or for metadata where one is needed.
    fn start_side(&mut self) {
        if self.side.is_some() || self.wait_until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        let client = self.client.clone();
        if self.resetting && self.requests.is_empty() && self.has_ready() {
            self.side = Some(Box::pin(async move { Side::Identified(identify(&client).await) }));
            return;
        }
        let view = client.view();
        let lacks_leader = |partition: &Partition| {
            let found = view.topic(&partition.topic).and_then(|t| t.partition(partition.partition));
            found.is_none_or(|found| found.leader < 0)
        };
        let waiting = self.partitions.iter().filter(|(_, queue)| !queue.ready.is_empty());
        let mut waiting = waiting.map(|(partition, _)| partition).peekable();
        if waiting.peek().is_some() && (client.is_stale() || waiting.any(lacks_leader)) {
            let topics: Vec<_> = self.partitions.keys().map(|p| Arc::clone(&p.topic)).collect();
            self.side = Some(Box::pin(async move {
                let mut names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
                names.dedup();
                Side::Refreshed(client.refresh(&names, false).await)
            }));
        }
    }

    fn has_ready(&self) -> bool {
        self.partitions.values().any(|queue| !queue.ready.is_empty())
    }

    fn take_side(&mut self, side: Side) {
        match side {
            Side::Refreshed(Ok(())) => {
                let view = self.client.view();
                let led = |partition: &Partition| {
                    let topic = view.topic(&partition.topic);
                    topic
                        .and_then(|t| t.partition(partition.partition))
                        .is_some_and(|p| p.leader >= 0)
                };
                let waiting = self.partitions.iter().filter(|(_, queue)| !queue.ready.is_empty());
                if waiting.map(|(partition, _)| partition).all(led) {
                    return;
                }
                self.client.invalidate();
                self.back_off();
            }
            Side::Refreshed(Err(error)) => {
                tracing::debug!(%error, "cannot refresh metadata");
                self.back_off();
            }
            Side::Identified(Ok(identity)) => {
                self.identity = Some(identity);
                self.resetting = false;
                self.renumber();
            }
            Side::Identified(Err(error)) if error.is_retriable() => {
                tracing::debug!(%error, "cannot get a producer id");
                self.back_off();
            }
            Side::Identified(Err(error)) => {
                for queue in self.partitions.values_mut() {
                    queue.ready.drain(..).for_each(|batch| batch.finish(&Err(error.clone())));
                }
            }
        }
    }

    /// Starts sequences anew under a new producer id.
    fn renumber(&mut self) {
        for queue in self.partitions.values_mut() {
            queue.next_sequence = 0;
            queue.flows = false;
            let (lost, kept): (VecDeque<Batch>, _) =
                queue.ready.drain(..).partition(|batch| batch.maybe_written);
            queue.ready = kept;
            lost.into_iter().for_each(|batch| batch.finish(&Err(ClientError::OutcomeUnknown)));
            queue.ready.iter_mut().for_each(|batch| batch.sequence = None);
        }
    }

    fn back_off(&mut self) {
        self.failures += 1;
        self.wait_until = Some(Instant::now() + self.client.backoff(self.failures));
    }

    fn next_wake(&self) -> Option<Instant> {
        let now = Instant::now();
        let lingering = self.partitions.values().filter_map(|queue| queue.open.as_ref());
        let lingering = lingering.map(|open| open.since + self.config.linger);
        let expiring = self.partitions.values().filter_map(|queue| queue.ready.front());
        let expiring = expiring.map(|batch| batch.since + self.config.delivery_timeout);
        let backing_off = self.wait_until.filter(|until| *until > now && self.has_ready());
        lingering.chain(expiring).chain(backing_off).min()
    }

    /// Sends as many queued batches as limits allow: per broker one request of one batch for each
    /// partition at a time.
    fn send_ready(&mut self) {
        if self.resetting || self.wait_until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        loop {
            let requests = self.gather();
            if requests.is_empty() {
                return;
            }
            for (node, batches) in requests {
                *self.nodes.entry(node).or_default() += 1;
                let request = self.request(node, batches);
                self.requests.push(request);
            }
        }
    }

    fn gather(&mut self) -> BTreeMap<i32, Vec<(Partition, TopicId, Batch)>> {
        let view = self.client.view();
        let mut requests = BTreeMap::<i32, Vec<_>>::new();
        let mut sizes = BTreeMap::<i32, usize>::new();
        for (partition, queue) in &mut self.partitions {
            let Some(batch) = queue.ready.front() else { continue };
            let Some(topic) = view.topic(&partition.topic) else { continue };
            let Some(found) = topic.partition(partition.partition) else { continue };
            if found.leader < 0 || !queue.may_send(found.leader, self.config.in_flight) {
                continue;
            }
            let busy = self.nodes.get(&found.leader).copied().unwrap_or(0);
            let size = sizes.entry(found.leader).or_default();
            let fits = *size == 0 || *size + batch.body.size_bytes() <= self.config.request_bytes;
            if busy >= self.config.in_flight || !fits {
                continue;
            }
            *size += batch.body.size_bytes();
            let Some(mut batch) = queue.ready.pop_front() else { continue };
            if self.config.idempotent && batch.sequence.is_none() {
                batch.sequence = Some(queue.next_sequence);
                queue.next_sequence = add_sequence(queue.next_sequence, batch.body.count);
            }
            batch.attempts += 1;
            (queue.in_flight, queue.node) = (queue.in_flight + 1, found.leader);
            requests.entry(found.leader).or_default().push((partition.clone(), topic.id, batch));
        }
        requests
    }

    fn request(
        &self,
        node: i32,
        batches: Vec<(Partition, TopicId, Batch)>,
    ) -> BoxFuture<'static, Answered> {
        let identity = self.identity.unwrap_or_default();
        let addressed: Vec<_> = batches
            .iter()
            .map(|(partition, id, batch)| {
                let writer = batch.sequence.map_or(Writer::default(), |base_sequence| Writer {
                    base_sequence,
                    ..identity
                });
                let topic = Arc::clone(&partition.topic);
                Addressed::new(topic, *id, partition.partition, &batch.body, writer)
            })
            .collect();
        let batches = batches.into_iter().map(|(p, _, batch)| (p, batch)).collect();
        let (client, lane, acks) = (self.client.clone(), self.lane, self.config.acks);
        Box::pin(async move {
            let answer = ask(&client, node, lane, &addressed, acks).await;
            Answered { node, batches, answer }
        })
    }

    fn take_answer(&mut self, answered: Answered) {
        let Answered { node, batches, answer } = answered;
        if let Some(in_flight) = self.nodes.get_mut(&node) {
            *in_flight -= 1;
        }
        let mut failed = false;
        for (partition, batch) in batches {
            let outcome = match &answer {
                Err(error) => Err(error.clone()),
                Ok(None) => Ok(Delivery {
                    partition: partition.partition,
                    offset: -1,
                    log_append_time_ms: -1,
                    broker: Some(node),
                }),
                Ok(Some(response)) => read(response, node, &partition, &self.client),
            };
            failed |= outcome.is_err();
            self.settle(&partition, batch, outcome);
        }
        if failed {
            self.back_off();
        } else {
            self.failures = 0;
            self.wait_until = None;
        }
    }

    fn settle(&mut self, partition: &Partition, mut batch: Batch, outcome: Outcome) {
        let Some(queue) = self.partitions.get_mut(partition) else { return };
        queue.in_flight -= 1;
        let error = match outcome {
            Ok(delivery) => {
                queue.flows = true;
                let broker = delivery.broker.filter(|_| batch.attempts <= 1);
                batch.finish(&Ok(Delivery { broker, ..delivery }));
                return;
            }
            Err(error) => error,
        };
        if error.invalidates_metadata() {
            self.client.invalidate();
        }
        batch.maybe_written |= match &error {
            ClientError::Connect { .. } | ClientError::UnknownBroker { .. } => false,
            other => matches!(
                other.wire(),
                None | Some(
                    WireError::RequestTimedOut
                        | WireError::NotEnoughReplicasAfterAppend
                        | WireError::UnknownServerError
                )
            ),
        };
        let earlier = |other: &Batch| match (other.sequence, batch.sequence) {
            (Some(other), Some(own)) => own.wrapping_sub(other) > 0,
            _ => false,
        };
        let out_of_order = error.wire() == Some(WireError::OutOfOrderSequenceNumber);
        let gap_ahead = queue.in_flight > 0 || queue.ready.iter().any(earlier);
        let lost_identity = batch.sequence.is_some()
            && match error.wire() {
                Some(WireError::OutOfOrderSequenceNumber) => !gap_ahead,
                Some(WireError::UnknownProducerId | WireError::InvalidProducerEpoch) => true,
                _ => false,
            };
        self.resetting |= lost_identity;
        if error.is_retriable() || out_of_order || lost_identity {
            tracing::debug!(%error, %partition, attempts = batch.attempts, "sending again");
            queue.flows = false;
            queue.put_back(batch);
            return;
        }
        // Nothing was written under these sequences: they are free again if they were the last.
        if let Some(sequence) = batch.sequence {
            if add_sequence(sequence, batch.body.count) == queue.next_sequence {
                queue.next_sequence = sequence;
            } else {
                self.resetting = true;
            }
        }
        batch.finish(&Err(error));
    }
}

async fn ask(
    client: &Client,
    node: i32,
    lane: Lane,
    batches: &[Addressed],
    acks: Acks,
) -> Result<Option<ProduceResponse>, ClientError> {
    let connection = client.connection(Target::Node(node), lane).await?;
    let all_ids_known = batches.iter().all(|batch| batch.topic_id != TopicId::NONE);
    let versions = produce::versions(all_ids_known);
    let version = cluster::choose(&connection, ApiKey::Produce, versions)?;
    let timeout = client.config().request_timeout;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let frame = produce::encode(batches, acks, timeout_ms, version, client.client_id())?;
    let pending = connection.send(frame).await?;
    let address = Arc::clone(pending.address());
    // The broker counts the timeout from when it has read the request.
    let deadline = Instant::now() + timeout + Duration::from_secs(1);
    let response = connection::wait_until(&connection, pending, deadline).await?;
    if acks == Acks::None {
        return Ok(None);
    }
    cluster::decode::<ProduceRequest>(&connection, &address, response, version).map(Some)
}

fn read(response: &ProduceResponse, node: i32, partition: &Partition, client: &Client) -> Outcome {
    let id = client.view().topic(&partition.topic).map(|topic| topic.id.0);
    let named = |name: &str, topic_id| {
        if name.is_empty() { Some(topic_id) == id } else { name == &*partition.topic }
    };
    let topics = response.responses.iter().filter(|topic| named(&topic.name, topic.topic_id));
    let mut found = topics.flat_map(|topic| &topic.partition_responses);
    let Some(found) = found.find(|found| found.index == partition.partition) else {
        let subject = partition.to_string().into();
        return Err(ClientError::Missing { api: ApiKey::Produce, subject });
    };
    let delivery = Delivery {
        partition: partition.partition,
        offset: found.base_offset,
        log_append_time_ms: found.log_append_time_ms,
        broker: Some(node),
    };
    match WireError::try_from_code(found.error_code) {
        None => Ok(delivery),
        Some(WireError::DuplicateSequenceNumber) => Ok(delivery),
        Some(error) => {
            let message = words(&found.error_message);
            Err(ClientError::refused(ApiKey::Produce, partition.to_string(), error, message))
        }
    }
}
