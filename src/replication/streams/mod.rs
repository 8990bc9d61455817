//! Streams between replicas: those that this node opens to the leaders of what it follows
//! ([`Upstream`]), and those that its followers open ([`Downstream`]).
//!
//! A partition belongs to one of [`SHARDS`] streams of either class to its leader's node, so that what
//! is appended to it stays in order, and a slow one delays few others. What catches up from disk has
//! streams of its own.
//!
//! Memory is bounded per peer: by the windows of the transport, one frame that is read and one that is
//! written per stream, and an entry per subscription for what is to be sent.

mod down;
mod up;

pub use self::up::Opener;
pub(super) use self::{
    down::{Downstream, Permit, serve},
    up::{Upstream, Upstreams},
};
use super::wire::WireError;
use crate::transport::StreamError;

/// Streams per class and leader. A few, since each has its flow control and its tasks.
const SHARDS: u32 = 4;

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    /// The other node or the connection ended it.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The other node said what it should not.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The other node closed it.
    #[error("the stream was closed")]
    Closed,
    /// The first frame was another one.
    #[error("the stream does not begin as it should")]
    NotOpened,
    /// It is opened anew, as this process has another registration.
    #[error("this broker has registered anew")]
    Registered,
    /// The other node does not read its answers.
    #[error("the other node does not read the answers to its subscriptions")]
    Unread,
}
