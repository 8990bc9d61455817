//! Leading: serves the followers that have subscribed, and asks the controller about the ISR.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{FetchError, Inner, Partition, role::Role};
use crate::{
    base::{NodeId, Offset},
    config::{ThrottledReplicas, TopicConfig},
    log::{LogError, StampedHeader},
    protocol::batch::Header,
    replication::{
        leader::{AlterError, AlterPartition, Leader, Push},
        streams::{Downstream, Permit},
        subscription::{Answer, Progress, Refusal, Session, Subscribe},
        tail::Tail,
        throttle::{Budget, Gates},
        wire::{self, Reply},
    },
    transport::StreamClass,
};

/// The most that one frame carries, unless a single batch is larger.
const FRAME_MAX_BYTES: usize = 256 << 10;
/// A follower at the tail that misses more than this, and needs the disk for it, has to catch up on
/// another stream.
const BEHIND_BYTES: u64 = 8 << 20;
/// One that catches up and misses no more than this is at the tail.
const CAUGHT_UP_BYTES: u64 = 1 << 20;

/// What a replica holds while it leads.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) core: Leader,
    pub(super) subscribers: BTreeMap<NodeId, Subscriber>,
    pub(super) tail: Tail,
    /// Followers that the balancer is adding.
    pub(super) balanced: Vec<NodeId>,
}

/// A follower that is served.
#[derive(Debug)]
pub(super) struct Subscriber {
    session: Session,
    stream: Arc<Downstream>,
    queued: Queued,
}

/// Whether the stream knows that there is something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Queued {
    No,
    /// It may wait a little for batches to come along.
    Later,
    /// It waits there until it may be sent.
    Parked(Gates),
    Now,
}

/// What a follower is sent when it is its turn.
pub(in crate::replication) enum Turn {
    /// There is nothing for it.
    Nothing,
    /// This.
    Frame(Frame),
    /// There is something, and it has to wait.
    Throttled(Gates),
}

/// A frame for a follower, in parts, and whether its subscription ends with it.
pub(in crate::replication) struct Frame {
    pub(in crate::replication) parts: Vec<Bytes>,
    pub(in crate::replication) is_last: bool,
}

impl Leading {
    pub(super) fn subscriptions(&self) -> impl Iterator<Item = (Session, &Arc<Downstream>)> {
        self.subscribers.values().map(|subscriber| (subscriber.session, &subscriber.stream))
    }

    /// Keeps batches that were appended for the followers at the tail.
    pub(super) fn keep(
        &mut self,
        headers: &[StampedHeader],
        batches: &[Bytes],
        request_bytes: usize,
    ) {
        let mut classes = self.subscribers.values().map(|subscriber| subscriber.stream.class());
        if classes.any(|class| class == StreamClass::Replica) {
            self.tail.push(headers, batches, request_bytes);
        } else {
            self.tail.clear();
        }
    }

    /// Lets go of what every follower at the tail was sent.
    fn release(&mut self) {
        let at_tail = |node: &NodeId| {
            let subscriber = self.subscribers.get(node);
            subscriber.is_some_and(|one| one.stream.class() == StreamClass::Replica)
        };
        let followers = self.core.followers().filter(|follower| at_tail(&follower.node));
        match followers.map(|follower| follower.log_end_offset).min() {
            Some(end) => self.tail.release(end),
            None => self.tail.clear(),
        }
    }

    fn serves(&self, node: NodeId, session: Session) -> bool {
        self.subscribers.get(&node).is_some_and(|subscriber| subscriber.session == session)
    }
}

impl Partition {
    /// After anything that the leader's core was told.
    pub(super) fn lead_on(self: &Arc<Self>, inner: &mut Inner) {
        let Role::Leading(leading) = &mut inner.role else { return };
        let rose = leading.core.high_watermark() > inner.high_watermark;
        if let Some(asked) = leading.core.poll_alter_partition(self.shared.now_ms()) {
            self.shared.questions.ask(self, asked);
        }
        if rose {
            inner.high_watermark = leading.core.high_watermark();
            self.log().high_watermark_moved(inner.high_watermark);
        }
        self.queue_pushes(&inner.config, leading);
        if rose {
            inner.handle_committed();
        }
        self.note_deadline(inner);
    }

