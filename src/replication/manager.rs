//! All replicas of this node, kept in line with the metadata image.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{StreamExt, stream};
use parking_lot::RwLock;
use tokio::{sync::watch, time::Instant};
use tracing::{error, info, warn};

use super::{Metrics, Misplaced, Partition, leader::Registration, partition::Shared};
use crate::{
    base::{
        Blocking, BlockingStopped, Clock, HashMap, NodeId, Offset, PartitionIndex, TopicId,
        TopicPartition,
    },
    config::{BrokerConfig, NodeConfig, TopicConfig, TopicLayers},
    log::{Log, LogConfig, LogDirectory, LogError},
    metadata::{ConfigResource, ConfigResourceType, MetadataDelta, MetadataImage},
};

/// Logs that are opened or created at a time, per step.
const OPEN_BATCH: usize = 64;

/// What the partitions of a node are built on.
#[derive(Debug)]
pub struct PartitionsConfig {
    /// This node.
    pub node: Arc<NodeConfig>,
    /// Its log directories, opened but without logs.
    pub directories: Vec<Arc<LogDirectory>>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where flushes and files are handled.
    pub blocking: Blocking,
    /// What partitions count.
    pub metrics: Metrics,
}

/// The log directories could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The node is stopping.
    #[error(transparent)]
    Stopped(#[from] BlockingStopped),
}

/// The replicas of this node.
#[derive(Debug)]
pub struct Partitions {
    pub(super) config: PartitionsConfig,
    shared: Arc<Shared>,
    online: RwLock<HashMap<TopicPartition, Arc<Partition>>>,
    /// Replicas that the image gives to this node and that no directory can serve.
    offline: RwLock<BTreeSet<TopicPartition>>,
    /// The logs that are there were looked for: what appears from now on is new.
    pub(super) opened: AtomicBool,
    pub(super) failures: Arc<watch::Sender<usize>>,
    pub(super) misplaced: watch::Sender<Misplaced>,
}

impl Partitions {
    /// No replicas yet; [`Partitions::open`] brings them.
    #[must_use]
    pub fn new(config: PartitionsConfig) -> Self {
        let shared = Shared {
            node: config.node.node_id,
            origin: Instant::now(),
            clock: Arc::clone(&config.clock),
            blocking: config.blocking.clone(),
            metrics: config.metrics.clone(),
        };
        let failures = Arc::new(watch::Sender::new(0));
        for directory in &config.directories {
            let failures = Arc::clone(&failures);
            directory.on_offline(move |_| failures.send_modify(|count| *count += 1));
        }
        Self {
            config,
            shared: Arc::new(shared),
            online: RwLock::default(),
            offline: RwLock::default(),
            opened: AtomicBool::new(false),
            failures,
            misplaced: watch::Sender::default(),
        }
    }

    /// The log directories.
    #[must_use]
    pub fn directories(&self) -> &[Arc<LogDirectory>] {
        &self.config.directories
    }

    /// Where files are handled.
    #[must_use]
    pub const fn blocking(&self) -> &Blocking {
        &self.config.blocking
    }

    /// A replica of this node.
    #[must_use]
    pub fn lookup(&self, id: TopicPartition) -> Option<Arc<Partition>> {
        self.online.read().get(&id).cloned()
    }

    /// Whether the replica should be here but its log directory has failed.
    #[must_use]
    pub fn is_offline(&self, id: TopicPartition) -> bool {
        self.offline.read().contains(&id)
    }

    /// How many replicas should be here and could not be opened.
    #[must_use]
    pub fn offline_count(&self) -> usize {
        self.offline.read().len()
    }

