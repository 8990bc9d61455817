//! DescribeCluster and DescribeTopicPartitions: the image as it is.
//!
//! References: KIP-700, KIP-919 (endpoint types), KIP-966 (partitions in pages).

use std::collections::BTreeSet;

use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeClusterResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    describe_cluster_response::DescribeClusterBroker,
    describe_topic_partitions_request,
    describe_topic_partitions_response::{
        Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
    },
};

use super::{
    Context,
    discovery::{
        CLUSTER_OPERATIONS, NO_NODE, TOPIC_OPERATIONS, broker_ids, controller_id, offline_replicas,
        port, topic_name, unknown_topic,
    },
};
use crate::{
    base::PartitionIndex,
    metadata::{self, MetadataImage, Partition, Topic},
    protocol::ResponseError,
};

/// DescribeCluster asks for the brokers; 2 would be the controllers.
const ENDPOINT_TYPE_BROKERS: i8 = 1;
const ENDPOINT_TYPE_CONTROLLERS: i8 = 2;

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

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{
        ApiKey, ResponseKind,
        describe_topic_partitions_request::{Cursor as FromCursor, TopicRequest},
    };

    use super::{super::discovery::tests::image, *};
    use crate::protocol::api;

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
}
