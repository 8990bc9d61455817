//! The records of the metadata log, under Kafka's names, and the batch of them that is one Raft
//! entry.
//!
//! Encoded as protobuf: fields may be added, never renumbered or reused. A reader skips fields it
//! does not know, so whoever writes a field or record that changes the meaning of older ones must
//! wait until [`crate::metadata::features`] says that every node knows it: a batch names the
//! metadata version it was written under, and a node that does not support that version refuses
//! the batch instead of folding half of it.
//!
//! References: KIP-631 (the record set), KIP-966 (eligible leader replicas), KIP-858 (directories).

use prost::Message;

use crate::{
    base::{BrokerEpoch, ClusterId, DirectoryId, NodeId, PartitionIndex, TopicId, TopicPartition},
    metadata::features,
};

/// A 128-bit identifier on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Uuid {
    /// The upper 64 bits.
    #[prost(fixed64, tag = "1")]
    pub high: u64,
    /// The lower 64 bits.
    #[prost(fixed64, tag = "2")]
    pub low: u64,
}

impl From<uuid::Uuid> for Uuid {
    fn from(id: uuid::Uuid) -> Self {
        let (high, low) = id.as_u64_pair();
        Self { high, low }
    }
}

impl From<Uuid> for uuid::Uuid {
    fn from(id: Uuid) -> Self {
        Self::from_u64_pair(id.high, id.low)
    }
}

macro_rules! identifiers {
    ($($name:ident),*) => {$(
        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id.into())
            }
        }
    )*};
}

identifiers!(ClusterId, DirectoryId, TopicId);

/// One change to the cluster's metadata.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Record {
    /// The cluster exists: the first record of its log.
    #[prost(message, tag = "1")]
    Cluster(ClusterRecord),
    /// A feature has a level from here on.
    #[prost(message, tag = "2")]
    FeatureLevel(FeatureLevelRecord),
    /// A broker started and has a new epoch.
    #[prost(message, tag = "3")]
    RegisterBroker(RegisterBrokerRecord),
    /// A broker is gone for good.
    #[prost(message, tag = "4")]
    UnregisterBroker(UnregisterBrokerRecord),
    /// A broker was fenced or unfenced, shuts down, or has other directories.
    #[prost(message, tag = "5")]
    BrokerRegistrationChange(BrokerRegistrationChangeRecord),
    /// A topic exists.
    #[prost(message, tag = "6")]
    Topic(TopicRecord),
    /// A partition exists, with its whole state.
    #[prost(message, tag = "7")]
    Partition(PartitionRecord),
    /// A partition changed.
    #[prost(message, tag = "8")]
    PartitionChange(PartitionChangeRecord),
    /// A topic is gone, with all its partitions and configuration.
    #[prost(message, tag = "9")]
    RemoveTopic(RemoveTopicRecord),
    /// A configuration key of a resource was set or unset.
    #[prost(message, tag = "10")]
    Config(ConfigRecord),
    /// A block of producer ids was handed to a broker.
    #[prost(message, tag = "11")]
    ProducerIds(ProducerIdsRecord),
    /// Nothing: written to learn that the log still moves.
    #[prost(message, tag = "12")]
    NoOp(NoOpRecord),
    /// A request was decided. Needs [`features::REQUESTS`].
    #[prost(message, tag = "13")]
    Request(RequestRecord),
    /// An operator removed a voter, or allows it again. Needs [`features::EXCLUDED_VOTERS`].
    #[prost(message, tag = "14")]
    VoterExclusion(VoterExclusionRecord),
}

macro_rules! into_record {
    ($($variant:ident($record:ident)),* $(,)?) => {$(
        impl From<$record> for Record {
            fn from(record: $record) -> Self {
                Self::$variant(record)
            }
        }
    )*};
}

