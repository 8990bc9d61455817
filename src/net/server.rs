//! Accepts connections, and ends them in order.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    Limits, Listener,
    admission::Admission,
    budget::{Budget, Pool},
    connection::{self, End},
    frame::{Pace, ReadError},
    handler::{Connection, Handler},
    metrics::Metrics,
    write::Means,
};
use crate::base::{Blocking, LogLimit};

/// The pause after the system refused to accept, which it does when file handles run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the connections of a node share.
pub(super) struct Shared<H> {
    pub(super) handler: Arc<H>,
    pub(super) limits: ArcSwap<Limits>,
    pub(super) budget: Budget,
    pub(super) means: Means,
    pub(super) metrics: Metrics,
    admission: Arc<Admission>,
    ids: AtomicU64,
    refused: LogLimit,
    misfits: LogLimit,
}

/// Serves the client plane of one node, over any number of listeners.
///
/// Metrics go to the recorder that is current where it is made.
pub struct Server<H> {
    shared: Arc<Shared<H>>,
    stop: watch::Sender<Option<Instant>>,
}

impl<H: Handler> Server<H> {
    /// A server whose requests `handler` answers. Records are read on `blocking` where they are
    /// not in memory.
    pub fn new(handler: Arc<H>, limits: Limits, blocking: Blocking) -> Self {
        let pace =
            Pace { grace: limits.progress_timeout, bytes_per_second: limits.min_bytes_per_second };
        let shared = Shared {
            handler,
            budget: Budget::new(limits.request_memory_bytes),
            means: Means { pool: Pool::new(limits.record_buffers), blocking, pace },
            limits: ArcSwap::from_pointee(limits),
            metrics: Metrics::new(),
            admission: Arc::default(),
            ids: AtomicU64::new(0),
            refused: LogLimit::default(),
            misfits: LogLimit::default(),
        };
        Self { shared: Arc::new(shared), stop: watch::channel(None).0 }
    }

    /// Changes the limits of connections accepted from now on. The bounds on memory and the pace
    /// stay as they were.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.limits.store(Arc::new(limits));
        self.shared.admission.limits_changed();
    }

    /// The bytes of requests that are in memory.
    #[must_use]
    pub fn request_memory_bytes(&self) -> usize {
        self.shared.budget.used_bytes()
    }

    /// Has every [`Server::serve`] stop accepting at once, finish what is in flight, and return
    /// within `deadline` from now. Connections that are not done by then are cut.
    pub fn stop(&self, deadline: Duration) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert_with(|| Instant::now() + deadline);
            first
        });
    }

    /// Serves the connections of `listener`, called `name` in the configuration, until
    /// [`Server::stop`]. Returns once they have all ended.
    ///
    /// # Errors
    /// Where the listener does not know its address.
    pub async fn serve<L: Listener>(&self, mut listener: L, name: &str) -> io::Result<()> {
        let local = listener.local_addr()?;
        let name: Arc<str> = name.into();
        let mut stop = self.stop.subscribe();
        let mut connections = JoinSet::new();
        let shared = &self.shared;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(Option::is_some) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = accept(&mut listener, &name, shared) => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(more) = shared.refused.permits() {
                        warn!(listener = &*name, %error, more, "could not accept a connection");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let limits = shared.limits.load();
            let Some(place) = shared.admission.enter(&name, peer.ip(), &limits) else {
                shared.metrics.refused.increment(1);
                if let Some(more) = shared.refused.permits() {
                    warn!(%peer, more, "refused a connection: max.connections.per.ip is reached");
                }
                continue;
            };
            shared.metrics.accepted.increment(1);
            let id = shared.ids.fetch_add(1, Relaxed);
            let connection = Connection { id, peer, local, listener: Arc::clone(&name) };
            let shared = Arc::clone(shared);
            let stop = self.stop.subscribe();
            connections.spawn(async move {
                let _place = place;
                shared.metrics.connections.increment(1.0);
                let end = connection::serve(&shared, connection, stream, L::SEND_FILE, stop).await;
                shared.metrics.connections.decrement(1.0);
                shared.ended(peer, &end);
            });
        }
        drop(listener);
        let deadline = stop.borrow().unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            () = async { while connections.join_next().await.is_some() {} } => {}
            () = sleep_until(deadline) => {
                info!(listener = &*name, connections = connections.len(), "cut what did not end");
                connections.shutdown().await;
            }
        }
        Ok(())
    }
}

/// Waits for room, then for a connection.
async fn accept<L: Listener, H>(
    listener: &mut L,
    name: &str,
    shared: &Shared<H>,
) -> io::Result<(L::Stream, std::net::SocketAddr)> {
    shared.admission.room(name, || shared.limits.load_full()).await;
    listener.accept().await
}

impl<H> Shared<H> {
    fn ended(&self, peer: std::net::SocketAddr, end: &End) {
        match end {
            End::Read(ReadError::Length { .. }) => {
                self.metrics.closed_by_limit.increment(1);
                if let Some(more) = self.misfits.permits() {
                    warn!(%peer, cause = %end, more, "closed a connection");
                }
            }
            End::Idle | End::SlowRequest => {
                self.metrics.closed_by_limit.increment(1);
                debug!(%peer, cause = %end, "closed a connection");
            }
            _ => debug!(%peer, cause = %end, "a connection ended"),
        }
        self.metrics.request_memory.set(self.budget.used_bytes() as f64);
    }
}
