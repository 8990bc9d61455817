//! What a scenario needs of a cluster, whatever it is made of.
//!
//! Real processes and simulated nodes are the two that there are. Nothing here decides whom a fault
//! hits, nor how long it lasts: that is the driver's ([`super::Driver`]).

use std::{collections::BTreeMap, fmt, time::Duration};

use rand::rngs::StdRng;

use crate::{
    disk, network,
    scenario::{Fault, Files},
};

/// Who leads, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Leads {
    /// Some partition.
    pub(crate) partition: Option<u32>,
    /// The quorum.
    pub(crate) controller: Option<u32>,
}

/// A change of the voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoterChange {
    /// A learner becomes a voter.
    Add,
    /// A voter becomes a learner.
    Remove,
}

/// The conditions of links from one node to another, where 0 is all clients.
pub(crate) type Links = BTreeMap<(u32, u32), network::Conditions>;
/// The conditions of each node's first, second, … disk.
pub(crate) type Disks = BTreeMap<(u32, u32), disk::Conditions>;

/// A cluster of nodes 1 to n that things can be done to.
///
/// An error is one of the suite or of a node that does not do what it must: it ends the run. Only
/// [`Self::change_voter`] may be refused, and is tried again.
pub(crate) trait Backend {
    /// Why a run cannot go on.
    type Error: fmt::Display;

    /// How many nodes there are.
    fn nodes(&self) -> u32;

    /// Why a fault cannot be done here; none where it can.
    fn cannot(&self, fault: Fault) -> Option<String>;

    /// Who leads now.
    fn leads(&self) -> Leads;

    /// Whether every replica is in sync.
    async fn is_in_sync(&self) -> bool;

    /// Notices nodes that have ended though nothing excused it.
    fn are_alive(&mut self) -> Result<(), Self::Error>;

    /// Whether a node runs.
    fn is_running(&self, node: u32) -> bool;

    /// Whether a node is a member of its cluster, and knows its leader.
    async fn is_member(&self, node: u32) -> bool;

    /// Says whether a node may end by itself, from now on.
    fn excuse(&mut self, node: u32, excused: bool);

    /// Starts a node on the disks that it has.
    async fn start(&mut self, node: u32) -> Result<(), Self::Error>;

    /// Ends nodes in order, all at the same time, and waits until they have.
    async fn stop(&mut self, nodes: &[u32]) -> Result<(), Self::Error>;

    /// Ends nodes at once and all together; what they had written is written.
    async fn kill(&mut self, nodes: &[u32]) -> Result<(), Self::Error>;

    /// Has a node stand still, or go on.
    fn pause(&mut self, node: u32, paused: bool) -> Result<(), Self::Error>;

    /// What all links do from now on; those that are not named do nothing odd.
    fn set_links(&mut self, links: Links);

    /// How all disks fare from now on.
    fn set_disks(&mut self, disks: Disks);

    /// Takes the power from the disks of a node that is about to be killed, where else they would
    /// sync what they are at.
    fn switch_off(&mut self, _node: u32) {}

    /// Loses what a node, which does not run, had not synced; some of it by lot, where torn.
    fn cut_power(&mut self, node: u32, torn: Option<&mut StdRng>) -> Result<(), Self::Error>;

    /// Empties the disks of a node, which does not run.
    fn wipe(&mut self, node: u32) -> Result<(), Self::Error>;

    /// Flips a bit in the files of a node, which does not run. Says where, where there are any.
    fn flip_bit(
        &mut self,
        node: u32,
        files: Files,
        rng: &mut StdRng,
    ) -> Result<Option<String>, Self::Error>;

    /// How far a node's wall clock is off from now on.
    fn skew(&mut self, node: u32, by_ms: i64) -> Result<(), Self::Error>;

    /// Gives a node a certificate that ends after a moment; one that lasts where none is said.
    async fn renew_certificate(
        &mut self,
        node: u32,
        ends: Option<Duration>,
    ) -> Result<(), Self::Error>;

    /// Asks once for a change of the voters.
    async fn change_voter(
        &mut self,
        node: u32,
        change: VoterChange,
        within: Duration,
    ) -> Result<(), Self::Error>;

    /// Has a node be emptied of replicas, and waits until it is; or lets it have some again.
    async fn decommission(&mut self, node: u32, cancel: bool) -> Result<(), Self::Error>;

    /// Has a node, which does not run, run its other version from now on. Says which, if any.
    fn change_version(&mut self, node: u32) -> Option<String>;

    /// What it is when something does not come about in time.
    fn too_late(&self, what: &'static str) -> Self::Error;
}
