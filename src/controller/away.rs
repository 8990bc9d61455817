//! Who is away for so long that its replicas are begun anew on other brokers, where an operator
//! wants that (`ottla.broker.replacement.grace.ms`).
//!
//! State: since when brokers, and log directories of brokers that are there, have been away, as this
//! controller has seen it whenever the balancer looked. It is soft: a new controller counts anew,
//! so that replicas are begun anew later than they might, and never earlier.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::{DirectoryId, NodeId},
    metadata::{MetadataImage, Partition, directory},
};

/// A broker, or one of its directories.
type Gone = (NodeId, Option<DirectoryId>);

/// Since when which are away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Away(BTreeMap<Gone, u64>);

impl Away {
    /// Notes who is away now, and who is not any more.
    pub(super) fn look(&mut self, image: &MetadataImage, now_ms: u64) {
        let brokers = image.brokers().filter(|broker| !broker.is_active());
        let mut gone: BTreeSet<Gone> = brokers.map(|broker| (broker.id, None)).collect();
        for partition in image.topics().flat_map(|topic| topic.partitions.values()) {
            gone.extend(failed(image, partition).map(|(node, at)| (node, Some(at))));
        }
        self.0.retain(|one, _| gone.contains(one));
        for one in gone {
            self.0.entry(one).or_insert(now_ms);
        }
    }

    /// The broker is back: it and its directories count anew.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.0.retain(|(one, _), _| *one != node);
    }

    /// Whether the broker has been away for `grace_ms`.
    pub(super) fn is_broker_lost(&self, node: NodeId, grace_ms: u64, now_ms: u64) -> bool {
        self.is_lost(&(node, None), grace_ms, now_ms)
    }

    /// The broker that has lost its replica of the partition for `grace_ms` with a log directory.
    pub(super) fn lost_replica(
        &self,
        image: &MetadataImage,
        partition: &Partition,
        grace_ms: u64,
        now_ms: u64,
    ) -> Option<NodeId> {
        let mut failed = failed(image, partition);
        let lost = failed.find(|(node, at)| self.is_lost(&(*node, Some(*at)), grace_ms, now_ms));
        lost.map(|(node, _)| node)
    }

    fn is_lost(&self, one: &Gone, grace_ms: u64, now_ms: u64) -> bool {
        self.0.get(one).is_some_and(|since| now_ms.saturating_sub(*since) >= grace_ms)
    }
}

/// The replicas in directories that have failed, of brokers that are there.
fn failed<'a>(
    image: &'a MetadataImage,
    partition: &'a Partition,
) -> impl Iterator<Item = (NodeId, DirectoryId)> + 'a {
    let active = |node: &NodeId| image.broker(*node).filter(|broker| broker.is_active());
    partition.replicas.iter().filter_map(move |node| {
        let (broker, at) = (active(node)?, partition.directory(*node)?);
        let is_named = at != directory::UNASSIGNED && at != directory::MIGRATING;
        (is_named && !broker.has_online(at)).then_some((*node, at))
    })
}
