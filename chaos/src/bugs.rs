//! Mistakes that runs must find, planted one after the other in real nodes.
//!
//! A node makes one where its program is built with the feature `planted-bugs` and its environment
//! names it. Each run is a process of its own, which hands that environment down.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use chaos::{check::Kind, report::Report};
use clap::Args;

#[derive(Args)]
pub(crate) struct BugsArgs {
    /// Only this one
    #[arg(long)]
    bug: Option<String>,
    /// How many runs each may take
    #[arg(long, default_value_t = 10)]
    runs: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What nodes are told, and the scenarios that should show it, by turns.
const PLANTED: [(&str, &[&str]); 5] = [
    ("acknowledge-before-flush", &["power-cut-slow-disk"]),
    ("skip-truncation", &["leader-cut-off"]),
    ("ignore-leader-epoch", &["leader-cut-off"]),
    ("grow-isr-early", &["late-replica"]),
    ("serve-past-high-watermark", &["leader-cut-off"]),
];

/// What a node says that makes a mistake.
const CONFESSION: &str = "makes a mistake on purpose";

/// Plants each until a run finds it, and prints a table of them. False where one is not found.
pub(crate) fn all(args: &BugsArgs) -> anyhow::Result<bool> {
    let wanted = |name: &str| args.bug.as_deref().is_none_or(|bug| bug == name);
    if !PLANTED.iter().any(|(name, _)| wanted(name)) {
        let known: Vec<_> = PLANTED.iter().map(|(name, _)| *name).collect();
        bail!("there is no such bug; there are {}", known.join(", "));
    }
    println!("{:<26} {:>4}  found as", "bug", "runs");
    let mut all_found = true;
    for (bug, scenarios) in PLANTED.iter().filter(|(name, _)| wanted(name)) {
        let mut found = None;
        for (run, scenario) in (1..=args.runs).zip(scenarios.iter().cycle()) {
            let kinds = one(bug, scenario, args.seed + run - 1)?;
            if !kinds.is_empty() {
                found = Some((run, scenario, kinds));
                break;
            }
        }
        match found {
            Some((runs, scenario, kinds)) => {
                let kinds: Vec<_> = kinds.iter().map(ToString::to_string).collect();
                println!("{bug:<26} {runs:>4}  {} in {scenario}", kinds.join(", "));
            }
            None => {
                println!("{bug:<26} {:>4}  not found", args.runs);
                all_found = false;
            }
        }
    }
    Ok(all_found)
}

/// The kinds of anomalies that one run finds.
fn one(bug: &str, scenario: &str, seed: u64) -> anyhow::Result<Vec<Kind>> {
    let directory = tempfile::Builder::new().prefix("ottla-chaos-bug-").tempdir()?;
    let child = Command::new(std::env::current_exe()?)
        .args(["run", scenario, "--seed", &seed.to_string(), "--output", "json", "--dir"])
        .arg(directory.path())
        .env("OTTLA_PLANTED_BUG", bug)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    let said = fs::read_to_string(directory.path().join("node-1.log")).unwrap_or_default();
    if !said.contains(CONFESSION) {
        bail!(
            "the nodes do not make the mistake {bug}: build them with `cargo build -p ottla -p \
             chaos --features ottla/planted-bugs`; they said: {}",
            String::from_utf8_lossy(&child.stderr).trim()
        );
    }
    found(directory.path()).with_context(|| {
        format!("{scenario} with seed {seed}: {}", String::from_utf8_lossy(&child.stderr).trim())
    })
}

fn found(directory: &Path) -> anyhow::Result<Vec<Kind>> {
    let report: Report = serde_json::from_slice(&fs::read(directory.join("report.json"))?)?;
    let mut kinds: Vec<Kind> = report.anomalies.iter().map(|anomaly| anomaly.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    // A cluster that is slow on a busy machine is not what was planted; nor are records that a
    // client wrote twice when it had given others up, after which it keeps no count of them.
    let gave_up = kinds.contains(&Kind::GivenUp);
    kinds.retain(|kind| match kind {
        Kind::Unavailable | Kind::Unread | Kind::GivenUp => false,
        Kind::Duplicate => !gave_up,
        _ => true,
    });
    Ok(kinds)
}
