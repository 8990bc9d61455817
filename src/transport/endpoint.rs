//! The transport itself: what its users hold.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{Connection, Endpoint};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    MessageClass, PeerInfo, Seams, Service, StreamClass, TransportConfig,
    error::{CallError, CloseCode, ConnectError, OpenError, RefuseError, StartError, TlsError},
    handshake,
    hello::{Hello, Lane, VERSIONS},
    inbound,
    link::{self, Link},
    metrics::Metrics,
    request,
    resolve::Resolve,
    runtime::{Meter, Metered},
    stream::{Class, Stream, StreamReceiver, StreamSender},
    tls::{self, Liveness, Tls},
};
use crate::{
    base::{Clock, ClusterId, LogLimit, NodeId},
    cert::{Credentials, Identity},
    config::Address,
};

/// How long the last packets of a stopping node may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Where nodes said that they are, for those that the address book does not name.
const LEARNED_MAX: usize = 4096;

/// One node's end of the cluster plane. Clones share it; it works until [`Transport::stop`].
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

pub(super) struct Shared {
    pub(super) config: TransportConfig,
    pub(super) endpoint: Endpoint,
    pub(super) tls: ArcSwap<Tls>,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) service: Arc<dyn Service>,
    pub(super) metrics: Metrics,
    pub(super) meter: Meter,
    pub(super) rng: Mutex<SmallRng>,
    pub(super) request_memory: Arc<Semaphore>,
    pub(super) refusals: LogLimit,
    /// Whether the socket reaches IPv6 addresses.
    pub(super) is_ipv6: bool,
    identity: Identity,
    clock: Arc<dyn Clock>,
    peers: Mutex<Peers>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Peers {
    /// Whom to be connected to, and where they are.
    book: BTreeMap<NodeId, Vec<Address>>,
    /// Where others were found, or say that they are.
    learned: BTreeMap<NodeId, Address>,
    links: BTreeMap<(NodeId, Lane), Arc<Link>>,
    inbound: BTreeMap<(NodeId, Lane), Inbound>,
    stopped: bool,
}

/// A connection that a peer dialed.
struct Inbound {
    peer: Arc<PeerInfo>,
    connection: Connection,
}

