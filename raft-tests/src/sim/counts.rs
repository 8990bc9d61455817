//! What the simulation of the quorum counts.

crate::outcome::counts! {
    /// Events.
    events,
    /// Entries that were committed.
    committed,
    /// Changes that were acknowledged.
    acknowledged,
    /// Client calls that were answered and are part of a history.
    calls,
    /// Terms that had a leader.
    leaders,
    /// Snapshots that were installed.
    snapshots,
    /// Crashes.
    crashes,
    /// Of these, at a chosen point of a persist, send, apply or install.
    points,
    /// Disks of peers that were lost.
    wipes,
    /// Changes of the members that were proposed.
    changes,
    /// Configurations that were committed.
    configurations,
    /// Messages for what a node was before it lost its disk.
    misdirected,
}
