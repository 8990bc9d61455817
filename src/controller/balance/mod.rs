//! Which replicas should move, and which should lead, so that all brokers have their share.
//!
//! # Goals
//! In this order, none at the cost of one before it:
//!
//! 1. A broker that is drained, or has lost a replica for good, holds nothing, or not that.
//! 2. The replicas of a partition are in as many racks as there can be.
//! 3. Brokers hold equally many replicas.
//! 4. Brokers hold equally many bytes, as far as sizes are known.
//! 5. Brokers are preferred leaders of equally many partitions.
//!
//! # Constraints
//! - A partition keeps its number of replicas, each on another broker, and never loses a rack.
//! - Only brokers that are there, and are not drained, take anything. One that is away keeps what
//!   it has: it may come back. What is on the move already counts for where it goes, and is left
//!   alone.
//! - What is within 5 % of the mean is even (`even::Zone`), and every step brings brokers nearer to
//!   that without taking others away from it. So plans come to an end, and what is even stays.
//! - As many partitions are moved as the caller asks for, in the order of the goals.
//!
//! # Algorithm
//! 1. Each replica on a drained broker, or lost, goes to the broker, among those that keep most
//!    racks, that holds least.
//! 2. Where two replicas share a rack while another rack has none, one goes there.
//! 3. The broker with most replicas hands one to that with fewest that can take it, and which one
//!    is decided by bytes, then by how the topic is spread. No replica moves twice.
//! 4. The broker with most bytes hands a replica to that with fewest, or they exchange two of
//!    different size, so that the number of replicas stays even. A step has to be worth what it
//!    copies: else a partition that is larger than a broker's share would be the cause of moves
//!    without end.
//! 5. When nothing else is to be done, whoever is preferred by most partitions hands that to the one
//!    with fewest, directly or through others: along the shortest chain of partitions that have a
//!    replica on two neighbours of the chain. This only changes the order of replicas.
//!
//! # Example
//! Broker 4 is new. Brokers 1, 2 and 3 hold 3, 3 and 2 replicas:
//!
//! ```text
//! 0: 1 2    1: 2 3    2: 3 1    3: 1 2        of brokers 1–4: 3 3 2 0
//! 0: 1 4    1: 2 3    2: 3 1    3: 1 2        3 2 2 1    broker 2 does not lead partition 0
//! 0: 1 4    1: 2 3    2: 3 4    3: 1 2        2 2 2 2    nor broker 1 partition 2
//! 0: 4 1    1: 2 3    2: 3 4    3: 1 2        each leads one
//! ```

mod even;
mod lead;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::base::NodeId;

/// A replica that is said to be larger counts for so much, whatever a broker says.
const SIZE_MAX_BYTES: u64 = 1 << 42;

/// What a broker may be given or deprived of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// It takes its share.
    Takes,
    /// It is away: it keeps what it has.
    Keeps,
    /// It shall be empty.
    Drains,
}

/// A broker, as far as balance goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its rack.
    pub rack: Option<String>,
    /// What may be done with it.
    pub stance: Stance,
}

/// A partition, as far as balance goes. `K` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas<K> {
    /// Its name.
    pub key: K,
    /// A number for its topic.
    pub topic: usize,
    /// Who holds it, or will when it has moved; the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// How large a replica is, where that is known.
    pub bytes: Option<u64>,
    /// It is on the move, or cannot be moved.
    pub moving: bool,
    /// Who has lost its replica, and gets it back from nobody.
    pub lost: Option<NodeId>,
}

/// A partition that should be held by others, or in another order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move<K> {
    /// The partition.
    pub key: K,
    /// Its replicas as they are.
    pub from: Vec<NodeId>,
    /// As they should be.
    pub to: Vec<NodeId>,
    /// How large each is, where that is known.
    pub bytes: Option<u64>,
}

impl<K> Move<K> {
    /// The brokers that have to copy it.
    pub fn added(&self) -> impl Iterator<Item = NodeId> {
        self.to.iter().copied().filter(|node| !self.from.contains(node))
    }
}

/// What should be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<K> {
    /// The moves, the most important first.
    pub moves: Vec<Move<K>>,
    /// Partitions that a drained broker cannot get rid of: no other broker could take them.
    pub stuck: Vec<(K, NodeId)>,
}

