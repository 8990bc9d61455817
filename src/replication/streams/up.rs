//! A stream to the node that leads what this one follows: kept up while there are subscriptions.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::debug;

use super::{SHARDS, StreamEnd};
use crate::{
    base::{BrokerEpoch, HashMap, NodeId, Offset, TopicPartition},
    replication::{
        Budget, Partition,
        subscription::{Answer, Session, Subscribe},
        throttle::{Side, Throttles, until},
        wire::{Acknowledged, Reply, Request},
    },
    transport::{OpenError, Stream, StreamClass, StreamReceiver, StreamSender},
};

/// The largest push: a batch of the largest request that a leader takes, with its header.
const PUSH_MAX_BYTES: usize = 104 << 20;
/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// The pauses after attempts to open one, doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Sessions are numbered within a registration by so many bits.
const SESSION_BITS: u32 = 28;

/// Opens streams to other nodes.
pub type Opener = Arc<
    dyn Fn(NodeId, StreamClass, Instant) -> BoxFuture<'static, Result<Stream, OpenError>>
        + Send
        + Sync,
>;

/// The streams to all leaders.
pub(in crate::replication) struct Upstreams {
    opener: Opener,
    throttles: Arc<Throttles>,
    sessions: AtomicU64,
    streams: Mutex<BTreeMap<(NodeId, StreamClass, u32), Arc<Upstream>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

/// See the module.
#[derive(Debug)]
pub(in crate::replication) struct Upstream {
    node: NodeId,
    class: StreamClass,
    state: Mutex<State>,
    wake: Notify,
    throttles: Arc<Throttles>,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<Session, Arc<Partition>>,
    subscribe: VecDeque<(TopicPartition, Subscribe)>,
    unsubscribe: Vec<Session>,
    acknowledged: BTreeMap<Session, Offset>,
    /// The leader has something for throttled replicas.
    asked: BTreeSet<Budget>,
}

impl Upstreams {
    pub(in crate::replication) fn new(opener: Opener, throttles: Arc<Throttles>) -> Self {
        Self {
            opener,
            throttles,
            sessions: AtomicU64::new(0),
            streams: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// A name that is greater than any that this node gave before, in this life and earlier ones.
    pub(in crate::replication) fn next_session(&self, broker_epoch: BrokerEpoch) -> Session {
        let count = self.sessions.fetch_add(1, Ordering::Relaxed);
        Session((broker_epoch.0.unsigned_abs() << SESSION_BITS).wrapping_add(count))
    }

    /// The stream of a partition to its leader.
    pub(in crate::replication) fn stream(
        &self,
        node: NodeId,
        class: StreamClass,
        id: TopicPartition,
    ) -> Arc<Upstream> {
        let low = id.topic.0.as_u128() as u32;
        let shard = low.wrapping_add(id.partition.0.unsigned_abs()) % SHARDS;
        let mut streams = self.streams.lock();
        let stream = streams.entry((node, class, shard)).or_insert_with(|| {
            let (state, wake) = (Mutex::default(), Notify::new());
            let throttles = Arc::clone(&self.throttles);
            let stream = Arc::new(Upstream { node, class, state, wake, throttles });
            self.tasks.lock().spawn(Arc::clone(&stream).run(Arc::clone(&self.opener)));
            stream
        });
        Arc::clone(stream)
    }

    /// Ends all streams.
    pub(in crate::replication) fn stop(&self) {
        self.tasks.lock().abort_all();
    }
}

impl Upstream {
    /// Asks for a partition, once the stream is up.
    pub(in crate::replication) fn subscribe(
        &self,
        partition: &Arc<Partition>,
        subscribe: Subscribe,
    ) {
        let mut state = self.state.lock();
        state.sessions.insert(subscribe.session, Arc::clone(partition));
        state.subscribe.push_back((partition.id(), subscribe));
        drop(state);
        self.wake.notify_one();
    }

    /// A subscription is over.
    pub(in crate::replication) fn unsubscribe(&self, session: Session) {
        let mut state = self.state.lock();
        if state.sessions.remove(&session).is_none() {
            return;
        }
        state.acknowledged.remove(&session);
        let before = state.subscribe.len();
        state.subscribe.retain(|(_, subscribe)| subscribe.session != session);
        if state.subscribe.len() == before {
            state.unsubscribe.push(session);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// This node holds what comes before `end`.
    pub(in crate::replication) fn acknowledge(&self, session: Session, end: Offset) {
        let mut state = self.state.lock();
        if state.sessions.contains_key(&session) {
            state.acknowledged.insert(session, end);
            drop(state);
            self.wake.notify_one();
        }
    }

    async fn run(self: Arc<Self>, opener: Opener) {
        let (node, class) = (self.node, self.class);
        let mut pause = PAUSE_MIN;
        loop {
            let Some(broker_epoch) = self.wanted() else {
                self.wake.notified().await;
                continue;
            };
            match opener(node, class, Instant::now() + OPEN_TIMEOUT).await {
                Ok(stream) => {
                    pause = PAUSE_MIN;
                    let end = self.serve(stream, broker_epoch).await;
                    if let Err(end) = end {
                        debug!(leader = %node, ?class, %end, "a stream to a leader has ended");
                    }
                    self.lose_all();
                }
                Err(error) => {
                    debug!(leader = %node, ?class, %error, "no stream to a leader");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// The registration to open the stream with, once there is anything to subscribe to.
    fn wanted(&self) -> Option<BrokerEpoch> {
        self.state.lock().subscribe.back().map(|(_, subscribe)| subscribe.broker_epoch)
    }

    async fn serve(
        self: &Arc<Self>,
        stream: Stream,
        broker_epoch: BrokerEpoch,
    ) -> Result<(), StreamEnd> {
        let Stream { sender, receiver, .. } = stream;
        // Two tasks, since neither side may wait for the other.
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(self).read(receiver));
        tasks.spawn(Arc::clone(self).write(sender, broker_epoch));
        let end = tasks.join_next().await;
        tasks.shutdown().await;
        end.and_then(Result::ok).unwrap_or(Ok(()))
    }

    /// The stream was lost, and all its subscriptions with it.
    fn lose_all(&self) {
        let lost = std::mem::take(&mut *self.state.lock());
        for (session, partition) in lost.sessions {
            partition.closed(session, None);
        }
    }

    async fn read(self: Arc<Self>, mut receiver: StreamReceiver) -> Result<(), StreamEnd> {
        while let Some(frame) = receiver.read_frame(PUSH_MAX_BYTES).await? {
            match Reply::decode(frame)? {
                Reply::Answer(session, answer) => {
                    let partition = match answer {
                        Answer::Agreed => self.partition(session),
                        // It never becomes a subscription.
                        _ => self.state.lock().sessions.remove(&session),
                    };
                    if let Some(partition) = partition {
                        partition.answered(session, answer);
                    }
                }
                Reply::Push(pushed) => {
                    if let Some(partition) = self.partition(pushed.session) {
                        partition.pushed(pushed);
                    }
                }
                Reply::Close(session, refusal) => {
                    let over = self.state.lock().sessions.remove(&session);
                    if let Some(partition) = over {
                        partition.closed(session, Some(refusal));
                    }
                }
                Reply::Ask(budget) => {
                    self.state.lock().asked.insert(budget);
                    self.wake.notify_one();
                }
            }
        }
        Err(StreamEnd::Closed)
    }

    fn partition(&self, session: Session) -> Option<Arc<Partition>> {
        self.state.lock().sessions.get(&session).cloned()
    }

    async fn write(
        self: Arc<Self>,
        mut sender: StreamSender,
        broker_epoch: BrokerEpoch,
    ) -> Result<(), StreamEnd> {
        let open = Request::Open { broker_epoch };
        sender.write_frame(&mut [open.encode()]).await?;
        let mut rates = self.throttles.changes();
        loop {
            let (credits, credit_at) = self.grant();
            for credit in credits {
                sender.write_frame(&mut [credit.encode()]).await?;
            }
            let (subscribe, unsubscribe, acknowledged) = {
                let mut state = self.state.lock();
                let State { subscribe, unsubscribe, acknowledged, .. } = &mut *state;
                (
                    std::mem::take(subscribe),
                    std::mem::take(unsubscribe),
                    std::mem::take(acknowledged),
                )
            };
            let is_idle = subscribe.is_empty() && unsubscribe.is_empty() && acknowledged.is_empty();
            let mut ends = acknowledged.into_iter().peekable();
            while ends.peek().is_some() {
                let frame = Request::Acknowledge(Acknowledged::collect(&mut ends));
                sender.write_frame(&mut [frame.encode()]).await?;
            }
            for session in unsubscribe {
                sender.write_frame(&mut [Request::Unsubscribe(session).encode()]).await?;
            }
            for (id, subscribe) in subscribe {
                if subscribe.broker_epoch != broker_epoch {
                    return Err(StreamEnd::Registered);
                }
                let frame = Request::Subscribe(id, subscribe);
                sender.write_frame(&mut [frame.encode()]).await?;
            }
            if is_idle {
                tokio::select! {
                    () = self.wake.notified() => {}
                    _ = rates.changed() => {}
                    () = until(credit_at) => {}
                }
            }
        }
    }

    /// The credit that the leader has asked for, as far as there is any, and when there is more.
    fn grant(&self) -> (Vec<Request>, Option<Instant>) {
        let (mut credits, mut earliest) = (Vec::new(), None);
        let mut state = self.state.lock();
        state.asked.retain(|budget| {
            let bytes = self.throttles.grant_bytes(*budget);
            if self.throttles.admit(Side::Follower, *budget, bytes) {
                credits.push(Request::Credit(*budget, u32::try_from(bytes).unwrap_or(u32::MAX)));
                return false;
            }
            // Else its rate is zero, and another one wakes this.
            if let Ok(at) = self.throttles.ready(Side::Follower, *budget) {
                let at = at.unwrap_or_else(Instant::now);
                earliest = earliest.into_iter().chain([at]).min();
            }
            true
        });
        (credits, earliest)
    }
}
