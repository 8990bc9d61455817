//! Ottla, a Kafka-compatible, self-managed cluster node.
//!
//! `ARCHITECTURE.md` is the map. Modules import downwards only; the table that says so is held by
//! `tests/architecture.rs`.

pub mod api;
pub mod base;
pub mod cert;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod coordinator;
pub mod group;
pub mod log;
pub mod metadata;
pub mod net;
pub mod node;
pub mod observability;
pub mod protocol;
pub mod quorum;
pub mod replication;
pub mod transport;
