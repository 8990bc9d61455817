//! The TCP listener seam: the system's sockets in production, a simulated network in tests.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Accepts connections.
///
/// A test crate implements it for turmoil's listener in three lines; nothing else on the client
/// or operator plane touches a socket.
pub trait Listener: Send + 'static {
    /// An accepted connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

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

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;
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
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted node takes its port back while old connections are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self(tokio::net::TcpListener::from_std(socket.into())?))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        detect_half_open(&stream)?;
        Ok((stream, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
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
