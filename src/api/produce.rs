//! Produce.
//!
//! The appends happen at once, in the order of the requests; the acknowledgement comes when the
//! partitions say so.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, Either};
use kafka_protocol::messages::{
    ProduceRequest, ProduceResponse, TopicName,
    produce_response::{
        LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
    },
};
use tokio::{sync::oneshot, time};

use super::{Context, discovery::port, error::WireError, topics::TopicRef};
use crate::{
    base::PartitionIndex,
    log::Origin,
    protocol::ResponseError,
    replication::{Acks, AppendError, Appended},
};

type Outcome = oneshot::Receiver<Result<Appended, AppendError>>;

/// One partition's part of a request, appended or refused.
struct Started {
    topic: TopicRef,
    partition: PartitionIndex,
    outcome: Result<Outcome, WireError>,
}

/// Whether a request takes a replica for the leader that follows, as far as this node has heard.
pub(super) fn is_early(context: &Context, request: &ProduceRequest, version: i16) -> bool {
    request.topic_data.iter().any(|topic| {
        let reference = context.topic_ref(version >= 13, topic.topic_id, &topic.name);
        let mut partitions = topic.partition_data.iter();
        partitions.any(|data| context.is_follower(&reference, PartitionIndex(data.index)))
    })
}

/// Appends what a request brings. The returned future completes with the response; none is due for
/// `acks=0`, where `Err` says that the client must learn of a failure by the end of its connection.
pub(super) fn start(
    context: &Context,
    request: ProduceRequest,
    version: i16,
    listener: &str,
) -> impl Future<Output = Result<Option<ProduceResponse>, AppendFailed>> + Send + 'static {
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let acks = match request.acks {
        0 => Ok(Acks::None),
        1 => Ok(Acks::Leader),
        -1 => Ok(Acks::All),
        _ => Err(WireError::from(ResponseError::InvalidRequiredAcks)),
    };
    let silent = request.acks == 0;
    let request_bytes = bytes_of(&request);
    let mut started = Vec::new();
    for topic in request.topic_data {
        let reference = context.topic_ref(version >= 13, topic.topic_id, &topic.name);
        for data in topic.partition_data {
            let partition = PartitionIndex(data.index);
            let outcome = acks.clone().and_then(|acks| {
                append(context, &reference, partition, data.records, request_bytes, version, acks)
            });
            started.push(Started { topic: reference.clone(), partition, outcome });
        }
    }
    let (context, listener) = (context.clone(), listener.to_owned());
    async move {
        let deadline = time::sleep(timeout);
        tokio::pin!(deadline);
        let mut topics: Vec<TopicProduceResponse> = Vec::new();
        let mut failed = false;
        let (mut outcomes, mut moved) = (Vec::with_capacity(started.len()), Vec::new());
        for Started { topic, partition, outcome } in started {
            let outcome = match outcome {
                Err(error) => Err(error),
                Ok(outcome) => match future::select(outcome, deadline.as_mut()).await {
                    Either::Left((Ok(Ok(appended)), _)) => Ok(appended),
                    Either::Left((Ok(Err(error)), _)) => Err(WireError::from(&error)),
                    Either::Left((Err(_), _)) => Err(ResponseError::NotLeaderOrFollower.into()),
                    Either::Right(_) => Err(WireError::new(
                        ResponseError::RequestTimedOut,
                        "the replicas did not acknowledge in time; the records may be kept",
                    )),
                },
            };
            failed |= outcome.is_err();
            if is_moved(&outcome) {
                moved.push((topic.clone(), partition));
            }
            outcomes.push((topic, partition, outcome));
        }
        if !moved.is_empty() {
            context.hear_of_resignations(&moved).await;
        }
        for (topic, partition, outcome) in outcomes {
            let answer = answer(&context, &topic, partition, outcome);
            match topics.last_mut() {
                Some(last) if topic.names(&last.name, last.topic_id) => {
                    last.partition_responses.push(answer);
                }
                _ => topics.push(
                    TopicProduceResponse::default()
                        .with_name(TopicName(topic.name.clone()))
                        .with_topic_id(topic.id.0)
                        .with_partition_responses(vec![answer]),
                ),
            }
        }
        match (silent, failed) {
            (false, _) => {
                let answers = topics.iter().flat_map(|topic| &topic.partition_responses);
                let leaders = answers.map(|answer| answer.current_leader.leader_id);
                let endpoints = context.endpoints(leaders, &listener, |node, endpoint| {
                    NodeEndpoint::default()
                        .with_node_id(node.wire().into())
                        .with_host(endpoint.host.clone().into())
                        .with_port(port(endpoint))
                });
                let response = ProduceResponse::default().with_responses(topics);
                Ok(Some(response.with_node_endpoints(endpoints)))
            }
            (true, false) => Ok(None),
            (true, true) => Err(AppendFailed),
        }
    }
}

/// The records that a request brings, which share its buffer.
fn bytes_of(request: &ProduceRequest) -> usize {
    let partitions = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    partitions.filter_map(|data| data.records.as_ref()).map(Bytes::len).sum()
}

fn is_moved<T>(outcome: &Result<T, WireError>) -> bool {
    outcome.as_ref().is_err_and(|error| error.code == ResponseError::NotLeaderOrFollower)
}

/// An append with `acks=0` failed.
#[derive(Debug)]
pub(super) struct AppendFailed;

fn append(
    context: &Context,
    topic: &TopicRef,
    index: PartitionIndex,
    records: Option<Bytes>,
    request_bytes: usize,
    version: i16,
    acks: Acks,
) -> Result<Outcome, WireError> {
    let partition = context.leader_partition(topic, index)?;
    if topic.is_internal() {
        return Err(WireError::new(
            ResponseError::InvalidTopicException,
            format!("{} is written by the cluster only", topic.name),
        ));
    }
    let now_ms = context.clock.wall_ms();
    let batch = super::validate::produced(records, version, &partition.config(), now_ms)?;
    Ok(partition.append(vec![batch], request_bytes, acks, Origin::Client))
}

fn answer(
    context: &Context,
    topic: &TopicRef,
    partition: PartitionIndex,
    outcome: Result<Appended, WireError>,
) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(partition.0);
    match outcome {
        Ok(appended) => response
            .with_base_offset(appended.base_offset.0)
            .with_log_append_time_ms(appended.log_append_time_ms.unwrap_or(-1))
            .with_log_start_offset(appended.log_start_offset.0),
        Err(error) => {
            let moved = error.code == ResponseError::NotLeaderOrFollower;
            let response = response
                .with_error_code(error.code.code())
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(-1)
                .with_error_message(error.message.map(Into::into));
            match context.current_leader(topic, partition).filter(|_| moved) {
                Some((leader, epoch)) => response.with_current_leader(
                    LeaderIdAndEpoch::default()
                        .with_leader_id(leader.wire().into())
                        .with_leader_epoch(epoch.0),
                ),
                None => response,
            }
        }
    }
}
