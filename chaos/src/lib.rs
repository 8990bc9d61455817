//! Breaks Ottla nodes and checks that nothing they acknowledged is lost, doubled or moved.
//!
//! - [`history`]: what was sent, acknowledged and read, and the rules it is held to.
//! - [`sim`]: a whole node in a simulated network, on simulated disks, in virtual time. Equal seeds
//!   give equal runs, to the packet.
//! - [`live`]: a real process that is killed again and again.
//! - [`quorum`]: real processes of a cluster, whose leader is killed or paused, or whose voters change.
//!
//! Loads of records are written with the project's own idempotent producer and `acks=all`: none of its
//! deliveries may fail in a run, as every outage is shorter than its delivery timeout.

pub mod history;
pub mod live;
pub mod load;
pub mod quorum;
pub mod sim;
