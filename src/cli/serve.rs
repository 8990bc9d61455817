//! `server` and `dev`: hands over to the node.

use std::{io::Write as _, path::PathBuf};

use clap::Args;

use super::failure::Failure;
use crate::node;

/// Arguments of `server`.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The node's configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of `dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// How many nodes; only 1 until nodes form a cluster
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
    Ok(node::server(&args.config, announce)?)
}

pub(super) fn dev(args: DevArgs) -> Result<(), Failure> {
    if args.nodes > 1 {
        return Err(Failure::OneNodeOnly);
    }
    let node = node::DevNode {
        directory: args.dir,
        kafka_port: args.kafka_port,
        cluster_port: args.cluster_port,
        http_port: args.http_port,
    };
    Ok(node::dev(&node, announce)?)
}

/// Tells a script that clients are served. A closed pipe is no reason to stop serving.
fn announce(servers: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "ready: bootstrap servers {servers}").and_then(|()| out.flush());
}
