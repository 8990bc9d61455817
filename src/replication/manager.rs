//! All replicas of this node, kept in line with the metadata image.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{StreamExt, stream};
use parking_lot::{Mutex, RwLock};
use tokio::{sync::watch, time::Instant};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Metrics, Misplaced, Opener, Partition,
    alter::IsrQuestions,
    deadlines::Deadlines,
    leader::Registration,
    moves::Moves,
    partition::{Assignment, Shared},
    streams::{self, Upstreams},
    tail::TailMemory,
    throttle::{Rates, Throttles},
};
use crate::{
    base::{
        Blocking, BlockingStopped, BrokerEpoch, Clock, HashMap, NodeId, Offset, PartitionIndex,
        TopicPartition,
    },
    config::{BrokerConfig, NodeConfig, TopicConfig, TopicLayers},
    log::{self, Log, LogConfig, LogDirectory, LogError},
    metadata::{self, ConfigResource, ConfigResourceType, MetadataDelta, MetadataImage},
    transport::{Stream, StreamClass},
};

/// Logs that are opened or created at a time, per step.
const OPEN_BATCH: usize = 64;

/// What the partitions of a node are built on.
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
    /// Names this process: it acts on its own registration only.
    pub incarnation: Uuid,
    /// Opens streams to the nodes that lead what this one follows.
    pub opener: Opener,
}

/// The log directories could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The node is stopping.
    #[error(transparent)]
    Stopped(#[from] BlockingStopped),
}

/// The replicas of this node.
pub struct Partitions {
    pub(super) config: PartitionsConfig,
    pub(super) shared: Arc<Shared>,
    broker_epoch: Mutex<Option<BrokerEpoch>>,
    online: RwLock<HashMap<TopicPartition, Arc<Partition>>>,
    /// Replicas that the image gives to this node and that no directory can serve.
    offline: RwLock<BTreeSet<TopicPartition>>,
    /// The logs that are there were looked for: what appears from now on is new.
    pub(super) opened: AtomicBool,
    pub(super) failures: Arc<watch::Sender<usize>>,
    pub(super) misplaced: watch::Sender<Misplaced>,
    pub(super) moves: Moves,
}

impl std::fmt::Debug for Partitions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partitions").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

