//! What nodes send each other: datagrams, each of which fares as its link's conditions say.
//!
//! A node is known by the address that its datagrams come from, as it has one socket for all. Those
//! from A to the front of B leave from a socket that stands for A at B; what B answers there leaves
//! from B's front to A. So each sees the other at one address, whichever of them began.

use std::{
    collections::BTreeMap,
    io,
    net::{self, SocketAddr},
    sync::Arc,
};

use rand::rngs::SmallRng;
use rustix::net::sockopt;
use tokio::{net::UdpSocket, task::JoinSet};

use super::super::links::{Exit, Inlet, Link, Links};

/// The longest datagram.
const DATAGRAM_BYTES: usize = 65_536;
/// What the system is asked to hold for a socket, so that no burst of a node is lost. It may grant
/// less.
const SYSTEM_BUFFER_BYTES: usize = 4 << 20;

/// To a node, from a socket that stands for another.
#[derive(Clone)]
struct Way {
    from: Arc<UdpSocket>,
    to: SocketAddr,
}

impl Exit for Way {
    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.from.send_to(packet, self.to).await.map(drop)
    }
}

pub(super) fn socket(bound: net::UdpSocket) -> io::Result<Arc<UdpSocket>> {
    // A wish: net.core.rmem_max decides.
    let _ = sockopt::set_socket_recv_buffer_size(&bound, SYSTEM_BUFFER_BYTES);
    bound.set_nonblocking(true)?;
    UdpSocket::from_std(bound).map(Arc::new)
}

/// Passes datagrams between `nodes` by their `fronts`.
pub(super) fn serve(
    fronts: &BTreeMap<u32, Arc<UdpSocket>>,
    nodes: &BTreeMap<u32, SocketAddr>,
    links: &Arc<Links>,
    rng: &mut SmallRng,
    tasks: &mut JoinSet<()>,
) -> io::Result<()> {
    for (node, front) in fronts {
        let at = nodes[node];
        let mut senders = BTreeMap::new();
        for (sender, sends_from) in nodes {
            let told = fronts[sender].local_addr()?.ip();
            let stands_for = socket(net::UdpSocket::bind((told, 0))?)?;
            let there = Way { from: Arc::clone(&stands_for), to: at };
            senders.insert(*sends_from, ((*sender, *node), there));
            let back = Way { from: Arc::clone(front), to: *sends_from };
            let answers = BTreeMap::from([(at, ((*node, *sender), back))]);
            let inlet = Inlet::new(links, rng, tasks);
            tasks.spawn(pass(stands_for, answers, inlet));
        }
        let inlet = Inlet::new(links, rng, tasks);
        tasks.spawn(pass(Arc::clone(front), senders, inlet));
    }
    Ok(())
}

/// Passes on what arrives from `senders`, and nothing of anybody else.
async fn pass(
    socket: Arc<UdpSocket>,
    senders: BTreeMap<SocketAddr, (Link, Way)>,
    mut inlet: Inlet<Way>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    while let Ok((length, sender)) = socket.recv_from(&mut buffer).await {
        if let Some((link, way)) = senders.get(&sender) {
            inlet.pass(*link, &buffer[..length], way).await;
        }
    }
}
