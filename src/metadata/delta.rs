//! What a batch of records changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::{
    base::{NodeId, PartitionIndex, TopicId},
    metadata::{ConfigResource, MetadataImage},
};

/// What changed between two images. Costs memory by what changed, not by the size of the images.
#[derive(Debug, Clone)]
pub struct MetadataDelta {
    pub(super) before: MetadataImage,
    pub(super) after: MetadataImage,
    pub(super) topics: BTreeMap<TopicId, TopicDelta>,
    pub(super) brokers: BTreeSet<NodeId>,
    pub(super) configs: BTreeMap<ConfigResource, BTreeSet<Arc<str>>>,
    pub(super) features: BTreeSet<Arc<str>>,
    pub(super) cluster: bool,
    /// The numbers of requests that are remembered from here on, or no more.
    pub(super) requests: BTreeSet<u64>,
    pub(super) excluded_voters: BTreeSet<NodeId>,
}

/// What changed of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDelta {
    /// Its name.
    pub name: Arc<str>,
    /// It did not exist in the image before.
    pub created: bool,
    /// It does not exist in the image after.
    pub deleted: bool,
    /// The partitions that were made or changed; empty where the topic was deleted.
    pub partitions: BTreeSet<PartitionIndex>,
}

impl MetadataDelta {
    pub(crate) fn new(before: &MetadataImage) -> Self {
        Self {
            before: before.clone(),
            after: before.clone(),
            topics: BTreeMap::new(),
            brokers: BTreeSet::new(),
            configs: BTreeMap::new(),
            features: BTreeSet::new(),
            cluster: false,
            requests: BTreeSet::new(),
            excluded_voters: BTreeSet::new(),
        }
    }

    /// The image before the change.
    #[must_use]
    pub const fn before(&self) -> &MetadataImage {
        &self.before
    }

    /// The image after the change.
    #[must_use]
    pub const fn after(&self) -> &MetadataImage {
        &self.after
    }

    /// The topics that were created, deleted, or have changed partitions. One that was both
    /// created and deleted in between is among them, with both flags.
    #[must_use]
    pub const fn topics(&self) -> &BTreeMap<TopicId, TopicDelta> {
        &self.topics
    }

    /// The brokers that registered, unregistered or changed.
    #[must_use]
    pub const fn brokers(&self) -> &BTreeSet<NodeId> {
        &self.brokers
    }

    /// The resources whose configuration changed, with the keys.
    #[must_use]
    pub const fn configs(&self) -> &BTreeMap<ConfigResource, BTreeSet<Arc<str>>> {
        &self.configs
    }

    /// The features whose finalized level changed.
    #[must_use]
    pub const fn features(&self) -> &BTreeSet<Arc<str>> {
        &self.features
    }

    /// Whether the cluster came into being.
    #[must_use]
    pub const fn is_bootstrap(&self) -> bool {
        self.cluster
    }

    /// Whether nothing but the applied index moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
            && self.brokers.is_empty()
            && self.configs.is_empty()
            && self.features.is_empty()
            && !self.cluster
            && self.requests.is_empty()
            && self.excluded_voters.is_empty()
            && self.before.next_producer_id == self.after.next_producer_id
    }

    /// This change followed by `later`, which must start where this one ends.
    #[must_use]
    pub fn then(mut self, later: Self) -> Self {
        debug_assert_eq!(self.after.applied_index, later.before.applied_index);
        self.after = later.after;
        for (id, topic) in later.topics {
            match self.topics.entry(id) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(topic);
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    let earlier = entry.get_mut();
                    earlier.deleted |= topic.deleted;
                    if earlier.deleted {
                        earlier.partitions.clear();
                    } else {
                        earlier.partitions.extend(topic.partitions);
                    }
                }
            }
        }
        self.brokers.extend(later.brokers);
        for (resource, keys) in later.configs {
            self.configs.entry(resource).or_default().extend(keys);
        }
        self.features.extend(later.features);
        self.cluster |= later.cluster;
        self.requests.extend(later.requests);
        self.excluded_voters.extend(later.excluded_voters);
        self
    }
}
