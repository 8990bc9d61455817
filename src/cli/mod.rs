//! The commands of the `ottla` binary.
//!
//! Each command is a function from its arguments to text on standard output: tables for people,
//! JSON for scripts. What goes wrong goes to standard error with a next step, and decides the exit
//! code. Progress goes to standard error, and only to a terminal.

mod balance;
mod bench;
mod cert;
mod cluster;
mod config;
mod consume;
mod describe;
mod dev;
mod directories;
mod failure;
mod group;
mod hold_ups;
mod log;
mod node;
mod operator;
mod output;
mod produce;
mod reassign;
mod recover;
mod replicas;
mod serve;
mod throttle;
mod times;
mod topic;

use std::{io::Write as _, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

pub use self::serve::{DevArgs, ServerArgs};
use self::{
    failure::{Failure, next_step, with_causes},
    output::{Format, Out},
};
use crate::client::{Client, ClientConfig, TcpConnect};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed: the cluster or the machine said no, or a check found something
  2  the command line is not valid
  3  nothing answered in time: not reachable, no leader, timed out";

#[derive(Debug, Parser)]
#[command(name = "ottla", version, about, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command that talks to a cluster.
#[derive(Debug, Args)]
struct Shared {
    /// Brokers to ask first, as HOST:PORT[,HOST:PORT…]
    #[arg(
        short,
        long,
        global = true,
        env = "OTTLA_BOOTSTRAP",
        value_delimiter = ',',
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT"
    )]
    bootstrap_server: Vec<String>,
    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// How long an operation may take with all its retries, such as 500ms, 30s or 2m
    #[arg(long, global = true, value_parser = times::duration, default_value = "30s")]
    timeout: Duration,
    /// Log what the client does, on standard error, such as debug or ottla::client=trace
    #[arg(long, global = true, env = "OTTLA_LOG", value_name = "FILTER")]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node as its configuration file says
    Server(ServerArgs),
    /// Run an embedded cluster for development: no file, bootstrapped by itself, data kept
    Dev(DevArgs),
    /// Bootstrap a cluster, and see how a node stands
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Show and change who votes on the cluster's metadata
    #[command(subcommand)]
    Quorum(cluster::Quorum),
    /// List the nodes, and empty one before it goes
    #[command(subcommand)]
    Node(node::Node),
    /// Make, list, describe, alter, reassign and delete topics
    #[command(subcommand)]
    Topic(topic::Topic),
    /// Read and change configurations, and explain their keys
    #[command(subcommand)]
    Config(config::Config),
    /// List, describe, reset and delete consumer groups
    #[command(subcommand)]
    Group(group::Group),
    /// Write records, one per line of standard input or of a file
    Produce(produce::ProduceArgs),
    /// Read records
    Consume(consume::ConsumeArgs),
    /// Look into the segments of a log directory, offline
    #[command(subcommand)]
    Log(log::Log),
    /// Make and show the certificates by which nodes know each other
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Measure throughput and latency of a cluster
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

impl Shared {
    fn client(&self) -> Result<Client, Failure> {
        let config = ClientConfig {
            bootstrap: self.bootstrap_server.clone(),
            client_id: "ottla-cli".to_owned(),
            connect_timeout: self.timeout.min(Duration::from_secs(5)),
            request_timeout: self.timeout,
            operation_timeout: self.timeout,
            seed: u64::from(std::process::id()),
            ..ClientConfig::default()
        };
        Ok(Client::new(config, Arc::new(TcpConnect))?)
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    // Prints its own message and ends with 2 where the arguments are not valid.
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            let mut stderr = std::io::stderr().lock();
            // Nobody is left to tell where standard error is closed.
            drop(writeln!(stderr, "error: {}", with_causes(&failure)));
            if let Some(step) = next_step(&failure) {
                drop(writeln!(stderr, "  next: {step}"));
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { shared, command } = cli;
    let command = match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ottla", &mut script);
            return Ok(std::io::stdout().write_all(&script)?);
        }
        Command::Server(args) => return serve::server(args),
        Command::Dev(args) => return serve::dev(&args),
        other => other,
    };
    if let Some(filter) = &shared.log_level {
        let filter = filter.parse::<tracing_subscriber::EnvFilter>();
        let filter = filter.map_err(|source| Failure::usage(format!("--log-level: {source}")))?;
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let runtime = match &command {
        Command::Bench(bench) => bench.runtime(),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    runtime.map_err(Failure::Io)?.block_on(async {
        let mut out = Out::new(shared.output);
        match command {
            Command::Cluster(command) => cluster::run(command, shared.timeout, &mut out).await,
            Command::Quorum(command) => {
                cluster::run_quorum(command, shared.timeout, &mut out).await
            }
            Command::Node(command) => node::run(command, &shared.client()?, &mut out).await,
            Command::Topic(command) => topic::run(command, &shared.client()?, &mut out).await,
            Command::Config(command) => config::run(command, &shared, &mut out).await,
            Command::Group(command) => group::run(command, &shared.client()?, &mut out).await,
            Command::Produce(args) => produce::run(args, &shared.client()?, &mut out).await,
            Command::Consume(args) => consume::run(args, &shared.client()?, &mut out).await,
            Command::Log(command) => log::run(command, &mut out),
            Command::Cert(command) => cert::run(command, &mut out),
            Command::Bench(command) => bench::run(command, &shared, &mut out).await,
            Command::Server(_) | Command::Dev(_) | Command::Completions { .. } => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
