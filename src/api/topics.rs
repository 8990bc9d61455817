//! How requests name topics, and what is found under that name.

use std::sync::Arc;

use uuid::Uuid;

use super::{Context, error::WireError};
use crate::{
    base::{LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicPartition},
    metadata,
    protocol::{ResponseError, StrBytes},
    replication::Partition,
};

/// A topic as a request names it: by name, or by id in newer versions.
#[derive(Debug, Clone)]
pub(crate) struct TopicRef {
    by_id: bool,
    /// Its name, as far as it is known.
    pub(crate) name: StrBytes,
    /// Its id, as far as it is known.
    pub(crate) id: TopicId,
}

impl TopicRef {
    /// Whether a response's entry is this topic's.
    pub(crate) fn names(&self, name: &str, id: Uuid) -> bool {
        if self.by_id { self.id.0 == id } else { &*self.name == name }
    }

    pub(crate) fn is_internal(&self) -> bool {
        metadata::is_internal(&self.name)
    }

    fn unknown(&self) -> WireError {
        if self.by_id {
            ResponseError::UnknownTopicId.into()
        } else {
            ResponseError::UnknownTopicOrPartition.into()
        }
    }
}

impl Context {
    /// Completes what a request says of a topic with what the image says.
    pub(crate) fn topic_ref(&self, by_id: bool, id: Uuid, name: &StrBytes) -> TopicRef {
        let image = self.image();
        let found = if by_id { image.topic(TopicId(id)) } else { image.topic_by_name(name) };
        match found {
            Some(topic) => {
                let name = StrBytes::from_string(topic.name.to_string());
                TopicRef { by_id, name, id: topic.id }
            }
            None => TopicRef { by_id, name: name.clone(), id: TopicId(id) },
        }
    }

    /// The partition, if this node leads it.
    pub(crate) fn leader_partition(
        &self,
        topic: &TopicRef,
        partition: PartitionIndex,
    ) -> Result<Arc<Partition>, WireError> {
        let image = self.image();
        let known = image.topic(topic.id).ok_or_else(|| topic.unknown())?;
        if known.partition(partition).is_none() {
            return Err(ResponseError::UnknownTopicOrPartition.into());
        }
        let id = TopicPartition { topic: topic.id, partition };
        match self.partitions.lookup(id) {
            Some(partition) if partition.leader_epoch().is_some() => Ok(partition),
            Some(partition) if partition.is_offline() => {
                Err(ResponseError::KafkaStorageError.into())
            }
            Some(_) => Err(ResponseError::NotLeaderOrFollower.into()),
            None if self.partitions.is_offline(id) => Err(ResponseError::KafkaStorageError.into()),
            None => Err(ResponseError::NotLeaderOrFollower.into()),
        }
    }

    /// Who leads a partition, as the image has it.
    pub(crate) fn current_leader(
        &self,
        topic: &TopicRef,
        partition: PartitionIndex,
    ) -> Option<(NodeId, LeaderEpoch)> {
        let image = self.image();
        let partition = image.topic(topic.id)?.partition(partition)?;
        Some((partition.leader?, partition.leader_epoch))
    }
}
