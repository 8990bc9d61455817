//! AlterReplicaLogDirs and DescribeLogDirs: what is to lie, and lies, in which directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    alter_replica_log_dirs_response::{
        AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
    },
    describe_log_dirs_response::{
        DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
    },
};

use super::Context;
use crate::{
    base::{NodeId, PartitionIndex, TopicPartition},
    log::{Log, LogDirectory},
    protocol::{
        ResponseError, StrBytes,
        lags::{self, FollowerLag},
    },
    replication::{Lag, MoveError, Partition, Partitions},
};

/// AlterReplicaLogDirs 1–2.
pub(super) async fn alter_replica_log_dirs(
    context: &Context,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    // Of several directories for one replica the last one counts, as in Kafka.
    let mut wanted = BTreeMap::<String, BTreeMap<i32, String>>::new();
    for directory in &request.dirs {
        for topic in &directory.topics {
            let partitions = wanted.entry(topic.name.to_string()).or_default();
            let path = || directory.path.to_string();
            partitions.extend(topic.partitions.iter().map(|index| (*index, path())));
        }
    }
    let mut results = Vec::with_capacity(wanted.len());
    for (topic, partitions) in wanted {
        let mut altered = Vec::with_capacity(partitions.len());
        for (index, path) in partitions {
            let error_code = alter_one(context, &topic, PartitionIndex(index), &path).await;
            let result = AlterReplicaLogDirPartitionResult::default().with_partition_index(index);
            altered.push(result.with_error_code(error_code.map_or(0, |error| error.code())));
        }
        let name = StrBytes::from_string(topic).into();
        let result = AlterReplicaLogDirTopicResult::default().with_topic_name(name);
        results.push(result.with_partitions(altered));
    }
    AlterReplicaLogDirsResponse::default().with_results(results)
}

/// Why a replica does not move, if it does not.
async fn alter_one(
    context: &Context,
    topic: &str,
    index: PartitionIndex,
    path: &str,
) -> Option<ResponseError> {
    let image = context.image();
    let known = image.topic_by_name(topic);
    let id = known
        .filter(|known| known.partition(index).is_some())
        .map(|known| TopicPartition { topic: known.id, partition: index });
    let error = context.partitions.move_replica(topic, id, index, path).await.err()?;
    tracing::warn!(topic, partition = %index, path, %error, "a replica does not move");
    Some(match error {
        MoveError::NoDirectory { .. } => ResponseError::LogDirNotFound,
        MoveError::Offline { .. } | MoveError::Log(_) => ResponseError::KafkaStorageError,
        MoveError::NoReplica if id.is_none() => ResponseError::UnknownTopicOrPartition,
        MoveError::NoReplica => ResponseError::ReplicaNotAvailable,
        MoveError::NameTooLong => ResponseError::InvalidTopicException,
        MoveError::Stopped(_) => ResponseError::UnknownServerError,
    })
}

/// DescribeLogDirs 1–4. With the tag of [`lags`], leaders say how far their followers are.
pub(super) async fn describe_log_dirs(
    context: &Context,
    request: DescribeLogDirsRequest,
    version: i16,
) -> DescribeLogDirsResponse {
    let asked: Option<BTreeSet<(String, i32)>> = request.topics.map(|topics| {
        let pairs = topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.topic.to_string(), *partition))
        });
        pairs.collect()
    });
    let partitions = Arc::clone(&context.partitions);
    let with_lags = request.unknown_tagged_fields.contains_key(&lags::TAG);
    let describe = move || {
        let held = held(&partitions, with_lags);
        let directories = partitions.directories().iter();
        let described = directories.map(|one| describe(one, asked.as_ref(), &held, version));
        described.collect::<Vec<_>>()
    };
    match context.partitions.blocking().run(describe).await {
        Ok(results) => DescribeLogDirsResponse::default().with_results(results),
        Err(_) => {
            let response = DescribeLogDirsResponse::default();
            if version < 3 {
                return response;
            }
            response.with_error_code(ResponseError::UnknownServerError.code())
        }
    }
}