    /// Tells the streams of all followers for whom there is something.
    fn queue_pushes(self: &Arc<Self>, config: &TopicConfig, leading: &mut Leading) {
        let end = leading.core.log_end_offset();
        let Leading { core, subscribers, balanced, .. } = leading;
        for (node, subscriber) in subscribers {
            match subscriber.queued {
                Queued::Now => continue,
                // Unless it waits for what it need not wait for any more.
                Queued::Parked(gates) if gates == self.gates(config, core, balanced, *node) => {
                    continue;
                }
                _ => {}
            }
            let due = match core.next_push(*node, &*self.log()) {
                None => Queued::No,
                Some(Push::Batches { from, .. }) if from == end => Queued::Later,
                Some(_) => Queued::Now,
            };
            if due > subscriber.queued {
                subscriber.queued = due;
                subscriber.stream.queue(subscriber.session, self, due == Queued::Now);
            }
        }
    }

    /// Deletes the records before `to`, or all that are committed, here and then on the followers.
    /// Blocks. Returns where the log begins.
    ///
    /// # Errors
    /// Where this node does not lead, or the log refuses.
    pub fn delete_records(self: &Arc<Self>, to: Option<Offset>) -> Result<Offset, FetchError> {
        let high_watermark = self.high_watermark().ok_or(FetchError::NotLeader)?;
        let to = to.unwrap_or(high_watermark);
        let start = self.with_log(|log| log.delete_records(to, high_watermark))?;
        // Nothing else may happen that tells them.
        self.lead_on(&mut self.inner.lock());
        Ok(start)
    }

    /// What holds back what a follower is sent; nothing where it is in sync (KIP-73).
    fn gates(
        &self,
        config: &TopicConfig,
        core: &Leader,
        balanced: &[NodeId],
        node: NodeId,
    ) -> Gates {
        if core.registration().isr.contains(&node) {
            return Gates::OPEN;
        }
        let balancer = balanced.contains(&node).then_some(Budget::Balancer);
        let budget = |throttled: &ThrottledReplicas, of: NodeId| {
            let is_named = throttled.contains(self.id.partition.0, of.wire());
            is_named.then_some(Budget::Operator).or(balancer)
        };
        Gates {
            leader: budget(&config.leader_replication_throttled_replicas, self.shared.node),
            follower: budget(&config.follower_replication_throttled_replicas, node),
        }
    }

    /// A follower wants to be served by `stream`, and is answered on it.
    pub(in crate::replication) fn subscribe(
        self: &Arc<Self>,
        stream: &Arc<Downstream>,
        subscribe: &Subscribe,
    ) {
        let (node, session, now_ms) = (stream.node(), subscribe.session, self.shared.now_ms());
        let mut inner = self.inner.lock();
        let Role::Leading(leading) = &mut inner.role else {
            return stream.answer(session, Answer::Refused(Refusal::NotLeader));
        };
        let answer = leading.core.handle_subscribe(node, subscribe, &*self.log(), now_ms);
        // Before the first push.
        stream.answer(session, answer);
        if answer == Answer::Agreed {
            let subscriber = Subscriber { session, stream: Arc::clone(stream), queued: Queued::No };
            if let Some(former) = leading.subscribers.insert(node, subscriber) {
                former.stream.forget(former.session);
            }
            stream.enter(session, self);
        }
        self.lead_on(&mut inner);
    }

    /// A follower holds what comes before `end`.
    pub(in crate::replication) fn acknowledged(
        self: &Arc<Self>,
        node: NodeId,
        session: Session,
        end: Offset,
    ) {
        let now_ms = self.shared.now_ms();
        let mut inner = self.inner.lock();
        let Role::Leading(leading) = &mut inner.role else { return };
        leading.core.handle_acknowledged(node, session, end, now_ms);
        self.lead_on(&mut inner);
    }

