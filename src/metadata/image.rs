//! The immutable image of the metadata. Cheap to clone; parts that did not change are shared.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use imbl::{OrdMap, OrdSet};

use crate::{
    base::{
        BrokerEpoch, ClusterId, DirectoryId, LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex,
        ProducerId, TopicId, TopicPartition,
    },
    metadata::{
        DecidedRequest, Overrides, RequestId,
        records::{BrokerEndpoint, BrokerFeature, PartitionRecord, RegisterBrokerRecord},
        requests::Requests,
    },
};

/// The directory ids that name no directory (KIP-858).
pub mod directory {
    use uuid::Uuid;

    use crate::base::DirectoryId;

    /// The broker has not said yet.
    pub const UNASSIGNED: DirectoryId = DirectoryId(Uuid::from_u128(0));
    /// A directory that is offline, without saying which.
    pub const LOST: DirectoryId = DirectoryId(Uuid::from_u128(1));
    /// From before directories had ids.
    pub const MIGRATING: DirectoryId = DirectoryId(Uuid::from_u128(2));
}

/// A broker as it registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its node id.
    pub id: NodeId,
    /// Identifies this registration.
    pub epoch: BrokerEpoch,
    /// Which start of its process this is.
    pub incarnation_id: uuid::Uuid,
    /// Its client listeners.
    pub endpoints: Vec<BrokerEndpoint>,
    /// The features it supports.
    pub features: Vec<BrokerFeature>,
    /// Its rack.
    pub rack: Option<String>,
    /// Whether it is kept from leading and from every ISR.
    pub fenced: bool,
    /// Whether it asked to be relieved of its leaderships.
    pub in_controlled_shutdown: bool,
    /// Its log directories that are online.
    pub directories: Vec<DirectoryId>,
}

impl Broker {
    /// Whether partitions may be led by it.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }

    /// Whether replicas in `directory` are online as far as the broker said.
    #[must_use]
    pub fn has_online(&self, directory: DirectoryId) -> bool {
        match directory {
            directory::UNASSIGNED | directory::MIGRATING => true,
            directory::LOST => false,
            _ => self.directories.contains(&directory),
        }
    }

    /// Where listener `name` is reached.
    #[must_use]
    pub fn endpoint(&self, name: &str) -> Option<&BrokerEndpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }

    pub(crate) fn to_record(&self) -> RegisterBrokerRecord {
        RegisterBrokerRecord {
            broker_id: self.id.0,
            incarnation_id: self.incarnation_id.into(),
            broker_epoch: self.epoch.0,
            end_points: self.endpoints.clone(),
            features: self.features.clone(),
            rack: self.rack.clone(),
            fenced: self.fenced,
            in_controlled_shutdown: self.in_controlled_shutdown,
            log_dirs: self.directories.iter().map(|d| (*d).into()).collect(),
        }
    }

    pub(crate) fn from_record(record: &RegisterBrokerRecord) -> Self {
        Self {
            id: NodeId(record.broker_id),
            epoch: BrokerEpoch(record.broker_epoch),
            incarnation_id: record.incarnation_id.into(),
            endpoints: record.end_points.clone(),
            features: record.features.clone(),
            rack: record.rack.clone(),
            fenced: record.fenced,
            in_controlled_shutdown: record.in_controlled_shutdown,
            directories: record.log_dirs.iter().map(|d| (*d).into()).collect(),
        }
    }
}

/// A partition's registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The brokers that hold it, the preferred leader first.
    pub replicas: Box<[NodeId]>,
    /// The log directory of each replica, in the order of `replicas`.
    pub directories: Box<[DirectoryId]>,
    /// The brokers in sync.
    pub isr: Box<[NodeId]>,
    /// Outside the ISR, but known to hold everything committed (KIP-966).
    pub eligible_leader_replicas: Box<[NodeId]>,
    /// Who was last known to be eligible, before an unclean stop took them out.
    pub last_known_elr: Box<[NodeId]>,
    /// Replicas that a reassignment takes away.
    pub removing_replicas: Box<[NodeId]>,
    /// Replicas that a reassignment brings.
    pub adding_replicas: Box<[NodeId]>,
    /// The balancer began the reassignment, at whose rate it goes.
    pub is_balancing: bool,
    /// The leader, if there is one.
    pub leader: Option<NodeId>,
    /// Counts the leaders.
    pub leader_epoch: LeaderEpoch,
    /// Counts the changes.
    pub partition_epoch: PartitionEpoch,
    /// The leader was elected uncleanly and has not told the others yet.
    pub recovering: bool,
}

impl Partition {
    /// The broker that leads while all is well.
    #[must_use]
    pub fn preferred_replica(&self) -> Option<NodeId> {
        self.replicas.first().copied()
    }

    /// Where `node` keeps its replica; `None` where it has none.
    #[must_use]
    pub fn directory(&self, node: NodeId) -> Option<DirectoryId> {
        self.replicas.iter().position(|r| *r == node).map(|i| self.directories[i])
    }

