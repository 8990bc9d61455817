//! Breaks Ottla nodes and checks that nothing they acknowledged is lost, doubled or moved.
//!
//! - [`history`]: what clients did and what they were told.
//! - [`mod@check`]: the rules that a history is held to.
//! - [`network`]: a network of the suite's own, which loses, delays, doubles or reorders packets.
//! - [`clock`]: wall clocks that are off.
//! - [`disk`]: disks of the suite's own, which lose what was not synced, fill up, fail and rot.
//! - `drive`: does a scenario to a cluster, whatever that is made of.
//! - [`scenario`], [`run`], [`report`]: real processes, what is done to them, and what came of it.
//! - [`sim`]: a whole node in a simulated network, on simulated disks, in virtual time. Equal seeds
//!   give equal runs, to the packet.
//! - [`kill`]: a real process that is killed again and again.
//! - [`quorum`]: real processes of a cluster, whose leader is killed or paused, or whose voters
//!   change.
//! - [`replicas`]: the same under a load of records, whose nodes are killed, paused and restarted;
//!   in the end all replicas must be equal.
//! - [`grow`]: the same, to which an empty node is added that gets its share.
//!
//! Loads of records are written with the project's own idempotent producer and `acks=all`: none of
//! its deliveries may fail in a run, as every outage is shorter than its delivery timeout.

mod certificates;
pub mod check;
pub mod clock;
pub mod disk;
mod drive;
pub mod fault;
pub mod figures;
pub mod grow;
pub mod history;
pub mod kill;
pub mod load;
pub mod network;
pub mod nodes;
pub mod quorum;
pub mod replicas;
pub mod report;
pub mod run;
pub mod scenario;
pub mod sim;
