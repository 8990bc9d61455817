//! The machine that a node runs on, and what a client asks of the node.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ottla::{
    base::{Blocking, SystemClock},
    client::{
        Client, ClientConfig, ClientError, ConfigChange, ConsumedRecord, Consumer, ConsumerConfig,
        Delivery, NewTopic, OffsetSpec, Partition, Producer, ProducerConfig, Receipt, Record,
        Resource, TcpConnect,
    },
    config::NodeConfig,
    log::{Dir, SimDir},
    net::{SocketBuffers, TcpListener},
    node::{Beginning, Node, Operator, READINESS, Seams, StartError},
    observability::{Readiness, Registry},
    quorum::MemStore,
};
use tokio::time::timeout;

use crate::wait::LONG;

/// What outlives a node.
#[derive(Clone, Default)]
pub(crate) struct Machine {
    pub(crate) dir: SimDir,
    /// A second log directory, where the machine has one.
    pub(crate) second: Option<SimDir>,
    pub(crate) store: Arc<MemStore>,
    /// No two starts draw the same ids.
    seeds: Arc<AtomicU64>,
}

/// A node that serves, and a client of it.
pub(crate) struct Served {
    pub(crate) node: Node,
    pub(crate) client: Client,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
}

impl Machine {
    pub(crate) fn with_two_directories() -> Self {
        Self { second: Some(SimDir::named("-2")), ..Self::default() }
    }

    fn directories(&self) -> impl Iterator<Item = &SimDir> {
        std::iter::once(&self.dir).chain(&self.second)
    }

    /// The files of a log whose names end so.
    pub(crate) fn files(&self, log: &str, suffix: &str) -> Vec<String> {
        let names = self.dir.list(log).unwrap().into_iter().map(|entry| entry.name);
        names.filter(|name| name.ends_with(suffix)).collect()
    }

    pub(crate) async fn start(&self, settings: &[(&str, &str)]) -> Served {
        self.try_start(settings).await.unwrap()
    }

    pub(crate) async fn try_start(&self, settings: &[(&str, &str)]) -> Result<Served, StartError> {
        let dirs: Vec<_> = self.directories().map(Dir::location).collect();
        let dirs = dirs.join(",");
        let own = [
            ("node.id", "1"),
            ("log.dirs", &*dirs),
            ("listeners", "PLAINTEXT://127.0.0.1:0"),
            ("offsets.topic.replication.factor", "1"),
            ("offsets.topic.num.partitions", "1"),
        ];
        let settings: BTreeMap<String, String> = own
            .iter()
            .chain(settings)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let config = Arc::new(NodeConfig::from_settings(settings).unwrap());
        let (registry, readiness) = (Registry::new(), Readiness::new(READINESS));
        let seams = Seams {
            clock: Arc::new(SystemClock),
            directories: self.directories().map(|dir| Arc::new(dir.clone()) as _).collect(),
            store: Arc::clone(&self.store) as _,
            log_io: Blocking::threads("log", 2, 64).unwrap(),
            quorum_io: Blocking::threads("quorum", 3, 64).unwrap(),
            seed: self.seeds.fetch_add(1, Ordering::Relaxed),
            registry: registry.clone(),
            readiness: readiness.clone(),
            operator: Operator::default(),
            cluster: None,
            beginning: Beginning::Alone,
            fatal: Arc::new(|fatal| panic!("the quorum cannot go on: {fatal}")),
        };
        let listener =
            TcpListener::bind("127.0.0.1:0".parse().unwrap(), SocketBuffers::default()).unwrap();
        let listeners = vec![("PLAINTEXT".to_owned(), listener)];
        let node = timeout(LONG, Node::start(config, seams, listeners)).await.unwrap()?;
        let client = ClientConfig {
            bootstrap: node.bootstrap_servers().collect(),
            operation_timeout: LONG / 4,
            ..ClientConfig::default()
        };
        let client = Client::new(client, Arc::new(TcpConnect)).unwrap();
        Ok(Served { node, client, registry, readiness })
    }
}

impl Served {
    pub(crate) async fn stop(self) {
        timeout(LONG, self.node.stop()).await.expect("the node stops").unwrap();
    }

    pub(crate) async fn create_topic(&self, name: &str, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: Some(1),
            replication_factor: Some(1),
            configs: configs.collect(),
        };
        self.client.create_topic(&topic, false).await.unwrap();
    }

    pub(crate) async fn set(&self, resource: Resource, name: &str, value: &str) {
        let change = ConfigChange::Set(name.to_owned(), value.to_owned());
        self.client.alter_configs(&resource, &[change], false).await.unwrap();
    }

    /// Writes to the first partition of a topic; what became of each record.
    pub(crate) async fn produce(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Vec<Result<Delivery, ClientError>> {
        let config = ProducerConfig { delivery_timeout: LONG / 10, ..ProducerConfig::default() };
        let producer = Producer::new(self.client.clone(), config);
        let mut receipts: Vec<Receipt> = Vec::new();
        for record in records {
            receipts.push(producer.send(topic, Some(0), record).await.unwrap());
        }
        producer.flush().await;
        let mut outcomes = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            outcomes.push(receipt.delivered().await);
        }
        outcomes
    }

    /// All records of a topic's first partition.
    pub(crate) async fn consume(&self, topic: &str) -> Vec<ConsumedRecord> {
        let partition = Partition::new(topic, 0);
        let ends = [(partition.clone(), OffsetSpec::Latest)];
        let end = self.client.list_offsets(&ends).await.unwrap()[&partition].unwrap();
        let config = ConsumerConfig { reset: Some(OffsetSpec::Earliest), ..Default::default() };
        let mut consumer = Consumer::new(self.client.clone(), config);
        consumer.assign([(partition, 0)]);
        let mut records = Vec::new();
        let mut next = 0;
        while next < end {
            let fetched = consumer.poll(LONG).await.unwrap().expect("the end is never reached");
            next = fetched.batches().last().map_or(next, |batch| batch.last_offset + 1);
            records.extend(fetched.records().unwrap());
        }
        records
    }

    /// The figure of a metric, labels included in its name.
    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        let text = self.registry.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }
}

pub(crate) fn record(key: &str, value: Option<Vec<u8>>, timestamp_ms: i64) -> Record {
    Record {
        key: Some(key.as_bytes().to_vec().into()),
        value: value.map(Into::into),
        timestamp_ms,
        ..Record::default()
    }
}
