//! Real processes of one cluster, on loopback, each with a directory of its own.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use ottla::{
    base::{Clock as _, NodeId, SystemClock},
    cert,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// How long a start, an orderly end or a change of voters may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is looked at again.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// How long a node may take to say how it stands; a paused one says nothing.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Why the nodes cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// Files, ports or processes cannot be had.
    #[error("cannot prepare or run the nodes")]
    Io(#[from] io::Error),
    /// Certificates cannot be made.
    #[error("cannot make the nodes' certificates")]
    Certificates(#[from] cert::CertError),
    /// A node ended though nobody ended it.
    #[error("node {node} ended by itself ({status}); its log is {}", log.display())]
    Ended {
        /// Which.
        node: u32,
        /// How.
        status: ExitStatus,
        /// What it said.
        log: PathBuf,
    },
    /// A node refused what an operator may ask.
    #[error("node {node} refused {path}: {answer}")]
    Refused {
        /// Which.
        node: u32,
        /// What was asked.
        path: String,
        /// What it said.
        answer: Value,
    },
    /// Something does not come about.
    #[error("{0} does not come about within {PATIENCE:?}")]
    TooLate(&'static str),
}

/// The nodes of a cluster; what runs is killed when this is dropped.
pub(super) struct Nodes {
    binary: PathBuf,
    directory: PathBuf,
    places: BTreeMap<u32, Place>,
    running: BTreeMap<u32, Child>,
}

#[derive(Clone, Copy)]
struct Place {
    kafka: u16,
    cluster: u16,
    http: u16,
}

impl Nodes {
    /// With room for nodes 1 to `count`, none of which runs yet.
    pub(super) fn prepare(binary: &Path, directory: &Path, count: u32) -> io::Result<Self> {
        // Held all at once, so that they differ.
        let mut held = Vec::new();
        let mut places = BTreeMap::new();
        for node in 1..=count {
            let tcp = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)));
            let [kafka, http] = tcp;
            let (kafka, http, cluster) = (kafka?, http?, UdpSocket::bind(("127.0.0.1", 0))?);
            let place = Place {
                kafka: kafka.local_addr()?.port(),
                http: http.local_addr()?.port(),
                cluster: cluster.local_addr()?.port(),
            };
            places.insert(node, place);
            held.push((kafka, http, cluster));
        }
        let (binary, directory) = (binary.to_owned(), directory.to_owned());
        Ok(Self { binary, directory, places, running: BTreeMap::new() })
    }

    pub(super) fn running(&self) -> impl Iterator<Item = u32> {
        self.running.keys().copied()
    }

    /// Where clients find a node.
    pub(super) fn kafka_address(&self, node: u32) -> String {
        format!("127.0.0.1:{}", self.places[&node].kafka)
    }

    fn log(&self, node: u32) -> PathBuf {
        self.directory.join(format!("node-{node}.log"))
    }

    fn settings(&self, node: u32, seeds: &[u32]) -> Result<String, NodesError> {
        let certificates = self.directory.join("certificates");
        let tls = cert::development(&certificates, NodeId(node), SystemClock.wall_ms())?;
        let file = |path: &Path| path.display().to_string();
        let place = self.places[&node];
        let seeds = seeds.iter().map(|seed| format!("127.0.0.1:{}", self.places[seed].cluster));
        // All else is as it is by default.
        let settings = [
            ("node.id", node.to_string()),
            ("log.dirs", file(&self.directory.join(format!("node-{node}")))),
            ("listeners", format!("PLAINTEXT://127.0.0.1:{}", place.kafka)),
            ("ottla.cluster.listener", format!("127.0.0.1:{}", place.cluster)),
            ("ottla.cluster.tls.ca", file(&tls.ca)),
            ("ottla.cluster.tls.cert", file(&tls.certificate)),
            ("ottla.cluster.tls.key", file(&tls.key)),
            ("ottla.http.listener", format!("127.0.0.1:{}", place.http)),
            ("ottla.seeds", seeds.collect::<Vec<_>>().join(",")),
            ("offsets.topic.replication.factor", "1".to_owned()),
        ];
        Ok(settings.iter().map(|(name, value)| format!("{name:?} = {value:?}\n")).collect())
    }

    /// Starts a node. Its data stay those of its former lives.
    pub(super) fn start(&mut self, node: u32, seeds: &[u32]) -> Result<(), NodesError> {
        let config = self.directory.join(format!("node-{node}.toml"));
        fs::write(&config, self.settings(node, seeds)?)?;
        let log = File::options().create(true).append(true).open(self.log(node))?;
        let child = Command::new(&self.binary)
            .args(["server", "--end-with-parent", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.running.insert(node, child);
        Ok(())
    }

    fn pid(&self, node: u32) -> Option<Pid> {
        let id = self.running.get(&node)?.id()?;
        Pid::from_raw(i32::try_from(id).ok()?)
    }

    /// Kills a node that must still be alive.
    pub(super) async fn kill(&mut self, node: u32) -> Result<(), NodesError> {
        self.are_alive()?;
        if let Some(mut child) = self.running.remove(&node) {
            child.kill().await?;
        }
        Ok(())
    }

    /// Stops a node where it is, or has it go on.
    pub(super) fn signal(&self, node: u32, signal: Signal) -> Result<(), NodesError> {
        if let Some(pid) = self.pid(node) {
            kill_process(pid, signal).map_err(io::Error::from)?;
        }
        Ok(())
    }

    /// Ends a node in order.
    pub(super) async fn stop(&mut self, node: u32) -> Result<(), NodesError> {
        self.signal(node, Signal::TERM)?;
        let Some(mut child) = self.running.remove(&node) else { return Ok(()) };
        let ended = timeout(PATIENCE, child.wait()).await;
        let status = ended.map_err(|_| NodesError::TooLate("a node's end"))??;
        if status.success() {
            return Ok(());
        }
        Err(NodesError::Ended { node, status, log: self.log(node) })
    }

    /// Ends all of them.
    pub(super) async fn stop_all(&mut self) -> Result<(), NodesError> {
        for node in self.running().collect::<Vec<_>>() {
            self.stop(node).await?;
        }
        Ok(())
    }

    /// Notices nodes that have ended.
    pub(super) fn are_alive(&mut self) -> Result<(), NodesError> {
        for (node, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                let log = self.directory.join(format!("node-{node}.log"));
                return Err(NodesError::Ended { node: *node, status, log });
            }
        }
        Ok(())
    }

    /// Founds the cluster.
    pub(super) async fn bootstrap(&mut self, voters: &[u32]) -> Result<(), NodesError> {
        for node in voters {
            while self.standing(*node).await.is_none() {
                self.are_alive()?;
                sleep(LOOK).await;
            }
        }
        let asked = json!({ "voters": voters });
        self.operate(voters[0], "/cluster/bootstrap", asked).await
    }

    /// Changes the voters, as `ottla quorum` does, asking `through`.
    pub(super) async fn change_voters(
        &self,
        through: u32,
        change: &str,
        node: u32,
    ) -> Result<(), NodesError> {
        let timeout_ms = PATIENCE.as_millis() as u64;
        let asked = json!({ "change": change, "node": node, "timeout_ms": timeout_ms });
        self.operate(through, "/quorum/voters", asked).await
    }

    async fn operate(&self, node: u32, path: &str, body: Value) -> Result<(), NodesError> {
        let port = self.places[&node].http;
        let asking = timeout(PATIENCE, ask(port, "POST", path, &body.to_string())).await;
        match asking.map_err(|_| NodesError::TooLate("an answer"))?? {
            (200, _) => Ok(()),
            (_, answer) => Err(NodesError::Refused { node, path: path.to_owned(), answer }),
        }
    }

    /// How a node stands, if it says so.
    async fn standing(&self, node: u32) -> Option<Value> {
        let asking = ask(self.places[&node].http, "GET", "/cluster", "");
        match timeout(ANSWER_MAX, asking).await {
            Ok(Ok((200, answer))) => Some(answer),
            _ => None,
        }
    }

    /// The leader that all running nodes know.
    pub(super) async fn leader(&mut self) -> Result<u32, NodesError> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.are_alive()?;
            let mut leaders = Vec::new();
            for node in self.running() {
                let standing = self.standing(node).await;
                leaders.push(standing.and_then(|standing| standing["leader"].as_u64()));
            }
            if let Some(Some(leader)) = leaders.first().copied()
                && leaders.iter().all(|other| *other == Some(leader))
            {
                return Ok(u32::try_from(leader).unwrap_or(u32::MAX));
            }
            sleep(LOOK).await;
        }
        Err(NodesError::TooLate("a leader that all nodes know"))
    }
}

/// Asks an operator endpoint. Returns the status and what it said.
async fn ask(port: u16, method: &str, path: &str, body: &str) -> io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body))
}