impl Partitions {
    /// No replicas yet; [`Partitions::open`] brings them.
    #[must_use]
    pub fn new(config: PartitionsConfig) -> Self {
        let lag_ms = config.broker().replica_lag_time_max_ms;
        let throttles = Throttles::new(&config.metrics);
        let shared = Shared {
            node: config.node.node_id,
            origin: Instant::now(),
            clock: Arc::clone(&config.clock),
            blocking: config.blocking.clone(),
            metrics: config.metrics.clone(),
            replica_lag_time_max_ms: u64::try_from(lag_ms).unwrap_or(0),
            tails: TailMemory::default(),
            deadlines: Deadlines::default(),
            questions: IsrQuestions::default(),
            upstreams: Upstreams::new(Arc::clone(&config.opener), Arc::clone(&throttles)),
            throttles,
        };
        let failures = Arc::new(watch::Sender::new(0));
        for directory in &config.directories {
            let failures = Arc::clone(&failures);
            directory.on_offline(move |_| failures.send_modify(|count| *count += 1));
        }
        Self {
            config,
            shared: Arc::new(shared),
            broker_epoch: Mutex::default(),
            online: RwLock::default(),
            offline: RwLock::default(),
            opened: AtomicBool::new(false),
            failures,
            misplaced: watch::Sender::default(),
            moves: Moves::default(),
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

    pub(super) fn offline_ids(&self) -> Vec<TopicPartition> {
        self.offline.read().iter().copied().collect()
    }

    /// Lets go of a replica whose log is to be begun anew.
    pub(super) fn forget(&self, id: TopicPartition) {
        self.online.write().remove(&id);
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
        let directories = self.config.directories.clone();
        // A directory that fails at it is offline, and says so.
        let _ = self.config.blocking.run(move || log::settle(&directories)).await?;
        for directory in self.working_directories() {
            self.load(directory, &configs, &progress).await?;
            self.delete_strays(directory, image).await?;
        }
        self.set_doubles_aside(image).await?;
        self.delete_stray_moved(image).await?;
        self.reconcile(image).await?;
        self.resume_moves(image, |topic| configs.log(topic)).await?;
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
        self.know_oneself(image);
        self.shared.throttles.set(configs.rates());
        self.delete(|id| !mine.contains(id)).await?;
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
        let node = self.config.node.node_id;
        let mut changed = BTreeSet::new();
        for (topic, change) in delta.topics() {
            if change.deleted {
                self.delete(|id| id.topic == *topic).await?;
                continue;
            }
            let id = |partition: &PartitionIndex| TopicPartition {
                topic: *topic,
                partition: *partition,
            };
            changed.extend(change.partitions.iter().map(id));
        }
        let leaves = |id: &TopicPartition| {
            changed.contains(id) && image.partition(*id).is_none_or(|p| !p.replicas.contains(&node))
        };
        self.delete(leaves).await?;
        // Which replicas may be in sync, and what this node may do, depends on registrations.
        for broker in delta.brokers() {
            let online = self.online.read();
            changed.extend(image.partitions_of(*broker).filter(|id| online.contains_key(id)));
        }
        self.know_oneself(image);
        self.take_up(image, &configs, changed.into_iter().collect()).await?;
        self.apply_configs(image, delta, &configs);
        Ok(())
    }

    /// Stops leading and following everywhere, so that whoever waits is told. The logs stay open.
    pub fn rest_all(&self) {
        for partition in self.all() {
            partition.rest();
        }
        self.shared.upstreams.stop();
    }

    /// Serves a stream that a follower has opened, until it ends.
    pub async fn serve(self: Arc<Self>, class: StreamClass, stream: Stream) {
        streams::serve(self, class, stream).await;
    }

    /// Whether the image that was followed last knows this process.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.broker_epoch().is_some()
    }

    /// The registration of this process, once there is one.
    pub(super) fn broker_epoch(&self) -> Option<BrokerEpoch> {
        *self.broker_epoch.lock()
    }

    fn know_oneself(&self, image: &MetadataImage) {
        let own = image.broker(self.config.node.node_id);
        let own = own.filter(|broker| broker.incarnation_id == self.config.incarnation);
        *self.broker_epoch.lock() = own.map(|broker| broker.epoch);
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
        let threads = self.config.broker().num_recovery_threads_per_data_dir;
        let threads = usize::try_from(threads).unwrap_or(1).max(1);
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
        self.make_way(image, &ids);
        let missing: Vec<_> = ids.iter().copied().filter(|id| self.lookup(*id).is_none()).collect();
        for chunk in missing.chunks(OPEN_BATCH) {
            self.create(image, configs, chunk).await?;
        }
        for id in &ids {
            self.assign(image, configs, *id);
        }
        self.compare_places(image, &ids);
        Ok(self.delete_moved(image, &ids).await?)
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
                    let log = directory.create(&topic, id.partition, id.topic, config, now_ms)?;
                    let high_watermark = directory.high_watermark(log.name());
                    Ok((log, high_watermark.unwrap_or(Offset::ZERO)))
                });
                created.push((id, topic, log));
            }
            created
        };
        for (id, topic, log) in self.config.blocking.run(create).await? {
            match log {
                Ok((log, high_watermark)) => {
                    let config = configs.topic(&topic);
                    let shared = Arc::clone(&self.shared);
                    let partition = Partition::new(id, topic, log, high_watermark, config, shared);
                    self.offline.write().remove(&id);
                    self.online.write().insert(id, partition);
                }
                Err(error) => {
                    if self.offline.write().insert(id) {
                        error!(%topic, partition = %id.partition, %error, "a replica is offline");
                    }
                }
            }
        }
        Ok(())
    }

    /// Has a replica do what the image says, as the image has it set.
    fn assign(&self, image: &MetadataImage, configs: &TopicConfigs<'_>, id: TopicPartition) {
        let (Some(partition), Some(registered)) = (self.lookup(id), image.partition(id)) else {
            return;
        };
        let (config, log_config) = configs.both(partition.topic());
        partition.log().set_config(log_config);
        let node = self.config.node.node_id;
        // What an image says that does not know this process speaks of another one.
        let assignment = match (registered.leader, self.broker_epoch()) {
            (Some(leader), Some(_)) if leader == node => {
                let balanced = match registered.is_balancing {
                    true => registered.adding_replicas.to_vec(),
                    false => Vec::new(),
                };
                Assignment::Lead(registration(image, registered, &config), balanced)
            }
            (Some(leader), Some(broker_epoch)) => {
                let leader_epoch = registered.leader_epoch;
                Assignment::Follow { leader, leader_epoch, broker_epoch }
            }
            _ => Assignment::Rest,
        };
        partition.assign(assignment, config);
    }

    /// Deletes the replicas that are not this node's any more.
    async fn delete(&self, is_gone: impl Fn(&TopicPartition) -> bool) -> Result<(), OpenError> {
        let gone: Vec<_> = {
            let mut online = self.online.write();
            online.extract_if(|id, _| is_gone(id)).map(|(_, partition)| partition).collect()
        };
        self.offline.write().retain(|id| !is_gone(id));
        self.misplaced.send_if_modified(|misplaced| {
            misplaced.retain(|id, _| !is_gone(id));
            false
        });
        if gone.is_empty() {
            return Ok(());
        }
        self.give_up_moves(&is_gone).await?;
        for partition in &gone {
            partition.rest();
        }
        let directories = self.config.directories.clone();
        let delete = move || {
            for partition in gone {
                let (topic, index) = (partition.topic(), partition.id().partition);
                for directory in &directories {
                    if let Err(error) = directory.delete_moved(&format!("{topic}-{index}")) {
                        warn!(%topic, partition = %index, %error, "a log could not be deleted");
                    }
                    let held = directory.log(topic, index);
                    if !held.is_some_and(|log| Arc::ptr_eq(&log, &partition.log())) {
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
        if brokers {
            self.shared.throttles.set(configs.rates());
        }
        for partition in self.all().iter().filter(|partition| changed(partition)) {
            for one in self.moves().iter().filter(|one| one.partition().id() == partition.id()) {
                one.future().set_config(configs.log(partition.topic()));
            }
            self.assign(image, configs, partition.id());
        }
    }

    /// Writes the checkpoints of all directories. Blocks.
    pub fn checkpoint(&self) {
        let high_watermarks = || {
            let partitions = self.all();
            let known = partitions.iter().map(|partition| {
                (partition.log().name().to_owned(), partition.known_high_watermark())
            });
            known.collect::<BTreeMap<String, Offset>>()
        };
        for directory in self.working_directories() {
            let written = directory
                .checkpoint()
                .and_then(|()| directory.checkpoint_high_watermarks(high_watermarks));
            if let Err(error) = written {
                warn!(directory = directory.location(), %error, "checkpoints were not written");
            }
        }
    }

    /// Closes all logs in order, so that the next start has nothing to recover. Blocks.
    pub fn close(&self) {
        self.rest_all();
        // A directory's marker of a clean end comes last.
        self.checkpoint();
        for directory in self.working_directories() {
            if let Err(error) = directory.close() {
                error!(directory = directory.location(), %error, "not closed in order");
            }
        }
    }
}

impl PartitionsConfig {
    /// What cannot be changed while the node runs.
    fn broker(&self) -> BrokerConfig {
        BrokerConfig::resolve(self.node.layers(&(), &()))
    }
}

/// A partition's registration as its leader acts on it.
fn registration(
    image: &MetadataImage,
    registered: &metadata::Partition,
    config: &TopicConfig,
) -> Registration {
    let active = |node: &NodeId| {
        let broker = image.broker(*node).filter(|broker| registered.is_active_on(broker))?;
        Some((*node, broker.epoch))
    };
    Registration {
        leader_epoch: registered.leader_epoch,
        partition_epoch: registered.partition_epoch,
        replicas: registered.replicas.iter().copied().collect(),
        isr: registered.isr.iter().copied().collect(),
        recovering: registered.recovering,
        min_insync_replicas: usize::try_from(config.min_insync_replicas).unwrap_or(1),
        active: registered.replicas.iter().filter_map(active).collect(),
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

    fn rates(&self) -> Rates {
        let layers = self.node.layers(&self.broker, &self.cluster_default);
        Rates::of(&BrokerConfig::resolve(layers))
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
