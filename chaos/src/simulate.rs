//! The command that breaks simulated nodes.

use std::{
    collections::VecDeque,
    env, fs,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, bail};
use chaos::{
    scenario::{Mix, Scenario},
    sim::{
        self, SimConfig,
        cluster::{self, ClusterConfig, ClusterReport},
    },
};
use clap::Args;

use crate::{
    show,
    suite::{chosen_faults, fault, named_scenario},
};

#[derive(Args, Clone)]
pub(crate) struct SimArgs {
    /// A scenario that comes along (see `chaos scenarios`), or a file; faults by lot where none is
    /// named
    scenario: Option<String>,
    /// How many seeds to run, each in a process of its own
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds to run at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How many nodes, all of them voters; of one alone, crashes are all that is done to it
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// How many of them hold each partition
    #[arg(long, default_value_t = 3)]
    replication_factor: i16,
    /// Whether a write is flushed before it is acknowledged
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    flush: bool,
    /// How long faults go on, if by lot
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// How many begin per minute, if by lot
    #[arg(long, default_value_t = 20.0)]
    per_minute: f64,
    /// Which ones, if by lot; all where none is named
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    fault: Vec<String>,
    /// How often a node that is alone is crashed
    #[arg(long, default_value_t = 6)]
    crashes: u32,
    /// Print everything that happens, packets included
    #[arg(long)]
    trace: bool,
    /// Where something does not hold, find fewer faults that show it, and write them to a file
    #[arg(long, value_name = "FILE")]
    shrink: Option<PathBuf>,
}

/// Of how many anomalies the operations are shown that prove them.
const SHOWN: usize = 2;

/// Runs simulated nodes.
pub(crate) fn run(args: &SimArgs) -> anyhow::Result<bool> {
    match (args.seeds, args.nodes) {
        (0, _) => bail!("--seeds is at least 1"),
        (1, 1) => alone(args),
        (1, _) => once(args),
        _ => all(args),
    }
}

/// One seed of a node that is alone.
fn alone(args: &SimArgs) -> anyhow::Result<bool> {
    let (seed, crashes, keep_trace) = (args.seed, args.crashes, args.trace);
    let report = sim::run(SimConfig { seed, crashes, keep_trace })?;
    for line in report.trace.lines() {
        println!("{line}");
    }
    println!("seed {seed}: {:?}, {:?} in {:?}", report.summary, report.trace, report.took);
    show(&report.anomalies);
    if let Some(broken) = &report.broken {
        println!("  the run broke off: {broken}");
    }
    Ok(report.holds())
}

/// One seed of a cluster.
fn once(args: &SimArgs) -> anyhow::Result<bool> {
    let scenario = match &args.scenario {
        Some(name) => named_scenario(name)?,
        None => Scenario::random(&Mix {
            seconds: args.seconds,
            per_minute: args.per_minute,
            faults: chosen_faults(&args.fault),
            seed: args.seed,
        }),
    };
    if let Some(problem) = scenario.problem() {
        bail!(problem);
    }
    let config = ClusterConfig {
        seed: args.seed,
        nodes: args.nodes,
        replication_factor: args.replication_factor,
        flush: args.flush,
        scenario,
        keep_trace: args.trace,
    };
    let report = cluster::run(&config)?;
    tell(args, &report);
    if report.holds() {
        return Ok(true);
    }
    if let Some(file) = &args.shrink {
        let shorter = cluster::shrink(&config, |left| println!("  {left} steps left"))?;
        let (shorter, report) = shorter.unwrap_or((config, report));
        fs::write(file, toml::to_string(&shorter.scenario)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("fewest faults, in {}:", file.display());
        tell(args, &report);
    }
    Ok(false)
}

fn tell(args: &SimArgs, report: &ClusterReport) {
    for line in report.trace.lines() {
        println!("{line}");
    }
    let ClusterReport { summary, trace, took, longest_gap, .. } = report;
    println!("seed {}: {summary:?}, longest gap {longest_gap:?}, {trace:?} in {took:?}", args.seed);
    if !report.holds() {
        for event in &report.events {
            println!("  {} ms: {}, node {:?}", event.from_ms, event.what, event.nodes);
        }
    }
    show(&report.anomalies);
    for id in report.anomalies.iter().take(SHOWN).flat_map(|anomaly| &anomaly.proof) {
        if let Some(op) = report.ops.get(*id) {
            println!("  operation {id}: {op:?}");
        }
    }
}

/// Many seeds. Each in a process of its own: when a node crashes, tokio drops its tasks in an order
/// that depends on how many tasks the process has had.
fn all(args: &SimArgs) -> anyhow::Result<bool> {
    let program = env::current_exe().context("where this program is")?;
    let mut failed = Vec::new();
    let mut running: VecDeque<(u64, Child)> = VecDeque::new();
    let mut wait = |(seed, child): (u64, Child)| -> anyhow::Result<()> {
        let output = child.wait_with_output().context("a run of one seed")?;
        if said_all(output.status) {
            print!("{}", String::from_utf8_lossy(&output.stdout));
        }
        if !output.status.success() {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            println!("seed {seed} fails; again: {}", repeat(args, seed));
            failed.push(seed);
        }
        Ok(())
    };
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        if running.len() >= args.jobs.max(1)
            && let Some(first) = running.pop_front()
        {
            wait(first)?;
        }
        let child = Command::new(&program)
            .arg("sim")
            .args(options(args, seed))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        running.push_back((seed, child));
    }
    running.into_iter().try_for_each(&mut wait)?;
    let (seeds, held) = (args.seeds, args.seeds - failed.len() as u64);
    println!("{held} of {seeds} seeds held");
    Ok(failed.is_empty())
}

/// Whether a run came to its end, with whatever result.
fn said_all(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| code <= 1)
}

fn repeat(args: &SimArgs, seed: u64) -> String {
    format!("cargo run --profile sim -p chaos -- sim {}", options(args, seed).join(" "))
}

/// What runs one seed of these.
fn options(args: &SimArgs, seed: u64) -> Vec<String> {
    let mut options: Vec<String> = args.scenario.iter().cloned().collect();
    let values = [
        ("seed", seed.to_string()),
        ("nodes", args.nodes.to_string()),
        ("replication-factor", args.replication_factor.to_string()),
        ("flush", args.flush.to_string()),
        ("seconds", args.seconds.to_string()),
        ("per-minute", args.per_minute.to_string()),
        ("fault", args.fault.join(",")),
        ("crashes", args.crashes.to_string()),
    ];
    for (name, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
        options.extend([format!("--{name}"), value]);
    }
    options
}
