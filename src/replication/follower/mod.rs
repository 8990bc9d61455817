//! A replica that follows a leader: a core without I/O.
//!
//! Time is an argument, in milliseconds of any zero. Inputs (`handle_*`) say what happened, and
//! [`Follower::poll_action`] says what to do: the shell polls after every input, carries the
//! actions out in their order, and polls again at [`Follower::next_deadline_ms`].
//!
//! It subscribes with the end of its log and the epoch there. As long as the leader finds that the
//! logs differ, it cuts its own and subscribes anew; once they agree, it appends what is pushed,
//! and acknowledges what it holds as the topic's flush policy asks.
//!
//! # Invariants
//! - Nothing is appended before the leader of the present epoch has found that the logs agree, and
//!   then only whole, intact batches that continue the log, in epochs that do not go back and are
//!   not the leader's future.
//! - Nothing is acknowledged that the flush policy has not been kept for, nor under a subscription
//!   in which it was not yet held.
//! - The high watermark is at most the leader's and at most the log's end, and goes back only where
//!   the log itself is cut below it, which a clean election never asks for.
//!
//! References: KIP-101, KIP-279, KIP-320.

mod batches;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;

pub use self::batches::PushError;
use super::{
    Bug,
    subscription::{Answer, LogView, Progress, Refusal, Session, Subscribe},
};
use crate::base::{BrokerEpoch, LeaderEpoch, Offset, Planted};

/// The most bytes that wait to be appended, where the log takes none: it is being cut, or moved to
/// another directory. What comes on top is asked for again later.
const WAITING_MAX_BYTES: usize = 8 << 20;

/// How a follower is set.
#[derive(Debug, Clone, Copy)]
pub struct FollowerConfig {
    /// `flush.messages`: up to 1, it acknowledges what it has flushed, and else what it has
    /// appended.
    pub flush_messages: i64,
    /// The pause before it subscribes again after something went wrong.
    pub retry_backoff_ms: u64,
    /// How long a leader may take to answer.
    pub answer_timeout_ms: u64,
    /// A mistake to make on purpose.
    pub bug: Planted<Bug>,
}

impl FollowerConfig {
    /// The defaults of a topic.
    #[must_use]
    pub const fn new(flush_messages: i64) -> Self {
        Self { flush_messages, retry_backoff_ms: 50, answer_timeout_ms: 2_000, bug: Planted::NONE }
    }
}

/// Where the log stands when it begins to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Up to where it is flushed.
    pub flushed: Offset,
    /// What it knows to be committed.
    pub high_watermark: Offset,
    /// The registration of this process.
    pub broker_epoch: BrokerEpoch,
    /// The leader to follow.
    pub leader_epoch: LeaderEpoch,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Say this to the leader; what it answers goes to [`Follower::handle_answer`].
    Subscribe(Subscribe),
    /// End this subscription.
    Unsubscribe(Session),
    /// Cut the log here, durably, the epochs that begin here or later with it; then
    /// [`Follower::handle_cut`].
    Truncate(Offset),
    /// Drop all records, durably, so that the next one gets this offset; then
    /// [`Follower::handle_cut`], unless the next action is there already.
    StartAt(Offset),
    /// Append these batches as they are.
    Append(Vec<Bytes>),
    /// Raise the log start offset.
    RaiseLogStart(Offset),
    /// Flush the log; then [`Follower::handle_flushed`] with this number.
    Flush(u64),
    /// Tell the leader that everything before `end` is held as the flush policy asks.
    Acknowledge {
        /// The subscription.
        session: Session,
        /// The end.
        end: Offset,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Subscribes from this time on.
    Idle(u64),
    /// Waits for the answer until this time.
    Subscribing(Session, u64),
    /// Waits for the log to be cut, and subscribes then.
    Cutting,
    /// The logs agree.
    Following(Session),
}

/// A replica of one partition that follows.
#[derive(Debug)]
pub struct Follower {
    config: FollowerConfig,
    broker_epoch: BrokerEpoch,
    leader_epoch: LeaderEpoch,
    state: State,
    log_start_offset: Offset,
    log_end_offset: Offset,
    last_epoch: LeaderEpoch,
    flushed: Offset,
    high_watermark: Offset,
    leader: Progress,
    /// What was said last under the present subscription.
    acknowledged: Option<Offset>,
    /// The flush under way.
    flush: Option<u64>,
    flushes: u64,
    actions: VecDeque<Action>,
    /// Bytes in `actions`.
    waiting_bytes: usize,
}

