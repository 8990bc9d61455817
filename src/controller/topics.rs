//! Topics: creation, deletion, more partitions.

use std::collections::BTreeMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
        CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
        create_partitions_request::CreatePartitionsTopic,
        create_partitions_response::CreatePartitionsTopicResult,
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic},
        create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
        delete_topics_request::DeleteTopicState,
        delete_topics_response::DeletableTopicResult,
    },
};
use rand::{Rng, RngExt};

use crate::{
    base::{LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex, TopicId, TopicPartition},
    config,
    controller::{
        Decision, View, configs,
        draft::{Draft, Refusal, wire},
        placement::Placer,
    },
    metadata::{
        ConfigResource, MetadataImage, Partition, Record, directory,
        records::{RemoveTopicRecord, TopicRecord},
    },
};

/// The longest name, which leaves room for a partition's number in a file name.
const NAME_MAX: usize = 249;
/// Kafka's own log of metadata, which no topic may shadow.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// More than any entry holds; refused before a list of that length is made.
const PARTITIONS_MAX: usize = 100_000;

/// The elements of a request by the names of their topics: each name once, and whether it came more
/// often, which is refused.
fn each_once<'a, T>(
    topics: &'a [T],
    name: impl Fn(&'a T) -> &'a str,
) -> Vec<(&'a T, Result<(), Refusal>)> {
    let mut times = BTreeMap::<&str, usize>::new();
    for topic in topics {
        *times.entry(name(topic)).or_default() += 1;
    }
    let first = topics.iter().filter_map(|topic| Some((topic, times.remove(name(topic))?)));
    let duplicate = || Refusal::new(ResponseError::InvalidRequest, "Duplicate topic name.");
    first.map(|(topic, times)| (topic, (times == 1).then_some(()).ok_or_else(duplicate))).collect()
}

pub(super) fn create(
    view: &View<'_>,
    request: CreateTopicsRequest,
    rng: &mut dyn Rng,
) -> Decision<CreateTopicsResponse> {
    let mut draft = Draft::new(view.image);
    let mut results = Vec::with_capacity(request.topics.len());
    for (topic, is_named_once) in each_once(&request.topics, |topic| topic.name.as_str()) {
        let result = is_named_once.and_then(|()| create_one(view, &mut draft, topic, rng));
        let (code, message) = wire(&result);
        results.push(match result {
            Ok(created) => created,
            Err(_) => CreatableTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(code)
                .with_error_message(message)
                .with_configs(Some(Vec::new())),
        });
    }
    let response = CreateTopicsResponse::default().with_topics(results);
    if request.validate_only { Decision::answer(response) } else { draft.decide(response) }
}

fn create_one(
    view: &View<'_>,
    draft: &mut Draft,
    topic: &CreatableTopic,
    rng: &mut dyn Rng,
) -> Result<CreatableTopicResult, Refusal> {
    let image = draft.image().clone();
    let view = view.at(&image);
    let name = topic.name.as_str();
    validate_name(&image, name)?;
    let values: Vec<(&str, Option<&str>)> =
        topic.configs.iter().map(|c| (c.name.as_str(), c.value.as_deref())).collect();
    let configs = configs::of_new_topic(&view, name, &values)?;
    let assignments = if topic.assignments.is_empty() {
        place_new(&view, topic, rng)?
    } else {
        assign_new(&image, topic)?
    };
    let id = draw_topic_id(&image, rng);
    let partitions = assignments.len() as i32;
    let replication_factor = assignments.first().map_or(0, Vec::len) as i16;
    let mut records: Vec<Record> =
        vec![TopicRecord { name: name.to_owned(), topic_id: id.into() }.into()];
    records.extend(configs);
    for (index, replicas) in assignments.into_iter().enumerate() {
        let at = TopicPartition { topic: id, partition: PartitionIndex(index as i32) };
        records.push(new_partition(&image, at, replicas)?);
    }
    draft.add(records)?;
    Ok(CreatableTopicResult::default()
        .with_name(topic.name.clone())
        .with_topic_id(id.0)
        .with_error_message(None)
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
        .with_configs(Some(describe(&view.at(draft.image()), name))))
}

fn describe(view: &View<'_>, topic: &str) -> Vec<CreatableTopicConfigs> {
    let overrides = view.image.config(&ConfigResource::topic(topic));
    let entries = view.with_broker_layers(|broker| {
        config::describe_topic(config::TopicLayers { topic: &overrides, broker })
    });
    let entry = |e: config::Entry| {
        CreatableTopicConfigs::default()
            .with_name(e.name.into())
            .with_value(e.value.map(Into::into))
            .with_read_only(e.is_read_only)
            .with_config_source(e.source.wire())
            .with_is_sensitive(e.is_sensitive)
    };
    entries.into_iter().map(entry).collect()
}

