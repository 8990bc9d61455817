//! What the controller does by itself, at intervals: it hands leadership back to preferred replicas
//! (`auto.leader.rebalance.enable`), and spreads replicas and leaders over the brokers as `balance`
//! says (`ottla.balancer.enable`), a few partitions at a time.
//!
//! Where an operator wants it, a broker that is away for long is emptied like one that is drained
//! (`away`). A partition that nobody leads is left alone: no replica could catch up.
//!
//! A move whose target went away occupies none of the places there are, since nobody knows when it
//! comes back; it ends when the target is back, or when it is cancelled.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use crate::{
    base::{NodeId, TopicPartition},
    controller::{
        Config, View,
        away::Away,
        balance::{self, Node, Plan, Replicas, Stance},
        brokers::may_lead,
        draft::Draft,
        election, reassign,
        sizes::Sizes,
    },
    metadata::{ConfigResource, MetadataImage, Partition},
};

/// The most partitions that get their preferred leader in one go, as in Kafka.
const ELECTED_MAX: usize = 1_000;
/// The pause before the next go, where there were more.
const ELECT_MORE_MS: u64 = 1_000;
/// The most planned moves that are counted: planning takes its time where there are many.
const PLANNED_MAX: usize = 100;
const DRAIN: &str = "ottla.broker.drain";

/// When what is done at intervals is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upkeep {
    leaders_ms: u64,
    replicas_ms: u64,
    away: Away,
}

impl Upkeep {
    pub(super) fn begin(view: &View<'_>, now_ms: u64) -> Self {
        view.config.planned_moves.store(0, Relaxed);
        Self {
            leaders_ms: now_ms.saturating_add(leaders_interval_ms(view)),
            replicas_ms: now_ms.saturating_add(replicas_interval_ms(view)),
            away: Away::default(),
        }
    }

    /// When the next of it is due.
    pub(super) fn due_ms(&self) -> u64 {
        self.leaders_ms.min(self.replicas_ms)
    }

    /// A broker is back.
    pub(super) fn handle_return(&mut self, node: NodeId) {
        self.away.forget(node);
    }

    /// Does what is due.
    pub(super) fn tick(
        &mut self,
        config: &Config,
        sizes: &mut Sizes,
        draft: &mut Draft,
        now_ms: u64,
    ) {
        let image = draft.image().clone();
        let view = View { image: &image, config };
        if self.leaders_ms <= now_ms {
            let more = view.broker_flag("auto.leader.rebalance.enable") && prefer(&view, draft);
            let pause_ms = if more { ELECT_MORE_MS } else { leaders_interval_ms(&view) };
            self.leaders_ms = now_ms.saturating_add(pause_ms);
        }
        if self.replicas_ms <= now_ms {
            let image = draft.image().clone();
            self.away.look(&image, now_ms);
            let mut planned = 0;
            if view.broker_flag("ottla.balancer.enable") {
                sizes.keep_known(&image);
                planned = spread(&view.at(&image), sizes, &self.away, draft, now_ms);
            }
            config.planned_moves.store(planned as u64, Relaxed);
            self.replicas_ms = now_ms.saturating_add(replicas_interval_ms(&view));
        }
    }
}

fn leaders_interval_ms(view: &View<'_>) -> u64 {
    interval_ms(view.broker_number("leader.imbalance.check.interval.seconds"))
}

fn replicas_interval_ms(view: &View<'_>) -> u64 {
    interval_ms(view.broker_number("ottla.balancer.check.interval.seconds"))
}

fn interval_ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(1).max(1).saturating_mul(1_000)
}

