//! What the leader of a partition knows of its replicas: a core without I/O.
//!
//! It takes acknowledgements and changes of the partition's registration, and tells how far the
//! log is committed.
//!
//! Invariants:
//! - The high watermark never goes back while the leader leads.
//! - The high watermark is never beyond what any replica of the ISR has acknowledged, and it stands
//!   still while the ISR is smaller than `min.insync.replicas` (KIP-966).

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{LeaderEpoch, NodeId, Offset, PartitionEpoch};

/// The part of a partition's registration that its leader acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) partition_epoch: PartitionEpoch,
    pub(crate) replicas: BTreeSet<NodeId>,
    pub(crate) isr: BTreeSet<NodeId>,
    pub(crate) min_insync_replicas: usize,
}

/// The leader of one partition in one leader epoch.
#[derive(Debug)]
pub(crate) struct Leader {
    registration: Registration,
    /// The end up to which each replica holds the log as its topic's flush policy asks.
    acknowledged: BTreeMap<NodeId, Offset>,
    high_watermark: Offset,
}

impl Leader {
    /// A leader that starts with what it knows to be committed.
    pub(crate) fn new(registration: Registration, high_watermark: Offset) -> Self {
        Self { registration, acknowledged: BTreeMap::new(), high_watermark }
    }

    pub(crate) const fn leader_epoch(&self) -> LeaderEpoch {
        self.registration.leader_epoch
    }

    /// The end of what is committed: the first offset that consumers may not see.
    pub(crate) const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether an `acks=all` write may be taken at all.
    pub(crate) fn has_min_isr(&self) -> bool {
        self.registration.isr.len() >= self.registration.min_insync_replicas
    }

    /// Takes a newer registration of the same leader epoch. Returns whether the high watermark rose.
    pub(crate) fn handle_registration(&mut self, registration: Registration) -> bool {
        assert_eq!(registration.leader_epoch, self.registration.leader_epoch, "another epoch");
        if registration.partition_epoch < self.registration.partition_epoch {
            return false;
        }
        self.acknowledged.retain(|node, _| registration.replicas.contains(node));
        self.registration = registration;
        self.advance()
    }

    /// A replica, the leader itself among them, holds everything before `end`. Returns whether the
    /// high watermark rose.
    pub(crate) fn handle_acknowledged(&mut self, node: NodeId, end: Offset) -> bool {
        if !self.registration.replicas.contains(&node) {
            return false;
        }
        let known = self.acknowledged.entry(node).or_insert(end);
        *known = end.max(*known);
        self.advance()
    }

    fn advance(&mut self) -> bool {
        if !self.has_min_isr() {
            return false;
        }
        let acknowledged = |node| self.acknowledged.get(node).copied().unwrap_or(Offset::ZERO);
        let Some(committed) = self.registration.isr.iter().map(acknowledged).min() else {
            return false;
        };
        let rose = committed > self.high_watermark;
        if rose {
            self.high_watermark = committed;
        }
        rose
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn registration(partition_epoch: i32, isr: &[u32], min_insync_replicas: usize) -> Registration {
        Registration {
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(partition_epoch),
            replicas: [1, 2, 3].map(NodeId).into(),
            isr: isr.iter().copied().map(NodeId).collect(),
            min_insync_replicas,
        }
    }

    #[test]
    fn a_lone_replica_commits_what_it_acknowledges() {
        let mut leader = Leader::new(registration(0, &[1], 1), Offset(5));
        assert!(leader.handle_acknowledged(NodeId(1), Offset(9)));
        assert_eq!(leader.high_watermark(), Offset(9));
        assert!(!leader.handle_acknowledged(NodeId(1), Offset(7)));
        assert_eq!(leader.high_watermark(), Offset(9));
    }

    #[test]
    fn the_slowest_replica_of_the_isr_decides() {
        let mut leader = Leader::new(registration(0, &[1, 2], 1), Offset(0));
        assert!(!leader.handle_acknowledged(NodeId(1), Offset(9)));
        assert!(leader.handle_acknowledged(NodeId(2), Offset(4)));
        assert_eq!(leader.high_watermark(), Offset(4));
        assert!(leader.handle_registration(registration(1, &[1], 1)));
        assert_eq!(leader.high_watermark(), Offset(9));
    }

    #[test]
    fn nothing_commits_below_the_minimum() {
        let mut leader = Leader::new(registration(0, &[1], 2), Offset(0));
        assert!(!leader.has_min_isr());
        assert!(!leader.handle_acknowledged(NodeId(1), Offset(9)));
        assert_eq!(leader.high_watermark(), Offset(0));
    }

    proptest! {
        #[test]
        fn the_high_watermark_only_rises_and_stays_within_the_isr(
            steps in prop::collection::vec((1u32..=3, 0i64..100, prop::bool::ANY), 0..60),
        ) {
            let mut leader = Leader::new(registration(0, &[1, 2, 3], 1), Offset(0));
            let mut ends = BTreeMap::<u32, i64>::new();
            let mut isr = vec![1, 2, 3];
            let mut epoch = 0;
            for (node, end, change) in steps {
                let before = leader.high_watermark();
                if change {
                    epoch += 1;
                    isr = (1..=3).filter(|n| *n == 1 || *n == node).collect();
                    leader.handle_registration(registration(epoch, &isr, 1));
                } else {
                    let known = ends.entry(node).or_default();
                    *known = end.max(*known);
                    leader.handle_acknowledged(NodeId(node), Offset(end));
                }
                let after = leader.high_watermark();
                prop_assert!(after >= before);
                if after > before {
                    let least = isr.iter().map(|n| ends.get(n).copied().unwrap_or(0)).min();
                    prop_assert_eq!(Some(after.0), least);
                }
            }
        }
    }
}
