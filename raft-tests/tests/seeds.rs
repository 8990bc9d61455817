//! A slice of the seeds, for every change.

use raft_tests::{Options, Trace, run, sweep::sweep};

#[test]
fn every_promise_holds_over_many_seeds() {
    let result = sweep(0..400, true, |seed| run(Options::new(seed)), |_| {});
    assert_eq!(result.error, None);
    assert!(result.broken.is_empty(), "{:?}", result.broken);
    // A simulation in which nothing goes wrong would prove nothing.
    let counts = result.counts;
    assert!(counts.leaders > 800 && counts.crashes > 1000 && counts.snapshots > 200, "{counts:?}");
    assert!(counts.points > 200 && counts.wipes > 30 && counts.misdirected > 10, "{counts:?}");
    assert!(counts.configurations > 900 && counts.calls > 10_000, "{counts:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for (seed, nodes) in [(1, 1), (2, 3), (3, 5), (4, 5)] {
        let options = Options { nodes: Some(nodes), trace: Trace::All, ..Options::new(seed) };
        let (first, second) = (run(options).unwrap(), run(options).unwrap());
        assert!(first.trace.len() > 500);
        assert!(first == second, "seed {seed}");
    }
}