    /// Whether the replica on `broker` may be in sync: the broker is active, and the replica's log
    /// directory online.
    #[must_use]
    pub fn is_active_on(&self, broker: &Broker) -> bool {
        let directory = self.directory(broker.id);
        broker.is_active() && directory.is_some_and(|directory| broker.has_online(directory))
    }

    /// The brokers that hold it once the reassignment under way, if any, has ended.
    pub fn target_replicas(&self) -> impl Iterator<Item = NodeId> {
        self.replicas.iter().copied().filter(|node| !self.removing_replicas.contains(node))
    }

    /// Whether a reassignment is under way.
    #[must_use]
    pub fn is_reassigning(&self) -> bool {
        !self.adding_replicas.is_empty() || !self.removing_replicas.is_empty()
    }

    /// Whether a replica is out of sync that is not one that a reassignment only just brings.
    #[must_use]
    pub fn is_under_replicated(&self) -> bool {
        let mut settled = self.replicas.iter().filter(|node| !self.adding_replicas.contains(node));
        settled.any(|node| !self.isr.contains(node))
    }

    pub(crate) fn to_record(&self, at: TopicPartition) -> PartitionRecord {
        let nodes = |list: &[NodeId]| list.iter().map(|node| node.0).collect();
        PartitionRecord {
            partition_id: at.partition.0,
            topic_id: at.topic.into(),
            replicas: nodes(&self.replicas),
            isr: nodes(&self.isr),
            removing_replicas: nodes(&self.removing_replicas),
            adding_replicas: nodes(&self.adding_replicas),
            leader: self.leader.map(|leader| leader.0),
            leader_epoch: self.leader_epoch.0,
            partition_epoch: self.partition_epoch.0,
            leader_recovery_state: i32::from(self.recovering),
            directories: self.directories.iter().map(|d| (*d).into()).collect(),
            eligible_leader_replicas: nodes(&self.eligible_leader_replicas),
            last_known_elr: nodes(&self.last_known_elr),
            balancing: self.is_balancing,
        }
    }

    pub(crate) fn from_record(record: &PartitionRecord) -> Self {
        let nodes = |list: &[u32]| list.iter().map(|node| NodeId(*node)).collect();
        Self {
            replicas: nodes(&record.replicas),
            directories: record.directories.iter().map(|d| (*d).into()).collect(),
            isr: nodes(&record.isr),
            eligible_leader_replicas: nodes(&record.eligible_leader_replicas),
            last_known_elr: nodes(&record.last_known_elr),
            removing_replicas: nodes(&record.removing_replicas),
            adding_replicas: nodes(&record.adding_replicas),
            is_balancing: record.balancing,
            leader: record.leader.map(NodeId),
            leader_epoch: LeaderEpoch(record.leader_epoch),
            partition_epoch: PartitionEpoch(record.partition_epoch),
            recovering: record.leader_recovery_state != 0,
        }
    }
}

/// A topic and its partitions.
#[derive(Debug, Clone, PartialEq)]
pub struct Topic {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions, numbered from 0 without gaps.
    pub partitions: OrdMap<PartitionIndex, Arc<Partition>>,
}

impl Topic {
    /// A partition by its number.
    #[must_use]
    pub fn partition(&self, index: PartitionIndex) -> Option<&Arc<Partition>> {
        self.partitions.get(&index)
    }

    /// Whether Kafka treats topics of this name as its own.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        is_internal(&self.name)
    }
}

/// Whether Kafka treats topics called `name` as its own.
pub(crate) fn is_internal(name: &str) -> bool {
    matches!(name, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}

/// What a configuration belongs to, with Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum ConfigResourceType {
    /// A topic, by name.
    Topic = 2,
    /// A broker by node id, or all of them under the empty name.
    Broker = 4,
    /// The log levels of a broker; never stored.
    BrokerLogger = 8,
    /// A subscription to client metrics (KIP-714).
    ClientMetrics = 16,
    /// A group (KIP-848).
    Group = 32,
}

impl ConfigResourceType {
    /// The type of Kafka's number.
    #[must_use]
    pub const fn from_wire(number: i8) -> Option<Self> {
        Some(match number {
            2 => Self::Topic,
            4 => Self::Broker,
            8 => Self::BrokerLogger,
            16 => Self::ClientMetrics,
            32 => Self::Group,
            _ => return None,
        })
    }

    /// Kafka's number.
    #[must_use]
    pub const fn wire(self) -> i8 {
        self as i8
    }
}

/// What has a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigResource {
    /// Its type.
    pub kind: ConfigResourceType,
    /// The topic, the node id, the group, or empty for all brokers.
    pub name: Arc<str>,
}

impl ConfigResource {
    /// A topic's configuration.
    #[must_use]
    pub fn topic(name: &str) -> Self {
        Self { kind: ConfigResourceType::Topic, name: name.into() }
    }

    /// One broker's configuration.
    #[must_use]
    pub fn broker(node: NodeId) -> Self {
        Self { kind: ConfigResourceType::Broker, name: node.to_string().into() }
    }

