//! The command line of the chaos suite. Exits with 0 where everything holds, 1 where not.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the output of a command")]

mod bugs;
mod simulate;
mod suite;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use chaos::{
    check::Anomaly,
    grow::{self, GrowConfig},
    kill::{self, KillConfig},
    quorum::{
        self, QuorumConfig, Report,
        learner::{self, Latency, Memory},
        lost,
    },
    replicas::{self, Fault, Length, ReplicasConfig},
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
    /// A cluster of real processes and clients that work, to which a scenario is done
    Run(suite::RunArgs),
    /// The scenarios that come along
    Scenarios,
    /// Plants mistakes in real nodes, one after the other, and says how many runs find each
    Bugs(bugs::BugsArgs),
    /// Holds a recorded history to the rules again
    Check {
        /// The history of a run, `history.jsonl`
        file: PathBuf,
    },
    /// Writes the page of a run anew, from its `report.json` and `history.jsonl`
    Page {
        /// Where the run kept them
        dir: PathBuf,
    },
    /// A node in simulation, crashed as seeds say
    Sim(simulate::SimArgs),
    /// A real process, killed again and again
    Kill(KillArgs),
    /// Real nodes of a cluster, whose quorum's leader is killed or paused, or whose voters change
    Quorum(QuorumArgs),
    /// Real nodes, of which a learner was away for many records and catches up by a snapshot
    Learner(LearnerArgs),
    /// Real nodes that lose the majority of their voters, and what is recovered from the survivor
    Lost(LostArgs),
    /// Real nodes that replicate records, killed, paused, or stopped and started again
    Replicas(ReplicasArgs),
    /// Real nodes under load, to which an empty one is added that gets its share
    Grow(GrowArgs),
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

#[derive(Args)]
struct LearnerArgs {
    /// How many records of metadata the learner misses; fewer than 20,000 need no snapshot
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Decides the pauses of clients
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How to print what came of it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Args)]
struct LostArgs {
    /// Decides the pauses of clients
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How to print what came of it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Args)]
struct ReplicasArgs {
    /// How many nodes, all of them voters
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// How many of them hold each partition
    #[arg(long, default_value_t = 3)]
    replication_factor: i16,
    /// How often something is done to a node
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Go on for that long instead
    #[arg(long, conflicts_with = "rounds")]
    minutes: Option<u64>,
    /// Decides the load, and what is done to whom and when
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What is done
    #[arg(long, value_enum, default_value_t = Faults::All)]
    fault: Faults,
    /// Where to keep the nodes' data and output; a temporary directory where none
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to print what came of it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Args)]
struct GrowArgs {
    /// How much lies on each of the first nodes, in MiB
    #[arg(long, default_value_t = 512)]
    mib: u64,
    /// The balancer's throttle: how many bytes a second a node takes of what moves
    #[arg(long, default_value_t = 8 << 20, value_name = "BYTES")]
    throttle: u64,
    /// How many records a second are written meanwhile
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// For how many seconds writes are measured before and after
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Decides the load
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How to print what came of it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Faults {
    Kill,
    Pause,
    Stop,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> anyhow::Result<ExitCode> {
    let holds = match Cli::parse().command {
        Command::Run(args) => suite::run(args)?,
        Command::Scenarios => suite::list(),
        Command::Bugs(args) => bugs::all(&args)?,
        Command::Check { file } => suite::check(&file)?,
        Command::Page { dir } => suite::page(&dir)?,
        Command::Sim(args) => simulate::run(&args)?,
        Command::Kill(args) => kill(args)?,
        Command::Quorum(args) => quorum(&args)?,
        Command::Learner(args) => learner(&args)?,
        Command::Lost(args) => lost(&args)?,
        Command::Replicas(args) => replicas(args)?,
        Command::Grow(args) => grow(&args)?,
    };
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn kill(args: KillArgs) -> anyhow::Result<bool> {
    let temporary = tempfile::tempdir()?;
    let config = KillConfig {
        binary: kill::binary()?,
        directory: args.dir.unwrap_or_else(|| temporary.path().to_owned()),
        rounds: args.rounds,
        seed: args.seed,
    };
    std::fs::create_dir_all(&config.directory)
        .with_context(|| format!("cannot make {}", config.directory.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(kill::run(&config, |round, acknowledged| {
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
    show(&report.anomalies);
    if !report.anomalies.is_empty() {
        println!("the data is kept in {}", temporary.keep().display());
    }
    Ok(report.anomalies.is_empty())
}

fn quorum(args: &QuorumArgs) -> anyhow::Result<bool> {
    let QuorumArgs { nodes, rounds, seed, .. } = *args;
    on_nodes(args.output, async |binary, directory, progress| {
        let config = QuorumConfig { binary, directory, nodes, rounds, seed };
        match args.grow {
            true => quorum::grow(&config, progress).await,
            false => quorum::break_leaders(&config, progress).await,
        }
    })
}

fn learner(args: &LearnerArgs) -> anyhow::Result<bool> {
    on_nodes(args.output, async |binary, directory, progress| {
        let config = QuorumConfig { binary, directory, nodes: 4, rounds: 1, seed: args.seed };
        learner::run(&config, args.records, progress).await
    })
}

fn grow(args: &GrowArgs) -> anyhow::Result<bool> {
    on_nodes(args.output, async |binary, directory, progress| {
        let config = GrowConfig {
            binary,
            directory,
            ballast_mib: args.mib,
            throttle_bytes_per_second: args.throttle,
            records_per_second: args.rate,
            usual: Duration::from_secs(args.seconds),
            seed: args.seed,
        };
        grow::run(&config, progress).await
    })
}

fn lost(args: &LostArgs) -> anyhow::Result<bool> {
    on_nodes(args.output, async |binary, directory, progress| {
        let config = QuorumConfig { binary, directory, nodes: 4, rounds: 1, seed: args.seed };
        lost::run(&config, progress).await
    })
}

/// What came of nodes of one cluster.
trait Shown: serde::Serialize {
    fn show(&self);
    /// What does not hold.
    fn broken(&self) -> &[String];
}

/// Runs nodes in a directory that is kept where something does not hold.
fn on_nodes<R: Shown, E: std::error::Error + Send + Sync + 'static>(
    output: Output,
    run: impl AsyncFnOnce(PathBuf, PathBuf, &mut dyn FnMut(String)) -> Result<R, E>,
) -> anyhow::Result<bool> {
    let temporary = tempfile::tempdir()?;
    let as_text = output == Output::Text;
    let mut progress = |line| {
        if as_text {
            println!("{line}");
        }
    };
    let running = run(kill::binary()?, temporary.path().to_owned(), &mut progress);
    let report = match until_ended(running)? {
        Ok(report) => report,
        Err(error) => {
            let kept = temporary.keep();
            return Err(error).with_context(|| format!("see {}", kept.display()));
        }
    };
    match output {
        Output::Text => {
            report.show();
            report.broken().iter().take(20).for_each(|broken| println!("  {broken}"));
        }
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    let holds = report.broken().is_empty();
    if !holds {
        eprintln!("the data is kept in {}", temporary.keep().display());
    }
    Ok(holds)
}

/// Runs it unless this program is told to end. The nodes end with what runs them.
fn until_ended<T>(running: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            report = running => Ok(report),
            _ = ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
        }
    })
}

fn replicas(args: ReplicasArgs) -> anyhow::Result<bool> {
    let temporary = tempfile::tempdir()?;
    let faults = match args.fault {
        Faults::Kill => vec![Fault::Kill],
        Faults::Pause => vec![Fault::Pause],
        Faults::Stop => vec![Fault::Stop],
        Faults::All => vec![Fault::Kill, Fault::Pause, Fault::Stop],
    };
    let config = ReplicasConfig {
        binary: kill::binary()?,
        directory: args.dir.unwrap_or_else(|| temporary.path().to_owned()),
        nodes: args.nodes,
        replication_factor: args.replication_factor,
        length: args.minutes.map_or(Length::Rounds(args.rounds), |minutes| {
            Length::For(Duration::from_secs(60 * minutes))
        }),
        faults,
        seed: args.seed,
    };
    std::fs::create_dir_all(&config.directory)
        .with_context(|| format!("cannot make {}", config.directory.display()))?;
    let as_text = args.output == Output::Text;
    let progress = |line| {
        if as_text {
            println!("{line}");
        }
    };
    let report = match until_ended(replicas::run(&config, progress))? {
        Ok(report) => report,
        Err(error) => {
            drop(temporary.keep());
            return Err(error).with_context(|| format!("see {}", config.directory.display()));
        }
    };
    match args.output {
        Output::Text => show_replicas(&report),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    if !report.broken.is_empty() {
        drop(temporary.keep());
        eprintln!("the data is kept in {}", config.directory.display());
    }
    Ok(report.broken.is_empty())
}

fn show_replicas(report: &replicas::Report) {
    println!("{:?}, {} batches compared", report.summary, report.compared_batches);
    println!("without faults: gaps of up to {} ms", report.usual_gap_ms);
    let figures = [
        ("leader killed: written again after", report.kill),
        ("leader paused: written again after", report.pause),
        ("stopped and started: longest gap", report.stop),
    ];
    for (what, figures) in figures {
        let Some(figures) = figures else { continue };
        println!(
            "{what} {} ms at the median, {} ms at p99, {} ms at worst, of {}",
            figures.median_ms, figures.p99_ms, figures.worst_ms, figures.count
        );
    }
    for broken in report.broken.iter().take(20) {
        println!("  {broken}");
    }
}

impl Shown for Report {
    fn broken(&self) -> &[String] {
        &self.broken
    }

    fn show(&self) {
        let Self { created, deleted, unknown, refused, .. } = self;
        println!(
            "{created} topics created, {deleted} deleted; {unknown} unknown, refused {refused:?}"
        );
        let gaps = [("killed", self.kill, self.kill_all), ("paused", self.pause, self.pause_all)];
        for (what, any, all) in gaps {
            for (through, figures) in [("any", any), ("each", all)] {
                let Some(figures) = figures else { continue };
                println!(
                    "leader {what} {} times: a change is acknowledged through {through} other \
                     node after {} ms at the median, {} ms at p99, {} ms at worst",
                    figures.count, figures.median_ms, figures.p99_ms, figures.worst_ms
                );
            }
        }
        if let Some(worst) = self.steps.iter().max_by_key(|step| step.gap_ms) {
            println!("longest gap: {} ms ({})", worst.gap_ms, worst.what);
        }
    }
}

impl Shown for learner::Report {
    fn broken(&self) -> &[String] {
        &self.missed
    }

    fn show(&self) {
        println!(
            "{} records in {} entries, written in {} ms; caught up by a snapshot in {} ms",
            self.records, self.entries, self.written_ms, self.caught_up_ms
        );
        for (when, latency) in [("usually", self.usual), ("meanwhile", self.meanwhile)] {
            let Latency { count, median_us, p99_us } = latency;
            println!(
                "changes {when}: {median_us} µs at the median, {p99_us} µs at p99, of {count}"
            );
        }
        for Memory { node, idle_mib, most_mib } in &self.memory {
            println!("node {node}: {idle_mib} MiB idle, {most_mib} MiB at most");
        }
    }
}

impl Shown for grow::Report {
    fn broken(&self) -> &[String] {
        &self.missed
    }

    fn show(&self) {
        self.before.iter().for_each(|share| println!("before: {share}"));
        self.after.iter().for_each(|share| println!("after: {share}"));
        println!(
            "even after {} ms; {} bytes moved to the new node, {} at most in any second, of {} \
             that may",
            self.took_ms,
            self.throttled_bytes,
            self.most_bytes_per_second,
            self.throttle_bytes_per_second
        );
        for (when, latency) in
            [("usually", self.usual), ("meanwhile", self.meanwhile), ("then", self.afterwards)]
        {
            println!("writes {when}: {latency}");
        }
        println!("{:?}, {} batches compared", self.summary, self.compared_batches);
    }
}

impl Shown for lost::Report {
    fn broken(&self) -> &[String] {
        &self.broken
    }

    fn show(&self) {
        println!("{}\n{}", self.refused_alive, self.refused_unconfirmed);
        println!(
            "{} topics kept, the first change {} ms after the survivor's start",
            self.kept, self.recovered_ms
        );
    }
}

fn show(anomalies: &[Anomaly]) {
    for anomaly in anomalies.iter().take(10) {
        println!("  {anomaly}");
    }
    if anomalies.len() > 10 {
        println!("  and {} more", anomalies.len() - 10);
    }
}
