//! Short runs on real nodes: each kind of fault, and power cuts under both flush policies.
//!
//! Without root's rights the nodes are behind a proxy, and the faults of disks are left out, as the
//! suite itself does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use chaos::{
    check::Kind,
    kill,
    load::Clients,
    network::NetworkKind,
    report::Report,
    run::{self, RunConfig},
    scenario::{Failing, Fault, Scenario, Step, Target, Which},
};

fn step(at: f64, fault: Fault, target: Target) -> Step {
    Step { at, lasts: 2.0, fault, target }
}

/// Runs it. What the nodes said is kept where `holds` says no.
fn run(steps: Vec<Step>, flush: bool, holds: impl Fn(&Report) -> bool) -> Report {
    run_in(None, steps, flush, holds)
}

fn run_in(
    network: Option<NetworkKind>,
    steps: Vec<Step>,
    flush: bool,
    holds: impl Fn(&Report) -> bool,
) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let seconds = steps.iter().map(|step| step.at + step.lasts).fold(0.0, f64::max);
    let (name, description) = ("short".to_owned(), "some of all".to_owned());
    let config = RunConfig {
        binary: kill::binary().unwrap(),
        directory: directory.path().to_owned(),
        nodes: 3,
        replication_factor: 3,
        flush,
        network,
        clients: Clients::Both,
        other_binary: None,
        scenario: Scenario { name, description, seconds, steps },
        seed: 1,
        repeat: String::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match runtime.block_on(run::run(&config, drop)) {
        Ok(outcome) if holds(&outcome.report) => outcome.report,
        broken => {
            let says = broken.map(|outcome| outcome.report.anomalies);
            panic!("{says:?}, see {}", directory.keep().display());
        }
    }
}

/// How many steps were done, or said to be left out.
fn accounted(report: &Report) -> usize {
    let no_disks = report.left_out.iter().any(|it| it.contains("disks"));
    let steps = &report.scenario.steps;
    let skipped = steps.iter().filter(|step| step.fault.needs_disks() && no_disks);
    report.events.len() + skipped.count()
}

#[test]
fn every_promise_holds_through_a_kill_a_cut_and_a_bad_network() {
    let steps = vec![
        step(0.5, Fault::Lose { percent: 5.0 }, Target::All),
        step(1.0, Fault::Slow { delay_ms: 5, jitter_ms: 5 }, Target::One),
        step(4.0, Fault::CutFromNodes, Target::Leader),
        step(9.0, Fault::Kill, Target::Controller),
        step(13.0, Fault::Pause, Target::Leader),
    ];
    let report = run(steps, true, Report::holds);
    assert!(report.summary.acknowledged > 0 && report.summary.read > 0);
    assert_eq!(accounted(&report), 5, "{:?}", report.events);
}

#[test]
fn every_promise_holds_behind_a_proxy_that_cuts_loses_and_delays() {
    let steps = vec![
        step(0.5, Fault::Lose { percent: 5.0 }, Target::All),
        step(1.0, Fault::Slow { delay_ms: 5, jitter_ms: 5 }, Target::One),
        Step { lasts: 5.0, ..step(4.0, Fault::CutFromNodes, Target::Leader) },
        step(12.0, Fault::Cut, Target::Controller),
    ];
    let report = run_in(Some(NetworkKind::Proxy), steps, true, Report::holds);
    assert!(report.summary.acknowledged > 0 && report.summary.read > 0);
    assert_eq!(report.events.len(), 4, "{:?}", report.events);
    assert!(report.packets_passed > 0 && report.packets_lost > 0);
    // There is no way around the cut: another node leads at last.
    let (cut, cut_off) = (&report.events[2], report.events[2].nodes[0] as i32);
    let mut since = report.leaders.iter().filter(|it| it.at_ms > cut.from_ms);
    assert!(since.any(|it| !it.partitions.contains(&cut_off)), "{:?}", report.leaders);
    assert_eq!(report.left_out.len(), 2, "{:?}", report.left_out);
}

#[test]
fn every_promise_holds_through_power_cuts_and_disks_that_fail() {
    let steps = vec![
        step(0.5, Fault::SlowDisk { disk: Which::All, delay_ms: 20 }, Target::One),
        step(3.0, Fault::PowerCut { torn: false }, Target::All),
        step(9.0, Fault::DiskFails { disk: Which::Second, on: Failing::Writes }, Target::Leader),
        step(14.0, Fault::DiskFull { disk: Which::First }, Target::Controller),
        step(19.0, Fault::PowerCut { torn: true }, Target::All),
    ];
    let report = run(steps, true, Report::holds);
    assert!(report.summary.acknowledged > 0 && report.summary.read > 0);
    assert_eq!(accounted(&report), 5, "{:?}", report.events);
}

#[test]
fn every_promise_holds_while_clocks_certificates_and_voters_change() {
    let steps = vec![
        step(0.5, Fault::Skew { by_ms: 600_000 }, Target::Controller),
        step(1.0, Fault::ExpireCertificate, Target::All),
        step(7.0, Fault::RemoveVoter, Target::Controller),
        step(13.0, Fault::ChangeVersion, Target::Leader),
    ];
    let report = run(steps, true, Report::holds);
    assert!(report.summary.acknowledged > 0 && report.summary.read > 0);
    assert_eq!(report.events.len(), 4, "{:?}", report.events);
}

#[test]
fn what_kafkas_flush_policy_loses_in_a_power_cut_is_found() {
    let lost = |report: &Report| {
        report.anomalies.iter().any(|anomaly| anomaly.kind == Kind::LostWrite)
            || !report.left_out.is_empty()
    };
    run(vec![step(2.0, Fault::PowerCut { torn: false }, Target::All)], false, lost);
}
