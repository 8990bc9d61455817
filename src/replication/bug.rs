//! Mistakes that the simulation of replicas must find; see [`Planted`](crate::base::Planted).

/// A mistake to make on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A replica acknowledges what it has appended and not flushed: in the simulation a follower, in a
    /// node the leader too.
    AcknowledgeBeforeFlush,
    /// A leader lets a follower go on whose log is not a prefix of its own.
    SkipTruncation,
    /// A leader compares where logs end, and not in which epoch.
    IgnoreLeaderEpoch,
    /// A leader takes a follower into the ISR as soon as that one has acknowledged anything.
    GrowIsrEarly,
    /// While a growth of the ISR is under way, a leader commits by the ISR as it was.
    ForgetPendingIsr,
    /// A leader goes on committing with fewer replicas in sync than `min.insync.replicas`.
    CommitBelowMinIsr,
    /// A leader shows clients all that it has.
    ServePastHighWatermark,
}

impl Bug {
    /// All of them, with the names by which a command line picks one.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::AcknowledgeBeforeFlush, "acknowledge-before-flush"),
        (Self::SkipTruncation, "skip-truncation"),
        (Self::IgnoreLeaderEpoch, "ignore-leader-epoch"),
        (Self::GrowIsrEarly, "grow-isr-early"),
        (Self::ForgetPendingIsr, "forget-pending-isr"),
        (Self::CommitBelowMinIsr, "commit-below-min-isr"),
        (Self::ServePastHighWatermark, "serve-past-high-watermark"),
    ];
}
