//! What holds for every image. Checked after every change in tests, and when an image is loaded.

use crate::{
    base::{NodeId, PartitionIndex, TopicId},
    metadata::{ConfigResourceType, MetadataImage, Partition},
};

/// An invariant that an image breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A name does not lead to the topic of that name.
    #[error("the names of topics do not match their ids at {0}")]
    Names(TopicId),
    /// Partitions are not numbered from 0 without gaps.
    #[error("topic {topic} has {count} partitions but none numbered {missing}")]
    Gap {
        /// The topic.
        topic: TopicId,
        /// How many it has.
        count: usize,
        /// The number that is missing.
        missing: PartitionIndex,
    },
    /// A partition's lists or leader contradict each other.
    #[error("partition {partition} of topic {topic} breaks the rule: {rule}")]
    Partition {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// The rule.
        rule: &'static str,
    },
    /// A broker's epoch was never handed out.
    #[error("broker {0} has an epoch that is yet to come")]
    BrokerEpoch(NodeId),
    /// A configuration of a topic that is not there.
    #[error("topic '{0}' has a configuration, but does not exist")]
    OrphanConfig(String),
    /// More requests are remembered than should be, or one under two numbers.
    #[error("the requests that are remembered are more than allowed, or inconsistent")]
    Requests,
    /// A derived index or count differs from what it derives from.
    #[error("the index of replicas or the count of partitions is wrong")]
    Derived,
}

impl MetadataImage {
    /// Checks every invariant. Reads the whole image: for tests and for loading.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<(), Violation> {
        for (name, id) in &self.topic_ids {
            if self.topics.get(id).is_none_or(|topic| topic.name != *name) {
                return Err(Violation::Names(*id));
            }
        }
        if self.topics.len() != self.topic_ids.len() {
            return Err(Violation::Derived);
        }
        let (mut partitions, mut replicas) = (0, 0);
        for (id, topic) in &self.topics {
            for (expected, (index, partition)) in topic.partitions.iter().enumerate() {
                let missing = PartitionIndex(expected as i32);
                if *index != missing {
                    let count = topic.partitions.len();
                    return Err(Violation::Gap { topic: *id, count, missing });
                }
                self.check_partition(partition).map_err(|rule| Violation::Partition {
                    topic: *id,
                    partition: *index,
                    rule,
                })?;
                partitions += 1;
                replicas += partition.replicas.len();
            }
        }
        let indexed: usize = self.replicas.values().map(imbl::OrdSet::len).sum();
        if partitions != self.partition_count || replicas != indexed {
            return Err(Violation::Derived);
        }
        for (id, broker) in &self.brokers {
            if broker.epoch > self.last_broker_epoch || broker.id != *id {
                return Err(Violation::BrokerEpoch(*id));
            }
        }
        if !self.requests.is_consistent() {
            return Err(Violation::Requests);
        }
        let orphan = self.configs.keys().find(|resource| {
            resource.kind == ConfigResourceType::Topic
                && !self.topic_ids.contains_key(&*resource.name)
        });
        orphan.map_or(Ok(()), |resource| Err(Violation::OrphanConfig(resource.name.to_string())))
    }

    fn check_partition(&self, partition: &Partition) -> Result<(), &'static str> {
        let Partition { replicas, isr, eligible_leader_replicas: elr, .. } = partition;
        let Partition { adding_replicas: adding, removing_replicas: removing, .. } = partition;
        let distinct = |list: &[NodeId]| (1..list.len()).all(|i| !list[..i].contains(&list[i]));
        let is_replica = |node: &NodeId| replicas.contains(node);
        let fenced = |node: NodeId| self.broker(node).is_none_or(|broker| broker.fenced);
        let offline = |leader: NodeId| {
            let directory = partition.directory(leader);
            self.broker(leader).zip(directory).is_some_and(|(broker, at)| !broker.has_online(at))
        };
        let rules = [
            (!replicas.is_empty(), "there are replicas"),
            (distinct(replicas) && distinct(isr) && distinct(elr), "no list names a node twice"),
            (partition.directories.len() == replicas.len(), "each replica has a directory"),
            (isr.iter().all(is_replica), "who is in sync is a replica"),
            (elr.iter().all(is_replica), "an eligible leader replica is a replica"),
            (!elr.iter().any(|node| isr.contains(node)), "no eligible leader replica is in sync"),
            (partition.leader.is_none_or(|leader| isr.contains(&leader)), "a leader is in sync"),
            (!partition.leader.is_some_and(fenced), "a leader is not fenced"),
            (!partition.leader.is_some_and(offline), "a leader's directory is online"),
            (
                !isr.is_empty() || !elr.is_empty() || partition.leader.is_none(),
                "someone is in sync",
            ),
            (adding.iter().all(is_replica), "an added replica is a replica"),
            (removing.iter().all(is_replica), "a removed replica is one yet"),
            (!partition.is_balancing || !adding.is_empty(), "the balancer adds replicas"),
            (distinct(adding) && distinct(removing), "no replica is added or removed twice"),
            (!adding.iter().any(|node| removing.contains(node)), "no added replica is removed"),
            (partition.target_replicas().next().is_some(), "a reassignment leaves a replica"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
    }
}
