//! How the metadata state machine bears many partitions: time and memory to create, store, load,
//! snapshot and take them over.
//!
//! The production parts, one after the other on one thread: the controller's decisions, the fold
//! into the image, RocksDB. The log is left out, since it holds entries and no partitions.

use std::{fmt::Write as _, fs, path::Path, time::Instant};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use ottla::{
    base::{ClusterId, DirectoryId, NodeId},
    controller::{Config, Controller, Decision, Request, Response},
    metadata::{Batch, MetadataDelta, MetadataImage, features},
    protocol::{
        StrBytes,
        messages::{
            BrokerHeartbeatRequest, BrokerId, BrokerRegistrationRequest, CreateTopicsRequest,
            TopicName,
            broker_registration_request::{Feature, Listener},
            create_topics_request::CreatableTopic,
        },
    },
    quorum::{
        Configuration, Identity, Member, RocksStore, Store,
        store::{Applied, Point, Write},
    },
};
use rand::{SeedableRng as _, rngs::SmallRng};
use uuid::Uuid;

const TERM: u64 = 1;
/// What a snapshot is read and staged by.
const CHUNK_BYTES: usize = 1 << 20;
/// Longer than any lease.
const LATER_MS: u64 = 3_600_000;

/// How many of what.
#[derive(Debug, Args)]
pub(crate) struct Size {
    /// Partitions of all topics.
    #[arg(long, default_value_t = 1_000_000)]
    partitions: u32,
    /// Partitions of each topic.
    #[arg(long, default_value_t = 100)]
    per_topic: u32,
    /// Brokers.
    #[arg(long, default_value_t = 10)]
    brokers: u32,
    /// Replicas of each partition.
    #[arg(long, default_value_t = 3)]
    replicas: u16,
    /// How to print the figures.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How to print the figures.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    /// A table.
    #[default]
    Table,
    /// One object.
    Json,
}

/// Figures with their names and units, in the order in which they were taken.
#[derive(Default)]
struct Figures(Vec<(&'static str, f64, &'static str)>);

impl Figures {
    fn add(&mut self, name: &'static str, value: f64, unit: &'static str) {
        self.0.push((name, value, unit));
    }

    /// Runs a step and notes how long it took.
    fn time<T>(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        let result = step().with_context(|| name.to_owned())?;
        self.add(name, began.elapsed().as_secs_f64() * 1e3, "ms");
        Ok(result)
    }

    fn print(&self, output: Output) {
        let mut text = String::new();
        match output {
            Output::Table => {
                for (name, value, unit) in &self.0 {
                    let _ = writeln!(text, "{name:<62} {value:>12.1} {unit}");
                }
            }
            Output::Json => {
                let one = |(name, value, unit): &(&str, f64, &str)| {
                    format!("  \"{name} ({unit})\": {value:.3}")
                };
                let all: Vec<String> = self.0.iter().map(one).collect();
                let _ = writeln!(text, "{{\n{}\n}}", all.join(",\n"));
            }
        }
        print!("{text}");
    }
}

/// What the process has in memory, in MiB.
fn resident_mib() -> anyhow::Result<f64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).context("statm")?;
    Ok(pages.parse::<f64>()? * 4096.0 / (1 << 20) as f64)
}

fn disk_mib(path: &Path) -> anyhow::Result<f64> {
    let mut bytes = 0;
    for file in fs::read_dir(path)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes as f64 / (1 << 20) as f64)
}

/// A node's part: the image, its store, and the controller.
struct Node {
    image: MetadataImage,
    controller: Controller,
    store: RocksStore,
    rng: SmallRng,
    configuration: Configuration,
    now_ms: u64,
    decided_ms: f64,
    applied_ms: f64,
    stored_ms: f64,
    /// Changes that are not stored yet: the quorum stores several entries together too.
    pending: Option<MetadataDelta>,
}

fn cluster_id() -> ClusterId {
    ClusterId(Uuid::from_u128(1))
}

fn config() -> Config {
    Config::defaults(NodeId(1), cluster_id())
}

fn open(path: &Path) -> anyhow::Result<RocksStore> {
    Ok(RocksStore::open(path)?)
}

impl Node {
    fn new(path: &Path) -> anyhow::Result<Self> {
        let member = Member { node_id: NodeId(1), directory_id: DirectoryId(Uuid::from_u128(1)) };
        let configuration = Configuration::of_voters([(1, member)].into());
        let store = open(path)?;
        let identity = Identity { cluster_id: cluster_id(), member, peer_id: 1 };
        store.initialize(identity, Some(configuration.clone()))?;
        let image = MetadataImage::default();
        let controller = Controller::activate(config(), &image, 0);
        let first = controller.begin(&image);
        let mut node = Self {
            image,
            controller,
            store,
            rng: SmallRng::seed_from_u64(1),
            configuration,
            now_ms: 0,
            decided_ms: 0.0,
            applied_ms: 0.0,
            stored_ms: 0.0,
            pending: None,
        };
        node.apply(&first)?;
        Ok(node)
    }

