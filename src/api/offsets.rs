//! Questions about offsets: ListOffsets, OffsetForLeaderEpoch, and DeleteRecords, which moves the
//! first one.

use std::sync::Arc;

use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    list_offsets_request::ListOffsetsPartition,
    list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
};
use uuid::Uuid;

use super::{Context, error::WireError, topics::TopicRef};
use crate::{
    base::{HashMap, LeaderEpoch, Offset, PartitionIndex},
    log::TimestampBatch,
    protocol::{
        ResponseError, StrBytes,
        batch::{Batch, RecordLimits},
    },
    replication::{FetchError, Isolation, Partition, Source},
};

/// The timestamps that stand for something else (KIP-79, KIP-734, KIP-405, KIP-1005).
mod special {
    pub(super) const LATEST: i64 = -1;
    pub(super) const EARLIEST: i64 = -2;
    pub(super) const MAX_TIMESTAMP: i64 = -3;
    pub(super) const EARLIEST_LOCAL: i64 = -4;
    pub(super) const LATEST_TIERED: i64 = -5;
}

/// What was found: an offset, its timestamp, and the epoch it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    offset: i64,
    timestamp_ms: i64,
    leader_epoch: LeaderEpoch,
}

const NOTHING: Found = Found { offset: -1, timestamp_ms: -1, leader_epoch: LeaderEpoch::NONE };

