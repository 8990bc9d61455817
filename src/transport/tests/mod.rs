//! Several transports in turmoil's network, with virtual time; and two over the system's sockets.

mod faults;
mod hostile;
mod identity;
mod traffic;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use turmoil::Sim;

use super::*;
use crate::{
    base::{NodeId, TokioClock},
    cert::{Credentials, Files, NewNode, new_ca, new_node},
};

const PORT: u16 = 9192;
const EPOCH_MS: i64 = 1_800_000_000_000;
const DAY_MS: i64 = 86_400_000;

/// A CA and certificates of nodes.
struct Pki(TempDir);

impl Pki {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        new_ca(dir.path(), None, EPOCH_MS - DAY_MS, None).unwrap();
        Self(dir)
    }

    fn files(&self, node: u32, days: u32) -> Files {
        let new = NewNode {
            ca: self.0.path().to_owned(),
            directory: self.0.path().join(format!("node-{node}")),
            node_id: NodeId(node),
            hosts: Vec::new(),
            days,
            renew: true,
        };
        new_node(&new, EPOCH_MS - DAY_MS).unwrap()
    }

    fn credentials(&self, node: u32) -> Credentials {
        self.files(node, 365).load(NodeId(node), EPOCH_MS).unwrap()
    }
}

/// turmoil's UDP.
struct SimUdp {
    socket: Arc<turmoil::net::UdpSocket>,
    readable: Mutex<Option<BoxFuture<'static, ()>>>,
    /// Which part of what is sent is lost.
    loss: Mutex<(f64, SmallRng)>,
    /// What waits for a slow line.
    line: Option<Line>,
}

/// Datagrams on their way.
type Line = Arc<Mutex<VecDeque<(SocketAddr, Bytes)>>>;

/// Datagrams that wait for a slow line; more are lost.
const LINE_QUEUE: usize = 256;

impl SimUdp {
    async fn new(port: u16) -> Self {
        let socket = turmoil::net::UdpSocket::bind(("0.0.0.0", port)).await.unwrap();
        Self {
            socket: Arc::new(socket),
            readable: Mutex::default(),
            loss: Mutex::new((0.0, SmallRng::seed_from_u64(0))),
            line: None,
        }
    }

    async fn bind(port: u16) -> Socket {
        Socket::simulated(Self::new(port).await)
    }

    async fn losing(port: u16, loss: f64, seed: u64) -> Socket {
        let loss = Mutex::new((loss, SmallRng::seed_from_u64(seed)));
        Socket::simulated(Self { loss, ..Self::new(port).await })
    }

    /// Behind a line that takes so many bytes a millisecond.
    async fn slow(port: u16, bytes_per_ms: usize) -> Socket {
        let this = Self::new(port).await;
        let line = Line::default();
        let (socket, queue) = (Arc::clone(&this.socket), Arc::clone(&line));
        tokio::spawn(async move {
            let mut room = 0;
            loop {
                sleep(Duration::from_millis(1)).await;
                room = bytes_per_ms.min(room) + bytes_per_ms;
                let mut queue = queue.lock();
                while let Some((to, datagram)) = queue.pop_front_if(|next| next.1.len() <= room) {
                    room -= datagram.len();
                    let _ = socket.try_send_to(&datagram, to);
                }
            }
        });
        Socket::simulated(Self { line: Some(line), ..this })
    }
}

impl fmt::Debug for SimUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

impl Datagrams for SimUdp {
    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let (loss, rng) = &mut *self.loss.lock();
        if rng.random_bool(*loss) {
            return;
        }
        if let Some(line) = &self.line {
            let mut line = line.lock();
            if line.len() < LINE_QUEUE {
                line.push_back((to, Bytes::copy_from_slice(datagram)));
            }
            return;
        }
        // To a host that is down: lost, as on a network.
        let _ = self.socket.try_send_to(datagram, to);
    }

    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut readable = self.readable.lock();
        loop {
            match self.socket.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
            let wait = readable.get_or_insert_with(|| {
                let socket = Arc::clone(&self.socket);
                Box::pin(async move { drop(socket.readable().await) })
            });
            ready!(wait.as_mut().poll(cx));
            *readable = None;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// turmoil's names.
#[derive(Debug)]
struct SimResolver;

impl Resolve for SimResolver {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(vec![SocketAddr::new(turmoil::lookup(host), port)]) })
    }
}

/// What a node was sent, and when.
#[derive(Default)]
struct Seen {
    messages: Mutex<Vec<(NodeId, Bytes, Duration)>>,
    connected: Mutex<Vec<NodeId>>,
    unreachable: Mutex<Vec<NodeId>>,
    stream_bytes: Mutex<BTreeMap<StreamClass, u64>>,
    refuse: Mutex<Option<NodeId>>,
}

