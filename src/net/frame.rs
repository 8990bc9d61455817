//! Reads length-prefixed requests off a stream.
//!
//! State: the bytes of the request that is arriving. A connection that waits for its next request
//! owns no buffer: the first bytes land on the stack of the poll that finds them. A buffer grows
//! with the bytes that arrived, never to a length that was only claimed.

use std::{io, mem::MaybeUninit, pin::Pin, time::Duration};

use bytes::{BufMut, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    time::Instant,
};

use super::{
    budget::{Budget, Reservation},
    handler::Frame,
};

/// The length prefix.
pub(super) const PREFIX_BYTES: usize = 4;
/// What one read into the stack takes at most.
const FIRST_READ_BYTES: usize = 8 << 10;
/// The least buffer for a request that is larger than that,
const FIRST_BUFFER_BYTES: usize = 64 << 10;
/// and how much of the request must have arrived before it gets one: the four bytes of a length
/// are none.
const BUFFER_AFTER_BYTES: usize = FIRST_READ_BYTES / 2;

/// Why a connection cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The client closed it between two requests.
    #[error("closed by the client")]
    Closed,
    /// The client closed it within a request.
    #[error("closed by the client within a request")]
    Truncated,
    /// The length prefix is not that of a Kafka request.
    #[error("a request claims {length} bytes, the limit is {limit}; {}", likely_cause(*prefix))]
    Length {
        /// As claimed.
        length: i32,
        /// `socket.request.max.bytes`.
        limit: usize,
        /// The bytes that the length was read from.
        prefix: [u8; PREFIX_BYTES],
    },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a sender of these first bytes probably took this port for.
fn likely_cause(prefix: [u8; PREFIX_BYTES]) -> &'static str {
    match &prefix {
        [0x14..=0x17, 3, 0..=4, _] => "it looks like TLS sent to a plaintext port",
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"OPTI" | b"DELE" | b"PATC" | b"CONN" | b"PRI " => {
            "it looks like HTTP sent to a Kafka port"
        }
        b"SSH-" => "it looks like SSH sent to a Kafka port",
        _ => "it is not Kafka's protocol, or socket.request.max.bytes is too small for it",
    }
}

/// The pace that a client must keep while a request or a response is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Time that is granted regardless of size.
    pub(super) grace: Duration,
    /// The least bytes per second beyond that.
    pub(super) bytes_per_second: u32,
}

impl Pace {
    /// When a transfer that began at `started` and has moved `bytes` must have moved further.
    pub(super) fn deadline(self, started: Instant, bytes: u64) -> Instant {
        let earned = Duration::from_millis(bytes * 1000 / u64::from(self.bytes_per_second.max(1)));
        started + self.grace + earned
    }
}

/// Cuts a stream into requests.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: BytesMut,
    reservation: Reservation,
    /// When the first byte of the request in `buffer` arrived, later by the time that was spent
    /// waiting for memory, which is not the client's fault.
    started: Option<Instant>,
    waits_since: Option<Instant>,
    last_read: Option<Instant>,
}

/// How far a request has arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial {
    /// When it began.
    pub(super) started: Instant,
    /// When its newest bytes arrived.
    pub(super) last_read: Instant,
    /// How many bytes there are.
    pub(super) bytes: u64,
}

impl FrameReader {
    /// Whether it is the node's memory that the request waits for, and not the client.
    pub(super) fn waits_for_memory(&self) -> bool {
        self.waits_since.is_some()
    }

    /// The request that is arriving, if any of it is here.
    pub(super) fn partial(&self) -> Option<Partial> {
        let started = self.started?;
        let last_read = self.last_read.unwrap_or(started).max(started);
        Some(Partial { started, last_read, bytes: self.buffer.len() as u64 })
    }

    /// Waits for the next request. `None` once the first bytes of one are here but not all of it:
    /// from then on it has a deadline, see [`Self::partial`]. Cancel safe.
    pub(super) async fn next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        limit: usize,
        budget: &Budget,
    ) -> Result<Option<(Frame, Reservation)>, ReadError> {
        let was_idle = self.started.is_none();
        loop {
            let claimed = self.claimed(limit)?;
            match claimed {
                Some(length) if self.buffer.len() >= PREFIX_BYTES + length => {
                    self.reserve(budget, length).await;
                    return Ok(Some(self.take(length)));
                }
                _ if was_idle && self.started.is_some() => return Ok(None),
                Some(length)
                    if PREFIX_BYTES + length > FIRST_READ_BYTES
                        && self.buffer.len() >= BUFFER_AFTER_BYTES =>
                {
                    self.read_large(stream, PREFIX_BYTES + length, budget).await?;
                }
                _ => self.read_small(stream).await?,
            }
        }
    }

    fn claimed(&self, limit: usize) -> Result<Option<usize>, ReadError> {
        let Some(&prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes(prefix);
        match usize::try_from(length) {
            Ok(claimed) if claimed <= limit => Ok(Some(claimed)),
            _ => Err(ReadError::Length { length, limit, prefix }),
        }
    }

    fn take(&mut self, length: usize) -> (Frame, Reservation) {
        let now = Instant::now();
        let mut payload = self.buffer.split_to(PREFIX_BYTES + length);
        let _prefix = payload.split_to(PREFIX_BYTES);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.started = None;
        } else {
            self.started = Some(now);
        }
        let frame = Frame { payload: payload.freeze(), received_at: now };
        (frame, std::mem::take(&mut self.reservation))
    }

    async fn reserve(&mut self, budget: &Budget, bytes: usize) {
        self.waits_since.get_or_insert_with(Instant::now);
        budget.grow(&mut self.reservation, bytes).await;
        if let (Some(since), Some(started)) = (self.waits_since.take(), &mut self.started) {
            *started += since.elapsed();
        }
    }

    /// Reads what is there, by way of the stack.
    async fn read_small<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<(), ReadError> {
        let read = std::future::poll_fn(|cx| {
            let mut space = [MaybeUninit::<u8>::uninit(); FIRST_READ_BYTES];
            let mut space = ReadBuf::uninit(&mut space);
            std::task::ready!(Pin::new(&mut *stream).poll_read(cx, &mut space))?;
            self.buffer.extend_from_slice(space.filled());
            std::task::Poll::Ready(io::Result::Ok(space.filled().len()))
        });
        let read = read.await?;
        self.arrived(read)
    }

    /// Reads the rest of a request of `total` bytes with its prefix, straight into its buffer.
    async fn read_large<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        total: usize,
        budget: &Budget,
    ) -> Result<(), ReadError> {
        if self.buffer.len() == self.buffer.capacity() || self.buffer.len() <= FIRST_READ_BYTES {
            let capacity = total.min(FIRST_BUFFER_BYTES.max(4 * self.buffer.len()));
            self.reserve(budget, capacity).await;
            // Not `reserve`, which may take twice as much.
            let mut grown = BytesMut::with_capacity(capacity);
            grown.extend_from_slice(&self.buffer);
            self.buffer = grown;
        }
        let room = self.buffer.capacity().min(total) - self.buffer.len();
        let read = stream.read_buf(&mut (&mut self.buffer).limit(room)).await?;
        self.arrived(read)
    }

    fn arrived(&mut self, read: usize) -> Result<(), ReadError> {
        if read == 0 {
            let within = self.started.is_some();
            return Err(if within { ReadError::Truncated } else { ReadError::Closed });
        }
        let now = Instant::now();
        self.started.get_or_insert(now);
        self.last_read = Some(now);
        Ok(())
    }
}