into_record! {
    Cluster(ClusterRecord),
    FeatureLevel(FeatureLevelRecord),
    RegisterBroker(RegisterBrokerRecord),
    UnregisterBroker(UnregisterBrokerRecord),
    BrokerRegistrationChange(BrokerRegistrationChangeRecord),
    Topic(TopicRecord),
    Partition(PartitionRecord),
    PartitionChange(PartitionChangeRecord),
    RemoveTopic(RemoveTopicRecord),
    Config(ConfigRecord),
    ProducerIds(ProducerIdsRecord),
    NoOp(NoOpRecord),
    Request(RequestRecord),
    VoterExclusion(VoterExclusionRecord),
}

/// The cluster exists. Kafka keeps this id in `meta.properties` alone.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ClusterRecord {
    /// Made at bootstrap, never changed.
    #[prost(message, required, tag = "1")]
    pub cluster_id: Uuid,
}

/// A feature has a level from here on; level 0 removes it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FeatureLevelRecord {
    /// The feature, for example `ottla.metadata.version`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its level.
    #[prost(int32, tag = "2")]
    pub feature_level: i32,
}

/// Where clients or peers reach a broker.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct BrokerEndpoint {
    /// The listener's name, for example `PLAINTEXT`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The advertised host.
    #[prost(string, tag = "2")]
    pub host: String,
    /// The advertised port.
    #[prost(uint32, tag = "3")]
    pub port: u32,
    /// Kafka's number of the security protocol: 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL.
    #[prost(int32, tag = "4")]
    pub security_protocol: i32,
}

/// The levels of a feature that a broker supports.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct BrokerFeature {
    /// The feature.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The lowest level supported.
    #[prost(int32, tag = "2")]
    pub min_supported_version: i32,
    /// The highest level supported.
    #[prost(int32, tag = "3")]
    pub max_supported_version: i32,
}

/// A broker started and has a new epoch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterBrokerRecord {
    /// The broker.
    #[prost(uint32, tag = "1")]
    pub broker_id: u32,
    /// Which start of the process this is: chosen anew by the broker at each start.
    #[prost(message, required, tag = "2")]
    pub incarnation_id: Uuid,
    /// Greater than the epoch of every registration before.
    #[prost(int64, tag = "3")]
    pub broker_epoch: i64,
    /// Its client listeners.
    #[prost(message, repeated, tag = "4")]
    pub end_points: Vec<BrokerEndpoint>,
    /// The features it supports.
    #[prost(message, repeated, tag = "5")]
    pub features: Vec<BrokerFeature>,
    /// Its rack.
    #[prost(string, optional, tag = "6")]
    pub rack: Option<String>,
    /// Whether it is kept from leading and from the ISR. A broker registers fenced.
    #[prost(bool, tag = "7")]
    pub fenced: bool,
    /// Whether it asked to be relieved of its leaderships.
    #[prost(bool, tag = "8")]
    pub in_controlled_shutdown: bool,
    /// Its log directories that are online.
    #[prost(message, repeated, tag = "9")]
    pub log_dirs: Vec<Uuid>,
}

/// A broker is gone for good.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct UnregisterBrokerRecord {
    /// The broker.
    #[prost(uint32, tag = "1")]
    pub broker_id: u32,
    /// The epoch it had.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
}

/// What of a broker's registration changed; an absent field did not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BrokerRegistrationChangeRecord {
    /// The broker.
    #[prost(uint32, tag = "1")]
    pub broker_id: u32,
    /// The epoch it has.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
    /// Fenced or unfenced.
    #[prost(bool, optional, tag = "3")]
    pub fenced: Option<bool>,
    /// Begins its controlled shutdown.
    #[prost(bool, optional, tag = "4")]
    pub in_controlled_shutdown: Option<bool>,
    /// Its log directories that are online now.
    #[prost(message, optional, tag = "5")]
    pub log_dirs: Option<DirectoryList>,
}

/// A topic exists.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TopicRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its identity.
    #[prost(message, required, tag = "2")]
    pub topic_id: Uuid,
}

