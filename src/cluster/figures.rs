//! What the brokers of a cluster hold and do, as each says itself when another asks.
//!
//! Nobody keeps these figures but their node, so all are asked at once, and none is waited for
//! beyond the deadline: who does not answer is shown as such.

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Cluster, NodeSummary,
    wire::{Answer, Ask, Figures},
};
use crate::{
    base::NodeId,
    metadata::{MetadataImage, Partition},
    quorum::Handle,
};

/// What a node holds and does.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
pub struct NodeFigures {
    /// Replicas on it that are online.
    #[prost(uint64, tag = "1")]
    pub replicas: u64,
    /// Replicas on it whose log directory has failed.
    #[prost(uint64, tag = "2")]
    pub offline_replicas: u64,
    /// Partitions that it leads.
    #[prost(uint64, tag = "3")]
    pub leaders: u64,
    /// The size of its logs.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
    /// Partitions that it leads and that take no `acks=all` write.
    #[prost(uint64, tag = "5")]
    pub under_min_isr: u64,
    /// How often a replica of what it led fell out of sync since it was started.
    #[prost(uint64, tag = "6")]
    pub isr_shrinks: u64,
    /// How often one came back in sync.
    #[prost(uint64, tag = "7")]
    pub isr_expands: u64,
    /// Bytes that it sent to other nodes over connections that are or were up.
    #[prost(uint64, tag = "8")]
    pub sent_bytes: u64,
    /// Bytes that it received over connections that it made.
    #[prost(uint64, tag = "9")]
    pub received_bytes: u64,
    /// About how much processor time the connections between nodes took.
    #[prost(uint64, tag = "10")]
    pub cluster_cpu_ms: u64,
    /// Where it is the controller: moves that the balancer would begin if more could be under way.
    #[prost(uint64, optional, tag = "11")]
    pub planned_moves: Option<u64>,
    /// How far the followers of what it leads are behind.
    #[prost(message, repeated, tag = "12")]
    pub followers: Vec<LagFigures>,
}

/// How far a node is behind the leaders that it follows.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
pub struct LagFigures {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// Records that it has not acknowledged.
    #[prost(uint64, tag = "2")]
    pub records: u64,
    /// About how many bytes they have.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// The longest time for which it has not had all of a partition.
    #[prost(uint64, tag = "4")]
    pub time_ms: u64,
}

/// The cluster, as far as its brokers say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSummary {
    /// How the node that was asked stands, and what it knows of the cluster.
    #[serde(flatten)]
    pub standing: NodeSummary,
    /// The brokers that are registered.
    pub nodes: Vec<BrokerSummary>,
}

/// A broker, as far as it and the leaders that it follows say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerSummary {
    /// The node.
    pub node: u32,
    /// Whether it is there.
    pub state: BrokerState,
    /// What it says; none where it does not.
    pub figures: Option<NodeFigures>,
    /// How far it is behind, by what those leaders say that answered.
    pub lag: LagFigures,
}

/// See [`BrokerSummary::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerState {
    /// It answers.
    There,
    /// It should serve and does not answer.
    Silent,
    /// It is fenced, and was not asked.
    Away,
}

/// Partitions on the move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovesSummary {
    /// Reassignments that go on.
    pub running: usize,
    /// Reassignments that wait for a broker or log directory that is away.
    pub waiting: usize,
    /// Those of both that the balancer began.
    pub by_balancer: usize,
}

impl MovesSummary {
    /// What is on the move in this image.
    #[must_use]
    pub fn of(image: &MetadataImage) -> Self {
        let mut moves = Self::default();
        for one in image.topics().flat_map(|topic| topic.partitions.values()) {
            if one.is_reassigning() {
                let waits = one.adding_replicas.iter().any(|node| !is_there(image, one, *node));
                moves.running += usize::from(!waits);
                moves.waiting += usize::from(waits);
                moves.by_balancer += usize::from(one.is_balancing);
            }
        }
        moves
    }
}

fn is_there(image: &MetadataImage, partition: &Partition, node: NodeId) -> bool {
    image.broker(node).is_some_and(|broker| partition.is_active_on(broker))
}

impl BrokerState {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::There => "there",
            Self::Silent => "silent",
            Self::Away => "away",
        }
    }
}

impl LagFigures {
    fn none(node: NodeId) -> Self {
        Self { node: node.0, ..Self::default() }
    }

    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.time_ms = self.time_ms.max(other.time_ms);
    }
}

/// Says what this node holds and does.
pub type SayFigures = Box<dyn Fn() -> Option<NodeFigures> + Send + Sync>;

impl Cluster {
    /// Whoever asks for this node's figures is told what `say` returns: none once the node has
    /// stopped. Once. It must neither block nor hold the cluster.
    pub fn serve_figures(&self, say: SayFigures) {
        drop(self.0.figures.set(say));
    }

    /// How all brokers stand. Takes no longer than until the deadline.
    pub async fn cluster_summary(&self, deadline: Instant) -> ClusterSummary {
        let standing = self.summary();
        let image = self.quorum().map(Handle::image);
        let brokers = image.iter().flat_map(|image| image.brokers());
        let asked = brokers.map(|broker| async {
            if broker.fenced {
                return (broker.id, BrokerState::Away, None);
            }
            let figures = self.figures_of(broker.id, deadline).await;
            let is_there = figures.is_some();
            let state = if is_there { BrokerState::There } else { BrokerState::Silent };
            (broker.id, state, figures)
        });
        ClusterSummary { standing, nodes: summaries(join_all(asked).await) }
    }

    async fn figures_of(&self, node: NodeId, deadline: Instant) -> Option<NodeFigures> {
        if node == self.node_id() {
            return self.figures_here();
        }
        match self.ask(node, Ask::Figures(Figures {}), deadline).await {
            Ok(Answer::Figures(figures)) => Some(figures),
            _ => None,
        }
    }

    /// What this node says, while it has its logs.
    pub(super) fn figures_here(&self) -> Option<NodeFigures> {
        self.0.figures.get().and_then(|say| say())
    }
}

type Said = (NodeId, BrokerState, Option<NodeFigures>);

fn summaries(said: Vec<Said>) -> Vec<BrokerSummary> {
    let mut nodes = Vec::with_capacity(said.len());
    let told = |node: NodeId| {
        let all = said.iter().filter_map(|(_, _, figures)| figures.as_ref());
        all.flat_map(|figures| &figures.followers).filter(move |lag| lag.node == node.0)
    };
    for (node, state, figures) in &said {
        let mut lag = LagFigures::none(*node);
        told(*node).for_each(|one| lag.add(one));
        nodes.push(BrokerSummary { node: node.0, state: *state, figures: figures.clone(), lag });
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(node: u32, records: u64, time_ms: u64) -> LagFigures {
        LagFigures { node, records, bytes: 10 * records, time_ms }
    }

    #[test]
    fn a_node_is_as_far_behind_as_all_its_leaders_say_whether_it_answers_or_not() {
        let leads =
            |followers: Vec<LagFigures>| Some(NodeFigures { followers, ..NodeFigures::default() });
        let nodes = summaries(vec![
            (NodeId(1), BrokerState::There, leads(vec![lag(2, 1, 9), lag(3, 4, 2_000)])),
            (NodeId(2), BrokerState::There, leads(vec![lag(3, 5, 30)])),
            (NodeId(3), BrokerState::Away, None),
        ]);
        let behind: Vec<_> = nodes.iter().map(|node| node.lag).collect();
        assert_eq!(behind, [lag(1, 0, 0), lag(2, 1, 9), lag(3, 9, 2_000)]);
    }
}
