//! The client's picture of the cluster.

use std::{collections::BTreeMap, sync::Arc};

use kafka_protocol::messages::{
    MetadataResponse,
    metadata_response::{MetadataResponsePartition, MetadataResponseTopic},
};

use super::wire::Error as WireError;
use crate::base::{Id as _, TopicId};

/// A broker's address for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerView {
    /// Its id.
    pub node: i32,
    /// Its host name.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// Its rack, where it has one.
    pub rack: Option<Arc<str>>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    /// Its number.
    pub partition: i32,
    /// The leader's node id; -1 where there is none.
    pub leader: i32,
    /// How many leaders it has had; -1 where the broker does not say.
    pub leader_epoch: i32,
    /// The nodes that hold it, the preferred one first.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub isr: Vec<i32>,
    /// Those that are down.
    pub offline: Vec<i32>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicView {
    /// Its name.
    pub name: Arc<str>,
    /// Its identity; [`TopicId::NONE`] where the broker does not say.
    pub id: TopicId,
    /// Whether the cluster keeps it for itself.
    pub internal: bool,
    /// Its partitions by number.
    pub partitions: Vec<PartitionView>,
}

impl TopicView {
    /// The partition of that number.
    #[must_use]
    pub fn partition(&self, partition: i32) -> Option<&PartitionView> {
        let found = self.partitions.binary_search_by_key(&partition, |view| view.partition).ok()?;
        Some(&self.partitions[found])
    }
}

/// The cluster, as far as the client has asked.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// The cluster's identity, as its brokers print it.
    pub cluster_id: Option<Arc<str>>,
    /// A broker that takes controller requests; -1 where unknown.
    pub controller: i32,
    /// The brokers by id.
    pub brokers: BTreeMap<i32, BrokerView>,
    /// The topics asked for, by name.
    pub topics: BTreeMap<Arc<str>, Arc<TopicView>>,
    /// Topics that the cluster answered with an error.
    pub errors: BTreeMap<Arc<str>, WireError>,
}

impl ClusterView {
    /// The topic of that name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicView>> {
        self.topics.get(name)
    }

    /// The topic of that identity.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicView>> {
        self.topics.values().find(|topic| topic.id == id)
    }

    /// Takes in an answer about some topics, or about all of them.
    pub(crate) fn merge(&mut self, response: MetadataResponse, all_topics: bool) {
        self.cluster_id = response.cluster_id.map(|id| id.as_str().into());
        self.controller = response.controller_id.0;
        self.brokers = response
            .brokers
            .iter()
            .filter_map(|broker| {
                let view = BrokerView {
                    node: broker.node_id.0,
                    host: broker.host.as_str().into(),
                    port: u16::try_from(broker.port).ok()?,
                    rack: broker.rack.as_ref().map(|rack| rack.as_str().into()),
                };
                Some((view.node, view))
            })
            .collect();
        if all_topics {
            self.topics.clear();
            self.errors.clear();
        }
        for topic in response.topics {
            self.merge_topic(topic);
        }
    }

    fn merge_topic(&mut self, topic: MetadataResponseTopic) {
        let Some(name) = topic.name.map(|name| Arc::<str>::from(name.as_str())) else { return };
        if let Some(error) = WireError::try_from_code(topic.error_code) {
            self.topics.remove(&name);
            self.errors.insert(name, error);
            return;
        }
        self.errors.remove(&name);
        let known = self.topics.get(&name).map(Arc::clone);
        let id = TopicId(topic.topic_id);
        // A topic made anew counts its epochs from the start.
        let known = known.filter(|known| known.id.uuid() == id.uuid());
        let mut partitions: Vec<_> = topic
            .partitions
            .into_iter()
            .map(|new| {
                let old = known.as_ref().and_then(|known| known.partition(new.partition_index));
                partition_view(new, old)
            })
            .collect();
        partitions.sort_unstable_by_key(|view| view.partition);
        let view =
            TopicView { name: Arc::clone(&name), id, internal: topic.is_internal, partitions };
        self.topics.insert(name, Arc::new(view));
    }
}

/// A broker that is behind may answer with an older leader: the newer epoch wins.
fn partition_view(new: MetadataResponsePartition, old: Option<&PartitionView>) -> PartitionView {
    if let Some(old) = old.filter(|old| old.leader_epoch > new.leader_epoch) {
        return old.clone();
    }
    let ids = |ids: Vec<kafka_protocol::messages::BrokerId>| ids.into_iter().map(|id| id.0);
    PartitionView {
        partition: new.partition_index,
        leader: new.leader_id.0,
        leader_epoch: new.leader_epoch,
        replicas: ids(new.replica_nodes).collect(),
        isr: ids(new.isr_nodes).collect(),
        offline: ids(new.offline_replicas).collect(),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::{messages::TopicName, protocol::StrBytes};
    use uuid::Uuid;

    use super::*;

    fn answer(id: u128, leader: i32, epoch: i32) -> MetadataResponse {
        let partition = MetadataResponsePartition::default()
            .with_leader_id(leader.into())
            .with_leader_epoch(epoch);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
            .with_topic_id(Uuid::from_u128(id))
            .with_partitions(vec![partition]);
        MetadataResponse::default().with_topics(vec![topic])
    }

    #[test]
    fn an_older_leader_never_replaces_a_newer_one_of_the_same_topic() {
        let mut view = ClusterView::default();
        let leader = |view: &ClusterView| view.topics["t"].partitions[0].leader;
        view.merge(answer(1, 7, 3), false);
        view.merge(answer(1, 8, 2), false);
        assert_eq!(leader(&view), 7);
        view.merge(answer(1, 9, 4), false);
        assert_eq!(leader(&view), 9);
        view.merge(answer(2, 5, 0), false);
        assert_eq!(leader(&view), 5, "made anew");
    }
}
