//! What `topic reassign` and `node` know of where replicas lie, and plan by the controller's own
//! planner.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::discriminant,
    time::Duration,
};

use serde::Serialize;

use super::{failure::Failure, output::join};
use crate::{
    base::NodeId,
    client::{BrokerDescription, Client, DiskUse, Partition, Reassignment, Resource, retrying},
    controller::balance::{self, Node, Plan, Replicas, Stance},
};

pub(super) const DRAIN: &str = "ottla.broker.drain";

/// Brokers, partitions and their sizes, as they were when the cluster was asked.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) brokers: Vec<BrokerDescription>,
    pub(super) partitions: Vec<Replicas<Partition>>,
    pub(super) reassignments: Vec<Reassignment>,
    pub(super) disks: BTreeMap<i32, Option<DiskUse>>,
    pub(super) troubles: Troubles,
    pub(super) drained: BTreeSet<i32>,
    pub(super) leaders: BTreeMap<i32, usize>,
}

/// Partitions that cannot be copied now.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    pub(super) leaderless: BTreeSet<Partition>,
    /// Replicas that are offline, by partition and node.
    pub(super) offline: BTreeSet<(Partition, i32)>,
}

/// A move as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct MoveRow {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) from: Vec<i32>,
    pub(super) to: Vec<i32>,
    /// The brokers that have to copy it; none where only the order changes.
    pub(super) copies: Vec<i32>,
    /// What is copied in all, where that is known.
    pub(super) bytes: Option<u64>,
}

impl MoveRow {
    pub(super) fn cells(&self) -> Vec<String> {
        let copies = if self.copies.is_empty() { "-".to_owned() } else { join(&self.copies) };
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            join(&self.from),
            join(&self.to),
            copies,
            self.bytes.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string()),
        ]
    }

    pub(super) const COLUMNS: [&'static str; 6] =
        ["topic", "partition", "from", "to", "copied by", "bytes"];

    /// The partition, and who shall hold it.
    pub(super) fn wanted(&self) -> (Partition, Option<Vec<i32>>) {
        (Partition::new(self.topic.as_str(), self.partition), Some(self.to.clone()))
    }
}

/// Why replicas do not move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BalanceError {
    /// There is no such node.
    #[error("no node {0} is registered")]
    Unknown(i32),
    /// All others hold the partition already, are away, or are being emptied themselves.
    #[error(
        "node {node} cannot be emptied: no other node can take {count} of its partitions, \
         {first} for one{}", away_too(.away)
    )]
    NoTaker { node: i32, count: usize, first: Partition, away: Vec<i32> },
    /// A target's disk is too small for what it would be sent.
    #[error(
        "node {node} has no room for what would go there: {needed_bytes} bytes, and \
         {usable_bytes} are free"
    )]
    Full { node: i32, needed_bytes: u64, usable_bytes: u64 },
    /// A target does not answer.
    #[error("{count} partitions wait for node {node}, which is away")]
    Away { node: i32, count: usize },
    /// A target has lost the log directory that it was to copy to.
    #[error("{count} partitions wait for node {node}, whose log directory for them has failed")]
    Failed { node: i32, count: usize },
    /// Nobody is there to copy from.
    #[error("{count} partitions have no leader to copy them from, {first} for one")]
    NoLeader { first: Partition, count: usize },
    /// It takes longer than was to be waited.
    #[error("nothing has left node {node} for {waited:?}; {left} partitions are on it still")]
    Stalled { node: i32, left: usize, waited: Duration },
}

impl BalanceError {
    /// Whether nobody's return would change it.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::NoTaker { away, .. } if away.is_empty())
    }

    /// The same trouble, whatever its extent.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        discriminant(self) == discriminant(other) && self.node() == other.node()
    }

    const fn node(&self) -> Option<i32> {
        match self {
            Self::Unknown(node)
            | Self::NoTaker { node, .. }
            | Self::Full { node, .. }
            | Self::Away { node, .. }
            | Self::Failed { node, .. }
            | Self::Stalled { node, .. } => Some(*node),
            Self::NoLeader { .. } => None,
        }
    }
}

