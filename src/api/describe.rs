//! DescribeCluster, DescribeTopicPartitions, DescribeQuorum: the image and the quorum as they are.
//!
//! References: KIP-700, KIP-919 (endpoint types), KIP-966 (partitions in pages), KIP-595, KIP-836
//! and KIP-853 (the quorum).

use std::collections::BTreeSet;

use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeClusterResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    describe_cluster_response::DescribeClusterBroker,
    describe_quorum_request, describe_quorum_response as quorum_response,
    describe_topic_partitions_request,
    describe_topic_partitions_response::{
        Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
    },
};
use uuid::Uuid;

use super::{
    Context,
    discovery::{
        CLUSTER_OPERATIONS, NO_NODE, TOPIC_OPERATIONS, broker_ids, controller_id, offline_replicas,
        port, topic_name, unknown_topic,
    },
};
use crate::{
    base::{NodeId, PartitionIndex},
    metadata::{self, MetadataImage, Partition, Topic},
    protocol::{ResponseError, StrBytes},
    quorum::Status,
};

/// DescribeCluster asks for the brokers; 2 would be the controllers.
const ENDPOINT_TYPE_BROKERS: i8 = 1;
const ENDPOINT_TYPE_CONTROLLERS: i8 = 2;

/// The topic under whose name Kafka's tools ask for the quorum.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// DescribeCluster 0–2.
pub(super) fn describe_cluster(
    context: &Context,
    request: &DescribeClusterRequest,
    version: i16,
    listener: &str,
) -> DescribeClusterResponse {
    describe_cluster_of(&context.image(), controller_id(context).0, request, version, listener)
}

fn describe_cluster_of(
    image: &MetadataImage,
    controller_id: i32,
    request: &DescribeClusterRequest,
    version: i16,
    listener: &str,
) -> DescribeClusterResponse {
    let response = DescribeClusterResponse::default();
    let code = match request.endpoint_type {
        ENDPOINT_TYPE_BROKERS => None,
        ENDPOINT_TYPE_CONTROLLERS => Some(ResponseError::MismatchedEndpointType),
        _ => Some(ResponseError::UnsupportedEndpointType),
    };
    if let Some(code) = code {
        let message = format!("There is no endpoint of type {} here", request.endpoint_type);
        return response.with_error_code(code.code()).with_error_message(Some(message.into()));
    }
    let with_fenced = version >= 2 && request.include_fenced_brokers;
    let brokers: Vec<DescribeClusterBroker> = image
        .brokers()
        .filter(|broker| with_fenced || !broker.fenced)
        .filter_map(|broker| {
            let endpoint = broker.endpoint(listener)?;
            Some(
                DescribeClusterBroker::default()
                    .with_broker_id(broker.id.wire().into())
                    .with_host(endpoint.host.clone().into())
                    .with_port(port(endpoint))
                    .with_rack(broker.rack.clone().map(Into::into))
                    .with_is_fenced(broker.fenced),
            )
        })
        .collect();
    let is_listed = brokers.iter().any(|broker| broker.broker_id.0 == controller_id);
    let operations = request.include_cluster_authorized_operations;
    response
        .with_cluster_id(image.cluster_id().map(|id| id.to_string()).unwrap_or_default().into())
        .with_controller_id(if is_listed { controller_id.into() } else { NO_NODE })
        .with_brokers(brokers)
        .with_cluster_authorized_operations(if operations { CLUSTER_OPERATIONS } else { i32::MIN })
}

/// DescribeTopicPartitions 0.
pub(super) fn describe_topic_partitions(
    context: &Context,
    request: DescribeTopicPartitionsRequest,
    _version: i16,
) -> DescribeTopicPartitionsResponse {
    let limit = context.broker_config().max_request_partition_size_limit;
    topic_partitions(&context.image(), request, limit)
}