/// The whole state of a partition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartitionRecord {
    /// Its number.
    #[prost(int32, tag = "1")]
    pub partition_id: i32,
    /// Its topic.
    #[prost(message, required, tag = "2")]
    pub topic_id: Uuid,
    /// The brokers that hold it, the preferred leader first.
    #[prost(uint32, repeated, tag = "3")]
    pub replicas: Vec<u32>,
    /// The brokers that are in sync.
    #[prost(uint32, repeated, tag = "4")]
    pub isr: Vec<u32>,
    /// Replicas that a reassignment takes away.
    #[prost(uint32, repeated, tag = "5")]
    pub removing_replicas: Vec<u32>,
    /// Replicas that a reassignment brings.
    #[prost(uint32, repeated, tag = "6")]
    pub adding_replicas: Vec<u32>,
    /// The leader, if there is one.
    #[prost(uint32, optional, tag = "7")]
    pub leader: Option<u32>,
    /// Counts the leaders.
    #[prost(int32, tag = "8")]
    pub leader_epoch: i32,
    /// Counts the changes.
    #[prost(int32, tag = "9")]
    pub partition_epoch: i32,
    /// Kafka's number of the leader's recovery: 0 recovered, 1 recovering.
    #[prost(int32, tag = "10")]
    pub leader_recovery_state: i32,
    /// The log directory of each replica, in the order of `replicas`.
    #[prost(message, repeated, tag = "11")]
    pub directories: Vec<Uuid>,
    /// Replicas outside the ISR that are known to hold everything committed.
    #[prost(uint32, repeated, tag = "12")]
    pub eligible_leader_replicas: Vec<u32>,
    /// The replicas that were last known to be eligible before an unclean stop.
    #[prost(uint32, repeated, tag = "13")]
    pub last_known_elr: Vec<u32>,
    /// The balancer began the reassignment that is under way. Who does not know the field goes on
    /// without the balancer's throttle.
    #[prost(bool, tag = "14")]
    pub balancing: bool,
}

/// What of a partition changed; an absent field did not.
///
/// A change raises the partition epoch by one, and the leader epoch by one exactly where it names
/// a leader, be it the one that led before.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartitionChangeRecord {
    /// The partition's number.
    #[prost(int32, tag = "1")]
    pub partition_id: i32,
    /// Its topic.
    #[prost(message, required, tag = "2")]
    pub topic_id: Uuid,
    /// The brokers in sync.
    #[prost(message, optional, tag = "3")]
    pub isr: Option<NodeList>,
    /// Who leads in the next leader epoch.
    #[prost(message, optional, tag = "4")]
    pub leader: Option<LeaderChange>,
    /// The brokers that hold the partition. Their directories come along.
    #[prost(message, optional, tag = "5")]
    pub replicas: Option<NodeList>,
    /// Replicas that a reassignment takes away.
    #[prost(message, optional, tag = "6")]
    pub removing_replicas: Option<NodeList>,
    /// Replicas that a reassignment brings.
    #[prost(message, optional, tag = "7")]
    pub adding_replicas: Option<NodeList>,
    /// The leader's recovery.
    #[prost(int32, optional, tag = "8")]
    pub leader_recovery_state: Option<i32>,
    /// The log directory of each replica.
    #[prost(message, optional, tag = "9")]
    pub directories: Option<DirectoryList>,
    /// See [`PartitionRecord::eligible_leader_replicas`].
    #[prost(message, optional, tag = "10")]
    pub eligible_leader_replicas: Option<NodeList>,
    /// See [`PartitionRecord::last_known_elr`].
    #[prost(message, optional, tag = "11")]
    pub last_known_elr: Option<NodeList>,
    /// See [`PartitionRecord::balancing`].
    #[prost(bool, optional, tag = "12")]
    pub balancing: Option<bool>,
}

impl PartitionChangeRecord {
    /// A record that changes nothing but the partition epoch.
    #[must_use]
    pub fn new(partition: TopicPartition) -> Self {
        Self {
            partition_id: partition.partition.0,
            topic_id: partition.topic.into(),
            ..Self::default()
        }
    }

