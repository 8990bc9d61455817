//! Real processes of one cluster, each with a directory of its own, on loopback or joined by a
//! network of the suite.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use ottla::cert::CertError;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    certificates::Certificates,
    clock::Clocks,
    disk::{DiskError, Disks, PER_NODE},
    network::{Network, Place},
};

/// How long a start, an orderly end or a change of voters may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is looked at again.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
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
    Certificates(#[from] CertError),
    /// What the nodes' disks hold cannot be kept.
    #[error(transparent)]
    Disks(#[from] DiskError),
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
    /// A command of an operator failed.
    #[error("`ottla {command}` failed: {said}")]
    Command {
        /// Which.
        command: String,
        /// What it said.
        said: String,
    },
    /// Something does not come about.
    #[error("{0} does not come about within {PATIENCE:?}")]
    TooLate(&'static str),
}

/// The nodes of a cluster; what runs is killed when this is dropped.
pub(crate) struct Nodes {
    binary: PathBuf,
    directory: PathBuf,
    places: BTreeMap<u32, Place>,
    running: BTreeMap<u32, Child>,
    /// None where nothing is between them.
    network: Option<Network>,
    /// None where they use directories of this machine.
    disks: Option<Disks>,
    certificates: Certificates,
    /// None where they have the time of this machine.
    clocks: Option<Clocks>,
    /// The program of another version, and who runs it.
    other: Option<PathBuf>,
    runs_other: BTreeSet<u32>,
    /// Those that may end by themselves, for what was done to them.
    excused: BTreeSet<u32>,
    /// What all nodes are told besides.
    further: Vec<(String, String)>,
}

impl Nodes {
    /// With room for nodes 1 to `count`, none of which runs yet.
    pub(crate) fn prepare(binary: &Path, directory: &Path, count: u32) -> io::Result<Self> {
        // Held all at once, so that they differ.
        let mut held = Vec::new();
        let mut places = BTreeMap::new();
        for node in 1..=count {
            let tcp = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)));
            let [kafka, http] = tcp;
            let (kafka, http, cluster) = (kafka?, http?, UdpSocket::bind(("127.0.0.1", 0))?);
            let place = Place {
                host: Ipv4Addr::LOCALHOST.into(),
                told: Ipv4Addr::LOCALHOST.into(),
                kafka: kafka.local_addr()?.port(),
                http: http.local_addr()?.port(),
                cluster: cluster.local_addr()?.port(),
            };
            places.insert(node, place);
            held.push((kafka, http, cluster));
        }
        Ok(Self::at(places, None, binary, directory))
    }

    /// The same, each node in its place of `network`, which has room for `count`.
    pub(crate) fn prepare_in(
        network: Network,
        binary: &Path,
        directory: &Path,
        count: u32,
    ) -> Self {
        let places = (1..=count).map(|node| (node, network.place(node))).collect();
        Self::at(places, Some(network), binary, directory)
    }

    fn at(
        places: BTreeMap<u32, Place>,
        network: Option<Network>,
        binary: &Path,
        directory: &Path,
    ) -> Self {
        Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            places,
            running: BTreeMap::new(),
            network,
            disks: None,
            certificates: Certificates::within(directory),
            clocks: None,
            other: None,
            runs_other: BTreeSet::new(),
            excused: BTreeSet::new(),
            further: Vec::new(),
        }
    }

    /// Has nodes begin with a program of another version.
    pub(crate) fn begin_with(&mut self, other: &Path) {
        self.other = Some(other.to_owned());
        self.runs_other = self.places.keys().copied().collect();
    }

    /// Has a node, which does not run, run the other version from its next start on. Says which.
    pub(crate) fn change_version(&mut self, node: u32) -> Option<&Path> {
        let other = self.other.as_deref()?;
        if self.runs_other.remove(&node) {
            return Some(&self.binary);
        }
        self.runs_other.insert(node);
        Some(other)
    }

    /// Has nodes go by clocks of the suite, from their first start on.
    pub(crate) fn go_by(&mut self, clocks: Clocks) {
        self.clocks = Some(clocks);
    }

    /// How far off a node's clock is from now on.
    pub(crate) fn skew(&self, node: u32, skew_ms: i64) -> Result<(), NodesError> {
        Ok(self.clocks.as_ref().map_or(Ok(()), |clocks| clocks.set(node, skew_ms))?)
    }

    /// Gives a node a certificate that ends after a moment.
    pub(crate) fn let_certificate_end(&self, node: u32, lasts: Duration) -> Result<(), NodesError> {
        self.certificates.end_after(node, lasts)?;
        self.signal(node, Signal::HUP)
    }

    /// Gives a node a certificate that lasts.
    pub(crate) async fn rotate_certificate(&self, node: u32) -> Result<(), NodesError> {
        self.certificates.rotate(node)?;
        match self.standing(node).await {
            Some(_) => self.signal(node, Signal::HUP),
            // It reads it when it starts, or when it looks by itself.
            None => Ok(()),
        }
    }

    /// Runs the program as an operator would.
    pub(crate) async fn command(&self, words: &[&str]) -> Result<(), NodesError> {
        let addresses: Vec<_> = self.running().map(|node| self.kafka_address(node)).collect();
        let running = Command::new(&self.binary)
            .args(words)
            .env("OTTLA_BOOTSTRAP", addresses.join(","))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(PATIENCE, running).await;
        let output = output.map_err(|_| NodesError::TooLate("the end of a command"))??;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(NodesError::Command { command: words.join(" "), said })
    }

    /// Has nodes keep their data on disks of the suite, from their first start on.
    pub(crate) fn put_on(&mut self, disks: Disks) {
        self.disks = Some(disks);
    }

    /// Their disks, where they have some of the suite.
    pub(crate) fn disks(&self) -> Option<&Disks> {
        self.disks.as_ref()
    }

    /// Takes their disks away, once no node runs; what they hold lies where nodes had it.
    pub(crate) fn unmount(&mut self) -> Result<(), NodesError> {
        Ok(self.disks.take().map_or(Ok(()), Disks::finish)?)
    }

    /// Says whether a node may end by itself.
    pub(crate) fn excuse(&mut self, node: u32, excused: bool) {
        if excused {
            self.excused.insert(node);
        } else {
            self.excused.remove(&node);
        }
    }

    /// What their network is, where they have one of their own.
    pub(crate) fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Tells all nodes that start from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.further.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = u32> {
        self.running.keys().copied()
    }

    /// Where clients find a node.
    pub(crate) fn kafka_address(&self, node: u32) -> String {
        let Place { told, kafka, .. } = self.places[&node];
        format!("{told}:{kafka}")
    }

    /// Where a node keeps its logs.
    pub(crate) fn data(&self, node: u32) -> PathBuf {
        self.directory.join(format!("node-{node}"))
    }

    /// A node's log directories.
    pub(crate) fn log_directories(&self, node: u32) -> Vec<PathBuf> {
        match self.disks {
            None => vec![self.data(node)],
            Some(_) => {
                (1..=PER_NODE).map(|disk| Disks::place(&self.directory, node, disk)).collect()
            }
        }
    }

    /// The file that a node was last started with.
    pub(crate) fn config(&self, node: u32) -> PathBuf {
        self.directory.join(format!("node-{node}.toml"))
    }

    /// What a node says.
    pub(crate) fn log(&self, node: u32) -> PathBuf {
        self.directory.join(format!("node-{node}.log"))
    }

    fn settings(&self, node: u32, seeds: &[u32]) -> Result<String, NodesError> {
        let tls = self.certificates.of(node)?;
        let file = |path: &Path| path.display().to_string();
        let directories: Vec<_> = self.log_directories(node).iter().map(|it| file(it)).collect();
        let place = self.places[&node];
        let Place { host, told, .. } = place;
        let seeds = seeds.iter().map(|seed| self.places[seed]);
        let seeds = seeds.map(|Place { told, cluster, .. }| format!("{told}:{cluster}"));
        // All else is as it is by default.
        let settings = [
            ("node.id", node.to_string()),
            ("log.dirs", directories.join(",")),
            ("listeners", format!("PLAINTEXT://{host}:{}", place.kafka)),
            ("advertised.listeners", format!("PLAINTEXT://{told}:{}", place.kafka)),
            ("ottla.cluster.listener", format!("{host}:{}", place.cluster)),
            ("ottla.cluster.advertised.listener", format!("{told}:{}", place.cluster)),
            ("ottla.cluster.tls.ca", file(&tls.ca)),
            ("ottla.cluster.tls.cert", file(&tls.certificate)),
            ("ottla.cluster.tls.key", file(&tls.key)),
            ("ottla.http.listener", format!("{host}:{}", place.http)),
            ("ottla.seeds", seeds.collect::<Vec<_>>().join(",")),
            ("offsets.topic.replication.factor", "1".to_owned()),
        ];
        let mut all: BTreeMap<&str, &str> = BTreeMap::new();
        all.extend(settings.iter().map(|(name, value)| (*name, value.as_str())));
        all.extend(self.further.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        Ok(all.iter().map(|(name, value)| format!("{name:?} = {value:?}\n")).collect())
    }

    /// Starts a node. Its data stay those of its former lives.
    pub(crate) fn start(&mut self, node: u32, seeds: &[u32]) -> Result<(), NodesError> {
        let config = self.config(node);
        fs::write(&config, self.settings(node, seeds)?)?;
        let log = File::options().create(true).append(true).open(self.log(node))?;
        let mut words = self.network.as_ref().map_or_else(Vec::new, |it| it.entering(node));
        words.extend(self.disks.as_ref().map_or_else(Vec::new, Disks::entering));
        let other = self.other.as_ref().filter(|_| self.runs_other.contains(&node));
        words.push(other.unwrap_or(&self.binary).display().to_string());
        let clock = self.clocks.as_ref().map(|clocks| clocks.environment(node));
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(["server", "--end-with-parent", "--config"])
            .arg(&config)
            .envs(clock.into_iter().flatten())
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
    pub(crate) async fn kill(&mut self, node: u32) -> Result<(), NodesError> {
        self.kill_all(&[node]).await
    }

    /// Kills nodes that must still be alive, all at once.
    pub(crate) async fn kill_all(&mut self, nodes: &[u32]) -> Result<(), NodesError> {
        self.are_alive()?;
        let mut killed = Vec::new();
        for node in nodes {
            if let Some(mut child) = self.running.remove(node) {
                child.start_kill()?;
                killed.push(child);
            }
        }
        for mut child in killed {
            child.wait().await?;
        }
        Ok(())
    }

    /// Stops a node where it is, or has it go on.
    pub(crate) fn signal(&self, node: u32, signal: Signal) -> Result<(), NodesError> {
        if let Some(pid) = self.pid(node) {
            kill_process(pid, signal).map_err(io::Error::from)?;
        }
        Ok(())
    }

    /// Kills all that run and keeps what is on their disks.
    pub(crate) async fn abandon(&mut self) {
        for (_, mut child) in std::mem::take(&mut self.running) {
            // One that cannot be killed keeps its disks busy, which then are not kept.
            let _ = child.kill().await;
        }
        if let Err(error) = self.unmount() {
            tracing::warn!(%error, "what is on the disks is lost");
        }
    }

    /// Ends a node in order.
    pub(crate) async fn stop(&mut self, node: u32) -> Result<(), NodesError> {
        self.stop_together(&[node]).await
    }

    /// Ends nodes in order, all at the same time.
    pub(crate) async fn stop_together(&mut self, nodes: &[u32]) -> Result<(), NodesError> {
        for node in nodes {
            self.signal(*node, Signal::TERM)?;
        }
        for node in nodes {
            self.ended(*node).await?;
        }
        Ok(())
    }

    /// Waits for the end of a node that was told to.
    async fn ended(&mut self, node: u32) -> Result<(), NodesError> {
        let Some(mut child) = self.running.remove(&node) else { return Ok(()) };
        let ended = timeout(PATIENCE, child.wait()).await;
        let status = ended.map_err(|_| NodesError::TooLate("a node's end"))??;
        if let Some(disks) = &self.disks {
            disks.settle(node)?;
        }
        // One that has just been started may not mind signals yet.
        let too_early = status.signal() == Some(Signal::TERM.as_raw());
        if status.success() || too_early || self.excused.contains(&node) {
            return Ok(());
        }
        Err(NodesError::Ended { node, status, log: self.log(node) })
    }

    /// Ends all of them.
    pub(crate) async fn stop_all(&mut self) -> Result<(), NodesError> {
        let running: Vec<_> = self.running().collect();
        self.stop_together(&running).await
    }

    /// Notices nodes that have ended.
    pub(crate) fn are_alive(&mut self) -> Result<(), NodesError> {
        let mut ended = Vec::new();
        for (node, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                if self.excused.contains(node) {
                    ended.push(*node);
                    continue;
                }
                let log = self.directory.join(format!("node-{node}.log"));
                return Err(NodesError::Ended { node: *node, status, log });
            }
        }
        self.running.retain(|node, _| !ended.contains(node));
        Ok(())
    }

    /// Founds the cluster.
    pub(crate) async fn bootstrap(&mut self, voters: &[u32]) -> Result<(), NodesError> {
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
    pub(crate) async fn change_voters(
        &self,
        through: u32,
        change: &str,
        node: u32,
        within: Duration,
    ) -> Result<(), NodesError> {
        let timeout_ms = within.as_millis() as u64;
        let asked = json!({ "change": change, "node": node, "timeout_ms": timeout_ms });
        self.operate(through, "/quorum/voters", asked).await
    }

    async fn operate(&self, node: u32, path: &str, body: Value) -> Result<(), NodesError> {
        let place = self.places[&node];
        let asking = timeout(PATIENCE, ask(place, "POST", path, &body.to_string())).await;
        match asking.map_err(|_| NodesError::TooLate("an answer"))?? {
            (200, _) => Ok(()),
            (_, answer) => Err(NodesError::Refused { node, path: path.to_owned(), answer }),
        }
    }

    /// How a node stands, if it says so.
    async fn standing(&self, node: u32) -> Option<Value> {
        standing(self.places[&node]).await
    }

    /// Whether a node is a member of its cluster.
    pub(crate) async fn is_member(&self, node: u32) -> bool {
        self.standing(node).await.is_some_and(|standing| standing["leader"].as_u64().is_some())
    }

    /// Sees who leads the quorum, while others do something to the nodes.
    pub(crate) fn watcher(&self) -> Watcher {
        Watcher(self.places.values().copied().collect())
    }

    /// One of a node's metrics that has no labels, if the node says so.
    pub(crate) async fn metric(&self, node: u32, name: &str) -> Option<f64> {
        let asking = ask(self.places[&node], "GET", "/metrics", "");
        let (_, answer) = timeout(ANSWER_MAX, asking).await.ok()?.ok()?;
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
        answer.as_str()?.lines().find_map(value)
    }

    /// The log directories of a node that have failed, if the node says.
    pub(crate) async fn failed_directories(&self, node: u32) -> Option<BTreeSet<PathBuf>> {
        let asking = ask(self.places[&node], "GET", "/metrics", "");
        let (_, answer) = timeout(ANSWER_MAX, asking).await.ok()?.ok()?;
        let failed = |line: &str| {
            let labelled = line.strip_prefix("ottla_log_directory_offline{directory=\"")?;
            let (directory, value) = labelled.rsplit_once("\"} ")?;
            (value.parse() != Ok(0.0)).then(|| PathBuf::from(directory))
        };
        Some(answer.as_str()?.lines().filter_map(failed).collect())
    }

    /// The leader that all running nodes know.
    pub(crate) async fn leader(&mut self) -> Result<u32, NodesError> {
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

async fn standing(place: Place) -> Option<Value> {
    match timeout(ANSWER_MAX, ask(place, "GET", "/cluster", "")).await {
        Ok(Ok((200, answer))) => Some(answer),
        _ => None,
    }
}

/// Asks nodes how they stand, whether they run or not.
pub(crate) struct Watcher(Vec<Place>);

impl Watcher {
    /// The leader of the quorum that most of those know who answer.
    pub(crate) async fn leader(&self) -> Option<u32> {
        let answers = futures::future::join_all(self.0.iter().map(|place| standing(*place))).await;
        let mut known: BTreeMap<u64, usize> = BTreeMap::new();
        for leader in answers.iter().flatten().filter_map(|answer| answer["leader"].as_u64()) {
            *known.entry(leader).or_default() += 1;
        }
        let (leader, _) = known.into_iter().max_by_key(|(_, count)| *count)?;
        u32::try_from(leader).ok()
    }
}

/// Asks an operator endpoint. Returns the status and what it said.
async fn ask(place: Place, method: &str, path: &str, body: &str) -> io::Result<(u16, Value)> {
    let Place { host, http, .. } = place;
    let mut stream = TcpStream::connect((host, http)).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}:{http}\r\ncontent-type: application/json\r\n\
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
