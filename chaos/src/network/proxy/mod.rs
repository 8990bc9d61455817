//! A proxy on loopback between the nodes, and between them and clients. It needs no rights.
//!
//! Each node listens on an address of 127.0.0.0/8 of its own, and tells others an address of the
//! proxy, its front, which is its seed as well. What nodes send each other arrives there as
//! datagrams ([`datagrams`]), each of which fares as a packet does. What clients send arrives as
//! bytes of a connection ([`streams`]), which take longer, or do not get through while a link is
//! cut; they are not lost, doubled or out of order, as TCP would make good for that.
//!
//! An operator's endpoint is no part of the network: it is asked where its node listens.

mod datagrams;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::task::JoinSet;

use super::{NetworkError, Place, links::Links};

/// In how many networks addresses and ports are looked for that nobody has.
const ATTEMPTS: usize = 8;
/// The first of a network's ports; below those that the system gives to outgoing connections, so
/// that none of these has the port of a node which does not run.
const PORTS: std::ops::Range<u16> = 16_000..32_000;
/// How far a front's address is from its node's.
const FRONT: u8 = 128;

/// Ends when it is dropped.
pub(super) struct Proxy {
    places: BTreeMap<u32, Place>,
    _tasks: JoinSet<()>,
}

/// Where the proxy stands for a node.
struct Front {
    clients: TcpListener,
    nodes: UdpSocket,
}

impl Proxy {
    /// Must be called within a tokio runtime.
    pub(super) fn new(count: u32, links: &Arc<Links>, seed: u64) -> Result<Self, NetworkError> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..ATTEMPTS {
            let prefix = [127, rng.random_range(1..=254), rng.random_range(1..=254)];
            let port = rng.random_range(PORTS);
            let places: BTreeMap<_, _> =
                (1..=count).map(|node| (node, place(prefix, port, node))).collect();
            match Self::at(places, links, &mut rng) {
                Ok(proxy) => return Ok(proxy),
                Err(error) => failed = error,
            }
        }
        Err(NetworkError::Proxy { attempts: ATTEMPTS, source: failed })
    }

    fn at(
        places: BTreeMap<u32, Place>,
        links: &Arc<Links>,
        rng: &mut SmallRng,
    ) -> io::Result<Self> {
        let mut fronts = BTreeMap::new();
        for (node, place) in &places {
            // The node takes these when it starts; nobody else may have them.
            for port in [place.kafka, place.http] {
                drop(TcpListener::bind((place.host, port))?);
            }
            drop(UdpSocket::bind((place.host, place.cluster))?);
            let clients = TcpListener::bind((place.told, place.kafka))?;
            let nodes = UdpSocket::bind((place.told, place.cluster))?;
            fronts.insert(*node, Front { clients, nodes });
        }
        let mut tasks = JoinSet::new();
        let mut sockets = BTreeMap::new();
        for (node, Front { clients, nodes }) in fronts {
            clients.set_nonblocking(true)?;
            let clients = tokio::net::TcpListener::from_std(clients)?;
            sockets.insert(node, datagrams::socket(nodes)?);
            let to = SocketAddr::from((places[&node].host, places[&node].kafka));
            let rng = SmallRng::seed_from_u64(rng.random());
            tasks.spawn(streams::serve(clients, node, to, Arc::clone(links), rng));
        }
        let nodes = places.iter().map(|(node, at)| (*node, (at.host, at.cluster).into())).collect();
        datagrams::serve(&sockets, &nodes, links, rng, &mut tasks)?;
        Ok(Self { places, _tasks: tasks })
    }

    pub(super) fn place(&self, node: u32) -> Place {
        self.places[&node]
    }
}

fn place([a, b, c]: [u8; 3], port: u16, node: u32) -> Place {
    let node = node as u8;
    let address = |last| Ipv4Addr::new(a, b, c, last).into();
    Place {
        host: address(node),
        told: address(FRONT + node),
        kafka: port,
        cluster: port + 1,
        http: port + 2,
    }
}