    /// The partition that it changes.
    #[must_use]
    pub fn partition(&self) -> TopicPartition {
        TopicPartition { topic: self.topic_id.into(), partition: PartitionIndex(self.partition_id) }
    }
}

/// Who leads from the next leader epoch on.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaderChange {
    /// The leader, or none.
    #[prost(uint32, optional, tag = "1")]
    pub leader: Option<u32>,
}

/// A list that can be told from an absent one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeList {
    /// The nodes.
    #[prost(uint32, repeated, tag = "1")]
    pub nodes: Vec<u32>,
}

impl FromIterator<NodeId> for NodeList {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        Self { nodes: nodes.into_iter().map(|node| node.0).collect() }
    }
}

/// A list that can be told from an absent one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DirectoryList {
    /// The directories.
    #[prost(message, repeated, tag = "1")]
    pub directories: Vec<Uuid>,
}

impl FromIterator<DirectoryId> for DirectoryList {
    fn from_iter<I: IntoIterator<Item = DirectoryId>>(directories: I) -> Self {
        Self { directories: directories.into_iter().map(Into::into).collect() }
    }
}

/// A topic is gone, with all its partitions and configuration.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RemoveTopicRecord {
    /// The topic.
    #[prost(message, required, tag = "1")]
    pub topic_id: Uuid,
}

/// A configuration key of a resource was set or unset.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfigRecord {
    /// Kafka's number of the resource type; see [`crate::metadata::ConfigResourceType`].
    #[prost(int32, tag = "1")]
    pub resource_type: i32,
    /// The topic, the node id, or empty for all brokers.
    #[prost(string, tag = "2")]
    pub resource_name: String,
    /// The key.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Its value; absent where the key was unset.
    #[prost(string, optional, tag = "4")]
    pub value: Option<String>,
}

/// A block of producer ids was handed to a broker.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ProducerIdsRecord {
    /// The broker that got it.
    #[prost(uint32, tag = "1")]
    pub broker_id: u32,
    /// The epoch in which it asked.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
    /// The first id that nobody has.
    #[prost(int64, tag = "3")]
    pub next_producer_id: i64,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct NoOpRecord {}

/// Whether a node may become a voter of the metadata quorum by itself.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct VoterExclusionRecord {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub node_id: u32,
    /// Whether it may not.
    #[prost(bool, tag = "2")]
    pub excluded: bool,
}

/// A request was decided: all of its change is made with this entry where it has the answer, and
/// begins with this entry where it has none.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RequestRecord {
    /// The name of the request.
    #[prost(message, required, tag = "1")]
    pub id: Uuid,
    /// The answer.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub answer: Option<Vec<u8>>,
}

/// Records that take effect together: the payload of one Raft entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The level of `ottla.metadata.version` that a reader must support.
    pub metadata_version: i32,
    /// The records, in the order of their effect.
    pub records: Vec<Record>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BatchMessage {
    #[prost(int32, tag = "1")]
    metadata_version: i32,
    #[prost(message, repeated, tag = "2")]
    records: Vec<RecordMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordMessage {
    #[prost(oneof = "Record", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    record: Option<Record>,
}

/// Why a batch of metadata records cannot be folded by this node.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no batch.
    #[error("malformed metadata records")]
    Malformed(#[from] prost::DecodeError),
    /// A newer node wrote it.
    #[error(
        "the metadata was written at {} {version}, and this node supports {supported} at most: \
         it needs a newer release",
        features::METADATA_VERSION
    )]
    UnsupportedVersion {
        /// The version of the batch.
        version: i32,
        /// The highest one that this node supports.
        supported: i32,
    },
    /// A record of no known kind, against the rule that a version comes first.
    #[error("metadata record {position} is of a kind that this release does not know")]
    UnknownRecord {
        /// Its place in the batch.
        position: usize,
    },
}

