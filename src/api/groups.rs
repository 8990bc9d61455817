//! The group family: from a decoded request to its response, through the group coordinator.
//!
//! What a version expresses differently is settled here: the coordinator knows one form of each
//! request. Authorization is the caller's, before; so is the fate of partitions it refuses.

use std::collections::BTreeMap;

use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
    delete_groups_response::DeletableGroupResult,
    describe_groups_response::DescribedGroup,
    leave_group_request::MemberIdentity,
    offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
    offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
    offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics},
    offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
    },
};

use super::each_once;
use crate::{
    base::PartitionIndex,
    coordinator::Failure,
    group::{Client, Groups, Request, Response},
    protocol::StrBytes,
};

/// Which partitions there are: offsets are committed and deleted only for those.
pub trait Topics {
    /// Whether the topic has the partition.
    fn has_partition(&self, topic: &str, partition: i32) -> bool;
}

/// Takes the one kind of response out that the request can have.
macro_rules! expect {
    ($result:expr, $kind:ident) => {
        match $result {
            Ok(Response::$kind(response)) => Ok(response),
            Ok(other) => unreachable!("a {} was answered with {other:?}", stringify!($kind)),
            Err(failure) => Err(failure),
        }
    };
}

/// JoinGroup 0–9.
pub async fn join_group(
    groups: &Groups,
    request: JoinGroupRequest,
    version: i16,
    client: Client,
) -> JoinGroupResponse {
    let (id, member) = (request.group_id.clone(), request.member_id.clone());
    let result = groups.call(&id, Request::Join { request, version, client }).await;
    let mut response = expect!(result, Join).unwrap_or_else(|failure| {
        JoinGroupResponse::default()
            .with_error_code(failure.code())
            .with_generation_id(-1)
            .with_member_id(member)
    });
    // Before version 7 the name cannot be null.
    if version < 7 && response.protocol_name.is_none() {
        response.protocol_name = Some(StrBytes::default());
    }
    response
}

/// SyncGroup 0–5.
pub async fn sync_group(groups: &Groups, request: SyncGroupRequest) -> SyncGroupResponse {
    let id = request.group_id.clone();
    expect!(groups.call(&id, Request::Sync(request)).await, Sync)
        .unwrap_or_else(|failure| SyncGroupResponse::default().with_error_code(failure.code()))
}

/// Heartbeat 0–4.
pub async fn heartbeat(groups: &Groups, request: HeartbeatRequest) -> HeartbeatResponse {
    let id = request.group_id.clone();
    expect!(groups.call(&id, Request::Heartbeat(request)).await, Heartbeat).unwrap_or_else(
        |failure| match failure {
            // The session starts anew with the load: there is nothing for the member to do.
            Failure::CoordinatorLoadInProgress => HeartbeatResponse::default(),
            other => HeartbeatResponse::default().with_error_code(other.code()),
        },
    )
}

/// LeaveGroup 0–5.
pub async fn leave_group(
    groups: &Groups,
    mut request: LeaveGroupRequest,
    version: i16,
) -> LeaveGroupResponse {
    if version < 3 {
        let member = std::mem::take(&mut request.member_id);
        request.members = vec![MemberIdentity::default().with_member_id(member)];
    }
    let id = request.group_id.clone();
    let mut response = expect!(groups.call(&id, Request::Leave(request)).await, Leave)
        .unwrap_or_else(|failure| LeaveGroupResponse::default().with_error_code(failure.code()));
    if version < 3 {
        let members = std::mem::take(&mut response.members);
        if let (0, Some(member)) = (response.error_code, members.first()) {
            response.error_code = member.error_code;
        }
    }
    response
}