    /// The default configuration of all brokers.
    #[must_use]
    pub fn all_brokers() -> Self {
        Self { kind: ConfigResourceType::Broker, name: "".into() }
    }
}

/// The cluster's metadata after some entry of its log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetadataImage {
    pub(super) applied_index: u64,
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) features: OrdMap<Arc<str>, i32>,
    pub(super) brokers: OrdMap<NodeId, Arc<Broker>>,
    pub(super) last_broker_epoch: BrokerEpoch,
    pub(super) topics: OrdMap<TopicId, Topic>,
    pub(super) topic_ids: OrdMap<Arc<str>, TopicId>,
    /// Derived: the partitions that each node holds a replica of.
    pub(super) replicas: OrdMap<NodeId, OrdSet<TopicPartition>>,
    /// Derived: how many partitions there are.
    pub(super) partition_count: usize,
    pub(super) configs: OrdMap<ConfigResource, Overrides>,
    pub(super) next_producer_id: ProducerId,
    pub(super) requests: Requests,
    pub(super) excluded_voters: OrdSet<NodeId>,
}

impl MetadataImage {
    /// The index of the last entry folded in; 0 before the first.
    #[must_use]
    pub const fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// The cluster's id; `None` before bootstrap.
    #[must_use]
    pub const fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// The finalized level of a feature; `None` where it is off.
    #[must_use]
    pub fn feature(&self, name: &str) -> Option<i32> {
        self.features.get(name).copied()
    }

    /// The finalized features, sorted by name.
    pub fn features(&self) -> impl Iterator<Item = (&str, i32)> {
        self.features.iter().map(|(name, level)| (&**name, *level))
    }

    /// A registered broker.
    #[must_use]
    pub fn broker(&self, id: NodeId) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// The registered brokers, sorted by id, fenced ones among them.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// The highest epoch that a broker ever had.
    #[must_use]
    pub const fn last_broker_epoch(&self) -> BrokerEpoch {
        self.last_broker_epoch
    }

    /// A topic by its id.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(&id)
    }

    /// A topic by its name.
    #[must_use]
    pub fn topic_by_name(&self, name: &str) -> Option<&Topic> {
        self.topics.get(self.topic_ids.get(name)?)
    }

    /// The topics, sorted by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topic_ids.values().filter_map(|id| self.topics.get(id))
    }

    /// The topics whose names are not before `name`, sorted by name.
    pub fn topics_from<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Topic> + use<'a> {
        self.topic_ids
            .range::<_, str>((Bound::Included(name), Bound::Unbounded))
            .filter_map(|(_, id)| self.topics.get(id))
    }

    /// How many topics there are.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions all topics have.
    #[must_use]
    pub const fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// A partition.
    #[must_use]
    pub fn partition(&self, at: TopicPartition) -> Option<&Arc<Partition>> {
        self.topics.get(&at.topic)?.partition(at.partition)
    }

    /// The partitions that `node` holds a replica of.
    pub fn partitions_of(&self, node: NodeId) -> impl Iterator<Item = TopicPartition> {
        self.replicas.get(&node).into_iter().flatten().copied()
    }

    /// How many partitions `node` holds a replica of.
    #[must_use]
    pub fn replica_count(&self, node: NodeId) -> usize {
        self.replicas.get(&node).map_or(0, OrdSet::len)
    }

    /// What is set on `resource`; nothing where it has no configuration.
    #[must_use]
    pub fn config(&self, resource: &ConfigResource) -> Option<&Overrides> {
        self.configs.get(resource)
    }

    /// One configured value.
    #[must_use]
    pub fn config_value(&self, resource: &ConfigResource, key: &str) -> Option<&str> {
        self.configs.get(resource)?.get(key)
    }

    /// Every resource with a configuration.
    pub fn configs(&self) -> impl Iterator<Item = (&ConfigResource, &Overrides)> {
        self.configs.iter()
    }

    /// What is set on `resource`, as the `config` module takes it.
    #[must_use]
    pub fn config_map(&self, resource: &ConfigResource) -> BTreeMap<String, String> {
        let entries = self.configs.get(resource).into_iter().flat_map(Overrides::iter);
        entries.map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    /// What is known of a request that was decided, if it is remembered.
    #[must_use]
    pub fn decided_request(&self, id: RequestId) -> Option<&DecidedRequest> {
        self.requests.find(id)
    }

    /// Whether an operator removed the node from the voters of the metadata quorum, so that it is
    /// not to become one by itself.
    #[must_use]
    pub fn is_excluded_voter(&self, node: NodeId) -> bool {
        self.excluded_voters.contains(&node)
    }

    /// The nodes that are not to become voters by themselves.
    pub fn excluded_voters(&self) -> impl Iterator<Item = NodeId> {
        self.excluded_voters.iter().copied()
    }

    /// The first producer id that nobody was given.
    #[must_use]
    pub const fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }
}