/// Plans at most `limit` partitions that are copied.
#[must_use]
pub fn plan<K: Clone>(
    nodes: &BTreeMap<NodeId, Node>,
    partitions: &[Replicas<K>],
    limit: usize,
) -> Plan<K> {
    let mut planner = Planner::new(nodes, partitions, limit);
    let stuck = planner.drain();
    planner.spread();
    planner.even();
    // While replicas move it is not known yet who can lead what.
    if planner.touched.is_empty() && limit > 0 {
        planner.lead();
    }
    planner.finish(stuck)
}

/// Plans what empties the drained brokers, and nothing else.
#[must_use]
pub fn drain<K: Clone>(
    nodes: &BTreeMap<NodeId, Node>,
    partitions: &[Replicas<K>],
    limit: usize,
) -> Plan<K> {
    let mut planner = Planner::new(nodes, partitions, limit);
    let stuck = planner.drain();
    planner.finish(stuck)
}

struct Planner<'a, K> {
    nodes: &'a BTreeMap<NodeId, Node>,
    partitions: &'a [Replicas<K>],
    limit: usize,
    /// The replicas of each partition as planned.
    now: Vec<Vec<NodeId>>,
    /// How large a replica of each is.
    size: Vec<u64>,
    held: BTreeMap<NodeId, BTreeSet<usize>>,
    bytes: BTreeMap<NodeId, u64>,
    by_topic: BTreeMap<(NodeId, usize), i64>,
    /// What was changed, in that order.
    touched: Vec<usize>,
    is_touched: Vec<bool>,
}

impl<'a, K> Planner<'a, K> {
    fn new(nodes: &'a BTreeMap<NodeId, Node>, partitions: &'a [Replicas<K>], limit: usize) -> Self {
        let mut planner = Self {
            nodes,
            partitions,
            limit,
            now: partitions.iter().map(|partition| partition.replicas.clone()).collect(),
            size: sizes(partitions),
            held: nodes.keys().map(|node| (*node, BTreeSet::new())).collect(),
            bytes: nodes.keys().map(|node| (*node, 0)).collect(),
            by_topic: BTreeMap::new(),
            touched: Vec::new(),
            is_touched: vec![false; partitions.len()],
        };
        for (at, partition) in partitions.iter().enumerate() {
            for node in &partition.replicas {
                planner.put(at, *node);
            }
        }
        planner
    }

    fn finish(self, stuck: Vec<(usize, NodeId)>) -> Plan<K>
    where
        K: Clone,
    {
        let key = |at: usize| self.partitions[at].key.clone();
        let moves = self.touched.iter().map(|at| Move {
            key: key(*at),
            from: self.partitions[*at].replicas.clone(),
            to: self.now[*at].clone(),
            bytes: self.partitions[*at].bytes,
        });
        Plan {
            moves: moves.filter(|one| one.from != one.to).collect(),
            stuck: stuck.into_iter().map(|(at, node)| (key(at), node)).collect(),
        }
    }

    fn put(&mut self, at: usize, node: NodeId) {
        self.held.entry(node).or_default().insert(at);
        *self.bytes.entry(node).or_default() += self.size[at];
        *self.by_topic.entry((node, self.partitions[at].topic)).or_default() += 1;
    }

    fn shift(&mut self, at: usize, from: NodeId, to: NodeId) {
        self.held.entry(from).or_default().remove(&at);
        *self.bytes.entry(from).or_default() -= self.size[at];
        *self.by_topic.entry((from, self.partitions[at].topic)).or_default() -= 1;
        self.put(at, to);
        for node in &mut self.now[at] {
            if *node == from {
                *node = to;
            }
        }
        self.touch(at);
    }

    fn touch(&mut self, at: usize) {
        if !std::mem::replace(&mut self.is_touched[at], true) {
            self.touched.push(at);
        }
    }

    /// Whether one more partition, or this one again, is within the limit.
    fn may_move(&self, at: usize) -> bool {
        !self.partitions[at].moving && (self.touched.len() < self.limit || self.is_touched[at])
    }

    fn with(&self, stance: Stance) -> Vec<NodeId> {
        let with = self.nodes.iter().filter(|(_, node)| node.stance == stance);
        with.map(|(id, _)| *id).collect()
    }

    fn count(&self, node: NodeId) -> u64 {
        self.held.get(&node).map_or(0, |held| held.len() as u64)
    }

