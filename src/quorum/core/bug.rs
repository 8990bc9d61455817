//! Mistakes that the simulation must find; see [`Planted`](crate::base::Planted).

/// A mistake to make on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Messages leave before what they promise is durable.
    SendBeforePersist,
    /// The vote is not written.
    ForgetVote,
    /// A node that comes back raises its term without asking first.
    SkipPreVote,
    /// A follower takes all that it has been sent for committed.
    ApplyPastCommit,
    /// A follower passes a change of the configuration by.
    DropConfChange,
    /// A read does not ask the other voters whether this node still leads.
    StaleRead,
    /// The reads of different nodes, and of different lives of one, have the same contexts.
    ReuseReadContext,
}

impl Bug {
    /// All of them, with the names by which a command line picks one.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::SendBeforePersist, "send-before-persist"),
        (Self::ForgetVote, "forget-vote"),
        (Self::SkipPreVote, "skip-pre-vote"),
        (Self::ApplyPastCommit, "apply-past-commit"),
        (Self::DropConfChange, "drop-conf-change"),
        (Self::StaleRead, "stale-read"),
        (Self::ReuseReadContext, "reuse-read-context"),
    ];
}
