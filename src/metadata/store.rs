//! The image in a key-value store: keys sort by family, then by identity; a value is a record that
//! makes its part of the image from nothing.

use std::sync::Arc;

use crate::{
    base::{BrokerEpoch, NodeId, PartitionIndex, TopicId, TopicPartition},
    metadata::{
        ConfigResource, DecidedRequest, MetadataDelta, MetadataImage, Record,
        records::{
            ClusterRecord, ConfigRecord, DecodeError, FeatureLevelRecord, ProducerIdsRecord,
            TopicRecord, VoterExclusionRecord, decode_record, encode_record,
        },
    },
};

/// A key and its new value, or `None` to delete it.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

/// Why a stored image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A value is no record.
    #[error("the stored metadata under key {key:02x?} is unreadable")]
    Value {
        /// The key.
        key: Vec<u8>,
        /// Why.
        source: DecodeError,
    },
    /// The header, which is under the first key, has another length.
    #[error("the header of the stored metadata has {0} bytes")]
    Header(usize),
    /// What was read breaks an invariant: keys are missing or from different times.
    #[error("the stored metadata is inconsistent: {0}")]
    Inconsistent(#[from] crate::metadata::Violation),
    /// A partition is there without its topic.
    #[error("the stored metadata has a partition of topic {0}, but not the topic")]
    Orphan(TopicId),
}

/// The applied index and the last broker epoch, which no record holds.
const HEADER: u8 = 0;
const CLUSTER: u8 = 1;
const FEATURE: u8 = 2;
const PRODUCER_IDS: u8 = 3;
const BROKER: u8 = 4;
const TOPIC: u8 = 5;
const PARTITION: u8 = 6;
const CONFIG: u8 = 7;
const REQUEST: u8 = 8;
const EXCLUDED_VOTER: u8 = 9;

fn feature_key(name: &str) -> Vec<u8> {
    [&[FEATURE], name.as_bytes()].concat()
}

fn broker_key(id: NodeId) -> Vec<u8> {
    [&[BROKER][..], &id.0.to_be_bytes()].concat()
}

fn topic_key(id: TopicId) -> Vec<u8> {
    [&[TOPIC][..], id.0.as_bytes()].concat()
}

fn partition_key(at: TopicPartition) -> Vec<u8> {
    [&[PARTITION][..], at.topic.0.as_bytes(), &at.partition.0.to_be_bytes()].concat()
}

fn request_key(number: u64) -> Vec<u8> {
    [&[REQUEST][..], &number.to_be_bytes()].concat()
}

fn request_number(key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(&[REQUEST])?.try_into().ok()?;
    Some(u64::from_be_bytes(number))
}

/// Resource names hold no zero byte, so that one ends them.
fn config_key(resource: &ConfigResource, key: &str) -> Vec<u8> {
    let kind = resource.kind.wire() as u8;
    [&[CONFIG, kind][..], resource.name.as_bytes(), &[0], key.as_bytes()].concat()
}

impl MetadataImage {
    fn header(&self) -> Write {
        let epoch = self.last_broker_epoch.0.to_be_bytes();
        (vec![HEADER], Some([self.applied_index.to_be_bytes(), epoch].concat()))
    }

    fn producer_ids(&self) -> Write {
        let record = ProducerIdsRecord {
            next_producer_id: self.next_producer_id.0,
            ..ProducerIdsRecord::default()
        };
        (vec![PRODUCER_IDS], Some(encode_record(record.into())))
    }

    fn write_cluster(&self) -> Write {
        let record = |id: crate::base::ClusterId| ClusterRecord { cluster_id: id.into() };
        (vec![CLUSTER], self.cluster_id.map(|id| encode_record(record(id).into())))
    }

    fn write_feature(&self, name: &str) -> Write {
        let record = |feature_level| FeatureLevelRecord { name: name.to_owned(), feature_level };
        (feature_key(name), self.feature(name).map(|level| encode_record(record(level).into())))
    }

    fn write_broker(&self, id: NodeId) -> Write {
        (broker_key(id), self.broker(id).map(|broker| encode_record(broker.to_record().into())))
    }

    fn write_topic(&self, id: TopicId) -> Write {
        let record = self
            .topic(id)
            .map(|topic| TopicRecord { name: topic.name.to_string(), topic_id: id.into() });
        (topic_key(id), record.map(|record| encode_record(record.into())))
    }

    fn write_partition(&self, at: TopicPartition) -> Write {
        let value = self.partition(at).map(|p| encode_record(p.to_record(at).into()));
        (partition_key(at), value)
    }

    fn write_config(&self, resource: &ConfigResource, key: &str) -> Write {
        let record = self.config_value(resource, key).map(|value| ConfigRecord {
            resource_type: i32::from(resource.kind.wire()),
            resource_name: resource.name.to_string(),
            name: key.to_owned(),
            value: Some(value.to_owned()),
        });
        (config_key(resource, key), record.map(|record| encode_record(record.into())))
    }

    fn write_request(&self, number: u64) -> Write {
        let request = self.requests.numbered(number);
        (request_key(number), request.map(|request| encode_record(request.to_record().into())))
    }