impl Transport {
    /// Starts serving on the socket. No peer is dialed before [`Transport::set_peers`],
    /// [`Transport::call`] or the like. Must be called within a tokio runtime; metrics go to the
    /// recorder that is current here.
    ///
    /// # Errors
    /// Where the socket or the credentials cannot be used.
    pub fn start(
        config: TransportConfig,
        credentials: &Credentials,
        seams: Seams,
        service: Arc<dyn Service>,
    ) -> Result<Self, StartError> {
        let liveness = Liveness { keep_alive: config.keep_alive, idle: config.idle_timeout };
        let tls = Tls::new(credentials, &seams.clock, liveness)?;
        let is_ipv6 = seams.socket.local_addr()?.is_ipv6();
        let mut rng = SmallRng::seed_from_u64(seams.seed);
        // The address only matters for connections that override it anyway.
        let server = tls.server(SocketAddr::from(([0, 0, 0, 0], 0)));
        let meter = Meter::default();
        let endpoint = Endpoint::new_with_abstract_socket(
            tls::endpoint(credentials, rng.random()),
            Some(server),
            seams.socket.into_quinn(),
            Arc::new(Metered(meter.clone())),
        )?;
        let shared = Arc::new(Shared {
            request_memory: Arc::new(Semaphore::new(config.request_memory_bytes)),
            config,
            endpoint,
            tls: ArcSwap::from_pointee(tls),
            resolver: seams.resolver,
            service,
            metrics: Metrics::new(),
            meter,
            rng: Mutex::new(rng),
            refusals: LogLimit::default(),
            is_ipv6,
            identity: credentials.identity(),
            clock: seams.clock,
            peers: Mutex::default(),
            tasks: Mutex::default(),
        });
        shared.tasks.lock().spawn(inbound::accept(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// Where the socket is bound.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Who this node is, as its certificate says.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// The address book: whom to keep a connection for control to, and where they are. Replaces the
    /// one before. Connections to those it does not name any more are closed.
    pub fn set_peers(&self, mut book: BTreeMap<NodeId, Vec<Address>>) {
        book.remove(&self.shared.node_id());
        let mut retired = Vec::new();
        let nodes: Vec<NodeId> = book.keys().copied().collect();
        {
            let mut peers = self.shared.peers.lock();
            let gone: Vec<NodeId> =
                peers.book.keys().filter(|node| !book.contains_key(node)).copied().collect();
            for node in gone {
                peers.learned.remove(&node);
                retired.extend(
                    [Lane::Control, Lane::Bulk].map(|lane| peers.links.remove(&(node, lane))),
                );
            }
            // A new address is tried at once.
            for (node, addresses) in &book {
                if peers.book.get(node) != Some(addresses) {
                    let links = peers.links.range((*node, Lane::Control)..=(*node, Lane::Bulk));
                    links.for_each(|(_, link)| link.hint());
                }
            }
            peers.book = book;
        }
        retired.into_iter().flatten().for_each(|link| link.retire());
        for node in nodes {
            self.shared.link(node, Lane::Control).pin();
        }
    }

    /// Takes note of where a node is that need not be connected to now.
    pub fn learn(&self, node: NodeId, address: Address) {
        self.shared.learn(node, address);
    }

    /// Where `node` may be, best first.
    #[must_use]
    pub fn addresses(&self, node: NodeId) -> Vec<Address> {
        self.shared.addresses(node)
    }

    /// Learns who is at `address`, such as a seed, whose node id nobody knows yet. Afterwards that
    /// node can be called. It may be this node itself: see [`RefuseError::Oneself`].
    ///
    /// # Errors
    /// Where nobody answers, or nobody whom this node may talk to.
    pub async fn discover(
        &self,
        address: &Address,
        deadline: Instant,
    ) -> Result<Arc<PeerInfo>, ConnectError> {
        let finding = async {
            let mut failed = None;
            for remote in link::resolve(&self.shared, address).await? {
                let name = address.to_string();
                match handshake::dial(&self.shared, remote, &name, Lane::Probe, None).await {
                    Ok(session) => {
                        session.connection.close(CloseCode::NotNeeded.code(), b"that was all");
                        self.shared.learn(session.peer.node_id, address.clone());
                        return Ok(session.peer);
                    }
                    Err(error) => failed = Some(error),
                }
            }
            // Names resolve to at least one address, or fail.
            Err(failed.unwrap_or(ConnectError::Stopped))
        };
        let late = || ConnectError::TimedOut { address: address.to_string() };
        timeout_at(deadline, finding).await.map_err(|_| late())?
    }

    /// Sends a Raft message. Never waits: it may be lost, and replaces older ones of its class
    /// where too many wait. False where some were lost for it, or `to` cannot be reached now, so
    /// that it most likely is: for Raft, the peer is unreachable.
    pub fn send(&self, to: NodeId, class: MessageClass, message: Bytes) -> bool {
        if message.len() > self.shared.config.message_max_bytes {
            tracing::error!(%to, bytes = message.len(), "a Raft message is too large to be sent");
            return false;
        }
        let Some(link) = self.shared.find_link(to) else { return false };
        let was_room = link.push(class, message);
        was_room && !matches!(link.state(), link::State::Down(_))
    }

    /// Sends a request and waits for its response. Fails at once where `to` cannot be reached now;
    /// whether to try again is the caller's business.
    ///
    /// # Errors
    /// See [`CallError::may_have_been_served`].
    pub async fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let max_bytes = self.shared.config.request_max_bytes;
        if request.len() > max_bytes {
            return Err(CallError::TooLarge(request.len()));
        }
        let link = self.shared.link(to, Lane::Control);
        let session = timeout_at(deadline, link.session()).await;
        let session = session.map_err(|_| CallError::NotSentInTime(to))??;
        request::call(&session, request, max_bytes, deadline).await
    }

    /// Opens a stream of the bulk lane. The peer learns of it with the first bytes that are
    /// written.
    ///
    /// # Errors
    /// Where `to` cannot be reached, or has no room for another stream before `deadline`.
    pub async fn open(
        &self,
        to: NodeId,
        class: StreamClass,
        deadline: Instant,
    ) -> Result<Stream, OpenError> {
        let opening = async {
            let session = self.shared.link(to, Lane::Bulk).session().await?;
            let (send, recv) = session.connection.open_bi().await.map_err(lost)?;
            let class = Class::Stream(class);
            let mut sender = StreamSender::new(send);
            sender.set_priority(class.priority());
            sender.write(&mut [Bytes::copy_from_slice(&[class.byte()])]).await?;
            let peer = Arc::clone(&session.peer);
            Ok(Stream { peer, sender, receiver: StreamReceiver::new(recv) })
        };
        timeout_at(deadline, opening).await.map_err(|_| OpenError::TimedOut(to))?
    }

    /// The peers that are connected to this node for control, by their own dialing.
    #[must_use]
    pub fn inbound_peers(&self) -> Vec<Arc<PeerInfo>> {
        let peers = self.shared.peers.lock();
        let control = peers.inbound.iter().filter(|((_, lane), _)| *lane == Lane::Control);
        control.map(|(_, inbound)| Arc::clone(&inbound.peer)).collect()
    }

    /// Closes what `node` has dialed, such as after it was removed. Whether it may come back is
    /// decided by [`Service::admit`].
    pub fn disconnect(&self, node: NodeId, reason: &str) {
        let peers = self.shared.peers.lock();
        for (_, inbound) in peers.inbound.range((node, Lane::Control)..=(node, Lane::Probe)) {
            inbound.connection.close(CloseCode::Refused.code(), reason.as_bytes());
        }
    }

    /// Uses other credentials of the same node for connections from now on. Those that are up stay.
    ///
    /// # Errors
    /// Where they cannot be used; the old ones stay in use.
    pub fn set_credentials(&self, credentials: &Credentials) -> Result<(), TlsError> {
        let shared = &self.shared;
        debug_assert_eq!(credentials.identity(), shared.identity, "the watch refuses others");
        let liveness =
            Liveness { keep_alive: shared.config.keep_alive, idle: shared.config.idle_timeout };
        shared.tls.store(Arc::new(Tls::new(credentials, &shared.clock, liveness)?));
        Ok(())
    }

    /// Closes every connection and waits until the peers were told, for a second at most.
    pub async fn stop(&self) {
        let links = {
            let mut peers = self.shared.peers.lock();
            peers.stopped = true;
            std::mem::take(&mut peers.links)
        };
        self.shared.endpoint.close(CloseCode::Stopped.code(), b"the node is stopping");
        links.values().for_each(|link| link.retire());
        let _ = timeout(FAREWELL, self.shared.endpoint.wait_idle()).await;
        let mut tasks = std::mem::take(&mut *self.shared.tasks.lock());
        tasks.shutdown().await;
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

fn lost(error: quinn::ConnectionError) -> OpenError {
    OpenError::Stream(error.into())
}

impl Shared {
    pub(super) fn node_id(&self) -> NodeId {
        self.identity.node_id.expect("credentials name a node")
    }

    pub(super) fn cluster_id(&self) -> ClusterId {
        self.identity.cluster_id
    }

    /// What this node says of itself.
    pub(super) fn hello(&self) -> Hello {
        Hello {
            version_min: *VERSIONS.start(),
            version_max: *VERSIONS.end(),
            cluster_id: self.cluster_id(),
            node_id: self.node_id(),
            directory_id: self.config.directory_id,
            features: self.config.features,
            lane: Lane::Probe,
            expects: None,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            advertised: Some(self.config.advertised.clone()),
        }
    }

    /// Where `node` may be, best first.
    pub(super) fn addresses(&self, node: NodeId) -> Vec<Address> {
        let peers = self.peers.lock();
        let mut found = peers.book.get(&node).cloned().unwrap_or_default();
        let said = [Lane::Control, Lane::Bulk]
            .iter()
            .filter_map(|lane| peers.inbound.get(&(node, *lane))?.peer.advertised.clone());
        for address in said.chain(peers.learned.get(&node).cloned()) {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        found
    }

    fn learn(&self, node: NodeId, address: Address) {
        let mut peers = self.peers.lock();
        if peers.learned.len() < LEARNED_MAX || peers.learned.contains_key(&node) {
            peers.learned.insert(node, address);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.peers.lock().stopped
    }

    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.peers.lock().links.values().cloned().collect()
    }

    /// The way for Raft messages to a node that is known.
    fn find_link(self: &Arc<Self>, node: NodeId) -> Option<Arc<Link>> {
        let known = self.peers.lock().links.get(&(node, Lane::Control)).cloned();
        known.or_else(|| {
            let has_address = !self.addresses(node).is_empty();
            has_address.then(|| self.link(node, Lane::Control))
        })
    }

    /// The link to `node`, made where there is none.
    fn link(self: &Arc<Self>, node: NodeId, lane: Lane) -> Arc<Link> {
        let mut peers = self.peers.lock();
        if let Some(link) = peers.links.get(&(node, lane)) {
            return Arc::clone(link);
        }
        let link = Arc::new(Link::new(node, lane));
        if peers.stopped {
            link.retire();
        }
        peers.links.insert((node, lane), Arc::clone(&link));
        drop(peers);
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(Arc::clone(&link).run(Arc::clone(self)));
        link
    }

    /// Refuses a second data directory under a node id while the first is connected.
    pub(super) fn check_duplicate(&self, peer: &PeerInfo) -> Result<(), RefuseError> {
        let peers = self.peers.lock();
        let Some(inbound) = peers.inbound.get(&(peer.node_id, peer.lane)) else { return Ok(()) };
        let connected = inbound.peer.directory_id;
        if connected == peer.directory_id || inbound.connection.close_reason().is_some() {
            return Ok(());
        }
        Err(RefuseError::Duplicate { node: peer.node_id, connected, found: peer.directory_id })
    }

    /// Takes note of a peer's connection. An older one of the same kind ends: the peer has lost it.
    pub(super) fn enter(&self, peer: &Arc<PeerInfo>, connection: &Connection) {
        let key = (peer.node_id, peer.lane);
        let inbound = Inbound { peer: Arc::clone(peer), connection: connection.clone() };
        let mut peers = self.peers.lock();
        let older = peers.inbound.insert(key, inbound);
        // Whoever dials can most likely be dialed.
        let links = peers.links.range((peer.node_id, Lane::Control)..=(peer.node_id, Lane::Bulk));
        links.for_each(|(_, link)| link.hint());
        drop(peers);
        if let Some(older) = older {
            older.connection.close(CloseCode::Replaced.code(), b"a newer connection replaces this");
        }
    }

    pub(super) fn leave(&self, peer: &PeerInfo, connection: &Connection) {
        let key = (peer.node_id, peer.lane);
        let mut peers = self.peers.lock();
        let is_current =
            |inbound: &Inbound| inbound.connection.stable_id() == connection.stable_id();
        if peers.inbound.get(&key).is_some_and(is_current) {
            peers.inbound.remove(&key);
        }
    }
}