fn topic_partitions(
    image: &MetadataImage,
    request: DescribeTopicPartitionsRequest,
    limit: i32,
) -> DescribeTopicPartitionsResponse {
    let room = usize::try_from(request.response_partition_limit.min(limit)).unwrap_or(0).max(1);
    let mut page = Page { room, ..Page::default() };
    let cursor = request.cursor.as_ref();
    if !cursor.is_none_or(|cursor| is_valid(cursor, &request.topics)) {
        let refused = request.topics.into_iter().map(|topic| {
            DescribeTopicPartitionsResponseTopic::default()
                .with_error_code(ResponseError::InvalidRequest.code())
                .with_name(Some(topic.name))
        });
        return DescribeTopicPartitionsResponse::default().with_topics(refused.collect());
    }
    let from = cursor.map_or("", |cursor| cursor.topic_name.as_str());
    let first = |name: &str| match cursor {
        Some(cursor) if cursor.topic_name.as_str() == name => cursor.partition_index,
        _ => 0,
    };
    if request.topics.is_empty() {
        for topic in image.topics_from(from) {
            if !page.add(image, topic, first(&topic.name)) {
                break;
            }
        }
    } else {
        let names: BTreeSet<&str> = request.topics.iter().map(|t| t.name.as_str()).collect();
        for name in names.range(from..) {
            let more = match image.topic_by_name(name) {
                Some(topic) => page.add(image, topic, first(name)),
                None => page.add_unknown(name),
            };
            if !more {
                break;
            }
        }
    }
    DescribeTopicPartitionsResponse::default().with_topics(page.topics).with_next_cursor(page.next)
}

/// Whether a page can start here: within the topics asked for, at a partition.
fn is_valid(
    cursor: &describe_topic_partitions_request::Cursor,
    topics: &[describe_topic_partitions_request::TopicRequest],
) -> bool {
    let is_asked = topics.is_empty() || topics.iter().any(|t| t.name == cursor.topic_name);
    cursor.partition_index >= 0 && is_asked
}

/// As many partitions as one response holds, and where the next one goes on.
#[derive(Debug, Default)]
struct Page {
    room: usize,
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    next: Option<Cursor>,
}

impl Page {
    /// Adds the partitions of a topic from `first` on; says whether there may be room for more.
    fn add(&mut self, image: &MetadataImage, topic: &Topic, first: i32) -> bool {
        if self.room == 0 {
            self.next = Some(cursor(&topic.name, 0));
            return false;
        }
        let mut rest = topic.partitions.range(PartitionIndex(first)..);
        let partitions: Vec<_> =
            rest.by_ref().take(self.room).map(|(i, one)| described(image, *i, one)).collect();
        self.room -= partitions.len();
        self.next = rest.next().map(|(index, _)| cursor(&topic.name, index.0));
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(topic_name(&topic.name)))
                .with_topic_id(topic.id.0)
                .with_is_internal(topic.is_internal())
                .with_partitions(partitions)
                .with_topic_authorized_operations(TOPIC_OPERATIONS),
        );
        self.next.is_none()
    }

    fn add_unknown(&mut self, name: &str) -> bool {
        if self.room == 0 {
            self.next = Some(cursor(name, 0));
            return false;
        }
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_error_code(unknown_topic(name).code())
                .with_name(Some(topic_name(name)))
                .with_is_internal(metadata::is_internal(name)),
        );
        true
    }
}

fn cursor(topic: &str, partition: i32) -> Cursor {
    Cursor::default().with_topic_name(topic_name(topic)).with_partition_index(partition)
}

fn described(
    image: &MetadataImage,
    index: PartitionIndex,
    partition: &Partition,
) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition::default()
        .with_partition_index(index.0)
        .with_leader_id(partition.leader.map_or(NO_NODE, |leader| leader.wire().into()))
        .with_leader_epoch(partition.leader_epoch.0)
        .with_replica_nodes(broker_ids(&partition.replicas))
        .with_isr_nodes(broker_ids(&partition.isr))
        .with_eligible_leader_replicas(Some(broker_ids(&partition.eligible_leader_replicas)))
        .with_last_known_elr(Some(broker_ids(&partition.last_known_elr)))
        .with_offline_replicas(broker_ids(&offline_replicas(image, partition)))
}

/// DescribeQuorum 0–2.
pub(super) fn describe_quorum(
    context: &Context,
    request: DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    let (status, now_ms) = (context.quorum.status(), context.clock.wall_ms());
    describe_quorum_of(&context.image(), &status, now_ms, request, version)
}

fn describe_quorum_of(
    image: &MetadataImage,
    status: &Status,
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
                quorum_partition(status, now_ms, version)
            } else {
                unknown_partition(one)
            }
        });
        let partitions = partitions.collect();
        quorum_response::TopicData::default()
            .with_topic_name(topic.topic_name)
            .with_partitions(partitions)
    });
    let response =
        DescribeQuorumResponse::default().with_error_message(None).with_topics(topics.collect());
    if version < 2 || !is_found { response } else { response.with_nodes(nodes(image, status)) }
}

