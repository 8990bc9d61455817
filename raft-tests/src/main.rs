//! Runs seeds of the quorum's simulation: `cargo run --profile sim -p raft-tests -- --seeds 1000`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A command's output.
#![allow(clippy::disallowed_methods)] // It tells how long the seeds took on this machine.

mod metadata;

use std::{path::PathBuf, time::Instant};

use anyhow::bail;
use clap::{Parser, Subcommand};
use raft_tests::{Options, Trace, run, story, sweep::sweep};

/// The allocator of the node, so that figures of memory are the node's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Simulates the metadata quorum and checks its promises after every event.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them, or the only one with --trace.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many first voters; by the seed if not given.
    #[arg(long)]
    nodes: Option<usize>,
    /// Run --seed alone and print every event.
    #[arg(long)]
    trace: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plants mistakes in the core, one after the other, and counts the seeds that find each. Needs
    /// --features planted-bugs.
    Bugs {
        /// How many seeds to run against each.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
    },
    /// Compares stories with what happens; see `raft-tests/src/story.rs`.
    Stories {
        /// The files, such as raft-tests/golden/*.txt.
        files: Vec<PathBuf>,
        /// Write what happens into the files instead.
        #[arg(long)]
        rewrite: bool,
    },
    /// Measures the metadata state machine with many partitions; with --release.
    Metadata(metadata::Size),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Bugs { seeds, only }) => bugs(seeds, only.as_deref()),
        Some(Command::Stories { files, rewrite }) => {
            files.iter().try_for_each(|file| story::check(file, rewrite))
        }
        Some(Command::Metadata(size)) => metadata::measure(&size),
        None if arguments.trace => trace(&arguments),
        None => seeds(&arguments),
    }
}

fn trace(arguments: &Arguments) -> anyhow::Result<()> {
    let seed = arguments.seed;
    let outcome = run(Options { nodes: arguments.nodes, trace: Trace::All, ..Options::new(seed) })?;
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{:?}", outcome.counts);
    match outcome.violation {
        Some(violation) => bail!("seed {seed}: {}: {}", violation.promise, violation.detail),
        None => Ok(()),
    }
}

fn seeds(arguments: &Arguments) -> anyhow::Result<()> {
    let (first, count) = (arguments.seed, arguments.seeds);
    let began = Instant::now();
    let progress = |done: u64| {
        if done.is_multiple_of(1000) {
            let per_second = done as f64 / began.elapsed().as_secs_f64();
            eprintln!("{done} of {count} seeds, {per_second:.0} a second");
        }
    };
    let options = |seed| Options { nodes: arguments.nodes, ..Options::new(seed) };
    let result = sweep(first..first + count, true, options, progress);
    if let Some(error) = result.error {
        bail!("the simulation failed: {error}");
    }
    if let Some((seed, violation)) = result.broken.first() {
        let nodes = arguments.nodes.map_or(String::new(), |nodes| format!(" --nodes {nodes}"));
        bail!(
            "seed {seed}: {}: {}\nsee it again with: cargo run --profile sim -p raft-tests -- \
             --seed {seed} --trace{nodes}",
            violation.promise,
            violation.detail
        );
    }
    let seconds = began.elapsed().as_secs_f64();
    let (seeds, counts) = (result.seeds, result.counts);
    println!("{seeds} seeds in {seconds:.0} s: no promise broken in\n{counts:#?}");
    Ok(())
}

#[cfg(feature = "planted-bugs")]
fn bugs(seeds: u64, only: Option<&str>) -> anyhow::Result<()> {
    use ottla::quorum::core::Bug;

    let mut missed = Vec::new();
    for (bug, name) in Bug::ALL {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let options = |seed| Options { bug: Some(bug), ..Options::new(seed) };
        let result = sweep(0..seeds, false, options, |_| {});
        let found = result.broken.len();
        match result.broken.first() {
            None => missed.push(name),
            Some((seed, violation)) => println!(
                "{name}: found by {found} of {seeds} seeds, first by seed {seed}: {}",
                violation.promise
            ),
        }
        let mut by_promise = std::collections::BTreeMap::<_, u64>::new();
        for (_, violation) in &result.broken {
            *by_promise.entry(violation.promise).or_default() += 1;
        }
        for (promise, count) in by_promise {
            println!("    {count} by \"{promise}\"");
        }
        if let Some(error) = result.error {
            println!("    the simulation stopped: {error}");
        }
    }
    if !missed.is_empty() {
        bail!("not found within {seeds} seeds: {}", missed.join(", "));
    }
    Ok(())
}

#[cfg(not(feature = "planted-bugs"))]
fn bugs(_: u64, _: Option<&str>) -> anyhow::Result<()> {
    bail!("the bugs are not compiled in: add --features planted-bugs")
}
