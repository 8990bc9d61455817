//! Equally many replicas, and then equally many bytes, on each broker.
//!
//! How far a broker is from even is the square of what it has beyond its [`Zone`], or lacks.
//! Invariant: each step lowers the sum of that, of bytes only where the sum of counts does not
//! rise. So there is an end, and who is even gives or takes only to stay so, or to make up for one
//! that is further off.

use std::collections::{BTreeMap, VecDeque};

use super::{Planner, Stance};
use crate::base::NodeId;

/// What is even: from this part of the mean below it to as much above.
const MARGIN: u64 = 20;
/// Fewer bytes than that are not worth a move.
const MARGIN_MIN_BYTES: u64 = 8 << 20;
/// A step brings brokers nearer to even by at least this part of what it copies, weighed by how far
/// off they are.
const WORTH: i128 = 200;

/// How much a broker has where all is even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zone {
    mean: u64,
    least: u64,
    most: u64,
}

impl Zone {
    /// Of what cannot be divided: the mean rounded down and up is even.
    fn of_counts(total: u64, brokers: u64) -> Self {
        let (mean, brokers) = (total / brokers.max(1), brokers.max(1));
        let least = (total * (MARGIN - 1)).div_ceil(brokers * MARGIN).min(mean);
        let most = (total * (MARGIN + 1) / (brokers * MARGIN)).max(total.div_ceil(brokers));
        Self { mean, least, most }
    }

    fn of_bytes(total: u128, brokers: u64) -> Self {
        let mean = u64::try_from(total / u128::from(brokers.max(1))).unwrap_or(u64::MAX);
        let margin = (mean / MARGIN).max(MARGIN_MIN_BYTES);
        Self { mean, least: mean.saturating_sub(margin), most: mean.saturating_add(margin) }
    }

    /// How far that is from even.
    fn off(&self, value: i128) -> i128 {
        let over = value - i128::from(self.most);
        let under = i128::from(self.least) - value;
        over.max(under).max(0).pow(2)
    }

    /// How much nearer to even both are, when the one gives so much to the other.
    fn gain(&self, from: u64, to: u64, given: i128) -> i128 {
        let (from, to) = (i128::from(from), i128::from(to));
        self.off(from) + self.off(to) - self.off(from - given) - self.off(to + given)
    }
}

/// A partition whose replica goes from one broker to another.
type Hop = (usize, NodeId, NodeId);