impl Cluster {
    pub(super) async fn ask(client: &Client) -> Result<Self, Failure> {
        retrying!(client, client.deadline(), async { client.refresh_all().await })?;
        let brokers = client.describe_brokers().await?;
        let reassignments = client.list_reassignments().await?;
        let there: Vec<i32> =
            brokers.iter().filter(|one| !one.fenced).map(|one| one.node).collect();
        let disks = client.disk_use(&there).await;
        let mut drained = BTreeSet::new();
        let keys = [DRAIN.to_owned()];
        // A broker that does not answer is not taken for one that is drained.
        for (node, _) in disks.iter().filter(|(_, disk)| disk.is_some()) {
            let resource = Resource::Broker(*node);
            let settings = client.describe_configs(&resource, Some(&keys), false);
            let is_true = |value: Option<String>| value.as_deref() == Some("true");
            if settings.await.is_ok_and(|list| list.into_iter().any(|one| is_true(one.value))) {
                drained.insert(*node);
            }
        }
        let mut cluster = Self { brokers, reassignments, disks, drained, ..Self::default() };
        cluster.read_partitions(client);
        Ok(cluster)
    }

    fn read_partitions(&mut self, client: &Client) {
        let view = client.view();
        let moving: BTreeMap<&Partition, &Reassignment> =
            self.reassignments.iter().map(|one| (&one.partition, one)).collect();
        for (number, topic) in view.topics.values().enumerate() {
            for one in &topic.partitions {
                let at = Partition::new(topic.name.clone(), one.partition);
                let reassignment = moving.get(&at);
                let target = reassignment.map_or_else(|| one.replicas.clone(), |r| r.target());
                *self.leaders.entry(one.leader).or_default() += 1;
                if one.leader < 0 {
                    self.troubles.leaderless.insert(at.clone());
                }
                self.troubles.offline.extend(one.offline.iter().map(|node| (at.clone(), *node)));
                let sizes = self.disks.values().flatten().filter_map(|disk| disk.replicas.get(&at));
                self.partitions.push(Replicas {
                    topic: number,
                    replicas: target.into_iter().map(node_id).collect(),
                    bytes: sizes.max().copied(),
                    moving: reassignment.is_some(),
                    lost: None,
                    key: at,
                });
            }
        }
    }

    pub(super) fn broker(&self, node: i32) -> Option<&BrokerDescription> {
        self.brokers.iter().find(|broker| broker.node == node)
    }

    pub(super) fn is_away(&self, node: i32) -> bool {
        self.broker(node).is_none_or(|broker| broker.fenced)
    }

    pub(super) fn is_drained(&self, node: i32) -> bool {
        self.drained.contains(&node)
    }

    pub(super) fn leads(&self, node: i32) -> usize {
        self.leaders.get(&node).copied().unwrap_or(0)
    }

    /// How many replicas the node holds or is being sent, those on their way from it included.
    pub(super) fn holds(&self, node: i32) -> usize {
        let settled = |one: &&Replicas<Partition>| one.replicas.contains(&node_id(node));
        let leaving = self.reassignments.iter().filter(|one| one.removing.contains(&node)).count();
        self.partitions.iter().filter(settled).count() + leaving
    }

    /// How much it holds, as far as that is known.
    pub(super) fn bytes(&self, node: i32) -> Option<u64> {
        let held = self.partitions.iter().filter(|one| one.replicas.contains(&node_id(node)));
        held.map(|one| one.bytes).sum()
    }

    /// How much of what leaves the node others have by now.
    pub(super) fn copied_from(&self, node: i32) -> u64 {
        let leaving = self.reassignments.iter().filter(|one| one.removing.contains(&node));
        let copies = leaving.flat_map(|one| one.adding.iter().map(|to| (to, &one.partition)));
        let size =
            |(to, at): (&i32, &Partition)| self.disks.get(to)?.as_ref()?.replicas.get(at).copied();
        copies.filter_map(size).sum()
    }

