//! A real process that is killed (SIGKILL) again and again under load, on one directory.
//!
//! A killed process loses nothing that it wrote, but is interrupted at any instruction: this tests
//! recovery, the real store and the real files. Power cuts are the simulation's part.

use std::{
    env,
    fs::File,
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use ottla::{
    base::{Clock as _, SystemClock},
    client::{Client, ClientConfig, ClientError, Compression, TcpConnect},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    time,
};

use crate::{
    check::{Anomaly, check},
    history::Summary,
    load::{Load, Shared},
};

/// How long a start or an orderly end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Debug, Clone)]
pub struct KillConfig {
    /// The program; see [`binary`].
    pub binary: PathBuf,
    /// Where the node keeps its data and this suite the node's output (`ottla.log`).
    pub directory: PathBuf,
    /// How often the node is killed.
    pub rounds: u32,
    /// Decides the load and when the node is killed; not what the machine makes of it.
    pub seed: u64,
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// How much was checked.
    pub summary: Summary,
    /// What does not hold.
    pub anomalies: Vec<Anomaly>,
}

/// Why a run could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// The program cannot be run.
    #[error("cannot run {}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Files or ports cannot be had.
    #[error("cannot prepare the run")]
    Prepare(#[source] io::Error),
    /// The node ended though nobody ended it.
    #[error("the node ended by itself: {0}")]
    Ended(ExitStatus),
    /// The node serves nobody.
    #[error("the node does not get ready within {PATIENCE:?}")]
    NotReady,
    /// The node does not heed SIGTERM.
    #[error("the node does not end in order within {PATIENCE:?}")]
    NotEnding,
    /// The client cannot go on.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The program to test: `OTTLA_BIN`, or the one that was built beside this one.
///
/// # Errors
/// Where this program does not know where it is.
pub fn binary() -> io::Result<PathBuf> {
    if let Some(path) = env::var_os("OTTLA_BIN") {
        return Ok(path.into());
    }
    let mut path = env::current_exe()?;
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    Ok(path.join("ottla"))
}

/// Runs to the end, telling `progress` of every round and what is acknowledged so far.
///
/// # Errors
/// Where the node does not come up or go down as it should.
pub async fn run(
    config: &KillConfig,
    mut progress: impl FnMut(u32, usize),
) -> Result<Report, KillError> {
    let mut rng = StdRng::seed_from_u64(config.seed);
    let node = Program::prepare(config).map_err(KillError::Prepare)?;
    let mut child = node.start_ready().await?;
    let client = Client::new(
        ClientConfig {
            bootstrap: vec![format!("127.0.0.1:{}", node.ports[0])],
            client_id: "chaos".to_owned(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(120),
            seed: rng.random(),
            ..ClientConfig::default()
        },
        Arc::new(TcpConnect),
    )?;
    let load = Load {
        topic: "numbers".to_owned(),
        partitions: 3,
        replication_factor: 1,
        min_insync_replicas: 1,
        compression: Compression::Lz4,
        pause: Duration::from_millis(2),
        filling_bytes: 2_000,
        started_ms: SystemClock.wall_ms(),
        seed: rng.random(),
    };
    load.create_topic(&client).await?;
    let history = Shared::default();
    let (stop, stopped) = watch::channel(false);
    let writing = tokio::spawn({
        let (load, client, history, stopped) =
            (load.clone(), client.clone(), history.clone(), stopped.clone());
        async move { load.write(1, &client, &history, stopped).await }
    });
    let consuming = tokio::spawn({
        let (load, client, history) = (load.clone(), client.clone(), history.clone());
        async move { load.consume(2, &client, &history, stopped).await }
    });
    for round in 1..=config.rounds {
        time::sleep(Duration::from_millis(rng.random_range(50..=1_200))).await;
        kill(&mut child).await?;
        if rng.random_bool(0.2) {
            // Killed while it recovers, too.
            child = node.start()?;
            time::sleep(Duration::from_millis(rng.random_range(1..=300))).await;
            kill(&mut child).await?;
        }
        child = node.start_ready().await?;
        progress(round, history.lock().acknowledged_count());
    }
    let before = history.lock().acknowledged_count();
    let carried_on = async {
        while history.lock().acknowledged_count() <= before {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Where it does not carry on, the records that are given up say why.
    let _ = time::timeout(PATIENCE, carried_on).await;
    stop.send_replace(true);
    for task in [writing, consuming] {
        if let Err(error) = task.await {
            history.lock().failed(0, &error);
        }
    }
    load.read(3, &client, &history).await?;
    terminate(&mut child).await?;
    let history = history.lock();
    Ok(Report { summary: Summary::of(history.ops()), anomalies: check(history.ops()) })
}

struct Program {
    binary: PathBuf,
    directory: PathBuf,
    log: PathBuf,
    ports: [u16; 3],
}

impl Program {
    fn prepare(config: &KillConfig) -> io::Result<Self> {
        // Held all at once, so that they differ.
        let held = [(); 3].map(|()| TcpListener::bind(("127.0.0.1", 0)));
        let mut ports = [0; 3];
        for (port, held) in ports.iter_mut().zip(held) {
            *port = held?.local_addr()?.port();
        }
        let log = config.directory.join("ottla.log");
        let directory = config.directory.join("data");
        Ok(Self { binary: config.binary.clone(), directory, log, ports })
    }

    fn start(&self) -> Result<Child, KillError> {
        let log = open_log(&self.log).map_err(KillError::Prepare)?;
        let mut command = Command::new(&self.binary);
        command.arg("dev").arg("--dir").arg(&self.directory);
        for (flag, port) in ["--kafka-port", "--cluster-port", "--http-port"].iter().zip(self.ports)
        {
            command.arg(flag).arg(port.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        command.spawn().map_err(|source| KillError::Run { path: self.binary.clone(), source })
    }

    async fn start_ready(&self) -> Result<Child, KillError> {
        let mut child = self.start()?;
        let out = child.stdout.take().expect("its output is piped");
        let mut lines = BufReader::new(out).lines();
        let ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("ready") {
                    return true;
                }
            }
            false
        };
        match time::timeout(PATIENCE, ready).await {
            Ok(true) => Ok(child),
            Ok(false) => Err(KillError::Ended(child.wait().await.map_err(KillError::Prepare)?)),
            Err(_) => Err(KillError::NotReady),
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Kills a node that must still be alive.
async fn kill(child: &mut Child) -> Result<(), KillError> {
    if let Some(status) = child.try_wait().map_err(KillError::Prepare)? {
        return Err(KillError::Ended(status));
    }
    child.kill().await.map_err(KillError::Prepare)
}

async fn terminate(child: &mut Child) -> Result<(), KillError> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        kill_process(pid, Signal::TERM).map_err(|error| KillError::Prepare(error.into()))?;
    }
    match time::timeout(PATIENCE, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(KillError::Ended(status)),
        Ok(Err(error)) => Err(KillError::Prepare(error)),
        Err(_) => Err(KillError::NotEnding),
    }
}
