//! The commands around scenarios.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use chaos::{
    check, history, kill,
    load::Clients,
    network::NetworkKind,
    report::Report,
    run::{self, RunConfig},
    scenario::{Fault, Mix, Scenario},
};
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{Output, until_ended};

#[derive(Args)]
pub(crate) struct RunArgs {
    /// A scenario that comes along (see `chaos scenarios`), or a file
    #[arg(required_unless_present = "random")]
    scenario: Option<String>,
    /// Faults by lot, as the seed says, instead
    #[arg(long, conflicts_with = "scenario")]
    random: bool,
    /// How long faults go on, if by lot
    #[arg(long, default_value_t = 60.0, requires = "random")]
    seconds: f64,
    /// How many begin per minute, if by lot
    #[arg(long, default_value_t = 20.0, requires = "random")]
    per_minute: f64,
    /// Which ones, if by lot; all where none is named
    #[arg(long, value_delimiter = ',', value_parser = fault, requires = "random")]
    fault: Vec<String>,
    /// Decides who is hit, and the load
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many nodes, all of them voters
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// How many of them hold each partition
    #[arg(long, default_value_t = 3)]
    replication_factor: i16,
    /// Whether a write is flushed before it is acknowledged
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    flush: bool,
    /// What joins the nodes; where not named, namespaces if they can be had, or else the proxy
    #[arg(long, value_enum)]
    network: Option<Joined>,
    /// Whose clients work
    #[arg(long, value_enum, default_value_t = Client::Both)]
    client: Client,
    /// A program of another version, which nodes begin with; `change-version` has them change
    #[arg(long, value_name = "PATH")]
    old_binary: Option<PathBuf>,
    /// Where to keep the report, the history, and the nodes' data and output; where none, they are
    /// kept only if something does not hold
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to print what came of it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Joined {
    /// A network namespace for each node; needs root and /dev/net/tun
    Namespaces,
    /// A proxy on loopback
    Proxy,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Client {
    /// The project's own
    Own,
    /// The one that most stock clients are built on
    Librdkafka,
    /// Both, in one group
    Both,
}

/// Whether there is a fault of that name.
pub(crate) fn fault(name: &str) -> Result<String, String> {
    if Fault::names().contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!("there are {}", Fault::names().join(", ")))
}

/// Prints the scenarios that come along.
pub(crate) fn list() -> bool {
    for Scenario { name, description, seconds, .. } in Scenario::named() {
        println!("{name:<16} {seconds:>3} s  {description}");
    }
    true
}

/// Holds a recorded history to the rules.
pub(crate) fn check(file: &Path) -> anyhow::Result<bool> {
    let ops = history::read_ops(file)?;
    let mut anomalies = check::check(&ops);
    anomalies.extend(check::unread(&ops));
    println!("{:?}", history::Summary::of(&ops));
    for anomaly in &anomalies {
        println!("  {anomaly}");
    }
    Ok(anomalies.is_empty())
}

/// Writes a run's page anew.
pub(crate) fn page(dir: &Path) -> anyhow::Result<bool> {
    let json = dir.join("report.json");
    let text = fs::read(&json).with_context(|| format!("cannot read {}", json.display()))?;
    let report: Report = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no report of a run", json.display()))?;
    let ops = history::read_ops(&dir.join("history.jsonl"))?;
    fs::write(dir.join("report.html"), report.to_html(&ops))?;
    Ok(true)
}

/// Does a scenario to a cluster.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<bool> {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    // Whoever asked a disk may be killed before it is answered.
    let quiet = "fuser=off".parse().context("a directive of our own")?;
    log.with_env_filter(EnvFilter::from_default_env().add_directive(quiet)).init();
    let scenario = scenario(&args)?;
    if let Some(problem) = scenario.problem() {
        bail!(problem);
    }
    let temporary = tempfile::Builder::new().prefix("ottla-chaos-").tempdir()?;
    let directory = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    if fs::read_dir(&directory)?.next().is_some() {
        bail!("{} is not empty: name a new directory with --dir", directory.display());
    }
    // Nodes that enter a mount namespace are not where this program is.
    let directory = directory.canonicalize()?;
    let config = RunConfig {
        binary: kill::binary()?,
        directory: directory.clone(),
        other_binary: args.old_binary.clone(),
        nodes: args.nodes,
        replication_factor: args.replication_factor,
        flush: args.flush,
        network: args.network.map(|network| match network {
            Joined::Namespaces => NetworkKind::Namespaces,
            Joined::Proxy => NetworkKind::Proxy,
        }),
        clients: match args.client {
            Client::Own => Clients::Own,
            Client::Librdkafka => Clients::Librdkafka,
            Client::Both => Clients::Both,
        },
        repeat: repeat(&args, &scenario),
        scenario,
        seed: args.seed,
    };
    let progress = |line: String| match args.output {
        Output::Text => println!("{line}"),
        Output::Json => {}
    };
    let outcome = match until_ended(run::run(&config, progress))? {
        Ok(outcome) => outcome,
        Err(error) => {
            drop(temporary.keep());
            return Err(error).with_context(|| format!("see {}", directory.display()));
        }
    };
    let report = &outcome.report;
    fs::write(directory.join("report.html"), report.to_html(&outcome.ops))?;
    fs::write(directory.join("report.json"), serde_json::to_vec_pretty(report)?)?;
    history::write_ops(&directory.join("history.jsonl"), &outcome.ops)?;
    match args.output {
        Output::Text => show(report),
        Output::Json => println!("{}", serde_json::to_string_pretty(report)?),
    }
    if !report.holds() {
        drop(temporary.keep());
    }
    if args.dir.is_some() || !report.holds() {
        eprintln!("the report is {}", directory.join("report.html").display());
    }
    Ok(report.holds())
}

