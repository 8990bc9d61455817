//! Real nodes of a cluster, for a short while: leaders that are killed and paused, and a majority
//! that is lost.

use std::path::Path;

use chaos::{
    kill,
    quorum::{self, QuorumConfig, lost},
};

fn config(directory: &Path, rounds: u32) -> QuorumConfig {
    let binary = kill::binary().expect("this program has a path");
    // Built with the workspace's tests.
    assert!(binary.exists(), "run `cargo build --workspace` first: {binary:?} is not there");
    QuorumConfig { binary, directory: directory.to_owned(), nodes: 3, rounds, seed: 7 }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_lost_or_doubled_while_leaders_are_killed_and_paused() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), 4);
    let report = quorum::break_leaders(&config, |_| {}).await.unwrap();
    assert_eq!(report.broken, Vec::<String>::new());
    assert!(report.created > 50 && report.deleted > 10, "{report:?}");
    assert_eq!(report.rounds.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_is_recovered_only_when_the_majority_is_lost_and_that_is_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let report = lost::run(&config(directory.path(), 0), |_| {}).await.unwrap();
    assert_eq!(report.broken, Vec::<String>::new());
    assert_eq!(report.kept, 20);
}
