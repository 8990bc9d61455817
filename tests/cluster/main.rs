//! Whole nodes that form a cluster, in one process, over loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod balancer;
mod directories;
mod formation;
mod machine;
mod members;
mod planned_stop;
mod reassign;
mod recovery;
mod replication;
mod suspicion;
mod throttle;
#[path = "../common/wait.rs"]
mod wait;