impl Batch {
    /// A batch that every release reads.
    #[must_use]
    pub const fn new(records: Vec<Record>) -> Self {
        Self { metadata_version: features::METADATA_VERSION_MIN, records }
    }

    /// The bytes of the Raft entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let records =
            self.records.iter().map(|r| RecordMessage { record: Some(r.clone()) }).collect();
        BatchMessage { metadata_version: self.metadata_version, records }.encode_to_vec()
    }

    /// How many bytes [`Batch::encode`] makes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let version = prost::encoding::int32::encoded_len(1, &self.metadata_version);
        let records = self.records.iter().map(|record| {
            let len = record.encoded_len();
            1 + prost::length_delimiter_len(len) + len
        });
        version + records.sum::<usize>()
    }

    /// Reads the bytes of a Raft entry; no bytes are an empty batch, as Raft's own entries are.
    ///
    /// # Errors
    /// Where the bytes are malformed or of a newer release. A node that gets this for a committed
    /// entry must stop: it can no longer know the cluster's state.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Ok(Self::new(Vec::new()));
        }
        let message = BatchMessage::decode(bytes)?;
        let version = message.metadata_version;
        let supported = features::METADATA_VERSION_MAX;
        if version > supported {
            return Err(DecodeError::UnsupportedVersion { version, supported });
        }
        let records = message.records.into_iter().enumerate();
        let records = records
            .map(|(position, r)| r.record.ok_or(DecodeError::UnknownRecord { position }))
            .collect::<Result<_, _>>()?;
        Ok(Self { metadata_version: version, records })
    }
}

pub(crate) fn encode_record(record: Record) -> Vec<u8> {
    RecordMessage { record: Some(record) }.encode_to_vec()
}

pub(crate) fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    RecordMessage::decode(bytes)?.record.ok_or(DecodeError::UnknownRecord { position: 0 })
}

impl PartitionRecord {
    /// The partition that it describes.
    #[must_use]
    pub fn partition(&self) -> TopicPartition {
        TopicPartition { topic: self.topic_id.into(), partition: PartitionIndex(self.partition_id) }
    }
}

impl BrokerRegistrationChangeRecord {
    /// A record that changes nothing yet of the broker's registration.
    #[must_use]
    pub fn new(broker: NodeId, epoch: BrokerEpoch) -> Self {
        Self { broker_id: broker.0, broker_epoch: epoch.0, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_a_newer_release_is_refused() {
        let batch = Batch {
            metadata_version: features::METADATA_VERSION_MAX + 1,
            records: vec![NoOpRecord {}.into()],
        };
        assert!(matches!(
            Batch::decode(&batch.encode()),
            Err(DecodeError::UnsupportedVersion { .. })
        ));
    }

    #[test]
    fn a_record_of_unknown_kind_is_refused_and_not_skipped() {
        // Field 2 (a record) holds field 99 (an empty message): a kind from the future.
        let bytes = [0x08, 0x01, 0x12, 0x03, 0x9a, 0x06, 0x00];
        assert!(matches!(Batch::decode(&bytes), Err(DecodeError::UnknownRecord { position: 0 })));
    }

    #[test]
    fn an_unknown_field_of_a_known_record_is_skipped() {
        let mut record = RemoveTopicRecord { topic_id: Uuid { high: 1, low: 2 } }.encode_to_vec();
        record.extend([0x98, 0x06, 0x01]); // field 99, a number
        let mut bytes = vec![0x08, 0x01, 0x12, record.len() as u8 + 2, 0x4a, record.len() as u8];
        bytes.extend(record);
        let topic_id = Uuid { high: 1, low: 2 };
        let expected = Batch::new(vec![RemoveTopicRecord { topic_id }.into()]);
        assert_eq!(Batch::decode(&bytes).unwrap(), expected);
    }

    #[test]
    fn an_empty_entry_is_an_empty_batch() {
        assert_eq!(Batch::decode(&[]).unwrap(), Batch::new(Vec::new()));
    }
}
