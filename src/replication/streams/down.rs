//! A stream that a follower has opened, at its leader: reads subscriptions and acknowledgements, and
//! writes what the partitions have for them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tracing::debug;

use super::StreamEnd;
use crate::{
    base::{BrokerEpoch, HashMap, NodeId},
    replication::{
        Budget, Partition, Partitions,
        partition::Turn,
        subscription::{Answer, Refusal, Session},
        throttle::{Gates, Side, Stopped, Throttles, until},
        wire::{Reply, Request},
    },
    transport::{Stream, StreamClass, StreamReceiver, StreamSender},
};

/// The largest frame of a follower: acknowledgements of 4,096 subscriptions.
const REQUEST_MAX_BYTES: usize = 128 << 10;
/// Answers that may wait for a follower to read.
const REPLIES_MAX: usize = 64 << 10;
/// How long the news that more is committed waits for batches that take it along.
const LATER: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug)]
pub(in crate::replication) struct Downstream {
    node: NodeId,
    class: StreamClass,
    outbox: Mutex<Outbox>,
    wake: Notify,
    throttles: Arc<Throttles>,
}

/// What is to be sent. Partitions are named, not what they have: that is asked when it is their turn.
#[derive(Debug, Default)]
struct Outbox {
    sessions: HashMap<Session, Arc<Partition>>,
    replies: VecDeque<Reply>,
    now: VecDeque<Session>,
    later: VecDeque<Session>,
    later_at: Option<Instant>,
    /// What is throttled, by what it waits for.
    parked: BTreeMap<Gates, VecDeque<Session>>,
    credits: BTreeMap<Budget, Credit>,
}

/// What the follower lets be sent to its throttled replicas.
#[derive(Debug, Default)]
struct Credit {
    /// Less than zero where a batch was larger than what was left.
    bytes: i64,
    asked: bool,
}

/// The right to send a frame. What of it is not used is given back.
#[derive(Debug)]
pub(in crate::replication) struct Permit<'a> {
    stream: &'a Downstream,
    gates: Gates,
    admitted_bytes: u64,
    sent_bytes: u64,
}

enum Next {
    Reply(Reply),
    Push(Session, Arc<Partition>),
    Wait(Option<Instant>),
}

/// Serves a stream that `node` has opened, until it ends.
pub(in crate::replication) async fn serve(
    partitions: Arc<Partitions>,
    class: StreamClass,
    stream: Stream,
) {
    let node = stream.peer.node_id;
    let throttles = Arc::clone(&partitions.shared.throttles);
    let (outbox, wake) = (Mutex::default(), Notify::new());
    let down = Arc::new(Downstream { node, class, outbox, wake, throttles });
    let Stream { sender, receiver, .. } = stream;
    // Two tasks, since neither side may wait for the other.
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&down).read(receiver, partitions));
    tasks.spawn(Arc::clone(&down).write(sender));
    if let Some(Ok(Err(end))) = tasks.join_next().await {
        debug!(%node, ?class, %end, "a follower's stream has ended");
    }
    tasks.shutdown().await;
    let sessions = std::mem::take(&mut down.outbox.lock().sessions);
    for (session, partition) in sessions {
        partition.unsubscribed(node, session);
    }
}

impl Downstream {
    /// The follower's node.
    pub(in crate::replication) const fn node(&self) -> NodeId {
        self.node
    }

    /// What the stream is for.
    pub(in crate::replication) const fn class(&self) -> StreamClass {
        self.class
    }

    /// Answers a subscription.
    pub(in crate::replication) fn answer(&self, session: Session, answer: Answer) {
        self.outbox.lock().replies.push_back(Reply::Answer(session, answer));
        self.wake.notify_one();
    }

    /// A subscription is served here.
    pub(in crate::replication) fn enter(&self, session: Session, partition: &Arc<Partition>) {
        self.outbox.lock().sessions.insert(session, Arc::clone(partition));
    }

    /// There is something for a subscription.
    pub(in crate::replication) fn queue(
        &self,
        session: Session,
        _: &Arc<Partition>,
        is_urgent: bool,
    ) {
        let mut outbox = self.outbox.lock();
        if is_urgent {
            outbox.now.push_back(session);
        } else {
            outbox.later.push_back(session);
            outbox.later_at.get_or_insert_with(|| Instant::now() + LATER);
        }
        drop(outbox);
        self.wake.notify_one();
    }

    /// A subscription is over, and the follower knows.
    pub(in crate::replication) fn forget(&self, session: Session) {
        self.outbox.lock().sessions.remove(&session);
    }

    /// A subscription is over, and the follower is to hear of it.
    pub(in crate::replication) fn close(&self, session: Session, refusal: Refusal) {
        let mut outbox = self.outbox.lock();
        outbox.sessions.remove(&session);
        outbox.replies.push_back(Reply::Close(session, refusal));
        drop(outbox);
        self.wake.notify_one();
    }

