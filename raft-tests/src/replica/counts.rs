//! What the simulation of the replicas counts.

crate::outcome::counts! {
    /// Events.
    events,
    /// Batches that leaders took.
    appended,
    /// Of these, those that were acknowledged.
    acknowledged,
    /// Batches that consumers read.
    served,
    /// Epochs that had a leader.
    leaders,
    /// Subscriptions whose logs agreed.
    subscribed,
    /// Logs that were cut so that they agree.
    truncated,
    /// Records that were cut off.
    cut,
    /// Logs that began anew.
    started_over,
    /// Changes of the registration.
    altered,
    /// Questions about the ISR that were refused.
    refused,
    /// Power cuts of one node, and kills.
    crashes,
    /// Power cuts of all.
    blackouts,
    /// Stops in order.
    stops,
    /// Pauses.
    pauses,
    /// Connections that broke.
    broken,
    /// Times that somebody deleted records.
    deleted,
    /// Reassignments that were begun.
    reassigned,
    /// Reassignments that were cancelled.
    cancelled,
    /// Logs that were deleted, as their node held no replica any more.
    removed,
    /// Disks that were replaced by empty ones.
    lost_disks,
    /// Runs that ended without a leader: of those in sync the last one had lost its disk.
    leaderless,
}