/// Refuses names that Kafka refuses, that exist, and that metrics could not tell apart, as their
/// names have `_` for `.`.
fn validate_name(image: &MetadataImage, name: &str) -> Result<(), Refusal> {
    let invalid =
        |message: String| Err(Refusal::new(ResponseError::InvalidTopicException, message));
    if name == METADATA_TOPIC {
        return invalid(format!("Creation of internal topic {METADATA_TOPIC} is prohibited."));
    }
    if let Some(reason) = illegal(name) {
        return invalid(format!("Topic name is invalid: {reason}"));
    }
    if image.topic_by_name(name).is_some() {
        let message = format!("Topic '{name}' already exists.");
        return Err(Refusal::new(ResponseError::TopicAlreadyExists, message));
    }
    match collision(image, name) {
        Some(other) => invalid(format!("Topic '{name}' collides with existing topic: {other}")),
        None => Ok(()),
    }
}

/// Why `name` can be no topic's, if it cannot.
pub(crate) fn illegal(name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        Some("the empty string is not allowed".to_owned())
    } else if name == "." || name == ".." {
        Some(format!("'{name}' is not allowed"))
    } else if name.len() > NAME_MAX {
        Some(format!("the length of '{name}' is longer than the max allowed length {NAME_MAX}"))
    } else if !name.chars().all(legal) {
        Some(format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' \
             and '-'"
        ))
    } else {
        None
    }
}

/// An existing topic whose name differs from `name` only in `.` and `_`.
///
/// Such names agree up to the first of either, so only the topics that begin like that are read.
fn collision(image: &MetadataImage, name: &str) -> Option<String> {
    let unify = |name: &str| name.replace('.', "_");
    let stem = &name[..name.find(['.', '_'])?];
    let unified = unify(name);
    image
        .topics_from(stem)
        .take_while(|topic| topic.name.starts_with(stem))
        .find(|topic| topic.name.len() == name.len() && unify(&topic.name) == unified)
        .map(|topic| topic.name.to_string())
}

fn place_new(
    view: &View<'_>,
    topic: &CreatableTopic,
    rng: &mut dyn Rng,
) -> Result<Vec<Vec<NodeId>>, Refusal> {
    let replication_factor = match topic.replication_factor {
        -1 => view.broker_number("default.replication.factor") as i16,
        1.. => topic.replication_factor,
        _ => {
            return Err(Refusal::new(
                ResponseError::InvalidReplicationFactor,
                "Replication factor must be larger than 0, or -1 to use the default value.",
            ));
        }
    };
    let partitions = match topic.num_partitions {
        -1 => view.broker_number("num.partitions") as usize,
        count @ 1.. => count as usize,
        _ => {
            return Err(Refusal::new(
                ResponseError::InvalidPartitions,
                "Number of partitions was set to an invalid non-positive value.",
            ));
        }
    };
    place(view.image, partitions, replication_factor, rng)
}

fn place(
    image: &MetadataImage,
    partitions: usize,
    replication_factor: i16,
    rng: &mut dyn Rng,
) -> Result<Vec<Vec<NodeId>>, Refusal> {
    if partitions > PARTITIONS_MAX {
        return Err(Refusal::new(
            ResponseError::PolicyViolation,
            "Unable to perform excessively large batch operation.",
        ));
    }
    let mut placer = Placer::new(image, replication_factor, rng)?;
    Ok((0..partitions).map(|_| placer.place()).collect())
}

fn assign_new(image: &MetadataImage, topic: &CreatableTopic) -> Result<Vec<Vec<NodeId>>, Refusal> {
    let request = |message: &str| Err(Refusal::new(ResponseError::InvalidRequest, message));
    if topic.replication_factor != -1 {
        return request(
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        );
    }
    if topic.num_partitions != -1 {
        return request(
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        );
    }
    let invalid = |m: String| Err(Refusal::new(ResponseError::InvalidReplicaAssignment, m));
    let mut assignments = BTreeMap::new();
    let mut replication_factor = None;
    for CreatableReplicaAssignment { partition_index, broker_ids, .. } in &topic.assignments {
        if assignments.contains_key(partition_index) {
            return invalid(format!(
                "Found multiple manual partition assignments for partition {partition_index}"
            ));
        }
        let replicas =
            validate_assignment(image, *partition_index, broker_ids, replication_factor)?;
        replication_factor = Some(replicas.len());
        assignments.insert(*partition_index, replicas);
    }
    if !assignments.keys().copied().eq(0..assignments.len() as i32) {
        return invalid("partitions should be a consecutive 0-based integer sequence".to_owned());
    }
    Ok(assignments.into_values().collect())
}

