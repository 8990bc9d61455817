//! Configurations of topics, brokers, groups and metrics subscriptions. The rules are those of
//! [`crate::config`]; here they meet the image.

use std::collections::BTreeMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
        IncrementalAlterConfigsResponse,
        alter_configs_response::AlterConfigsResourceResponse as ReplaceResult,
        incremental_alter_configs_response::AlterConfigsResourceResponse as AlterResult,
    },
};

use crate::{
    base::{NodeId, TopicPartition},
    config::{self, AlterError, Alteration, Change, Operation, Target},
    controller::{
        Decision, View,
        draft::{Draft, Refusal, wire},
    },
    metadata::{
        ConfigResource, ConfigResourceType, MetadataImage, Record,
        records::{ConfigRecord, PartitionChangeRecord},
    },
};

pub(super) fn alter_incrementally(
    view: &View<'_>,
    request: IncrementalAlterConfigsRequest,
) -> Decision<IncrementalAlterConfigsResponse> {
    let mut draft = Draft::new(view.image);
    let named = request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_str()));
    let times = count(named);
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name.as_str());
        let result = once(&times, kind, name).and_then(|()| {
            let alterations =
                resource.configs.iter().map(alteration).collect::<Result<Vec<_>, _>>()?;
            alter_one(view, &mut draft, kind, name, &Wanted::Alterations(&alterations))
        });
        let (code, message) = wire(&result);
        responses.push(
            AlterResult::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(kind)
                .with_resource_name(resource.resource_name.clone()),
        );
    }
    let response = IncrementalAlterConfigsResponse::default().with_responses(responses);
    if request.validate_only { Decision::answer(response) } else { draft.decide(response) }
}

pub(super) fn alter(
    view: &View<'_>,
    request: AlterConfigsRequest,
) -> Decision<AlterConfigsResponse> {
    let mut draft = Draft::new(view.image);
    let named = request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_str()));
    let times = count(named);
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name.as_str());
        let values: Vec<(&str, Option<&str>)> =
            resource.configs.iter().map(|c| (c.name.as_str(), c.value.as_deref())).collect();
        let result = once(&times, kind, name)
            .and_then(|()| alter_one(view, &mut draft, kind, name, &Wanted::Whole(&values)));
        let (code, message) = wire(&result);
        responses.push(
            ReplaceResult::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(kind)
                .with_resource_name(resource.resource_name.clone()),
        );
    }
    let response = AlterConfigsResponse::default().with_responses(responses);
    if request.validate_only { Decision::answer(response) } else { draft.decide(response) }
}

/// The records that give a topic in the making its configuration.
pub(super) fn of_new_topic(
    view: &View<'_>,
    topic: &str,
    values: &[(&str, Option<&str>)],
) -> Result<Vec<Record>, Refusal> {
    let nulls: Vec<&str> =
        values.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
    if !nulls.is_empty() {
        let message = format!("Null value not supported for topic configs: {}", nulls.join(","));
        return Err(Refusal::new(ResponseError::InvalidConfig, message));
    }
    let values = view
        .with_broker_layers(|layers| config::new_topic(layers, values))
        .map_err(|error| refuse(&error, Target::Topic))?;
    let resource = ConfigResource::topic(topic);
    Ok(values.into_iter().map(|(name, value)| record(&resource, name, Some(value))).collect())
}

pub(super) const MIN_ISR: &str = "min.insync.replicas";

enum Wanted<'a> {
    Alterations(&'a [Alteration<'a>]),
    Whole(&'a [(&'a str, Option<&'a str>)]),
}

fn alter_one(
    view: &View<'_>,
    draft: &mut Draft,
    kind: i8,
    name: &str,
    wanted: &Wanted<'_>,
) -> Result<(), Refusal> {
    let mut records = {
        let view = view.at(draft.image());
        let (resource, target) = resolve(&view, kind, name)?;
        let current = view.image.config(&resource);
        let changes = view.with_broker_layers(|layers| match wanted {
            Wanted::Alterations(list) => config::incremental(target, &current, layers, list),
            Wanted::Whole(values) => config::replace(target, &current, layers, values),
        });
        let changes = changes.map_err(|error| refuse(&error, target))?;
        if let Some(change) = changes.iter().find(|change| change.name == MIN_ISR) {
            check_one_min_isr(&view, target, change)?;
        }
        changes
            .into_iter()
            .map(|Change { name, value }| record(&resource, name, value))
            .collect::<Vec<_>>()
    };
    let is_min_isr = |record: &Record| matches!(record, Record::Config(c) if c.name == MIN_ISR);
    if records.iter().any(is_min_isr) {
        let changes = ineligible(view, draft, &records)?;
        records.extend(changes);
    }
    draft.add(records)
}

/// What has leaders and the controller agree about the minimum, on which eligible leader replicas
/// rest (KIP-966): the metadata say what it is, whatever the files of nodes do. The first controller
/// that keeps such replicas decides it by its own file.
pub(super) fn agree_on_min_isr(view: &View<'_>) -> Vec<Record> {
    let image = view.image;
    if !has_elr(image) {
        return Vec::new();
    }
    let all = ConfigResource::all_brokers();
    let own = view.with_broker_layers(|layers| layers.find(MIN_ISR).value);
    let unset = own.filter(|_| image.config_value(&all, MIN_ISR).is_none());
    let set = unset.map(|own| record(&all, MIN_ISR.to_owned(), Some(own.to_property())));
    let is_of_one = |resource: &&ConfigResource| {
        resource.kind == ConfigResourceType::Broker
            && **resource != all
            && image.config_value(resource, MIN_ISR).is_some()
    };
    let ones = image.configs().map(|(resource, _)| resource).filter(is_of_one);
    set.into_iter().chain(ones.map(|one| record(one, MIN_ISR.to_owned(), None))).collect()
}

