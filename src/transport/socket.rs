//! Where datagrams go: the system's UDP, or a simulation.
//!
//! The only file that knows quinn's traits for sockets.

use std::{
    fmt, io,
    io::IoSliceMut,
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use socket2::{Domain, Protocol, Type};

/// Bytes that the system is asked to hold in either direction, so that a burst of a whole
/// congestion window is not dropped. The system may grant less.
const SYSTEM_BUFFER_BYTES: usize = 4 << 20;

/// A UDP socket.
#[derive(Clone)]
pub struct Socket(Arc<dyn AsyncUdpSocket>);

/// A UDP socket that is not the system's.
pub trait Datagrams: fmt::Debug + Send + Sync + 'static {
    /// Sends a datagram at once, or loses it; never waits.
    fn send(&self, to: SocketAddr, datagram: &[u8]);

    /// Receives a datagram into `buffer`. Called by one task only.
    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>>;

    /// Where it is bound.
    ///
    /// # Errors
    /// As the system's socket has them.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Socket {
    /// A socket of the system. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the address cannot be had.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket =
            socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // The buffers are a wish: net.core.rmem_max and wmem_max decide.
        let _ = socket.set_recv_buffer_size(SYSTEM_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SYSTEM_BUFFER_BYTES);
        socket.bind(&address.into())?;
        Ok(Self(TokioRuntime.wrap_udp_socket(UdpSocket::from(socket))?))
    }

    /// A socket of a simulation.
    #[must_use]
    pub fn simulated(datagrams: impl Datagrams) -> Self {
        Self(Arc::new(Simulated(datagrams)))
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    pub(super) fn into_quinn(self) -> Arc<dyn AsyncUdpSocket> {
        self.0
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.0.local_addr().ok()).finish()
    }
}

#[derive(Debug)]
struct Simulated<D>(D);

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl<D: Datagrams> AsyncUdpSocket for Simulated<D> {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(size) {
            self.0.send(transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (len, addr) = ready!(self.0.poll_receive(cx, &mut buffers[0]))?;
        meta[0] = RecvMeta { addr, len, stride: len.max(1), ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
