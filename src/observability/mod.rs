//! Metrics, logs and the operator plane's HTTP endpoints.
//!
//! Owns what a node counts ([`Registry`], one per node), what it is ready for ([`Readiness`]), the
//! process's log ([`logging`]) and the server that shows them ([`http`]).
//!
//! Invariants:
//! - What the registry keeps does not grow with traffic: histograms have fixed buckets, and labels
//!   come from closed sets. What is as large as the cluster is read only while it is rendered.
//! - Counting never waits, for a lock or for a reader.
//!
//! It must not know what it shows: whoever has something to show hands it in.
//!
//! References: the Prometheus text format, version 0.0.4.

pub mod http;
pub mod logging;
mod process;
mod readiness;
mod registry;
mod render;
#[cfg(test)]
mod tests;

pub use logging::{InvalidLevel, LogLevel};
pub use process::process_metrics;
pub use readiness::{Condition, Readiness};
pub use registry::Registry;
pub use render::Render;