    fn bytes(&self, node: NodeId) -> u64 {
        self.bytes.get(&node).copied().unwrap_or(0)
    }

    /// What the broker holds, by the number of replicas and as much by bytes.
    fn load(&self, node: NodeId) -> u128 {
        let all = self.held.values().map(|held| held.len() as u128).sum::<u128>();
        let all_bytes = self.bytes.values().map(|bytes| u128::from(*bytes)).sum::<u128>();
        u128::from(self.count(node)) * all_bytes.max(1) + u128::from(self.bytes(node)) * all
    }

    fn of_topic(&self, node: NodeId, at: usize) -> i64 {
        self.by_topic.get(&(node, self.partitions[at].topic)).copied().unwrap_or(0)
    }

    fn rack(&self, node: NodeId) -> Option<&'a str> {
        self.nodes.get(&node).and_then(|node| node.rack.as_deref())
    }

    /// How many racks hold the partition, if `from` gives its replica to `to`.
    fn racks(&self, at: usize, from: NodeId, to: NodeId) -> usize {
        let instead = |node: &NodeId| if *node == from { to } else { *node };
        let racks = self.now[at].iter().map(|node| self.rack(instead(node)));
        racks.collect::<BTreeSet<_>>().len()
    }

    /// Who takes the partition from `from` best, among those of whom `fits` holds.
    fn taker(&self, at: usize, from: NodeId, fits: impl Fn(usize) -> bool) -> Option<NodeId> {
        let takers = self.with(Stance::Takes).into_iter();
        let others = takers.filter(|to| !self.now[at].contains(to));
        let ranked = others.map(|to| (self.racks(at, from, to), to)).filter(|(n, _)| fits(*n));
        ranked
            .min_by_key(|(racks, to)| {
                (std::cmp::Reverse(*racks), self.load(*to), self.of_topic(*to, at), *to)
            })
            .map(|(_, to)| to)
    }

    fn drain(&mut self) -> Vec<(usize, NodeId)> {
        let mut leaving: Vec<(usize, NodeId)> = Vec::new();
        for from in self.with(Stance::Drains) {
            leaving.extend(self.held.get(&from).into_iter().flatten().map(|at| (*at, from)));
        }
        let lost = self.partitions.iter().enumerate();
        leaving.extend(lost.filter_map(|(at, partition)| Some((at, partition.lost?))));
        leaving.retain(|(at, _)| !self.partitions[*at].moving);
        let mut stuck = Vec::new();
        for (at, from) in leaving {
            if !self.now[at].contains(&from) {
                continue;
            }
            match self.taker(at, from, |_| true) {
                Some(to) if self.may_move(at) => self.shift(at, from, to),
                Some(_) => {}
                None => stuck.push((at, from)),
            }
        }
        stuck
    }

    fn spread(&mut self) {
        let racks: BTreeSet<_> =
            self.with(Stance::Takes).into_iter().map(|node| self.rack(node)).collect();
        for at in 0..self.now.len() {
            let count = self.racks(at, NodeId(u32::MAX), NodeId(u32::MAX));
            if count >= racks.len().min(self.now[at].len()) || !self.may_move(at) {
                continue;
            }
            let takes =
                |node: &NodeId| self.nodes.get(node).is_some_and(|n| n.stance == Stance::Takes);
            // The last first: it does not lead by preference.
            let found =
                self.now[at].iter().rev().copied().filter(takes).find_map(|from| {
                    self.taker(at, from, |racks| racks > count).map(|to| (from, to))
                });
            if let Some((from, to)) = found {
                self.shift(at, from, to);
            }
        }
    }
}

/// How large a replica of each partition is. Where that is not known, it is taken for the mean.
fn sizes<K>(partitions: &[Replicas<K>]) -> Vec<u64> {
    let size = |one: &Replicas<K>| one.bytes.map(|bytes| bytes.min(SIZE_MAX_BYTES));
    let known: Vec<u64> = partitions.iter().filter_map(size).collect();
    let mean = known.iter().map(|bytes| u128::from(*bytes)).sum::<u128>();
    let mean = u64::try_from(mean / (known.len() as u128).max(1)).unwrap_or(SIZE_MAX_BYTES);
    partitions.iter().map(|partition| size(partition).unwrap_or(mean)).collect()
}