/// Has preferred replicas lead where they can. Returns whether there are more than were done.
fn prefer(view: &View<'_>, draft: &mut Draft) -> bool {
    let image = view.image;
    let may_lead = |partition: &Partition| {
        let preferred = partition.preferred_replica().filter(|node| partition.isr.contains(node));
        partition.leader != partition.preferred_replica()
            && preferred.is_some_and(|node| may_lead(image, partition, node))
    };
    let partitions = image.topics().flat_map(|topic| {
        topic.partitions.iter().map(|(index, partition)| {
            (TopicPartition { topic: topic.id, partition: *index }, partition)
        })
    });
    let found = partitions.filter(|(_, partition)| may_lead(partition)).map(|(at, _)| at);
    let found: Vec<TopicPartition> = found.take(ELECTED_MAX).collect();
    if !found.is_empty() {
        tracing::info!(partitions = found.len(), "leadership goes back to preferred replicas");
    }
    election::prefer(view, draft, &found);
    found.len() == ELECTED_MAX
}

/// Begins as many moves as may be under way at a time. Returns how many there would be besides.
fn spread(view: &View<'_>, sizes: &Sizes, away: &Away, draft: &mut Draft, now_ms: u64) -> usize {
    let image = view.image;
    // Negative for never.
    let grace_ms = u64::try_from(view.broker_number("ottla.broker.replacement.grace.ms")).ok();
    let is_lost =
        |node| grace_ms.is_some_and(|grace_ms| away.is_broker_lost(node, grace_ms, now_ms));
    let nodes: BTreeMap<NodeId, Node> = image
        .brokers()
        .map(|broker| {
            let stance = match (is_drained(image, broker.id), broker.is_active()) {
                (true, _) => Stance::Drains,
                (false, true) => Stance::Takes,
                (false, false) if is_lost(broker.id) => Stance::Drains,
                (false, false) => Stance::Keeps,
            };
            (broker.id, Node { rack: broker.rack.clone(), stance })
        })
        .collect();
    let takes = |node: &NodeId| nodes.get(node).is_some_and(|one| one.stance == Stance::Takes);
    let mut under_way = 0;
    let mut partitions = Vec::with_capacity(image.partition_count());
    for (number, topic) in image.topics().enumerate() {
        for (index, partition) in &topic.partitions {
            let moving = partition.is_reassigning();
            under_way += usize::from(moving && partition.adding_replicas.iter().all(takes));
            let key = TopicPartition { topic: topic.id, partition: *index };
            partitions.push(Replicas {
                key,
                topic: number,
                replicas: partition.target_replicas().collect(),
                bytes: sizes.bytes(key),
                moving: moving || partition.leader.is_none(),
                lost: grace_ms
                    .and_then(|grace_ms| away.lost_replica(image, partition, grace_ms, now_ms)),
            });
        }
    }
    let limit = view.broker_number("ottla.balancer.concurrent.moves");
    let limit = usize::try_from(limit).unwrap_or(1).saturating_sub(under_way);
    let plan = balance::plan(&nodes, &partitions, limit);
    let begun = copies(&plan);
    let planned = match begun < limit {
        // There is nothing else to move.
        true => 0,
        false => {
            copies(&balance::plan(&nodes, &partitions, limit + PLANNED_MAX)).saturating_sub(begun)
        }
    };
    begin(view, draft, plan);
    planned
}

/// How many partitions of a plan are copied.
fn copies<K>(plan: &Plan<K>) -> usize {
    plan.moves.iter().filter(|one| one.added().next().is_some()).count()
}

fn begin(view: &View<'_>, draft: &mut Draft, plan: Plan<TopicPartition>) {
    for (at, node) in plan.stuck.iter().take(1) {
        tracing::warn!(
            topic = %at.topic, partition = %at.partition, %node, partitions = plan.stuck.len(),
            "a broker cannot be drained: no other broker can take this partition. Add a broker, or \
             bring back one that is away"
        );
    }
    for one in plan.moves {
        tracing::info!(
            topic = %one.key.topic, partition = %one.key.partition, from = ?one.from, to = ?one.to,
            "the balancer moves a partition"
        );
        // What is refused, as the decision is large enough already, is planned again.
        let _ = reassign::begin(view, draft, one.key, one.to);
    }
}

/// Whether an operator wants the broker to hold nothing.
pub(super) fn is_drained(image: &MetadataImage, node: NodeId) -> bool {
    image.config_value(&ConfigResource::broker(node), DRAIN) == Some("true")
}
