//! Who leads a partition, and who may: turns a wish about the ISR into a change record.
//!
//! A leader that is acceptable and in sync stays. Else the first replica, in the order of
//! assignment, that is acceptable and in sync; where only a leader in sync is left that is shutting
//! down, it leads on until it is gone; while nobody is in sync, one of the eligible leader
//! replicas; while there is none either, the last known leader, since it had everything that was
//! acknowledged unless it lost its disk; and where the topic allows it, any acceptable replica.
//! The last two are unclean: the ISR becomes the new leader alone, and it starts out recovering.
//! An operator may ask for the preferred replica, or for an unclean election, of any partition.
//!
//! While fewer than `min.insync.replicas` are in sync, whoever leaves the ISR becomes an eligible
//! leader replica, since nothing is acknowledged without it from there on (KIP-966).
//!
//! Every change also ends the reassignment that is under way, if all replicas that stay are in sync
//! with it. Where a replica leaves, the leader epoch rises, so that the leader of before stops
//! counting on it.

use std::{collections::BTreeMap, sync::Arc};

use kafka_protocol::{
    ResponseError,
    messages::{
        ElectLeadersRequest, ElectLeadersResponse, TopicName,
        elect_leaders_response::{PartitionResult, ReplicaElectionResult},
    },
};

use crate::{
    base::{NodeId, PartitionIndex, TopicPartition},
    controller::{
        Decision, View,
        brokers::{RulesByTopic, may_lead},
        draft::{Draft, Refusal, wire},
        reassign::Assignment,
    },
    metadata::{
        Broker, MetadataImage, Partition, Topic, directory,
        records::{LeaderChange, NodeList, PartitionChangeRecord},
    },
};

/// What is known and wanted of a partition.
pub(super) struct Change<'a> {
    pub(super) at: TopicPartition,
    pub(super) partition: &'a Partition,
    /// Who shall be in sync.
    pub(super) isr: Vec<NodeId>,
    /// Who shall hold the partition, unless that stays as it is.
    pub(super) assignment: Option<Assignment>,
    /// A replica that may have lost its tail: out of the ISR and of the eligible leader replicas.
    pub(super) unclean_shutdown: Option<NodeId>,
    /// What is known of the brokers.
    pub(super) image: &'a MetadataImage,
    /// A replica that may not lead, whatever is known of its broker.
    pub(super) barred: Option<NodeId>,
    /// The preferred replica takes over where it may.
    pub(super) prefer: bool,
    /// What the topic is set to.
    pub(super) rules: Rules,
    /// The leader says that it has recovered.
    pub(super) recovered: bool,
}

/// What elections of a topic go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// Whether any replica may lead while none is in sync.
    pub(super) unclean: bool,
    /// `min.insync.replicas`.
    pub(super) min_isr: usize,
    /// Whether eligible leader replicas are kept.
    pub(super) elr: bool,
}

impl Rules {
    /// Whether a leader may commit with these in sync, where there are so many replicas.
    pub(super) fn suffices(&self, isr: &[NodeId], replicas: usize) -> bool {
        isr.len() >= self.min_isr.min(replicas)
    }
}

