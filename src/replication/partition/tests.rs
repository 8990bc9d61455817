//! What a follower's shell does with what its leader says.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time;

use super::{Assignment, Partition, Source};
use crate::{
    base::{Blocking, BrokerEpoch, LeaderEpoch, NodeId, Offset},
    config::TopicConfig,
    log::{Append, Origin, SimDir},
    protocol::batch::{BatchBuilder, BatchOptions, NewRecord},
    replication::{
        Isolation,
        subscription::{Answer, Progress, Session},
        tests::{NOW_MS, replica, unflushed},
        wire::Pushed,
    },
};

const EPOCH: LeaderEpoch = LeaderEpoch(3);

fn batch(base: i64, records: usize) -> Bytes {
    let options =
        BatchOptions { base_offset: Offset(base), leader_epoch: EPOCH, ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    for _ in 0..records {
        builder.push(&NewRecord {
            timestamp_ms: NOW_MS,
            value: Some(b"v"),
            ..NewRecord::default()
        });
    }
    builder.build().unwrap().bytes().clone()
}

fn follower(config: TopicConfig) -> Arc<Partition> {
    let partition = replica(&SimDir::new(), config, Blocking::inline());
    let follow =
        Assignment::Follow { leader: NodeId(2), leader_epoch: EPOCH, broker_epoch: BrokerEpoch(1) };
    partition.assign(follow, partition.config());
    partition
}

/// Its subscription that is not answered yet.
fn session(partition: &Partition) -> Session {
    let inner = partition.inner.lock();
    let super::Role::Following(following) = &inner.role else { panic!("it follows") };
    following.core.session().expect("it has subscribed")
}

fn push(partition: &Arc<Partition>, from: i64, records: Bytes, committed: i64, start: i64) {
    let progress = Progress {
        high_watermark: Offset(committed),
        last_stable_offset: Offset(committed),
        log_start_offset: Offset(start),
    };
    let session = session(partition);
    partition.pushed(Pushed { session, from: Offset(from), progress, records });
}

async fn pause(ms: u64) {
    time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_begins_within_a_batch_serves_what_is_committed() {
    let partition = follower(TopicConfig::default());
    partition.answered(session(&partition), Answer::StartAt(Offset(100)));
    pause(10).await;
    assert_eq!(partition.known_high_watermark(), Offset(100));
    partition.answered(session(&partition), Answer::Agreed);
    // The leader's log begins in the middle of a batch.
    push(&partition, 100, batch(98, 5), 103, 100);
    pause(10).await;
    assert_eq!(partition.log().log_start_offset(), Offset(100));
    assert_eq!(partition.known_high_watermark(), Offset(103));
    let isolation = Isolation::ReadUncommitted;
    let fetched = partition.fetch(Offset(100), 1_000, true, isolation, Source::AnyReplica);
    assert!(fetched.unwrap().records.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_append_is_refused_follows_anew() {
    let partition = follower(TopicConfig::default());
    partition.answered(session(&partition), Answer::Agreed);
    let how = Append {
        origin: Origin::Replication,
        leader_epoch: EPOCH,
        log_append_time_ms: None,
        now_ms: NOW_MS,
    };
    partition.log().append(&[batch(0, 2)], how).unwrap();
    push(&partition, 0, batch(0, 1), 0, 0);
    pause(30_000).await;
    partition.handle_deadline();
    partition.answered(session(&partition), Answer::Agreed);
    push(&partition, 2, batch(2, 1), 3, 0);
    pause(10).await;
    assert_eq!(partition.log().log_end_offset(), Offset(3));
    assert_eq!(partition.known_high_watermark(), Offset(3));
}

#[tokio::test(start_paused = true)]
async fn a_follower_flushes_once_flush_ms_has_passed() {
    let relaxed =
        TopicConfig { flush_messages: 1_000_000, flush_ms: 500, ..TopicConfig::default() };
    let partition = follower(relaxed);
    partition.answered(session(&partition), Answer::Agreed);
    for base in [0, 1, 2] {
        push(&partition, base, batch(base, 1), 0, 0);
        pause(499).await;
        assert_eq!(unflushed(&partition), 1);
        pause(2).await;
        assert_eq!(unflushed(&partition), 0);
    }
}
