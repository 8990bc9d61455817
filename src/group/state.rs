//! What the records of a shard make up: group metadata and committed offsets.
//!
//! A fold and nothing else: live decisions and replay both go through [`State::apply`]. Its maps
//! share structure, so that a clone, taken for every batch, costs next to nothing.

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use super::Str;
use crate::base::ProducerId;

/// A member as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemberMetadata {
    pub(super) id: Str,
    pub(super) instance: Option<Str>,
    pub(super) client_id: Str,
    pub(super) client_host: Str,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    pub(super) subscription: Bytes,
    pub(super) assignment: Bytes,
}

/// A group as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupMetadata {
    /// Empty where the group has none.
    pub(super) protocol_type: Str,
    pub(super) generation: i32,
    pub(super) protocol: Option<Str>,
    pub(super) leader: Option<Str>,
    /// Since when the group is in its state; -1 where an old version did not say.
    pub(super) state_timestamp_ms: i64,
    pub(super) members: Vec<MemberMetadata>,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommittedOffset {
    pub(super) offset: i64,
    /// -1 where the client did not say.
    pub(super) leader_epoch: i32,
    pub(super) metadata: Str,
    pub(super) commit_timestamp_ms: i64,
    /// Set by clients before OffsetCommit 5 that asked for a retention of their own.
    pub(super) expire_timestamp_ms: Option<i64>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Offset { group: Str, topic: Str, partition: i32, offset: Option<CommittedOffset> },
    Group { group: Str, metadata: Option<GroupMetadata> },
}

pub(super) type Partitions = OrdMap<i32, Arc<CommittedOffset>>;
pub(super) type Topics = OrdMap<Str, Partitions>;
type Pending = OrdMap<(Str, Str, i32), Arc<CommittedOffset>>;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    pub(super) groups: OrdMap<Str, Arc<GroupMetadata>>,
    /// By group, topic and partition. Holds no empty map.
    pub(super) offsets: OrdMap<Str, Topics>,
    /// Offsets of transactions that have not ended, by producer. Holds no empty map.
    pending: OrdMap<i64, Pending>,
}

impl State {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Group { group, metadata: Some(metadata) } => {
                self.groups.insert(group.clone(), Arc::new(metadata.clone()));
            }
            Change::Group { group, metadata: None } => {
                self.groups.remove(group);
            }
            Change::Offset { group, topic, partition, offset: Some(offset) } => {
                self.insert(group, topic, *partition, Arc::new(offset.clone()));
                // A later commit outside of the transaction wins over what is pending in it.
                self.forget_pending(group, topic, *partition);
            }
            Change::Offset { group, topic, partition, offset: None } => {
                self.remove(group, topic, *partition);
                self.forget_pending(group, topic, *partition);
            }
        }
    }

    /// As [`apply`](Self::apply), within a transaction: offsets count once it is committed.
    pub(super) fn apply_in_transaction(&mut self, producer: ProducerId, change: &Change) {
        match change {
            Change::Offset { group, topic, partition, offset: Some(offset) } => {
                let key = (group.clone(), topic.clone(), *partition);
                let pending = self.pending.entry(producer.0).or_default();
                pending.insert(key, Arc::new(offset.clone()));
            }
            _ => self.apply(change),
        }
    }

    pub(super) fn end_transaction(&mut self, producer: ProducerId, committed: bool) {
        let Some(pending) = self.pending.remove(&producer.0) else { return };
        if committed {
            for ((group, topic, partition), offset) in pending {
                self.insert(&group, &topic, partition, offset);
            }
        }
    }

    pub(super) fn offset(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
    ) -> Option<&CommittedOffset> {
        Some(self.offsets.get(group)?.get(topic)?.get(&partition)?)
    }

    /// Whether a transaction that has not ended holds an offset for the partition.
    pub(super) fn is_pending(&self, group: &str, topic: &str, partition: i32) -> bool {
        !self.pending.is_empty()
            && self.pending.values().any(|pending| {
                pending.contains_key(&(Str::from(group), Str::from(topic), partition))
            })
    }

    /// Whether a transaction that has not ended holds an offset for the group.
    pub(super) fn has_pending(&self, group: &str) -> bool {
        self.pending.values().any(|pending| pending.keys().any(|(of, _, _)| **of == *group))
    }

    /// Whether any record is about the group.
    pub(super) fn names(&self, group: &str) -> bool {
        self.groups.contains_key(group) || self.offsets.contains_key(group)
    }

    fn insert(&mut self, group: &Str, topic: &Str, partition: i32, offset: Arc<CommittedOffset>) {
        let topics = self.offsets.entry(group.clone()).or_default();
        topics.entry(topic.clone()).or_default().insert(partition, offset);
    }

    fn remove(&mut self, group: &Str, topic: &Str, partition: i32) {
        let Some(topics) = self.offsets.get_mut(group) else { return };
        let Some(partitions) = topics.get_mut(topic) else { return };
        partitions.remove(&partition);
        if partitions.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.offsets.remove(group);
        }
    }

    fn forget_pending(&mut self, group: &Str, topic: &Str, partition: i32) {
        if self.pending.is_empty() {
            return;
        }
        let key = (group.clone(), topic.clone(), partition);
        let holders: Vec<i64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.contains_key(&key))
            .map(|(producer, _)| *producer)
            .collect();
        for producer in holders {
            if let Some(pending) = self.pending.get_mut(&producer) {
                pending.remove(&key);
                if pending.is_empty() {
                    self.pending.remove(&producer);
                }
            }
        }
    }
}
