//! Whole nodes in simulation: no acknowledged record is lost, and a seed says all.

use chaos::sim::{self, SimConfig};

#[test]
fn equal_seeds_give_equal_runs() {
    let config = SimConfig { keep_trace: true, ..SimConfig::of_seed(7) };
    let (first, second) = (sim::run(config).unwrap(), sim::run(config).unwrap());
    let lines = first.trace.lines().into_iter().zip(second.trace.lines());
    for (n, (one, other)) in lines.enumerate() {
        assert_eq!(one, other, "event {n} differs");
    }
    assert_eq!(first.trace.events(), second.trace.events());
    assert_eq!(first.trace.digest(), second.trace.digest());
    assert!(first.trace.events() > 1_000, "{:?}", first.trace);
}

#[test]
fn different_seeds_give_different_runs() {
    let digest = |seed| sim::run(SimConfig::of_seed(seed)).unwrap().trace.digest();
    assert_ne!(digest(1), digest(2));
}

#[test]
fn no_crash_loses_doubles_or_moves_an_acknowledged_record() {
    for seed in 0..6 {
        let report = sim::run(SimConfig::of_seed(seed)).unwrap();
        assert!(
            report.holds(),
            "seed {seed}: {:?} {:?}",
            report.broken,
            report.violations.iter().take(5).collect::<Vec<_>>()
        );
        assert!(report.summary.acknowledged > 100, "seed {seed}: {:?}", report.summary);
    }
}
