//! The runtime over a log in memory: leadership, loading, refusals and lost logs.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        OffsetCommitRequest,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics},
    },
    protocol::StrBytes,
};
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    base::{LeaderEpoch, Offset, PartitionIndex, TokioClock},
    coordinator::{AppendError, BoxFuture, Failure, ReadError, Runtime, Settings, ShardLog},
    group::{Config, GroupShard, Groups, Request, Response},
    protocol::batch::Batches,
};

/// A log in memory, kept over leaderships.
#[derive(Default)]
struct MemLog {
    batches: parking_lot::Mutex<Vec<Bytes>>,
    end: parking_lot::Mutex<i64>,
    appends: AtomicU32,
    slow_load: AtomicBool,
    next_error: parking_lot::Mutex<Option<AppendError>>,
}

impl ShardLog for MemLog {
    fn append(&self, batch: Bytes) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if let Some(error) = self.next_error.lock().take() {
                return Err(error);
            }
            self.appends.fetch_add(1, Ordering::Relaxed);
            let batch = Batches::parse(batch).unwrap().remove(0);
            let mut end = self.end.lock();
            let (mut header, mut fixed) = (*batch.header(), batch.header().encode());
            header.stamp(&mut fixed, batch.body().len(), Offset(*end), LeaderEpoch(1), None);
            *end += i64::from(batch.header().count);
            let mut bytes = BytesMut::new();
            bytes.extend_from_slice(&fixed);
            bytes.extend_from_slice(&batch.body());
            self.batches.lock().push(bytes.freeze());
            Ok(())
        })
    }

    fn extent(&self) -> BoxFuture<'_, Result<Range<Offset>, ReadError>> {
        let end = Offset(*self.end.lock());
        Box::pin(async move {
            if self.slow_load.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(Offset(0)..end)
        })
    }

    fn read(&self, from: Offset, _: usize) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        let batches = self.batches.lock().clone();
        let batches = batches.into_iter().flat_map(|bytes| Batches::parse_stored(bytes).unwrap());
        let found = batches.into_iter().find(|batch| batch.last_offset() >= from);
        Box::pin(async move { Ok(found.map(|batch| batch.bytes().clone()).unwrap_or_default()) })
    }
}

fn groups() -> Groups {
    let config = Arc::new(Config::default());
    let clock = TokioClock::starting_at(1_700_000_000_000);
    let shard_config = Arc::clone(&config);
    let runtime = Runtime::new(Settings::default(), clock, move |_| {
        GroupShard::new(Arc::clone(&shard_config), StdRng::seed_from_u64(1))
    });
    let groups = Groups::new(runtime, config);
    groups.topic_changed(1);
    groups
}

fn text(of: &str) -> StrBytes {
    StrBytes::from_string(of.to_owned())
}

async fn commit(groups: &Groups, group: &str, offset: i64) -> Result<(), Failure> {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(text("t").into())
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(text(group).into())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    groups.call(group, Request::CommitOffsets { request, version: 9 }).await.map(|_| ())
}

async fn fetch(groups: &Groups, group: &str) -> Result<i64, Failure> {
    let topic = OffsetFetchRequestTopics::default()
        .with_name(text("t").into())
        .with_partition_indexes(vec![0]);
    let asked = OffsetFetchRequestGroup::default()
        .with_group_id(text(group).into())
        .with_topics(Some(vec![topic]));
    match groups.call(group, Request::FetchOffsets { group: asked, require_stable: false }).await? {
        Response::FetchOffsets(answer) => Ok(answer.topics[0].partitions[0].committed_offset),
        other => panic!("{other:?}"),
    }
}