fn validate_assignment(
    image: &MetadataImage,
    partition: i32,
    brokers: &[BrokerId],
    replication_factor: Option<usize>,
) -> Result<Vec<NodeId>, Refusal> {
    let invalid = |m: String| Err(Refusal::new(ResponseError::InvalidReplicaAssignment, m));
    let replicas = named_replicas(image, brokers)?;
    if let Some(expected) = replication_factor.filter(|expected| *expected != replicas.len()) {
        return invalid(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is \
             not consistent with previous partitions, which have {expected} replica(s).",
            replicas.len()
        ));
    }
    if !replicas.iter().any(|id| is_active(image, *id)) {
        return invalid(format!(
            "All brokers specified in the manual partition assignment for partition {partition} \
             are fenced or in controlled shutdown."
        ));
    }
    Ok(replicas)
}

/// The brokers that are to hold a partition, all of them known and none named twice.
pub(super) fn named_replicas(
    image: &MetadataImage,
    brokers: &[BrokerId],
) -> Result<Vec<NodeId>, Refusal> {
    let invalid = |m: String| Err(Refusal::new(ResponseError::InvalidReplicaAssignment, m));
    if brokers.is_empty() {
        return invalid(
            "The manual partition assignment includes an empty replica list.".to_owned(),
        );
    }
    let mut replicas = Vec::with_capacity(brokers.len());
    for broker in brokers {
        let id = u32::try_from(broker.0).ok().map(NodeId);
        let Some(id) = id.filter(|id| image.broker(*id).is_some()) else {
            return invalid(format!(
                "The manual partition assignment includes broker {}, but no such broker is \
                 registered.",
                broker.0
            ));
        };
        if replicas.contains(&id) {
            return invalid(format!(
                "The manual partition assignment includes the broker {id} more than once."
            ));
        }
        replicas.push(id);
    }
    Ok(replicas)
}

fn is_active(image: &MetadataImage, id: NodeId) -> bool {
    image.broker(id).is_some_and(|broker| broker.is_active())
}

fn new_partition(
    image: &MetadataImage,
    at: TopicPartition,
    replicas: Vec<NodeId>,
) -> Result<Record, Refusal> {
    let isr: Box<[NodeId]> = replicas.iter().copied().filter(|id| is_active(image, *id)).collect();
    let Some(leader) = isr.first().copied() else {
        return Err(Refusal::new(
            ResponseError::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {} time(s): All brokers are currently fenced or \
                 in controlled shutdown.",
                replicas.len()
            ),
        ));
    };
    let partition = Partition {
        // Differs from Kafka: a broker with a single directory is not assigned it here either.
        // That would double the size of the records and say nothing that its loss does not.
        directories: replicas.iter().map(|_| directory::UNASSIGNED).collect(),
        replicas: replicas.into(),
        isr,
        eligible_leader_replicas: Box::default(),
        last_known_elr: Box::default(),
        removing_replicas: Box::default(),
        adding_replicas: Box::default(),
        is_balancing: false,
        leader: Some(leader),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
        recovering: false,
    };
    Ok(partition.to_record(at).into())
}

/// A random id. Its text does not begin with a dash, which tools would take for an option.
fn draw_topic_id(image: &MetadataImage, rng: &mut dyn Rng) -> TopicId {
    loop {
        let bits: u128 = rng.random();
        let id = TopicId(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid());
        if !id.to_string().starts_with('-') && image.topic(id).is_none() {
            return id;
        }
    }
}

