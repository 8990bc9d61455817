//! What the controller says of a partition and its replicas, as far as a leader acts on it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch};

/// The part of a partition's registration that its leader acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The leadership.
    pub leader_epoch: LeaderEpoch,
    /// Counts the changes; the newer of two registrations has the higher.
    pub partition_epoch: PartitionEpoch,
    /// Who holds the partition.
    pub replicas: BTreeSet<NodeId>,
    /// Who is in sync.
    pub isr: BTreeSet<NodeId>,
    /// The leader was elected uncleanly and has not said yet that it took over.
    pub recovering: bool,
    /// As the topic has it; more than there are replicas counts as all of them.
    pub min_insync_replicas: usize,
    /// The replicas that may be in sync: neither fenced nor shutting down, nor in a log directory
    /// that is offline. With the registrations of their processes.
    pub active: BTreeMap<NodeId, BrokerEpoch>,
}

impl Registration {
    pub(super) fn has_min_isr(&self) -> bool {
        self.isr.len() >= self.min_insync_replicas.min(self.replicas.len())
    }
}

/// A leader asks the controller to change who is in sync (KIP-497).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterPartition {
    /// Names the question within the leadership. Only the answer to the last one counts.
    pub number: u64,
    /// The leadership.
    pub leader_epoch: LeaderEpoch,
    /// What the change is based on; it holds only while nothing else has changed.
    pub partition_epoch: PartitionEpoch,
    /// Who shall be in sync, with the registrations by which the leader knows them (KIP-903).
    pub isr: Vec<(NodeId, Option<BrokerEpoch>)>,
}

/// Why the controller did not make the change, or may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AlterError {
    /// The partition has changed since: the metadata will tell how. Also for a partition that is
    /// gone, or a request that the controller takes for wrong.
    #[error("the partition has changed meanwhile")]
    Outdated,
    /// Of those named, one is fenced, shutting down, or of another registration.
    #[error("a replica may not be in sync")]
    IneligibleReplica,
    /// There was no answer, or none from the controller: the change may yet be made.
    #[error("the controller did not answer")]
    Unanswered,
}