impl Follower {
    /// A replica that begins to follow.
    ///
    /// Whoever has it follow knows all that was decided before this process was registered. So the
    /// leader's epoch is not before any in which the log was written, and where the log says
    /// otherwise, it is damaged there.
    #[must_use]
    pub fn new(config: FollowerConfig, log: &dyn LogView, start: Start, now_ms: u64) -> Self {
        let mut follower = Self {
            config,
            broker_epoch: start.broker_epoch,
            leader_epoch: start.leader_epoch,
            state: State::Idle(now_ms),
            log_start_offset: log.log_start_offset(),
            log_end_offset: log.log_end_offset(),
            last_epoch: log.last_epoch(),
            flushed: start.flushed,
            high_watermark: start.high_watermark.min(log.log_end_offset()),
            leader: Progress::default(),
            acknowledged: None,
            flush: None,
            flushes: 0,
            actions: VecDeque::new(),
            waiting_bytes: 0,
        };
        if follower.last_epoch > follower.leader_epoch {
            let sound = log.end_of_epoch(follower.leader_epoch);
            let end = sound.map_or_else(|| log.log_start_offset(), |(_, end)| end);
            follower.cut(Action::Truncate(end.min(follower.log_end_offset)));
        }
        follower
    }

    /// The epoch of the leader that it follows.
    #[must_use]
    pub const fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Whether its log is a prefix of the leader's, and batches come in.
    #[must_use]
    pub const fn is_following(&self) -> bool {
        matches!(self.state, State::Following(_))
    }

    /// Its subscription, answered or not.
    #[must_use]
    pub const fn session(&self) -> Option<Session> {
        match self.state {
            State::Subscribing(session, _) | State::Following(session) => Some(session),
            State::Idle(_) | State::Cutting => None,
        }
    }

    /// The end of its log.
    #[must_use]
    pub const fn log_end_offset(&self) -> Offset {
        self.log_end_offset
    }

    /// The end of what it has flushed.
    #[must_use]
    pub const fn flushed(&self) -> Offset {
        self.flushed
    }

    /// The end of what it knows to be committed.
    #[must_use]
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The end of what it knows to be decided of transactions.
    #[must_use]
    pub fn last_stable_offset(&self) -> Offset {
        self.leader.last_stable_offset.min(self.high_watermark)
    }

    /// When something is due that no input brings about.
    #[must_use]
    pub const fn next_deadline_ms(&self) -> Option<u64> {
        match self.state {
            State::Idle(at_ms) | State::Subscribing(_, at_ms) => Some(at_ms),
            State::Cutting | State::Following(_) => None,
        }
    }

    /// Another leader is to be followed, or the same one in another epoch.
    pub fn handle_leader(&mut self, leader_epoch: LeaderEpoch, now_ms: u64) {
        if leader_epoch > self.leader_epoch {
            self.leader_epoch = leader_epoch;
            self.leave(now_ms);
        }
    }

    /// Other settings are in force.
    pub fn set_flush_messages(&mut self, flush_messages: i64) {
        self.config.flush_messages = flush_messages;
        self.acknowledge();
    }

    /// The leader has answered.
    pub fn handle_answer(
        &mut self,
        session: Session,
        answer: Answer,
        log: &dyn LogView,
        now_ms: u64,
    ) {
        if !matches!(self.state, State::Subscribing(asked, _) if asked == session) {
            return;
        }
        match answer {
            Answer::Agreed => {
                self.state = State::Following(session);
                self.acknowledged = None;
                self.acknowledge();
            }
            Answer::Truncate { epoch, end } => {
                // Of an epoch that this log lacks, nothing can be shared beyond the one before.
                let own_end = log.end_of_epoch(epoch).map_or(end, |(_, own_end)| own_end);
                self.cut(Action::Truncate(end.min(own_end).min(self.log_end_offset)));
            }
            Answer::StartAt(offset) => self.cut(Action::StartAt(offset)),
            Answer::Refused(refusal) => self.wait(Some(refusal), now_ms),
        }
    }

    /// The log was cut.
    pub fn handle_cut(&mut self, log: &dyn LogView, now_ms: u64) {
        if self.state != State::Cutting {
            return;
        }
        self.log_start_offset = log.log_start_offset();
        self.log_end_offset = log.log_end_offset();
        self.last_epoch = log.last_epoch();
        self.flushed = self.flushed.min(self.log_end_offset);
        self.high_watermark = self.high_watermark.min(self.log_end_offset);
        self.state = State::Idle(now_ms);
    }

    /// The leader pushed `records`, which continue the log at `from`, and its progress.
    ///
    /// # Errors
    /// Where they do not, or are damaged. Nothing of them was taken, and the replica subscribes
    /// anew.
    pub fn handle_push(
        &mut self,
        session: Session,
        from: Offset,
        progress: Progress,
        records: Bytes,
        now_ms: u64,
    ) -> Result<(), PushError> {
        if self.state != State::Following(session) {
            return Ok(());
        }
        if self.waiting_bytes > WAITING_MAX_BYTES {
            self.leave(now_ms + self.config.retry_backoff_ms);
            return Ok(());
        }
        let taken = batches::check(self, from, records);
        let batches = taken.inspect_err(|_| {
            self.leave(now_ms + self.config.retry_backoff_ms);
        })?;
        self.take(batches);
        self.leader = progress;
        self.high_watermark =
            self.high_watermark.max(progress.high_watermark.min(self.log_end_offset));
        let log_start_offset = progress.log_start_offset.min(self.high_watermark);
        if log_start_offset > self.log_start_offset {
            self.log_start_offset = log_start_offset;
            self.actions.push_back(Action::RaiseLogStart(log_start_offset));
        }
        self.acknowledge();
        Ok(())
    }

