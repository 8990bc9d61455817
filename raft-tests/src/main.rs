//! Runs seeds of the quorum's simulation: `cargo run -p raft-tests -- --seeds 1000`.
#![allow(clippy::print_stdout)] // A command's output.

use clap::Parser;
use raft_tests::{Options, run};

/// Simulates the metadata quorum and checks its promises after every event.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them, or the only one with --trace.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many voters; by the seed if not given.
    #[arg(long)]
    nodes: Option<u64>,
    /// Run --seed alone and print every event.
    #[arg(long)]
    trace: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let seeds = if arguments.trace { 1 } else { arguments.seeds };
    let mut totals = (0, 0, 0, 0, 0);
    for seed in arguments.seed..arguments.seed + seeds {
        let options =
            Options { nodes: arguments.nodes, trace: arguments.trace, ..Options::new(seed) };
        let outcome = run(options)?;
        for line in &outcome.trace {
            println!("{line}");
        }
        if let Some(violation) = outcome.violation {
            anyhow::bail!("seed {seed}: {}: {}", violation.promise, violation.detail);
        }
        totals.0 += outcome.events;
        totals.1 += outcome.committed;
        totals.2 += outcome.leaders;
        totals.3 += outcome.snapshots;
        totals.4 += outcome.crashes;
    }
    let (events, committed, leaders, snapshots, crashes) = totals;
    println!(
        "{seeds} seeds: {events} events, {committed} entries committed, {leaders} leaders, \
         {crashes} crashes, {snapshots} snapshots installed, no promise broken"
    );
    Ok(())
}
