//! Who leads by preference: brokers hand each other places, directly or through others.
//!
//! Only the order of replicas changes. Invariant: every chain brings the broker that most
//! partitions prefer and one with fewer nearer to each other, and leaves all others as they were.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Planner, Stance};
use crate::base::NodeId;

/// Differences below this part of the mean are left alone.
const TOLERANCE: u64 = 10;
/// The most partitions whose order of replicas a plan changes.
const REORDERED_MAX: usize = 1_000;

impl<K> Planner<'_, K> {
    pub(super) fn lead(&mut self) {
        let mut preferred: BTreeMap<NodeId, BTreeSet<usize>> =
            self.with(Stance::Takes).into_iter().map(|node| (node, BTreeSet::new())).collect();
        for (at, replicas) in self.now.iter().enumerate() {
            let first = replicas.first().and_then(|first| preferred.get_mut(first));
            if let Some(partitions) = first {
                partitions.insert(at);
            }
        }
        while self.touched.len() < REORDERED_MAX {
            let Some(chain) = self.next_chain(&preferred) else { return };
            for (at, from, to) in chain {
                let replicas = &mut self.now[at];
                if let Some(place) = replicas.iter().position(|node| *node == to) {
                    replicas.swap(0, place);
                }
                preferred.entry(from).or_default().remove(&at);
                preferred.entry(to).or_default().insert(at);
                self.touch(at);
            }
        }
    }

    /// Partitions along which one place as the preferred leader is handed on, each with who gives it
    /// to whom.
    fn next_chain(
        &self,
        preferred: &BTreeMap<NodeId, BTreeSet<usize>>,
    ) -> Option<Vec<(usize, NodeId, NodeId)>> {
        let count = |node: &NodeId| preferred.get(node).map_or(0, BTreeSet::len) as u64;
        let mut ranked: Vec<NodeId> = preferred.keys().copied().collect();
        ranked.sort_by_key(|node| std::cmp::Reverse((count(node), *node)));
        let mean = ranked.iter().map(count).sum::<u64>() / (ranked.len() as u64).max(1);
        for from in ranked {
            let reached = self.chains(from, preferred);
            let best = reached.keys().copied().min_by_key(|node| (count(node), *node));
            let Some(to) = best else { continue };
            let gap = count(&from).saturating_sub(count(&to));
            if gap < 2 || gap * TOLERANCE <= mean {
                continue;
            }
            let mut chain = Vec::new();
            let mut end = to;
            while let Some((at, before)) = reached.get(&end).copied().filter(|_| end != from) {
                chain.push((at, before, end));
                end = before;
            }
            return Some(chain);
        }
        None
    }

    /// Who can be handed a place as the preferred leader by `from`: through which partition, and by
    /// whom at last.
    fn chains(
        &self,
        from: NodeId,
        preferred: &BTreeMap<NodeId, BTreeSet<usize>>,
    ) -> BTreeMap<NodeId, (usize, NodeId)> {
        let mut reached = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(giver) = queue.pop_front() {
            for at in preferred.get(&giver).into_iter().flatten() {
                if self.partitions[*at].moving {
                    continue;
                }
                for taker in &self.now[*at] {
                    let is_new = *taker != from && !reached.contains_key(taker);
                    if is_new && preferred.contains_key(taker) {
                        reached.insert(*taker, (*at, giver));
                        queue.push_back(*taker);
                    }
                }
            }
        }
        reached
    }
}