impl Change<'_> {
    /// The record, or `None` where nothing changes.
    pub(super) fn build(self) -> Option<PartitionChangeRecord> {
        let before = self.partition;
        let mut target = self.assignment.clone().unwrap_or_else(|| Assignment::of(before));
        let mut isr = self.isr.clone();
        target.complete(&mut isr);
        if isr.is_empty() && !self.rules.elr {
            // Without eligible leader replicas the last one in sync stays, to be known later.
            isr = target.keeping(&before.isr);
        }
        let mut elr = self.eligible(&target, &isr);
        let mut last_known = target.keeping(&before.last_known_elr);
        let (leader, unclean) = self.elect(&target, &isr, &elr);
        if let Some(leader) = leader {
            if unclean {
                (isr, elr) = (vec![leader], Vec::new());
            } else if isr.is_empty() {
                isr = vec![leader];
                elr.retain(|node| *node != leader);
            }
            target.complete(&mut isr);
            elr = target.keeping(&elr);
            if self.rules.suffices(&isr, target.replicas.len()) {
                // The minimum was lowered meanwhile: this one commits without the others.
                elr.clear();
            }
            last_known.clear();
        } else if isr.is_empty() {
            last_known = self.last_known(&target, last_known);
        }
        let mut record = PartitionChangeRecord::new(self.at);
        let list = |nodes: &[NodeId]| nodes.iter().copied().collect::<NodeList>();
        record.isr = (*isr != *before.isr).then(|| list(&isr));
        record.eligible_leader_replicas =
            (*elr != *before.eligible_leader_replicas).then(|| list(&elr));
        record.last_known_elr = (*last_known != *before.last_known_elr).then(|| list(&last_known));
        let someone_leaves = before.replicas.iter().any(|node| !target.replicas.contains(node));
        if leader != before.leader || someone_leaves {
            record.leader = Some(LeaderChange { leader: leader.map(|leader| leader.0) });
        }
        if unclean && !before.recovering {
            record.leader_recovery_state = Some(1);
        } else if self.recovered && before.recovering {
            record.leader_recovery_state = Some(0);
        }
        reassigned(&mut record, before, &target);
        (record != PartitionChangeRecord::new(self.at)).then_some(record)
    }

    /// Who is to lead once nobody is known to hold all that is committed: the leader that is lost.
    /// Where it was lost earlier, as it was shutting down, or its replica was taken away since, that
    /// is the last one that was known to.
    fn last_known(&self, target: &Assignment, known: Vec<NodeId>) -> Vec<NodeId> {
        let Partition { leader, isr, eligible_leader_replicas: elr, .. } = self.partition;
        match (leader, &**isr, &**elr) {
            (Some(leader), ..) => target.keeping(&[*leader]),
            (None, [last], []) | (None, [], [last]) if known.is_empty() => target.keeping(&[*last]),
            _ => known,
        }
    }

    fn eligible(&self, target: &Assignment, isr: &[NodeId]) -> Vec<NodeId> {
        if !self.rules.elr || self.rules.suffices(isr, target.replicas.len()) {
            return Vec::new();
        }
        let Partition { isr: was, eligible_leader_replicas: elr, .. } = self.partition;
        let had = |node: &&NodeId| was.contains(node) || elr.contains(node);
        let keeps = |node: &&NodeId| !isr.contains(node) && self.unclean_shutdown != Some(**node);
        target.replicas.iter().filter(had).filter(keeps).copied().collect()
    }

    /// The leader, and whether its election is unclean.
    fn elect(&self, target: &Assignment, isr: &[NodeId], elr: &[NodeId]) -> (Option<NodeId>, bool) {
        let acceptable = |node: &NodeId| {
            self.barred != Some(*node) && may_lead(self.image, self.partition, *node)
        };
        let valid = |node: &NodeId| {
            acceptable(node) && (isr.contains(node) || (isr.is_empty() && elr.contains(node)))
        };
        let replicas = || target.replicas.iter().copied();
        let preferred = replicas().next().filter(|node| self.prefer && valid(node));
        let clean = preferred
            .or(self.partition.leader.filter(valid))
            .or_else(|| replicas().find(|node| valid(node)))
            .or(self.partition.leader.filter(|node| isr.contains(node) && self.may_stay(*node)));
        if clean.is_some() {
            return (clean, false);
        }
        let last_known = match *target.keeping(&self.partition.last_known_elr) {
            [leader] if self.rules.elr && isr.is_empty() && elr.is_empty() => Some(leader),
            _ => None,
        };
        // A replica that is being added has the least to lose, and the least to give.
        let settled = |node: &NodeId| acceptable(node) && !target.adding.contains(node);
        let any = || replicas().find(settled).or_else(|| replicas().find(acceptable));
        let unclean =
            last_known.filter(acceptable).or_else(|| self.rules.unclean.then(any).flatten());
        (unclean, unclean.is_some())
    }

    /// Whether a leader that is about to go may lead until it goes, as nobody else can.
    fn may_stay(&self, leader: NodeId) -> bool {
        let directory = self.partition.directory(leader);
        let serves = |broker: &Arc<Broker>| {
            !broker.fenced && directory.is_some_and(|directory| broker.has_online(directory))
        };
        self.barred != Some(leader) && self.image.broker(leader).is_some_and(serves)
    }
}

/// What `record` must say where `target` is another assignment than that of before.
fn reassigned(record: &mut PartitionChangeRecord, before: &Partition, target: &Assignment) {
    let list = |nodes: &[NodeId]| nodes.iter().copied().collect::<NodeList>();
    if *target.replicas != *before.replicas {
        record.replicas = Some(list(&target.replicas));
        let directory = |node: &NodeId| before.directory(*node).unwrap_or(directory::UNASSIGNED);
        record.directories = Some(target.replicas.iter().map(directory).collect());
    }
    if *target.adding != *before.adding_replicas {
        record.adding_replicas = Some(list(&target.adding));
    }
    if *target.removing != *before.removing_replicas {
        record.removing_replicas = Some(list(&target.removing));
    }
    if target.is_balancing != before.is_balancing {
        record.balancing = Some(target.is_balancing);
    }
}

