//! The seam between connections and what answers their requests.
//!
//! A request is handled in two stages. [`Handler::start`] does what must happen in the order in
//! which the client sent its requests; what may take longer and need not hold up the next request
//! is handed back as a [`Started::Later`]. Responses leave in the order of their requests all the
//! same.

use std::{fmt, io, net::SocketAddr, os::fd::BorrowedFd, sync::Arc};

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::budget::RequestMemory;

/// Answers the requests of client connections.
pub trait Handler: Send + Sync + 'static {
    /// What the handler remembers about one connection. Dropped when the connection ends.
    type Session: Send + Sync + 'static;

    /// A connection has been accepted.
    fn open(&self, connection: Connection) -> Self::Session;

    /// Starts to handle `request`.
    ///
    /// The next request of the same connection is started only after this returns: what a client
    /// may rely on to happen in order (an append, a commit, the creation of a topic) belongs here.
    /// Waiting for something that later requests need not wait for (a flush, the high watermark,
    /// a long poll, a rebalance) belongs into the future of a [`Started::Later`]. At most
    /// [`Limits::max_in_flight_requests`](super::Limits) of those wait per connection; then the
    /// connection is not read.
    ///
    /// `memory` is what the request has taken of the memory that all requests share. Whatever
    /// takes more in proportion to what the client sent asks there first.
    ///
    /// May be dropped at any `await`, and so may the future of a `Later`: when the connection
    /// fails, when the client closes it, or at the end of a shutdown.
    fn start(
        &self,
        session: &Self::Session,
        request: Frame,
        memory: &mut RequestMemory,
    ) -> impl Future<Output = Started> + Send;
}

/// How a request was started.
pub enum Started {
    /// It is done.
    Now(Reply),
    /// It waits for something. All such futures of a connection are polled side by side.
    Later(BoxFuture<'static, Reply>),
}

impl Started {
    /// Completed later, by `future`.
    pub fn later(future: impl Future<Output = Reply> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl From<Reply> for Started {
    fn from(reply: Reply) -> Self {
        Self::Now(reply)
    }
}

impl From<Response> for Started {
    fn from(response: Response) -> Self {
        Self::Now(Reply::Send(response))
    }
}

/// What happens to the connection once a request is done.
#[derive(Debug)]
pub enum Reply {
    /// The client gets a response.
    Send(Response),
    /// The client gets none: Produce with `acks=0`.
    Silent,
    /// The connection is closed, after the responses to earlier requests have been sent.
    Close(CloseReason),
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self::Send(response)
    }
}

/// Why a handler closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The request does not follow the protocol.
    #[error("the request is malformed")]
    MalformedRequest,
    /// The API or version is one that cannot be answered.
    #[error("the request's API or version is not supported")]
    UnsupportedRequest,
    /// A Produce with `acks=0` failed, which the client can learn in no other way.
    #[error("a produce request with acks=0 failed")]
    UnacknowledgedFailure,
    /// The client failed to authenticate, or did not.
    #[error("authentication failed")]
    NotAuthenticated,
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The handler could not encode its own answer.
    #[error("the response could not be encoded")]
    UnencodableResponse,
}

/// A connection as its handler sees it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Unique within the process.
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that the client reached.
    pub local: SocketAddr,
    /// The name of the listener, as in `listeners`.
    pub listener: Arc<str>,
}

/// One request as it arrived, without its length prefix.
#[derive(Debug)]
pub struct Frame {
    /// The request's header and body.
    pub payload: Bytes,
    /// When its last byte arrived.
    pub received_at: Instant,
}

impl Frame {
    /// The API key that the header starts with.
    #[must_use]
    pub fn api_key(&self) -> Option<i16> {
        self.payload.get(..2).map(|mut key| key.get_i16())
    }

    /// The version of the API.
    #[must_use]
    pub fn api_version(&self) -> Option<i16> {
        self.payload.get(2..4).map(|mut version| version.get_i16())
    }

    /// The number that the response must repeat.
    #[must_use]
    pub fn correlation_id(&self) -> Option<i32> {
        self.payload.get(4..8).map(|mut id| id.get_i32())
    }
}

/// Records that are somewhere else, usually in a file, and go to the socket unread.
pub trait RecordSource: Send + Sync + 'static {
    /// How many bytes they are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `position` on, which may block.
    ///
    /// # Errors
    /// Where the bytes cannot be read, `UnexpectedEof` where they are no longer there.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Whether `length` bytes from `position` on are in memory, so that reading or sending them
    /// does not wait for a disk. A guess: pages may be evicted at any time.
    fn is_cached(&self, position: u64, length: usize) -> bool;

    /// The file that they lie in one after the other, and where they begin, if they do.
    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }
}

/// A piece of a response.
#[derive(Clone)]
pub enum Part {
    /// Encoded bytes.
    Bytes(Bytes),
    /// Records, read while they are sent.
    Records(Arc<dyn RecordSource>),
}

impl Part {
    /// How many bytes it puts on the wire.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Records(records) => records.len(),
        }
    }

    /// Whether it puts nothing on the wire.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Bytes(_)) { "Bytes" } else { "Records" };
        write!(f, "{kind}({})", self.len())
    }
}

/// A response: its header and body, without the length prefix, which the connection adds.
#[derive(Debug, Clone, Default)]
pub struct Response {
    parts: Vec<Part>,
}

impl Response {
    /// A response that consists of `parts`, in order.
    #[must_use]
    pub fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// How many bytes follow the length prefix.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.parts.iter().map(Part::len).sum()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        self.parts
    }
}

impl From<Bytes> for Response {
    fn from(bytes: Bytes) -> Self {
        Self::new(vec![Part::Bytes(bytes)])
    }
}
