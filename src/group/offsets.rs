//! OffsetCommit, OffsetFetch and OffsetDelete.

use kafka_protocol::{
    error::ResponseError,
    messages::{
        OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
        offset_commit_request::OffsetCommitRequestPartition,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
        offset_fetch_request::OffsetFetchRequestGroup,
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
        },
    },
};

use super::{
    Response, Str,
    classic::{Group, GroupState},
    join::MAX_NAME_BYTES,
    own,
    shard::{Cx, GroupShard},
    state::{Change, CommittedOffset, State},
    wire,
};
use crate::coordinator::{Effects, Now, Token};

/// The first version that tells an unknown group apart from an old generation.
const KNOWS_GROUP_ID_NOT_FOUND: i16 = 9;
/// Records that share a batch for certain. Differs from Kafka: a larger commit or deletion is
/// split over several batches, and acknowledged after the last, instead of being refused.
pub(super) const RECORDS_PER_ATOM: usize = 512;

impl GroupShard {
    pub(super) fn commit_offsets(
        &mut self,
        token: Token,
        request: &OffsetCommitRequest,
        version: i16,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let id = own(&request.group_id);
        let max_metadata = self.config.offset_metadata_max_bytes;
        let (groups, mut cx) = self.split(now, out);
        let valid = match groups.get_mut(&id) {
            Some(group) => group.validate_commit(request, &mut cx),
            None => validate_commit_without_group(request, version),
        };
        let mut changes = vec![];
        let mut response = OffsetCommitResponse::default();
        for topic in &request.topics {
            let name = own(&topic.name);
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let result = valid.and_then(|()| validate_metadata(partition, max_metadata));
                if result.is_ok() {
                    let offset = Some(committed_offset(partition, request.retention_time_ms, now));
                    let (group, topic) = (id.clone(), name.clone());
                    changes.push(Change::Offset { group, topic, partition: index, offset });
                }
                OffsetCommitResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(result.err().map_or(0, |error| error.code()))
            });
            let partitions = partitions.collect();
            response.topics.push(
                OffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        if !changes.is_empty() {
            groups.entry(id.clone()).or_insert_with(|| Group::new(id, now.wall_ms));
        }
        cx.write_split(changes);
        if cx.out.has_records() {
            cx.out.reply(token, Response::CommitOffsets(response));
        } else {
            cx.out.reply_now(token, Response::CommitOffsets(response));
        }
    }

    pub(super) fn fetch_offsets(
        &self,
        token: Token,
        request: &OffsetFetchRequestGroup,
        require_stable: bool,
        out: &mut Effects<Self>,
    ) {
        // A stable answer takes in what is on its way, and waits for it.
        let state = if require_stable { &self.decided } else { &self.committed };
        let mut response =
            OffsetFetchResponseGroup::default().with_group_id(request.group_id.clone());
        let fetch = Fetch { state, group: &request.group_id, require_stable };
        match &request.topics {
            Some(topics) => {
                for topic in topics {
                    let partitions = topic.partition_indexes.iter();
                    response.topics.push(
                        OffsetFetchResponseTopics::default()
                            .with_name(topic.name.clone())
                            .with_partitions(
                                partitions.map(|index| fetch.one(&topic.name, *index)).collect(),
                            ),
                    );
                }
            }
            None => response.topics = fetch.all(),
        }
        if require_stable {
            out.reply(token, Response::FetchOffsets(response));
        } else {
            out.reply_now(token, Response::FetchOffsets(response));
        }
    }

    pub(super) fn delete_offsets(
        &mut self,
        token: Token,
        request: &OffsetDeleteRequest,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let id = own(&request.group_id);
        let (groups, mut cx) = self.split(now, out);
        let valid = if id.is_empty() {
            Err(ResponseError::InvalidGroupId)
        } else {
            groups.get(&id).ok_or(ResponseError::GroupIdNotFound).and_then(|group| {
                let is_open = group.state == GroupState::Empty || group.is_consumer_group();
                if is_open { Ok(group) } else { Err(ResponseError::NonEmptyGroup) }
            })
        };
        let group = match valid {
            Ok(group) => group,
            Err(error) => {
                let response = OffsetDeleteResponse::default().with_error_code(error.code());
                cx.out.reply_now(token, Response::DeleteOffsets(response));
                return;
            }
        };
        let mut changes = vec![];
        let mut response = OffsetDeleteResponse::default();
        for topic in &request.topics {
            let subscribed = group.is_subscribed_to(&topic.name);
            let code = if subscribed { ResponseError::GroupSubscribedToTopic.code() } else { 0 };
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let exists = cx.state.offset(&id, &topic.name, index).is_some()
                    || cx.state.is_pending(&id, &topic.name, index);
                if exists && !subscribed {
                    changes.push(tombstone(&id, &own(&topic.name), index));
                }
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(code)
            });
            let partitions = partitions.collect();
            response.topics.push(
                OffsetDeleteResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        cx.write_split(changes);
        cx.out.reply(token, Response::DeleteOffsets(response));
        self.drop_if_unnamed(&id, now, out);
    }

