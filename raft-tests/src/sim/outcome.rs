//! What to run, and how it went.

use crate::check::Violation;

/// How much text of a run to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    /// None.
    None,
    /// What a reader needs to follow it.
    Story,
    /// Every event as well.
    All,
}

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// How many first voters; by the seed if none.
    pub nodes: Option<usize>,
    /// How much text to keep.
    pub trace: Trace,
    /// A mistake that every core makes.
    #[cfg(feature = "planted-bugs")]
    pub bug: Option<ottla::quorum::core::Bug>,
}

impl Options {
    /// The usual run of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: None,
            trace: Trace::None,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        }
    }
}

/// How often what happened in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Entries that were committed.
    pub committed: u64,
    /// Changes that were acknowledged.
    pub acknowledged: u64,
    /// Client calls that were answered and are part of a history.
    pub calls: u64,
    /// Terms that had a leader.
    pub leaders: u64,
    /// Snapshots that were installed.
    pub snapshots: u64,
    /// Crashes.
    pub crashes: u64,
    /// Of these, at a chosen point of a persist, send, apply or install.
    pub points: u64,
    /// Disks of peers that were lost.
    pub wipes: u64,
    /// Changes of the members that were proposed.
    pub changes: u64,
    /// Configurations that were committed.
    pub configurations: u64,
    /// Messages for what a node was before it lost its disk.
    pub misdirected: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.committed += other.committed;
        self.acknowledged += other.acknowledged;
        self.calls += other.calls;
        self.leaders += other.leaders;
        self.snapshots += other.snapshots;
        self.crashes += other.crashes;
        self.points += other.points;
        self.wipes += other.wipes;
        self.changes += other.changes;
        self.configurations += other.configurations;
        self.misdirected += other.misdirected;
    }
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<C> {
    /// The promise that was broken, if any.
    pub violation: Option<Violation>,
    /// Of all events.
    pub digest: u64,
    /// The text that was to be kept.
    pub trace: Vec<String>,
    /// What happened how often.
    pub counts: C,
}
