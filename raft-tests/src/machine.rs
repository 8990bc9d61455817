//! The state machines of the simulation: registers for the clients, and the cluster's metadata as
//! production folds it. Both live as pairs in the stored image.

use std::{collections::BTreeMap, hash::BuildHasher as _};

use bytes::Bytes;
use ottla::{
    base::ClusterId,
    metadata::{
        Batch, MetadataImage, features,
        records::{ConfigRecord, PartitionRecord, RemoveTopicRecord, TopicRecord},
    },
    quorum::Machine,
};
use rand::{RngExt as _, rngs::SmallRng};
use rustc_hash::FxBuildHasher;
use uuid::Uuid;

use crate::linear::{Key, Value};

const REGISTER: u8 = b'r';
const METADATA: u8 = b'm';
const TOPICS: u8 = 12;
/// Kafka's number for the configuration of a topic.
const TOPIC: i32 = 2;

/// A digest that is the same in every run.
pub(crate) fn digest_of(value: impl std::hash::Hash) -> u64 {
    FxBuildHasher.hash_one(value)
}

/// What a payload changes in the stored image.
pub(crate) type Writes = Vec<(Bytes, Option<Bytes>)>;

/// The folded state of one node.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pairs: BTreeMap<Bytes, Bytes>,
    metadata: MetadataImage,
    /// Of all pairs, whatever their order of arrival.
    digest: u64,
}

pub(crate) fn set_register(key: Key, value: Value) -> Bytes {
    let mut payload = vec![REGISTER, key];
    payload.extend(value.to_be_bytes());
    payload.into()
}

/// A change of the metadata: a topic comes or goes, or is configured.
pub(crate) fn change_topic(rng: &mut SmallRng) -> Bytes {
    let (topic, what) = (rng.random_range(0..TOPICS), rng.random_range(0..4));
    vec![METADATA, topic, what].into()
}

impl State {
    /// # Errors
    /// Where the pairs are none that the machines wrote.
    pub(crate) fn load(pairs: impl IntoIterator<Item = (Bytes, Bytes)>) -> anyhow::Result<Self> {
        let mut state = Self::default();
        for (key, value) in pairs {
            state.set(key, Some(value));
        }
        let metadata = state.pairs.range(Bytes::from_static(&[METADATA])..);
        let metadata = metadata.take_while(|(key, _)| key[0] == METADATA);
        let mut metadata = metadata.map(|(key, value)| (key.slice(1..), value.clone()));
        state.metadata = Machine::load(0, &mut metadata)?;
        Ok(state)
    }

    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) const fn metadata(&self) -> &MetadataImage {
        &self.metadata
    }

    pub(crate) fn register(&self, key: Key) -> Value {
        let value = self.pairs.get(&Bytes::copy_from_slice(&[REGISTER, key]));
        value.and_then(|v| v[..].try_into().ok()).map_or(0, u64::from_be_bytes)
    }

    /// # Errors
    /// Where the payload is none of this module's.
    pub(crate) fn apply(&mut self, index: u64, payload: &Bytes) -> anyhow::Result<Writes> {
        let writes = match payload.first() {
            None => Writes::new(),
            Some(&REGISTER) => vec![(payload.slice(..2), Some(payload.slice(2..)))],
            Some(_) => {
                let batch = Batch::decode(&self.decide(payload[1], payload[2]).encode())?;
                let (metadata, delta) = self.metadata.apply(index, &batch);
                let writes = Machine::writes(&metadata, &delta).into_iter();
                self.metadata = metadata;
                writes.map(|(key, value)| (prefixed(&key), value)).collect()
            }
        };
        for (key, value) in &writes {
            self.set(key.clone(), value.clone());
        }
        Ok(writes)
    }

    /// In production the controller decides before it proposes, and lets nothing come in between.
    /// Here the outcome depends on the state that the entry meets.
    fn decide(&self, topic: u8, what: u8) -> Batch {
        let mut batch = features::bootstrap(ClusterId(Uuid::from_u128(1)));
        if self.metadata.cluster_id().is_none() {
            return batch;
        }
        let (id, name) = (Uuid::from_u128(u128::from(topic) + 1), format!("topic-{topic}"));
        let exists = self.metadata.topic_by_name(&name).is_some();
        batch.records = match (exists, what) {
            (true, 0) => vec![RemoveTopicRecord { topic_id: id.into() }.into()],
            (true, _) => vec![
                ConfigRecord {
                    resource_type: TOPIC,
                    resource_name: name,
                    name: "retention.ms".to_owned(),
                    value: (what > 1).then(|| what.to_string()),
                }
                .into(),
            ],
            (false, _) => {
                let partition = PartitionRecord {
                    topic_id: id.into(),
                    replicas: vec![1],
                    isr: vec![1],
                    directories: vec![Uuid::from_u128(9).into()],
                    ..PartitionRecord::default()
                };
                vec![TopicRecord { name, topic_id: id.into() }.into(), partition.into()]
            }
        };
        batch
    }

    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        let old = match &value {
            Some(value) => self.pairs.insert(key.clone(), value.clone()),
            None => self.pairs.remove(&key),
        };
        if let Some(old) = old {
            self.digest = self.digest.wrapping_sub(digest_of((&key, old)));
        }
        if let Some(value) = value {
            self.digest = self.digest.wrapping_add(digest_of((&key, value)));
        }
    }
}

fn prefixed(key: &[u8]) -> Bytes {
    [&[METADATA], key].concat().into()
}
