//! Streams: bytes, or frames of a `u32` length (big-endian) and as many bytes.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    MessageClass, PeerInfo, StreamClass,
    error::{StreamCode, StreamError},
    hello::Lane,
};

/// The first byte of every stream but a connection's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Messages(MessageClass),
    Request,
    Stream(StreamClass),
}

impl Class {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Messages(MessageClass::Urgent) => 1,
            Self::Messages(MessageClass::Log) => 2,
            Self::Request => 3,
            Self::Stream(StreamClass::Snapshot) => 4,
            Self::Stream(StreamClass::Replica) => 5,
            Self::Stream(StreamClass::CatchUp) => 6,
        }
    }

    /// The class of a stream on `lane`, if that lane has such streams.
    pub(super) const fn of(byte: u8, lane: Lane) -> Option<Self> {
        match (lane, byte) {
            (Lane::Control, 1) => Some(Self::Messages(MessageClass::Urgent)),
            (Lane::Control, 2) => Some(Self::Messages(MessageClass::Log)),
            (Lane::Control, 3) => Some(Self::Request),
            (Lane::Bulk, 4) => Some(Self::Stream(StreamClass::Snapshot)),
            (Lane::Bulk, 5) => Some(Self::Stream(StreamClass::Replica)),
            (Lane::Bulk, 6) => Some(Self::Stream(StreamClass::CatchUp)),
            _ => None,
        }
    }

    /// Which stream of a connection goes first: the one with the higher number.
    pub(super) const fn priority(self) -> i32 {
        match self {
            Self::Messages(MessageClass::Urgent) | Self::Stream(StreamClass::Replica) => 2,
            Self::Messages(MessageClass::Log) | Self::Stream(StreamClass::CatchUp) => 1,
            Self::Request | Self::Stream(StreamClass::Snapshot) => 0,
        }
    }
}

/// Both directions of a stream with a peer.
#[derive(Debug)]
pub struct Stream {
    /// Who is at the other end.
    pub peer: Arc<PeerInfo>,
    /// What this side writes.
    pub sender: StreamSender,
    /// What the other side writes.
    pub receiver: StreamReceiver,
}

/// The writing side. Dropped without [`StreamSender::finish`], the peer sees it cancelled, not
/// ended.
#[derive(Debug)]
pub struct StreamSender {
    stream: quinn::SendStream,
    finished: bool,
}

impl StreamSender {
    pub(super) const fn new(stream: quinn::SendStream) -> Self {
        Self { stream, finished: false }
    }

    /// Writes all of `parts`, without copying them; they are empty afterwards. Waits while the peer
    /// reads slower.
    ///
    /// # Errors
    /// Where the peer or the connection ended it.
    pub async fn write(&mut self, parts: &mut [Bytes]) -> Result<(), StreamError> {
        // quinn waits for ever for room for an empty part.
        for run in parts.split_mut(Bytes::is_empty).filter(|run| !run.is_empty()) {
            self.stream.write_all_chunks(run).await?;
        }
        Ok(())
    }

    /// Writes `parts` as one frame.
    ///
    /// # Errors
    /// Where the frame is too large for its length, or the peer or the connection ended it.
    pub async fn write_frame(&mut self, parts: &mut [Bytes]) -> Result<(), StreamError> {
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        let length = u32::try_from(bytes).map_err(|_| StreamError::TooLarge(u32::MAX as usize))?;
        self.stream.write_all(&length.to_be_bytes()).await?;
        self.write(parts).await
    }

    /// Says that all is written. What was written is delivered all the same.
    pub fn finish(&mut self) {
        self.finished = true;
        // Fails only where the peer has stopped it, which is as good.
        let _ = self.stream.finish();
    }

    /// Waits until the peer has acknowledged everything, or does not want it.
    ///
    /// # Errors
    /// Where the peer stopped reading, or the connection was lost.
    pub async fn acknowledged(&mut self) -> Result<(), StreamError> {
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(StreamError::of_code(code)),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(error.into()),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(StreamError::Closed),
        }
    }

    pub(super) fn set_priority(&self, priority: i32) {
        // Fails only where the peer has stopped it already.
        let _ = self.stream.set_priority(priority);
    }

    pub(super) fn reset(&mut self, code: StreamCode) {
        self.finished = true;
        let _ = self.stream.reset(code.code());
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        if !self.finished {
            self.reset(StreamCode::Cancelled);
        }
    }
}

/// The reading side. Dropped, it tells the peer to stop.
#[derive(Debug)]
pub struct StreamReceiver {
    stream: quinn::RecvStream,
    /// What was read, but not handed out.
    buffer: BytesMut,
}

const LENGTH_BYTES: usize = 4;
/// The most that one read takes.
const READ_MAX_BYTES: usize = 256 << 10;

impl StreamReceiver {
    pub(super) fn new(stream: quinn::RecvStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// Some bytes, at most `max_bytes`; `None` at the end.
    ///
    /// # Errors
    /// Where the peer or the connection ended it.
    pub async fn read(&mut self, max_bytes: usize) -> Result<Option<Bytes>, StreamError> {
        if !self.buffer.is_empty() {
            let bytes = self.buffer.len().min(max_bytes);
            return Ok(Some(self.buffer.split_to(bytes).freeze()));
        }
        Ok(self.stream.read_chunk(max_bytes, true).await?.map(|chunk| chunk.bytes))
    }

    /// The next frame, of at most `max_bytes`; `None` at the end. The buffer grows with what
    /// arrives, not with what the length claims.
    ///
    /// # Errors
    /// Where the frame is too large or cut off, or the peer or the connection ended it.
    pub async fn read_frame(&mut self, max_bytes: usize) -> Result<Option<Bytes>, StreamError> {
        while self.buffer.len() < LENGTH_BYTES {
            if !self.fill().await? {
                return self.buffer.is_empty().then_some(None).ok_or(StreamError::Truncated);
            }
        }
        let bytes = usize::try_from(self.buffer.get_u32()).unwrap_or(usize::MAX);
        if bytes > max_bytes {
            return Err(StreamError::TooLarge(max_bytes));
        }
        while self.buffer.len() < bytes {
            if !self.fill().await? {
                return Err(StreamError::Truncated);
            }
        }
        Ok(Some(self.buffer.split_to(bytes).freeze()))
    }

    /// Reads more into the buffer; false at the end.
    async fn fill(&mut self) -> Result<bool, StreamError> {
        let chunk = self.stream.read_chunk(READ_MAX_BYTES, true).await?;
        if let Some(chunk) = &chunk {
            self.buffer.extend_from_slice(&chunk.bytes);
        }
        Ok(chunk.is_some())
    }

    pub(super) fn stop(&mut self, code: StreamCode) {
        // Fails only where it has ended already.
        let _ = self.stream.stop(code.code());
    }
}