fn unknown_partition(
    asked: &describe_quorum_request::PartitionData,
) -> quorum_response::PartitionData {
    quorum_response::PartitionData::default()
        .with_partition_index(asked.partition_index)
        .with_error_code(ResponseError::UnknownTopicOrPartition.code())
        .with_error_message(None)
}

/// Differs from Kafka: every node answers, where Kafka sends the client to the leader. A node that
/// does not lead knows how far itself and the commit are, and -1 stands for the others.
fn quorum_partition(status: &Status, now_ms: i64, version: i16) -> quorum_response::PartitionData {
    let configuration = &status.configuration;
    let (mut voters, mut observers) = (Vec::new(), Vec::new());
    for (peer, member) in &configuration.members {
        let state = replica(status, *peer, now_ms)
            .with_replica_id(member.node_id.wire().into())
            .with_replica_directory_id(if version >= 2 {
                member.directory_id.0
            } else {
                Uuid::nil()
            });
        if configuration.is_voter(*peer) { voters.push(state) } else { observers.push(state) }
    }
    quorum_response::PartitionData::default()
        .with_error_message(None)
        .with_leader_id(status.leader().map_or(NO_NODE, |one| one.node_id.wire().into()))
        .with_leader_epoch(i32::try_from(status.raft.term).unwrap_or(i32::MAX))
        .with_high_watermark(offset(status.raft.commit))
        .with_current_voters(voters)
        .with_observers(observers)
}

fn replica(status: &Status, peer: u64, now_ms: i64) -> quorum_response::ReplicaState {
    let replica = quorum_response::ReplicaState::default();
    if peer == status.raft.peer_id {
        let replica = replica.with_log_end_offset(offset(status.raft.last_index));
        return if status.is_leader() {
            replica.with_last_fetch_timestamp(now_ms).with_last_caught_up_timestamp(now_ms)
        } else {
            replica
        };
    }
    match status.raft.peers.iter().find(|progress| progress.peer_id == peer) {
        Some(progress) => {
            let is_caught_up = progress.active && progress.matched >= status.raft.commit;
            replica
                .with_log_end_offset(offset(progress.matched))
                .with_last_fetch_timestamp(if progress.active { now_ms } else { -1 })
                .with_last_caught_up_timestamp(if is_caught_up { now_ms } else { -1 })
        }
        None => replica.with_log_end_offset(-1),
    }
}