    /// A follower's subscription is over.
    pub(in crate::replication) fn unsubscribed(self: &Arc<Self>, node: NodeId, session: Session) {
        let mut inner = self.inner.lock();
        if let Role::Leading(leading) = &mut inner.role {
            self.drop_subscriber(leading, node, session);
            self.lead_on(&mut inner);
        }
    }

    fn drop_subscriber(&self, leading: &mut Leading, node: NodeId, session: Session) {
        leading.core.handle_unsubscribed(node, session, self.shared.now_ms());
        if leading.serves(node, session) {
            leading.subscribers.remove(&node);
            leading.release();
        }
    }

    /// The controller has answered a question about the ISR, maybe one of an earlier leadership.
    pub(in crate::replication) fn altered(
        self: &Arc<Self>,
        asked: &AlterPartition,
        answer: Result<(), AlterError>,
    ) {
        let now_ms = self.shared.now_ms();
        let mut inner = self.inner.lock();
        let Role::Leading(leading) = &mut inner.role else { return };
        if leading.core.leader_epoch() != asked.leader_epoch {
            return;
        }
        leading.core.handle_altered(asked.number, answer, now_ms);
        self.lead_on(&mut inner);
    }

    /// What to send to a follower next, if anything.
    pub(in crate::replication) async fn next_frame(
        self: &Arc<Self>,
        stream: &Downstream,
        session: Session,
    ) -> Turn {
        match self.begin_push(stream, session) {
            Begun::Done(turn) => turn,
            Begun::Read { pushing, end, permit } => {
                self.push_read(stream, pushing, end, permit).await
            }
        }
    }

