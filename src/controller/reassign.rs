//! AlterPartitionReassignments: partitions move to other brokers while they are served (KIP-455).
//!
//! A reassignment first adds the new replicas to the partition, behind which those stay that shall
//! go. Once every replica that stays is in sync, the change that brings that about, whichever it is,
//! also takes the others out (see `election`). Until then it can be cancelled, or replaced by
//! another. If nothing is to be added and all that stay are in sync, it ends with the change that
//! begins it.
//!
//! What an earlier reassignment was adding and a later one does not name is removed like any other
//! replica, at the end: it may be the only one in sync.
//!
//! References: KIP-455, KIP-860 (whether the number of replicas may change).

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
        alter_partition_reassignments_response::{
            ReassignablePartitionResponse, ReassignableTopicResponse,
        },
    },
};

use crate::{
    base::{NodeId, PartitionIndex, TopicPartition},
    controller::{
        Decision, View,
        draft::{Draft, Refusal, wire},
        election::{Change, Rules},
        topics::named_replicas,
    },
    metadata::Partition,
};

/// Who holds a partition, and how that is being changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    /// All that hold it: those that stay, in their order, then those that go.
    pub(super) replicas: Vec<NodeId>,
    /// Of those that stay, the new ones.
    pub(super) adding: Vec<NodeId>,
    /// Those that go.
    pub(super) removing: Vec<NodeId>,
    /// The balancer began it.
    pub(super) is_balancing: bool,
}

impl Assignment {
    /// As it is.
    pub(super) fn of(partition: &Partition) -> Self {
        Self {
            replicas: partition.replicas.to_vec(),
            adding: partition.adding_replicas.to_vec(),
            removing: partition.removing_replicas.to_vec(),
            is_balancing: partition.is_balancing,
        }
    }

    /// On the way to `target`.
    ///
    /// Differs from Kafka: a replica that an earlier reassignment is still adding counts as added
    /// by this one if it stays, so that a cancellation takes it out again; and one that it was
    /// removing is not removed if it stays now.
    fn toward(partition: &Partition, target: Vec<NodeId>) -> Self {
        let is_new = |node: &NodeId| {
            !partition.replicas.contains(node) || partition.adding_replicas.contains(node)
        };
        let leaves = |node: &NodeId| !target.contains(node);
        let mut adding: Vec<NodeId> = target.iter().copied().filter(is_new).collect();
        let mut removing: Vec<NodeId> = partition.replicas.iter().copied().filter(leaves).collect();
        adding.sort_unstable();
        removing.sort_unstable();
        let mut replicas = target;
        replicas.extend(&removing);
        Self { replicas, adding, removing, is_balancing: false }
    }

    /// Without what is being added, and with what was to be removed.
    fn reverted(partition: &Partition) -> Self {
        let stays = |node: &NodeId| !partition.adding_replicas.contains(node);
        let replicas = partition.replicas.iter().copied().filter(stays).collect();
        Self { replicas, adding: Vec::new(), removing: Vec::new(), is_balancing: false }
    }

    /// Those of `nodes` that are replicas.
    pub(super) fn keeping(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        nodes.iter().copied().filter(|node| self.replicas.contains(node)).collect()
    }

    /// Ends the reassignment if all that stay are in `isr`, which those that go then leave as well.
    pub(super) fn complete(&mut self, isr: &mut Vec<NodeId>) {
        let stays = |node: &NodeId| !self.removing.contains(node);
        let is_over = self.replicas.iter().filter(|node| stays(node)).all(|n| isr.contains(n));
        if (self.adding.is_empty() && self.removing.is_empty()) || !is_over {
            return;
        }
        isr.retain(stays);
        self.replicas.retain(|node| !self.removing.contains(node));
        self.adding.clear();
        self.removing.clear();
        self.is_balancing = false;
    }
}

