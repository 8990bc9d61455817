//! One lane to one peer: dials, waits, dials again; and writes Raft messages.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::FutureExt as _;
use parking_lot::Mutex;
use quinn::ConnectionError;
use rand::RngExt as _;
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant, timeout},
};
use tracing::{debug, info, warn};

use super::{
    MessageClass,
    endpoint::Shared,
    error::{CloseCode, ConnectError, StreamError},
    figures::Totals,
    handshake::{self, Session},
    hello::Lane,
    queue::Queue,
    stream::{Class, StreamSender},
};
use crate::{base::NodeId, config::Address};

/// The longest pause where it needs somebody to set things right.
const REFUSED_BACKOFF: Duration = Duration::from_secs(5);
/// A connection that lived so long was sound: it is dialed anew at once.
const SOUND: Duration = Duration::from_secs(1);
/// How often a failure that stays the same is logged.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// How a link stands.
#[derive(Clone)]
pub(super) enum State {
    /// Nobody wants it.
    Idle,
    Connecting,
    Up(Arc<Session>),
    /// The last attempt failed, or the connection was lost.
    Down(ConnectError),
}

/// One lane to one peer.
pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) lane: Lane,
    state: watch::Sender<State>,
    /// Kept up without being asked for.
    pinned: AtomicBool,
    wanted: AtomicBool,
    retired: AtomicBool,
    wake: Notify,
    /// Attempts that failed and connections that were lost.
    failures: AtomicU64,
    urgent: Queue,
    log: Queue,
    pub(super) connects: AtomicU64,
    pub(super) dropped_full: AtomicU64,
    pub(super) dropped_old: AtomicU64,
    /// Of connections that have ended.
    pub(super) past: Mutex<Totals>,
}

