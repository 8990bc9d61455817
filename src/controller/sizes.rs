//! How large replicas are, as their leaders say now and then: what the balancer weighs them by.
//!
//! State: a size per partition, which is soft and never in the metadata. A new controller knows
//! none until it is told, for half of the balancer's interval at most, so before it first plans.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;

use crate::{
    base::{NodeId, PartitionIndex, TopicId, TopicPartition},
    controller::{Decision, brokers::registered},
    metadata::{MetadataImage, records::Uuid},
};

/// The sizes of partitions that a broker leads. No request of Kafka's.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplicaSizesRequest {
    /// The broker.
    #[prost(int32, tag = "1")]
    pub broker_id: i32,
    /// Its registration.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
    /// By topic.
    #[prost(message, repeated, tag = "3")]
    pub topics: Vec<TopicSizes>,
}

/// Partitions of one topic, and their sizes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TopicSizes {
    /// The topic.
    #[prost(message, required, tag = "1")]
    pub topic_id: Uuid,
    /// Its partitions.
    #[prost(int32, repeated, tag = "2")]
    pub partitions: Vec<i32>,
    /// The size of each, in bytes.
    #[prost(uint64, repeated, tag = "3")]
    pub bytes: Vec<u64>,
}

/// The answer to a [`ReplicaSizesRequest`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReplicaSizesResponse {
    /// Kafka's code.
    #[prost(int32, tag = "1")]
    pub error_code: i32,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Sizes(BTreeMap<TopicPartition, u64>);

impl Sizes {
    pub(super) fn bytes(&self, at: TopicPartition) -> Option<u64> {
        self.0.get(&at).copied()
    }

    /// Forgets what is no more.
    pub(super) fn keep_known(&mut self, image: &MetadataImage) {
        self.0.retain(|at, _| image.partition(*at).is_some());
    }

    pub(super) fn report(
        &mut self,
        image: &MetadataImage,
        request: &ReplicaSizesRequest,
    ) -> Decision<ReplicaSizesResponse> {
        let ReplicaSizesRequest { broker_id, broker_epoch, topics } = request;
        let node = match registered(image, *broker_id, *broker_epoch) {
            Ok(broker) => broker.id,
            Err(error) => return answer(Some(error)),
        };
        for topic in topics {
            let id = TopicId::from(topic.topic_id);
            for (partition, bytes) in topic.partitions.iter().zip(&topic.bytes) {
                let at = TopicPartition { topic: id, partition: PartitionIndex(*partition) };
                if leads(image, node, at) {
                    self.0.insert(at, *bytes);
                }
            }
        }
        answer(None)
    }
}

fn leads(image: &MetadataImage, node: NodeId, at: TopicPartition) -> bool {
    image.partition(at).is_some_and(|partition| partition.leader == Some(node))
}

fn answer(error: Option<ResponseError>) -> Decision<ReplicaSizesResponse> {
    let error_code = error.map_or(0, |error| i32::from(error.code()));
    Decision::answer(ReplicaSizesResponse { error_code })
}
