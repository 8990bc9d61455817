//! Runs seeds of the quorum's simulation: `cargo run --profile sim -p raft-tests -- --seeds 1000`, and
//! with `replica` before the options, of the replicas'.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A command's output.
#![allow(clippy::disallowed_methods)] // It tells how long the seeds took on this machine.

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
    /// Simulates the replicas of one partition.
    Replica {
        #[command(flatten)]
        seeds: Seeds,
        /// Plant mistakes in the cores instead, one after the other, and count the seeds that find
        /// each. Needs --features planted-bugs.
        #[arg(long)]
        bugs: bool,
        /// Only this one.
        #[arg(long, requires = "bugs")]
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
    let quorum = |nodes, trace, seed| run(Options { nodes, trace, ..Options::new(seed) });
    match arguments.command {
        Some(Command::Bugs { seeds, only }) => bugs::quorum(seeds, only.as_deref()),
        Some(Command::Stories { files, rewrite }) => {
            files.iter().try_for_each(|file| story::check(file, rewrite))
        }
        Some(Command::Metadata(size)) => metadata::measure(&size),
        Some(Command::Replica { seeds, bugs: true, only }) => {
            bugs::replica(seeds.seeds, only.as_deref())
        }
        Some(Command::Replica { seeds, .. }) => seeds.run(" replica", |nodes, trace, seed| {
            replica::run(replica::Options { nodes, trace, ..replica::Options::new(seed) })
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

#[cfg(feature = "planted-bugs")]
mod bugs {
    use std::{collections::BTreeMap, ops::AddAssign};

    use anyhow::bail;
    use raft_tests::{Options, Outcome, replica, run, sweep::sweep};

    pub(super) fn quorum(seeds: u64, only: Option<&str>) -> anyhow::Result<()> {
        hunt(&ottla::quorum::core::Bug::ALL, seeds, only, |bug, seed| {
            run(Options { bug: Some(bug), ..Options::new(seed) })
        })
    }

    pub(super) fn replica(seeds: u64, only: Option<&str>) -> anyhow::Result<()> {
        hunt(&ottla::replication::Bug::ALL, seeds, only, |bug, seed| {
            replica::run(replica::Options { bug: Some(bug), ..replica::Options::new(seed) })
        })
    }

    fn hunt<B: Copy + Sync, C: Default + AddAssign + Send>(
        all: &[(B, &'static str)],
        seeds: u64,
        only: Option<&str>,
        one: impl Fn(B, u64) -> anyhow::Result<Outcome<C>> + Sync,
    ) -> anyhow::Result<()> {
        let mut missed = Vec::new();
        for (bug, name) in all.iter().filter(|(_, name)| only.is_none_or(|only| only == *name)) {
            let result = sweep(0..seeds, false, |seed| one(*bug, seed), |_| {});
            let found = result.broken.len();
            match result.broken.first() {
                None => missed.push(*name),
                Some((seed, violation)) => println!(
                    "{name}: found by {found} of {seeds} seeds, first by seed {seed}: {}",
                    violation.promise
                ),
            }
            let mut by_promise = BTreeMap::<_, u64>::new();
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
}

#[cfg(not(feature = "planted-bugs"))]
mod bugs {
    use anyhow::bail;

    pub(super) fn quorum(_: u64, _: Option<&str>) -> anyhow::Result<()> {
        bail!("the bugs are not compiled in: add --features planted-bugs")
    }

    pub(super) fn replica(seeds: u64, only: Option<&str>) -> anyhow::Result<()> {
        quorum(seeds, only)
    }
}
