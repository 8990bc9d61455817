//! An empty node that is added to real nodes under load, with little data.

use std::time::Duration;

use chaos::{
    grow::{self, GrowConfig},
    kill,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_gets_its_share_at_the_balancers_rate_while_records_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let binary = kill::binary().expect("this program has a path");
    // Built with the workspace's tests.
    assert!(binary.exists(), "run `cargo build --workspace` first: {binary:?} is not there");
    let throttle_bytes_per_second = 6 << 20;
    let config = GrowConfig {
        binary,
        directory: directory.path().to_owned(),
        ballast_mib: 64,
        throttle_bytes_per_second,
        records_per_second: 50,
        usual: Duration::from_secs(2),
        seed: 7,
    };
    let report = grow::run(&config, |_| {}).await.unwrap();
    // How long writes take means nothing on a machine that runs other tests as well.
    let missed: Vec<_> = report.missed.iter().filter(|one| !one.starts_with("p99 ")).collect();
    assert!(missed.is_empty(), "{missed:?}");
    assert!(report.throttled_bytes > 30 << 20, "{report:?}");
    assert!(report.meanwhile.count > 100 && report.compared_batches > 1_000, "{report:?}");
    let new = report.after.iter().find(|share| share.node == 4).unwrap();
    assert!((32..=40).contains(&new.replicas) && (11..=13).contains(&new.leads), "{new:?}");
}