    /// All replicas of this node that were opened.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.online.read().values().cloned().collect()
    }

    /// Opens the logs that are there, deletes those whose topic is gone, and takes up what the image
    /// gives to this node. `progress` hears how many of how many logs are open.
    ///
    /// # Errors
    /// Where the node stops. A directory that fails goes offline, and its replicas with it.
    pub async fn open(
        &self,
        image: &MetadataImage,
        progress: impl Fn(usize, usize),
    ) -> Result<(), OpenError> {
        let configs = TopicConfigs::new(&self.config.node, image);
        for directory in self.working_directories() {
            self.load(directory, &configs, &progress).await?;
            self.delete_strays(directory, image).await?;
        }
        self.reconcile(image).await?;
        self.opened.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Brings the replicas in line with an image, whatever was there before.
    ///
    /// # Errors
    /// Where the node stops.
    pub async fn reconcile(&self, image: &MetadataImage) -> Result<(), OpenError> {
        let configs = TopicConfigs::new(&self.config.node, image);
        let mine: BTreeSet<_> = image.partitions_of(self.config.node.node_id).collect();
        let gone: BTreeSet<_> = {
            let online = self.online.read();
            online.keys().filter(|id| !mine.contains(id)).map(|id| id.topic).collect()
        };
        for topic in gone {
            self.delete(topic).await?;
        }
        self.take_up(image, &configs, mine.into_iter().collect()).await
    }

    /// Brings the replicas in line with a change.
    ///
    /// # Errors
    /// Where the node stops.
    pub async fn apply(
        &self,
        image: &MetadataImage,
        delta: &MetadataDelta,
    ) -> Result<(), OpenError> {
        let configs = TopicConfigs::new(&self.config.node, image);
        let mut changed = Vec::new();
        for (topic, change) in delta.topics() {
            if change.deleted {
                self.delete(*topic).await?;
            } else {
                let id = |partition: &PartitionIndex| TopicPartition {
                    topic: *topic,
                    partition: *partition,
                };
                changed.extend(change.partitions.iter().map(id));
            }
        }
        self.take_up(image, &configs, changed).await?;
        self.apply_configs(image, delta, &configs);
        Ok(())
    }

    /// Stops leading everywhere, so that whoever waits is told. The logs stay open.
    pub fn resign_all(&self) {
        for partition in self.all() {
            partition.resign();
        }
    }

    async fn load(
        &self,
        directory: &Arc<LogDirectory>,
        configs: &TopicConfigs<'_>,
        progress: &impl Fn(usize, usize),
    ) -> Result<(), OpenError> {
        let names = directory.found();
        let now_ms = self.config.clock.wall_ms();
        let chunks: Vec<Vec<(String, Arc<LogConfig>)>> = names
            .chunks(OPEN_BATCH)
            .map(|names| {
                let config = |name: &String| {
                    let topic = name.rsplit_once('-').map_or(name.as_str(), |(topic, _)| topic);
                    (name.clone(), configs.log(topic))
                };
                names.iter().map(config).collect()
            })
            .collect();
        let load = |chunk: Vec<(String, Arc<LogConfig>)>| {
            let directory = Arc::clone(directory);
            self.config.blocking.run(move || {
                let opened = chunk.len();
                for (name, config) in chunk {
                    load_one(&directory, &name, config, now_ms);
                }
                opened
            })
        };
        let threads = self.config.node_threads();
        let mut loading = stream::iter(chunks.into_iter().map(load)).buffer_unordered(threads);
        let mut opened = 0;
        while let Some(count) = loading.next().await {
            opened += count?;
            progress(opened, names.len());
        }
        Ok(())
    }

    /// Logs of topics that were deleted while the node was away, or that moved elsewhere.
    async fn delete_strays(
        &self,
        directory: &Arc<LogDirectory>,
        image: &MetadataImage,
    ) -> Result<(), OpenError> {
        let node = self.config.node.node_id;
        let stray = |log: &Arc<Log>| {
            let (topic, partition) = log.name().rsplit_once('-')?;
            let partition = PartitionIndex(partition.parse().ok()?);
            let known = image
                .partition(TopicPartition { topic: log.topic_id(), partition })
                .is_some_and(|known| known.replicas.contains(&node));
            (!known).then(|| (topic.to_owned(), partition))
        };
        let strays: Vec<_> = directory.logs().iter().filter_map(stray).collect();
        let directory = Arc::clone(directory);
        let delete = move || {
            for (topic, partition) in strays {
                info!(%topic, %partition, "delete a log that belongs to no topic of this node");
                if let Err(error) = directory.delete(&topic, partition) {
                    warn!(%topic, %partition, %error, "a log could not be deleted");
                }
            }
        };
        Ok(self.config.blocking.run(delete).await?)
    }

    async fn take_up(
        &self,
        image: &MetadataImage,
        configs: &TopicConfigs<'_>,
        ids: Vec<TopicPartition>,
    ) -> Result<(), OpenError> {
        let missing: Vec<_> = ids.iter().copied().filter(|id| self.lookup(*id).is_none()).collect();
        for chunk in missing.chunks(OPEN_BATCH) {
            self.create(image, configs, chunk).await?;
        }
        for id in &ids {
            self.lead_or_resign(image, configs, *id);
        }
        self.compare_places(image, &ids);
        Ok(())
    }

    async fn create(
        &self,
        image: &MetadataImage,
        configs: &TopicConfigs<'_>,
        ids: &[TopicPartition],
    ) -> Result<(), OpenError> {
        let node = self.config.node.node_id;
        let now_ms = self.config.clock.wall_ms();
        let mut jobs = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(topic) = image.topic(id.topic) else { continue };
            let Some(registered) = topic.partition(id.partition) else { continue };
            let Some(directory) = registered.directory(node) else { continue };
            let directory = self.place(*id, &topic.name, directory);
            jobs.push((*id, Arc::clone(&topic.name), configs.log(&topic.name), directory));
        }
        let create = move || {
            let mut created = Vec::with_capacity(jobs.len());
            for (id, topic, config, directory) in jobs {
                let log = directory.and_then(|directory| {
                    Ok(directory.create(&topic, id.partition, id.topic, config, now_ms)?)
                });
                created.push((id, topic, log));
            }
            created
        };
        for (id, topic, log) in self.config.blocking.run(create).await? {
            match log {
                Ok(log) => self.add(id, topic, log, configs),
                Err(error) => {
                    if self.offline.write().insert(id) {
                        error!(%topic, partition = %id.partition, %error, "a replica is offline");
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&self, id: TopicPartition, topic: Arc<str>, log: Arc<Log>, configs: &TopicConfigs<'_>) {
        let config = configs.topic(&topic);
        let partition = Partition::new(id, topic, log, config, Arc::clone(&self.shared));
        self.offline.write().remove(&id);
        self.online.write().insert(id, partition);
    }

    fn lead_or_resign(
        &self,
        image: &MetadataImage,
        configs: &TopicConfigs<'_>,
        id: TopicPartition,
    ) {
        let (Some(partition), Some(registered)) = (self.lookup(id), image.partition(id)) else {
            return;
        };
        if registered.leader != Some(self.config.node.node_id) {
            return partition.resign();
        }
        let config = configs.topic(partition.topic());
        let active = |node: &NodeId| {
            image.broker(*node).filter(|b| b.is_active()).map(|broker| (*node, broker.epoch))
        };
        let registration = Registration {
            leader_epoch: registered.leader_epoch,
            partition_epoch: registered.partition_epoch,
            replicas: registered.replicas.iter().copied().collect(),
            isr: registered.isr.iter().copied().collect(),
            recovering: registered.recovering,
            min_insync_replicas: usize::try_from(config.min_insync_replicas).unwrap_or(1),
            active: registered.replicas.iter().filter_map(active).collect(),
        };
        partition.lead(registration, config);
    }

    async fn delete(&self, topic: TopicId) -> Result<(), OpenError> {
        let gone: Vec<_> = {
            let mut online = self.online.write();
            online.extract_if(|id, _| id.topic == topic).map(|(_, partition)| partition).collect()
        };
        self.offline.write().retain(|id| id.topic != topic);
        self.misplaced.send_if_modified(|misplaced| {
            misplaced.retain(|id, _| id.topic != topic);
            false
        });
        for partition in &gone {
            partition.resign();
        }
        let directories = self.config.directories.clone();
        let delete = move || {
            for partition in gone {
                let (topic, index) = (partition.topic(), partition.id().partition);
                for directory in &directories {
                    let held = directory.log(topic, index);
                    if !held.is_some_and(|log| Arc::ptr_eq(&log, partition.log())) {
                        continue;
                    }
                    if let Err(error) = directory.delete(topic, index) {
                        warn!(%topic, partition = %index, %error, "a log could not be deleted");
                    }
                }
            }
        };
        Ok(self.config.blocking.run(delete).await?)
    }

    fn apply_configs(
        &self,
        image: &MetadataImage,
        delta: &MetadataDelta,
        configs: &TopicConfigs<'_>,
    ) {
        let brokers = delta.configs().keys().any(|r| r.kind == ConfigResourceType::Broker);
        let changed = |partition: &Arc<Partition>| {
            brokers || delta.configs().contains_key(&ConfigResource::topic(partition.topic()))
        };
        if delta.configs().is_empty() {
            return;
        }
        for partition in self.all().iter().filter(|partition| changed(partition)) {
            partition.log().set_config(configs.log(partition.topic()));
            partition.set_config(configs.topic(partition.topic()));
            self.lead_or_resign(image, configs, partition.id());
        }
    }

    /// Writes the checkpoints of all directories. Blocks.
    pub fn checkpoint(&self) {
        let mut high_watermarks = BTreeMap::<String, Offset>::new();
        for partition in self.all() {
            if let Some(high_watermark) = partition.high_watermark() {
                high_watermarks.insert(partition.log().name().to_owned(), high_watermark);
            }
        }
        for directory in self.working_directories() {
            let written = directory
                .checkpoint()
                .and_then(|()| directory.checkpoint_high_watermarks(&high_watermarks));
            if let Err(error) = written {
                warn!(directory = directory.location(), %error, "checkpoints were not written");
            }
        }
    }

    /// Closes all logs in order, so that the next start has nothing to recover. Blocks.
    pub fn close(&self) {
        self.resign_all();
        for directory in self.working_directories() {
            if let Err(error) = directory.close() {
                error!(directory = directory.location(), %error, "not closed in order");
            }
        }
    }
}

impl PartitionsConfig {
    fn node_threads(&self) -> usize {
        let broker = BrokerConfig::resolve(self.node.layers(&(), &()));
        usize::try_from(broker.num_recovery_threads_per_data_dir).unwrap_or(1).max(1)
    }
}

fn load_one(directory: &LogDirectory, name: &str, config: Arc<LogConfig>, now_ms: i64) {
    match directory.load(name, config, now_ms) {
        // What recovery cut it has said, and what took the directory offline too.
        Ok(_) | Err(LogError::Offline { .. }) => {}
        Err(error) => error!(log = name, %error, "a log could not be opened"),
    }
}

/// Resolves the settings of topics against one image. Topics without settings of their own share
/// one resolved value.
struct TopicConfigs<'a> {
    node: &'a NodeConfig,
    image: &'a MetadataImage,
    broker: BTreeMap<String, String>,
    cluster_default: BTreeMap<String, String>,
    shared: (Arc<TopicConfig>, Arc<LogConfig>),
}

impl<'a> TopicConfigs<'a> {
    fn new(node: &'a NodeConfig, image: &'a MetadataImage) -> Self {
        let broker = image.config_map(&ConfigResource::broker(node.node_id));
        let cluster_default = image.config_map(&ConfigResource::all_brokers());
        let shared = resolve(node, &broker, &cluster_default, &BTreeMap::new());
        Self { node, image, broker, cluster_default, shared }
    }

    fn both(&self, topic: &str) -> (Arc<TopicConfig>, Arc<LogConfig>) {
        let own = self.image.config_map(&ConfigResource::topic(topic));
        if own.is_empty() {
            return self.shared.clone();
        }
        resolve(self.node, &self.broker, &self.cluster_default, &own)
    }

    fn topic(&self, topic: &str) -> Arc<TopicConfig> {
        self.both(topic).0
    }

    fn log(&self, topic: &str) -> Arc<LogConfig> {
        self.both(topic).1
    }
}

fn resolve(
    node: &NodeConfig,
    broker: &BTreeMap<String, String>,
    cluster_default: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
) -> (Arc<TopicConfig>, Arc<LogConfig>) {
    let broker = node.layers(broker, cluster_default);
    let producer_id_expiration_ms = BrokerConfig::resolve(broker).producer_id_expiration_ms;
    let topic = TopicConfig::resolve(TopicLayers { topic: own, broker });
    let bytes = |value: i32| u32::try_from(value).unwrap_or(u32::MAX);
    let log = LogConfig {
        segment_bytes: bytes(topic.segment_bytes),
        segment_ms: topic.segment_ms,
        segment_jitter_ms: topic.segment_jitter_ms,
        segment_index_bytes: bytes(topic.segment_index_bytes),
        index_interval_bytes: bytes(topic.index_interval_bytes),
        retention_ms: topic.retention_ms,
        retention_bytes: topic.retention_bytes,
        delete: topic.cleanup_policy.delete,
        compact: topic.cleanup_policy.compact,
        min_compaction_lag_ms: topic.min_compaction_lag_ms,
        max_compaction_lag_ms: topic.max_compaction_lag_ms,
        delete_retention_ms: topic.delete_retention_ms,
        min_cleanable_dirty_ratio: topic.min_cleanable_dirty_ratio,
        producer_id_expiration_ms: i64::from(producer_id_expiration_ms),
    };
    (Arc::new(topic), Arc::new(log))
}
