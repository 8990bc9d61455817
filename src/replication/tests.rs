//! What a partition does by itself, over the simulated disk and in virtual time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use kafka_protocol::{
    ResponseError,
    messages::{
        AlterPartitionRequest, AlterPartitionResponse,
        alter_partition_response::{PartitionData, TopicData},
    },
};
use parking_lot::Mutex;
use tokio::time::{self, Instant};

use super::{
    Acks, AppendError, FetchError, Isolation, Metrics, Opener, Partition, Partitions,
    PartitionsConfig, Source,
    alter::IsrQuestions,
    deadlines::Deadlines,
    leader::Registration,
    partition::{Assignment, Shared},
    streams::Upstreams,
    subscription::LogView,
    tail::TailMemory,
    throttle::Throttles,
};
use crate::{
    base::{
        Blocking, BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, Offset, PartitionEpoch,
        PartitionIndex, ProducerEpoch, ProducerId, TokioClock, TopicId, TopicPartition,
    },
    config::{NodeConfig, TopicConfig},
    log::{self, LogConfig, LogDirectory, MetaProperties, Origin, SimDir, SimFault, SimOperation},
    metadata::{
        Batch, ConfigResourceType, MetadataImage, directory,
        records::{
            ConfigRecord, LeaderChange, PartitionChangeRecord, PartitionRecord,
            RegisterBrokerRecord, TopicRecord,
        },
    },
    protocol::batch::{BatchBuilder, BatchOptions, NewRecord, Producer},
    transport::OpenError,
};

pub(super) const NODE: NodeId = NodeId(1);
pub(super) const NOW_MS: i64 = 1_700_000_000_000;
const INCARNATION: uuid::Uuid = uuid::Uuid::from_u128(11);

/// A partition that this node leads alone.
fn partition(dir: &SimDir, config: TopicConfig, blocking: Blocking) -> Arc<Partition> {
    let partition = replica(dir, config, blocking);
    partition.assign(Assignment::Lead(registration(0, &[NODE]), Vec::new()), partition.config());
    partition
}

/// A replica without a role.
pub(super) fn replica(dir: &SimDir, config: TopicConfig, blocking: Blocking) -> Arc<Partition> {
    let topic = TopicId(uuid::Uuid::from_u128(7));
    let directory = LogDirectory::open(Arc::new(dir.clone())).unwrap();
    let log_config = Arc::new(LogConfig::default());
    let log = directory.create("t", PartitionIndex(0), topic, log_config, NOW_MS).unwrap();
    log.flush().unwrap();
    let id = TopicPartition { topic, partition: PartitionIndex(0) };
    let clock = TokioClock::starting_at(NOW_MS);
    let config = Arc::new(config);
    let shared = Arc::new(Shared {
        node: NODE,
        origin: Instant::now(),
        clock,
        blocking,
        metrics: Metrics::new(),
        replica_lag_time_max_ms: 30_000,
        tails: TailMemory::default(),
        deadlines: Deadlines::default(),
        questions: IsrQuestions::default(),
        upstreams: Upstreams::new(nowhere(), Throttles::new(&Metrics::new())),
        throttles: Throttles::new(&Metrics::new()),
    });
    Partition::new(id, "t".into(), log, Offset::ZERO, config, shared)
}

fn registration(epoch: i32, isr: &[NodeId]) -> Registration {
    Registration {
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(epoch),
        replicas: isr.iter().copied().collect(),
        isr: isr.iter().copied().collect(),
        recovering: false,
        min_insync_replicas: 1,
        active: [].into(),
    }
}

/// There are no other nodes.
fn nowhere() -> Opener {
    Arc::new(|node, _, _| async move { Err(OpenError::TimedOut(node)) }.boxed())
}

fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(&NewRecord { timestamp_ms: NOW_MS, value: Some(b"v"), ..NewRecord::default() });
    builder.build().unwrap().bytes().clone()
}

async fn append(partition: &Arc<Partition>) {
    let outcome = partition.append(vec![batch()], 0, Acks::Leader, Origin::Client);
    outcome.await.unwrap().unwrap();
}

/// A batch of one record of producer 5.
fn sequenced(base_sequence: i32) -> Bytes {
    let producer = Producer { id: ProducerId(5), epoch: ProducerEpoch(0), base_sequence };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    builder.push(&NewRecord { timestamp_ms: NOW_MS, ..NewRecord::default() });
    builder.build().unwrap().bytes().clone()
}