    fn write_excluded_voter(&self, id: NodeId) -> Write {
        let key = [&[EXCLUDED_VOTER][..], &id.0.to_be_bytes()].concat();
        let record = VoterExclusionRecord { node_id: id.0, excluded: true };
        (key, self.is_excluded_voter(id).then(|| encode_record(record.into())))
    }

    /// All of the image as writes to an empty store, in no particular order.
    pub fn writes(&self) -> impl Iterator<Item = Write> {
        let partitions = self.topics.values().flat_map(|topic| {
            topic
                .partitions
                .keys()
                .map(|index| TopicPartition { topic: topic.id, partition: *index })
        });
        let configs = self
            .configs
            .iter()
            .flat_map(|(resource, overrides)| overrides.keys().map(move |key| (resource, key)));
        [self.header(), self.producer_ids(), self.write_cluster()]
            .into_iter()
            .chain(self.features.keys().map(|name| self.write_feature(name)))
            .chain(self.brokers.keys().map(|id| self.write_broker(*id)))
            .chain(self.topics.keys().map(|id| self.write_topic(*id)))
            .chain(partitions.map(|at| self.write_partition(at)))
            .chain(configs.map(|(resource, key)| self.write_config(resource, key)))
            .chain(self.requests.numbers().map(|number| self.write_request(number)))
            .chain(self.excluded_voters().map(|id| self.write_excluded_voter(id)))
            .filter(|(_, value)| value.is_some())
    }

    /// Reads an image back from the pairs of a store, in any order of families, but with each
    /// topic before its partitions, as the order of keys has it.
    ///
    /// # Errors
    /// Where the pairs are no image that was written by this release or an older one.
    pub fn load<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self, LoadError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut delta = MetadataDelta::new(&Self::default());
        let mut header = None;
        for (key, value) in pairs {
            let (key, value) = (key.as_ref(), value.as_ref());
            if key == [HEADER] {
                let bytes: [u8; 16] =
                    value.try_into().map_err(|_| LoadError::Header(value.len()))?;
                header = Some(u128::from_be_bytes(bytes));
                continue;
            }
            let record = decode_record(value)
                .map_err(|source| LoadError::Value { key: key.to_owned(), source })?;
            if let Record::Partition(partition) = &record
                && delta.after.topic(partition.topic_id.into()).is_none()
            {
                return Err(LoadError::Orphan(partition.topic_id.into()));
            }
            match (&record, request_number(key)) {
                // There may be millions.
                (Record::Config(config), _) => drop(delta.after.set_config(config)),
                (Record::Request(request), Some(number)) => {
                    delta.after.requests.put(number, DecidedRequest::from_record(request));
                }
                _ => delta.fold(&record),
            }
            delta.forget_changes();
        }
        let mut image = delta.after;
        if let Some(header) = header {
            image.applied_index = (header >> 64) as u64;
            image.last_broker_epoch = BrokerEpoch(header as i64);
        }
        image.check()?;
        Ok(image)
    }
}

impl MetadataDelta {
    /// What to write to a store that holds the image before, so that it holds the image after.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        let (before, after) = (&self.before, &self.after);
        let mut writes = vec![after.header()];
        if self.cluster {
            writes.push(after.write_cluster());
        }
        if before.next_producer_id != after.next_producer_id {
            writes.push(after.producer_ids());
        }
        writes.extend(self.features.iter().map(|name| after.write_feature(name)));
        writes.extend(self.brokers.iter().map(|id| after.write_broker(*id)));
        for (id, topic) in &self.topics {
            if topic.created || topic.deleted {
                writes.push(after.write_topic(*id));
            }
            let partition =
                |index: &PartitionIndex| TopicPartition { topic: *id, partition: *index };
            if topic.deleted {
                let gone = before.topic(*id).into_iter().flat_map(|t| t.partitions.keys());
                writes.extend(gone.map(|index| (partition_key(partition(index)), None)));
            }
            let changed = topic.partitions.iter();
            writes.extend(changed.map(|index| after.write_partition(partition(index))));
        }
        for (resource, keys) in &self.configs {
            writes.extend(keys.iter().map(|key: &Arc<str>| after.write_config(resource, key)));
        }
        writes.extend(self.requests.iter().map(|number| after.write_request(*number)));
        writes.extend(self.excluded_voters.iter().map(|id| after.write_excluded_voter(*id)));
        writes
    }

    /// While loading, the delta would otherwise grow to the size of the image.
    fn forget_changes(&mut self) {
        self.topics.clear();
        self.brokers.clear();
        self.configs.clear();
        self.features.clear();
        self.requests.clear();
        self.excluded_voters.clear();
    }
}

impl Default for MetadataDelta {
    fn default() -> Self {
        Self::new(&MetadataImage::default())
    }
}

impl MetadataImage {
    /// A figure that equal images share and different ones do not, but by accident: for comparing
    /// replicas in tests. Reads the whole image.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = rustc_hash::FxHasher::default();
        for write in self.writes() {
            write.hash(&mut hasher);
        }
        hasher.finish()
    }
}
