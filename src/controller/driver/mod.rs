//! The active controller's task: takes requests in, decides, proposes, answers once applied.
//!
//! Pipelined: a request is decided against the image as it will be once everything before it is
//! applied, and is proposed without waiting for that. Its answer waits for all before it, also
//! where it changes nothing, since it may say what they did.
//!
//! State owned: the speculation, an image ahead of the published one, and the answers that wait.
//! When a proposal is refused or the leadership is lost, the speculation is discarded with all that
//! was decided on it; the quorum refuses what builds on a refused proposal (see [`Speculation`]).
//! A new term begins only when everything in flight from the one before has come to its end.
//!
//! A request with an id is decided once: its answer is remembered in the entry that makes the
//! change (see [`crate::metadata::DecidedRequest`]), and given again. A change of several entries
//! is not atomic. Where its controller was lost between two of them, the remainder is never made,
//! and who asks again learns no more than that: what is there now answers neither yes nor no.
//!
//! Must not: decide anything itself, or answer before what the answer says is applied here.

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque, future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use rand::{Rng, rngs::SmallRng};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{Controller, Decision, ENTRY_MAX_BYTES, Request, Response, wire};
pub use crate::metadata::RequestId;
use crate::{
    metadata::{ANSWER_MAX_BYTES, Batch, MetadataImage, features, records::RequestRecord},
    quorum::{Handle, ProposeError, ReadError, Speculation, Status},
};

/// Requests that wait to be decided.
const WAITING_MAX: usize = 1024;
/// Requests that are decided and not answered.
const IN_FLIGHT_MAX: usize = 256;

/// The least time between two ticks.
const TICK_MIN_MS: u64 = 10;

/// What the driver drives: the controller's core.
pub trait Decider: Send + 'static {
    /// What it is asked.
    type Request: Send + 'static;
    /// What it answers.
    type Response: Send + 'static;

    /// Entries to propose before any request is decided: `image` is that of a node that has just
    /// become the active controller. Asked again where they were refused.
    fn begin(&mut self, image: &MetadataImage, now_ms: u64) -> Vec<Batch> {
        let _ = (image, now_ms);
        Vec::new()
    }

    /// Whether an answer that changes nothing says how things are. It is given only once a majority
    /// has confirmed that this node still leads, since another one may have changed it meanwhile.
    fn tells_state(request: &Self::Request) -> bool {
        let _ = request;
        true
    }

    /// Entries to propose, and the answer once all of them are applied. `image` holds all that was
    /// decided before; `now_ms` is monotonic.
    fn decide(
        &mut self,
        image: &MetadataImage,
        request: Self::Request,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> (Vec<Batch>, Self::Response);

    /// An answer as bytes; `None` where it has none.
    fn encode(response: &Self::Response) -> Option<Vec<u8>>;

    /// The answer that [`Decider::encode`] put into bytes, maybe in another release.
    fn decode(bytes: &[u8]) -> Option<Self::Response>;

    /// Entries to propose because time has passed.
    fn tick(&mut self, image: &MetadataImage, now_ms: u64) -> Vec<Batch>;

    /// When [`Decider::tick`] has something to do, if nothing else happens.
    fn next_tick_ms(&self) -> Option<u64>;
}

impl Decider for Controller {
    type Request = Request;
    type Response = Response;

    fn begin(&mut self, image: &MetadataImage, _now_ms: u64) -> Vec<Batch> {
        Self::begin(self, image)
    }

    fn tells_state(request: &Request) -> bool {
        // These come all the time, and keep nobody from being told otherwise by the next one.
        !matches!(request, Request::BrokerHeartbeat(_) | Request::ReplicaSizes(_))
    }

