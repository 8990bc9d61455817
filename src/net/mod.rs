//! The client plane's listeners and connections.
//!
//! Owns the sockets and the bytes on them: framing, order of responses, limits, backpressure. It
//! knows requests as frames and responses as parts; what they mean is the [`Handler`]'s.
//!
//! Invariants:
//! - Requests of a connection are started, and answered, in the order in which they arrived.
//! - Memory is bounded: requests by `request_memory_bytes` plus the largest request, records under
//!   way by the pool of buffers plus 4 KiB per slow client, pipelines by `max_in_flight_requests`.
//! - No client holds anything for ever: every wait for one has a deadline.
//!
//! It must not decode requests beyond their API key, nor read files except through
//! [`RecordSource`].

mod admission;
mod budget;
mod connection;
mod frame;
mod handler;
mod listener;
mod metrics;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod write;

use std::{net::IpAddr, time::Duration};

pub use budget::RequestMemory;
pub use handler::{
    CloseReason, Connection, Frame, Handler, Part, RecordSource, Reply, Response, Started,
};
pub use listener::{Listener, SocketBuffers, TcpListener};
pub use server::Server;
pub use stream::SendFile;

use crate::base::HashMap;

/// What clients may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest request: `socket.request.max.bytes`.
    pub request_max_bytes: usize,
    /// What all listeners together accept. What is beyond waits.
    pub acceptance: Acceptance,
    /// What single listeners accept, by their names, where that is less.
    pub by_listener: HashMap<String, Acceptance>,
    /// The most connections from one address: `max.connections.per.ip`. Further ones are closed.
    pub max_connections_per_ip: usize,
    /// The same for certain addresses: `max.connections.per.ip.overrides`.
    pub max_connections_per_ip_overrides: HashMap<IpAddr, usize>,
    /// How long a connection may do nothing: `connections.max.idle.ms`.
    pub max_idle: Duration,
    /// The requests of one connection that may be under way.
    pub max_in_flight_requests: usize,
    /// The bytes of requests in memory, as they came and decoded, of all connections:
    /// `queued.max.request.bytes`, which Kafka leaves unbounded by default.
    pub request_memory_bytes: usize,
    /// Buffers of 128 KiB that are kept for records under way.
    pub record_buffers: usize,
    /// A request or response under way may take this long,
    pub progress_timeout: Duration,
    /// and longer by as much as its bytes at this rate.
    pub min_bytes_per_second: u32,
}

/// How many connections may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceptance {
    /// At once: `max.connections`.
    pub max_connections: usize,
    /// In a second: `max.connection.creation.rate`.
    pub creation_rate: u32,
}

impl Default for Acceptance {
    /// Any number.
    fn default() -> Self {
        Self { max_connections: i32::MAX as usize, creation_rate: i32::MAX as u32 }
    }
}

impl Limits {
    /// What a listener accepts by itself.
    fn of_listener(&self, name: &str) -> Acceptance {
        self.by_listener.get(name).copied().unwrap_or_default()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_max_bytes: 100 << 20,
            acceptance: Acceptance::default(),
            by_listener: HashMap::default(),
            max_connections_per_ip: i32::MAX as usize,
            max_connections_per_ip_overrides: HashMap::default(),
            max_idle: Duration::from_secs(600),
            max_in_flight_requests: 64,
            request_memory_bytes: 256 << 20,
            record_buffers: 64,
            progress_timeout: Duration::from_secs(30),
            min_bytes_per_second: 4 << 10,
        }
    }
}
