//! Finds the addresses behind names.

use std::{fmt, io, net::SocketAddr};

use futures::future::BoxFuture;

/// Finds the addresses behind names. Asked at every attempt to connect.
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `host`, which may be an address itself, best first.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// Asks the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}
