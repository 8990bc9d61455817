//! Between a shard and its log: what is decided, what is being appended, what waits for it.
//!
//! Holds no future and does no I/O: the caller appends what [`Pipeline::take_batch`] hands out and
//! reports the outcome. So tests drive it without a runtime, one event at a time.

use std::{collections::VecDeque, mem, time::Duration};

use super::{AppendError, Effects, Failure, Now, Record, Shard, Source, Token, shard::Atom};

/// What a record adds to a batch beside its key and value, at most: lengths, deltas, attributes.
const RECORD_OVERHEAD_BYTES: usize = 32;
/// The header of a record batch.
const BATCH_HEADER_BYTES: usize = 61;

/// A response on its way out.
pub(super) type Reply<S> = (Token, Result<<S as Shard>::Response, Failure>);

/// Records that go out as one batch, and what waits for them.
struct Chunk<S: Shard> {
    records: Vec<Record>,
    source: Source,
    size_bytes: usize,
    after: S::Checkpoint,
    replies: Vec<Reply<S>>,
    continuations: Vec<S::Continuation>,
}

/// A shard, and its records on their way to the log.
///
/// *Inputs*: [`request`](Self::request), [`expire`](Self::expire),
/// [`committed`](Self::committed), [`failed`](Self::failed). *Outputs*:
/// [`take_batch`](Self::take_batch), [`take_replies`](Self::take_replies),
/// [`next_deadline`](Self::next_deadline).
pub struct Pipeline<S: Shard> {
    shard: S,
    /// What the committed records make up.
    settled: S::Checkpoint,
    in_flight: Option<Chunk<S>>,
    waiting: VecDeque<Chunk<S>>,
    out: Vec<Reply<S>>,
    max_batch_bytes: usize,
}

impl<S: Shard> Pipeline<S> {
    /// A pipeline for a shard whose log has been replayed, with batches up to `max_batch_bytes`.
    pub fn new(mut shard: S, max_batch_bytes: usize, now: Now) -> Self {
        let settled = shard.checkpoint();
        shard.committed(&settled);
        let mut effects = Effects::new();
        shard.loaded(now, &mut effects);
        let (waiting, out) = (VecDeque::new(), vec![]);
        let mut this = Self { shard, settled, in_flight: None, waiting, out, max_batch_bytes };
        this.absorb(effects, now);
        this
    }

    /// The shard, to look at.
    pub fn shard(&self) -> &S {
        &self.shard
    }

