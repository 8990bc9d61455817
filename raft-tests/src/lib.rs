//! Deterministic simulations of the metadata quorum and, in [`replica`], of a partition's replicas.
//!
//! Of the quorum, one seed gives one run: the production core and the production fold of the
//! metadata, over a heap of events in virtual time. Stores lose unsynced writes at a crash; the
//! network loses, delays, doubles, reorders and cuts one way; nodes crash at any time, and at
//! chosen points before and after each persist, send, apply and install; administrators add,
//! promote, demote, replace and remove peers, and disks are lost. After every event [`check`] holds
//! the run against the promises; at the end everything heals, and the cluster must get a leader,
//! the members that are wanted, and work done; and one order must explain what all clients saw
//! (`linear`).
//!
//! [`story`] runs what a text file says instead, and compares what happens with what the file says.
//!
//! Nothing here reads a clock or draws a random number that does not come from the seed.

pub mod check;
mod heap;
mod linear;
mod machine;
mod outcome;
pub mod replica;
pub mod sim;
pub mod story;
pub mod sweep;

pub use outcome::{Options, Outcome, Trace};
pub use sim::run;
