//! A leader's question about the ISR as the controller takes it: AlterPartition, version 3.

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterPartitionRequest, AlterPartitionResponse, BrokerId,
        alter_partition_request::{BrokerState, PartitionData, TopicData},
    },
};

use super::leader::{AlterError, AlterPartition};
use crate::base::{BrokerEpoch, NodeId, TopicPartition};

/// The request of `node`, registered as `broker_epoch`, for some partitions. Those of a topic follow one
/// another.
#[must_use]
pub fn request(
    node: NodeId,
    broker_epoch: BrokerEpoch,
    questions: &[(TopicPartition, &AlterPartition)],
) -> AlterPartitionRequest {
    let mut topics: Vec<TopicData> = Vec::new();
    for (at, asked) in questions {
        let partition = partition(*at, asked);
        match topics.last_mut() {
            Some(last) if last.topic_id == at.topic.0 => last.partitions.push(partition),
            _ => topics.push(
                TopicData::default().with_topic_id(at.topic.0).with_partitions(vec![partition]),
            ),
        }
    }
    AlterPartitionRequest::default()
        .with_broker_id(BrokerId(node.wire()))
        .with_broker_epoch(broker_epoch.0)
        .with_topics(topics)
}

fn partition(at: TopicPartition, asked: &AlterPartition) -> PartitionData {
    let member = |(node, epoch): &(NodeId, Option<BrokerEpoch>)| {
        BrokerState::default()
            .with_broker_id(BrokerId(node.wire()))
            .with_broker_epoch(epoch.map_or(-1, |epoch| epoch.0))
    };
    PartitionData::default()
        .with_partition_index(at.partition.0)
        .with_leader_epoch(asked.leader_epoch.0)
        .with_partition_epoch(asked.partition_epoch.0)
        .with_new_isr_with_epochs(asked.isr.iter().map(member).collect())
}

/// What a response says of one partition.
///
/// # Errors
/// Where the controller did not do what it was asked for, or did not say so.
pub fn answer(response: &AlterPartitionResponse, at: TopicPartition) -> Result<(), AlterError> {
    check(response.error_code)?;
    let topic = response.topics.iter().find(|topic| topic.topic_id == at.topic.0);
    let mut partitions = topic.into_iter().flat_map(|topic| &topic.partitions);
    let partition = partitions.find(|p| p.partition_index == at.partition.0);
    let partition = partition.ok_or(AlterError::Unanswered)?;
    check(partition.error_code)
}

fn check(code: i16) -> Result<(), AlterError> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(ResponseError::IneligibleReplica) => Err(AlterError::IneligibleReplica),
        // Of these the metadata brings the news: another leader, another state, another
        // registration of this node, or that the partition is gone.
        Some(
            ResponseError::FencedLeaderEpoch
            | ResponseError::InvalidUpdateVersion
            | ResponseError::InvalidRequest
            | ResponseError::NewLeaderElected
            | ResponseError::UnknownTopicId
            | ResponseError::UnknownTopicOrPartition
            | ResponseError::StaleBrokerEpoch
            | ResponseError::BrokerIdNotRegistered,
        ) => Err(AlterError::Outdated),
        Some(_) => Err(AlterError::Unanswered),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::alter_partition_response;

    use super::*;
    use crate::base::{PartitionIndex, TopicId};

    fn at() -> TopicPartition {
        TopicPartition { topic: TopicId(uuid::Uuid::from_u128(7)), partition: PartitionIndex(2) }
    }

    fn response(code: i16) -> AlterPartitionResponse {
        let partition = alter_partition_response::PartitionData::default()
            .with_partition_index(2)
            .with_error_code(code);
        let topic = alter_partition_response::TopicData::default()
            .with_topic_id(at().topic.0)
            .with_partitions(vec![partition]);
        AlterPartitionResponse::default().with_topics(vec![topic])
    }

    #[test]
    fn every_answer_means_one_of_four_things() {
        assert_eq!(answer(&response(0), at()), Ok(()));
        let meaning = |error: ResponseError| answer(&response(error.code()), at()).unwrap_err();
        assert_eq!(meaning(ResponseError::IneligibleReplica), AlterError::IneligibleReplica);
        assert_eq!(meaning(ResponseError::InvalidUpdateVersion), AlterError::Outdated);
        assert_eq!(meaning(ResponseError::FencedLeaderEpoch), AlterError::Outdated);
        assert_eq!(meaning(ResponseError::NotController), AlterError::Unanswered);
        assert_eq!(meaning(ResponseError::RequestTimedOut), AlterError::Unanswered);
        let elsewhere = TopicPartition { partition: PartitionIndex(9), ..at() };
        assert_eq!(answer(&response(0), elsewhere), Err(AlterError::Unanswered));
        let whole = response(0).with_error_code(ResponseError::NotController.code());
        assert_eq!(answer(&whole, at()), Err(AlterError::Unanswered));
    }
}
