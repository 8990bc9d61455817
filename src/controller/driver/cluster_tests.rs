//! Drivers on three nodes, over links in memory and in paused time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerHeartbeatRequest, BrokerId, BrokerRegistrationRequest, CreateTopicsRequest,
        TopicName,
        broker_registration_request::{Feature, Listener},
        create_topics_request::CreatableTopic,
    },
};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use tokio::time::sleep;
use uuid::Uuid;

use super::*;
use crate::{
    base::{Blocking, ClusterId, DirectoryId, NodeId},
    controller::Config,
    quorum::{
        Bootstrap, Environment, MemStore, Member, Peers, Quorum, QuorumConfig, SnapshotSource,
        raftpb::Message,
    },
};

#[derive(Default)]
struct Wires {
    handles: BTreeMap<u64, Handle>,
    cuts: BTreeSet<(u64, u64)>,
}

#[derive(Clone, Default)]
struct Net(Arc<Mutex<Wires>>);

struct Link {
    own: u64,
    net: Net,
}

impl Peers for Link {
    fn send(&self, messages: Vec<Message>) {
        let (own, net) = (self.own, self.net.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(2)).await;
            let wires = net.0.lock();
            for message in messages {
                let to = wires.handles.get(&message.to);
                if let Some(handle) = to.filter(|_| !wires.cuts.contains(&(own, message.to))) {
                    handle.step(message);
                }
            }
        });
    }

    fn send_snapshot(&self, _: SnapshotSource) {}
}

struct Cluster {
    net: Net,
    quorums: BTreeMap<u64, Quorum>,
    clients: BTreeMap<u64, Client>,
}

fn cluster_id() -> ClusterId {
    ClusterId(Uuid::from_u128(1))
}

impl Cluster {
    async fn start() -> Self {
        let member = |node: u64| Member {
            node_id: NodeId(node as u32),
            directory_id: DirectoryId(Uuid::from_u128(node.into())),
        };
        let voters: BTreeMap<u64, Member> = (1..=3).map(|node| (node, member(node))).collect();
        let net = Net::default();
        let (mut quorums, mut clients) = (BTreeMap::new(), BTreeMap::new());
        for node in 1..=3 {
            let environment = Environment {
                store: Arc::new(MemStore::new()),
                blocking: Blocking::simulated(node, Duration::from_millis(3)),
                peers: Arc::new(Link { own: node, net: net.clone() }),
                fatal: Arc::new(|fatal| panic!("{fatal}")),
            };
            let origin = Bootstrap { cluster_id: cluster_id(), voters: voters.clone() };
            let config = QuorumConfig::new(member(node), node);
            let quorum: Quorum =
                Quorum::start(config, Some(origin.into()), environment).await.unwrap();
            net.0.lock().handles.insert(node, quorum.handle());
            let config = Config::defaults(NodeId(node as u32), cluster_id());
            let activate =
                move |image: &MetadataImage, now| Controller::activate(config.clone(), image, now);
            let (driver, client) = driver(quorum.handle(), activate, SmallRng::seed_from_u64(node));
            tokio::spawn(driver.run());
            quorums.insert(node, quorum);
            clients.insert(node, client);
        }
        Self { net, quorums, clients }
    }

    /// The node that leads among those that are not cut off.
    async fn leader(&self, but: Option<u64>) -> u64 {
        eventually("a leader", || {
            let mut nodes = self.quorums.iter().filter(|(node, _)| Some(**node) != but);
            nodes.find(|(_, q)| q.handle().status().is_leader()).map(|(node, _)| *node)
        })
        .await
    }

    fn isolate(&self, node: u64) {
        let others = (1..=3).filter(|other| *other != node);
        self.net.0.lock().cuts = others.flat_map(|o| [(node, o), (o, node)]).collect();
    }

    /// What `node` sends still arrives, but it hears nothing.
    fn deafen(&self, node: u64) {
        let others = (1..=3).filter(|other| *other != node);
        self.net.0.lock().cuts = others.map(|other| (other, node)).collect();
    }

    fn heal(&self) {
        self.net.0.lock().cuts.clear();
    }

    fn image(&self, node: u64) -> Arc<MetadataImage> {
        self.quorums[&node].handle().image()
    }

    /// Asks until the node is the controller.
    async fn ask(&self, node: u64, request: Request) -> Result<Response, RequestError> {
        self.ask_as(None, node, request).await
    }