/// OffsetCommit 2–9.
pub async fn offset_commit(
    groups: &Groups,
    mut request: OffsetCommitRequest,
    version: i16,
    topics: &impl Topics,
) -> OffsetCommitResponse {
    let partition = |index, code| {
        OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code)
    };
    // The response keeps the request's order, whoever refuses a partition.
    let mut response = OffsetCommitResponse::default();
    let mut places = BTreeMap::new();
    for (at, topic) in request.topics.iter_mut().enumerate() {
        let mut answers = vec![];
        let name = topic.name.clone();
        topic.partitions.retain(|asked| {
            let exists = topics.has_partition(&name, asked.partition_index);
            let code = if exists { 0 } else { Failure::UnknownTopicOrPartition.code() };
            answers.push(partition(asked.partition_index, code));
            exists
        });
        if !topic.partitions.is_empty() {
            places.insert(places.len(), at);
        }
        response
            .topics
            .push(OffsetCommitResponseTopic::default().with_name(name).with_partitions(answers));
    }
    request.topics.retain(|topic| !topic.partitions.is_empty());
    if request.topics.is_empty() {
        return response;
    }
    let id = request.group_id.clone();
    let result = groups.call(&id, Request::CommitOffsets { request, version }).await;
    let result = expect!(result, CommitOffsets);
    for (sent, at) in places {
        let mut codes = match &result {
            Ok(answered) => {
                answered.topics[sent].partitions.iter().map(|of| of.error_code).collect()
            }
            Err(_) => vec![],
        }
        .into_iter();
        let failure = result.as_ref().err().map_or(0, Failure::code);
        for partition in &mut response.topics[at].partitions {
            if partition.error_code == 0 {
                partition.error_code = codes.next().unwrap_or(failure);
            }
        }
    }
    response
}

/// OffsetFetch 1–9.
pub async fn offset_fetch(
    groups: &Groups,
    request: OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    let require_stable = version >= 7 && request.require_stable;
    if version >= 8 {
        let asked = each_once(request.groups, |group| group.group_id.clone());
        let answers = asked.map(|group| fetch_group(groups, group, require_stable));
        let answers = futures::future::join_all(answers).await;
        return OffsetFetchResponse::default().with_groups(answers);
    }
    let topics = request.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        topics.collect::<Vec<_>>()
    });
    let group =
        OffsetFetchRequestGroup::default().with_group_id(request.group_id).with_topics(topics);
    single_group(group, version, |group| fetch_group(groups, group, require_stable)).await
}

/// The form of versions 1 to 7.
async fn single_group<F: Future<Output = OffsetFetchResponseGroup>>(
    group: OffsetFetchRequestGroup,
    version: i16,
    fetch: impl FnOnce(OffsetFetchRequestGroup) -> F,
) -> OffsetFetchResponse {
    let answer = fetch(group.clone()).await;
    let partition = OffsetFetchResponsePartition::default;
    let mut response = OffsetFetchResponse::default();
    if answer.error_code == 0 || version >= 2 {
        response.error_code = answer.error_code;
        let topics = answer.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.into_iter().map(|of| {
                partition()
                    .with_partition_index(of.partition_index)
                    .with_committed_offset(of.committed_offset)
                    .with_committed_leader_epoch(of.committed_leader_epoch)
                    .with_metadata(of.metadata)
                    .with_error_code(of.error_code)
            });
            OffsetFetchResponseTopic::default()
                .with_name(topic.name)
                .with_partitions(partitions.collect())
        });
        response.topics = topics.collect();
        return response;
    }
    // Version 1 has room for an error only in each partition.
    for topic in group.topics.into_iter().flatten() {
        let partitions = topic.partition_indexes.into_iter().map(|index| {
            partition()
                .with_partition_index(index)
                .with_committed_offset(-1)
                .with_committed_leader_epoch(-1)
                .with_metadata(Some(StrBytes::default()))
                .with_error_code(answer.error_code)
        });
        response.topics.push(
            OffsetFetchResponseTopic::default()
                .with_name(topic.name)
                .with_partitions(partitions.collect()),
        );
    }
    response
}

async fn fetch_group(
    groups: &Groups,
    group: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let id = group.group_id.clone();
    let result = groups.call(&id, Request::FetchOffsets { group, require_stable }).await;
    expect!(result, FetchOffsets).unwrap_or_else(|failure| {
        // Consumers before 3.9 do not retry on COORDINATOR_NOT_AVAILABLE here.
        let failure = match failure {
            Failure::CoordinatorNotAvailable if require_stable => Failure::NotCoordinator,
            other => other,
        };
        OffsetFetchResponseGroup::default().with_group_id(id).with_error_code(failure.code())
    })
}

