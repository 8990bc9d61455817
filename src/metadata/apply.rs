//! Folds records into the image, at a cost of what they change.
//!
//! Total for every log that the controller wrote. A record that refers to what does not exist means
//! that this node's state has parted from the cluster's: it asserts, for going on would spread it.

use std::sync::Arc;

use crate::{
    base::{BrokerEpoch, Epoch, NodeId, PartitionIndex, ProducerId, TopicId, TopicPartition},
    metadata::{
        Batch, Broker, ConfigResource, ConfigResourceType, MetadataDelta, MetadataImage, Partition,
        Record, Topic, TopicDelta,
        records::{
            BrokerRegistrationChangeRecord, ConfigRecord, NodeList, PartitionChangeRecord,
            PartitionRecord, RegisterBrokerRecord,
        },
    },
};

impl MetadataImage {
    /// The image after the entry at `index`, and what that changed.
    ///
    /// # Panics
    /// Where a record does not fit the image, or `index` was applied before.
    #[must_use]
    pub fn apply(&self, index: u64, batch: &Batch) -> (Self, MetadataDelta) {
        assert!(
            index > self.applied_index,
            "entry {index} comes after {}, which is applied",
            self.applied_index
        );
        let mut delta = MetadataDelta::new(self);
        for record in &batch.records {
            delta.fold(record);
        }
        delta.after.applied_index = index;
        (delta.after.clone(), delta)
    }
}

impl MetadataDelta {
    pub(crate) fn fold(&mut self, record: &Record) {
        match record {
            Record::Cluster(record) => {
                assert!(self.after.cluster_id.is_none(), "a cluster is bootstrapped once");
                self.after.cluster_id = Some(record.cluster_id.into());
                self.cluster = true;
            }
            Record::FeatureLevel(record) => {
                let name: Arc<str> = record.name.as_str().into();
                if record.feature_level == 0 {
                    self.after.features.remove(&*name);
                } else {
                    self.after.features.insert(Arc::clone(&name), record.feature_level);
                }
                self.features.insert(name);
            }
            Record::RegisterBroker(record) => self.register_broker(record),
            Record::UnregisterBroker(record) => {
                let id = NodeId(record.broker_id);
                let was = self.after.brokers.remove(&id);
                assert!(was.is_some(), "broker {id} unregisters without being registered");
                self.brokers.insert(id);
            }
            Record::BrokerRegistrationChange(record) => self.change_broker(record),
            Record::Topic(record) => {
                let (id, name) = (record.topic_id.into(), Arc::<str>::from(record.name.as_str()));
                let same_name = self.after.topic_ids.insert(Arc::clone(&name), id);
                assert!(same_name.is_none(), "topic {name} exists");
                let topic = Topic { id, name: Arc::clone(&name), partitions: imbl::OrdMap::new() };
                let same_id = self.after.topics.insert(id, topic);
                assert!(same_id.is_none(), "topic id {id} exists");
                self.topic(id, &name).created = true;
            }
            Record::Partition(record) => self.add_partition(record),
            Record::PartitionChange(record) => self.change_partition(record),
            Record::RemoveTopic(record) => self.remove_topic(record.topic_id.into()),
            Record::Config(record) => self.set_config(record),
            Record::ProducerIds(record) => {
                self.after.next_producer_id = ProducerId(record.next_producer_id);
            }
            Record::NoOp(_) => {}
            Record::VoterExclusion(record) => {
                let id = NodeId(record.node_id);
                if record.excluded {
                    self.after.excluded_voters.insert(id);
                } else {
                    self.after.excluded_voters.remove(&id);
                }
                self.excluded_voters.insert(id);
            }
            Record::Request(record) => {
                let changed = &mut self.requests;
                self.after.requests.decided(record, |number| {
                    changed.insert(number);
                });
            }
        }
    }

    fn topic(&mut self, id: TopicId, name: &Arc<str>) -> &mut TopicDelta {
        self.topics.entry(id).or_insert_with(|| TopicDelta {
            name: Arc::clone(name),
            created: false,
            deleted: false,
            partitions: Default::default(),
        })
    }

    fn register_broker(&mut self, record: &RegisterBrokerRecord) {
        let broker = Broker::from_record(record);
        let id = broker.id;
        self.after.last_broker_epoch = self.after.last_broker_epoch.max(broker.epoch);
        self.after.brokers.insert(id, Arc::new(broker));
        self.brokers.insert(id);
    }

    fn change_broker(&mut self, record: &BrokerRegistrationChangeRecord) {
        let id = NodeId(record.broker_id);
        let Some(broker) = self.after.brokers.get_mut(&id) else {
            panic!("broker {id} changes without being registered");
        };
        assert_eq!(broker.epoch, BrokerEpoch(record.broker_epoch), "broker {id} changes");
        let broker = Arc::make_mut(broker);
        if let Some(fenced) = record.fenced {
            broker.fenced = fenced;
        }
        if let Some(in_controlled_shutdown) = record.in_controlled_shutdown {
            broker.in_controlled_shutdown = in_controlled_shutdown;
        }
        if let Some(list) = &record.log_dirs {
            broker.directories = list.directories.iter().map(|d| (*d).into()).collect();
        }
        self.brokers.insert(id);
    }

