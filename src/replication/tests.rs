//! What a partition does by itself, over the simulated disk and in virtual time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{self, Instant};

use super::{Acks, Metrics, Partition, leader::Registration, partition::Shared};
use crate::{
    base::{
        Blocking, LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex, TokioClock, TopicId,
        TopicPartition,
    },
    config::TopicConfig,
    log::{LogConfig, LogDirectory, Origin, SimDir},
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
    let shared = Arc::new(Shared { node: NODE, clock, blocking, metrics: Metrics::new() });
    let partition = Partition::new(id, "t".into(), log, Arc::clone(&config), shared);
    let registration = Registration {
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
        replicas: [NODE].into(),
        isr: [NODE].into(),
        min_insync_replicas: 1,
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
