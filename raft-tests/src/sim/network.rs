//! The network: what happens to a message between two hosts.

use std::{collections::BTreeSet, ops::Range};

use rand::{RngExt as _, rngs::SmallRng};

/// The network's present mood.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    /// Pairs of hosts (from, to) between which nothing passes: a cut can be one-way.
    cuts: BTreeSet<(usize, usize)>,
    /// Of a thousand messages.
    lost: u32,
    doubled: u32,
    late: u32,
    usual_ms: Range<u64>,
}

impl Network {
    pub(crate) const fn new(usual_ms: Range<u64>) -> Self {
        Self { cuts: BTreeSet::new(), lost: 0, doubled: 0, late: 0, usual_ms }
    }

    /// When copies of a message arrive, in milliseconds from now; none where it is lost.
    pub(crate) fn route(&self, rng: &mut SmallRng, from: usize, to: usize) -> [Option<u64>; 2] {
        if self.cuts.contains(&(from, to)) || rng.random_range(0..1000) < self.lost {
            return [None, None];
        }
        let is_doubled = rng.random_range(0..1000) < self.doubled;
        let first = self.delay(rng);
        [Some(first), is_doubled.then(|| self.delay(rng))]
    }

    fn delay(&self, rng: &mut SmallRng) -> u64 {
        // The jitter alone reorders; a late one may be of an earlier term.
        if rng.random_range(0..1000) < self.late {
            rng.random_range(50..2000)
        } else {
            rng.random_range(self.usual_ms.clone())
        }
    }

    pub(crate) fn worsen(&mut self, rng: &mut SmallRng) {
        self.lost = rng.random_range(0..200);
        self.doubled = rng.random_range(0..200);
        self.late = rng.random_range(0..100);
    }

    /// Cuts some of the links among `hosts`: one host off, halves apart, or single directions.
    pub(crate) fn cut_some(&mut self, rng: &mut SmallRng, hosts: usize) {
        let side: BTreeSet<usize> = match rng.random_range(0..3) {
            0 => BTreeSet::from([rng.random_range(0..hosts)]),
            _ => (0..hosts).filter(|_| rng.random_bool(0.5)).collect(),
        };
        let (outwards, inwards) = (rng.random_bool(0.8), rng.random_bool(0.8));
        for from in 0..hosts {
            for to in 0..hosts {
                let crosses = side.contains(&from) != side.contains(&to);
                let cut = if side.contains(&from) { outwards } else { inwards };
                if crosses && cut {
                    self.cut(from, to);
                }
            }
        }
    }

    /// Lets nothing pass from one host to another.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    pub(crate) fn heal(&mut self) {
        *self = Self::new(self.usual_ms.clone());
    }
}
