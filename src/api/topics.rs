//! How requests name topics, and what is found under that name.

use std::{collections::BTreeSet, sync::Arc};

use kafka_protocol::messages::BrokerId;
use uuid::Uuid;

use super::{Context, error::WireError};
use crate::{
    base::{LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId, TopicPartition},
    metadata::{self, records::BrokerEndpoint},
    protocol::{ResponseError, StrBytes},
    replication::{Partition, Source},
};

/// How the name of Kafka's selector that goes by racks ends (KIP-392).
const RACK_AWARE: &str = "RackAwareReplicaSelector";

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

    /// The partition, if this node has a replica of it that may serve `source`.
    pub(crate) fn readable_partition(
        &self,
        topic: &TopicRef,
        partition: PartitionIndex,
        source: Source,
    ) -> Result<Arc<Partition>, WireError> {
        let id = TopicPartition { topic: topic.id, partition };
        match self.partitions.lookup(id).filter(|replica| !replica.is_offline()) {
            Some(replica) if source == Source::AnyReplica => Ok(replica),
            _ => self.leader_partition(topic, partition),
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

    /// Where nodes are reached through a listener, each once; for clients that are sent to them
    /// (KIP-951).
    pub(crate) fn endpoints<T>(
        &self,
        nodes: impl Iterator<Item = BrokerId>,
        listener: &str,
        describe: impl Fn(NodeId, &BrokerEndpoint) -> T,
    ) -> Vec<T> {
        let nodes: BTreeSet<NodeId> =
            nodes.filter_map(|id| u32::try_from(id.0).ok().map(NodeId)).collect();
        if nodes.is_empty() {
            return Vec::new();
        }
        let image = self.image();
        let found = nodes.into_iter().filter_map(|node| {
            let endpoint = image.broker(node)?.endpoint(listener)?;
            Some(describe(node, endpoint))
        });
        found.collect()
    }

    /// The replica that a consumer in `rack` had better fetch from, where the node is told to look for
    /// one.
    pub(crate) fn nearer_replica(
        &self,
        partition: &Partition,
        rack: &str,
        from: Offset,
    ) -> Option<NodeId> {
        if rack.is_empty() {
            return None;
        }
        let config = self.broker_config();
        config.replica_selector_class.as_deref().filter(|class| class.ends_with(RACK_AWARE))?;
        let image = self.image();
        let is_near = |node: NodeId| {
            let broker = image.broker(node).filter(|broker| !broker.fenced);
            broker.is_some_and(|broker| broker.rack.as_deref() == Some(rack))
        };
        partition.nearest(is_near, from)
    }
}
