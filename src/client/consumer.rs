//! The consumer: positions in partitions, fetches from their leaders, and a group if wanted.
//!
//! At most one fetch per broker is in flight, on a connection of its own since it waits at the
//! broker. The next one starts before the records of the last are handed out.
//!
//! Invariant: an answer counts only if the position is still the one it was asked for, so a seek
//! or a rebalance meanwhile is never undone.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kafka_protocol::{
    messages::{
        ApiKey, BrokerId, FetchRequest, FetchResponse, TopicName,
        fetch_request::{FetchPartition, FetchTopic},
        fetch_response::PartitionData,
    },
    protocol::{Message, VersionRange},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    cluster::{Client, Lane, Target},
    codec::text,
    error::ClientError,
    fetched::{self, Fetched},
    membership::{GroupConfig, Membership},
    metadata::PartitionView,
    offsets::{Committed, OffsetSpec, Partition},
    wire::Error as WireError,
};
use crate::base::TopicId;

/// How a consumer behaves.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// How long a broker waits for `min_bytes`.
    pub max_wait: Duration,
    /// How much a broker waits for.
    pub min_bytes: i32,
    /// The most that one answer brings, one batch aside.
    pub max_bytes: i32,
    /// The most of one partition in an answer, one batch aside.
    pub partition_max_bytes: i32,
    /// Whether only committed transactions are read.
    pub read_committed: bool,
    /// Where to start where nothing is committed, or the position is gone; none to fail.
    pub reset: Option<OffsetSpec>,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 << 20,
            partition_max_bytes: 1 << 20,
            read_committed: false,
            reset: Some(OffsetSpec::Latest),
        }
    }
}

#[derive(Debug)]
struct Arrived {
    node: i32,
    asked: Vec<(Partition, i64)>,
    answer: Result<FetchResponse, ClientError>,
}

/// A consumer.
pub struct Consumer {
    client: Client,
    lane: Lane,
    config: ConsumerConfig,
    positions: BTreeMap<Partition, i64>,
    /// Positions as last committed.
    committed: BTreeMap<Partition, i64>,
    /// Positions up to which records were handed out.
    delivered: BTreeMap<Partition, i64>,
    busy: BTreeSet<i32>,
    /// Who leads what is read. A task of its own, so that it goes on from poll to poll, and between
    /// them: a node that does not answer is noticed only after the request's timeout, which may be
    /// longer than a poll, and others may wait for the connection that is being made.
    lookup: Option<JoinHandle<Found>>,
    fetches: FuturesUnordered<BoxFuture<'static, Arrived>>,
    ready: VecDeque<Fetched>,
    group: Option<Membership>,
    assignments: u64,
    commit_at: Option<Instant>,
    failures: u32,
    wait_until: Option<Instant>,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("positions", &self.positions).finish_non_exhaustive()
    }
}

impl Consumer {
    /// A consumer that reads nothing yet.
    #[must_use]
    pub fn new(client: Client, config: ConsumerConfig) -> Self {
        Self {
            lane: client.lane(),
            client,
            config,
            positions: BTreeMap::new(),
            committed: BTreeMap::new(),
            delivered: BTreeMap::new(),
            busy: BTreeSet::new(),
            lookup: None,
            fetches: FuturesUnordered::new(),
            ready: VecDeque::new(),
            group: None,
            assignments: 0,
            commit_at: None,
            failures: 0,
            wait_until: None,
        }
    }

    /// Reads these partitions from these offsets on.
    pub fn assign(&mut self, positions: impl IntoIterator<Item = (Partition, i64)>) {
        self.positions = positions.into_iter().collect();
        self.ready.clear();
        self.delivered.clear();
        self.committed.clear();
    }

    /// Reads what the group gives it of `topics`. The next poll joins.
    pub fn subscribe(&mut self, topics: &[&str], group: GroupConfig) {
        let topics = topics.iter().map(|topic| Arc::from(*topic)).collect();
        self.assign([]);
        self.commit_at = group.auto_commit.map(|interval| Instant::now() + interval);
        self.group = Some(Membership::new(self.client.clone(), group, topics));
    }

