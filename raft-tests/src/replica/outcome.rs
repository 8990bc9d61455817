//! What to run, and how often what happened.

use crate::Trace;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// How many replicas; by the seed if none.
    pub nodes: Option<usize>,
    /// How much text to keep.
    pub trace: Trace,
    /// A mistake that every core makes.
    #[cfg(feature = "planted-bugs")]
    pub bug: Option<ottla::replication::Bug>,
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
    /// Batches that leaders took.
    pub appended: u64,
    /// Of these, those that were acknowledged.
    pub acknowledged: u64,
    /// Batches that consumers read.
    pub served: u64,
    /// Epochs that had a leader.
    pub leaders: u64,
    /// Subscriptions whose logs agreed.
    pub subscribed: u64,
    /// Logs that were cut so that they agree.
    pub truncated: u64,
    /// Records that were cut off.
    pub cut: u64,
    /// Logs that began anew.
    pub started_over: u64,
    /// Changes of the registration.
    pub altered: u64,
    /// Questions about the ISR that were refused.
    pub refused: u64,
    /// Power cuts of one node, and kills.
    pub crashes: u64,
    /// Power cuts of all.
    pub blackouts: u64,
    /// Stops in order.
    pub stops: u64,
    /// Pauses.
    pub pauses: u64,
    /// Connections that broke.
    pub broken: u64,
    /// Times that somebody deleted records.
    pub deleted: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.appended += other.appended;
        self.acknowledged += other.acknowledged;
        self.served += other.served;
        self.leaders += other.leaders;
        self.subscribed += other.subscribed;
        self.truncated += other.truncated;
        self.cut += other.cut;
        self.started_over += other.started_over;
        self.altered += other.altered;
        self.refused += other.refused;
        self.crashes += other.crashes;
        self.blackouts += other.blackouts;
        self.stops += other.stops;
        self.pauses += other.pauses;
        self.broken += other.broken;
        self.deleted += other.deleted;
    }
}
