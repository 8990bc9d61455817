//! The TCP listener seam: the system's sockets in production, a simulated network in tests.

use std::{io, net::SocketAddr, time::Duration};
#[cfg(target_os = "linux")]
use std::{os::fd::BorrowedFd, task::Poll};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::stream::SendFile;

/// Accepts connections.
///
/// A test crate implements it for turmoil's listener in three lines; nothing else on the client
/// or operator plane touches a socket.
pub trait Listener: Send + 'static {
    /// An accepted connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// How a stream takes records straight from a file, where it can.
    const SEND_FILE: Option<SendFile<Self::Stream>> = None;

    /// Waits for the next connection. Must be cancel safe.
    ///
    /// # Errors
    /// Where a connection could not be accepted. The listener stays usable: the caller tries
    /// again, after a pause where the system is out of something.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// The address that it listens on, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// Where the system does not say.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// What the system keeps for connections.
#[derive(Debug, Clone, Copy)]
pub struct SocketBuffers {
    /// Bytes on their way to a client: `socket.send.buffer.bytes`. None leaves it to the system.
    pub send_bytes: Option<usize>,
    /// Bytes that a client sent: `socket.receive.buffer.bytes`. None leaves it to the system.
    pub receive_bytes: Option<usize>,
    /// Connections that wait to be accepted: `socket.listen.backlog.size`.
    pub backlog: i32,
}

impl Default for SocketBuffers {
    fn default() -> Self {
        Self { send_bytes: None, receive_bytes: None, backlog: 1024 }
    }
}

/// A silent peer is probed after this long, and given up after `PROBES` unanswered probes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;
/// Sent bytes that stay unacknowledged for this long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// The system's TCP listener.
#[derive(Debug)]
pub struct TcpListener(tokio::net::TcpListener);

impl TcpListener {
    /// Listens on `address`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the address is taken, or not one of this machine.
    pub fn bind(address: SocketAddr, buffers: SocketBuffers) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted node takes its port back while old connections are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // Before it listens: connections take over the buffers, and announce the window, of the
        // socket that accepted them.
        if let Some(bytes) = buffers.send_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = buffers.receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.listen(buffers.backlog)?;
        Ok(Self(tokio::net::TcpListener::from_std(socket.into())?))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    #[cfg(target_os = "linux")]
    const SEND_FILE: Option<SendFile<TcpStream>> = Some(send_file);

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        detect_half_open(&stream)?;
        Ok((stream, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[cfg(target_os = "linux")]
fn send_file(
    stream: &TcpStream,
    cx: &mut std::task::Context<'_>,
    file: BorrowedFd<'_>,
    position: u64,
    length: usize,
) -> Poll<io::Result<usize>> {
    loop {
        std::task::ready!(stream.poll_write_ready(cx))?;
        let sent = stream.try_io(tokio::io::Interest::WRITABLE, || {
            Ok(rustix::fs::sendfile(stream, file, Some(&mut position.clone()), length)?)
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return Poll::Ready(sent),
        }
    }
}

/// Has the system notice a peer that vanished without a word, and send small responses at once.
fn detect_half_open(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive.with_retries(PROBES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}