fn offset(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

/// The members of the quorum with their client listeners: what is between nodes has no form that
/// Kafka's tools could use.
fn nodes(image: &MetadataImage, status: &Status) -> Vec<quorum_response::Node> {
    let ids: BTreeSet<NodeId> =
        status.configuration.members.values().map(|member| member.node_id).collect();
    let listeners = |id: NodeId| {
        let endpoints = image.broker(id).map(|b| b.endpoints.as_slice()).unwrap_or_default();
        let listener = |endpoint: &metadata::records::BrokerEndpoint| {
            quorum_response::Listener::default()
                .with_name(StrBytes::from_string(endpoint.name.clone()))
                .with_host(StrBytes::from_string(endpoint.host.clone()))
                .with_port(u16::try_from(endpoint.port).unwrap_or(0))
        };
        endpoints.iter().map(listener).collect::<Vec<_>>()
    };
    let node = |id: NodeId| {
        quorum_response::Node::default()
            .with_node_id(id.wire().into())
            .with_listeners(listeners(id))
    };
    ids.into_iter().map(node).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kafka_protocol::messages::{
        ApiKey, ResponseKind,
        describe_topic_partitions_request::{Cursor as FromCursor, TopicRequest},
    };

    use super::{super::discovery::tests::image, *};
    use crate::{
        base::{ClusterId, DirectoryId},
        protocol::api,
        quorum::{Configuration, Identity, Member, core::CoreStatus, raftpb::StateRole},
    };

    fn page(limit: i32, cursor: Option<(&str, i32)>, names: &[&str]) -> Vec<(String, Vec<i32>)> {
        let response = topic_partitions(&image(), request(limit, cursor, names), 2_000);
        let next =
            response.next_cursor.map(|c| (c.topic_name.to_string(), vec![c.partition_index]));
        let topics = response.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|one| one.partition_index);
            (topic.name.unwrap().to_string(), partitions.collect())
        });
        topics.chain(next).collect()
    }

    fn request(
        limit: i32,
        cursor: Option<(&str, i32)>,
        names: &[&str],
    ) -> DescribeTopicPartitionsRequest {
        let from = |(name, partition): (&str, i32)| {
            FromCursor::default().with_topic_name(topic_name(name)).with_partition_index(partition)
        };
        let topics = names.iter().map(|name| TopicRequest::default().with_name(topic_name(name)));
        DescribeTopicPartitionsRequest::default()
            .with_response_partition_limit(limit)
            .with_cursor(cursor.map(from))
            .with_topics(topics.collect())
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended() {
        let entry = |name: &str, partitions: &[i32]| (name.to_owned(), partitions.to_vec());
        let offsets = "__consumer_offsets";
        assert_eq!(page(2, None, &[]), [entry(offsets, &[0, 1]), entry(offsets, &[2])]);
        assert_eq!(
            page(2, Some((offsets, 2)), &[]),
            [entry(offsets, &[2]), entry("orders", &[0]), entry("orders", &[1])]
        );
        assert_eq!(page(9, Some(("orders", 1)), &[]), [entry("orders", &[1])]);
        assert_eq!(page(3, None, &[]), [entry(offsets, &[0, 1, 2]), entry("orders", &[0])]);
        assert_eq!(page(9, None, &["zz", "orders"])[1], entry("zz", &[]));
    }

    #[test]
    fn a_cursor_outside_of_the_topics_asked_for_is_refused() {
        for cursor in [("other", 0), ("orders", -1)] {
            let response = topic_partitions(&image(), request(9, Some(cursor), &["orders"]), 2_000);
            assert_eq!(response.topics[0].error_code, ResponseError::InvalidRequest.code());
        }
    }

    #[test]
    fn fenced_brokers_are_listed_only_on_request() {
        let image = image();
        for version in 0..=2 {
            let request = DescribeClusterRequest::default()
                .with_endpoint_type(1)
                .with_include_fenced_brokers(version >= 2);
            let response = describe_cluster_of(&image, 1, &request, version, "PLAINTEXT");
            assert_eq!(response.brokers.len(), if version >= 2 { 2 } else { 1 });
            assert_eq!(response.controller_id.0, 1);
            let response = ResponseKind::DescribeCluster(response);
            api::encode_response(ApiKey::DescribeCluster, version, 1, &response).unwrap();
        }
        let request = DescribeClusterRequest::default().with_endpoint_type(2);
        let response = describe_cluster_of(&image, 1, &request, 2, "PLAINTEXT");
        assert_eq!(response.error_code, ResponseError::MismatchedEndpointType.code());
    }

    fn status() -> Status {
        let member = Member { node_id: NodeId(1), directory_id: DirectoryId(Uuid::from_u128(4)) };
        Status {
            raft: CoreStatus {
                peer_id: 11,
                role: StateRole::Leader,
                term: 3,
                leader: Some(11),
                last_index: 21,
                commit: 20,
                applied: 20,
                settled: Some(1),
                peers: Vec::new(),
            },
            configuration: Configuration::of_voters(BTreeMap::from([(11, member)])),
            identity: Identity { cluster_id: ClusterId(Uuid::nil()), member, peer_id: 11 },
            log_start_index: 1,
            applied_entries: 20,
        }
    }

    #[test]
    fn the_quorum_is_described_under_kafkas_topic() {
        let asked = |topic: &str, partition| {
            let partition =
                describe_quorum_request::PartitionData::default().with_partition_index(partition);
            describe_quorum_request::TopicData::default()
                .with_topic_name(topic_name(topic))
                .with_partitions(vec![partition])
        };
        let image = image();
        for version in 0..=2 {
            let request = DescribeQuorumRequest::default().with_topics(vec![
                asked(METADATA_TOPIC, 0),
                asked(METADATA_TOPIC, 1),
                asked("orders", 0),
            ]);
            let response = describe_quorum_of(&image, &status(), 99, request, version);
            let partition = &response.topics[0].partitions[0];
            assert_eq!((partition.leader_id.0, partition.leader_epoch), (1, 3));
            assert_eq!(partition.high_watermark, 20);
            assert_eq!(partition.current_voters[0].log_end_offset, 21);
            for topic in &response.topics[1..] {
                let code = ResponseError::UnknownTopicOrPartition.code();
                assert_eq!(topic.partitions[0].error_code, code);
            }
            assert_eq!(response.nodes.len(), usize::from(version >= 2));
            let response = ResponseKind::DescribeQuorum(response);
            api::encode_response(ApiKey::DescribeQuorum, version, 1, &response).unwrap();
        }
    }
}
