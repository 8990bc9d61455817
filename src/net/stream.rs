//! A connection's stream in two halves, of which the outgoing one may take records straight from
//! their file.
//!
//! Both halves live in one task, so the lock between them is never waited for.

use std::{
    io::{self, IoSlice},
    os::fd::BorrowedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Moves up to a number of bytes of a file, from a position on, to the stream: `sendfile(2)`.
/// Returns how many, 0 where the file ends. Waits as a write does.
pub type SendFile<S> =
    fn(&S, &mut Context<'_>, BorrowedFd<'_>, u64, usize) -> Poll<io::Result<usize>>;

/// Reads.
#[derive(Debug)]
pub(super) struct Incoming<S>(Arc<Mutex<S>>);

/// Writes.
#[derive(Debug)]
pub(super) struct Outgoing<S> {
    stream: Arc<Mutex<S>>,
    send_file: Option<SendFile<S>>,
}

pub(super) fn split<S>(stream: S, send_file: Option<SendFile<S>>) -> (Incoming<S>, Outgoing<S>) {
    let stream = Arc::new(Mutex::new(stream));
    (Incoming(Arc::clone(&stream)), Outgoing { stream, send_file })
}

impl<S> Outgoing<S> {
    pub(super) const fn sends_files(&self) -> bool {
        self.send_file.is_some()
    }

    /// See [`SendFile`].
    pub(super) async fn send_file(
        &self,
        file: BorrowedFd<'_>,
        position: u64,
        length: usize,
    ) -> io::Result<usize> {
        let Some(send) = self.send_file else { return Err(io::ErrorKind::Unsupported.into()) };
        std::future::poll_fn(|cx| send(&self.stream.lock(), cx, file, position, length)).await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Incoming<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Outgoing<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.lock()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.lock()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.lock().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.lock()).poll_shutdown(cx)
    }
}
