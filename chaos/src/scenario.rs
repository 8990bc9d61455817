//! What is done to a cluster, and when: a scenario, from a file or by lot.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom as _};
use serde::{Deserialize, Serialize};

pub use crate::fault::{Failing, Fault, Files, Which};

/// The steps of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// How it is called.
    pub name: String,
    /// What it is to show.
    pub description: String,
    /// How long faults go on, in seconds.
    pub seconds: f64,
    /// What is done, in any order.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When it begins, in seconds.
    pub at: f64,
    /// How long it lasts, in seconds.
    #[serde(rename = "for")]
    pub lasts: f64,
    /// What it is.
    pub fault: Fault,
    /// Whom it hits.
    pub target: Target,
}

/// Whom a fault hits; who that is is seen when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The leader of a partition.
    Leader,
    /// The quorum's leader.
    Controller,
    /// Any one.
    One,
    /// As many as may be lost while a majority is left.
    Minority,
    /// Just a majority.
    Majority,
    /// All.
    All,
    /// That one.
    Node(u32),
}

impl Target {
    /// Who is hit of `nodes`, where the leader of some partition and of the quorum are known.
    #[must_use]
    pub fn choose(
        self,
        nodes: &[u32],
        leader: Option<u32>,
        controller: Option<u32>,
        rng: &mut StdRng,
    ) -> Vec<u32> {
        let majority = nodes.len() / 2 + 1;
        let count = match self {
            Self::Leader | Self::Controller | Self::One => 1,
            Self::Minority => nodes.len().saturating_sub(majority),
            Self::Majority => majority,
            Self::All => nodes.len(),
            Self::Node(node) => return nodes.iter().copied().filter(|it| *it == node).collect(),
        };
        let known = match self {
            Self::Leader => leader,
            Self::Controller => controller,
            _ => None,
        };
        known.map_or_else(|| nodes.sample(rng, count).copied().collect(), |node| vec![node])
    }
}

/// How much is done by lot.
#[derive(Debug, Clone)]
pub struct Mix {
    /// How long faults go on, in seconds.
    pub seconds: f64,
    /// How many faults begin per minute.
    pub per_minute: f64,
    /// Which ones.
    pub faults: Vec<Fault>,
    /// Decides everything.
    pub seed: u64,
}

/// The scenarios that come along, as their files say.
const NAMED: [&str; 18] = [
    include_str!("../scenarios/bad-network.toml"),
    include_str!("../scenarios/certificates.toml"),
    include_str!("../scenarios/change-version.toml"),
    include_str!("../scenarios/clocks.toml"),
    include_str!("../scenarios/corrupt.toml"),
    include_str!("../scenarios/disk-fails.toml"),
    include_str!("../scenarios/disk-full.toml"),
    include_str!("../scenarios/late-replica.toml"),
    include_str!("../scenarios/leader-cut-off.toml"),
    include_str!("../scenarios/leaders-killed.toml"),
    include_str!("../scenarios/majority-lost.toml"),
    include_str!("../scenarios/members.toml"),
    include_str!("../scenarios/paused.toml"),
    include_str!("../scenarios/power-cut.toml"),
    include_str!("../scenarios/power-cut-slow-disk.toml"),
    include_str!("../scenarios/rolling-restart.toml"),
    include_str!("../scenarios/slow-disk.toml"),
    include_str!("../scenarios/wiped.toml"),
];

impl Scenario {
    /// Those that come along, by name.
    ///
    /// # Panics
    /// Never: a test reads them all.
    pub fn named() -> impl Iterator<Item = Self> {
        NAMED.iter().map(|text| toml::from_str(text).expect("a test reads them all"))
    }

    /// Faults by lot: whom they hit, when, and for how long.
    #[must_use]
    pub fn random(mix: &Mix) -> Self {
        let mut rng = StdRng::seed_from_u64(mix.seed);
        let mut steps = Vec::new();
        let mut at = 0.0;
        while let Some(fault) = mix.faults.choose(&mut rng) {
            // So that faults overlap now and then.
            at += 120.0 / mix.per_minute.max(0.1) * rng.random::<f64>();
            let lasts = rng.random_range(0.2..6.0);
            if at + lasts > mix.seconds {
                break;
            }
            let target = match rng.random_range(0..10) {
                0..=3 => Target::Leader,
                4..=6 => Target::Controller,
                7 => Target::One,
                8 => Target::Minority,
                _ => *[Target::Majority, Target::All].choose(&mut rng).expect("there are two"),
            };
            steps.push(Step { at: round(at), lasts: round(lasts), fault: *fault, target });
        }
        let description = format!("faults by lot, about {} a minute", mix.per_minute);
        Self { name: "random".to_owned(), description, seconds: mix.seconds, steps }
    }

    /// How long faults go on.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.max(0.0))
    }

    /// Why it cannot be run, where it cannot.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let bad = self.steps.iter().position(|step| {
            !(step.at >= 0.0 && step.lasts >= 0.0 && step.at + step.lasts <= self.seconds)
        })?;
        Some(format!(
            "step {} of {} does not lie within its {} seconds: correct its `at` and `for`",
            bad + 1,
            self.name,
            self.seconds
        ))
    }
}

/// To the millisecond, as it is printed.
fn round(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(seed: u64) -> Mix {
        Mix { seconds: 60.0, per_minute: 20.0, faults: Fault::ALL.to_vec(), seed }
    }

    #[test]
    fn a_seed_decides_what_is_done_and_every_step_fits() {
        let scenario = Scenario::random(&mix(1));
        assert_eq!(scenario, Scenario::random(&mix(1)));
        assert_ne!(scenario, Scenario::random(&mix(2)));
        assert!((5..80).contains(&scenario.steps.len()), "{}", scenario.steps.len());
        assert_eq!(scenario.problem(), None);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let scenario = Scenario::random(&mix(3));
        let text = toml::to_string(&scenario).unwrap();
        assert_eq!(toml::from_str::<Scenario>(&text).unwrap(), scenario);
    }

    #[test]
    fn the_scenarios_that_come_along_are_sound_and_sorted() {
        let names: Vec<_> = Scenario::named().map(|scenario| scenario.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        let problems: Vec<_> = Scenario::named().filter_map(|it| it.problem()).collect();
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn a_step_beyond_the_end_is_named() {
        let mut scenario = Scenario::random(&mix(1));
        scenario.steps[1].lasts = 100.0;
        assert!(scenario.problem().unwrap().starts_with("step 2 "));
    }

    #[test]
    fn a_target_is_as_large_as_its_name_says() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut size = |target: Target| target.choose(&[1, 2, 3, 4, 5], Some(4), None, &mut rng);
        assert_eq!(size(Target::Leader), [4]);
        assert_eq!(size(Target::Controller).len(), 1);
        assert_eq!(size(Target::Minority).len(), 2);
        assert_eq!(size(Target::Majority).len(), 3);
        assert_eq!(size(Target::All).len(), 5);
        assert_eq!(size(Target::Node(2)), [2]);
        assert!(size(Target::Node(9)).is_empty());
    }
}
