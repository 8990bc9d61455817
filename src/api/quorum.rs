//! DescribeQuorum, AddRaftVoter, RemoveRaftVoter: the metadata quorum, as Kafka's tools know it.
//!
//! Any node answers, and asks the quorum's leader. A voter here is a node that takes part already,
//! as every node with the cluster's seeds does: to add one is to let it vote, and one that is
//! removed stays a learner.
//!
//! References: KIP-595, KIP-836 and KIP-853.

use std::time::Duration;

use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    RemoveRaftVoterRequest, RemoveRaftVoterResponse, describe_quorum_request,
    describe_quorum_response as response,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Context, error::WireError};
use crate::{
    base::{DirectoryId, NodeId},
    cluster::{Description, LeaderError, Replica, VotersChange, VotersError},
    metadata::{CLUSTER_LISTENER, MetadataImage},
    protocol::{ResponseError, StrBytes},
};

/// The topic under whose name Kafka's tools ask for the quorum.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// How long the leader may take where the request does not say.
const PATIENCE: Duration = Duration::from_secs(30);

/// DescribeQuorum 0–2.
pub(super) async fn describe_quorum(
    context: &Context,
    request: DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    match context.cluster.describe(Instant::now() + PATIENCE).await {
        Ok(quorum) => {
            describe(&context.image(), &quorum, context.clock.wall_ms(), request, version)
        }
        Err(error) => {
            let WireError { code, message } = unanswered(&error);
            DescribeQuorumResponse::default()
                .with_error_code(code.code())
                .with_error_message(message.map(Into::into))
        }
    }
}

fn unanswered(error: &LeaderError) -> WireError {
    let code = match error {
        LeaderError::NoCluster | LeaderError::NoLeader => ResponseError::NotController,
        LeaderError::Unknown => ResponseError::RequestTimedOut,
    };
    WireError::new(code, error.to_string())
}

fn describe(
    image: &MetadataImage,
    quorum: &Description,
    now_ms: i64,
    request: DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    let mut is_found = false;
    let topics = request.topics.into_iter().map(|topic| {
        let is_metadata = topic.topic_name.as_str() == METADATA_TOPIC;
        let partitions = topic.partitions.iter().map(|one| {
            if is_metadata && one.partition_index == 0 {
                is_found = true;
                partition(quorum, now_ms, version)
            } else {
                unknown_partition(one)
            }
        });
        let partitions = partitions.collect();
        response::TopicData::default().with_topic_name(topic.topic_name).with_partitions(partitions)
    });
    let response =
        DescribeQuorumResponse::default().with_error_message(None).with_topics(topics.collect());
    if version < 2 || !is_found { response } else { response.with_nodes(nodes(image, quorum)) }
}

fn unknown_partition(asked: &describe_quorum_request::PartitionData) -> response::PartitionData {
    response::PartitionData::default()
        .with_partition_index(asked.partition_index)
        .with_error_code(ResponseError::UnknownTopicOrPartition.code())
        .with_error_message(None)
}

fn partition(quorum: &Description, now_ms: i64, version: i16) -> response::PartitionData {
    let states = |voters: bool| {
        let replicas = quorum.replicas.iter().filter(|replica| replica.is_voter == voters);
        replicas.map(|one| state(quorum, one, now_ms, version)).collect()
    };
    response::PartitionData::default()
        .with_error_message(None)
        .with_leader_id(NodeId(quorum.leader).wire().into())
        .with_leader_epoch(i32::try_from(quorum.term).unwrap_or(i32::MAX))
        .with_high_watermark(offset(quorum.commit))
        .with_current_voters(states(true))
        .with_observers(states(false))
}

fn state(
    quorum: &Description,
    replica: &Replica,
    now_ms: i64,
    version: i16,
) -> response::ReplicaState {
    let directory = if version >= 2 { replica.directory_id().0 } else { Uuid::nil() };
    let is_caught_up = replica.is_active && replica.matched >= quorum.commit;
    let when = |is_now: bool| if is_now { now_ms } else { -1 };
    response::ReplicaState::default()
        .with_replica_id(replica.node_id().wire().into())
        .with_replica_directory_id(directory)
        .with_log_end_offset(offset(replica.matched))
        .with_last_fetch_timestamp(when(replica.is_active))
        .with_last_caught_up_timestamp(when(is_caught_up))
}