/// Which leader an operator asks for, with Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The first replica, where it is in sync.
    Preferred,
    /// Any replica, where there is no leader.
    Unclean,
}

/// Elects leaders as an operator asks, each partition by itself. Where none are named, all of the
/// cluster, and only those are answered that have another leader now.
pub(super) fn elect(
    view: &View<'_>,
    request: ElectLeadersRequest,
) -> Decision<ElectLeadersResponse> {
    let wanted = match request.election_type {
        0 => Wanted::Preferred,
        1 => Wanted::Unclean,
        _ => {
            let code = ResponseError::InvalidRequest.code();
            return Decision::answer(ElectLeadersResponse::default().with_error_code(code));
        }
    };
    let mut draft = Draft::new(view.image);
    let mut election = Election { view, wanted, draft: &mut draft, rules: RulesByTopic::default() };
    let mut results = BTreeMap::<TopicName, Vec<PartitionResult>>::new();
    match request.topic_partitions {
        None => {
            for topic in view.image.topics() {
                for index in topic.partitions.keys() {
                    if election.elect_one(Some(topic), *index).is_ok() {
                        let name = TopicName(topic.name.to_string().into());
                        results.entry(name).or_default().push(election_result(*index, &Ok(())));
                    }
                }
            }
        }
        Some(asked) => {
            for topic in asked {
                let found = view.image.topic_by_name(topic.topic.as_str());
                let results = results.entry(topic.topic.clone()).or_default();
                for index in topic.partitions.into_iter().map(PartitionIndex) {
                    results.push(election_result(index, &election.elect_one(found, index)));
                }
            }
        }
    }
    let results = results.into_iter().map(|(topic, partitions)| {
        ReplicaElectionResult::default().with_topic(topic).with_partition_result(partitions)
    });
    let response = ElectLeadersResponse::default();
    draft.decide(response.with_replica_election_results(results.collect()))
}

fn election_result(index: PartitionIndex, result: &Result<(), Refusal>) -> PartitionResult {
    let (code, message) = wire(result);
    PartitionResult::default()
        .with_partition_id(index.0)
        .with_error_code(code)
        .with_error_message(message)
}

/// Elects the preferred leaders of these partitions, as far as they can lead.
pub(super) fn prefer(view: &View<'_>, draft: &mut Draft, partitions: &[TopicPartition]) {
    let rules = RulesByTopic::default();
    let mut election = Election { view, wanted: Wanted::Preferred, draft, rules };
    for at in partitions {
        let topic = view.image.topic(at.topic);
        // Who cannot lead now is tried again the next time.
        let _ = election.elect_one(topic, at.partition);
    }
}

struct Election<'a> {
    view: &'a View<'a>,
    wanted: Wanted,
    draft: &'a mut Draft,
    rules: RulesByTopic,
}

impl Election<'_> {
    fn elect_one(&mut self, topic: Option<&Topic>, index: PartitionIndex) -> Result<(), Refusal> {
        let unknown = ResponseError::UnknownTopicOrPartition;
        let topic = topic.ok_or(unknown)?;
        let at = TopicPartition { topic: topic.id, partition: index };
        // As it is after the elections before it: a partition may be named twice.
        let image = self.draft.image().clone();
        let partition = image.partition(at).ok_or(unknown)?;
        let preferred = partition.preferred_replica();
        let (needless, unavailable) = match self.wanted {
            Wanted::Preferred => {
                (partition.leader == preferred, ResponseError::PreferredLeaderNotAvailable)
            }
            Wanted::Unclean => {
                (partition.leader.is_some(), ResponseError::EligibleLeadersNotAvailable)
            }
        };
        if needless {
            return Err(ResponseError::ElectionNotNeeded.into());
        }
        let mut rules = self.rules.of(self.view, at.topic);
        rules.unclean |= self.wanted == Wanted::Unclean;
        let change = Change {
            at,
            partition,
            isr: partition.isr.to_vec(),
            unclean_shutdown: None,
            image: &image,
            barred: None,
            prefer: true,
            rules,
            assignment: None,
            recovered: false,
        };
        let elected = change.build().filter(|record| {
            let leader = record.leader.and_then(|change| change.leader.map(NodeId));
            leader.is_some() && (self.wanted == Wanted::Unclean || leader == preferred)
        });
        self.draft.add_alone(elected.ok_or(unavailable)?);
        Ok(())
    }
}
