//! A deterministic simulation of the metadata quorum.
//!
//! One seed gives one run: the production core, over a heap of events in virtual time, with stores
//! that lose unsynced writes at a crash and a network that loses, delays, doubles, reorders and cuts
//! one way. After every event [`check::Checker`] holds the run against the promises of Raft; at the
//! end everything heals, and the cluster must agree and make progress.
//!
//! Nothing here reads a clock or draws a random number that does not come from the seed.

pub mod check;
mod kv;
mod network;
mod node;
pub mod sim;

pub use sim::{Options, Outcome, run};