    fn apply(&mut self, batches: &[Batch]) -> anyhow::Result<()> {
        for batch in batches {
            // As every node does, from the bytes of the log.
            let bytes = batch.encode();
            let began = Instant::now();
            let batch = Batch::decode(&bytes)?;
            let (image, delta) = self.image.apply(self.image.applied_index() + 1, &batch);
            self.image = image;
            self.applied_ms += began.elapsed().as_secs_f64() * 1e3;
            self.pending = Some(match self.pending.take() {
                Some(earlier) => earlier.then(delta),
                None => delta,
            });
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let Some(delta) = self.pending.take() else { return Ok(()) };
        let began = Instant::now();
        let writes = delta.writes().into_iter();
        let writes = writes.map(|(key, value)| (key.into(), value.map(Into::into))).collect();
        let point = Point {
            index: self.image.applied_index(),
            term: TERM,
            configuration: self.configuration.clone(),
        };
        self.store.apply(&Applied { point, writes })?;
        self.stored_ms += began.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }

    fn decide(&mut self, request: Request) -> anyhow::Result<Response> {
        let began = Instant::now();
        let Decision { batches, response } =
            self.controller.decide(&self.image, request, self.now_ms, &mut self.rng);
        self.decided_ms += began.elapsed().as_secs_f64() * 1e3;
        self.apply(&batches)?;
        Ok(response)
    }

    fn register(&mut self, id: u32) -> anyhow::Result<()> {
        let name = |text: &str| StrBytes::from_string(text.to_owned());
        let listener =
            Listener::default().with_name(name("PLAINTEXT")).with_host(name("localhost"));
        let supported = features::SUPPORTED.iter().map(|feature| {
            Feature::default()
                .with_name(name(feature.name))
                .with_min_supported_version(feature.min as i16)
                .with_max_supported_version(feature.max as i16)
        });
        let request = BrokerRegistrationRequest::default()
            .with_broker_id(BrokerId(id as i32))
            .with_cluster_id(name(&cluster_id().to_string()))
            .with_incarnation_id(Uuid::from_u128(id.into()))
            .with_listeners(vec![listener])
            .with_features(supported.collect())
            .with_log_dirs(vec![Uuid::from_u128(100 + u128::from(id))])
            .with_previous_broker_epoch(-1);
        let response = self.decide(Request::BrokerRegistration(request))?;
        ensure!(matches!(response, Response::BrokerRegistration(r) if r.error_code == 0));
        self.heartbeat(id)
    }

    fn heartbeat(&mut self, id: u32) -> anyhow::Result<()> {
        let epoch = self.image.broker(NodeId(id)).map_or(-1, |broker| broker.epoch.0);
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(id as i32))
            .with_broker_epoch(epoch)
            .with_current_metadata_offset(self.image.applied_index() as i64);
        let response = self.decide(Request::BrokerHeartbeat(request))?;
        ensure!(matches!(response, Response::BrokerHeartbeat(r) if r.error_code == 0));
        Ok(())
    }

    fn create(&mut self, name: String, size: &Size) -> anyhow::Result<()> {
        let topic = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(name)))
            .with_num_partitions(size.per_topic as i32)
            .with_replication_factor(size.replicas as i16);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        let response = self.decide(Request::CreateTopics(request))?;
        let created = matches!(&response, Response::CreateTopics(r) if r.topics[0].error_code == 0);
        ensure!(created, "{response:?}");
        self.flush()
    }
}

/// Takes the figures and prints them.
pub(crate) fn measure(size: &Size) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("one");
    let mut figures = Figures::default();
    let mut node = create(size, &path, &mut figures)?;
    small_changes(&mut node, size, &mut figures)?;
    figures.time("leader change: grant leases", || {
        node.controller = Controller::activate(config(), &node.image, node.now_ms);
        Ok(())
    })?;
    figures.time("leader change: the first decision, applied and stored", || {
        node.create("first".to_owned(), size)
    })?;
    fence(&mut node, size, &mut figures)?;
    let Node { image, store, configuration, .. } = node;
    store.sync()?;
    figures.add("stored on disk", disk_mib(&path)?, "MiB");
    drop(store);
    let restarted = restart(&path, &mut figures)?;
    ensure!(restarted == image, "what was loaded is what was stored");
    snapshot(&path, &directory.path().join("two"), configuration, &image, &mut figures)?;
    figures.print(size.output);
    Ok(())
}

fn create(size: &Size, path: &Path, figures: &mut Figures) -> anyhow::Result<Node> {
    let mut node = Node::new(path)?;
    for id in 1..=size.brokers {
        node.register(id)?;
    }
    (node.decided_ms, node.applied_ms, node.stored_ms) = (0.0, 0.0, 0.0);
    let before_mib = resident_mib()?;
    for n in 0..size.partitions / size.per_topic {
        node.create(format!("topic-{n:06}"), size)?;
    }
    let count = node.image.partition_count();
    figures.add("partitions", count as f64, "");
    figures.add("create: decide", node.decided_ms, "ms");
    figures.add("create: decode and fold", node.applied_ms, "ms");
    figures.add("create: write to RocksDB, unsynced", node.stored_ms, "ms");
    figures.add("create: memory, RocksDB's included", resident_mib()? - before_mib, "MiB");
    Ok(node)
}

