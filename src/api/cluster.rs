//! What an operator asks of the cluster as a whole: brokers that are gone, levels of features,
//! elections and reassignments.
//!
//! References: KIP-183, KIP-455, KIP-460, KIP-584, KIP-631.

use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ElectLeadersRequest,
    ElectLeadersResponse, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
    TopicName, UnregisterBrokerRequest, UnregisterBrokerResponse, UpdateFeaturesRequest,
    UpdateFeaturesResponse,
    elect_leaders_response::{PartitionResult, ReplicaElectionResult},
    list_partition_reassignments_response::{
        OngoingPartitionReassignment, OngoingTopicReassignment,
    },
};

use super::{Context, admin::failure, error::WireError};
use crate::{
    base::{NodeId, PartitionIndex},
    controller::{Request, Response},
    metadata::{MetadataImage, Topic},
};

/// UnregisterBroker carries no timeout.
const UNREGISTER_TIMEOUT_MS: i32 = 30_000;
/// Kafka's `FeatureUpdate.UpgradeType`.
const SAFE_DOWNGRADE: i8 = 2;

/// UnregisterBroker 0.
pub(super) async fn unregister_broker(
    context: &Context,
    request: UnregisterBrokerRequest,
    _version: i16,
) -> UnregisterBrokerResponse {
    let asked = Request::UnregisterBroker(request);
    match context.ask_controller(asked, UNREGISTER_TIMEOUT_MS).await {
        Ok(Response::UnregisterBroker(response)) => response,
        other => {
            let WireError { code, message } = failure(other);
            UnregisterBrokerResponse::default()
                .with_error_code(code.code())
                .with_error_message(message.map(Into::into))
        }
    }
}

/// UpdateFeatures 0–2.
pub(super) async fn update_features(
    context: &Context,
    request: UpdateFeaturesRequest,
    version: i16,
) -> UpdateFeaturesResponse {
    let timeout_ms = request.timeout_ms;
    let asked = Request::UpdateFeatures(in_newest_version(request, version));
    match context.ask_controller(asked, timeout_ms).await {
        Ok(Response::UpdateFeatures(response)) => response,
        other => {
            let WireError { code, message } = failure(other);
            UpdateFeaturesResponse::default()
                .with_error_code(code.code())
                .with_error_message(message.map(Into::into))
        }
    }
}

/// Version 0 has no upgrade types, but says whether the level may be lowered.
fn in_newest_version(mut request: UpdateFeaturesRequest, version: i16) -> UpdateFeaturesRequest {
    for update in &mut request.feature_updates {
        if version == 0 && std::mem::take(&mut update.allow_downgrade) {
            update.upgrade_type = SAFE_DOWNGRADE;
        }
    }
    request
}

/// ElectLeaders 0–2.
pub(super) async fn elect_leaders(
    context: &Context,
    request: ElectLeadersRequest,
    version: i16,
) -> ElectLeadersResponse {
    let timeout_ms = request.timeout_ms;
    let named = request.topic_partitions.clone();
    match context.ask_controller(Request::ElectLeaders(request), timeout_ms).await {
        Ok(Response::ElectLeaders(response)) => response,
        other => {
            let WireError { code, message } = failure(other);
            let code = code.code();
            let named = named.unwrap_or_default().into_iter().map(|topic| {
                let results = topic.partitions.into_iter().map(|index| {
                    PartitionResult::default()
                        .with_partition_id(index)
                        .with_error_code(code)
                        .with_error_message(message.clone().map(Into::into))
                });
                ReplicaElectionResult::default()
                    .with_topic(topic.topic)
                    .with_partition_result(results.collect())
            });
            // Version 0 has no code for the whole.
            let whole = if version == 0 { 0 } else { code };
            ElectLeadersResponse::default()
                .with_error_code(whole)
                .with_replica_election_results(named.collect())
        }
    }
}

