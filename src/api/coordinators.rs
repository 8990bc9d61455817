//! FindCoordinator: which node keeps a group. Creates the offsets topic where it is missing.
//!
//! References: KIP-699 (several keys at once).

use std::collections::BTreeSet;

use kafka_protocol::messages::{
    FindCoordinatorRequest, FindCoordinatorResponse, find_coordinator_response::Coordinator,
};

use super::{
    Context,
    discovery::{NO_NODE, create, endpoint, port},
    error::WireError,
};
use crate::{
    base::{NodeId, PartitionIndex},
    group::{OFFSETS_TOPIC, partition_for},
    metadata::{MetadataImage, records::BrokerEndpoint},
    protocol::{ResponseError, StrBytes},
};

/// The kinds of coordinators, as FindCoordinator numbers them.
const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;

/// FindCoordinator 0–6.
pub(super) async fn find_coordinator(
    context: &Context,
    request: FindCoordinatorRequest,
    version: i16,
    listener: &str,
) -> FindCoordinatorResponse {
    let mut image = context.image();
    if request.key_type == KEY_TYPE_GROUP && image.topic_by_name(OFFSETS_TOPIC).is_none() {
        let names = BTreeSet::from([OFFSETS_TOPIC.to_owned()]);
        // Where it cannot be created, the client is told to come back, and does.
        create(context, &image, &context.broker_config(), names).await;
        image = context.image();
    }
    let find = |key: &str| match request.key_type {
        KEY_TYPE_GROUP => group_coordinator(&image, key, listener),
        KEY_TYPE_TRANSACTION => Err(no_transactions()),
        other => Err(WireError::new(
            ResponseError::InvalidRequest,
            format!("There is no coordinator of type {other}"),
        )),
    };
    let keys = if version >= 4 { request.coordinator_keys } else { vec![request.key] };
    respond(keys.iter().map(|key| coordinator(key, find(key))).collect(), version)
}

/// What whoever wants transactions is told. librdkafka takes few codes for final here, and this is
/// the only one among them that Java's client takes for final too; on others one or the other asks
/// again until its time is over.
pub(super) fn no_transactions() -> WireError {
    WireError::new(
        ResponseError::TransactionalIdAuthorizationFailed,
        "Transactions are not served yet: produce without transactional.id",
    )
}

/// Before version 4 a response holds one coordinator, in fields of its own.
fn respond(mut found: Vec<Coordinator>, version: i16) -> FindCoordinatorResponse {
    let response = FindCoordinatorResponse::default().with_error_message(None);
    if version >= 4 {
        return response.with_coordinators(found);
    }
    let found = found.pop().unwrap_or_default();
    response
        .with_error_code(found.error_code)
        .with_error_message(found.error_message)
        .with_node_id(found.node_id)
        .with_host(found.host)
        .with_port(found.port)
}

fn group_coordinator<'a>(
    image: &'a MetadataImage,
    group: &str,
    listener: &str,
) -> Result<(NodeId, &'a BrokerEndpoint), WireError> {
    let unavailable = |message| WireError::new(ResponseError::CoordinatorNotAvailable, message);
    let topic = image
        .topic_by_name(OFFSETS_TOPIC)
        .ok_or_else(|| unavailable("The offsets topic does not exist yet"))?;
    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX).max(1);
    let partition = topic.partition(PartitionIndex(partition_for(group, count)));
    let leader = partition
        .and_then(|partition| partition.leader)
        .ok_or_else(|| unavailable("The group's partition of the offsets topic has no leader"))?;
    let endpoint = endpoint(image, leader, listener)
        .ok_or_else(|| unavailable("The coordinator does not have this listener"))?;
    Ok((leader, endpoint))
}

fn coordinator(key: &StrBytes, found: Result<(NodeId, &BrokerEndpoint), WireError>) -> Coordinator {
    let coordinator = Coordinator::default().with_key(key.clone()).with_error_message(None);
    match found {
        Ok((node, endpoint)) => coordinator
            .with_node_id(node.wire().into())
            .with_host(endpoint.host.clone().into())
            .with_port(port(endpoint)),
        Err(error) => coordinator
            .with_error_code(error.code.code())
            .with_error_message(error.message.map(Into::into))
            .with_node_id(NO_NODE)
            .with_port(-1),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{ApiKey, ResponseKind};

    use super::{super::discovery::tests::image, *};
    use crate::protocol::api;

    #[test]
    fn the_leader_of_its_partition_coordinates_a_group() {
        let image = image();
        let key = StrBytes::from_static_str("group");
        let found = coordinator(&key, group_coordinator(&image, &key, "PLAINTEXT"));
        assert_eq!((found.error_code, found.node_id.0, found.port), (0, 1, 9092));
        assert_eq!(found.host.as_str(), "host-1");
        let none = MetadataImage::default();
        let found = coordinator(&key, group_coordinator(&none, &key, "PLAINTEXT"));
        assert_eq!(found.error_code, ResponseError::CoordinatorNotAvailable.code());
        assert_eq!(found.node_id, NO_NODE);
    }

    #[test]
    fn every_version_encodes_with_and_without_a_coordinator() {
        let image = image();
        let key = StrBytes::from_static_str("group");
        for image in [&image, &MetadataImage::default()] {
            for version in 0..=6 {
                let found = coordinator(&key, group_coordinator(image, &key, "PLAINTEXT"));
                let response = ResponseKind::FindCoordinator(respond(vec![found], version));
                api::encode_response(ApiKey::FindCoordinator, version, 1, &response).unwrap();
            }
        }
    }
}