fn small_changes(node: &mut Node, size: &Size, figures: &mut Figures) -> anyhow::Result<()> {
    const TIMES: u32 = 1_000;
    let began = Instant::now();
    for n in 0..TIMES {
        node.heartbeat(n % size.brokers + 1)?;
    }
    let each_us = began.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES);
    figures.add("a heartbeat that changes nothing", each_us, "us");
    let began = Instant::now();
    for n in 0..10 {
        node.create(format!("later-{n}"), size)?;
    }
    let each_ms = began.elapsed().as_secs_f64() * 1e3 / 10.0;
    figures.add("one topic more, decided, applied and stored", each_ms, "ms");
    Ok(())
}

/// One broker's lease runs out.
fn fence(node: &mut Node, size: &Size, figures: &mut Figures) -> anyhow::Result<()> {
    let gone = NodeId(size.brokers);
    node.now_ms += LATER_MS - 1;
    node.controller = Controller::activate(config(), &node.image, 0);
    for id in 1..size.brokers {
        node.heartbeat(id)?;
    }
    let led = |image: &MetadataImage| {
        let led = image.partitions_of(gone).filter_map(|at| image.partition(at));
        led.filter(|partition| partition.leader == Some(gone)).count()
    };
    figures.add("fencing: partitions that it leads", led(&node.image) as f64, "");
    figures.add("fencing: its replicas", node.image.replica_count(gone) as f64, "");
    let batches = figures
        .time("fencing: decide", || Ok(node.controller.tick(&node.image, node.now_ms).batches))?;
    let bytes: usize = batches.iter().map(Batch::encoded_len).sum();
    figures.add("fencing: entries", batches.len() as f64, "");
    figures.add("fencing: their size", bytes as f64 / (1 << 20) as f64, "MiB");
    node.applied_ms = 0.0;
    node.apply(&batches)?;
    figures.add("fencing: decode and fold", node.applied_ms, "ms");
    figures.time("fencing: write to RocksDB, unsynced", || node.flush())?;
    ensure!(led(&node.image) == 0, "it leads nothing any more");
    Ok(())
}

fn restart(path: &Path, figures: &mut Figures) -> anyhow::Result<MetadataImage> {
    let store = figures.time("restart: open RocksDB", || open(path))?;
    let before_mib = resident_mib()?;
    let image = figures.time("restart: load the image", || load(&store))?;
    figures.add("restart: memory of the image", resident_mib()? - before_mib, "MiB");
    Ok(image)
}

fn load(store: &RocksStore) -> anyhow::Result<MetadataImage> {
    let mut reader = store.open_image()?;
    let mut after: Option<Vec<u8>> = None;
    let mut failure = None;
    let chunks = std::iter::from_fn(|| match reader.read(after.as_deref(), CHUNK_BYTES) {
        Ok(pairs) => {
            after = Some(pairs.last()?.0.to_vec());
            Some(pairs)
        }
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    let image = MetadataImage::load(chunks.flatten())?;
    failure.map_or(Ok(image), |error| Err(error.into()))
}

/// Carries the image into an empty store, as a snapshot does.
fn snapshot(
    from: &Path,
    to: &Path,
    configuration: Configuration,
    image: &MetadataImage,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let from = open(from)?;
    let to = open(to)?;
    let member = Member { node_id: NodeId(2), directory_id: DirectoryId(Uuid::from_u128(2)) };
    to.initialize(Identity { cluster_id: cluster_id(), member, peer_id: 2 }, None)?;
    let before_mib = resident_mib()?;
    let (mut bytes, mut first) = (0, true);
    figures.time("snapshot: read and stage", || {
        let mut reader = from.open_image()?;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let pairs = reader.read(after.as_deref(), CHUNK_BYTES)?;
            let Some((last, _)) = pairs.last() else { return Ok(()) };
            after = Some(last.to_vec());
            bytes += pairs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            to.stage(std::mem::take(&mut first), &pairs)?;
        }
    })?;
    figures.add("snapshot: keys and values", bytes as f64 / (1 << 20) as f64, "MiB");
    let point = Point { index: image.applied_index(), term: TERM, configuration };
    figures.time("snapshot: install, synced", || {
        let install = Write { number: 1, install: Some(point), ..Write::default() };
        Ok(to.persist(&[install])?)
    })?;
    figures.add("snapshot: memory meanwhile", resident_mib()? - before_mib, "MiB");
    let loaded = figures.time("snapshot: load the image", || load(&to))?;
    ensure!(loaded == *image, "what arrived is what was sent");
    Ok(())
}