pub(super) fn delete(
    view: &View<'_>,
    request: DeleteTopicsRequest,
) -> Decision<DeleteTopicsResponse> {
    // Up to version 5 topics are named, from version 6 on they may be identified.
    let named = request.topic_names.into_iter();
    let named = named.map(|name| DeleteTopicState::default().with_name(Some(name)));
    let wanted: Vec<DeleteTopicState> = request.topics.into_iter().chain(named).collect();
    let targets: Vec<Result<TopicId, Refusal>> =
        wanted.iter().map(|topic| resolve(view.image, topic)).collect();
    let mut draft = Draft::new(view.image);
    let mut responses = Vec::with_capacity(wanted.len());
    for (topic, target) in wanted.into_iter().zip(&targets) {
        let result = target.clone().and_then(|id| {
            if targets.iter().filter(|other| other.as_ref() == Ok(&id)).count() > 1 {
                let message = "The topic is named more than once.";
                return Err(Refusal::new(ResponseError::InvalidRequest, message));
            }
            draft.add(vec![RemoveTopicRecord { topic_id: id.into() }.into()]).map(|()| id)
        });
        let (code, message) = wire(&result);
        let known = result.ok().and_then(|id| view.image.topic(id));
        let name = known.map(|t| kafka_protocol::messages::TopicName(t.name.to_string().into()));
        responses.push(
            DeletableTopicResult::default()
                .with_name(name.or(topic.name))
                .with_topic_id(known.map_or(topic.topic_id, |topic| topic.id.0))
                .with_error_code(code)
                .with_error_message(message),
        );
    }
    draft.decide(DeleteTopicsResponse::default().with_responses(responses))
}

fn resolve(image: &MetadataImage, topic: &DeleteTopicState) -> Result<TopicId, Refusal> {
    let id = TopicId(topic.topic_id);
    match &topic.name {
        Some(_) if id != TopicId::NONE => Err(Refusal::new(
            ResponseError::InvalidRequest,
            "You may not specify both topic name and topic id.",
        )),
        Some(name) => image
            .topic_by_name(name.as_str())
            .map(|topic| topic.id)
            .ok_or_else(|| ResponseError::UnknownTopicOrPartition.into()),
        None if id == TopicId::NONE => Err(Refusal::new(
            ResponseError::InvalidRequest,
            "Neither topic name nor id were specified.",
        )),
        None if image.topic(id).is_some() => Ok(id),
        None => Err(ResponseError::UnknownTopicId.into()),
    }
}

pub(super) fn create_partitions(
    view: &View<'_>,
    request: CreatePartitionsRequest,
    rng: &mut dyn Rng,
) -> Decision<CreatePartitionsResponse> {
    let mut draft = Draft::new(view.image);
    let mut results = Vec::with_capacity(request.topics.len());
    for (topic, is_named_once) in each_once(&request.topics, |topic| topic.name.as_str()) {
        let result = is_named_once.and_then(|()| grow(&mut draft, topic, rng));
        let (code, message) = wire(&result);
        results.push(
            CreatePartitionsTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(code)
                .with_error_message(message),
        );
    }
    let response = CreatePartitionsResponse::default().with_results(results);
    if request.validate_only { Decision::answer(response) } else { draft.decide(response) }
}

fn grow(
    draft: &mut Draft,
    wanted: &CreatePartitionsTopic,
    rng: &mut dyn Rng,
) -> Result<(), Refusal> {
    let image = draft.image().clone();
    let name = wanted.name.as_str();
    let topic = image.topic_by_name(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let current = topic.partitions.len();
    let invalid = |message: String| Err(Refusal::new(ResponseError::InvalidPartitions, message));
    let count = usize::try_from(wanted.count).unwrap_or(0);
    if count == current {
        return invalid(format!("Topic already has {current} partition(s)."));
    }
    if count < current {
        return invalid(format!(
            "The topic {name} currently has {current} partition(s); {} would not be an increase.",
            wanted.count
        ));
    }
    let additional = count - current;
    let replication_factor =
        topic.partition(PartitionIndex(0)).map_or(1, |first| first.target_replicas().count());
    let assignments = match &wanted.assignments {
        None => place(&image, additional, replication_factor as i16, rng)?,
        Some(assignments) if assignments.len() != additional => {
            return Err(Refusal::new(
                ResponseError::InvalidReplicaAssignment,
                format!(
                    "Attempted to add {additional} additional partition(s), but only {} \
                     assignment(s) were specified.",
                    assignments.len()
                ),
            ));
        }
        Some(assignments) => (current as i32..)
            .zip(assignments)
            .map(|(i, a)| validate_assignment(&image, i, &a.broker_ids, Some(replication_factor)))
            .collect::<Result<_, _>>()?,
    };
    let mut records = Vec::with_capacity(additional);
    for (index, replicas) in (current as i32..).zip(assignments) {
        let at = TopicPartition { topic: topic.id, partition: PartitionIndex(index) };
        records.push(new_partition(&image, at, replicas)?);
    }
    draft.add(records)
}
