//! AssignReplicasToDirs: a broker says in which of its directories its replicas lie, so that a
//! directory that fails takes down these alone (KIP-858).
//!
//! A replica whose former directory is gone is a new one: it must not be taken for one that holds
//! what was acknowledged, unless no other replica could.

use kafka_protocol::{
    ResponseError,
    messages::{
        AssignReplicasToDirsRequest, AssignReplicasToDirsResponse,
        assign_replicas_to_dirs_response::{DirectoryData, PartitionData, TopicData},
    },
};

use crate::{
    base::{DirectoryId, NodeId, PartitionIndex, TopicId, TopicPartition},
    controller::{Decision, View, brokers::registered, draft::Draft, election::Change},
    metadata::{Broker, Partition, directory, records::PartitionChangeRecord},
};

pub(super) fn assign(
    view: &View<'_>,
    request: &AssignReplicasToDirsRequest,
) -> Decision<AssignReplicasToDirsResponse> {
    let response = AssignReplicasToDirsResponse::default();
    let broker = match registered(view.image, request.broker_id.0, request.broker_epoch) {
        Ok(broker) => broker,
        Err(error) => return Decision::answer(response.with_error_code(error.code())),
    };
    let mut draft = Draft::new(view.image);
    let mut directories = Vec::with_capacity(request.directories.len());
    for wanted in &request.directories {
        let mut topics = Vec::with_capacity(wanted.topics.len());
        for topic in &wanted.topics {
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let at = TopicPartition {
                    topic: TopicId(topic.topic_id),
                    partition: PartitionIndex(index),
                };
                let assigned = assign_one(view, &mut draft, at, broker, DirectoryId(wanted.id));
                PartitionData::default()
                    .with_partition_index(index)
                    .with_error_code(assigned.err().map_or(0, |error| error.code()))
            });
            let topic = TopicData::default().with_topic_id(topic.topic_id);
            topics.push(topic.with_partitions(partitions.collect()));
        }
        directories.push(DirectoryData::default().with_id(wanted.id).with_topics(topics));
    }
    draft.decide(response.with_directories(directories))
}

fn assign_one(
    view: &View<'_>,
    draft: &mut Draft,
    at: TopicPartition,
    broker: &Broker,
    to: DirectoryId,
) -> Result<(), ResponseError> {
    let image = draft.image().clone();
    let topic = image.topic(at.topic).ok_or(ResponseError::UnknownTopicId)?;
    let partition = topic.partition(at.partition).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let node = broker.id;
    let from = partition.directory(node).ok_or(ResponseError::NotLeaderOrFollower)?;
    if from == to {
        return Ok(());
    }
    let mut moved = Partition::clone(partition);
    for (replica, directory) in moved.replicas.iter().zip(&mut moved.directories) {
        if *replica == node {
            *directory = to;
        }
    }
    let is_lost = is_named(from) && !broker.has_online(from) && has_others(partition);
    let leaves = is_lost || !broker.has_online(to);
    let isr = partition.isr.iter().copied().filter(|id| !(leaves && *id == node)).collect();
    let change = Change {
        at,
        partition: &moved,
        isr,
        unclean_shutdown: leaves.then_some(node),
        image: &image,
        barred: is_lost.then_some(node),
        prefer: false,
        rules: view.at(&image).rules(&topic.name),
        assignment: None,
        recovered: false,
    };
    let mut record = change.build().unwrap_or_else(|| PartitionChangeRecord::new(at));
    record.directories.get_or_insert_with(|| moved.directories.iter().copied().collect());
    draft.add_alone(record);
    if is_lost {
        forget(draft, at, node);
    }
    Ok(())
}

/// Whether replicas in it are lost with it.
fn is_named(directory: DirectoryId) -> bool {
    ![directory::UNASSIGNED, directory::MIGRATING].contains(&directory)
}

fn has_others(partition: &Partition) -> bool {
    partition.replicas.len() > 1
}

/// The replica on `node` may have lost what it held: others are waited for, or chosen by whoever
/// allows unclean elections.
pub(super) fn forget(draft: &mut Draft, at: TopicPartition, node: NodeId) {
    let Some(partition) = draft.image().partition(at) else { return };
    if !has_others(partition) || !partition.last_known_elr.contains(&node) {
        return;
    }
    let kept = partition.last_known_elr.iter().copied().filter(|id| *id != node);
    let mut record = PartitionChangeRecord::new(at);
    record.last_known_elr = Some(kept.collect());
    draft.add_alone(record);
}