    fn decide(
        &mut self,
        image: &MetadataImage,
        request: Request,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> (Vec<Batch>, Response) {
        let Decision { batches, response } = self.decide(image, request, now_ms, rng);
        (batches, response)
    }

    fn encode(response: &Response) -> Option<Vec<u8>> {
        wire::encode_response(response).ok().map(Into::into)
    }

    fn decode(bytes: &[u8]) -> Option<Response> {
        wire::decode_response(Bytes::copy_from_slice(bytes)).ok()
    }

    fn tick(&mut self, image: &MetadataImage, now_ms: u64) -> Vec<Batch> {
        self.tick(image, now_ms).batches
    }

    fn next_tick_ms(&self) -> Option<u64> {
        self.next_tick_ms()
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Another node is the controller, or becomes it. Nothing was proposed: it may be asked.
    #[error("this node is not the active controller")]
    NotController,
    /// This node ceased to be the controller meanwhile. The change may yet happen, whole or in
    /// part, or not.
    #[error("this node ceased to be the active controller before the change was known to be made")]
    LeadershipLost,
    /// A former controller decided a request of the same id, and the change was made in part, or
    /// the answer is not known any more. It is of no use to ask again.
    #[error("the change was begun by a former controller: look at how much of it was made")]
    Begun,
    /// The deadline passed. The change may yet happen, or not.
    #[error("the controller did not answer in time")]
    TimedOut,
}

struct Waiting<D: Decider> {
    request: D::Request,
    id: Option<RequestId>,
    deadline: Instant,
    done: oneshot::Sender<Result<D::Response, RequestError>>,
}

/// Asks the controller on this node; cheap to clone.
pub struct Client<D: Decider = Controller>(mpsc::Sender<Waiting<D>>);

impl<D: Decider> Clone for Client<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Decider> std::fmt::Debug for Client<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl<D: Decider> Client<D> {
    /// Has `request` decided, and returns the answer once what it says is applied on this node. If
    /// it has an `id`, it may be asked again, here or elsewhere, and is decided once.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(
        &self,
        request: D::Request,
        id: Option<RequestId>,
        deadline: Instant,
    ) -> Result<D::Response, RequestError> {
        let (done, answer) = oneshot::channel();
        let waiting = Waiting { request, id, deadline, done };
        let asking = async {
            self.0.send(waiting).await.map_err(|_| RequestError::NotController)?;
            // The task ended, which may have been after it proposed.
            answer.await.map_err(|_| RequestError::LeadershipLost)?
        };
        tokio::time::timeout_at(deadline, asking).await.map_err(|_| RequestError::TimedOut)?
    }
}

type Proposal = oneshot::Receiver<Result<u64, ProposeError>>;
type Answer = Box<dyn FnOnce(Result<(), RequestError>) + Send>;

/// Decided and proposed; answered when everything before it and all of its own is applied.
struct InFlight {
    proposals: VecDeque<Proposal>,
    /// How many of its entries are applied.
    applied: usize,
    /// What has to succeed besides, where it proposed nothing: see [`Decider::tells_state`].
    confirmation: Option<Proposal>,
    answer: Answer,
}

impl InFlight {
    /// What is known once its next proposal has failed.
    fn failed(&self, error: Option<ProposeError>) -> RequestError {
        match error {
            Some(
                ProposeError::NotLeader
                | ProposeError::Busy
                | ProposeError::TooLarge
                | ProposeError::Superseded,
            ) if self.applied == 0 => RequestError::NotController,
            // Where some of its entries are applied, the change was made in part.
            _ => RequestError::LeadershipLost,
        }
    }
}

/// One term of leadership.
struct Term<D> {
    decider: D,
    speculation: Speculation,
    /// The published image and everything in flight.
    image: MetadataImage,
    /// Where `image` stands; ahead of the log's own indices only until nothing is in flight.
    index: u64,
    /// What [`Decider::begin`] returned is proposed.
    begun: bool,
}

/// The task. Made by [`driver`], which returns the client too.
pub struct Driver<D: Decider, F> {
    quorum: Handle,
    inbox: mpsc::Receiver<Waiting<D>>,
    activate: F,
    rng: SmallRng,
    started: Instant,
    term: Option<Term<D>>,
    in_flight: VecDeque<InFlight>,
    /// A proposal was refused: nothing is decided until all in flight has ended.
    draining: bool,
    /// Numbers speculations over all terms.
    speculations: u64,
    last_tick_ms: u64,
}

/// A driver over `quorum`, and the client that asks it. `activate` makes the core of a node that
/// has just become the controller, from the image and the monotonic time in milliseconds.
pub fn driver<D, F>(quorum: Handle, activate: F, rng: SmallRng) -> (Driver<D, F>, Client<D>)
where
    D: Decider,
    F: FnMut(&MetadataImage, u64) -> D + Send,
{
    let (sender, inbox) = mpsc::channel(WAITING_MAX);
    let driver = Driver {
        quorum,
        inbox,
        activate,
        rng,
        started: Instant::now(),
        term: None,
        in_flight: VecDeque::new(),
        draining: false,
        speculations: 0,
        last_tick_ms: 0,
    };
    (driver, Client(sender))
}

impl<D: Decider, F> std::fmt::Debug for Driver<D, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

impl<D, F> Driver<D, F>
where
    D: Decider,
    F: FnMut(&MetadataImage, u64) -> D + Send,
{
    /// Runs until every client is gone or the quorum has stopped.
    pub async fn run(mut self) {
        let mut status = self.quorum.watch_status();
        loop {
            let leads = leading_term(&status.borrow_and_update());
            if self.term.as_ref().map(|t| t.speculation.term) != leads {
                self.term = None;
                if let Some(term) = leads.filter(|_| self.in_flight.is_empty()) {
                    match caught_up(&self.quorum, &mut status, term).await {
                        Ok(true) => self.begin(term),
                        Ok(false) => continue,
                        Err(_) => return,
                    }
                }
            }
            if self.begin_speculation().await.is_err() {
                return;
            }
            let timer = self.timer();
            let takes = !self.draining && self.in_flight.len() < IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                result = next_done(&mut self.in_flight) => self.ended(result),
                changed = status.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(timer), if takes && self.term.is_some() => {
                    if self.tick().await.is_err() { return }
                }
                waiting = self.inbox.recv(), if takes => {
                    let Some(waiting) = waiting else { return };
                    if self.take(waiting).await.is_err() { return }
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn timer(&self) -> Instant {
        let due_ms = self.term.as_ref().and_then(|term| term.decider.next_tick_ms());
        // Where nothing is due, once in a while costs nothing.
        let due_ms = due_ms.unwrap_or(u64::MAX).min(self.now_ms().saturating_add(10_000));
        self.started + Duration::from_millis(due_ms.max(self.last_tick_ms + TICK_MIN_MS))
    }

    /// This node leads in `term` and has applied all that was committed before it.
    fn begin(&mut self, term: u64) {
        self.speculations += 1;
        let image = MetadataImage::clone(&self.quorum.image());
        let now_ms = self.now_ms();
        let decider = (self.activate)(&image, now_ms);
        let speculation = Speculation { term, number: self.speculations };
        let index = self.quorum.applied_index();
        self.term = Some(Term { decider, speculation, image, index, begun: false });
        tracing::info!(term, "this node is the active controller");
    }

    async fn begin_speculation(&mut self) -> Result<(), ProposeError> {
        let now_ms = self.now_ms();
        let Some(term) = self.term.as_mut().filter(|term| !term.begun) else { return Ok(()) };
        term.begun = true;
        let batches = term.decider.begin(&term.image, now_ms);
        self.propose(batches, None, Box::new(|_| ())).await
    }

    /// The first in flight has come to its end.
    fn ended(&mut self, result: Result<(), RequestError>) {
        self.draining |= result.is_err();
        if let Some(first) = self.in_flight.pop_front() {
            // What comes after a refusal was decided on it, also where it proposed nothing itself.
            let unfounded = self.draining && first.applied == 0;
            let refused = if unfounded { Err(RequestError::NotController) } else { Ok(()) };
            (first.answer)(result.and(refused));
        }
        if !self.in_flight.is_empty() {
            return;
        }
        if let Some(term) = &mut self.term {
            // Nothing is in flight: the published image is the newest there is.
            term.image = MetadataImage::clone(&self.quorum.image());
            term.index = self.quorum.applied_index();
            if self.draining {
                self.speculations += 1;
                term.speculation.number = self.speculations;
                term.begun = false;
            }
        }
        self.draining = false;
    }

    async fn tick(&mut self) -> Result<(), ProposeError> {
        let now_ms = self.now_ms();
        self.last_tick_ms = now_ms;
        let Some(term) = &mut self.term else { return Ok(()) };
        let batches = term.decider.tick(&term.image, now_ms);
        if batches.is_empty() {
            return Ok(());
        }
        self.propose(batches, None, Box::new(|_| ())).await
    }

    async fn take(&mut self, waiting: Waiting<D>) -> Result<(), ProposeError> {
        let Waiting { request, id, deadline, done } = waiting;
        let now_ms = self.now_ms();
        let Some(term) = &mut self.term else {
            let _ = done.send(Err(RequestError::NotController));
            return Ok(());
        };
        if deadline <= Instant::now() {
            let _ = done.send(Err(RequestError::TimedOut));
            return Ok(());
        }
        let remembered = id.and_then(|id| term.image.decided_request(id));
        let tells_state = D::tells_state(&request);
        let (batches, response) = match remembered.map(|request| request.answer.as_deref()) {
            Some(answer) => match answer.and_then(D::decode) {
                Some(response) => (Vec::new(), response),
                None => {
                    let _ = done.send(Err(RequestError::Begun));
                    return Ok(());
                }
            },
            None => {
                let image = &term.image;
                let (mut batches, response) =
                    term.decider.decide(image, request, now_ms, &mut self.rng);
                if let Some(id) = id.filter(|_| image.metadata_version() >= features::REQUESTS) {
                    remember(id, D::encode(&response), &mut batches);
                }
                (batches, response)
            }
        };
        // The client may have gone; what was decided stands nevertheless.
        let answer: Answer = Box::new(move |result| drop(done.send(result.map(|()| response))));
        let confirmation = (batches.is_empty() && tells_state)
            .then(|| confirm(self.quorum.clone(), term.speculation.term));
        self.propose(batches, confirmation, answer).await
    }

    async fn propose(
        &mut self,
        batches: Vec<Batch>,
        confirmation: Option<Proposal>,
        answer: Answer,
    ) -> Result<(), ProposeError> {
        let Some(term) = &mut self.term else { return Ok(()) };
        let mut proposals = VecDeque::new();
        for batch in batches {
            term.index += 1;
            term.image = term.image.apply(term.index, &batch).0;
            let place = Some(term.speculation);
            match self.quorum.start_propose(batch.encode(), place).await {
                Ok(proposal) => proposals.push_back(proposal),
                Err(error) => {
                    // The quorum has stopped; what it took before may yet happen.
                    answer(Err(RequestError::LeadershipLost));
                    return Err(error);
                }
            }
        }
        let is_done = proposals.is_empty() && confirmation.is_none();
        self.in_flight.push_back(InFlight { proposals, applied: 0, confirmation, answer });
        if self.in_flight.len() == 1 && is_done {
            self.ended(Ok(()));
        }
        Ok(())
    }
}

/// Waits until this node has applied all that was committed before `term`, in which it leads.
/// Returns whether it still does.
async fn caught_up(
    quorum: &Handle,
    status: &mut watch::Receiver<Arc<Status>>,
    term: u64,
) -> Result<bool, ReadError> {
    tokio::select! {
        read = quorum.read_index() => read.map(|_| true),
        deposed = status.wait_for(|now| leading_term(now) != Some(term)) => {
            deposed.map(|_| false).map_err(|_| ReadError::Stopped)
        }
    }
}

/// Asks a majority whether this node still leads in `term`.
fn confirm(quorum: Handle, term: u64) -> Proposal {
    let (done, confirmed) = oneshot::channel();
    tokio::spawn(async move {
        let mut status = quorum.watch_status();
        let read = caught_up(&quorum, &mut status, term).await;
        // A read that another leader answered says nothing of this one.
        let leads = matches!(read, Ok(true)) && leading_term(&quorum.status()) == Some(term);
        let index = quorum.applied_index();
        let _ = done.send(if leads { Ok(index) } else { Err(ProposeError::NotLeader) });
    });
    confirmed
}

/// Adds to a decision, if it changes anything, that it is the one of request `id`, with its answer.
fn remember(id: RequestId, answer: Option<Vec<u8>>, batches: &mut Vec<Batch>) {
    let Some(last) = batches.last_mut() else { return };
    let answer = answer.filter(|answer| answer.len() <= ANSWER_MAX_BYTES);
    let record = RequestRecord { id: id.0.into(), answer };
    let version = last.metadata_version.max(features::REQUESTS);
    if last.encoded_len() + record.encoded_len() <= ENTRY_MAX_BYTES {
        last.metadata_version = version;
        last.records.push(record.into());
    } else {
        batches.push(Batch { metadata_version: version, records: vec![record.into()] });
    }
    if batches.len() > 1 {
        // Fits what entries have in reserve.
        let begun = RequestRecord { id: id.0.into(), answer: None };
        batches[0].metadata_version = version;
        batches[0].records.push(begun.into());
    }
}

/// The term in which this node leads, if it does.
fn leading_term(status: &Status) -> Option<u64> {
    status.is_leader().then_some(status.raft.term)
}

/// Waits until the first in flight ends; forever where there is none. Safe to cancel.
async fn next_done(in_flight: &mut VecDeque<InFlight>) -> Result<(), RequestError> {
    poll_fn(|context| {
        let Some(first) = in_flight.front_mut() else { return Poll::Pending };
        while let Some(proposal) = first.proposals.front_mut() {
            match Pin::new(proposal).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Ok(_))) => {
                    first.applied += 1;
                    drop(first.proposals.pop_front());
                }
                Poll::Ready(failed) => {
                    let error = failed.ok().and_then(Result::err);
                    return Poll::Ready(Err(first.failed(error)));
                }
            }
        }
        match first.confirmation.as_mut().map(|confirmation| Pin::new(confirmation).poll(context)) {
            Some(Poll::Pending) => return Poll::Pending,
            None | Some(Poll::Ready(Ok(Ok(_)))) => {}
            Some(Poll::Ready(failed)) => {
                let error = failed.ok().and_then(Result::err);
                return Poll::Ready(Err(first.failed(error)));
            }
        }
        first.confirmation = None;
        Poll::Ready(Ok(()))
    })
    .await
}
