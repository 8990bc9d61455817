//! Runs seeds of the quorum's simulation: `cargo run --profile sim -p raft-tests -- --seeds 1000`,
//! and with `replica` before the options, of the replicas'.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the output of a command")]
#![expect(clippy::disallowed_methods, reason = "it tells how long the seeds took on this machine")]

mod bugs;
mod metadata;

use std::{fmt::Debug, ops::AddAssign, path::PathBuf, time::Instant};

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use raft_tests::{Options, Outcome, Trace, replica, run, story, sweep::sweep};

/// The allocator of the node, so that figures of memory are the node's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Simulates the metadata quorum and checks its promises after every event.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    seeds: Seeds,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Seeds {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them, or the only one with --trace.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many first voters, or replicas; by the seed if not given.
    #[arg(long)]
    nodes: Option<usize>,
    /// Run --seed alone and print every event.
    #[arg(long)]
    trace: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plants mistakes in the cores of quorum and replicas, one after the other, and says which
    /// seed finds each; fails where none does. Needs --features planted-bugs.
    Bugs {
        /// How many seeds each may take.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
    },
    /// Simulates the replicas of one partition.
    Replica(Seeds),
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
    let quorum = |nodes, trace, seed| run(Options { nodes, trace, ..Options::new(seed) });
    match arguments.command {
        Some(Command::Bugs { seeds, only }) => bugs::all(seeds, only.as_deref()),
        Some(Command::Stories { files, rewrite }) => {
            files.iter().try_for_each(|file| story::check(file, rewrite))
        }
        Some(Command::Metadata(size)) => metadata::measure(&size),
        Some(Command::Replica(seeds)) => seeds.run(" replica", |nodes, trace, seed| {
            replica::run(Options { nodes, trace, ..Options::new(seed) })
        }),
        None => arguments.seeds.run("", quorum),
    }
}

impl Seeds {
    /// Runs the seeds by `one`, which `command` names on the command line.
    fn run<C: Default + AddAssign + Send + Debug>(
        &self,
        command: &str,
        one: impl Fn(Option<usize>, Trace, u64) -> anyhow::Result<Outcome<C>> + Sync,
    ) -> anyhow::Result<()> {
        let (first, count) = (self.seed, self.seeds);
        if self.trace {
            return trace(first, one(self.nodes, Trace::All, first)?);
        }
        let began = Instant::now();
        let progress = |done: u64| {
            if done.is_multiple_of(1000) {
                let per_second = done as f64 / began.elapsed().as_secs_f64();
                eprintln!("{done} of {count} seeds, {per_second:.0} a second");
            }
        };
        let one = |seed| one(self.nodes, Trace::None, seed);
        let result = sweep(first..first + count, true, one, progress);
        if let Some(error) = result.error {
            bail!("the simulation failed: {error}");
        }
        if let Some((seed, violation)) = result.broken.first() {
            let nodes = self.nodes.map_or(String::new(), |nodes| format!(" --nodes {nodes}"));
            bail!(
                "seed {seed}: {}: {}\nsee it again with: cargo run --profile sim -p raft-tests \
                 --{command} --seed {seed} --trace{nodes}",
                violation.promise,
                violation.detail
            );
        }
        let seconds = began.elapsed().as_secs_f64();
        let (seeds, counts) = (result.seeds, result.counts);
        println!("{seeds} seeds in {seconds:.0} s: no promise broken in\n{counts:#?}");
        Ok(())
    }
}

fn trace<C: Debug>(seed: u64, outcome: Outcome<C>) -> anyhow::Result<()> {
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{:?}", outcome.counts);
    match outcome.violation {
        Some(violation) => bail!("seed {seed}: {}: {}", violation.promise, violation.detail),
        None => Ok(()),
    }
}
