//! The network: what happens to a message between two nodes.

use std::collections::BTreeSet;

use rand::{RngExt as _, rngs::SmallRng};

/// The network's present mood.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    /// Pairs (from, to) between which nothing passes: a cut can be one-way.
    cuts: BTreeSet<(u64, u64)>,
    /// Of a thousand messages.
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    pub(crate) late: u32,
}

impl Network {
    /// When copies of a message arrive, in milliseconds from now; none where it is lost.
    pub(crate) fn route(&self, rng: &mut SmallRng, from: u64, to: u64) -> Vec<u64> {
        if self.cuts.contains(&(from, to)) || rng.random_range(0..1000) < self.lost {
            return Vec::new();
        }
        let copies = if rng.random_range(0..1000) < self.doubled { 2 } else { 1 };
        (0..copies).map(|_| self.delay(rng)).collect()
    }

    fn delay(&self, rng: &mut SmallRng) -> u64 {
        // The jitter alone reorders; a late one may be of an earlier term.
        if rng.random_range(0..1000) < self.late {
            rng.random_range(50..2000)
        } else {
            rng.random_range(1..6)
        }
    }

    pub(crate) fn worsen(&mut self, rng: &mut SmallRng) {
        self.lost = rng.random_range(0..200);
        self.doubled = rng.random_range(0..200);
        self.late = rng.random_range(0..100);
    }

    /// Cuts some of the links among `peers`: one node off, halves apart, or single directions.
    pub(crate) fn cut(&mut self, rng: &mut SmallRng, peers: &[u64]) {
        let side: BTreeSet<u64> = match rng.random_range(0..3) {
            0 => BTreeSet::from([peers[rng.random_range(0..peers.len())]]),
            _ => peers.iter().copied().filter(|_| rng.random_bool(0.5)).collect(),
        };
        let (outwards, inwards) = (rng.random_bool(0.8), rng.random_bool(0.8));
        for from in peers {
            for to in peers {
                let crosses = side.contains(from) != side.contains(to);
                let cut = if side.contains(from) { outwards } else { inwards };
                if crosses && cut {
                    self.cuts.insert((*from, *to));
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        *self = Self::default();
    }
}