impl Link {
    pub(super) fn new(node: NodeId, lane: Lane) -> Self {
        Self {
            node,
            lane,
            state: watch::channel(State::Idle).0,
            pinned: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            wake: Notify::new(),
            failures: AtomicU64::new(0),
            urgent: Queue::default(),
            log: Queue::default(),
            connects: AtomicU64::new(0),
            dropped_full: AtomicU64::new(0),
            dropped_old: AtomicU64::new(0),
            past: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Keeps it up from now on.
    pub(super) fn pin(&self) {
        self.pinned.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// Ends it.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// The peer was heard of, or its address is another: no reason to wait longer.
    pub(super) fn hint(&self) {
        if matches!(*self.state.borrow(), State::Down(_)) {
            self.wake.notify_one();
        }
    }

    /// The connection. Waits while one is being made; fails at once while none can be had.
    pub(super) async fn session(&self) -> Result<Arc<Session>, ConnectError> {
        let mut state = self.state.subscribe();
        let failures_before = self.failures.load(Relaxed);
        loop {
            self.wanted.store(true, Relaxed);
            let now = state.borrow_and_update().clone();
            match now {
                State::Up(session) if session.connection.close_reason().is_none() => {
                    return Ok(session);
                }
                State::Down(error) => return Err(error),
                // The attempt that was asked for has failed, unseen.
                State::Idle if self.failures.load(Relaxed) != failures_before => {
                    return Err(ConnectError::NoAddress(self.node));
                }
                State::Idle => self.wake.notify_one(),
                State::Up(_) | State::Connecting => {}
            }
            state.changed().await.map_err(|_| ConnectError::Stopped)?;
        }
    }

    /// Queues a Raft message. False where older ones had to go for it.
    pub(super) fn push(&self, class: MessageClass, message: Bytes) -> bool {
        let dropped = self.queue(class).push(message);
        self.dropped_full.fetch_add(dropped, Relaxed);
        dropped == 0
    }

    const fn queue(&self, class: MessageClass) -> &Queue {
        match class {
            MessageClass::Urgent => &self.urgent,
            MessageClass::Log => &self.log,
        }
    }

    /// Keeps the connection while it is wanted, until the link is retired.
    pub(super) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut pause = Pause::new(&shared);
        let mut told = Told::default();
        loop {
            if self.is_over(&shared) {
                let error = match shared.is_stopped() {
                    true => ConnectError::Stopped,
                    false => ConnectError::NoAddress(self.node),
                };
                self.state.send_replace(State::Down(error));
                return;
            }
            if !self.pinned.load(Relaxed) && !self.wanted.load(Relaxed) {
                self.state.send_replace(State::Idle);
                self.wake.notified().await;
                continue;
            }
            // What woke it so far is answered by this attempt.
            let _ = self.wake.notified().now_or_never();
            self.state.send_replace(State::Connecting);
            let (error, wait) = match self.dial(&shared).await {
                Ok(session) => {
                    let since = Instant::now();
                    told.clear();
                    let error = self.hold(&shared, session).await;
                    if since.elapsed() >= SOUND {
                        pause.reset();
                    }
                    (error, pause.next(&shared, false))
                }
                // Nobody is missed any more.
                Err(_) if self.is_over(&shared) => continue,
                Err(error) => {
                    shared.metrics.dialed_failure(error.label());
                    told.failure(&self, &error);
                    let wait = pause.next(&shared, error.is_refusal());
                    (error, wait)
                }
            };
            self.wanted.store(false, Relaxed);
            self.failures.fetch_add(1, Relaxed);
            self.state.send_replace(State::Down(error));
            if self.lane == Lane::Control {
                shared.service.unreachable(self.node);
            }
            tokio::select! {
                () = time::sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Whether nobody will use it any more.
    fn is_over(&self, shared: &Shared) -> bool {
        self.retired.load(Relaxed) || shared.is_stopped()
    }

    /// Tries every address that is known, until one answers as it should.
    async fn dial(&self, shared: &Shared) -> Result<Session, ConnectError> {
        let mut failed = ConnectError::NoAddress(self.node);
        for address in shared.addresses(self.node) {
            match resolve(shared, &address).await {
                Ok(found) => {
                    for remote in found {
                        let name = address.to_string();
                        let expects = Some(self.node);
                        match handshake::dial(shared, remote, &name, self.lane, expects).await {
                            Ok(session) => return Ok(session),
                            // What a node said of itself matters more than that another is away.
                            Err(error) if failed.is_refusal() && !error.is_refusal() => {}
                            Err(error) => failed = error,
                        }
                    }
                }
                Err(error) if failed.is_refusal() => drop(error),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Uses a connection until it ends. Returns how it did.
    async fn hold(&self, shared: &Shared, session: Session) -> ConnectError {
        let (node, lane) = (self.node, self.lane.name());
        let remote = session.connection.remote_address();
        info!(%node, lane, %remote, software = session.peer.software, "connected");
        self.connects.fetch_add(1, Relaxed);
        let session = Arc::new(session);
        self.state.send_replace(State::Up(Arc::clone(&session)));
        if self.lane == Lane::Control {
            shared.service.connected(&session.peer);
        }
        tokio::select! {
            biased;
            _ = session.connection.closed() => {}
            () = self.until_retired() => {
                session.connection.close(CloseCode::NotNeeded.code(), b"this node is no peer any more");
            }
            error = self.write(&session, MessageClass::Urgent) => self.give_up(&session, &error),
            error = self.write(&session, MessageClass::Log) => self.give_up(&session, &error),
        }
        let source = session.connection.closed().await;
        self.past.lock().add(&session.connection.stats());
        let (reason, is_planned) = match &source {
            ConnectionError::ApplicationClosed(closed) => (
                String::from_utf8_lossy(&closed.reason).into_owned(),
                closed.error_code == CloseCode::Stopped.code(),
            ),
            other => (other.to_string(), *other == ConnectionError::LocallyClosed),
        };
        match is_planned {
            true => info!(%node, lane, %remote, reason, "the connection has ended"),
            false => warn!(%node, lane, %remote, reason, "the connection was lost"),
        }
        ConnectError::Ended { address: remote.to_string(), source }
    }

    async fn until_retired(&self) {
        while !self.retired.load(Relaxed) {
            self.wake.notified().await;
        }
    }

    fn give_up(&self, session: &Session, error: &StreamError) {
        debug!(node = %self.node, %error, "cannot write messages");
        session
            .connection
            .close(CloseCode::NotNeeded.code(), b"the stream of messages was refused");
    }

    /// Writes the messages of one class for as long as that works.
    async fn write(&self, session: &Session, class: MessageClass) -> StreamError {
        if self.lane != Lane::Control {
            return std::future::pending().await;
        }
        match self.write_messages(session, class).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn write_messages(
        &self,
        session: &Session,
        class: MessageClass,
    ) -> Result<std::convert::Infallible, StreamError> {
        let stream = session.connection.open_uni().await?;
        let _ = stream.set_priority(Class::Messages(class).priority());
        let mut sender = StreamSender::new(stream);
        sender.write(&mut [Bytes::copy_from_slice(&[Class::Messages(class).byte()])]).await?;
        let (mut messages, mut frames) = (Vec::new(), Vec::new());
        loop {
            let old = self.queue(class).pop_some(&mut messages).await;
            self.dropped_old.fetch_add(old, Relaxed);
            let mut heads = BytesMut::with_capacity(4 * messages.len());
            for message in messages.drain(..) {
                // The transport's limit on messages is far below what a length can say.
                heads.put_u32(message.len() as u32);
                frames.extend([heads.split().freeze(), message]);
            }
            sender.write(&mut frames).await?;
            frames.clear();
        }
    }
}

/// The addresses behind a name that this socket can reach.
pub(super) async fn resolve(
    shared: &Shared,
    address: &Address,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |source: std::io::Error| ConnectError::Resolve {
        address: address.to_string(),
        source: Arc::new(source),
    };
    let asking = shared.resolver.resolve(&address.host, address.port);
    let found = match timeout(shared.config.connect_timeout, asking).await {
        Ok(found) => found.map_err(failed)?,
        Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into())),
    };
    let mut found = found;
    found.retain(|one| shared.is_ipv6 || one.is_ipv4());
    if found.is_empty() {
        return Err(failed(std::io::ErrorKind::AddrNotAvailable.into()));
    }
    Ok(found)
}

/// Pauses between attempts: longer each time, and never the same for two nodes.
struct Pause {
    next: Duration,
}

impl Pause {
    const fn new(shared: &Shared) -> Self {
        Self { next: shared.config.backoff_min }
    }

    const fn reset(&mut self) {
        self.next = Duration::ZERO;
    }

    fn next(&mut self, shared: &Shared, refused: bool) -> Duration {
        let now = self.next;
        let longest = if refused { REFUSED_BACKOFF } else { shared.config.backoff_max };
        self.next = (now * 2).clamp(shared.config.backoff_min, longest);
        shared.rng.lock().random_range(now / 2..=now)
    }
}

/// Keeps a peer that stays away from filling the log.
#[derive(Default)]
struct Told {
    last: Option<(&'static str, Instant)>,
}

impl Told {
    fn clear(&mut self) {
        self.last = None;
    }

    fn failure(&mut self, link: &Link, error: &ConnectError) {
        let (node, lane, label) = (link.node, link.lane.name(), error.label());
        let is_new = self.last.is_none_or(|(last, at)| last != label || at.elapsed() >= LOG_EVERY);
        if !is_new {
            debug!(%node, lane, %error, "no connection");
            return;
        }
        self.last = Some((label, Instant::now()));
        match error {
            _ if error.is_ours() => warn!(%node, lane, %error, "this node refused a peer"),
            _ if error.is_refusal() => warn!(%node, lane, %error, "a peer refused this node"),
            _ => warn!(%node, lane, %error, "no connection to a peer; trying on"),
        }
    }
}
