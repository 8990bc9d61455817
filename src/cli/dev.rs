//! `dev` with several nodes: starts each as a process of its own, has them form a cluster, and ends
//! them together.
//!
//! All of them are in this process's group, so that a signal from a terminal reaches them all. Each
//! ends with this process whatever happens to it.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use super::{failure::Failure, operator::OperatorArgs};
use crate::{
    cluster::NodeSummary,
    node::{BootstrapRequest, DevNode},
};

/// How long the nodes may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a node may take to end before it is killed.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How often a node that comes up is asked, which cannot tell before it listens.
const LOOK: Duration = Duration::from_millis(50);
/// How long a node may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
const READY: &str = "ready: bootstrap servers ";

/// Why the nodes do not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevError {
    /// One ended.
    #[error("node {number} ended by itself ({status}); its log is {}", log.display())]
    Ended { number: u16, status: std::process::ExitStatus, log: PathBuf },
    /// One does not come up.
    #[error("node {number} did not serve in time; its log is {}", log.display())]
    NotReady { number: u16, log: PathBuf },
}

struct Running {
    node: DevNode,
    child: Child,
    stdout: ChildStdout,
    log: PathBuf,
}

/// Runs `nodes` until SIGTERM or SIGINT, or until all of them have ended.
pub(super) async fn run(nodes: Vec<DevNode>, ready: impl FnOnce(&str)) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut running = Vec::with_capacity(nodes.len());
    for node in nodes {
        running.push(start(node)?);
    }
    let outcome = tokio::select! {
        served = serve(&mut running) => served,
        _ = terminate.recv() => return stop(running).await,
        _ = interrupt.recv() => return stop(running).await,
    };
    let servers = match outcome {
        Ok(servers) => servers,
        Err(failure) => {
            stop(running).await?;
            return Err(failure);
        }
    };
    ready(&servers.join(","));
    // One that ends is the others' to replace: that is what a developer wants to see.
    let all_ended = join_all(running.iter_mut().map(async |one| {
        if let Ok(status) = one.child.wait().await {
            let (number, log) = (one.node.number, one.log.clone());
            let ended = DevError::Ended { number, status, log };
            // A closed standard error is no reason to end the others.
            let _ = writeln!(std::io::stderr(), "warning: {ended}");
        }
    }));
    tokio::select! {
        _ = all_ended => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop(running).await
}

fn start(node: DevNode) -> Result<Running, Failure> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::File { path, source }
    };
    fs::create_dir_all(&node.directory).map_err(at(&node.directory))?;
    let settings = node.settings().map_err(crate::node::ProcessError::from)?;
    let lines = settings.iter().map(|(name, value)| format!("{name:?} = {value:?}\n"));
    let text: String = lines.collect();
    let number = node.number;
    let config = node.directory.join(format!("node-{number}.toml"));
    let header = "# Written by `ottla dev` at every start.\n";
    fs::write(&config, format!("{header}{text}")).map_err(at(&config))?;
    let log = node.directory.join(format!("node-{number}.log"));
    let file = fs::File::create(&log).map_err(at(&log))?;
    let mut child = Command::new(env::current_exe()?)
        .args(["server", "--end-with-parent", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
    Ok(Running { node, child, stdout, log })
}

/// Waits until all nodes serve; makes them a cluster where they are none yet.
async fn serve(running: &mut [Running]) -> Result<Vec<String>, Failure> {
    found(running).await?;
    let mut servers = Vec::new();
    for one in running {
        let number = one.node.number;
        let mut lines = BufReader::new(&mut one.stdout).lines();
        let reading = async {
            loop {
                match lines.next_line().await {
                    Ok(Some(line)) => match line.strip_prefix(READY) {
                        Some(address) => return Some(address.to_owned()),
                        None => continue,
                    },
                    Ok(None) | Err(_) => return None,
                }
            }
        };
        match timeout(PATIENCE, reading).await {
            Ok(Some(address)) => servers.push(address),
            Ok(None) => {
                let status = one.child.wait().await?;
                return Err(DevError::Ended { number, status, log: one.log.clone() }.into());
            }
            Err(_) => return Err(DevError::NotReady { number, log: one.log.clone() }.into()),
        }
    }
    Ok(servers)
}

/// Names the first voters, unless some node belongs to a cluster.
async fn found(running: &mut [Running]) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    for one in running.iter_mut() {
        loop {
            match is_member(&one.node).await {
                Ok(true) => return Ok(()),
                Ok(false) => break,
                Err(_) => {}
            }
            if let Some(status) = one.child.try_wait()? {
                let (number, log) = (one.node.number, one.log.clone());
                return Err(DevError::Ended { number, status, log }.into());
            }
            if Instant::now() >= until {
                let (number, log) = (one.node.number, one.log.clone());
                return Err(DevError::NotReady { number, log }.into());
            }
            sleep(LOOK).await;
        }
    }
    let first = &running[0].node;
    let operator = OperatorArgs { address: first.http_address() };
    let request = BootstrapRequest { voters: (1..=u32::from(first.voters())).collect() };
    let asked = operator.post::<serde_json::Value>("/cluster/bootstrap", &request, ANSWER_MAX);
    let Err(failure) = asked.await else { return Ok(()) };
    for one in running {
        // A node without a place yet may ask itself a way into a cluster of earlier days.
        if is_member(&one.node).await.unwrap_or(false) {
            return Ok(());
        }
    }
    Err(failure)
}

/// Whether a node belongs to a cluster already.
async fn is_member(node: &DevNode) -> Result<bool, Failure> {
    let operator = OperatorArgs { address: node.http_address() };
    Ok(operator.get::<NodeSummary>("/cluster", ANSWER_MAX).await?.member)
}

async fn stop(mut running: Vec<Running>) -> Result<(), Failure> {
    for one in &running {
        let id = one.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // One that has ended meanwhile cannot be told.
            let _ = kill_process(id, Signal::TERM);
        }
    }
    let until = Instant::now() + STOP_MAX;
    for one in &mut running {
        let left = until.saturating_duration_since(Instant::now());
        if timeout(left, one.child.wait()).await.is_err() {
            one.child.kill().await?;
        }
    }
    Ok(())
}
