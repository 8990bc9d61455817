//! Answers to client requests, one file per family of APIs.
//!
//! A frame is decoded, answered by the function of its API, and encoded. Requests of one connection
//! are started one after the other, as Kafka does it; only what waits (the acknowledgement of a
//! write, a long poll, a rebalance) lets the next one start.
//!
//! State: fetch sessions and a block of producer ids. Everything else is the image, the partitions
//! and the coordinators, which this module only asks.
//!
//! Must not: decide about metadata (the controller does), or touch a file.

mod admin;
mod cluster;
mod configs;
mod context;
mod coordinators;
mod describe;
mod discovery;
mod error;
mod fetch;
mod fetch_session;
pub mod groups;
mod handler;
mod leadership;
mod liveness;
mod log_dirs;
mod offsets;
mod produce;
mod producers;
mod quorum;
mod topics;
mod validate;

pub use context::{Context, ContextParts, Published};
pub use handler::Api;

/// The first of those with the same key each: to ask for the same thing over and over must not
/// multiply the response.
fn each_once<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> impl Iterator<Item = T> {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().filter(move |item| seen.insert(key(item)))
}
