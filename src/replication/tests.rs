//! What a partition does by itself, over the simulated disk and in virtual time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{self, Instant};

use super::{
    Acks, Metrics, Partition, Partitions, PartitionsConfig, leader::Registration,
    partition::Shared, subscription::LogView,
};
use crate::{
    base::{
        Blocking, DirectoryId, LeaderEpoch, NodeId, Offset, PartitionEpoch, PartitionIndex,
        TokioClock, TopicId, TopicPartition,
    },
    config::{NodeConfig, TopicConfig},
    log::{LogConfig, LogDirectory, MetaProperties, Origin, SimDir},
    metadata::{
        Batch, MetadataImage, directory,
        records::{PartitionRecord, TopicRecord},
    },
    protocol::batch::{BatchBuilder, BatchOptions, NewRecord},
};

const NODE: NodeId = NodeId(1);
const NOW_MS: i64 = 1_700_000_000_000;

fn partition(dir: &SimDir, config: TopicConfig, blocking: Blocking) -> Arc<Partition> {
    let topic = TopicId(uuid::Uuid::from_u128(7));
    let directory = LogDirectory::open(Arc::new(dir.clone())).unwrap();
    let log_config = Arc::new(LogConfig::default());
    let log = directory.create("t", PartitionIndex(0), topic, log_config, NOW_MS).unwrap();
    log.flush().unwrap();
    let id = TopicPartition { topic, partition: PartitionIndex(0) };
    let clock = TokioClock::starting_at(NOW_MS);
    let config = Arc::new(config);
    let (node, origin, metrics) = (NODE, Instant::now(), Metrics::new());
    let shared = Arc::new(Shared { node, origin, clock, blocking, metrics });
    let partition = Partition::new(id, "t".into(), log, Arc::clone(&config), shared);
    let registration = Registration {
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
        replicas: [NODE].into(),
        isr: [NODE].into(),
        recovering: false,
        min_insync_replicas: 1,
        active: [].into(),
    };
    partition.lead(registration, config);
    partition
}

fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(&NewRecord { timestamp_ms: NOW_MS, value: Some(b"v"), ..NewRecord::default() });
    builder.build().unwrap().bytes().clone()
}

async fn append(partition: &Arc<Partition>) {
    let outcome = partition.append(vec![batch()], Acks::Leader, Origin::Client);
    outcome.await.unwrap().unwrap();
}

fn unflushed(partition: &Partition) -> i64 {
    partition.log().log_end_offset().since(partition.log().recovery_point())
}