    fn add_partition(&mut self, record: &PartitionRecord) {
        let at = record.partition();
        let partition = Partition::from_record(record);
        self.index_replicas(at, &[], &partition.replicas);
        let Some(topic) = self.after.topics.get_mut(&at.topic) else {
            panic!("partition {} of topic {}, which does not exist", at.partition, at.topic);
        };
        let name = Arc::clone(&topic.name);
        let was = topic.partitions.insert(at.partition, Arc::new(partition));
        assert!(was.is_none(), "partition {} of topic {name} exists", at.partition);
        self.after.partition_count += 1;
        self.topic(at.topic, &name).partitions.insert(at.partition);
    }

    fn change_partition(&mut self, record: &PartitionChangeRecord) {
        let at = record.partition();
        let Some(topic) = self.after.topics.get_mut(&at.topic) else {
            panic!("partition {} of topic {}, which does not exist", at.partition, at.topic);
        };
        let name = Arc::clone(&topic.name);
        let Some(partition) = topic.partitions.get_mut(&at.partition) else {
            panic!("topic {name} has no partition {}", at.partition);
        };
        let before = Arc::clone(partition);
        let partition = Arc::make_mut(partition);
        partition.change(record);
        if before.replicas != partition.replicas {
            let replicas = partition.replicas.clone();
            self.index_replicas(at, &before.replicas, &replicas);
        }
        self.topic(at.topic, &name).partitions.insert(at.partition);
    }

    fn remove_topic(&mut self, id: TopicId) {
        let Some(topic) = self.after.topics.remove(&id) else {
            panic!("topic {id} is removed without being there");
        };
        self.after.topic_ids.remove(&topic.name);
        for (index, partition) in &topic.partitions {
            let at = TopicPartition { topic: id, partition: *index };
            self.index_replicas(at, &partition.replicas, &[]);
        }
        self.after.partition_count -= topic.partitions.len();
        let resource = ConfigResource::topic(&topic.name);
        if let Some(overrides) = self.after.configs.remove(&resource) {
            self.configs.entry(resource).or_default().extend(overrides.keys().cloned());
        }
        let delta = self.topic(id, &topic.name);
        delta.deleted = true;
        delta.partitions.clear();
    }

    fn index_replicas(&mut self, at: TopicPartition, before: &[NodeId], after: &[NodeId]) {
        for node in before.iter().filter(|node| !after.contains(node)) {
            if let Some(partitions) = self.after.replicas.get_mut(node) {
                partitions.remove(&at);
                if partitions.is_empty() {
                    self.after.replicas.remove(node);
                }
            }
        }
        for node in after.iter().filter(|node| !before.contains(node)) {
            self.after.replicas.entry(*node).or_default().insert(at);
        }
    }

    fn set_config(&mut self, record: &ConfigRecord) {
        let (resource, key) = self.after.set_config(record);
        self.configs.entry(resource).or_default().insert(key);
    }
}

impl MetadataImage {
    /// Returns what it sets.
    pub(super) fn set_config(&mut self, record: &ConfigRecord) -> (ConfigResource, Arc<str>) {
        let kind = i8::try_from(record.resource_type).ok().and_then(ConfigResourceType::from_wire);
        let Some(kind) = kind else {
            panic!("a configuration of resource type {}", record.resource_type);
        };
        let resource = ConfigResource { kind, name: record.resource_name.as_str().into() };
        let key: Arc<str> = record.name.as_str().into();
        let overrides = self.configs.entry(resource.clone()).or_default();
        match &record.value {
            Some(value) => overrides.insert(Arc::clone(&key), value.as_str().into()),
            None => overrides.remove(&key),
        }
        if overrides.is_empty() {
            self.configs.remove(&resource);
        }
        (resource, key)
    }
}

impl Partition {
    /// Makes the change that `record` names.
    pub(crate) fn change(&mut self, record: &PartitionChangeRecord) {
        fn set(list: &mut Box<[NodeId]>, change: Option<&NodeList>) {
            if let Some(change) = change {
                *list = change.nodes.iter().map(|node| NodeId(*node)).collect();
            }
        }
        set(&mut self.replicas, record.replicas.as_ref());
        set(&mut self.isr, record.isr.as_ref());
        set(&mut self.eligible_leader_replicas, record.eligible_leader_replicas.as_ref());
        set(&mut self.last_known_elr, record.last_known_elr.as_ref());
        set(&mut self.removing_replicas, record.removing_replicas.as_ref());
        set(&mut self.adding_replicas, record.adding_replicas.as_ref());
        self.is_balancing = record.balancing.unwrap_or(self.is_balancing);
        if let Some(list) = &record.directories {
            self.directories = list.directories.iter().map(|d| (*d).into()).collect();
        }
        if let Some(state) = record.leader_recovery_state {
            self.recovering = state != 0;
        }
        if let Some(change) = record.leader {
            self.leader = change.leader.map(NodeId);
            self.leader_epoch = self.leader_epoch.next();
        }
        self.partition_epoch = self.partition_epoch.next();
    }
}

impl Topic {
    /// The number that the next partition gets.
    #[must_use]
    pub fn next_partition(&self) -> PartitionIndex {
        PartitionIndex(self.partitions.len() as i32)
    }
}
