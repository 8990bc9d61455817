//! What becomes of a packet on its way. No I/O: randomness is handed in.

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::Serialize;

/// How far packets that are out of order are held back.
const HELD_BACK: Duration = Duration::from_millis(10);

/// What a link does to packets, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Conditions {
    /// None gets through.
    pub cut: bool,
    /// The share that is lost, from 0 to 1.
    pub lose: f64,
    /// The share that arrives twice.
    pub duplicate: f64,
    /// The share that is overtaken by later ones.
    pub reorder: f64,
    /// How much longer each takes.
    pub delay: Duration,
    /// Up to how much longer still, by lot; so these overtake each other as well.
    pub jitter: Duration,
}

impl Conditions {
    /// Both at once.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cut: self.cut || other.cut,
            lose: self.lose.max(other.lose),
            duplicate: self.duplicate.max(other.duplicate),
            reorder: self.reorder.max(other.reorder),
            delay: self.delay + other.delay,
            jitter: self.jitter + other.jitter,
        }
    }

    /// After what time each copy of a packet leaves; none where it is lost.
    pub fn copies<R: Rng>(&self, rng: &mut R) -> impl Iterator<Item = Duration> + use<R> {
        let lost = self.cut || (self.lose > 0.0 && rng.random_bool(self.lose.min(1.0)));
        let twice = self.duplicate > 0.0 && rng.random_bool(self.duplicate.min(1.0));
        let copies = if lost { [None; 2] } else { [true, twice].map(|it| it.then_some(())) };
        copies.map(|copy| copy.map(|()| self.takes(rng))).into_iter().flatten()
    }

    /// How much longer a packet takes that is not overtaken.
    pub(super) fn delays(&self, rng: &mut impl Rng) -> Duration {
        match self.jitter {
            Duration::ZERO => self.delay,
            jitter => self.delay + rng.random_range(Duration::ZERO..=jitter),
        }
    }

    fn takes(&self, rng: &mut impl Rng) -> Duration {
        let mut takes = self.delays(rng);
        if self.reorder > 0.0 && rng.random_bool(self.reorder.min(1.0)) {
            takes += HELD_BACK;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn thousand(conditions: Conditions) -> Vec<Duration> {
        let mut rng = SmallRng::seed_from_u64(1);
        (0..1_000).flat_map(|_| conditions.copies(&mut rng)).collect()
    }

    #[test]
    fn a_link_without_faults_passes_each_packet_once_and_at_once() {
        assert_eq!(thousand(Conditions::default()), vec![Duration::ZERO; 1_000]);
    }

    #[test]
    fn a_cut_link_passes_nothing_whatever_else_it_does() {
        let cut = Conditions { cut: true, duplicate: 1.0, ..Conditions::default() };
        assert!(thousand(cut).is_empty());
    }

    #[test]
    fn the_shares_are_as_asked_for() {
        let lossy = thousand(Conditions { lose: 0.2, ..Conditions::default() });
        assert!((750..850).contains(&lossy.len()), "{}", lossy.len());
        let doubling = thousand(Conditions { duplicate: 0.3, ..Conditions::default() });
        assert!((1_250..1_350).contains(&doubling.len()), "{}", doubling.len());
        let late = thousand(Conditions { reorder: 0.1, ..Conditions::default() });
        let late = late.iter().filter(|takes| **takes == HELD_BACK).count();
        assert!((60..140).contains(&late), "{late}");
    }

    #[test]
    fn two_faults_at_once_are_both_felt() {
        let slow = Conditions { delay: Duration::from_millis(20), ..Conditions::default() };
        let lossy = Conditions { lose: 0.5, ..Conditions::default() };
        let both = thousand(slow.and(lossy));
        assert!((400..600).contains(&both.len()), "{}", both.len());
        assert!(both.iter().all(|takes| *takes == slow.delay));
    }
}