#[tokio::test(start_paused = true)]
async fn a_record_is_flushed_once_flush_ms_has_passed() {
    let relaxed =
        TopicConfig { flush_messages: 1_000_000, flush_ms: 500, ..TopicConfig::default() };
    let partition = partition(&SimDir::new(), relaxed, Blocking::inline());
    for _ in 0..3 {
        append(&partition).await;
        assert_eq!(unflushed(&partition), 1);
        time::sleep(Duration::from_millis(499)).await;
        append(&partition).await;
        assert_eq!(unflushed(&partition), 2);
        time::sleep(Duration::from_millis(2)).await;
        assert_eq!(unflushed(&partition), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_comes_during_a_flush_waits_for_flush_ms_at_most() {
    for seed in 0..50 {
        let relaxed = TopicConfig { flush_messages: 5, flush_ms: 20, ..TopicConfig::default() };
        let disk = Blocking::simulated(seed, Duration::from_millis(30));
        let partition = partition(&SimDir::new(), relaxed, disk);
        for _ in 0..7 + seed % 5 {
            append(&partition).await;
            time::sleep(Duration::from_millis(seed % 7)).await;
        }
        let written = Instant::now();
        while unflushed(&partition) > 0 {
            time::sleep(Duration::from_millis(1)).await;
            // A flush under way, the timer, a flush.
            let waited = written.elapsed();
            assert!(waited < Duration::from_millis(60 + 20 + 60 + 5), "seed {seed}: {waited:?}");
        }
    }
}

/// An image in which this node leads `count` partitions of one topic, in no known directory.
fn image(topic: TopicId, count: i32) -> MetadataImage {
    let name = TopicRecord { name: "t".to_owned(), topic_id: topic.into() };
    let partition = |index| PartitionRecord {
        partition_id: index,
        topic_id: topic.into(),
        replicas: vec![NODE.0],
        isr: vec![NODE.0],
        leader: Some(NODE.0),
        directories: vec![directory::UNASSIGNED.into()],
        ..PartitionRecord::default()
    };
    let records = std::iter::once(name.into()).chain((0..count).map(|i| partition(i).into()));
    let batch = Batch { metadata_version: 1, records: records.collect() };
    MetadataImage::default().apply(1, &batch).0
}

async fn opened(dirs: &[SimDir], image: &MetadataImage) -> Partitions {
    let settings = [("node.id", "1"), ("log.dirs", "/simulated-a,/simulated-b")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let directories = dirs.iter().zip(1..).map(|(dir, id)| {
        let directory = LogDirectory::open(Arc::new(dir.clone())).unwrap();
        let directory_id = DirectoryId(uuid::Uuid::from_u128(id));
        directory
            .set_meta(MetaProperties { cluster_id: None, node_id: NODE, directory_id })
            .unwrap();
        Arc::new(directory)
    });
    let partitions = Partitions::new(PartitionsConfig {
        node: Arc::new(NodeConfig::from_settings(settings.into()).unwrap()),
        directories: directories.collect(),
        clock: TokioClock::starting_at(NOW_MS),
        blocking: Blocking::inline(),
        metrics: Metrics::new(),
    });
    partitions.open(image, |_, _| ()).await.unwrap();
    partitions
}

#[tokio::test(start_paused = true)]
async fn logs_are_found_where_they_lie_though_the_image_does_not_say() {
    let dirs = [SimDir::named("-a"), SimDir::named("-b")];
    let image = image(TopicId(uuid::Uuid::from_u128(7)), 5);
    let partitions = opened(&dirs, &image).await;
    let misplaced = partitions.misplaced().borrow().clone();
    assert_eq!(misplaced.len(), 5);
    for partition in partitions.all() {
        append(&partition).await;
    }
    drop(partitions);
    dirs.iter().for_each(SimDir::kill);

    let partitions = opened(&dirs, &image).await;
    assert_eq!(*partitions.misplaced().borrow(), misplaced);
    for partition in partitions.all() {
        assert_eq!(partition.log().log_end_offset(), Offset(1));
    }
    // What is told while it is on its way is told again.
    let mut other = misplaced.clone();
    other.values_mut().next().unwrap().0 = uuid::Uuid::from_u128(9);
    partitions.told(&other);
    assert_eq!(partitions.misplaced().borrow().len(), 1);
}

/// Where a log begins and ends, and at which offset each of its epochs starts.
#[derive(Debug, Clone)]
pub(super) struct Epochs {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) starts: Vec<(i32, i64)>,
}

impl LogView for Epochs {
    fn log_start_offset(&self) -> Offset {
        Offset(self.start)
    }

    fn log_end_offset(&self) -> Offset {
        Offset(self.end)
    }

    fn first_epoch(&self) -> LeaderEpoch {
        self.starts.first().map_or(LeaderEpoch::NONE, |(epoch, _)| LeaderEpoch(*epoch))
    }

    fn last_epoch(&self) -> LeaderEpoch {
        self.starts.last().map_or(LeaderEpoch::NONE, |(epoch, _)| LeaderEpoch(*epoch))
    }

    fn end_of_epoch(&self, asked: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let at = self.starts.iter().rposition(|(epoch, _)| *epoch <= asked.0)?;
        if asked > self.last_epoch() {
            return None;
        }
        let end = self.starts.get(at + 1).map_or(self.end, |(_, start)| *start);
        Some((LeaderEpoch(self.starts[at].0), Offset(end)))
    }

    fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        high_watermark
    }
}