    /// What should move, of these topics or of all, so that all is even; or, where a node is to be
    /// `drained`, so that it is empty.
    pub(super) fn plan(
        &self,
        drained: Option<i32>,
        topics: &[String],
        limit: usize,
    ) -> Plan<Partition> {
        let nodes: BTreeMap<NodeId, Node> = self
            .brokers
            .iter()
            .map(|broker| {
                let stance = match (Some(broker.node) == drained, broker.fenced) {
                    (true, _) => Stance::Drains,
                    (false, true) => Stance::Keeps,
                    // It is for its own command to empty it.
                    (false, false) if drained.is_some() && self.is_drained(broker.node) => {
                        Stance::Keeps
                    }
                    (false, false) if self.is_drained(broker.node) => Stance::Drains,
                    (false, false) => Stance::Takes,
                };
                (node_id(broker.node), Node { rack: broker.rack.clone(), stance })
            })
            .collect();
        let wanted = |one: &&Replicas<Partition>| {
            topics.is_empty() || topics.iter().any(|topic| **topic == *one.key.topic)
        };
        let partitions: Vec<_> = self.partitions.iter().filter(wanted).cloned().collect();
        match drained {
            Some(_) => balance::drain(&nodes, &partitions, limit),
            None => balance::plan(&nodes, &partitions, limit),
        }
    }

    /// Why the node cannot be emptied, where some of what it holds can go nowhere.
    pub(super) fn stuck(&self, node: i32, plan: &Plan<Partition>) -> Option<BalanceError> {
        let (first, _) = plan.stuck.first()?;
        let others = self.brokers.iter().filter(|broker| broker.fenced && broker.node != node);
        let away = others.map(|broker| broker.node).collect();
        let (count, first) = (plan.stuck.len(), first.clone());
        Some(BalanceError::NoTaker { node, count, first, away })
    }

    /// The targets that have no room for what these moves bring, with a tenth to spare.
    pub(super) fn full(&self, moves: &[MoveRow]) -> Vec<BalanceError> {
        let mut needed = BTreeMap::<i32, u64>::new();
        for one in moves {
            let each = one.bytes.unwrap_or(0) / (one.copies.len() as u64).max(1);
            for node in &one.copies {
                *needed.entry(*node).or_default() += each;
            }
        }
        let short = needed.into_iter().filter_map(|(node, bytes)| self.lacks_room(node, bytes, 10));
        short.collect()
    }

    /// Where a node has no room for so much, with a part of it in a hundred to spare.
    pub(super) fn lacks_room(
        &self,
        node: i32,
        needed_bytes: u64,
        spare_percent: u64,
    ) -> Option<BalanceError> {
        let usable_bytes = self.disks.get(&node)?.as_ref()?.usable_bytes?;
        let is_short = needed_bytes > usable_bytes - usable_bytes / 100 * spare_percent;
        is_short.then_some(BalanceError::Full { node, needed_bytes, usable_bytes })
    }
}

/// Moves as they are shown.
pub(super) fn rows(plan: &Plan<Partition>) -> Vec<MoveRow> {
    let wire = |list: &[NodeId]| list.iter().map(|node| node.wire()).collect::<Vec<i32>>();
    let row = |one: &balance::Move<Partition>| {
        let copies: Vec<i32> = one.added().map(NodeId::wire).collect();
        MoveRow {
            topic: one.key.topic.to_string(),
            partition: one.key.partition,
            from: wire(&one.from),
            to: wire(&one.to),
            bytes: one.bytes.map(|bytes| bytes.saturating_mul(copies.len() as u64)),
            copies,
        }
    };
    plan.moves.iter().map(row).collect()
}

fn away_too(away: &[i32]) -> String {
    if away.is_empty() { String::new() } else { format!("; away is node {}", join(away)) }
}

fn node_id(node: i32) -> NodeId {
    NodeId(u32::try_from(node).unwrap_or(u32::MAX))
}