impl<K> Planner<'_, K> {
    pub(super) fn even(&mut self) {
        let takers = self.with(Stance::Takes);
        let brokers = takers.len() as u64;
        let counts = Zone::of_counts(takers.iter().map(|node| self.count(*node)).sum(), brokers);
        let total = takers.iter().map(|node| u128::from(self.bytes(*node))).sum();
        let bytes = Zone::of_bytes(total, brokers);
        while let Some(hops) = self.count_step(&takers, counts, bytes) {
            self.carry_out(hops);
        }
        while let Some(hops) = self.byte_step(&takers, counts, bytes) {
            self.carry_out(hops);
        }
    }

    fn carry_out(&mut self, hops: Vec<Hop>) {
        for (at, from, to) in hops {
            self.shift(at, from, to);
        }
    }

    /// Whether so many more partitions are within the limit.
    fn has_room(&self, hops: &[Hop]) -> bool {
        let new = hops.iter().filter(|(at, ..)| !self.is_touched[*at]).count();
        self.touched.len() + new <= self.limit
    }

    /// Whether a replica may go there at all, whatever comes of it.
    fn fits(&self, at: usize, from: NodeId, to: NodeId) -> bool {
        self.partitions[at].replicas.contains(&from)
            && !self.now[at].contains(&to)
            && self.may_move(at)
            && (self.rack(from) == self.rack(to)
                || self.racks(at, from, to) >= self.racks(at, from, from))
    }

    fn count_step(&self, takers: &[NodeId], counts: Zone, bytes: Zone) -> Option<Vec<Hop>> {
        let mut ranked = takers.to_vec();
        ranked.sort_by_key(|node| (self.count(*node), self.bytes(*node), *node));
        let gain = |from, to| counts.gain(self.count(from), self.count(to), 1);
        let pairs = ranked.iter().rev().flat_map(|from| ranked.iter().map(move |to| (*from, *to)));
        let pairs: Vec<_> = pairs.filter(|(from, to)| from != to && gain(*from, *to) > 0).collect();
        let direct = pairs.iter().find_map(|(from, to)| {
            self.best_to_count(*from, *to, bytes).map(|at| vec![(at, *from, *to)])
        });
        if direct.is_some() || pairs.is_empty() {
            return direct;
        }
        let mut known = BTreeMap::new();
        pairs.into_iter().find_map(|(from, to)| self.chain(from, to, takers, bytes, &mut known))
    }

    /// The partition that the one hands to the other best.
    fn best_to_count(&self, from: NodeId, to: NodeId, zone: Zone) -> Option<usize> {
        let held = self.held.get(&from)?.iter().copied();
        held.filter(|at| self.fits(*at, from, to)).min_by_key(|at| {
            let size = i128::from(self.size[*at]);
            let gain = zone.gain(self.bytes(from), self.bytes(to), size);
            let spread = self.of_topic(to, *at) - self.of_topic(from, *at);
            let leads = self.now[*at].first() == Some(&from);
            (-gain, spread, leads, *at)
        })
    }

    /// Through others, where the one has nothing that the other can take.
    fn chain(
        &self,
        from: NodeId,
        to: NodeId,
        takers: &[NodeId],
        bytes: Zone,
        known: &mut BTreeMap<(NodeId, NodeId), Option<usize>>,
    ) -> Option<Vec<Hop>> {
        let mut reached: BTreeMap<NodeId, (usize, NodeId)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(giver) = queue.pop_front() {
            for taker in takers.iter().filter(|taker| **taker != giver && **taker != from) {
                if reached.contains_key(taker) {
                    continue;
                }
                let best = known
                    .entry((giver, *taker))
                    .or_insert_with(|| self.best_to_count(giver, *taker, bytes));
                if let Some(at) = *best {
                    reached.insert(*taker, (at, giver));
                    queue.push_back(*taker);
                }
            }
        }
        let mut hops: Vec<Hop> = Vec::new();
        let mut end = to;
        while end != from {
            let (at, giver) = *reached.get(&end)?;
            // Together they may do what each alone would not.
            if hops.iter().any(|(other, ..)| *other == at) {
                return None;
            }
            hops.push((at, giver, end));
            end = giver;
        }
        self.has_room(&hops).then_some(hops)
    }

    fn byte_step(&self, takers: &[NodeId], counts: Zone, bytes: Zone) -> Option<Vec<Hop>> {
        let mut ranked = takers.to_vec();
        ranked.sort_by_key(|node| (self.bytes(*node), self.count(*node), *node));
        let is_off = |from, to| self.bytes(from) > bytes.most || self.bytes(to) < bytes.least;
        let pairs = ranked.iter().rev().flat_map(|from| ranked.iter().map(move |to| (*from, *to)));
        let mut pairs =
            pairs.filter(|(from, to)| self.bytes(*from) > self.bytes(*to) && is_off(*from, *to));
        pairs.find_map(|(from, to)| {
            let offered = self.offered(from, to);
            let handed = self.best_to_hand(from, to, &offered, counts, bytes);
            let swapped = self.best_to_swap(from, to, &offered, bytes);
            let best = handed.into_iter().chain(swapped).max_by_key(|(worth, _)| *worth);
            best.map(|(_, hops)| hops)
        })
    }

    /// What the one could give to the other, and how large it is; the smallest first.
    fn offered(&self, from: NodeId, to: NodeId) -> Vec<(u64, usize)> {
        let held = self.held.get(&from).into_iter().flatten().copied();
        let fits = held.filter(|at| self.fits(*at, from, to));
        let mut offered: Vec<_> = fits.map(|at| (self.size[at], at)).collect();
        offered.sort_unstable();
        offered
    }

    /// What the gain is worth, if it is worth what is copied.
    fn worth(
        &self,
        from: NodeId,
        to: NodeId,
        given: i128,
        copied: u64,
        zone: Zone,
    ) -> Option<i128> {
        let gain = zone.gain(self.bytes(from), self.bytes(to), given);
        let worth = gain.saturating_mul(WORTH) - i128::from(copied) * i128::from(zone.mean);
        (worth > 0).then_some(worth)
    }

    fn best_to_hand(
        &self,
        from: NodeId,
        to: NodeId,
        offered: &[(u64, usize)],
        counts: Zone,
        bytes: Zone,
    ) -> Option<(i128, Vec<Hop>)> {
        if counts.gain(self.count(from), self.count(to), 1) < 0 {
            return None;
        }
        let worth = |(size, at): &(u64, usize)| {
            let worth = self.worth(from, to, i128::from(*size), *size, bytes)?;
            Some((worth, vec![(*at, from, to)]))
        };
        offered.iter().filter_map(worth).max_by_key(|(worth, _)| *worth)
    }

    fn best_to_swap(
        &self,
        from: NodeId,
        to: NodeId,
        offered: &[(u64, usize)],
        bytes: Zone,
    ) -> Option<(i128, Vec<Hop>)> {
        let returned = self.offered(to, from);
        let wanted = (self.bytes(from) - self.bytes(to)) / 2;
        let both = |(large, at): &(u64, usize)| {
            let near = returned.partition_point(|(small, _)| small.saturating_add(wanted) < *large);
            let nearest = returned.iter().skip(near.saturating_sub(1)).take(2);
            let worth = |(small, back): &(u64, usize)| {
                let given = i128::from(*large) - i128::from(*small);
                let worth = self.worth(from, to, given, large.saturating_add(*small), bytes)?;
                let hops = [(*at, from, to), (*back, to, from)];
                self.has_room(&hops).then_some((worth, hops))
            };
            nearest.filter_map(worth).max_by_key(|(worth, _)| *worth)
        };
        let best = offered.iter().filter_map(both).max_by_key(|(worth, _)| *worth)?;
        Some((best.0, best.1.into()))
    }
}