fn offset(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

/// Where the members are reached by each other.
fn nodes(image: &MetadataImage, quorum: &Description) -> Vec<response::Node> {
    let node = |replica: &Replica| {
        let broker = image.broker(replica.node_id());
        let endpoint = broker.and_then(|broker| broker.endpoint(CLUSTER_LISTENER));
        let listener = endpoint.map(|endpoint| {
            response::Listener::default()
                .with_name(StrBytes::from_string(endpoint.name.clone()))
                .with_host(StrBytes::from_string(endpoint.host.clone()))
                .with_port(u16::try_from(endpoint.port).unwrap_or(0))
        });
        response::Node::default()
            .with_node_id(replica.node_id().wire().into())
            .with_listeners(listener.into_iter().collect())
    };
    quorum.replicas.iter().map(node).collect()
}

/// AddRaftVoter 0.
pub(super) async fn add_raft_voter(
    context: &Context,
    request: &AddRaftVoterRequest,
) -> AddRaftVoterResponse {
    let patience = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let change = Change {
        cluster_id: request.cluster_id.as_deref(),
        voter_id: request.voter_id,
        directory: request.voter_directory_id,
        change: VotersChange::Add,
        deadline: Instant::now() + patience,
    };
    let response = AddRaftVoterResponse::default();
    match change_voters(context, change).await {
        Ok(()) => response.with_error_message(None),
        Err(error) => response
            .with_error_code(error.code.code())
            .with_error_message(error.message.map(Into::into)),
    }
}

/// RemoveRaftVoter 0.
pub(super) async fn remove_raft_voter(
    context: &Context,
    request: &RemoveRaftVoterRequest,
) -> RemoveRaftVoterResponse {
    let change = Change {
        cluster_id: request.cluster_id.as_deref(),
        voter_id: request.voter_id,
        directory: request.voter_directory_id,
        change: VotersChange::Remove,
        deadline: Instant::now() + PATIENCE,
    };
    let response = RemoveRaftVoterResponse::default();
    match change_voters(context, change).await {
        Ok(()) => response.with_error_message(None),
        Err(error) => response
            .with_error_code(error.code.code())
            .with_error_message(error.message.map(Into::into)),
    }
}

struct Change<'a> {
    cluster_id: Option<&'a str>,
    voter_id: i32,
    directory: Uuid,
    change: VotersChange,
    deadline: Instant,
}

async fn change_voters(context: &Context, asked: Change<'_>) -> Result<(), WireError> {
    let cluster_id = context.image().cluster_id().map(|id| id.to_string());
    if asked.cluster_id.is_some() && asked.cluster_id != cluster_id.as_deref() {
        let message = "The request names another cluster.";
        return Err(WireError::new(ResponseError::InconsistentClusterId, message));
    }
    let node = u32::try_from(asked.voter_id).map_err(|_| ResponseError::InvalidRequest)?;
    let directory = DirectoryId(asked.directory);
    // The change itself counts as done where it was done before, which Kafka's does not.
    let quorum = context.cluster.describe(asked.deadline).await.map_err(|e| unanswered(&e))?;
    let is_meant = |one: &&Replica| one.node == node && one.directory_id() == directory;
    let is_voter = quorum.replicas.iter().find(is_meant).map(|replica| replica.is_voter);
    let code = match (asked.change, is_voter) {
        (VotersChange::Add, Some(true)) => Some(ResponseError::DuplicateVoter),
        (VotersChange::Remove, Some(false) | None) => Some(ResponseError::VoterNotFound),
        _ => None,
    };
    if let Some(code) = code {
        return Err(code.into());
    }
    let changing =
        context.cluster.change_voters(asked.change, NodeId(node), Some(directory), asked.deadline);
    changing.await.map_err(|error| match error {
        VotersError::Refused(why) => WireError::new(ResponseError::InvalidRequest, why),
        VotersError::Leader(error) => unanswered(&error),
    })
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{ApiKey, ResponseKind};

    use super::{
        super::discovery::{tests::image, topic_name},
        *,
    };
    use crate::{protocol::api, quorum::Member};

    #[test]
    fn the_quorum_is_described_under_kafkas_topic() {
        let asked = |topic: &str, partition| {
            let partition =
                describe_quorum_request::PartitionData::default().with_partition_index(partition);
            describe_quorum_request::TopicData::default()
                .with_topic_name(topic_name(topic))
                .with_partitions(vec![partition])
        };
        let member =
            |node| Member { node_id: NodeId(node), directory_id: DirectoryId(Uuid::nil()) };
        let mut leader = Replica::new(11, member(1), true);
        (leader.matched, leader.is_active) = (21, true);
        let learner = Replica::new(12, member(2), false);
        let quorum = Description {
            leader: 1,
            term: 3,
            commit: 20,
            replicas: vec![leader, learner],
            is_changing: false,
        };
        for version in 0..=2 {
            let request = DescribeQuorumRequest::default().with_topics(vec![
                asked(METADATA_TOPIC, 0),
                asked(METADATA_TOPIC, 1),
                asked("orders", 0),
            ]);
            let response = describe(&image(), &quorum, 99, request, version);
            let partition = &response.topics[0].partitions[0];
            assert_eq!((partition.leader_id.0, partition.leader_epoch), (1, 3));
            assert_eq!(partition.high_watermark, 20);
            assert_eq!(partition.current_voters[0].log_end_offset, 21);
            assert_eq!(partition.current_voters[0].last_caught_up_timestamp, 99);
            assert_eq!(partition.observers[0].replica_id.0, 2);
            assert_eq!(partition.observers[0].last_fetch_timestamp, -1);
            for topic in &response.topics[1..] {
                let code = ResponseError::UnknownTopicOrPartition.code();
                assert_eq!(topic.partitions[0].error_code, code);
            }
            assert_eq!(response.nodes.len(), if version >= 2 { 2 } else { 0 });
            let response = ResponseKind::DescribeQuorum(response);
            api::encode_response(ApiKey::DescribeQuorum, version, 1, &response).unwrap();
        }
    }
}
