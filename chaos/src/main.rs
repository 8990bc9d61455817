//! The command line of the chaos suite. Exits with 0 where everything holds, 1 where not.
#![allow(clippy::print_stdout)]

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use chaos::{
    history::Violation,
    live::{self, KillConfig},
    sim::{self, SimConfig},
};
use clap::{Args, Parser, Subcommand};

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

fn main() -> anyhow::Result<ExitCode> {
    let holds = match Cli::parse().command {
        Command::Sim(args) => simulate(&args)?,
        Command::Kill(args) => kill(args)?,
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

fn show(violations: &[Violation]) {
    for violation in violations.iter().take(10) {
        println!("  {violation}");
    }
    if violations.len() > 10 {
        println!("  and {} more", violations.len() - 10);
    }
}
