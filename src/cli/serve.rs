//! `server` and `dev`: hands over to the node.

use std::{io::Write as _, path::PathBuf};

use clap::Args;

use super::{dev, failure::Failure};
use crate::node;

/// Arguments of `server`.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The node's configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// End when the process that started it does
    #[arg(long, hide = true)]
    pub end_with_parent: bool,
}

/// Arguments of `dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// How many nodes, each a process of its own; up to five of them vote
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99))]
    pub nodes: u16,
    /// Where data is kept, and found again at the next start
    #[arg(long, default_value = ".ottla", value_name = "DIR")]
    pub dir: PathBuf,
    /// The first node's port for clients; those of further nodes count up
    #[arg(long, default_value_t = 9092, value_name = "PORT")]
    pub kafka_port: u16,
    /// The first node's port for other nodes; those of further nodes count up
    #[arg(long, default_value_t = 9192, value_name = "PORT")]
    pub cluster_port: u16,
    /// The first node's port for operators; those of further nodes count up
    #[arg(long, default_value_t = 9644, value_name = "PORT")]
    pub http_port: u16,
}

pub(super) fn server(args: ServerArgs) -> Result<(), Failure> {
    if args.end_with_parent {
        let term = Some(rustix::process::Signal::TERM);
        rustix::process::set_parent_process_death_signal(term).map_err(std::io::Error::from)?;
    }
    Ok(node::server(&args.config, announce)?)
}

pub(super) fn dev(args: &DevArgs) -> Result<(), Failure> {
    let node = |number| node::DevNode {
        directory: args.dir.clone(),
        number,
        of: args.nodes,
        kafka_port: args.kafka_port,
        cluster_port: args.cluster_port,
        http_port: args.http_port,
    };
    if args.nodes == 1 {
        return Ok(node::dev(&node(1), announce)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dev::run((1..=args.nodes).map(node).collect(), announce))
}

/// Tells a script that clients are served. A closed pipe is no reason to stop serving.
fn announce(servers: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "ready: bootstrap servers {servers}").and_then(|()| out.flush());
}