    /// The partitions it reads, and where it will read next.
    #[must_use]
    pub const fn positions(&self) -> &BTreeMap<Partition, i64> {
        &self.positions
    }

    /// How often its group has given it partitions. It may join again within one generation, as
    /// when the coordinator moves, and goes on where the group has stored that it is.
    #[must_use]
    pub const fn assignments(&self) -> u64 {
        self.assignments
    }

    /// Whether fetched batches wait to be handed out.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next batches, of one partition; none where none came within `wait`.
    ///
    /// # Errors
    /// What trying again would not mend.
    pub async fn poll(&mut self, wait: Duration) -> Result<Option<Fetched>, ClientError> {
        let deadline = Instant::now() + wait;
        loop {
            self.keep_membership().await?;
            self.commit_if_due().await?;
            self.start_fetches(deadline).await?;
            if let Some(fetched) = self.ready.pop_front() {
                self.note_delivered(&fetched);
                return Ok(Some(fetched));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let signal = self.group.as_ref().map(Membership::signal);
            let raised = async {
                match signal {
                    Some(signal) => signal.raised().await,
                    None => std::future::pending().await,
                }
            };
            let wake = self.wait_until.map_or(deadline, |until| until.min(deadline));
            tokio::select! {
                biased;
                Some(arrived) = self.fetches.next(), if !self.fetches.is_empty() => {
                    self.take(arrived).await?;
                }
                () = raised => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    fn note_delivered(&mut self, fetched: &Fetched) {
        if let Some(last) = fetched.batches().last() {
            self.delivered.insert(fetched.partition.clone(), last.last_offset + 1);
        }
    }

    /// Commits how far the records handed out reach. Returns what is stored that was not before.
    ///
    /// # Errors
    /// The coordinator's refusal, or the failure to reach it.
    pub async fn commit(&mut self) -> Result<BTreeMap<Partition, i64>, ClientError> {
        let Some(group) = self.group.as_ref().filter(|group| group.holds_assignment()) else {
            return Ok(BTreeMap::new());
        };
        let news: BTreeMap<Partition, i64> = self
            .delivered
            .iter()
            .filter(|(partition, offset)| self.committed.get(*partition) != Some(*offset))
            .map(|(partition, offset)| (partition.clone(), *offset))
            .collect();
        let offsets = news.iter().map(|(p, offset)| (p.clone(), Committed::at(*offset))).collect();
        let (name, committer) = (group.config().group.clone(), group.committer());
        self.client.commit_as(&name, &committer, &offsets).await?;
        self.committed.extend(news.clone());
        Ok(news)
    }

    /// Commits, where that goes by itself, and leaves the group.
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn close(mut self) -> Result<(), ClientError> {
        if self.commit_at.is_some() {
            self.commit().await?;
        }
        match &mut self.group {
            Some(group) => group.leave().await,
            None => Ok(()),
        }
    }

    async fn commit_if_due(&mut self) -> Result<(), ClientError> {
        let interval = self.group.as_ref().and_then(|group| group.config().auto_commit);
        if let (Some(at), Some(interval)) = (self.commit_at, interval)
            && Instant::now() >= at
        {
            self.commit_at = Some(Instant::now() + interval);
            match self.commit().await {
                // A rebalance has begun: the partitions are committed by whoever gets them.
                Err(error) if error.wire().is_some() => tracing::debug!(%error, "not committed"),
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Joins the group where that is due, and takes on what it gives.
    async fn keep_membership(&mut self) -> Result<(), ClientError> {
        if !self.group.as_ref().is_some_and(|group| group.signal().wants_rejoin()) {
            return Ok(());
        }
        if self.commit_at.is_some()
            && let Err(error) = self.commit().await
        {
            tracing::debug!(%error, "not committed before the rebalance");
        }
        let Some(group) = &mut self.group else { return Ok(()) };
        let assigned = group.join().await?;
        let name = group.config().group.clone();
        let committed = if assigned.is_empty() {
            BTreeMap::new()
        } else {
            self.client.committed(&name, Some(&assigned)).await?
        };
        let mut positions = BTreeMap::new();
        let mut unknown = Vec::new();
        for partition in assigned {
            match (committed.get(&partition), self.config.reset) {
                (Some(committed), _) => drop(positions.insert(partition, committed.offset)),
                (None, Some(spec)) => unknown.push((partition, spec)),
                (None, None) => return Err(ClientError::OutOfRange { partition, offset: -1 }),
            }
        }
        if !unknown.is_empty() {
            for (partition, offset) in self.client.list_offsets(&unknown).await? {
                positions.insert(partition, offset.unwrap_or(0));
            }
        }
        self.assignments += 1;
        tracing::debug!(group = %name, partitions = positions.len(), "joined");
        self.assign(positions);
        Ok(())
    }

    /// Starts a fetch at each leader that has none in flight.
    async fn start_fetches(&mut self, deadline: Instant) -> Result<(), ClientError> {
        // One answer waiting to be read per partition is enough.
        if !self.ready.is_empty() || self.wait_until.is_some_and(|until| until > Instant::now()) {
            return Ok(());
        }
        self.wait_until = None;
        let lookup = self.lookup.get_or_insert_with(|| {
            let partitions = self.positions.keys().cloned().collect();
            tokio::spawn(look_up(self.client.clone(), partitions))
        });
        let Ok(found) = timeout_at(deadline, lookup).await else { return Ok(()) };
        self.lookup = None;
        // Else the runtime is ending.
        let Ok(found) = found else { return Ok(()) };
        let mut leaders = BTreeMap::<i32, Vec<(Partition, TopicId, i32, i64)>>::new();
        let mut missing = false;
        for (partition, found) in found {
            let Some(position) = self.positions.get(&partition) else { continue };
            match found {
                Ok((id, view)) if !self.busy.contains(&view.leader) => {
                    let asked = (partition, id, view.leader_epoch, *position);
                    leaders.entry(view.leader).or_default().push(asked);
                }
                Ok(_) => {}
                Err(error) if error.is_retriable() => {
                    tracing::debug!(%error, %partition, "no leader");
                    missing = true;
                }
                Err(error) => return Err(error),
            }
        }
        if missing {
            self.back_off();
        }
        for (node, asked) in leaders {
            self.busy.insert(node);
            let (client, lane, config) = (self.client.clone(), self.lane, self.config.clone());
            self.fetches.push(Box::pin(async move {
                let answer = fetch(&client, node, lane, &config, &asked).await;
                let asked = asked.into_iter().map(|(partition, .., at)| (partition, at)).collect();
                Arrived { node, asked, answer }
            }));
        }
        Ok(())
    }

    fn back_off(&mut self) {
        self.client.invalidate();
        self.failures += 1;
        self.wait_until = Some(Instant::now() + self.client.backoff(self.failures));
    }

    async fn take(&mut self, arrived: Arrived) -> Result<(), ClientError> {
        self.busy.remove(&arrived.node);
        let response = match arrived.answer {
            Ok(response) => response,
            Err(error) if error.is_retriable() => {
                tracing::debug!(%error, "fetch failed");
                self.back_off();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(error) = WireError::try_from_code(response.error_code) {
            let subject = format!("broker {}", arrived.node);
            let error = ClientError::refused(ApiKey::Fetch, subject, error, None);
            if !error.is_retriable() {
                return Err(error);
            }
            self.back_off();
            return Ok(());
        }
        let mut failed = false;
        for topic in response.responses {
            let name: Arc<str> = if topic.topic_id.is_nil() {
                topic.topic.as_str().into()
            } else {
                let known = self.client.view();
                match known.topic_by_id(TopicId(topic.topic_id)) {
                    Some(topic) => Arc::clone(&topic.name),
                    None => continue,
                }
            };
            for data in topic.partitions {
                let partition = Partition::new(Arc::clone(&name), data.partition_index);
                let asked = arrived.asked.iter().find(|(asked, _)| *asked == partition);
                let Some((_, from)) = asked else { continue };
                failed |= !self.take_partition(partition, *from, arrived.node, data).await?;
            }
        }
        if !failed {
            self.failures = 0;
        }
        Ok(())
    }

    /// False where it is to be tried again later.
    async fn take_partition(
        &mut self,
        partition: Partition,
        from: i64,
        by: i32,
        data: PartitionData,
    ) -> Result<bool, ClientError> {
        if self.positions.get(&partition) != Some(&from) {
            return Ok(true);
        }
        match WireError::try_from_code(data.error_code) {
            None => {}
            Some(WireError::OffsetOutOfRange) => {
                let Some(spec) = self.config.reset else {
                    return Err(ClientError::OutOfRange { partition, offset: from });
                };
                let found = self.client.list_offsets(&[(partition.clone(), spec)]).await?;
                let offset = found.get(&partition).copied().flatten().unwrap_or(0);
                self.positions.insert(partition, offset);
                return Ok(true);
            }
            Some(error) => {
                let subject = partition.to_string();
                let error = ClientError::refused(ApiKey::Fetch, subject, error, None);
                if error.is_retriable() || error.invalidates_metadata() {
                    tracing::debug!(%error, "fetching again");
                    self.back_off();
                    return Ok(false);
                }
                return Err(error);
            }
        }
        let bytes = data.records.unwrap_or_default();
        let Some(last) = fetched::batches(bytes.clone()).last() else { return Ok(true) };
        self.positions.insert(partition.clone(), last.last_offset + 1);
        let aborted = data.aborted_transactions.unwrap_or_default();
        let aborted = aborted.iter().filter(|_| self.config.read_committed);
        let aborted = aborted.map(|a| (a.producer_id.0, a.first_offset)).collect();
        let high_watermark = data.high_watermark;
        self.ready.push_back(Fetched { partition, bytes, from, high_watermark, by, aborted });
        Ok(true)
    }
}

/// The leader of each partition, with the id of its topic.
type Found = Vec<(Partition, Result<(TopicId, PartitionView), ClientError>)>;

/// Who leads these partitions, and the ids of their topics. Asks where that is not known.
async fn look_up(client: Client, partitions: Vec<Partition>) -> Found {
    let mut found = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let view = client.partition(&partition.topic, partition.partition).await;
        let known = client.view();
        let id = known.topic(&partition.topic).map_or(TopicId::NONE, |topic| topic.id);
        found.push((partition, view.map(|view| (id, view))));
    }
    found
}

async fn fetch(
    client: &Client,
    node: i32,
    lane: Lane,
    config: &ConsumerConfig,
    asked: &[(Partition, TopicId, i32, i64)],
) -> Result<FetchResponse, ClientError> {
    let all_ids_known = asked.iter().all(|(_, id, ..)| *id != TopicId::NONE);
    let ours = FetchRequest::VERSIONS;
    let max = if all_ids_known { ours.max } else { ours.max.min(12) };
    let build = |version| Ok(request(config, asked, version));
    let within = config.max_wait + client.config().request_timeout;
    let versions = VersionRange { max, ..ours };
    client
        .call_within::<FetchRequest, FetchRequest>(
            Target::Node(node),
            lane,
            versions,
            within,
            build,
        )
        .await
}

fn request(
    config: &ConsumerConfig,
    asked: &[(Partition, TopicId, i32, i64)],
    version: i16,
) -> FetchRequest {
    let mut topics: Vec<FetchTopic> = Vec::new();
    for of_topic in asked.chunk_by(|a, b| a.0.topic == b.0.topic) {
        let partitions = of_topic.iter().map(|(partition, _, leader_epoch, position)| {
            FetchPartition::default()
                .with_partition(partition.partition)
                .with_current_leader_epoch(if version >= 9 { *leader_epoch } else { -1 })
                .with_fetch_offset(*position)
                .with_partition_max_bytes(config.partition_max_bytes)
        });
        let topic = FetchTopic::default().with_partitions(partitions.collect());
        topics.push(if version >= 13 {
            topic.with_topic_id(of_topic[0].1.0)
        } else {
            topic.with_topic(TopicName(text(&of_topic[0].0.topic)))
        });
    }
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(config.max_wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(config.min_bytes)
        .with_max_bytes(config.max_bytes)
        .with_isolation_level(i8::from(config.read_committed))
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics)
}
