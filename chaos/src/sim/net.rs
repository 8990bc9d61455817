//! The simulated network behind the node's and the client's seams.

use std::{io, net::SocketAddr};

use futures::future::BoxFuture;
use ottla::{
    client::{Connect, Stream},
    net::Listener,
};
use turmoil::net::{TcpListener, TcpStream};

/// A listener of a simulated host.
pub struct SimListener(TcpListener);

impl SimListener {
    /// Listens on all of the host's addresses. Must be called on a simulated host.
    ///
    /// # Errors
    /// Where the port is taken.
    pub async fn bind(port: u16) -> io::Result<Self> {
        Ok(Self(TcpListener::bind(("0.0.0.0", port)).await?))
    }
}

impl Listener for SimListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Connects simulated hosts.
#[derive(Debug, Clone, Copy)]
pub struct SimConnect;

impl Connect for SimConnect {
    fn connect<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect((host, port)).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}
