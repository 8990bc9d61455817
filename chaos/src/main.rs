//! The command line of the chaos suite. Exits with 0 where everything holds, 1 where not.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use chaos::{
    history::Violation,
    live::{self, KillConfig},
    quorum::{self, QuorumConfig, Report},
    sim::{self, SimConfig},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::{
    ctrl_c,
    unix::{SignalKind, signal},
};

/// Breaks Ottla nodes and checks that nothing acknowledged is lost
#[derive(Parser)]
#[command(name = "chaos", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A node in simulation, crashed as seeds say
    Sim(SimArgs),
    /// A real process, killed again and again
    Kill(KillArgs),
    /// Real nodes of a cluster, whose quorum's leader is killed or paused, or whose voters change
    Quorum(QuorumArgs),
}

#[derive(Args)]
struct SimArgs {
    /// How many seeds to run
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How often the node is crashed in each run
    #[arg(long, default_value_t = 6)]
    crashes: u32,
    /// Print everything that happens, packets included
    #[arg(long)]
    trace: bool,
}

#[derive(Args)]
struct KillArgs {
    /// How often the node is killed
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Decides the load and the times of the kills
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to keep the node's data and output; a temporary directory where none
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Args)]
struct QuorumArgs {
    /// How many nodes, all of them voters
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// How often the leader is killed or paused, by turns
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Grow from one voter to three and five, and shrink to three others, instead
    #[arg(long, conflicts_with_all = ["nodes", "rounds"])]
    grow: bool,
    /// Decides the load, and when and for how long a leader is away
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How to print what came of it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> anyhow::Result<ExitCode> {
    let holds = match Cli::parse().command {
        Command::Sim(args) => simulate(&args)?,
        Command::Kill(args) => kill(args)?,
        Command::Quorum(args) => quorum(&args)?,
    };
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn simulate(args: &SimArgs) -> anyhow::Result<bool> {
    let mut failed = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let report = sim::run(SimConfig { seed, crashes: args.crashes, keep_trace: args.trace })?;
        for line in report.trace.lines() {
            println!("{line}");
        }
        println!("seed {seed}: {:?}, {:?} in {:?}", report.summary, report.trace, report.took);
        show(&report.violations);
        if let Some(broken) = &report.broken {
            println!("  the run broke off: {broken}");
        }
        if !report.holds() {
            failed.push(seed);
        }
    }
    if !failed.is_empty() {
        println!("failed seeds: {failed:?}");
    }
    Ok(failed.is_empty())
}

fn kill(args: KillArgs) -> anyhow::Result<bool> {
    let temporary = tempfile::tempdir()?;
    let config = KillConfig {
        binary: live::binary()?,
        directory: args.dir.unwrap_or_else(|| temporary.path().to_owned()),
        rounds: args.rounds,
        seed: args.seed,
    };
    std::fs::create_dir_all(&config.directory)
        .with_context(|| format!("cannot make {}", config.directory.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(live::run(&config, |round, acknowledged| {
        println!("round {round} of {}: {acknowledged} acknowledged", args.rounds);
    }));
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            // What the node said is needed.
            let kept = temporary.keep();
            return Err(error).with_context(|| format!("see {}", kept.display()));
        }
    };
    println!("{:?}", report.summary);
    show(&report.violations);
    if !report.violations.is_empty() {
        println!("the data is kept in {}", temporary.keep().display());
    }
    Ok(report.violations.is_empty())
}

fn quorum(args: &QuorumArgs) -> anyhow::Result<bool> {
    let temporary = tempfile::tempdir()?;
    let config = QuorumConfig {
        binary: live::binary()?,
        directory: temporary.path().to_owned(),
        nodes: args.nodes,
        rounds: args.rounds,
        seed: args.seed,
    };
    let as_text = args.output == Output::Text;
    let progress = |line| {
        if as_text {
            println!("{line}");
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let running = async {
            match args.grow {
                true => quorum::grow(&config, progress).await,
                false => quorum::break_leaders(&config, progress).await,
            }
        };
        // The nodes end with what runs them.
        tokio::select! {
            report = running => Ok(report),
            _ = ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
        }
    })?;
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            let kept = temporary.keep();
            return Err(error).with_context(|| format!("see {}", kept.display()));
        }
    };
    match args.output {
        Output::Text => show_report(&report),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    if !report.broken.is_empty() {
        eprintln!("the data is kept in {}", temporary.keep().display());
    }
    Ok(report.broken.is_empty())
}

fn show_report(report: &Report) {
    let Report { created, deleted, unknown, refused, .. } = report;
    println!("{created} topics created, {deleted} deleted; {unknown} unknown, refused {refused:?}");
    let gaps =
        [("killed", report.kill, report.kill_all), ("paused", report.pause, report.pause_all)];
    for (what, any, all) in gaps {
        for (through, figures) in [("any", any), ("each", all)] {
            let Some(figures) = figures else { continue };
            println!(
                "leader {what} {} times: a change is acknowledged through {through} other node \
                 after {} ms at the median, {} ms at p99, {} ms at worst",
                figures.count, figures.median_ms, figures.p99_ms, figures.worst_ms
            );
        }
    }
    if let Some(worst) = report.steps.iter().max_by_key(|step| step.gap_ms) {
        println!("longest gap: {} ms ({})", worst.gap_ms, worst.what);
    }
    for broken in report.broken.iter().take(20) {
        println!("  {broken}");
    }
}

fn show(violations: &[Violation]) {
    for violation in violations.iter().take(10) {
        println!("  {violation}");
    }
    if violations.len() > 10 {
        println!("  and {} more", violations.len() - 10);
    }
}