    /// The flush of this number is done, up to `end`. One that began before the log was cut says
    /// nothing of the log as it is.
    pub fn handle_flushed(&mut self, number: u64, end: Offset) {
        if self.flush == Some(number) {
            self.flush = None;
            self.flushed = self.flushed.max(end.min(self.log_end_offset));
            self.acknowledge();
        }
    }

    /// The subscription has ended at the other side, or its stream was lost.
    pub fn handle_closed(&mut self, session: Session, why: Option<Refusal>, now_ms: u64) {
        if self.session() == Some(session) {
            self.wait(why, now_ms);
        }
    }

    /// What to do next. `next_session` names a subscription if one is made.
    pub fn poll_action(
        &mut self,
        now_ms: u64,
        next_session: impl FnOnce() -> Session,
    ) -> Option<Action> {
        if let Some(action) = self.next_action() {
            return Some(action);
        }
        match self.state {
            State::Subscribing(_, until_ms) if until_ms <= now_ms => self.leave(now_ms),
            _ => {}
        }
        if let State::Idle(at_ms) = self.state
            && at_ms <= now_ms
            && self.actions.is_empty()
        {
            let session = next_session();
            let until_ms = now_ms + self.config.answer_timeout_ms;
            self.state = State::Subscribing(session, until_ms);
            return Some(Action::Subscribe(Subscribe {
                session,
                broker_epoch: self.broker_epoch,
                leader_epoch: self.leader_epoch,
                log_end_offset: self.log_end_offset,
                last_epoch: self.last_epoch,
            }));
        }
        self.next_action()
    }

    fn next_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let Action::Append(batches) = &action {
            self.waiting_bytes -= size_bytes(batches);
        }
        Some(action)
    }

    fn take(&mut self, batches: batches::Checked) {
        if batches.parts.is_empty() {
            return;
        }
        if batches.starts_at < self.log_end_offset {
            // An empty log begins with the batch that holds the offset where the leader's begins.
            self.actions.push_back(Action::StartAt(batches.starts_at));
            self.flush = None;
            self.log_start_offset = batches.starts_at;
            self.flushed = batches.starts_at;
            self.high_watermark = batches.starts_at;
        }
        self.log_end_offset = batches.end;
        self.last_epoch = batches.last_epoch;
        self.waiting_bytes += size_bytes(&batches.parts);
        self.actions.push_back(Action::Append(batches.parts));
    }

    /// Says what it holds by now, or has it flushed first.
    fn acknowledge(&mut self) {
        let unflushed = self.log_end_offset.since(self.flushed);
        if unflushed >= self.config.flush_messages.max(1) && self.flush.is_none() {
            self.flushes += 1;
            self.flush = Some(self.flushes);
            self.actions.push_back(Action::Flush(self.flushes));
        }
        let State::Following(session) = self.state else { return };
        let flushes_first =
            self.config.flush_messages <= 1 && !self.config.bug.is(Bug::AcknowledgeBeforeFlush);
        let end = if flushes_first { self.flushed } else { self.log_end_offset };
        if self.acknowledged < Some(end) {
            self.acknowledged = Some(end);
            self.actions.push_back(Action::Acknowledge { session, end });
        }
    }

    fn cut(&mut self, action: Action) {
        self.state = State::Cutting;
        self.flush = None;
        self.actions.push_back(action);
    }

    /// Has no subscription any more; one that is sent elsewhere makes another at once.
    fn wait(&mut self, why: Option<Refusal>, now_ms: u64) {
        let is_redirected = why.is_some_and(|why| why.redirect().is_some());
        let pause_ms = if is_redirected { 0 } else { self.config.retry_backoff_ms };
        self.state = State::Idle(now_ms + pause_ms);
    }

    /// Ends the subscription, to subscribe anew at `at_ms`.
    fn leave(&mut self, at_ms: u64) {
        match self.state {
            State::Subscribing(session, _) | State::Following(session) => {
                self.actions.push_back(Action::Unsubscribe(session));
                self.state = State::Idle(at_ms);
            }
            State::Idle(_) => self.state = State::Idle(at_ms),
            State::Cutting => {}
        }
    }
}

fn size_bytes(batches: &[Bytes]) -> usize {
    batches.iter().map(Bytes::len).sum()
}