fn scenario(args: &RunArgs) -> anyhow::Result<Scenario> {
    if let Some(name) = &args.scenario {
        return named_scenario(name);
    }
    let faults = chosen_faults(&args.fault);
    let (seconds, per_minute, seed) = (args.seconds, args.per_minute, args.seed);
    Ok(Scenario::random(&Mix { seconds, per_minute, faults, seed }))
}

/// The faults of these names; those that are drawn by lot where there are none.
pub(crate) fn chosen_faults(names: &[String]) -> Vec<Fault> {
    if names.is_empty() {
        return Fault::ALL.to_vec();
    }
    let wanted = |fault: &Fault| names.iter().any(|name| name == fault.name());
    Fault::ALL.into_iter().chain(Fault::NAMED_ONLY).filter(wanted).collect()
}

/// A scenario that comes along, or is in a file.
pub(crate) fn named_scenario(name: &str) -> anyhow::Result<Scenario> {
    if let Some(scenario) = Scenario::named().find(|scenario| scenario.name == *name) {
        return Ok(scenario);
    }
    let text = fs::read_to_string(name).with_context(|| {
        format!(
            "{name} is no scenario that comes along (`chaos scenarios` lists them), and no file"
        )
    })?;
    toml::from_str(&text).with_context(|| format!("{name} is no scenario"))
}

/// The command that does the same again.
fn repeat(args: &RunArgs, scenario: &Scenario) -> String {
    let mut command = format!("cargo run -p chaos -- run --seed {}", args.seed);
    match &args.scenario {
        Some(name) => command.push_str(&format!(" {name}")),
        None => {
            let (seconds, per_minute) = (scenario.seconds, args.per_minute);
            command.push_str(&format!(" --random --seconds {seconds} --per-minute {per_minute}"));
        }
    }
    if !args.fault.is_empty() {
        command.push_str(&format!(" --fault {}", args.fault.join(",")));
    }
    if let Some(old) = &args.old_binary {
        command.push_str(&format!(" --old-binary {}", old.display()));
    }
    match args.network {
        Some(Joined::Namespaces) => command.push_str(" --network namespaces"),
        Some(Joined::Proxy) => command.push_str(" --network proxy"),
        None => {}
    }
    let (nodes, factor, flush) = (args.nodes, args.replication_factor, args.flush);
    match args.client {
        Client::Own => command.push_str(" --client own"),
        Client::Librdkafka => command.push_str(" --client librdkafka"),
        Client::Both => {}
    }
    command + &format!(" --nodes {nodes} --replication-factor {factor} --flush {flush}")
}

fn show(report: &Report) {
    println!("{:?}", report.summary);
    let after = |ms: Option<u64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms"));
    println!(
        "longest time without writes to a partition: {} ms; after the last fault all partitions \
         were written within {}, and all replicas in sync within {}",
        report.longest_gap_ms,
        after(report.written_after_ms),
        after(report.in_sync_after_ms)
    );
    for left_out in &report.left_out {
        println!("left out: {left_out}");
    }
    for anomaly in report.anomalies.iter().take(20) {
        println!("  {anomaly}");
    }
    if report.holds() {
        println!("every promise held");
    } else {
        println!("{} anomalies; again: {}", report.anomalies.len(), report.repeat);
    }
}