    async fn ask_as(
        &self,
        id: Option<RequestId>,
        node: u64,
        request: Request,
    ) -> Result<Response, RequestError> {
        loop {
            match self.clients[&node].request(request.clone(), id, soon()).await {
                Err(RequestError::NotController) => sleep(Duration::from_millis(10)).await,
                other => return other,
            }
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Waits until `look` finds something, in virtual time.
async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let until = soon();
    while Instant::now() < until {
        if let Some(found) = look() {
            return found;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 20 s: {what}");
}

/// A change that needs no broker: it is refused by name only.
fn set_default(value: &str) -> Request {
    use kafka_protocol::messages::{
        IncrementalAlterConfigsRequest,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    };
    let config = AlterableConfig::default()
        .with_name("log.retention.ms".into())
        .with_value(Some(value.to_owned().into()));
    let resource = AlterConfigsResource::default().with_resource_type(4).with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    Request::IncrementalAlterConfigs(request)
}

fn default_value(image: &MetadataImage) -> Option<&str> {
    let resource = crate::metadata::ConfigResource::all_brokers();
    image.config_value(&resource, "log.retention.ms")
}

#[tokio::test(start_paused = true)]
async fn the_first_controller_brings_the_cluster_into_being() {
    let cluster = Cluster::start().await;
    let first = cluster.leader(None).await;
    cluster.ask(first, set_default("5")).await.unwrap();
    let image = cluster.image(first);
    assert_eq!((image.cluster_id(), default_value(&image)), (Some(cluster_id()), Some("5")));

    cluster.isolate(first);
    let next = cluster.leader(Some(first)).await;
    cluster.ask(next, set_default("6")).await.unwrap();
    let image = cluster.image(next);
    assert_eq!((image.cluster_id(), default_value(&image)), (Some(cluster_id()), Some("6")));
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_cut_off_says_what_is_known() {
    let cluster = Cluster::start().await;
    let first = cluster.leader(None).await;
    cluster.ask(first, set_default("5")).await.unwrap();
    cluster.isolate(first);
    let client = &cluster.clients[&first];
    assert_eq!(
        client.request(set_default("6"), None, soon()).await,
        Err(RequestError::LeadershipLost),
        "it was proposed"
    );
    assert_eq!(
        client.request(set_default("7"), None, soon()).await,
        Err(RequestError::NotController),
        "it was not"
    );

    let next = cluster.leader(Some(first)).await;
    cluster.ask(next, set_default("8")).await.unwrap();
    cluster.heal();
    let is_told = || (default_value(&cluster.image(first)) == Some("8")).then_some(());
    eventually("the former controller hears of it", is_told).await;
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_cut_off_does_not_say_how_things_are() {
    let cluster = Cluster::start().await;
    let first = cluster.leader(None).await;
    register(&cluster, first).await;
    let topic = || {
        let topic = CreatableTopic::default().with_name(TopicName("numbers".into()));
        topic.with_num_partitions(3).with_replication_factor(1)
    };
    let asked = |only| {
        let request = CreateTopicsRequest::default().with_topics(vec![topic()]);
        Request::CreateTopics(request.with_validate_only(only))
    };
    let Ok(Response::CreateTopics(free)) = cluster.ask(first, asked(true)).await else {
        panic!("another answer");
    };
    assert_eq!(free.topics[0].error_code, 0);

    // It leads, for all it knows, while another one may make the topic.
    cluster.isolate(first);
    assert!(cluster.quorums[&first].handle().status().is_leader());
    assert_eq!(
        cluster.clients[&first].request(asked(true), None, soon()).await,
        Err(RequestError::NotController)
    );
    let next = cluster.leader(Some(first)).await;
    let Ok(Response::CreateTopics(made)) = cluster.ask(next, asked(false)).await else {
        panic!("another answer");
    };
    assert_eq!(made.topics[0].error_code, 0);
}

/// Makes a broker, so that topics can be created.
async fn register(cluster: &Cluster, controller: u64) {
    let listener = Listener::default().with_name("PLAINTEXT".into()).with_host("localhost".into());
    let supported = features::SUPPORTED.iter().map(|feature| {
        Feature::default()
            .with_name(feature.name.into())
            .with_min_supported_version(feature.min as i16)
            .with_max_supported_version(feature.max as i16)
    });
    let request = BrokerRegistrationRequest::default()
        .with_broker_id(BrokerId(1))
        .with_cluster_id(cluster_id().to_string().into())
        .with_listeners(vec![listener])
        .with_features(supported.collect())
        .with_log_dirs(vec![Uuid::from_u128(1)])
        .with_previous_broker_epoch(-1);
    let registered = cluster.ask(controller, Request::BrokerRegistration(request)).await;
    let Ok(Response::BrokerRegistration(registered)) = registered else { panic!("{registered:?}") };
    assert_eq!(registered.error_code, 0);
    let request = BrokerHeartbeatRequest::default()
        .with_broker_id(BrokerId(1))
        .with_broker_epoch(registered.broker_epoch)
        .with_current_metadata_offset(i64::MAX);
    cluster.ask(controller, Request::BrokerHeartbeat(request)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_created_once_though_its_controller_was_lost() {
    let cluster = Cluster::start().await;
    let first = cluster.leader(None).await;
    register(&cluster, first).await;
    let topic = CreatableTopic::default()
        .with_name(TopicName("numbers".into()))
        .with_num_partitions(3)
        .with_replication_factor(1);
    let request = Request::CreateTopics(CreateTopicsRequest::default().with_topics(vec![topic]));
    let id = Some(RequestId(Uuid::from_u128(7)));

    cluster.deafen(first);
    let lost = cluster.ask_as(id, first, request.clone()).await;
    assert_eq!(lost, Err(RequestError::LeadershipLost));

    let next = cluster.leader(Some(first)).await;
    let Ok(Response::CreateTopics(response)) = cluster.ask_as(id, next, request.clone()).await
    else {
        panic!("another answer");
    };
    let image = cluster.image(next);
    let created = image.topic_by_name("numbers").unwrap();
    let answered = &response.topics[0];
    assert_eq!((answered.error_code, answered.topic_id), (0, created.id.0), "{answered:?}");
    let Ok(Response::CreateTopics(anew)) = cluster.ask(next, request).await else {
        panic!("another answer");
    };
    assert_eq!(anew.topics[0].error_code, ResponseError::TopicAlreadyExists.code());
}
