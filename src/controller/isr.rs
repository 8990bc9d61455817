//! AlterPartition: a leader says who is in sync, guarded by the partition epoch (KIP-497), and never
//! names a broker that is fenced, shutting down or of another epoch (KIP-841, KIP-903), or whose log
//! directory with the replica is offline (KIP-858).

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterPartitionRequest, AlterPartitionResponse, BrokerId,
        alter_partition_request::PartitionData as Wanted,
        alter_partition_response::{PartitionData, TopicData},
    },
};

use crate::{
    base::{BrokerEpoch, NodeId, PartitionIndex, TopicId, TopicPartition},
    controller::{Decision, View, brokers::registered, draft::Draft, election::Change},
    metadata::{MetadataImage, Partition, records::PartitionChangeRecord},
};

pub(super) fn alter(
    view: &View<'_>,
    request: &AlterPartitionRequest,
) -> Decision<AlterPartitionResponse> {
    let response = AlterPartitionResponse::default();
    if let Err(error) = registered(view.image, request.broker_id.0, request.broker_epoch) {
        return Decision::answer(response.with_error_code(error.code()));
    }
    let leader = NodeId(request.broker_id.0 as u32);
    let mut draft = Draft::new(view.image);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let id = TopicId(topic.topic_id);
        let partitions = topic.partitions.iter().map(|wanted| {
            let at =
                TopicPartition { topic: id, partition: PartitionIndex(wanted.partition_index) };
            let answer = PartitionData::default().with_partition_index(wanted.partition_index);
            match alter_one(view, &mut draft, at, leader, wanted) {
                Ok(()) => match draft.image().partition(at) {
                    // The change ended a reassignment, and with it this leadership.
                    Some(partition) if partition.leader != Some(leader) => {
                        answer.with_error_code(ResponseError::NewLeaderElected.code())
                    }
                    Some(partition) => state(answer, partition),
                    None => answer,
                },
                Err(error) => answer.with_error_code(error.code()),
            }
        });
        topics.push(
            TopicData::default()
                .with_topic_id(topic.topic_id)
                .with_partitions(partitions.collect()),
        );
    }
    draft.decide(response.with_topics(topics))
}

fn alter_one(
    view: &View<'_>,
    draft: &mut Draft,
    at: TopicPartition,
    leader: NodeId,
    wanted: &Wanted,
) -> Result<(), ResponseError> {
    let image = draft.image().clone();
    let topic = image.topic(at.topic).ok_or(ResponseError::UnknownTopicId)?;
    let partition = topic.partition(at.partition).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let isr = validate(&image, partition, leader, wanted)?;
    let change = Change {
        at,
        partition,
        isr,
        unclean_shutdown: None,
        image: &image,
        barred: None,
        prefer: false,
        rules: view.at(&image).rules(&topic.name),
        assignment: None,
        recovered: wanted.leader_recovery_state == 0,
    };
    let record = change.build().unwrap_or_else(|| {
        // Differs from Kafka: asking for what is so already raises the partition epoch. A leader asks
        // for that to make sure that no earlier question of its own is acted on any more.
        let mut record = PartitionChangeRecord::new(at);
        record.isr = Some(partition.isr.iter().copied().collect());
        record
    });
    draft.add_alone(record);
    Ok(())
}

/// The ISR that a leader may have.
fn validate(
    image: &MetadataImage,
    partition: &Partition,
    leader: NodeId,
    wanted: &Wanted,
) -> Result<Vec<NodeId>, ResponseError> {
    // Epochs from the future are those of another controller's decisions, not yet seen here.
    if wanted.leader_epoch > partition.leader_epoch.0
        || wanted.partition_epoch > partition.partition_epoch.0
    {
        return Err(ResponseError::NotController);
    }
    if wanted.leader_epoch < partition.leader_epoch.0 {
        return Err(ResponseError::FencedLeaderEpoch);
    }
    if partition.leader != Some(leader) {
        return Err(ResponseError::InvalidRequest);
    }
    if wanted.partition_epoch < partition.partition_epoch.0 {
        return Err(ResponseError::InvalidUpdateVersion);
    }
    // Version 2 names brokers without their epochs.
    let members: Vec<(NodeId, Option<BrokerEpoch>)> = if wanted.new_isr.is_empty() {
        let with_epochs = wanted.new_isr_with_epochs.iter();
        let epoch = |epoch: i64| (epoch >= 0).then_some(BrokerEpoch(epoch));
        with_epochs.map(|b| (NodeId(b.broker_id.0 as u32), epoch(b.broker_epoch))).collect()
    } else {
        wanted.new_isr.iter().map(|id| (NodeId(id.0 as u32), None)).collect()
    };
    let isr: Vec<NodeId> = members.iter().map(|(node, _)| *node).collect();
    let twice = (1..isr.len()).any(|i| isr[..i].contains(&isr[i]));
    if twice || !isr.contains(&leader) || isr.iter().any(|node| !partition.replicas.contains(node))
    {
        return Err(ResponseError::InvalidRequest);
    }
    let recovering = wanted.leader_recovery_state != 0;
    if recovering && (isr.len() > 1 || !partition.recovering) {
        return Err(ResponseError::InvalidRequest);
    }
    let eligible = |(node, epoch): &(NodeId, Option<BrokerEpoch>)| {
        image
            .broker(*node)
            .filter(|broker| partition.is_active_on(broker))
            .is_some_and(|broker| epoch.is_none_or(|epoch| epoch == broker.epoch))
    };
    if members.iter().all(eligible) { Ok(isr) } else { Err(ResponseError::IneligibleReplica) }
}

fn state(answer: PartitionData, partition: &Partition) -> PartitionData {
    answer
        .with_leader_id(BrokerId(partition.leader.map_or(-1, NodeId::wire)))
        .with_leader_epoch(partition.leader_epoch.0)
        .with_isr(partition.isr.iter().map(|node| BrokerId(node.wire())).collect())
        .with_leader_recovery_state(i8::from(partition.recovering))
        .with_partition_epoch(partition.partition_epoch.0)
}