/// AlterPartitionReassignments 0–1.
pub(super) async fn alter_partition_reassignments(
    context: &Context,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let timeout_ms = request.timeout_ms;
    let asked = Request::AlterPartitionReassignments(request);
    match context.ask_controller(asked, timeout_ms).await {
        Ok(Response::AlterPartitionReassignments(response)) => response,
        other => {
            let WireError { code, message } = failure(other);
            AlterPartitionReassignmentsResponse::default()
                .with_error_code(code.code())
                .with_error_message(message.map(Into::into))
        }
    }
}

/// ListPartitionReassignments 0: those under way, of the partitions asked for or of all.
pub(super) fn list_partition_reassignments(
    image: &MetadataImage,
    request: &ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let topics: Vec<OngoingTopicReassignment> = match &request.topics {
        None => image
            .topics()
            .filter_map(|topic| ongoing(topic, topic.partitions.keys().copied()))
            .collect(),
        Some(named) => named
            .iter()
            .filter_map(|named| {
                let indexes = named.partition_indexes.iter().copied().map(PartitionIndex);
                ongoing(image.topic_by_name(named.name.as_str())?, indexes)
            })
            .collect(),
    };
    ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics)
}

fn ongoing(
    topic: &Topic,
    indexes: impl Iterator<Item = PartitionIndex>,
) -> Option<OngoingTopicReassignment> {
    let nodes = |nodes: &[NodeId]| nodes.iter().map(|node| node.wire().into()).collect();
    let partitions: Vec<OngoingPartitionReassignment> = indexes
        .filter_map(|index| {
            let partition = topic.partition(index).filter(|one| one.is_reassigning())?;
            let one = OngoingPartitionReassignment::default()
                .with_partition_index(index.0)
                .with_replicas(nodes(&partition.replicas))
                .with_adding_replicas(nodes(&partition.adding_replicas))
                .with_removing_replicas(nodes(&partition.removing_replicas));
            Some(one)
        })
        .collect();
    let name = TopicName(topic.name.to_string().into());
    (!partitions.is_empty())
        .then(|| OngoingTopicReassignment::default().with_name(name).with_partitions(partitions))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{
        list_partition_reassignments_request::ListPartitionReassignmentsTopics,
        update_features_request::FeatureUpdateKey,
    };

    use super::{super::discovery::tests::image, *};
    use crate::metadata::{
        Batch,
        records::{NodeList, PartitionChangeRecord},
    };

    #[test]
    fn only_reassignments_under_way_are_listed() {
        let image = image();
        let all = ListPartitionReassignmentsRequest::default().with_topics(None);
        assert_eq!(list_partition_reassignments(&image, &all).topics, []);

        let topic = image.topic_by_name("orders").unwrap();
        let (index, partition) = topic.partitions.get_min().unwrap();
        let at = crate::base::TopicPartition { topic: topic.id, partition: *index };
        let mut record = PartitionChangeRecord::new(at);
        record.removing_replicas = Some(partition.replicas.iter().copied().collect::<NodeList>());
        let next = image.applied_index() + 1;
        let moving = image.apply(next, &Batch::new(vec![record.into()])).0;
        let of = |name: &str, indexes: &[i32]| {
            let topic = ListPartitionReassignmentsTopics::default()
                .with_name(TopicName(name.to_owned().into()))
                .with_partition_indexes(indexes.to_vec());
            let request =
                ListPartitionReassignmentsRequest::default().with_topics(Some(vec![topic]));
            list_partition_reassignments(&moving, &request).topics.len()
        };
        assert_eq!(list_partition_reassignments(&moving, &all).topics.len(), 1);
        assert_eq!([of("orders", &[0, 1, 99]), of("orders", &[1]), of("none", &[0])], [1, 0, 0]);
    }

    #[test]
    fn the_oldest_version_may_lower_a_level_too() {
        let update = FeatureUpdateKey::default().with_allow_downgrade(true).with_upgrade_type(1);
        let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update]);
        let newest = in_newest_version(request, 0);
        assert_eq!(newest.feature_updates[0].upgrade_type, SAFE_DOWNGRADE);
        assert!(!newest.feature_updates[0].allow_downgrade, "the newest version cannot say it");
    }
}