    /// The right to send about `bytes` to a replica behind `gates`; none where it has to wait.
    pub(in crate::replication) fn permit(&self, gates: Gates, bytes: u64) -> Option<Permit<'_>> {
        if let Some(budget) = gates.follower
            && self.outbox.lock().credit(budget) <= 0
        {
            return None;
        }
        if let Some(budget) = gates.leader
            && !self.throttles.admit(Side::Leader, budget, bytes)
        {
            return None;
        }
        Some(Permit { stream: self, gates, admitted_bytes: bytes, sent_bytes: 0 })
    }

    async fn read(
        self: Arc<Self>,
        mut receiver: StreamReceiver,
        partitions: Arc<Partitions>,
    ) -> Result<(), StreamEnd> {
        let Some(first) = receiver.read_frame(REQUEST_MAX_BYTES).await? else { return Ok(()) };
        let Request::Open { broker_epoch } = Request::decode(first, BrokerEpoch(-1))? else {
            return Err(StreamEnd::NotOpened);
        };
        while let Some(frame) = receiver.read_frame(REQUEST_MAX_BYTES).await? {
            match Request::decode(frame, broker_epoch)? {
                Request::Open { .. } => return Err(StreamEnd::NotOpened),
                Request::Subscribe(at, subscribe) => match partitions.lookup(at) {
                    Some(partition) => partition.subscribe(&self, &subscribe),
                    None => self.answer(subscribe.session, Answer::Refused(Refusal::NotLeader)),
                },
                Request::Acknowledge(ends) => {
                    for (session, end) in ends.iter() {
                        if let Some(partition) = self.partition(session) {
                            partition.acknowledged(self.node, session, end);
                        }
                    }
                }
                Request::Unsubscribe(session) => {
                    let over = self.outbox.lock().sessions.remove(&session);
                    if let Some(partition) = over {
                        partition.unsubscribed(self.node, session);
                    }
                }
                Request::Credit(budget, bytes) => {
                    let mut outbox = self.outbox.lock();
                    let credit = outbox.credits.entry(budget).or_default();
                    credit.bytes = credit.bytes.saturating_add(i64::from(bytes));
                    credit.asked = false;
                    drop(outbox);
                    self.wake.notify_one();
                }
            }
            if self.outbox.lock().replies.len() > REPLIES_MAX {
                return Err(StreamEnd::Unread);
            }
        }
        Ok(())
    }

    fn partition(&self, session: Session) -> Option<Arc<Partition>> {
        self.outbox.lock().sessions.get(&session).cloned()
    }

    async fn write(self: Arc<Self>, mut sender: StreamSender) -> Result<(), StreamEnd> {
        let mut rates = self.throttles.changes();
        loop {
            match self.next() {
                Next::Reply(reply) => sender.write_frame(&mut reply.encode()).await?,
                Next::Push(session, partition) => {
                    match partition.next_frame(&self, session).await {
                        Turn::Nothing => {}
                        Turn::Frame(mut frame) => {
                            if frame.is_last {
                                self.forget(session);
                            }
                            sender.write_frame(&mut frame.parts).await?;
                        }
                        Turn::Throttled(gates) => {
                            let mut outbox = self.outbox.lock();
                            outbox.parked.entry(gates).or_default().push_back(session);
                        }
                    }
                }
                // Either way there is something to look at.
                Next::Wait(at) => tokio::select! {
                    () = self.wake.notified() => {}
                    _ = rates.changed() => {}
                    () = until(at) => {}
                },
            }
        }
    }

    fn next(&self) -> Next {
        let mut outbox = self.outbox.lock();
        if let Some(reply) = outbox.replies.pop_front() {
            return Next::Reply(reply);
        }
        // Before what is not throttled, which may never end; the rates see to that this does.
        let parked_until = match self.next_parked(&mut outbox) {
            Parked::Next(next) => return next,
            Parked::Until(at) => at,
        };
        if outbox.later_at.is_some_and(|at| at <= Instant::now()) {
            let Outbox { now, later, later_at, .. } = &mut *outbox;
            now.append(later);
            *later_at = None;
        }
        while let Some(session) = outbox.now.pop_front() {
            if let Some(partition) = outbox.sessions.get(&session) {
                return Next::Push(session, Arc::clone(partition));
            }
        }
        Next::Wait(outbox.later_at.into_iter().chain(parked_until).min())
    }

    /// What was throttled and may be sent by now, or what brings that about.
    fn next_parked(&self, outbox: &mut Outbox) -> Parked {
        let mut earliest = None;
        let gates: Vec<Gates> = outbox.parked.keys().copied().collect();
        for gates in gates {
            if let Some(budget) = gates.follower
                && outbox.credit(budget) <= 0
            {
                let credit = outbox.credits.entry(budget).or_default();
                if !std::mem::replace(&mut credit.asked, true) {
                    return Parked::Next(Next::Reply(Reply::Ask(budget)));
                }
                continue;
            }
            match gates.leader.map_or(Ok(None), |b| self.throttles.ready(Side::Leader, b)) {
                Err(Stopped) => {}
                Ok(Some(at)) => earliest = earliest.into_iter().chain([at]).min(),
                Ok(None) => {
                    if let Some(next) = outbox.unpark(gates) {
                        return Parked::Next(next);
                    }
                }
            }
        }
        Parked::Until(earliest)
    }
}

enum Parked {
    Next(Next),
    Until(Option<Instant>),
}

impl Outbox {
    fn credit(&self, budget: Budget) -> i64 {
        self.credits.get(&budget).map_or(0, |credit| credit.bytes)
    }

    fn unpark(&mut self, gates: Gates) -> Option<Next> {
        let parked = self.parked.get_mut(&gates)?;
        while let Some(session) = parked.pop_front() {
            if let Some(partition) = self.sessions.get(&session) {
                return Some(Next::Push(session, Arc::clone(partition)));
            }
        }
        self.parked.remove(&gates);
        None
    }
}

impl Permit<'_> {
    /// So much is sent.
    pub(in crate::replication) fn spend(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(budget) = self.gates.leader {
            self.stream.throttles.sent(budget, self.admitted_bytes, self.sent_bytes);
        }
        if let Some(budget) = self.gates.follower {
            let mut outbox = self.stream.outbox.lock();
            let credit = outbox.credits.entry(budget).or_default();
            let sent = i64::try_from(self.sent_bytes).unwrap_or(i64::MAX);
            credit.bytes = credit.bytes.saturating_sub(sent);
        }
    }
}
