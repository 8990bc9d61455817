//! The state machine that a coordinator is, seen from outside.
//!
//! References: KIP-848 ("Group Coordinator"), Kafka's coordinator runtime.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use crate::base::{ProducerEpoch, ProducerId};

/// What a caller is told instead of a response: Kafka's error code for it.
pub type Failure = ResponseError;

/// Stands for one request that awaits its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The time, as handed to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the node started. Never goes back; deadlines are in this.
    pub monotonic: Duration,
    /// Milliseconds since the Unix epoch, as records carry them. May jump.
    pub wall_ms: i64,
}

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which part of the state it is about.
    pub key: Bytes,
    /// The part's new value; `None` deletes it.
    pub value: Option<Bytes>,
}

/// Where a record that is replayed came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The producer of its transaction; `None` outside of one.
    pub transaction: Option<(ProducerId, ProducerEpoch)>,
}

/// A record that this version cannot take in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It ends too early or holds what its version does not allow.
    #[error("the record is malformed")]
    Malformed,
}

/// A coordinator's state machine over one partition.
///
/// *Getters*: [`next_deadline`](Self::next_deadline), [`checkpoint`](Self::checkpoint). *Inputs*:
/// [`replay`](Self::replay), then [`loaded`](Self::loaded) once, then
/// [`handle`](Self::handle), [`expire`](Self::expire), [`complete`](Self::complete),
/// [`committed`](Self::committed) and [`revert`](Self::revert) in any order;
/// [`unload`](Self::unload) ends it. Every input takes the time where it needs it and returns what
/// is to be done in [`Effects`]. The state shows records from the moment they are written to the
/// effects, not from their commit: the next decision must see them.
pub trait Shard: Send + Sized + 'static {
    /// What callers ask.
    type Request: Send + 'static;
    /// What they are told.
    type Response: Send + 'static;
    /// What the shard wants to be told of once the records of the same effects are committed.
    type Continuation: Send + 'static;
    /// The part of the state that records make up. A clone must be cheap.
    type Checkpoint: Clone + Send + 'static;

    /// Takes in a record of the log, in order, before [`loaded`](Self::loaded).
    ///
    /// # Errors
    /// Where the record cannot be understood; the shard is as before, and skips it.
    fn replay(&mut self, record: &Record, source: Source) -> Result<(), ReplayError>;

    /// Takes in the end of a producer's transaction, in order with the records.
    fn replay_end_transaction(&mut self, producer: ProducerId, committed: bool);

    /// The log has been replayed: timers start.
    fn loaded(&mut self, now: Now, out: &mut Effects<Self>);

    /// Answers `token` now or later, exactly once over its life.
    fn handle(&mut self, token: Token, request: Self::Request, now: Now, out: &mut Effects<Self>);

    /// Acts on the timers that are due.
    fn expire(&mut self, now: Now, out: &mut Effects<Self>);

    /// When [`expire`](Self::expire) is to be called next.
    fn next_deadline(&self) -> Option<Duration>;

    /// The records of the effects that held `continuation` are committed, or refused: then the
    /// state has gone back already.
    fn complete(
        &mut self,
        continuation: Self::Continuation,
        result: Result<(), Failure>,
        now: Now,
        out: &mut Effects<Self>,
    );

    /// What records make up, as of now.
    fn checkpoint(&self) -> Self::Checkpoint;

    /// Everything up to this checkpoint is committed.
    fn committed(&mut self, checkpoint: &Self::Checkpoint);

    /// The records after `checkpoint` have been refused with `failure`: forget them.
    ///
    /// Requests that cannot be answered any more for that reason are answered here.
    fn revert(
        &mut self,
        checkpoint: &Self::Checkpoint,
        failure: Failure,
        now: Now,
        out: &mut Effects<Self>,
    );

    /// The leadership has ended: answers whatever waits within the shard.
    fn unload(&mut self, out: &mut Effects<Self>);
}

/// What a shard wants done after one input.
pub struct Effects<S: Shard> {
    /// Groups of records, in order; each group goes into one batch.
    pub(super) atoms: Vec<Atom<S::Checkpoint>>,
    /// Answers that wait for every record up to here.
    pub(super) replies: Vec<(Token, Result<S::Response, Failure>)>,
    /// Answers that depend on no record.
    pub(super) immediate: Vec<(Token, Result<S::Response, Failure>)>,
    /// What to call [`Shard::complete`] with after the records.
    pub(super) continuations: Vec<S::Continuation>,
}

/// Records that go into one batch, all or none.
pub(super) struct Atom<C> {
    pub(super) records: Vec<Record>,
    pub(super) source: Source,
    /// The state with these records and all before them.
    pub(super) after: C,
}

impl<S: Shard> Effects<S> {
    /// No effects yet.
    #[must_use]
    pub fn new() -> Self {
        Self { atoms: vec![], replies: vec![], immediate: vec![], continuations: vec![] }
    }

    /// Appends `records` in one batch. The state shows them already: `after` is what it is now.
    pub fn write(&mut self, records: Vec<Record>, after: S::Checkpoint) {
        self.write_from(Source { transaction: None }, records, after);
    }

    /// Appends `records` in one batch, on behalf of a transaction's producer.
    pub fn write_from(&mut self, source: Source, records: Vec<Record>, after: S::Checkpoint) {
        if !records.is_empty() {
            self.atoms.push(Atom { records, source, after });
        }
    }

    /// Whether there is anything to append.
    #[must_use]
    pub fn has_records(&self) -> bool {
        !self.atoms.is_empty()
    }

    /// Answers `token` once all records decided so far are committed; they may be other requests'.
    pub fn reply(&mut self, token: Token, response: S::Response) {
        self.replies.push((token, Ok(response)));
    }

    /// Answers `token` at once: with what does not depend on any record.
    pub fn reply_now(&mut self, token: Token, response: S::Response) {
        self.immediate.push((token, Ok(response)));
    }

    /// Answers `token` at once with an error that has no response of its own.
    pub fn fail(&mut self, token: Token, failure: Failure) {
        self.immediate.push((token, Err(failure)));
    }

    /// Asks for [`Shard::complete`] once the records of these effects are committed or refused.
    pub fn then(&mut self, continuation: S::Continuation) {
        self.continuations.push(continuation);
    }
}

impl<S: Shard> Default for Effects<S> {
    fn default() -> Self {
        Self::new()
    }
}