pub(super) fn alter(
    view: &View<'_>,
    request: &AlterPartitionReassignmentsRequest,
) -> Decision<AlterPartitionReassignmentsResponse> {
    let mut draft = Draft::new(view.image);
    let may_resize = request.allow_replication_factor_change;
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let index = PartitionIndex(wanted.partition_index);
            let replicas = wanted.replicas.as_deref();
            let result = alter_one(view, &mut draft, &topic.name, index, replicas, may_resize);
            let (code, message) = wire(&result);
            ReassignablePartitionResponse::default()
                .with_partition_index(index.0)
                .with_error_code(code)
                .with_error_message(message)
        });
        ReassignableTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    let response = AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(may_resize)
        .with_error_message(None)
        .with_responses(topics.collect());
    draft.decide(response)
}

fn alter_one(
    view: &View<'_>,
    draft: &mut Draft,
    topic: &str,
    index: PartitionIndex,
    replicas: Option<&[BrokerId]>,
    may_resize: bool,
) -> Result<(), Refusal> {
    let unknown = |what: String| Refusal::new(ResponseError::UnknownTopicOrPartition, what);
    // As it is after what was decided before: a partition may be named twice.
    let image = draft.image().clone();
    let found = image.topic_by_name(topic);
    let found = found.ok_or_else(|| unknown(format!("Unable to find a topic named {topic}.")))?;
    let partition = found
        .partition(index)
        .ok_or_else(|| unknown(format!("Unable to find partition {topic}:{index}.")))?;
    let at = TopicPartition { topic: found.id, partition: index };
    let mut rules = view.at(&image).rules(topic);
    let mut isr = partition.isr.to_vec();
    let assignment = match replicas {
        None => {
            let assignment = cancelled(partition)?;
            isr = assignment.keeping(&isr);
            let eligible = assignment.keeping(&partition.eligible_leader_replicas);
            if isr.is_empty() && eligible.is_empty() && !rules.unclean {
                return Err(Refusal::new(
                    ResponseError::InvalidReplicaAssignment,
                    format!(
                        "The reassignment of {topic}:{index} cannot be cancelled: only replicas \
                         that it adds are in sync, and unclean elections are not allowed. Let it \
                         end, or set unclean.leader.election.enable for the topic."
                    ),
                ));
            }
            assignment
        }
        Some(replicas) => {
            let target = named_replicas(&image, replicas)?;
            let count = partition.target_replicas().count();
            if !may_resize && target.len() != count {
                return Err(Refusal::new(
                    ResponseError::InvalidReplicationFactor,
                    format!("The replication factor is changed from {count} to {}", target.len()),
                ));
            }
            // To move a partition is no reason to lose what it holds.
            rules.unclean = false;
            Assignment::toward(partition, target)
        }
    };
    assign(draft, at, assignment, isr, rules)
}

/// Has the balancer begin to move a partition to `target`, whose brokers are known.
pub(super) fn begin(
    view: &View<'_>,
    draft: &mut Draft,
    at: TopicPartition,
    target: Vec<NodeId>,
) -> Result<(), Refusal> {
    let image = draft.image().clone();
    let (Some(topic), Some(partition)) = (image.topic(at.topic), image.partition(at)) else {
        return Err(ResponseError::UnknownTopicOrPartition.into());
    };
    let rules = Rules { unclean: false, ..view.at(&image).rules(&topic.name) };
    let mut assignment = Assignment::toward(partition, target);
    assignment.is_balancing = !assignment.adding.is_empty();
    assign(draft, at, assignment, partition.isr.to_vec(), rules)
}

fn assign(
    draft: &mut Draft,
    at: TopicPartition,
    assignment: Assignment,
    isr: Vec<NodeId>,
    rules: Rules,
) -> Result<(), Refusal> {
    let image = draft.image().clone();
    let partition = image.partition(at).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let change = Change {
        at,
        partition,
        isr,
        assignment: Some(assignment),
        unclean_shutdown: None,
        image: &image,
        barred: None,
        prefer: false,
        rules,
        recovered: false,
    };
    draft.add(change.build().into_iter().map(Into::into).collect())
}

fn cancelled(partition: &Partition) -> Result<Assignment, Refusal> {
    if partition.is_reassigning() {
        return Ok(Assignment::reverted(partition));
    }
    Err(Refusal::new(
        ResponseError::NoReassignmentInProgress,
        "No partition reassignment is in progress.",
    ))
}