pub(super) fn unflushed(partition: &Partition) -> i64 {
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
async fn a_batch_that_was_in_flight_behind_a_refused_one_is_to_be_sent_again() {
    let partition = replica(&SimDir::new(), TopicConfig::default(), Blocking::inline());
    let append = async |sequence, acks| {
        partition.append(vec![sequenced(sequence)], 0, acks, Origin::Client).await.unwrap()
    };
    let lead = |epoch, min_insync_replicas| {
        let replicas = [NODE, NodeId(2)].into();
        let alone = registration(epoch, &[NODE]);
        let registration = Registration { replicas, min_insync_replicas, ..alone };
        partition.assign(Assignment::Lead(registration, Vec::new()), partition.config());
    };
    assert!(matches!(append(0, Acks::All).await, Err(AppendError::NotLeader)));
    lead(0, 1);
    assert!(matches!(append(1, Acks::All).await, Err(AppendError::OutOfTurn)));
    append(0, Acks::All).await.unwrap();
    append(1, Acks::All).await.unwrap();
    lead(1, 2);
    assert!(matches!(append(2, Acks::All).await, Err(AppendError::NotEnoughReplicas)));
    lead(2, 1);
    assert!(matches!(append(3, Acks::All).await, Err(AppendError::OutOfTurn)));
    // Nothing of it is in flight any more: records are missing.
    time::sleep(Duration::from_secs(6)).await;
    let lost = append(3, Acks::All).await;
    assert!(matches!(
        lost,
        Err(AppendError::Log(log::AppendError::OutOfOrderSequence { last: 1, .. }))
    ));
    append(2, Acks::All).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_directory_that_fails_is_refused_for_that_though_the_role_ends_first() {
    let dir = SimDir::new();
    let disk = Blocking::simulated(1, Duration::from_millis(30));
    let partition = partition(&dir, TopicConfig::default(), disk);
    let outcome = partition.append(vec![batch()], 0, Acks::Leader, Origin::Client);
    let operation = SimOperation::Sync;
    dir.inject(SimFault { operation, path_contains: String::new(), after: 0, errno: 5 });
    partition.log().flush().unwrap_err();
    partition.rest();
    assert!(matches!(outcome.await.unwrap(), Err(AppendError::Log(_))));
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

#[tokio::test(start_paused = true)]
async fn a_new_leader_does_not_say_where_records_end_before_it_knows() {
    let dir = SimDir::new();
    let first = partition(&dir, TopicConfig::default(), Blocking::inline());
    append(&first).await;
    assert_eq!(first.visible_end(Isolation::ReadUncommitted).unwrap(), Offset(1));
    // Another one is in sync by then, and has not said up to where.
    let other = NodeId(2);
    first.rest();
    drop(first);
    dir.kill();
    let second = replica(&dir, TopicConfig::default(), Blocking::inline());
    second.assign(Assignment::Lead(registration(1, &[NODE, other]), Vec::new()), second.config());
    let end = second.visible_end(Isolation::ReadUncommitted);
    assert!(matches!(end, Err(FetchError::OffsetNotAvailable)), "{end:?}");
    let follow = Assignment::Follow {
        leader: other,
        leader_epoch: LeaderEpoch(2),
        broker_epoch: BrokerEpoch(1),
    };
    second.assign(follow, second.config());
    // A follower that no leader has spoken to may hold what was never committed.
    let fetched =
        second.fetch(Offset(0), 100, true, Isolation::ReadUncommitted, Source::AnyReplica);
    assert!(matches!(fetched, Err(FetchError::NotLeader)), "{fetched:?}");
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
    let broker = RegisterBrokerRecord {
        broker_id: NODE.0,
        incarnation_id: INCARNATION.into(),
        ..RegisterBrokerRecord::default()
    };
    let records = std::iter::once(broker.into()).chain(records);
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
        incarnation: INCARNATION,
        opener: nowhere(),
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

#[tokio::test(start_paused = true)]
async fn a_replica_of_a_directory_that_is_no_more_is_said_to_be_in_the_only_one() {
    let topic = TopicId(uuid::Uuid::from_u128(7));
    let at = TopicPartition { topic, partition: PartitionIndex(0) };
    let image = image(topic, 2);
    let mut gone = PartitionChangeRecord::new(at);
    gone.directories = Some(std::iter::once(DirectoryId(uuid::Uuid::from_u128(77))).collect());
    let batch = Batch { metadata_version: 1, records: vec![gone.into()] };
    let image = image.apply(2, &batch).0;
    let partitions = opened(&[SimDir::named("-a")], &image).await;
    let misplaced = partitions.misplaced().borrow().clone();
    assert_eq!(misplaced, [(at, DirectoryId(uuid::Uuid::from_u128(1)))].into());
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_is_known_after_an_orderly_end() {
    let dirs = [SimDir::named("-a"), SimDir::named("-b")];
    let partitions = opened(&dirs, &image(TopicId(uuid::Uuid::from_u128(7)), 1)).await;
    let [partition] = &partitions.all()[..] else { panic!("one partition is led") };
    append(partition).await;
    let name = partition.log().name().to_owned();
    partitions.close();
    drop(partitions);
    dirs.iter().for_each(SimDir::kill);

    let known = dirs
        .iter()
        .find_map(|dir| LogDirectory::open(Arc::new(dir.clone())).unwrap().high_watermark(&name));
    assert_eq!(known, Some(Offset(1)));
}

#[tokio::test(start_paused = true)]
async fn a_whole_image_brings_other_settings_into_force() {
    let before = image(TopicId(uuid::Uuid::from_u128(7)), 1);
    let partitions = opened(&[SimDir::named("-a")], &before).await;
    let set = ConfigRecord {
        resource_type: ConfigResourceType::Topic as i32,
        resource_name: "t".to_owned(),
        name: "retention.ms".to_owned(),
        value: Some("5000".to_owned()),
    };
    let batch = Batch { metadata_version: 1, records: vec![set.into()] };
    partitions.reconcile(&before.apply(2, &batch).0).await.unwrap();
    let [partition] = &partitions.all()[..] else { panic!("one partition is led") };
    assert_eq!(partition.log().config().retention_ms, 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_replica_in_an_offline_directory_may_not_be_in_sync() {
    let topic = TopicId(uuid::Uuid::from_u128(7));
    let at = TopicPartition { topic, partition: PartitionIndex(0) };
    let (online, offline) = (uuid::Uuid::from_u128(21), uuid::Uuid::from_u128(22));
    for (directory, is_active) in [(online, true), (offline, false)] {
        let other = RegisterBrokerRecord {
            broker_id: 2,
            log_dirs: vec![online.into()],
            ..RegisterBrokerRecord::default()
        };
        let mut change = PartitionChangeRecord::new(at);
        change.replicas = Some([NODE, NodeId(2)].into_iter().collect());
        let directories = [directory::UNASSIGNED, DirectoryId(directory)];
        change.directories = Some(directories.into_iter().collect());
        let batch = Batch { metadata_version: 1, records: vec![other.into(), change.into()] };
        let image = image(topic, 1).apply(2, &batch).0;
        let partitions = opened(&[SimDir::named("-a")], &image).await;
        let registration = partitions.lookup(at).unwrap().registration().unwrap();
        assert_eq!(registration.active.contains_key(&NodeId(2)), is_active);
    }
}

/// An answer to a question about the ISR of the one partition.
fn answered(request: &AlterPartitionRequest, code: i16) -> AlterPartitionResponse {
    let topic = &request.topics[0];
    let partition = PartitionData::default()
        .with_partition_index(topic.partitions[0].partition_index)
        .with_error_code(code);
    let topic = TopicData::default().with_topic_id(topic.topic_id).with_partitions(vec![partition]);
    AlterPartitionResponse::default().with_topics(vec![topic])
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_an_earlier_leadership_is_not_taken_for_one_of_this() {
    let topic = TopicId(uuid::Uuid::from_u128(7));
    let at = TopicPartition { topic, partition: PartitionIndex(0) };
    let mut first = PartitionChangeRecord::new(at);
    first.leader_recovery_state = Some(1);
    let mut second = PartitionChangeRecord::new(at);
    second.leader = Some(LeaderChange { leader: Some(NODE.0) });
    let change = |image: &MetadataImage, index, record: PartitionChangeRecord| {
        image.apply(index, &Batch { metadata_version: 1, records: vec![record.into()] })
    };
    let (image, _) = change(&image(topic, 1), 2, first);
    let (later, delta) = change(&image, 3, second);

    let partitions = Arc::new(opened(&[SimDir::named("-a")], &image).await);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ask = |request: AlterPartitionRequest| {
        let asked = Arc::clone(&asked);
        async move {
            let leader_epoch = request.topics[0].partitions[0].leader_epoch;
            asked.lock().push(leader_epoch);
            // The first is refused when another leadership has its own question.
            let (pause_ms, error) = match leader_epoch {
                0 => (100, ResponseError::IneligibleReplica.code()),
                _ => (1_000, 0),
            };
            time::sleep(Duration::from_millis(pause_ms)).await;
            Some(answered(&request, error))
        }
        .boxed()
    };
    let follow = async {
        time::sleep(Duration::from_millis(50)).await;
        partitions.apply(&later, &delta).await.unwrap();
        time::sleep(Duration::from_secs(5)).await;
    };
    tokio::select! {
        () = partitions.ask_controller(&ask) => {}
        () = partitions.keep_deadlines() => {}
        () = follow => {}
    }
    assert_eq!(*asked.lock(), [0, 1], "one question each, as none was refused of the second");
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