/// DescribeGroups 0–6.
pub async fn describe_groups(
    groups: &Groups,
    request: DescribeGroupsRequest,
    version: i16,
) -> DescribeGroupsResponse {
    let calls = each_once(request.groups, Clone::clone).map(|id| async move {
        let asked = Request::Describe { groups: vec![id.clone()], version };
        match expect!(groups.call(&id, asked).await, Describe) {
            Ok(response) => response.groups,
            Err(failure) => vec![
                DescribedGroup::default()
                    .with_group_id(id)
                    .with_error_code(failure.code())
                    .with_authorized_operations(i32::MIN),
            ],
        }
    });
    let described = futures::future::join_all(calls).await;
    DescribeGroupsResponse::default().with_groups(described.into_iter().flatten().collect())
}

/// ListGroups 0–5: the groups of every shard that is led here.
pub async fn list_groups(groups: &Groups, request: ListGroupsRequest) -> ListGroupsResponse {
    let calls = groups.led().into_iter().map(|partition| {
        let asked = Request::List(request.clone());
        async move { expect!(groups.call_partition(partition, asked).await, List) }
    });
    let mut response = ListGroupsResponse::default();
    for result in futures::future::join_all(calls).await {
        match result {
            Ok(answer) => response.groups.extend(answer.groups),
            // Its leadership has moved meanwhile: the groups are listed there.
            Err(Failure::NotCoordinator) => {}
            Err(failure) => {
                return ListGroupsResponse::default().with_error_code(failure.code());
            }
        }
    }
    response
}

/// DeleteGroups 0–2.
pub async fn delete_groups(groups: &Groups, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = vec![];
    // Groups of one shard go to it together, as one request of theirs can be a whole batch.
    let mut by_partition = BTreeMap::<PartitionIndex, Vec<GroupId>>::new();
    for id in request.groups_names {
        match groups.partition_for(&id) {
            Ok(partition) => by_partition.entry(partition).or_default().push(id),
            Err(failure) => results.push(refused_deletion(id, failure)),
        }
    }
    let calls = by_partition.into_iter().map(|(partition, ids)| async move {
        let asked = Request::Delete { groups: ids.clone() };
        match expect!(groups.call_partition(partition, asked).await, Delete) {
            Ok(response) => response.results,
            Err(failure) => ids.into_iter().map(|id| refused_deletion(id, failure)).collect(),
        }
    });
    results.extend(futures::future::join_all(calls).await.into_iter().flatten());
    DeleteGroupsResponse::default().with_results(results)
}

fn refused_deletion(id: GroupId, failure: Failure) -> DeletableGroupResult {
    DeletableGroupResult::default().with_group_id(id).with_error_code(failure.code())
}

/// OffsetDelete 0.
pub async fn offset_delete(
    groups: &Groups,
    mut request: OffsetDeleteRequest,
    topics: &impl Topics,
) -> OffsetDeleteResponse {
    let mut unknown = vec![];
    for topic in &mut request.topics {
        let name = topic.name.clone();
        let mut missing = vec![];
        topic.partitions.retain(|asked| {
            let exists = topics.has_partition(&name, asked.partition_index);
            if !exists {
                missing.push(
                    OffsetDeleteResponsePartition::default()
                        .with_partition_index(asked.partition_index)
                        .with_error_code(Failure::UnknownTopicOrPartition.code()),
                );
            }
            exists
        });
        if !missing.is_empty() {
            let topic = OffsetDeleteResponseTopic::default().with_name(name);
            unknown.push(topic.with_partitions(missing));
        }
    }
    request.topics.retain(|topic| !topic.partitions.is_empty());
    let id = request.group_id.clone();
    let result = groups.call(&id, Request::DeleteOffsets(request)).await;
    let mut response = expect!(result, DeleteOffsets)
        .unwrap_or_else(|failure| OffsetDeleteResponse::default().with_error_code(failure.code()));
    if response.error_code == 0 {
        let mut known: BTreeMap<_, _> =
            response.topics.drain(..).map(|topic| (topic.name, topic.partitions)).collect();
        for topic in unknown {
            known.entry(topic.name).or_default().extend(topic.partitions);
        }
        let topic = |(name, partitions)| {
            OffsetDeleteResponseTopic::default().with_name(name).with_partitions(partitions)
        };
        response.topics = known.into_iter().map(topic).collect();
    }
    response
}
