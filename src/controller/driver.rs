//! The active controller's task: takes requests in, decides, proposes, answers once applied.
//!
//! Pipelined: a request is decided against the image as it will be once everything before it is
//! applied, and is proposed without waiting for that. Its answer waits for all before it, also
//! where it changes nothing, since it may say what they did.
//!
//! State owned: the speculation, an image ahead of the published one, and the answers that wait.
//! When a proposal is refused or the leadership is lost, the speculation is discarded with all that
//! was decided on it; the quorum refuses what builds on a refused proposal (see [`Speculation`]).
//!
//! Must not: decide anything itself, or answer before what the answer says is applied here.

use std::{collections::VecDeque, future::poll_fn, pin::Pin, task::Poll, time::Duration};

use rand::{Rng, rngs::SmallRng};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Controller, Decision, Request, Response};
use crate::{
    metadata::{Batch, MetadataImage},
    quorum::{Handle, ProposeError, Speculation},
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

    /// The node has become the active controller: entries to propose before anything is decided.
    fn begin(&mut self, image: &MetadataImage, now_ms: u64) -> Vec<Batch> {
        let _ = (image, now_ms);
        Vec::new()
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

    /// Entries to propose because time has passed.
    fn tick(&mut self, image: &MetadataImage, now_ms: u64) -> Vec<Batch>;

    /// When [`Decider::tick`] has something to do, if nothing else happens.
    fn next_tick_ms(&self) -> Option<u64>;
}

impl Decider for Controller {
    type Request = Request;
    type Response = Response;

    fn begin(&mut self, image: &MetadataImage, _: u64) -> Vec<Batch> {
        Self::begin(self, image)
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

    fn tick(&mut self, image: &MetadataImage, now_ms: u64) -> Vec<Batch> {
        self.tick(image, now_ms).batches
    }

    fn next_tick_ms(&self) -> Option<u64> {
        self.next_tick_ms()
    }
}

/// Names a request, so that it is decided once however often it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub uuid::Uuid);
/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Another node is the controller, or becomes it. Nothing was done.
    #[error("this node is not the active controller")]
    NotController,
    /// Another node becomes the controller. The change may yet happen.
    #[error("this node lost the leadership before the change was committed")]
    LeadershipLost,
    /// The deadline passed. The change may yet happen.
    #[error("the controller did not answer in time")]
    TimedOut,
}

struct Waiting<D: Decider> {
    request: D::Request,
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
    /// Has `request` decided, and returns the answer once what it says is applied on this node.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(
        &self,
        request: D::Request,
        deadline: Instant,
    ) -> Result<D::Response, RequestError> {
        let (done, answer) = oneshot::channel();
        let waiting = Waiting { request, deadline, done };
        let asking = async {
            self.0.send(waiting).await.map_err(|_| RequestError::NotController)?;
            answer.await.map_err(|_| RequestError::NotController)?
        };
        tokio::time::timeout_at(deadline, asking).await.map_err(|_| RequestError::TimedOut)?
    }
}

type Proposal = oneshot::Receiver<Result<u64, ProposeError>>;
type Answer = Box<dyn FnOnce(Result<(), RequestError>) + Send>;

/// Decided and proposed; answered when everything before it and all of its own is applied.
struct InFlight {
    proposals: VecDeque<Proposal>,
    /// Some of it is committed.
    has_begun: bool,
    answer: Answer,
}

