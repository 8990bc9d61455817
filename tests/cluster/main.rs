//! Whole nodes that form a cluster, in one process, over loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod formation;
mod machine;
mod members;
mod recovery;
