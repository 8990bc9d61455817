//! Idempotent producers: InitProducerId and DescribeProducers.

use kafka_protocol::messages::{
    AllocateProducerIdsRequest, DescribeProducersRequest, DescribeProducersResponse,
    InitProducerIdRequest, InitProducerIdResponse,
    describe_producers_response::{PartitionResponse, ProducerState, TopicResponse},
};
use uuid::Uuid;

use super::{Context, coordinators, each_once, error::WireError};
use crate::{
    base::{PartitionIndex, ProducerEpoch, ProducerId},
    controller,
    protocol::ResponseError,
};

/// How long a producer waits for the controller.
const ALLOCATE_TIMEOUT_MS: i32 = 30_000;

/// Ids that the controller gave to this node and that no producer has yet (KIP-730).
#[derive(Debug, Default)]
pub(super) struct ProducerIds(tokio::sync::Mutex<std::ops::Range<i64>>);

impl ProducerIds {
    async fn next(&self, context: &Context) -> Result<ProducerId, WireError> {
        let mut block = self.0.lock().await;
        if let Some(id) = block.next() {
            return Ok(ProducerId(id));
        }
        let image = context.image();
        let epoch = image.broker(context.node_id()).map_or(-1, |broker| broker.epoch.0);
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(context.node_id().wire().into())
            .with_broker_epoch(epoch);
        let request = controller::Request::AllocateProducerIds(request);
        let response = context.ask_controller(request, ALLOCATE_TIMEOUT_MS).await?;
        let controller::Response::AllocateProducerIds(response) = response else {
            return Err(ResponseError::UnknownServerError.into());
        };
        if let Some(error) = ResponseError::try_from_code(response.error_code) {
            return Err(error.into());
        }
        let start = response.producer_id_start.0;
        *block = start..start + i64::from(response.producer_id_len);
        block.next().map(ProducerId).ok_or(ResponseError::CoordinatorNotAvailable.into())
    }
}

/// InitProducerId 0–5, for idempotent producers.
pub(super) async fn init_producer_id(
    context: &Context,
    request: &InitProducerIdRequest,
) -> InitProducerIdResponse {
    let response = InitProducerIdResponse::default();
    // Transactions are not served: a client that asks for them must not believe that they are.
    let id = match &request.transactional_id {
        Some(id) if id.is_empty() => Err(WireError::from(ResponseError::InvalidRequest)),
        Some(_) => Err(coordinators::no_transactions()),
        None => context.producer_ids.next(context).await,
    };
    match id {
        Ok(id) => response.with_producer_id(id.0.into()).with_producer_epoch(0),
        Err(error) => response
            .with_error_code(error.code.code())
            .with_producer_id(ProducerId::NONE.0.into())
            .with_producer_epoch(ProducerEpoch::NONE.0),
    }
}

/// DescribeProducers 0.
pub(super) fn describe_producers(
    context: &Context,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let topics = each_once(request.topics, |topic| topic.name.clone()).map(|topic| {
        let reference = context.topic_ref(false, Uuid::nil(), &topic.name);
        let partitions = each_once(topic.partition_indexes, |index| *index).map(|index| {
            let answer = PartitionResponse::default().with_partition_index(index);
            match context.leader_partition(&reference, PartitionIndex(index)) {
                Ok(partition) => {
                    let producers = partition.log().active_producers();
                    let producers = producers.iter().map(|producer| {
                        ProducerState::default()
                            .with_producer_id(producer.producer_id.0.into())
                            .with_producer_epoch(i32::from(producer.epoch.0))
                            .with_last_sequence(producer.last_sequence)
                            .with_last_timestamp(producer.last_timestamp_ms)
                            .with_coordinator_epoch(producer.coordinator_epoch)
                            .with_current_txn_start_offset(
                                producer.txn_first_offset.map_or(-1, |first| first.0),
                            )
                    });
                    answer.with_active_producers(producers.collect())
                }
                Err(error) => answer
                    .with_error_code(error.code.code())
                    .with_error_message(error.message.map(Into::into)),
            }
        });
        TopicResponse::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}