/// One term of leadership.
struct Term<D> {
    decider: D,
    speculation: Speculation,
    /// The published image and everything in flight.
    image: MetadataImage,
    /// Where `image` stands; ahead of the log's own indices only until nothing is in flight.
    index: u64,
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
            let leads = {
                let now = status.borrow_and_update();
                now.is_leader().then_some(now.raft.term)
            };
            if self.term.as_ref().map(|t| t.speculation.term) != leads {
                self.term = None;
                if let Some(term) = leads {
                    tokio::select! {
                        caught_up = self.quorum.read_index() => {
                            if caught_up.is_err() {
                                return;
                            }
                        }
                        changed = status.changed() => {
                            if changed.is_err() { return }
                            continue;
                        }
                    }
                    if self.begin(term).await.is_err() {
                        return;
                    }
                }
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
    async fn begin(&mut self, term: u64) -> Result<(), ProposeError> {
        self.speculations += 1;
        let image = MetadataImage::clone(&self.quorum.image());
        let now_ms = self.now_ms();
        let mut decider = (self.activate)(&image, now_ms);
        let first = decider.begin(&image, now_ms);
        let speculation = Speculation { term, number: self.speculations };
        let index = self.quorum.applied_index();
        self.term = Some(Term { decider, speculation, image, index });
        tracing::info!(term, "this node is the active controller");
        if first.is_empty() { Ok(()) } else { self.propose(first, Box::new(|_| ())).await }
    }

    /// The first in flight has come to its end.
    fn ended(&mut self, result: Result<(), RequestError>) {
        self.draining |= result.is_err();
        // What comes after a refusal was decided on it, also where it proposed nothing itself.
        let result = match result {
            Ok(()) if self.draining => Err(RequestError::NotController),
            result => result,
        };
        if let Some(first) = self.in_flight.pop_front() {
            (first.answer)(result);
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
        self.propose(batches, Box::new(|_| ())).await
    }

    async fn take(&mut self, waiting: Waiting<D>) -> Result<(), ProposeError> {
        let Waiting { request, deadline, done } = waiting;
        let now_ms = self.now_ms();
        let Some(term) = &mut self.term else {
            let _ = done.send(Err(RequestError::NotController));
            return Ok(());
        };
        if deadline <= Instant::now() {
            let _ = done.send(Err(RequestError::TimedOut));
            return Ok(());
        }
        let (batches, response) = term.decider.decide(&term.image, request, now_ms, &mut self.rng);
        // The client may have gone; what was decided stands nevertheless.
        let answer: Answer = Box::new(move |result| drop(done.send(result.map(|()| response))));
        self.propose(batches, answer).await
    }

    async fn propose(&mut self, batches: Vec<Batch>, answer: Answer) -> Result<(), ProposeError> {
        let Some(term) = &mut self.term else { return Ok(()) };
        let mut proposals = VecDeque::new();
        for batch in batches {
            term.index += 1;
            term.image = term.image.apply(term.index, &batch).0;
            let place = Some(term.speculation);
            proposals.push_back(self.quorum.start_propose(batch.encode(), place).await?);
        }
        self.in_flight.push_back(InFlight { proposals, has_begun: false, answer });
        if self.in_flight.len() == 1 && self.in_flight[0].proposals.is_empty() {
            self.ended(Ok(()));
        }
        Ok(())
    }
}

/// Waits until the first in flight ends; forever where there is none. Safe to cancel.
async fn next_done(in_flight: &mut VecDeque<InFlight>) -> Result<(), RequestError> {
    poll_fn(|context| {
        let Some(first) = in_flight.front_mut() else { return Poll::Pending };
        while let Some(proposal) = first.proposals.front_mut() {
            match Pin::new(proposal).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Ok(_))) => {
                    first.has_begun = true;
                    first.proposals.pop_front();
                }
                Poll::Ready(refused) => {
                    use ProposeError::{Busy, NotLeader, Superseded, TooLarge};
                    let is_nothing =
                        matches!(refused, Ok(Err(NotLeader | Busy | TooLarge | Superseded)));
                    let error = match is_nothing && !first.has_begun {
                        true => RequestError::NotController,
                        false => RequestError::LeadershipLost,
                    };
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::join_all;
    use rand::SeedableRng as _;
    use uuid::Uuid;

    use super::*;
    use crate::{
        base::{Blocking, ClusterId, DirectoryId, NodeId},
        metadata::{ConfigResource, Record, records::ConfigRecord},
        quorum::{
            Bootstrap, Environment, Machine as _, MemStore, Member, NoPeers, Quorum, QuorumConfig,
        },
    };

    const KEY: &str = "message.max.bytes";

    /// Counts up one setting, by what the image says it is; a request of 0 only reads it.
    struct Counter;

    fn value(image: &MetadataImage) -> u64 {
        let resource = ConfigResource::broker(NodeId(1));
        image.config_value(&resource, KEY).map_or(0, |text| text.parse().unwrap())
    }

    impl Decider for Counter {
        type Request = usize;
        type Response = u64;

        fn decide(
            &mut self,
            image: &MetadataImage,
            size_bytes: usize,
            _: u64,
            _: &mut dyn Rng,
        ) -> (Vec<Batch>, u64) {
            if size_bytes == 0 {
                return (Vec::new(), value(image));
            }
            let next = value(image) + 1;
            let record = ConfigRecord {
                resource_type: 4,
                resource_name: "1".to_owned(),
                name: KEY.to_owned(),
                value: Some("0".repeat(size_bytes - 1) + &next.to_string()),
            };
            (vec![Batch::new(vec![Record::Config(record)])], next)
        }

        fn tick(&mut self, _: &MetadataImage, _: u64) -> Vec<Batch> {
            Vec::new()
        }

        fn next_tick_ms(&self) -> Option<u64> {
            None
        }
    }

    async fn started(voters: u64) -> (Quorum, Client<Counter>) {
        let member = |node: u64| Member {
            node_id: NodeId(node as u32),
            directory_id: DirectoryId(Uuid::from_u128(node.into())),
        };
        let voters = (1..=voters).map(|node| (node, member(node))).collect();
        let bootstrap = Bootstrap { cluster_id: ClusterId(Uuid::from_u128(1)), voters };
        let environment = Environment {
            store: Arc::new(MemStore::new()),
            blocking: Blocking::threads("driver-test", 2, 16).unwrap(),
            peers: Arc::new(NoPeers),
            fatal: Arc::new(|fatal| panic!("{fatal}")),
        };
        let config = QuorumConfig::new(member(1), 3);
        let quorum: Quorum =
            Quorum::start(config, Some(bootstrap.into()), environment).await.unwrap();
        let (driver, client) =
            driver(quorum.handle(), |_: &_, _| Counter, SmallRng::seed_from_u64(1));
        tokio::spawn(driver.run());
        (quorum, client)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn requests_in_flight_see_each_other_and_answers_are_applied() {
        let (quorum, client) = started(1).await;
        while client.request(0, soon()).await.is_err() {
            tokio::task::yield_now().await; // Until it leads.
        }
        let requests = (0..300).map(|_| {
            let (client, handle) = (client.clone(), quorum.handle());
            async move {
                let answer = client.request(1, soon()).await.unwrap();
                assert!(value(&handle.image()) >= answer);
                answer
            }
        });
        let mut answers = join_all(requests).await;
        answers.sort_unstable();
        assert_eq!(answers, (1..=300).collect::<Vec<_>>());
        assert_eq!(client.request(0, soon()).await, Ok(300));
        assert_ne!(quorum.handle().image().as_ref(), &MetadataImage::empty());
    }

    #[tokio::test]
    async fn a_refused_change_takes_along_what_was_decided_on_it() {
        let (quorum, client) = started(1).await;
        while client.request(0, soon()).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.request(1, soon()).await, Ok(1));
        // Larger than an entry may be.
        let requests = [2 << 20, 1, 0].map(|size| client.request(size, soon()));
        let answers = join_all(requests).await;
        assert_eq!(answers[0], Err(RequestError::NotController));
        for later in &answers[1..] {
            // Decided before or after the refusal was known: never on what was refused.
            assert!(!matches!(later, Ok(3)), "{answers:?}");
        }
        let now = value(&quorum.handle().image());
        assert_eq!(client.request(1, soon()).await, Ok(now + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_lead_says_so() {
        let (_quorum, client) = started(3).await;
        assert_eq!(client.request(1, soon()).await, Err(RequestError::NotController));
    }
}