    /// Takes a group away that consisted of its offsets, once the last is deleted.
    pub(super) fn drop_if_unnamed(&mut self, id: &Str, now: Now, out: &mut Effects<Self>) {
        if !self.decided.names(id) {
            self.drop_group(id, ResponseError::UnknownMemberId, now, out);
        }
    }
}

impl Cx<'_> {
    /// Decides `changes` that need not be in one batch.
    pub(super) fn write_split(&mut self, mut changes: Vec<Change>) {
        while !changes.is_empty() {
            let rest = changes.split_off(changes.len().min(RECORDS_PER_ATOM));
            self.write(std::mem::replace(&mut changes, rest));
        }
    }
}

impl Group {
    fn validate_commit(
        &self,
        request: &OffsetCommitRequest,
        cx: &mut Cx<'_>,
    ) -> Result<(), ResponseError> {
        let generation = request.generation_id_or_member_epoch;
        let instance = request.group_instance_id.as_deref();
        if generation < 0 && self.state == GroupState::Empty {
            // A consumer that assigns itself, or an administrator.
            return Ok(());
        }
        if generation < 0 && request.member_id.is_empty() && instance.is_none() {
            return Err(ResponseError::UnknownMemberId);
        }
        self.validate_member(&request.member_id, instance)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        if self.state == GroupState::CompletingRebalance {
            // It has the generation from its JoinGroup, and not its assignment.
            return Err(ResponseError::RebalanceInProgress);
        }
        self.restart_session(&own(&request.member_id), cx);
        Ok(())
    }
}

fn validate_commit_without_group(
    request: &OffsetCommitRequest,
    version: i16,
) -> Result<(), ResponseError> {
    if request.group_id.len() > MAX_NAME_BYTES {
        Err(ResponseError::InvalidGroupId)
    } else if request.generation_id_or_member_epoch < 0 {
        Ok(())
    } else if version >= KNOWS_GROUP_ID_NOT_FOUND {
        Err(ResponseError::GroupIdNotFound)
    } else {
        Err(ResponseError::IllegalGeneration)
    }
}

fn validate_metadata(
    partition: &OffsetCommitRequestPartition,
    max_bytes: usize,
) -> Result<(), ResponseError> {
    match &partition.committed_metadata {
        Some(metadata) if metadata.len() > max_bytes.min(MAX_NAME_BYTES) => {
            Err(ResponseError::OffsetMetadataTooLarge)
        }
        _ => Ok(()),
    }
}

fn committed_offset(
    partition: &OffsetCommitRequestPartition,
    retention_time_ms: i64,
    now: Now,
) -> CommittedOffset {
    CommittedOffset {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: partition.committed_metadata.as_ref().map_or_else(|| Str::from(""), own),
        commit_timestamp_ms: now.wall_ms,
        // Versions 2 to 4 may ask for a retention of their own.
        expire_timestamp_ms: (retention_time_ms != -1)
            .then(|| now.wall_ms.saturating_add(retention_time_ms)),
    }
}

pub(super) fn tombstone(group: &Str, topic: &Str, partition: i32) -> Change {
    Change::Offset { group: group.clone(), topic: topic.clone(), partition, offset: None }
}

/// What an OffsetFetch looks at.
struct Fetch<'a> {
    state: &'a State,
    group: &'a str,
    require_stable: bool,
}

impl Fetch<'_> {
    fn one(&self, topic: &str, index: i32) -> OffsetFetchResponsePartitions {
        let response = OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(wire("")));
        if self.require_stable && self.state.is_pending(self.group, topic, index) {
            return response.with_error_code(ResponseError::UnstableOffsetCommit.code());
        }
        match self.state.offset(self.group, topic, index) {
            Some(offset) => response
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(offset.leader_epoch)
                .with_metadata(Some(wire(&offset.metadata))),
            None => response,
        }
    }

    fn all(&self) -> Vec<OffsetFetchResponseTopics> {
        let Some(topics) = self.state.offsets.get(self.group) else { return vec![] };
        let topics = topics.iter();
        topics
            .map(|(topic, partitions)| {
                OffsetFetchResponseTopics::default()
                    .with_name(wire(topic).into())
                    .with_partitions(partitions.keys().map(|i| self.one(topic, *i)).collect())
            })
            .collect()
    }
}