impl Seen {
    fn has(&self, message: &[u8]) -> bool {
        self.messages.lock().iter().any(|(_, seen, _)| seen == message)
    }
}

struct Echo(Arc<Seen>);

impl Service for Echo {
    fn admit(&self, peer: &PeerInfo) -> Result<(), Cow<'static, str>> {
        match *self.0.refuse.lock() == Some(peer.node_id) {
            true => Err("it was removed from the cluster".into()),
            false => Ok(()),
        }
    }

    fn message(&self, from: &Arc<PeerInfo>, message: Bytes) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.0.messages.lock().push((from.node_id, message, at));
    }

    fn call(
        &self,
        from: Arc<PeerInfo>,
        request: Bytes,
        _: Instant,
    ) -> BoxFuture<'static, Result<Bytes, NotServed>> {
        Box::pin(async move {
            match request.as_ref() {
                b"busy" => Err(NotServed::Busy),
                b"slow" => {
                    sleep(Duration::from_secs(3600)).await;
                    Err(NotServed::NotReady)
                }
                b"who" => Ok(Bytes::from(from.node_id.to_string())),
                _ => Ok(request),
            }
        })
    }

    fn stream(&self, _: Arc<PeerInfo>, class: StreamClass, stream: Stream) {
        let seen = Arc::clone(&self.0);
        tokio::spawn(async move {
            let Stream { mut sender, mut receiver, .. } = stream;
            while let Ok(Some(bytes)) = receiver.read(64 << 10).await {
                *seen.stream_bytes.lock().entry(class).or_default() += bytes.len() as u64;
            }
            let total = seen.stream_bytes.lock()[&class];
            let _ = sender.write_frame(&mut [Bytes::from(total.to_string())]).await;
            sender.finish();
            let _ = sender.acknowledged().await;
        });
    }

    fn connected(&self, peer: &Arc<PeerInfo>) {
        self.0.connected.lock().push(peer.node_id);
    }

    fn unreachable(&self, node: NodeId) {
        self.0.unreachable.lock().push(node);
    }
}

fn host(node: u32) -> String {
    format!("n{node}")
}

fn address(node: u32) -> Address {
    Address { host: host(node), port: PORT }
}

fn config(node: u32) -> TransportConfig {
    let file = BTreeMap::from([("node.id".to_owned(), node.to_string())]);
    let file = NodeConfig::from_settings(file).unwrap();
    let directory = DirectoryId(uuid::Uuid::from_u128(u128::from(node)));
    TransportConfig { advertised: address(node), ..TransportConfig::new(&file, directory) }
}

/// Starts a transport on a simulated host.
async fn start(credentials: &Credentials, seen: &Arc<Seen>, seed: u64) -> Transport {
    start_as(credentials, seen, seed, config(credentials.node_id().0)).await
}

async fn start_as(
    credentials: &Credentials,
    seen: &Arc<Seen>,
    seed: u64,
    config: TransportConfig,
) -> Transport {
    start_on(credentials, seen, seed, config, SimUdp::bind(PORT).await)
}

fn start_on(
    credentials: &Credentials,
    seen: &Arc<Seen>,
    seed: u64,
    config: TransportConfig,
    socket: Socket,
) -> Transport {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    let seams = Seams {
        socket,
        clock: TokioClock::starting_at(EPOCH_MS + i64::try_from(elapsed.as_millis()).unwrap()),
        resolver: Arc::new(SimResolver),
        seed,
    };
    Transport::start(config, credentials, seams, Arc::new(Echo(Arc::clone(seen)))).unwrap()
}

fn sim(seed: u64) -> Sim<'static> {
    let epoch_ms = u64::try_from(EPOCH_MS).unwrap();
    turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_millis(epoch_ms))
        .simulation_duration(Duration::from_secs(300))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(500))
        .max_message_latency(Duration::from_micros(1500))
        .udp_capacity(1 << 16)
        .build()
}

/// Adds a host that runs a node whose book names `peers`; started again after a crash.
fn node(sim: &mut Sim<'_>, pki: &Pki, node: u32, peers: &'static [u32], seen: &Arc<Seen>) {
    let (credentials, seen) = (pki.credentials(node), Arc::clone(seen));
    sim.host(host(node), move || {
        let (credentials, seen) = (credentials.clone(), Arc::clone(&seen));
        async move {
            let transport = start(&credentials, &seen, u64::from(node)).await;
            transport.set_peers(book(peers));
            std::future::pending().await
        }
    });
}

fn book(peers: &[u32]) -> BTreeMap<NodeId, Vec<Address>> {
    peers.iter().map(|node| (NodeId(*node), vec![address(*node)])).collect()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// Waits until `holds`, in virtual time.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("not within 20 s: {what}");
}
