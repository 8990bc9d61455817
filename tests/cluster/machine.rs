//! Machines that nodes of one cluster run on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ottla::{
    base::{Blocking, NodeId, SystemClock},
    cert::{self, Files, NewNode},
    client::{Client, ClientConfig, ClientError, NewTopic, TcpConnect},
    cluster::{BootstrapError, Cluster, Description, Founded, VotersChange, VotersError},
    config::NodeConfig,
    log::{Dir, SimDir},
    net::{SocketBuffers, TcpListener},
    node::{Beginning, ClusterSeams, Node, Operator, READINESS, Seams, StartError},
    observability::{Readiness, Registry},
    quorum::MemStore,
    transport::{Socket, SystemResolver},
};
use tempfile::TempDir;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::wait::{LONG, eventually};

const LOOPBACK: &str = "127.0.0.1:0";

/// A cluster's certificates, and where its nodes are.
pub(crate) struct World {
    pki: TempDir,
    /// Cluster addresses by node id. They stay a node's over its restarts.
    ports: BTreeMap<u32, u16>,
    /// No two starts draw the same random numbers.
    starts: AtomicU64,
}

/// What outlives a node.
#[derive(Clone, Default)]
pub(crate) struct Machine {
    dir: SimDir,
    /// A second log directory, where the machine has one.
    second: Option<SimDir>,
    store: Arc<MemStore>,
}

impl Machine {
    pub(crate) fn with_two_directories() -> Self {
        Self { second: Some(SimDir::named("-2")), ..Self::default() }
    }

    pub(crate) fn second(&self) -> &SimDir {
        self.second.as_ref().expect("it has two directories")
    }

    fn locations(&self) -> String {
        let locations = self.directories().iter().map(|dir| dir.location()).collect::<Vec<_>>();
        locations.join(",")
    }

    fn directories(&self) -> Vec<Arc<dyn Dir>> {
        let dirs = std::iter::once(&self.dir).chain(&self.second);
        dirs.map(|dir| Arc::new(dir.clone()) as _).collect()
    }

    pub(crate) fn store(&self) -> &MemStore {
        &self.store
    }
}

/// A node that was started, and may still wait for a cluster.
pub(crate) struct Started {
    pub(crate) operator: Operator,
    pub(crate) readiness: Readiness,
    registry: Registry,
    node: JoinHandle<Result<Node, StartError>>,
}

impl World {
    /// With room for nodes 1 to `nodes`.
    pub(crate) fn new(nodes: u32) -> Self {
        let pki = TempDir::new().unwrap();
        cert::new_ca(pki.path(), None, now_ms(), None).unwrap();
        // Taken all at once, so that they differ; free again when they are bound for good.
        let sockets = (1..=nodes).map(|_| std::net::UdpSocket::bind(LOOPBACK).unwrap());
        let sockets: Vec<_> = sockets.collect();
        let ports = (1..).zip(&sockets).map(|(id, s)| (id, s.local_addr().unwrap().port()));
        let ports = ports.collect();
        Self { pki, ports, starts: AtomicU64::new(1) }
    }

    pub(crate) fn port(&self, node: u32) -> u16 {
        self.ports[&node]
    }

    pub(crate) fn move_to(&mut self, node: u32, port: u16) {
        self.ports.insert(node, port);
    }

    fn credentials(&self, node: u32) -> cert::Credentials {
        let directory = self.pki.path().join(format!("node-{node}"));
        let files = Files::within(&directory);
        let files = if files.key.exists() {
            files
        } else {
            let new = NewNode {
                ca: self.pki.path().to_owned(),
                directory,
                node_id: NodeId(node),
                hosts: Vec::new(),
                days: 30,
                renew: false,
            };
            cert::new_node(&new, now_ms()).unwrap()
        };
        files.load(NodeId(node), now_ms()).unwrap()
    }

    /// Starts node `id` on `machine` with the nodes `seeds` as seeds.
    pub(crate) fn start(&self, id: u32, machine: &Machine, seeds: &[u32]) -> Started {
        self.start_with(id, machine, seeds, &[])
    }

    /// The same, with further settings.
    pub(crate) fn start_with(
        &self,
        id: u32,
        machine: &Machine,
        seeds: &[u32],
        settings: &[(&str, &str)],
    ) -> Started {
        self.start_node(id, self.ports[&id], machine, seeds, settings)
    }

    /// The same, at the port of another.
    pub(crate) fn start_at(&self, id: u32, port: u16, machine: &Machine, seeds: &[u32]) -> Started {
        self.start_node(id, port, machine, seeds, &[])
    }