async fn until_loaded(groups: &Groups) {
    while fetch(groups, "any").await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const P0: PartitionIndex = PartitionIndex(0);

#[tokio::test(start_paused = true)]
async fn what_was_committed_is_there_after_leadership_came_back() {
    let (groups, log) = (groups(), Arc::new(MemLog::default()));
    assert_eq!(fetch(&groups, "g").await, Err(Failure::NotCoordinator));
    groups.elected(P0, LeaderEpoch(1), Arc::clone(&log) as _);
    until_loaded(&groups).await;
    commit(&groups, "g", 7).await.unwrap();
    groups.resigned(P0, LeaderEpoch(2));
    assert_eq!(fetch(&groups, "g").await, Err(Failure::NotCoordinator));
    log.slow_load.store(true, Ordering::Relaxed);
    groups.elected(P0, LeaderEpoch(3), Arc::clone(&log) as _);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fetch(&groups, "g").await, Err(Failure::CoordinatorLoadInProgress));
    until_loaded(&groups).await;
    assert_eq!(fetch(&groups, "g").await, Ok(7));
    // News of the leadership before this one comes late.
    groups.resigned(P0, LeaderEpoch(2));
    assert_eq!(fetch(&groups, "g").await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn commits_that_arrive_together_share_a_batch() {
    let (groups, log) = (groups(), Arc::new(MemLog::default()));
    groups.elected(P0, LeaderEpoch(1), Arc::clone(&log) as _);
    until_loaded(&groups).await;
    let names: Vec<_> = (0..100).map(|n| format!("g{n}")).collect();
    let commits = names.iter().map(|name| commit(&groups, name, 1));
    assert!(futures::future::join_all(commits).await.into_iter().all(|result| result.is_ok()));
    assert!(log.appends.load(Ordering::Relaxed) <= 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_fails_its_requests_and_no_later_ones() {
    let (groups, log) = (groups(), Arc::new(MemLog::default()));
    groups.elected(P0, LeaderEpoch(1), Arc::clone(&log) as _);
    until_loaded(&groups).await;
    commit(&groups, "g", 1).await.unwrap();
    *log.next_error.lock() = Some(AppendError::NotEnoughReplicas);
    assert_eq!(commit(&groups, "g", 2).await, Err(Failure::CoordinatorNotAvailable));
    assert_eq!(fetch(&groups, "g").await, Ok(1));
    commit(&groups, "g", 3).await.unwrap();
    assert_eq!(fetch(&groups, "g").await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_unknown_fate_makes_the_shard_load_again() {
    let (groups, log) = (groups(), Arc::new(MemLog::default()));
    groups.elected(P0, LeaderEpoch(1), Arc::clone(&log) as _);
    until_loaded(&groups).await;
    commit(&groups, "g", 1).await.unwrap();
    *log.next_error.lock() = Some(AppendError::Storage);
    assert_eq!(commit(&groups, "g", 2).await, Err(Failure::NotCoordinator));
    until_loaded(&groups).await;
    assert_eq!(fetch(&groups, "g").await, Ok(1));
}

/// Writes what the coordinator wrote where Kafka's own tool can be pointed at it.
#[tokio::test(start_paused = true)]
#[ignore = "needs OTTLA_DUMP_DIR"]
async fn a_segment_for_kafkas_dump_tool() {
    let (groups, log) = (groups(), Arc::new(MemLog::default()));
    groups.elected(P0, LeaderEpoch(1), Arc::clone(&log) as _);
    until_loaded(&groups).await;
    commit(&groups, "g", 7).await.unwrap();
    let client = crate::group::Client { id: "c".to_owned(), host: "/127.0.0.1".to_owned() };
    let protocol =
        kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"\0\x01\0\0\0\x01\0\x01t\xff\xff\xff\xff\0\0\0\0"));
    let request = kafka_protocol::messages::JoinGroupRequest::default()
        .with_group_id(text("g").into())
        .with_group_instance_id(Some(text("i")))
        .with_protocol_type(text("consumer"))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(60_000)
        .with_protocols(vec![protocol]);
    let Ok(Response::Join(joined)) =
        groups.call("g", Request::Join { request, version: 9, client }).await
    else {
        panic!()
    };
    let assignment =
        kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment::default()
            .with_member_id(joined.member_id.clone())
            .with_assignment(Bytes::from_static(
                b"\0\x01\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\xff\xff\xff\xff",
            ));
    let request = kafka_protocol::messages::SyncGroupRequest::default()
        .with_group_id(text("g").into())
        .with_member_id(joined.member_id)
        .with_generation_id(joined.generation_id)
        .with_assignments(vec![assignment]);
    groups.call("g", Request::Sync(request)).await.unwrap();
    commit(&groups, "h", 8).await.unwrap();
    groups.call("h", Request::Delete { groups: vec![text("h").into()] }).await.unwrap();
    let dir = std::path::PathBuf::from(std::env::var_os("OTTLA_DUMP_DIR").unwrap());
    let bytes: Vec<u8> = log.batches.lock().iter().flat_map(|batch| batch.to_vec()).collect();
    std::fs::write(dir.join("00000000000000000000.log"), bytes).unwrap();
}