pub(super) fn has_elr(image: &MetadataImage) -> bool {
    image.feature("eligible.leader.replicas.version").unwrap_or(0) > 0
}

/// See [`agree_on_min_isr`].
fn check_one_min_isr(view: &View<'_>, target: Target, change: &Change) -> Result<(), Refusal> {
    let why = match target {
        Target::Broker => "cannot be set for one broker: set it for all, or for topics",
        Target::ClusterDefault if change.value.is_none() => {
            "cannot be removed for all brokers, since their files may differ: set another value"
        }
        _ => return Ok(()),
    };
    if !has_elr(view.image) {
        return Ok(());
    }
    Err(Refusal::new(ResponseError::InvalidConfig, format!("{MIN_ISR} {why}")))
}

/// Where as many are in sync as the new minimum asks for, a leader goes on committing without those
/// that were eligible, so they are no more: in the same entry as the setting.
fn ineligible(view: &View<'_>, draft: &Draft, settings: &[Record]) -> Result<Vec<Record>, Refusal> {
    let mut after = Draft::new(draft.image());
    after.add(settings.to_vec())?;
    let view = view.at(after.image());
    let mut changes = Vec::new();
    for topic in view.image.topics() {
        for (index, partition) in &topic.partitions {
            if partition.eligible_leader_replicas.is_empty()
                || !view.rules(&topic.name).suffices(&partition.isr, partition.replicas.len())
            {
                continue;
            }
            let at = TopicPartition { topic: topic.id, partition: *index };
            let mut change = PartitionChangeRecord::new(at);
            change.eligible_leader_replicas = Some(std::iter::empty().collect());
            changes.push(change.into());
        }
    }
    Ok(changes)
}

fn alteration(
    config: &kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig,
) -> Result<Alteration<'_>, Refusal> {
    let name = config.name.as_str();
    let Some(operation) = Operation::from_wire(config.config_operation) else {
        let message = format!("Unknown operation {} for {name}", config.config_operation);
        return Err(Refusal::new(ResponseError::InvalidRequest, message));
    };
    Ok(Alteration { name, operation, value: config.value.as_deref() })
}

/// The resource that a request names, where it exists.
fn resolve(view: &View<'_>, kind: i8, name: &str) -> Result<(ConfigResource, Target), Refusal> {
    let invalid = |message: String| Err(Refusal::new(ResponseError::InvalidRequest, message));
    let resource = |kind| ConfigResource { kind, name: name.into() };
    match ConfigResourceType::from_wire(kind) {
        Some(kind @ ConfigResourceType::Topic) => {
            if view.image.topic_by_name(name).is_none() {
                return Err(ResponseError::UnknownTopicOrPartition.into());
            }
            Ok((resource(kind), Target::Topic))
        }
        Some(ConfigResourceType::Broker) if name.is_empty() => {
            Ok((ConfigResource::all_brokers(), Target::ClusterDefault))
        }
        Some(ConfigResourceType::Broker) => {
            let Ok(id) = name.parse::<u32>() else {
                return invalid(format!("Invalid broker name '{name}': expected a node id"));
            };
            if view.image.broker(NodeId(id)).is_none() {
                return Err(Refusal::new(
                    ResponseError::BrokerIdNotRegistered,
                    format!("No broker with id {id} found."),
                ));
            }
            Ok((ConfigResource::broker(NodeId(id)), Target::Broker))
        }
        Some(kind @ (ConfigResourceType::Group | ConfigResourceType::ClientMetrics)) => {
            if name.is_empty() || name.contains('\0') {
                return invalid("Default resources are not allowed here.".to_owned());
            }
            let is_group = kind == ConfigResourceType::Group;
            Ok((resource(kind), if is_group { Target::Group } else { Target::ClientMetrics }))
        }
        // Log levels belong to one node, which changes them without the controller.
        Some(ConfigResourceType::BrokerLogger) | None => {
            invalid(format!("Unexpected resource type {kind}."))
        }
    }
}

fn record(resource: &ConfigResource, name: String, value: Option<String>) -> Record {
    ConfigRecord {
        resource_type: i32::from(resource.kind.wire()),
        resource_name: resource.name.to_string(),
        name,
        value,
    }
    .into()
}

fn refuse(error: &AlterError, target: Target) -> Refusal {
    Refusal::new(error.response_error(target), error.to_string())
}

fn count<'a>(named: impl Iterator<Item = (i8, &'a str)>) -> BTreeMap<(i8, &'a str), usize> {
    let mut times = BTreeMap::new();
    for resource in named {
        *times.entry(resource).or_default() += 1;
    }
    times
}

/// A resource that a request names twice is changed by neither mention.
fn once(times: &BTreeMap<(i8, &str), usize>, kind: i8, name: &str) -> Result<(), Refusal> {
    if times.get(&(kind, name)).is_some_and(|times| *times > 1) {
        let message = "Each resource must appear at most once.";
        return Err(Refusal::new(ResponseError::InvalidRequest, message));
    }
    Ok(())
}
