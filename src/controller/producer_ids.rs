//! Blocks of producer ids for brokers.

use kafka_protocol::{
    ResponseError,
    messages::{AllocateProducerIdsRequest, AllocateProducerIdsResponse, ProducerId},
};

use crate::{
    base::BrokerEpoch,
    controller::{Decision, View, brokers::registered, draft::Draft},
    metadata::records::ProducerIdsRecord,
};

/// How many ids a broker gets at a time, as in Kafka.
const BLOCK: i32 = 1000;

pub(super) fn allocate(
    view: &View<'_>,
    request: &AllocateProducerIdsRequest,
) -> Decision<AllocateProducerIdsResponse> {
    let response = AllocateProducerIdsResponse::default();
    let refuse =
        |error: ResponseError| Decision::answer(response.clone().with_error_code(error.code()));
    let broker = match registered(view.image, request.broker_id.0, request.broker_epoch) {
        Ok(broker) => broker,
        Err(error) => return refuse(error),
    };
    let start = view.image.next_producer_id().0;
    let Some(next) = start.checked_add(i64::from(BLOCK)) else {
        return refuse(ResponseError::UnknownServerError);
    };
    let BrokerEpoch(broker_epoch) = broker.epoch;
    let mut draft = Draft::new(view.image);
    draft.add_alone(ProducerIdsRecord {
        broker_id: broker.id.0,
        broker_epoch,
        next_producer_id: next,
    });
    draft.decide(response.with_producer_id_start(ProducerId(start)).with_producer_id_len(BLOCK))
}