    fn start_node(
        &self,
        id: u32,
        port: u16,
        machine: &Machine,
        seeds: &[u32],
        further: &[(&str, &str)],
    ) -> Started {
        let seeds: Vec<String> =
            seeds.iter().map(|seed| format!("127.0.0.1:{}", self.ports[seed])).collect();
        let settings = [
            ("node.id", id.to_string()),
            ("log.dirs", machine.locations()),
            ("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()),
            ("ottla.cluster.listener", format!("127.0.0.1:{port}")),
            ("ottla.seeds", seeds.join(",")),
            ("offsets.topic.replication.factor", "1".to_owned()),
            ("offsets.topic.num.partitions", "1".to_owned()),
        ];
        let further = further.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let settings = settings.into_iter().chain(further);
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        let config = Arc::new(NodeConfig::from_settings(settings.collect()).unwrap());
        let (readiness, operator) = (Readiness::new(READINESS), Operator::default());
        let registry = Registry::new();
        let cluster = ClusterSeams {
            credentials: self.credentials(id),
            socket: Socket::bind(format!("127.0.0.1:{port}").parse().unwrap()).unwrap(),
            resolver: Arc::new(SystemResolver),
            watch: None,
        };
        let seams = Seams {
            clock: Arc::new(SystemClock),
            directories: machine.directories(),
            store: Arc::clone(&machine.store) as _,
            log_io: Blocking::threads("log", 2, 64).unwrap(),
            quorum_io: Blocking::threads("quorum", 3, 64).unwrap(),
            seed: self.starts.fetch_add(1, Ordering::Relaxed),
            registry: registry.clone(),
            readiness: readiness.clone(),
            operator: operator.clone(),
            cluster: Some(cluster),
            beginning: Beginning::Waits,
            fatal: Arc::new(|fatal| panic!("the quorum cannot go on: {fatal}")),
        };
        let listener =
            TcpListener::bind(LOOPBACK.parse().unwrap(), SocketBuffers::default()).unwrap();
        let listeners = vec![("PLAINTEXT".to_owned(), listener)];
        let node = tokio::spawn(Node::start(config, seams, listeners));
        Started { operator, readiness, registry, node }
    }
}

impl Started {
    /// The node's part in the cluster, once it knows who it is.
    pub(crate) async fn cluster(&self) -> Cluster {
        eventually("the node knows who it is", || self.operator.cluster()).await
    }

    pub(crate) async fn bootstrap(&self, voters: &[u32]) -> Result<Founded, BootstrapError> {
        let voters = voters.iter().copied().map(NodeId).collect();
        timeout(LONG, self.cluster().await.bootstrap(&voters)).await.unwrap()
    }

    /// The reason why the quorum's condition does not hold.
    pub(crate) async fn waits_for(&self, text: &str) -> String {
        let said = || {
            let conditions = self.readiness.conditions();
            let found = conditions.into_iter().find(|condition| condition.name == "quorum");
            found.and_then(|condition| condition.reason).filter(|reason| reason.contains(text))
        };
        eventually(text, said).await
    }

    pub(crate) async fn serves(self) -> Served {
        let node = timeout(LONG, self.node).await.expect("the node serves in time");
        let node = node.unwrap().unwrap();
        Served { node, operator: self.operator, registry: self.registry }
    }
}

/// A node that serves clients.
pub(crate) struct Served {
    pub(crate) node: Node,
    pub(crate) registry: Registry,
    operator: Operator,
}

impl Served {
    pub(crate) fn cluster(&self) -> Cluster {
        self.operator.cluster().expect("it takes part")
    }

    /// Changes the voters, asked of this node.
    pub(crate) async fn voters(&self, change: VotersChange, node: u32) -> Result<(), VotersError> {
        let deadline = Instant::now() + LONG / 2;
        self.cluster().change_voters(change, NodeId(node), None, deadline).await
    }

    pub(crate) async fn describe(&self) -> Description {
        self.cluster().describe(Instant::now() + LONG).await.unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let config = ClientConfig {
            bootstrap: self.node.bootstrap_servers().collect(),
            operation_timeout: LONG / 2,
            ..ClientConfig::default()
        };
        Client::new(config, Arc::new(TcpConnect)).unwrap()
    }

    /// Waits until this node knows of a topic that was created through another.
    pub(crate) async fn hears_of(&self, topic: &str) {
        let context = self.node.context();
        eventually(topic, || context.image().topic_by_name(topic).map(drop)).await;
        self.client().topic(topic).await.unwrap();
    }

    pub(crate) async fn create_topic(&self, name: &str) {
        self.try_create_topic(name).await.unwrap();
    }

    pub(crate) async fn try_create_topic(&self, name: &str) -> Result<(), ClientError> {
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: Some(1),
            replication_factor: Some(1),
            configs: Vec::new(),
        };
        self.client().create_topic(&topic, false).await.map(drop)
    }

    pub(crate) async fn stop(self) {
        let Self { node, operator, registry } = self;
        let transport = operator.cluster().and_then(|cluster| cluster.transport().cloned());
        let address = transport.expect("it has one").local_addr().unwrap();
        // What it shows holds the node.
        drop((operator, registry));
        timeout(LONG, node.stop()).await.expect("the node stops").unwrap();
        // What still runs of it holds the socket for a moment.
        eventually("the port is free", || std::net::UdpSocket::bind(address).ok()).await;
    }
}

/// The nodes that vote.
pub(crate) fn voters(description: &Description) -> Vec<u32> {
    let voters = description.replicas.iter().filter(|replica| replica.is_voter);
    let mut voters: Vec<u32> = voters.map(|replica| replica.node).collect();
    voters.sort_unstable();
    voters
}

fn now_ms() -> i64 {
    use ottla::base::Clock as _;
    SystemClock.wall_ms()
}