    /// When [`expire`](Self::expire) is to be called next, on the monotonic clock.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.shard.next_deadline()
    }

    /// Bytes decided and not yet committed.
    pub fn pending_bytes(&self) -> usize {
        self.in_flight.iter().chain(&self.waiting).map(|chunk| chunk.size_bytes).sum()
    }

    /// Puts a request to the shard.
    pub fn request(&mut self, token: Token, request: S::Request, now: Now) {
        let mut effects = Effects::new();
        self.shard.handle(token, request, now, &mut effects);
        self.absorb(effects, now);
    }

    /// Lets the shard act on its timers.
    pub fn expire(&mut self, now: Now) {
        let mut effects = Effects::new();
        self.shard.expire(now, &mut effects);
        self.absorb(effects, now);
    }

    /// The next batch to append, unless one is under way: then `None`.
    ///
    /// [`committed`](Self::committed) or [`failed`](Self::failed) must follow, once.
    pub fn take_batch(&mut self) -> Option<(&[Record], Source)> {
        if self.in_flight.is_some() {
            return None;
        }
        let chunk = self.in_flight.insert(self.waiting.pop_front()?);
        Some((&chunk.records, chunk.source))
    }

    /// The batch under way is committed.
    pub fn committed(&mut self, now: Now) {
        let chunk = self.in_flight.take().expect("a batch was taken before its outcome came");
        self.settled = chunk.after;
        self.shard.committed(&self.settled);
        self.out.extend(chunk.replies);
        self.complete(chunk.continuations, Ok(()), now);
    }

    /// The batch under way is not in the log: the state goes back, and all that waits fails.
    ///
    /// For an error that is no refusal call [`unload`](Self::unload) instead.
    pub fn failed(&mut self, error: AppendError, now: Now) {
        assert!(error.is_refusal(), "the state can go back only if nothing was written: {error}");
        self.fail_pending(error.response_error(), now);
    }

    /// Responses that are due.
    pub fn take_replies(&mut self) -> Vec<Reply<S>> {
        mem::take(&mut self.out)
    }

    /// Ends the shard: everything that waits is answered, with `failure` where a record is lost.
    pub fn unload(mut self, failure: Failure) -> Vec<Reply<S>> {
        for chunk in self.in_flight.take().into_iter().chain(self.waiting.drain(..)) {
            self.out.extend(chunk.replies.into_iter().map(|(token, _)| (token, Err(failure))));
        }
        let mut effects = Effects::new();
        self.shard.unload(&mut effects);
        self.out.append(&mut effects.immediate);
        self.out.append(&mut effects.replies);
        self.out
    }

    fn fail_pending(&mut self, failure: Failure, now: Now) {
        let mut continuations = vec![];
        for chunk in self.in_flight.take().into_iter().chain(self.waiting.drain(..)) {
            self.out.extend(chunk.replies.into_iter().map(|(token, _)| (token, Err(failure))));
            continuations.extend(chunk.continuations);
        }
        self.go_back(failure, now);
        self.complete(continuations, Err(failure), now);
    }

    /// Takes the shard back to what is committed or on its way.
    fn go_back(&mut self, failure: Failure, now: Now) {
        let to =
            self.last_chunk().map_or_else(|| self.settled.clone(), |chunk| chunk.after.clone());
        let mut effects = Effects::new();
        self.shard.revert(&to, failure, now, &mut effects);
        self.absorb(effects, now);
    }

    fn complete(
        &mut self,
        continuations: Vec<S::Continuation>,
        result: Result<(), Failure>,
        now: Now,
    ) {
        for continuation in continuations {
            let mut effects = Effects::new();
            self.shard.complete(continuation, result, now, &mut effects);
            self.absorb(effects, now);
        }
    }

    fn absorb(&mut self, mut effects: Effects<S>, now: Now) {
        self.out.append(&mut effects.immediate);
        let fits =
            |atom: &Atom<_>| BATCH_HEADER_BYTES + size_bytes(&atom.records) <= self.max_batch_bytes;
        if !effects.atoms.iter().all(fits) {
            let failure = AppendError::TooLarge.response_error();
            let failed = effects.replies.into_iter().map(|(token, _)| (token, Err(failure)));
            self.out.extend(failed);
            self.go_back(failure, now);
            self.complete(effects.continuations, Err(failure), now);
            return;
        }
        for atom in effects.atoms {
            self.enqueue(atom);
        }
        match self.waiting.back_mut().or(self.in_flight.as_mut()) {
            Some(chunk) => {
                chunk.replies.append(&mut effects.replies);
                chunk.continuations.append(&mut effects.continuations);
            }
            None => {
                self.out.append(&mut effects.replies);
                self.complete(effects.continuations, Ok(()), now);
            }
        }
    }

    fn enqueue(&mut self, atom: Atom<S::Checkpoint>) {
        let size = size_bytes(&atom.records);
        if let Some(chunk) = self.waiting.back_mut()
            && chunk.source == atom.source
            && chunk.size_bytes + size <= self.max_batch_bytes
        {
            chunk.records.extend(atom.records);
            chunk.size_bytes += size;
            chunk.after = atom.after;
            return;
        }
        self.waiting.push_back(Chunk {
            records: atom.records,
            source: atom.source,
            size_bytes: BATCH_HEADER_BYTES + size,
            after: atom.after,
            replies: vec![],
            continuations: vec![],
        });
    }

    fn last_chunk(&self) -> Option<&Chunk<S>> {
        self.waiting.back().or(self.in_flight.as_ref())
    }
}

fn size_bytes(records: &[Record]) -> usize {
    let sizes = records.iter().map(|record| {
        RECORD_OVERHEAD_BYTES
            + record.key.len()
            + record.value.as_ref().map_or(0, bytes::Bytes::len)
    });
    sizes.sum()
}
