//! A network of the suite's own, which loses, delays, doubles or reorders packets, or cuts them off,
//! as told, in one direction or in both.
//!
//! There are two. In the first each node is in a network namespace of its own (`namespaces`),
//! and every packet passes a switch in this process. That needs rights; the second does not: the
//! nodes are on loopback, and tell each other and clients addresses of a `proxy` in this process.
//! Both have packets fare by the same code (`link`, `links`).

mod link;
mod links;
mod namespaces;
mod proxy;
mod switch;

use std::{collections::BTreeMap, io, net::IpAddr, process::ExitStatus, sync::Arc};

pub use self::link::Conditions;
use self::{links::Links, namespaces::Namespaces, proxy::Proxy};

/// Where the clients are.
pub const CLIENTS: u32 = 0;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An interface cannot be had.
    #[error("cannot make a network interface (TUN): root's rights and /dev/net/tun are needed")]
    Tun(#[from] tokio_tun::Error),
    /// No addresses and ports for the proxy.
    #[error(
        "cannot listen on loopback for the nodes: {attempts} networks of 127.0.0.0/8 were tried"
    )]
    Proxy {
        /// How many.
        attempts: usize,
        /// The system's answer to the last.
        source: io::Error,
    },
    /// A command cannot be run.
    #[error("cannot run `{command}`: iproute2 and util-linux are needed")]
    Run {
        /// Which.
        command: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A command failed.
    #[error("`{command}` failed ({status}): {said}")]
    Failed {
        /// Which.
        command: String,
        /// How.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
}

/// Which network there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// A namespace for each node.
    Namespaces,
    /// A proxy on loopback.
    Proxy,
}

/// What joins the nodes of a cluster, and these with their clients.
pub struct Network {
    links: Arc<Links>,
    joined: Joined,
}

enum Joined {
    ByNamespaces(Namespaces),
    ByProxy(Proxy),
}

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where it listens.
    pub(crate) host: IpAddr,
    /// Where others are told that it listens for clients and nodes, on the same ports.
    pub(crate) told: IpAddr,
    pub(crate) kafka: u16,
    pub(crate) cluster: u16,
    pub(crate) http: u16,
}

impl Network {
    /// For nodes 1 to `count`; packets fare as `seed` says.
    ///
    /// # Errors
    /// Where rights or tools are missing.
    pub async fn new(kind: NetworkKind, count: u32, seed: u64) -> Result<Self, NetworkError> {
        let links = Arc::default();
        let joined = match kind {
            NetworkKind::Namespaces => {
                Joined::ByNamespaces(Namespaces::new(count, &links, seed).await?)
            }
            NetworkKind::Proxy => Joined::ByProxy(Proxy::new(count, &links, seed)?),
        };
        Ok(Self { links, joined })
    }

    pub(crate) fn place(&self, node: u32) -> Place {
        match &self.joined {
            Joined::ByNamespaces(namespaces) => namespaces.place(node),
            Joined::ByProxy(proxy) => proxy.place(node),
        }
    }

    /// What runs a command where a node is.
    #[must_use]
    pub fn entering(&self, node: u32) -> Vec<String> {
        match &self.joined {
            Joined::ByNamespaces(namespaces) => namespaces.entering(node),
            Joined::ByProxy(_) => Vec::new(),
        }
    }

    /// What links do from now on, for each sender and receiver; all others pass everything.
    pub fn set(&self, conditions: BTreeMap<(u32, u32), Conditions>) {
        self.links.set(conditions);
    }

    /// How many packets were passed on, and how many lost; behind a proxy, those between nodes.
    #[must_use]
    pub fn packets(&self) -> (u64, u64) {
        self.links.packets()
    }
}
