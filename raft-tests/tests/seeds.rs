//! A slice of the seeds, for every change.

use raft_tests::{Options, run};

#[test]
fn every_promise_holds_over_many_seeds() {
    let mut totals = (0, 0, 0);
    for seed in 0..200 {
        let outcome = run(Options::new(seed)).unwrap();
        assert_eq!(outcome.violation, None, "seed {seed}");
        totals.0 += outcome.leaders;
        totals.1 += outcome.snapshots;
        totals.2 += outcome.crashes;
    }
    // A simulation in which nothing goes wrong would prove nothing.
    assert!(totals.0 > 400 && totals.1 > 50 && totals.2 > 400, "{totals:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for (seed, nodes) in [(1, 1), (2, 3), (3, 5), (4, 5)] {
        let options = Options { nodes: Some(nodes), trace: true, ..Options::new(seed) };
        let (first, second) = (run(options).unwrap(), run(options).unwrap());
        assert!(first.trace.len() > 500);
        assert!(first == second, "seed {seed}");
    }
}
