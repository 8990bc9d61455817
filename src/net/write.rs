//! Writes responses: what is in memory with vectored writes, records through a pooled buffer.
//!
//! Records go from the page cache to the socket in steps of one buffer. A client that does not
//! take its response holds at most [`PROBE_BYTES`] of it in memory once buffers are scarce.
//!
//! sendfile measured no better than pread and write on a warm page cache, and could serve neither TLS nor the
//! simulated network.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{
    budget::{BUFFER_BYTES, Buffer, Pool},
    frame::{PREFIX_BYTES, Pace},
    handler::{Part, RecordSource, Response},
};
use crate::base::{Blocking, BlockingStopped};

/// How much of a response is kept for a slow client when buffers are scarce.
const PROBE_BYTES: usize = 4 << 10;
/// How many pieces one write takes.
const PIECES: usize = 64;

/// Why a response could not be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("the client does not take its response")]
    TooSlow,
    #[error("a response of {0} bytes does not fit Kafka's protocol")]
    TooLarge(u64),
    #[error("records could not be read: {0}")]
    Records(#[source] io::Error),
    #[error(transparent)]
    Stopped(#[from] BlockingStopped),
    #[error(transparent)]
    Io(io::Error),
}

/// What writing needs besides the stream.
#[derive(Debug, Clone)]
pub(super) struct Means {
    pub(super) pool: Pool,
    pub(super) blocking: Blocking,
    pub(super) pace: Pace,
}

/// Sends `response` with its length prefix, and returns how many bytes that were.
pub(super) async fn write_response<S: AsyncWrite + Unpin>(
    stream: &mut S,
    response: Response,
    means: &Means,
) -> Result<u64, WriteError> {
    let length = response.len();
    let prefix = i32::try_from(length).map_err(|_| WriteError::TooLarge(length))?.to_be_bytes();
    let started = Instant::now();
    let mut cursor = Cursor::new(prefix, response.into_parts());
    let total = length + PREFIX_BYTES as u64;
    let mut written = 0;
    while written < total {
        let mut step = cursor.fill(means).await?;
        while !step.is_done() {
            let deadline = means.pace.deadline(started, written);
            let moved = timeout_at(deadline, step.write(stream, &means.pool)).await;
            match moved.map_err(|_| WriteError::TooSlow)?.map_err(WriteError::Io)? {
                Moved::Bytes(moved) => written += moved as u64,
                Moved::Nothing => {
                    let probe = step.shrink();
                    let left = total - written;
                    debug_assert!(probe as u64 <= left, "the probe is part of the response");
                    cursor.seek(written + probe as u64);
                }
            }
        }
    }
    stream.flush().await.map_err(WriteError::Io)?;
    Ok(total)
}

/// A place within a response.
struct Cursor {
    parts: Vec<Part>,
    part: usize,
    /// Within that part.
    position: u64,
}

impl Cursor {
    fn new(prefix: [u8; PREFIX_BYTES], mut parts: Vec<Part>) -> Self {
        parts.insert(0, Part::Bytes(Bytes::copy_from_slice(&prefix)));
        Self { parts, part: 0, position: 0 }
    }

    /// Moves to `position` within the response and its prefix.
    fn seek(&mut self, position: u64) {
        self.part = 0;
        self.position = position;
        while let Some(part) = self.parts.get(self.part).filter(|part| part.len() <= self.position)
        {
            self.position -= part.len();
            self.part += 1;
        }
    }

    /// Makes the next step ready: as much as one buffer and one vectored write take.
    async fn fill(&mut self, means: &Means) -> Result<Step, WriteError> {
        let mut step = Step::default();
        let mut used = 0;
        while step.pieces.len() < PIECES {
            let Some(part) = self.parts.get(self.part) else { break };
            let left = part.len() - self.position;
            if left == 0 {
                self.part += 1;
                self.position = 0;
                continue;
            }
            match part {
                Part::Bytes(bytes) => {
                    let at = usize::try_from(self.position).expect("within a slice");
                    step.pieces.push_back(Piece::Memory(bytes.slice(at..)));
                    self.position += left;
                }
                Part::Records(records) => {
                    let room = BUFFER_BYTES - used;
                    if room == 0 {
                        break;
                    }
                    let length = usize::try_from(left).map_or(room, |left| left.min(room));
                    let range = used..used + length;
                    let buffer = step.buffer.take().unwrap_or_else(|| means.pool.take());
                    let source = Arc::clone(records);
                    let buffer =
                        read(source, self.position, buffer, range.clone(), &means.blocking).await?;
                    step.buffer = Some(buffer);
                    step.pieces.push_back(Piece::Pooled(range));
                    used += length;
                    self.position += length as u64;
                }
            }
        }
        Ok(step)
    }
}

/// Fills `range` of `buffer`, on this task as far as no disk is needed.
async fn read(
    records: Arc<dyn RecordSource>,
    position: u64,
    mut buffer: Buffer,
    range: Range<usize>,
    blocking: &Blocking,
) -> Result<Buffer, WriteError> {
    let cached = records.read_cached(position, &mut buffer[range.clone()]);
    let cached = cached.map_err(WriteError::Records)?;
    if cached >= range.len() {
        return Ok(buffer);
    }
    let rest = range.start + cached..range.end;
    let job = move || records.read_at(position + cached as u64, &mut buffer[rest]).map(|()| buffer);
    blocking.run(job).await?.map_err(WriteError::Records)
}

enum Piece {
    Memory(Bytes),
    Pooled(Range<usize>),
}

/// What the next writes send.
#[derive(Default)]
struct Step {
    pieces: VecDeque<Piece>,
    buffer: Option<Buffer>,
}

enum Moved {
    Bytes(usize),
    /// The client takes nothing at the moment, and the buffer is needed elsewhere.
    Nothing,
}

impl Step {
    fn is_done(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Writes what the stream takes. Gives up instead of waiting where buffers are scarce.
    async fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        pool: &Pool,
    ) -> io::Result<Moved> {
        let moved = std::future::poll_fn(|cx| {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece.bytes(self.buffer.as_deref()));
                count += 1;
            }
            match Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Pending if self.buffer.is_some() && pool.is_scarce() => {
                    Poll::Ready(io::Result::Ok(Moved::Nothing))
                }
                other => Poll::Ready(Ok(Moved::Bytes(ready!(other)?))),
            }
        });
        let moved = moved.await?;
        match moved {
            Moved::Bytes(0) => Err(io::ErrorKind::WriteZero.into()),
            Moved::Bytes(bytes) => {
                self.advance(bytes);
                Ok(moved)
            }
            Moved::Nothing => Ok(moved),
        }
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let piece = self.pieces.front_mut().expect("no more was written than there was");
            let moved = piece.advance(bytes);
            bytes -= moved;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        if !self.pieces.iter().any(|piece| matches!(piece, Piece::Pooled(_))) {
            self.buffer = None;
        }
    }

    /// Gives the buffer back and keeps a few bytes to try the stream with; returns how many.
    fn shrink(&mut self) -> usize {
        let Some(piece) = self.pieces.front() else { return 0 };
        let bytes = piece.bytes(self.buffer.as_deref());
        let probe = Bytes::copy_from_slice(&bytes[..bytes.len().min(PROBE_BYTES)]);
        let length = probe.len();
        self.pieces.clear();
        self.pieces.push_back(Piece::Memory(probe));
        self.buffer = None;
        length
    }
}

impl Piece {
    fn bytes<'a>(&'a self, buffer: Option<&'a [u8]>) -> &'a [u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Pooled(range) => &buffer.expect("kept while a piece needs it")[range.clone()],
        }
    }

    /// Drops up to `bytes` from the front; returns how many.
    fn advance(&mut self, bytes: usize) -> usize {
        match self {
            Self::Memory(memory) => {
                let moved = bytes.min(memory.len());
                memory.advance(moved);
                moved
            }
            Self::Pooled(range) => {
                let moved = bytes.min(range.len());
                range.start += moved;
                moved
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Memory(bytes) => bytes.is_empty(),
            Self::Pooled(range) => range.is_empty(),
        }
    }
}
