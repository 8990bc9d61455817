//! Frames on a TCP connection: four bytes of length, big-endian, and as many bytes of message.
//!
//! [`Decoder`] does no I/O: its user reads into a buffer and asks what there is. The buffer grows
//! with what arrives and never by the length that was announced.

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How long the length field is.
pub const LENGTH_BYTES: usize = 4;
/// The least and the most that a buffer is extended by at a time.
const GROWTH_BYTES: std::ops::RangeInclusive<usize> = 4 * 1024..=1024 * 1024;

/// A frame that cannot be taken. The connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit, such as `socket.request.max.bytes`.
    #[error("a frame of {length} bytes is larger than the limit of {limit}")]
    TooLarge { length: usize, limit: usize },
    /// The length is negative.
    #[error("a frame cannot be {0} bytes long")]
    Negative(i32),
    /// The connection ended within a frame.
    #[error("the connection ended after {received} of {expected} bytes of a frame")]
    Cut { received: usize, expected: usize },
    /// The connection failed.
    #[error("cannot read a frame")]
    Io(#[from] std::io::Error),
}

/// Finds frames in what arrives on a connection.
///
/// Call [`length`](Self::length) after each read; once it returns a length, memory for that many
/// bytes can be accounted for; then call [`frame`](Self::frame) after each read until it returns
/// the frame. [`wanted`](Self::wanted) says by how much to extend the buffer for the next read.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    length: Option<usize>,
}

impl Decoder {
    /// A decoder that refuses frames of more than `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, length: None }
    }

    /// The current frame's length, once its length field has arrived; it is then off `buffer`.
    ///
    /// # Errors
    /// Where the length is negative or above the limit.
    pub fn length(&mut self, buffer: &mut BytesMut) -> Result<Option<usize>, FrameError> {
        if self.length.is_none() {
            let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
            let length = i32::from_be_bytes(*length);
            let length = usize::try_from(length).map_err(|_| FrameError::Negative(length))?;
            if length > self.limit {
                return Err(FrameError::TooLarge { length, limit: self.limit });
            }
            buffer.advance(LENGTH_BYTES);
            self.length = Some(length);
        }
        Ok(self.length)
    }

    /// The current frame without its length, once it is whole; it is then off `buffer`.
    pub fn frame(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        let length = self.length?;
        if buffer.len() < length {
            return None;
        }
        self.length = None;
        Some(buffer.split_to(length).freeze())
    }

    /// By how many bytes to extend `buffer` for the next read: towards the rest of the frame, at
    /// most doubling what has arrived.
    #[must_use]
    pub fn wanted(&self, buffer: &BytesMut) -> usize {
        let arrived = buffer.len().clamp(*GROWTH_BYTES.start(), *GROWTH_BYTES.end());
        match self.length {
            None => *GROWTH_BYTES.start(),
            Some(length) => length.saturating_sub(buffer.len()).clamp(1, arrived),
        }
    }

    /// Why a connection that ended is an error, given what is left in `buffer`; nothing where it
    /// ended between frames.
    ///
    /// # Errors
    /// [`FrameError::Cut`].
    pub fn end(&self, buffer: &BytesMut) -> Result<(), FrameError> {
        match self.length {
            None if buffer.is_empty() => Ok(()),
            None => Err(FrameError::Cut { received: buffer.len(), expected: LENGTH_BYTES }),
            Some(expected) => Err(FrameError::Cut { received: buffer.len(), expected }),
        }
    }

    /// Reads the next frame; `None` where the connection ended between frames.
    ///
    /// Can be dropped and called again with the same `buffer`: nothing is lost.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub async fn read<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        buffer: &mut BytesMut,
    ) -> Result<Option<Bytes>, FrameError> {
        loop {
            if self.length(buffer)?.is_some()
                && let Some(frame) = self.frame(buffer)
            {
                return Ok(Some(frame));
            }
            buffer.reserve(self.wanted(buffer));
            if reader.read_buf(buffer).await? == 0 {
                self.end(buffer)?;
                return Ok(None);
            }
        }
    }
}

/// Appends an unsigned varint, as flexible versions write lengths and counts.
pub(crate) fn put_uvarint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_out_as_they_went_in_however_they_arrive() {
        let frames: [&[u8]; 4] = [b"", b"a", &[7; 100_000], b"end"];
        let mut wire = Vec::new();
        for frame in frames {
            wire.extend_from_slice(&(frame.len() as i32).to_be_bytes());
            wire.extend_from_slice(frame);
        }
        for step in [1, 3, 4096, wire.len()] {
            let mut reader = tokio_test_reader(&wire, step);
            let (mut decoder, mut buffer) = (Decoder::new(100_000), BytesMut::new());
            for frame in frames {
                let read = decoder.read(&mut reader, &mut buffer).await.unwrap();
                assert_eq!(read.as_deref(), Some(frame));
            }
            assert!(decoder.read(&mut reader, &mut buffer).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn an_announced_gigabyte_reserves_next_to_nothing() {
        let wire = i32::MAX.to_be_bytes();
        let (mut decoder, mut buffer) = (Decoder::new(usize::MAX), BytesMut::new());
        let error = decoder.read(&mut &wire[..], &mut buffer).await.unwrap_err();
        assert!(matches!(error, FrameError::Cut { received: 0, .. }), "{error}");
        assert!(buffer.capacity() < 64 * 1024, "{}", buffer.capacity());
    }

    #[tokio::test]
    async fn lengths_outside_of_the_limit_are_refused() {
        for (length, limit) in [(-1, 10), (i32::MIN, 10), (11, 10), (i32::MAX, 100 << 20)] {
            let wire = length.to_be_bytes();
            let mut decoder = Decoder::new(limit);
            let result = decoder.read(&mut &wire[..], &mut BytesMut::new()).await;
            assert!(
                matches!(result, Err(FrameError::TooLarge { .. } | FrameError::Negative(_))),
                "{length}: {result:?}"
            );
        }
    }

    /// Hands out at most `step` bytes at a time.
    fn tokio_test_reader(wire: &[u8], step: usize) -> impl AsyncRead + Unpin {
        struct Steps(std::collections::VecDeque<u8>, usize);
        impl AsyncRead for Steps {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                out: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                let length = self.1.min(out.remaining()).min(self.0.len());
                let bytes: Vec<u8> = self.0.drain(..length).collect();
                out.put_slice(&bytes);
                std::task::Poll::Ready(Ok(()))
            }
        }
        Steps(wire.iter().copied().collect(), step)
    }
}
