//! Whole nodes in simulation, alone and in clusters: no acknowledged record is lost, and a seed says
//! all.

use std::process::{Command, Output};

use chaos::sim::{self, SimConfig};

/// Each run in a process of its own: when a node crashes, tokio drops its tasks in an order that
/// depends on how many tasks the process has had.
fn equal(of: &[&str]) {
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
        command.args(["sim", "--seed", "7", "--trace"]).args(of).output().expect("it runs")
    };
    let (first, second) = (run(), run());
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let lines = |output: &Output| output.stdout.split(|byte| *byte == b'\n').count();
    assert!(lines(&first) > 1_000, "the trace has {} lines", lines(&first));
    assert!(first.stdout == second.stdout, "two runs of seed 7 differ");
}

#[test]
fn equal_seeds_give_equal_runs() {
    equal(&["--nodes", "1"]);
}

#[test]
fn equal_seeds_give_equal_runs_of_clusters() {
    equal(&["--nodes", "3"]);
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
            report.anomalies.iter().take(5).collect::<Vec<_>>()
        );
        assert!(report.summary.acknowledged > 100, "seed {seed}: {:?}", report.summary);
    }
}

/// Three nodes with faults of the network, of disks and of processes; some of these seeds have found
/// mistakes.
#[test]
fn simulated_clusters_keep_their_promises() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let ran = command.args(["sim", "--seeds", "2", "--seed", "379"]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}

/// What the disks, clocks and voters of simulated nodes go through besides; a seed says all of it.
const FURTHER: &str = "wipe,corrupt,slow-disk,skew,remove-voter";

#[test]
fn equal_seeds_give_equal_runs_of_clusters_whose_disks_clocks_and_voters_change() {
    equal(&["--nodes", "3", "--fault", FURTHER]);
}