    /// Pushes what needs no disk.
    fn begin_push<'a>(self: &Arc<Self>, stream: &'a Downstream, session: Session) -> Begun<'a> {
        let node = stream.node();
        let mut inner = self.inner.lock();
        let Inner { role, config, .. } = &mut *inner;
        let Role::Leading(leading) = role else { return Begun::NOTHING };
        let leading = &mut **leading;
        let gates = self.gates(config, &leading.core, &leading.balanced, node);
        let Some(subscriber) = leading.subscribers.get_mut(&node) else { return Begun::NOTHING };
        if subscriber.session != session {
            return Begun::NOTHING;
        }
        subscriber.queued = Queued::No;
        let (from, progress) = match leading.core.next_push(node, &*self.log()) {
            None => return Begun::NOTHING,
            Some(Push::Batches { from, progress, .. }) => (from, progress),
            Some(Push::Close { refusal, .. }) => {
                return Begun::Done(self.close(leading, node, session, refusal));
            }
        };
        let pushing = Pushing { session, from, progress };
        let end = leading.core.log_end_offset();
        // News without records are not throttled.
        let gates = if from < end { gates } else { Gates::OPEN };
        let Some(permit) = stream.permit(gates, FRAME_MAX_BYTES as u64) else {
            subscriber.queued = Queued::Parked(gates);
            return Begun::Done(Turn::Throttled(gates));
        };
        let held = if from >= end {
            Some((Vec::new(), from))
        } else {
            leading.tail.read(from, FRAME_MAX_BYTES)
        };
        match held {
            None => Begun::Read { pushing, end, permit },
            // What needs no disk any more has caught up.
            Some(_) if stream.class() == StreamClass::CatchUp => {
                Begun::Done(self.close(leading, node, session, Refusal::CaughtUp))
            }
            Some((parts, next)) => {
                Begun::Done(self.push(&mut inner, node, pushing, parts, next, permit))
            }
        }
    }

    /// Pushes what is read from the log.
    async fn push_read(
        self: &Arc<Self>,
        stream: &Downstream,
        pushing: Pushing,
        end: Offset,
        permit: Permit<'_>,
    ) -> Turn {
        let (node, session) = (stream.node(), pushing.session);
        let read = self.read(pushing.from, end).await;
        let mut inner = self.inner.lock();
        let Role::Leading(leading) = &mut inner.role else { return Turn::Nothing };
        if !leading.serves(node, session) {
            return Turn::Nothing;
        }
        let (records, left_bytes) = match read {
            Ok(read) => read,
            Err(refusal) => return self.close(leading, node, session, refusal),
        };
        match stream.class() {
            StreamClass::Replica if left_bytes > BEHIND_BYTES => {
                return self.close(leading, node, session, Refusal::Behind);
            }
            StreamClass::CatchUp if left_bytes + (records.len() as u64) < CAUGHT_UP_BYTES => {
                return self.close(leading, node, session, Refusal::CaughtUp);
            }
            _ => {}
        }
        let next = end_of(&records).unwrap_or(pushing.from);
        self.push(&mut inner, node, pushing, vec![records], next, permit)
    }

    fn push(
        self: &Arc<Self>,
        inner: &mut Inner,
        node: NodeId,
        pushing: Pushing,
        records: Vec<Bytes>,
        next: Offset,
        mut permit: Permit<'_>,
    ) -> Turn {
        let Role::Leading(leading) = &mut inner.role else { return Turn::Nothing };
        let Pushing { session, from, progress } = pushing;
        leading.core.handle_pushed(node, session, next, progress);
        let bytes = records.iter().map(Bytes::len).sum::<usize>() as u64;
        self.shared.metrics.pushed_bytes.increment(bytes);
        permit.spend(bytes);
        // Before it is looked at whether there is more to send.
        drop(permit);
        leading.release();
        self.queue_pushes(&inner.config, leading);
        let header = wire::push_header(session, from, progress);
        let parts = std::iter::once(header).chain(records).collect();
        Turn::Frame(Frame { parts, is_last: false })
    }

    fn close(
        &self,
        leading: &mut Leading,
        node: NodeId,
        session: Session,
        refusal: Refusal,
    ) -> Turn {
        self.drop_subscriber(leading, node, session);
        let parts = Reply::Close(session, refusal).encode().to_vec();
        Turn::Frame(Frame { parts, is_last: true })
    }

    /// Batches from the log, and how many bytes are behind them.
    async fn read(self: &Arc<Self>, from: Offset, end: Offset) -> Result<(Bytes, u64), Refusal> {
        let partition = Arc::clone(self);
        let read = move || {
            let max_bytes = u32::try_from(FRAME_MAX_BYTES).unwrap_or(u32::MAX);
            let found = partition.with_log(|log| {
                let slice = log.read(from, end, max_bytes, true)?;
                Ok(slice.map(|slice| (log.bytes_behind(&slice), slice)))
            });
            let Some((left_bytes, slice)) = found.map_err(|e| refusal(&e))? else {
                return Ok((Bytes::new(), 0));
            };
            let mut records = vec![0; slice.len_bytes as usize];
            // The log says what it is.
            slice.read_at(0, &mut records).map_err(|_| Refusal::Storage)?;
            Ok((Bytes::from(records), left_bytes))
        };
        self.shared.blocking.run(read).await.unwrap_or(Err(Refusal::NotLeader))
    }
}

const fn refusal(error: &LogError) -> Refusal {
    match error {
        LogError::OffsetOutOfRange { .. } => Refusal::OffsetOutOfRange,
        _ => Refusal::Storage,
    }
}

/// A push that has begun.
enum Begun<'a> {
    /// There was nothing to read.
    Done(Turn),
    /// What lies before `end` is to be read from the log.
    Read { pushing: Pushing, end: Offset, permit: Permit<'a> },
}

impl Begun<'_> {
    const NOTHING: Self = Self::Done(Turn::Nothing);
}

/// What a push goes with.
struct Pushing {
    session: Session,
    from: Offset,
    progress: Progress,
}

/// Where whole batches end, as their headers say.
fn end_of(mut records: &[u8]) -> Option<Offset> {
    let mut end = None;
    while let Ok(header) = Header::parse(records) {
        end = Some(header.next_offset());
        records = records.get(header.size_bytes()..)?;
    }
    end
}
