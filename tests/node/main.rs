//! Whole nodes on loopback over a simulated disk, which outlives them and fails when it is told to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod compaction;
mod faults;
mod machine;
mod moves;
mod observation;
#[path = "../common/wait.rs"]
mod wait;