/// ListOffsets 1–10.
pub(super) async fn list_offsets(
    context: &Context,
    request: ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    let isolation = if request.isolation_level == 1 {
        Isolation::ReadCommitted
    } else {
        Isolation::ReadUncommitted
    };
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let reference = context.topic_ref(false, Uuid::nil(), &topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        let mut times = HashMap::<i32, usize>::default();
        for asked in &topic.partitions {
            *times.entry(asked.partition_index).or_default() += 1;
        }
        for asked in &topic.partitions {
            let found = if times[&asked.partition_index] > 1 {
                Err(WireError::from(ResponseError::InvalidRequest))
            } else {
                list_offset(context, &reference, asked, isolation).await
            };
            partitions.push(list_offsets_answer(asked.partition_index, found, version));
        }
        topics.push(
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

fn list_offsets_answer(
    index: i32,
    found: Result<Found, WireError>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let answer = ListOffsetsPartitionResponse::default().with_partition_index(index);
    match found {
        Ok(found) => {
            let answer = answer.with_offset(found.offset).with_timestamp(found.timestamp_ms);
            if version >= 4 { answer.with_leader_epoch(found.leader_epoch.0) } else { answer }
        }
        Err(error) => {
            // Clients of earlier versions know another code for "soon".
            let code = match error.code {
                ResponseError::OffsetNotAvailable if version < 5 => {
                    ResponseError::LeaderNotAvailable
                }
                code => code,
            };
            answer.with_error_code(code.code()).with_offset(-1).with_timestamp(-1)
        }
    }
}

async fn list_offset(
    context: &Context,
    topic: &TopicRef,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<Found, WireError> {
    let partition = context.leader_partition(topic, PartitionIndex(asked.partition_index))?;
    let believed = LeaderEpoch(asked.current_leader_epoch);
    let epoch = partition.check_leader_epoch(believed, Source::Leader);
    let epoch = epoch.map_err(|error| WireError::from(&error))?;
    let end = || partition.visible_end(isolation).map_err(|error| WireError::from(&error));
    let log = partition.log();
    let at = |offset: Offset| Found { offset: offset.0, timestamp_ms: -1, leader_epoch: epoch };
    Ok(match asked.timestamp {
        special::LATEST => at(end()?),
        special::EARLIEST | special::EARLIEST_LOCAL => {
            let start = log.log_start_offset();
            Found { leader_epoch: epoch_at(&partition, start), ..at(start) }
        }
        special::LATEST_TIERED => NOTHING,
        special::MAX_TIMESTAMP => match log.max_timestamp() {
            Some(max) => by_timestamp(context, &partition, max.timestamp_ms, end()?).await?,
            None => NOTHING,
        },
        timestamp_ms if timestamp_ms >= 0 => {
            by_timestamp(context, &partition, timestamp_ms, end()?).await?
        }
        _ => return Err(ResponseError::UnsupportedVersion.into()),
    })
}

/// The epoch in which the record at `offset` was written.
fn epoch_at(partition: &Partition, offset: Offset) -> LeaderEpoch {
    let epochs = partition.log().leader_epochs();
    let last = epochs.iter().rfind(|start| start.start_offset <= offset);
    last.map_or(LeaderEpoch::NONE, |start| start.epoch)
}

/// The first record at or after a time, if consumers may see it.
async fn by_timestamp(
    context: &Context,
    partition: &Arc<Partition>,
    timestamp_ms: i64,
    end: Offset,
) -> Result<Found, WireError> {
    let partition = Arc::clone(partition);
    let batch = move || partition.with_log(|log| log.batch_for_timestamp(timestamp_ms));
    let look = move || match batch() {
        Ok(Some(batch)) => Ok(Some(first_record(&batch, timestamp_ms))),
        Ok(None) => Ok(None),
        Err(error) => Err(WireError::from(&error)),
    };
    let found = context.partitions.blocking().run(look).await;
    let found = found.map_err(|_| WireError::from(ResponseError::NotLeaderOrFollower))??;
    match found {
        Some(found) => {
            let found = found?;
            Ok(if found.offset < end.0 { found } else { NOTHING })
        }
        None => Ok(NOTHING),
    }
}

fn first_record(batch: &TimestampBatch, timestamp_ms: i64) -> Result<Found, WireError> {
    let storage = |_| WireError::from(ResponseError::KafkaStorageError);
    let corrupt = |_| WireError::from(ResponseError::CorruptMessage);
    let slice = &batch.slice;
    let mut bytes = vec![0; slice.len_bytes as usize];
    slice.read_at(0, &mut bytes).map_err(storage)?;
    let parsed = Batch::split_from(&mut bytes.into())
        .map_err(|_| WireError::from(ResponseError::CorruptMessage))?;
    for record in parsed.records(RecordLimits::default()).map_err(corrupt)? {
        let record = record.map_err(corrupt)?;
        if record.timestamp_ms >= timestamp_ms {
            return Ok(Found {
                offset: record.offset.0,
                timestamp_ms: record.timestamp_ms,
                leader_epoch: batch.leader_epoch,
            });
        }
    }
    // The header promised a later record than there is.
    Ok(NOTHING)
}

/// OffsetForLeaderEpoch 2–4.
pub(super) fn offset_for_leader_epoch(
    context: &Context,
    request: &OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.iter().map(|topic| {
        let reference = context.topic_ref(false, Uuid::nil(), &topic.topic);
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = EpochEndOffset::default().with_partition(asked.partition);
            let end = context
                .leader_partition(&reference, PartitionIndex(asked.partition))
                .and_then(|partition| {
                    let believed = LeaderEpoch(asked.current_leader_epoch);
                    partition
                        .check_leader_epoch(believed, Source::Leader)
                        .map_err(|error| WireError::from(&error))?;
                    Ok(partition.log().offset_for_leader_epoch(LeaderEpoch(asked.leader_epoch)))
                });
            match end {
                Ok(Some((epoch, end))) => answer.with_leader_epoch(epoch.0).with_end_offset(end.0),
                Ok(None) => answer.with_leader_epoch(-1).with_end_offset(-1),
                Err(error) => answer
                    .with_error_code(error.code.code())
                    .with_leader_epoch(-1)
                    .with_end_offset(-1),
            }
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

/// DeleteRecords 0–2.
pub(super) async fn delete_records(
    context: &Context,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name: &StrBytes = &topic.name;
        let reference = context.topic_ref(false, Uuid::nil(), name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let index = PartitionIndex(asked.partition_index);
            let result = delete_before(context, &reference, index, asked.offset).await;
            let answer = DeleteRecordsPartitionResult::default().with_partition_index(index.0);
            partitions.push(match result {
                Ok(low_watermark) => answer.with_low_watermark(low_watermark.0),
                Err(error) => answer.with_low_watermark(-1).with_error_code(error.code.code()),
            });
        }
        topics.push(
            DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions),
        );
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn delete_before(
    context: &Context,
    topic: &TopicRef,
    index: PartitionIndex,
    offset: i64,
) -> Result<Offset, WireError> {
    let partition = context.leader_partition(topic, index)?;
    if topic.is_internal() {
        return Err(ResponseError::InvalidTopicException.into());
    }
    let policy = partition.config().cleanup_policy;
    if policy.compact && !policy.delete {
        return Err(ResponseError::PolicyViolation.into());
    }
    let to = (offset != -1).then_some(Offset(offset));
    if to.is_some_and(|to| to < Offset::ZERO) {
        return Err(ResponseError::OffsetOutOfRange.into());
    }
    let partitions = Arc::clone(&context.partitions);
    let delete = move || {
        let start = partition.delete_records(to)?;
        // Deleted records stay deleted, also over a crash.
        partitions.checkpoint();
        Ok::<_, FetchError>(start)
    };
    let deleted = context.partitions.blocking().run(delete).await;
    deleted
        .map_err(|_| WireError::from(ResponseError::NotLeaderOrFollower))?
        .map_err(|error| WireError::from(&error))
}