/// A log of this node, or a copy of one on its way to another directory.
struct Held {
    log: Arc<Log>,
    is_future: bool,
    offset_lag: i64,
    /// The partition, where the lag of its followers is asked for and known here.
    led: Option<Arc<Partition>>,
}

/// What lies in each directory: of each replica one log, though it may go from one directory to
/// another meanwhile.
fn held(partitions: &Partitions, with_lags: bool) -> BTreeMap<String, Vec<Held>> {
    let mut held = BTreeMap::<String, Vec<Held>>::new();
    for partition in partitions.all() {
        let log = partition.log();
        // A replica misses what is committed.
        let lag = partition.known_high_watermark().since(log.log_end_offset()).max(0);
        let led = (with_lags && partition.leader_epoch().is_some()).then_some(partition);
        let one = Held { is_future: false, offset_lag: lag, led, log };
        held.entry(one.log.directory()).or_default().push(one);
    }
    for moving in partitions.moves() {
        let (log, of) = (Arc::clone(moving.future()), moving.partition().log());
        if log.directory() == of.directory() {
            // It has arrived.
            continue;
        }
        // A copy misses what its log has.
        let offset_lag = of.log_end_offset().since(log.log_end_offset());
        let one = Held { is_future: true, offset_lag, led: None, log };
        held.entry(one.log.directory()).or_default().push(one);
    }
    held
}

fn describe(
    directory: &Arc<LogDirectory>,
    asked: Option<&BTreeSet<(String, i32)>>,
    held: &BTreeMap<String, Vec<Held>>,
    version: i16,
) -> DescribeLogDirsResult {
    let result =
        DescribeLogDirsResult::default().with_log_dir(StrBytes::from_string(directory.location()));
    if directory.failure().is_some() {
        return result.with_error_code(ResponseError::KafkaStorageError.code());
    }
    let mut topics = BTreeMap::<String, Vec<DescribeLogDirsPartition>>::new();
    for one in held.get(&directory.location()).into_iter().flatten() {
        let Held { log, is_future, offset_lag, led } = one;
        let Some((topic, partition)) = split_name(log) else { continue };
        if asked.is_none_or(|asked| asked.contains(&(topic.clone(), partition))) {
            let size = i64::try_from(log.size_bytes()).unwrap_or(i64::MAX);
            let mut described = DescribeLogDirsPartition::default()
                .with_partition_index(partition)
                .with_partition_size(size)
                .with_offset_lag(*offset_lag)
                .with_is_future_key(*is_future);
            if let Some(led) = led {
                // Differs from Kafka: what the leader knows of its followers, for who asks for it.
                let lags = lags::encode(led.lags().into_iter().map(follower_lag));
                described.unknown_tagged_fields.insert(lags::TAG, lags);
            }
            topics.entry(topic).or_default().push(described);
        }
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        DescribeLogDirsTopic::default()
            .with_name(StrBytes::from_string(name).into())
            .with_partitions(partitions)
    });
    let result = result.with_topics(topics.collect());
    match directory.space() {
        Ok(space) if version >= 4 => {
            let bytes = |count| i64::try_from(count).unwrap_or(i64::MAX);
            result
                .with_total_bytes(bytes(space.total_bytes))
                .with_usable_bytes(bytes(space.usable_bytes))
        }
        _ => result,
    }
}

fn follower_lag((node, lag): (NodeId, Lag)) -> FollowerLag {
    let Lag { records, bytes, time_ms } = lag;
    FollowerLag { node: node.wire(), records, bytes, time_ms }
}

fn split_name(log: &Log) -> Option<(String, i32)> {
    let (topic, partition) = log.of().rsplit_once('-')?;
    Some((topic.to_owned(), partition.parse().ok()?))
}
