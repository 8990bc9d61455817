//! A slice of the seeds of the replicas' simulation, for every change.

use raft_tests::{Options, Trace, replica::run, sweep::sweep};

#[test]
fn every_promise_holds_over_many_seeds() {
    let result = sweep(0..200, true, |seed| run(Options::new(seed)), |_| {});
    assert_eq!(result.error, None);
    assert!(result.broken.is_empty(), "{:?}", result.broken);
    // A simulation in which nothing goes wrong would prove nothing.
    let counts = result.counts;
    assert!(counts.leaders > 300 && counts.crashes > 300 && counts.blackouts > 60, "{counts:?}");
    assert!(counts.truncated > 30 && counts.cut > 1_000 && counts.started_over > 3, "{counts:?}");
    assert!(counts.altered > 400 && counts.refused > 5 && counts.stops > 70, "{counts:?}");
    assert!(counts.acknowledged > 20_000 && counts.deleted > 30, "{counts:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for (seed, nodes) in [(1, 2), (2, 3), (3, 3), (4, 4)] {
        let options = Options { nodes: Some(nodes), trace: Trace::All, ..Options::new(seed) };
        let (first, second) = (run(options).unwrap(), run(options).unwrap());
        assert!(first.trace.len() > 500);
        assert!(first == second, "seed {seed}");
    }
}
