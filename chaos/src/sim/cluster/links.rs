//! The network between simulated nodes: datagrams over turmoil's UDP, lost, doubled and held back
//! as a scenario says.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::BoxFuture;
use ottla::transport::{Datagrams, Resolve, Socket};
use parking_lot::Mutex;
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::time::sleep;
use tracing::debug;
use turmoil::net::UdpSocket;

use crate::network::Conditions;

/// What becomes of datagrams between nodes. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Links(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    nodes: BTreeMap<IpAddr, u32>,
    conditions: BTreeMap<(u32, u32), Conditions>,
    rng: StdRng,
}

impl Links {
    /// Links on which nothing is wrong.
    pub(super) fn new(seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self(Arc::new(Mutex::new(State {
            nodes: BTreeMap::new(),
            conditions: BTreeMap::new(),
            rng,
        })))
    }

    /// Whose address that is.
    pub(super) fn know(&self, node: u32, address: IpAddr) {
        self.0.lock().nodes.insert(address, node);
    }

    /// What the links do from now on.
    pub(super) fn set(&self, conditions: BTreeMap<(u32, u32), Conditions>) {
        self.0.lock().conditions = conditions;
    }

    /// After what time each copy of a datagram leaves.
    fn copies(&self, from: u32, to: IpAddr) -> Vec<Duration> {
        let State { nodes, conditions, rng } = &mut *self.0.lock();
        let link = nodes.get(&to).and_then(|to| conditions.get(&(from, *to)));
        link.map_or_else(|| vec![Duration::ZERO], |link| link.copies(rng).collect())
    }
}

/// A node's socket, for as long as its [`Bound`] lives.
pub(super) struct SimUdp {
    bound: Arc<Mutex<Option<Inner>>>,
    local: SocketAddr,
    node: u32,
    links: Links,
}

struct Inner {
    socket: Arc<UdpSocket>,
    readable: Option<BoxFuture<'static, ()>>,
}

/// Belongs to a node's life: as it ends, the port is free again, whoever still knows the socket.
pub(super) struct Bound(Arc<Mutex<Option<Inner>>>);

impl Drop for Bound {
    fn drop(&mut self) {
        let inner = self.0.lock().take();
        drop(inner);
    }
}

impl SimUdp {
    /// Binds `port` of the simulated host that this is called on, which is `node`'s.
    pub(super) async fn bind(node: u32, port: u16, links: Links) -> io::Result<(Socket, Bound)> {
        let socket = Arc::new(UdpSocket::bind(("0.0.0.0", port)).await?);
        let local = socket.local_addr()?;
        let bound = Arc::new(Mutex::new(Some(Inner { socket, readable: None })));
        let this = Self { bound: Arc::clone(&bound), local, node, links };
        Ok((Socket::simulated(this), Bound(bound)))
    }
}

impl fmt::Debug for SimUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimUdp").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Datagrams for SimUdp {
    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let bound = self.bound.lock();
        let Some(Inner { socket, .. }) = &*bound else { return };
        debug!(from = self.node, %to, bytes = datagram.len(), "datagram");
        for delay in self.links.copies(self.node, to.ip()) {
            if delay.is_zero() {
                // To a host that is down: lost, as on a network.
                let _ = socket.try_send_to(datagram, to);
                continue;
            }
            let (socket, datagram) = (Arc::clone(socket), datagram.to_vec());
            tokio::spawn(async move {
                sleep(delay).await;
                let _ = socket.try_send_to(&datagram, to);
            });
        }
    }

    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut bound = self.bound.lock();
        let Some(Inner { socket, readable }) = &mut *bound else { return Poll::Pending };
        loop {
            match socket.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
            let wait = readable.get_or_insert_with(|| {
                let socket = Arc::clone(socket);
                Box::pin(async move { drop(socket.readable().await) })
            });
            ready!(wait.as_mut().poll(cx));
            *readable = None;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// turmoil's names.
#[derive(Debug)]
pub(super) struct SimResolver;

impl Resolve for SimResolver {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(vec![SocketAddr::new(turmoil::lookup(host), port)]) })
    }
}
