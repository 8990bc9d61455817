//! Writes responses: what is in memory with vectored writes, records straight from their file where
//! the stream can, else through a pooled buffer.
//!
//! `sendfile` takes half the CPU of reading and writing. It would wait for a disk on the
//! connection's task, so what is not in the page cache is read by the blocking pool instead; nor is
//! it worth a system call of its own for a few bytes. A client that does not take its response
//! holds at most [`PROBE_BYTES`] of it in memory once buffers are scarce.

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
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{
    budget::{BUFFER_BYTES, Buffer, Pool},
    frame::{PREFIX_BYTES, Pace},
    handler::{Part, RecordSource, Response},
    stream::Outgoing,
};
use crate::base::{Blocking, BlockingStopped};

/// How much of a response is kept for a slow client when buffers are scarce.
const PROBE_BYTES: usize = 4 << 10;
/// From this size on records are sent from their file.
const SEND_FILE_MIN_BYTES: u64 = 16 << 10;
/// How much of a file is looked up in the page cache, and sent, at a time.
const SEND_FILE_MAX_BYTES: u64 = 128 << 10;
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
pub(super) async fn write_response<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Outgoing<S>,
    response: Response,
    means: &Means,
) -> Result<u64, WriteError> {
    let length = response.len();
    let prefix = i32::try_from(length).map_err(|_| WriteError::TooLarge(length))?.to_be_bytes();
    let started = Instant::now();
    let mut cursor = Cursor::new(prefix, response.into_parts(), stream.sends_files());
    let total = length + PREFIX_BYTES as u64;
    let mut written = 0;
    while written < total {
        if let Some((records, position, length)) = cursor.cached_file() {
            let deadline = means.pace.deadline(started, written);
            let sent = timeout_at(deadline, send(stream, &*records, position, length)).await;
            let sent = sent.map_err(|_| WriteError::TooSlow)??;
            written += sent;
            cursor.position += sent;
            continue;
        }
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

/// Sends up to `length` bytes of records from their file.
async fn send<S>(
    stream: &Outgoing<S>,
    records: &dyn RecordSource,
    position: u64,
    length: usize,
) -> Result<u64, WriteError> {
    let (file, begin) = records.file().expect("Cursor::cached_file looked");
    match stream.send_file(file, begin + position, length).await.map_err(WriteError::Io)? {
        0 => Err(WriteError::Records(io::ErrorKind::UnexpectedEof.into())),
        sent => Ok(sent as u64),
    }
}

/// A place within a response.
struct Cursor {
    parts: Vec<Part>,
    sends_files: bool,
    part: usize,
    /// Within that part.
    position: u64,
}

impl Cursor {
    fn new(prefix: [u8; PREFIX_BYTES], mut parts: Vec<Part>, sends_files: bool) -> Self {
        parts.insert(0, Part::Bytes(Bytes::copy_from_slice(&prefix)));
        Self { parts, sends_files, part: 0, position: 0 }
    }

    /// Moves to `position` within the response and its prefix.
    fn seek(&mut self, position: u64) {
        self.part = 0;
        self.position = position;
        self.skip_done();
    }

    /// The records at this place, where they can be sent from their file: which bytes of them.
    fn cached_file(&mut self) -> Option<(Arc<dyn RecordSource>, u64, usize)> {
        self.skip_done();
        if !self.is_file_next() {
            return None;
        }
        let Part::Records(records) = self.parts.get(self.part)? else { return None };
        let left = records.len() - self.position;
        let length = usize::try_from(left.min(SEND_FILE_MAX_BYTES)).ok()?;
        let cached = records.is_cached(self.position, length);
        cached.then(|| (Arc::clone(records), self.position, length))
    }

    /// Whether enough records are at this place to be sent from their file.
    fn is_file_next(&self) -> bool {
        let Some(Part::Records(records)) = self.parts.get(self.part) else { return false };
        let left = records.len() - self.position;
        self.sends_files && left >= SEND_FILE_MIN_BYTES && records.file().is_some()
    }

    fn skip_done(&mut self) {
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
            self.skip_done();
            let Some(part) = self.parts.get(self.part) else { break };
            let left = part.len() - self.position;
            match part {
                // Sent from its file next, if it can be.
                Part::Records(_) if !step.pieces.is_empty() && self.is_file_next() => break,
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

/// Fills `range` of `buffer`, on this task where no disk is needed.
async fn read(
    records: Arc<dyn RecordSource>,
    position: u64,
    mut buffer: Buffer,
    range: Range<usize>,
    blocking: &Blocking,
) -> Result<Buffer, WriteError> {
    let read = if records.is_cached(position, range.len()) {
        records.read_at(position, &mut buffer[range]).map(|()| buffer)
    } else {
        blocking.run(move || records.read_at(position, &mut buffer[range]).map(|()| buffer)).await?
    };
    read.map_err(WriteError::Records)
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
