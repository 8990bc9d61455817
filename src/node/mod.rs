//! The composition root: puts a whole node together from its parts and seams.
//!
//! [`Node::start`] takes everything that touches the world as an argument ([`Seams`] and the
//! listeners), so that a simulation starts the very node that a process does.
//!
//! Order of the start: directories, a place in a cluster, quorum, controller, logs, registration,
//! listeners. Clients are served from when the node's own registration is unfenced. Order of the
//! stop: the other way round.

mod assignments;
mod broker;
mod cleaner;
mod dev;
mod directories;
mod failure;
mod figures;
mod follow;
mod lag;
mod limits;
mod maintenance;
mod membership;
mod moves;
mod operator;
mod pace;
mod process;
mod readiness;
mod recover;
mod replacement;
mod replicate;
mod sizes;

use std::{
    future, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{
    Rng, RngExt, SeedableRng,
    rngs::{SmallRng, StdRng},
};
use tokio::{sync::watch, task::JoinSet, time};
use tracing::{info, warn};

use crate::{
    api::{Api, Context, ContextParts, Published},
    base::{Blocking, BlockingStopped, Clock, ClusterId, DirectoryId, NodeId},
    cluster::Cluster,
    config::{BrokerConfig, NodeConfig},
    controller::{self, Controller, driver},
    coordinator::{self, Runtime},
    group::{self, GroupShard, Groups},
    log::{Dir, LogError, OpenError},
    metadata::{ConfigResource, MetadataImage},
    net::{Listener, Server},
    observability::{Readiness, Registry},
    quorum::{self, FatalHook, Quorum, Store},
    replication::{self, Partitions, PartitionsConfig},
    transport,
};

use readiness::{DIRECTORIES, QUORUM, RECOVERY, REGISTRATION, SERVING};

pub use dev::{DevNode, dev};
pub use failure::NodeFailure;
pub use membership::{Beginning, ClusterSeams};
pub use operator::{BootstrapRequest, Operator, VotersChangeRequest, VotersRequest};
pub use process::{ProcessError, server};
pub use recover::{FormerVoter, RecoverError, Survivor, recover};

/// Everything through which a node touches the world, its listeners apart.
pub struct Seams {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The log directories, in the order of `log.dirs`.
    pub directories: Vec<Arc<dyn Dir>>,
    /// The durable state of the metadata quorum.
    pub store: Arc<dyn Store>,
    /// Where log files are handled.
    pub log_io: Blocking,
    /// Where the quorum's store is handled; a pool of its own, so that flushes do not delay it.
    pub quorum_io: Blocking,
    /// Everything random is drawn from generators with this seed.
    pub seed: u64,
    /// What to do when the quorum cannot go on.
    pub fatal: FatalHook,
    /// Where the node counts what it does.
    pub registry: Registry,
    /// Where the node says what it waits for.
    pub readiness: Readiness,
    /// What operators may ask of the node.
    pub operator: Operator,
    /// The way to other nodes; none for a node that stays alone.
    pub cluster: Option<ClusterSeams>,
    /// How a node that was never used comes into a cluster.
    pub beginning: Beginning,
}

/// The conditions of [`Seams::readiness`].
pub const READINESS: &[&str] = &[QUORUM, DIRECTORIES, RECOVERY, REGISTRATION, SERVING];

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A log directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// No log directory works, or not the first one.
    #[error("{0}: {remedy}", remedy = .0.remedy())]
    Log(#[from] LogError),
    /// A log directory belongs to another node.
    #[error(
        "log directory {location} belongs to node {found}, but this is node {node}: set node.id to \
         {found}, or log.dirs to another directory"
    )]
    ForeignNode {
        /// The directory.
        location: String,
        /// Whose it is.
        found: NodeId,
        /// Who asks.
        node: NodeId,
    },
    /// A log directory belongs to another cluster.
    #[error("log directory {location} belongs to cluster {found}, but this is cluster {cluster}")]
    ForeignCluster {
        /// The directory.
        location: String,
        /// Whose it is.
        found: ClusterId,
        /// Who asks.
        cluster: ClusterId,
    },
    /// The quorum does not start.
    #[error("the metadata quorum does not start")]
    Quorum(#[from] quorum::StartError),
    /// The way to other nodes cannot be opened.
    #[error("the cluster plane does not start")]
    Transport(#[from] transport::StartError),
    /// Certificate and data are of two clusters.
    #[error(
        "log directory {location} belongs to cluster {found}, but the certificate in \
         ottla.cluster.tls.cert is of cluster {certified}: use a certificate of the directory's \
         cluster, or another directory"
    )]
    ForeignCertificate {
        /// The directory.
        location: String,
        /// Whose it is.
        found: ClusterId,
        /// The cluster of the certificate.
        certified: ClusterId,
    },
    /// The directory was used, but the metadata in it is gone.
    #[error(
        "log directory {location} belongs to cluster {cluster}, but its metadata store is gone: \
         restore it, or empty the directory, so that this node joins the cluster anew"
    )]
    LostStore {
        /// The directory.
        location: String,
        /// The cluster.
        cluster: ClusterId,
    },
    /// The partitions could not be opened.
    #[error(transparent)]
    Partitions(#[from] replication::OpenError),
    /// The controller refused this node.
    #[error(transparent)]
    Registration(#[from] broker::RegistrationError),
    /// A listener does not know its address.
    #[error("listener {name} does not say where it listens")]
    Listener {
        /// Its name.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The log directories failed meanwhile.
    #[error(transparent)]
    Failed(#[from] NodeFailure),
    /// A pool has stopped.
    #[error(transparent)]
    Pool(#[from] BlockingStopped),
}

/// How long a stopping node waits for requests under way.
const DRAIN: Duration = Duration::from_secs(5);

/// A node that serves clients.
pub struct Node {
    context: Context,
    cluster: Cluster,
    quorum: Quorum,
    server: Arc<Server<Api>>,
    tasks: JoinSet<()>,
    listening: JoinSet<()>,
    stopping: watch::Sender<bool>,
    log_io: Blocking,
    endpoints: Vec<broker::Endpoint>,
    readiness: Readiness,
}

impl Node {
    /// Starts a node that serves clients on `listeners`, named as in its configuration. Returns
    /// once it does. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start<L: Listener>(
        config: Arc<NodeConfig>,
        mut seams: Seams,
        listeners: Vec<(String, L)>,
    ) -> Result<Self, StartError> {
        let mut rng = StdRng::seed_from_u64(seams.seed);
        let endpoints = broker::endpoints(&config, &listeners)?;
        let directories =
            directories::open(&config, &seams.directories, &seams.log_io, &mut rng).await?;
        readiness::follow_directories(&directories, &seams.readiness);
        let (cluster, quorum) =
            membership::begin(&config, &directories, &mut seams, &mut rng).await?;
        let handle = quorum.handle();
        directories::claim(&directories, &handle.status().identity, &seams.log_io).await?;

        let planned = Arc::default();
        let (driver, controller) = driver::driver(
            handle.clone(),
            activation(&config, handle.status().identity.cluster_id, Arc::clone(&planned)),
            SmallRng::seed_from_u64(rng.random()),
        );
        cluster.serve_controller(controller);
        let (stopping, stop) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run());
        membership::keep(&cluster, &handle, &seams.readiness, &stop, &mut tasks);
        membership::caught_up(&handle).await;

        let image = handle.image();
        compare_min_isr(&config, &image);
        let was_clean = directories.iter().all(|directory| directory.log.was_clean());
        let mut follow = handle.subscribe();
        let incarnation = rng_uuid(&mut rng);
        let opener = membership::opener(&cluster);
        let partitions = open_partitions(
            PartitionsConfig {
                node: Arc::clone(&config),
                directories: directories.iter().map(|one| Arc::clone(&one.log)).collect(),
                clock: Arc::clone(&seams.clock),
                blocking: seams.log_io.clone(),
                metrics: metrics::with_local_recorder(&seams.registry, replication::Metrics::new),
                incarnation,
                opener,
            },
            &seams.readiness,
            &image,
        )
        .await?;
        if let Some(error) = partitions.failure() {
            return Err(LogError::clone(&error).into());
        }

        let context = Context::new(ContextParts {
            node: Arc::clone(&config),
            clock: Arc::clone(&seams.clock),
            published: Published::new(image),
            quorum: handle,
            controllers: cluster.controllers(),
            cluster: cluster.clone(),
            partitions: Arc::clone(&partitions),
            groups: groups(&config, &seams, &mut rng),
            seed: rng.random(),
        });
        replicate::start(&context, &mut tasks);
        let followed = follow::start(&mut follow, &context).await?;
        tasks.spawn(follow::run(follow, followed, context.clone()));
        watch_over(&context, &seams.registry, planned, &stop, &mut tasks);

        let registration = broker::Registration {
            endpoints: endpoints.clone(),
            cluster: membership::reached_at(&cluster, &config),
            directories: directories::working(&directories),
            incarnation,
            was_clean,
        };
        let registered = tokio::select! {
            registered = broker::enter(&context, &registration, &seams.readiness) => registered?,
            failure = failure::watch(&context) => return Err(failure.into()),
        };
        tasks.spawn(assignments::run(context.clone(), stop.clone()));
        tasks.spawn(sizes::run(context.clone(), stop.clone()));
        tasks.spawn(broker::heartbeat(context.clone(), registration, registered, stop));

        seams.readiness.set(REGISTRATION, Ok(()));

        let api = Arc::new(Api::new(context.clone()));
        let (limits, changes) = (limits::limits(&context), context.config_changes());
        let server = Arc::new(metrics::with_local_recorder(&seams.registry, || {
            Server::new(api, limits, seams.log_io.clone())
        }));
        tasks.spawn(limits::follow(changes, context.clone(), Arc::clone(&server)));
        let listening = listen(&server, listeners);
        seams.readiness.set(SERVING, Ok(()));
        let Seams { log_io, readiness, .. } = seams;
        Ok(Self {
            context,
            cluster,
            quorum,
            server,
            tasks,
            listening,
            stopping,
            log_io,
            endpoints,
            readiness,
        })
    }

    /// Where clients reach it, as it told the cluster.
    pub fn bootstrap_servers(&self) -> impl Iterator<Item = String> {
        self.endpoints.iter().map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port))
    }

    /// What its answers are made of.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Returns once the node has no log directory left that works, or the controller cannot be
    /// told of one that failed. It is of no use from then on.
    pub async fn failed(&self) -> NodeFailure {
        failure::watch(&self.context).await
    }

    /// Ends in order: others lead what this node led, requests under way are answered, logs closed, so
    /// that the next start has nothing to recover.
    ///
    /// # Errors
    /// Where the quorum's store cannot be synced; nothing acknowledged depends on that.
    pub async fn stop(mut self) -> Result<(), StartError> {
        info!("stop");
        self.readiness.set(SERVING, Err("the node stops".to_owned()));
        self.stopping.send_replace(true);
        broker::leave(&self.context).await;
        self.server.stop(DRAIN);
        let drained = async { while self.listening.join_next().await.is_some() {} };
        if time::timeout(DRAIN * 2, drained).await.is_err() {
            warn!("connections did not end in time");
        }
        self.context.groups.shut_down();
        self.tasks.shutdown().await;
        let partitions = Arc::clone(&self.context.partitions);
        self.log_io.run(move || partitions.close()).await?;
        self.quorum.stop().await?;
        if let Some(transport) = self.cluster.transport() {
            transport.stop().await;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// Starts what goes on beside the requests, and shows its figures.
fn watch_over(
    context: &Context,
    registry: &Registry,
    planned: Arc<AtomicU64>,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    tasks.spawn(maintenance::run(context.clone(), stop.clone()));
    let counted = metrics::with_local_recorder(registry, cleaner::Metrics::new);
    tasks.spawn(cleaner::run(context.clone(), counted, stop.clone()));
    tasks.spawn(moves::run(context.clone(), stop.clone()));
    tasks.spawn(replacement::run(context.clone(), stop.clone()));
    let lag = lag::Lag::default();
    tasks.spawn(lag.clone().follow(context.clone(), stop.clone()));
    let (shown, moves) = (Arc::new((context.clone(), registry.clone())), Arc::clone(&planned));
    // Weakly, as both hold the cluster. The task holds them until the node stops.
    let held = Arc::downgrade(&shown);
    context.cluster.serve_figures(Box::new(move || {
        let shown = held.upgrade()?;
        Some(figures::node(&shown.0, &shown.1, &moves))
    }));
    tasks.spawn(async move {
        let _shown = shown;
        future::pending::<()>().await;
    });
    let shown = context.clone();
    registry.on_render(Box::new(move |render| {
        figures::render(&shown, &planned, render);
        lag.render(&shown, render);
    }));
}

fn rng_uuid(rng: &mut impl Rng) -> uuid::Uuid {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Opens the logs that are there, and takes up what the image gives to this node.
async fn open_partitions(
    config: PartitionsConfig,
    readiness: &Readiness,
    image: &MetadataImage,
) -> Result<Arc<Partitions>, replication::OpenError> {
    let partitions = Arc::new(Partitions::new(config));
    let progress = |opened, of| {
        readiness.set(RECOVERY, Err(format!("{opened} of {of} logs are open")));
        if opened == of || opened % 1_024 == 0 {
            info!(opened, of, "open logs");
        }
    };
    partitions.open(image, progress).await?;
    readiness.set(RECOVERY, Ok(()));
    Ok(partitions)
}

/// The minimum is the cluster's, so that all agree about it: a node's file does no more than propose
/// one to a new cluster.
fn compare_min_isr(config: &NodeConfig, image: &MetadataImage) {
    let name = "min.insync.replicas";
    let cluster_default = image.config_map(&ConfigResource::all_brokers());
    let (cluster, file) = (cluster_default.get(name), config.settings.get(name));
    if let (Some(cluster), Some(file)) = (cluster, file)
        && cluster != file
    {
        warn!(
            cluster,
            file,
            "{name} of the node's file has no effect, as the cluster has another: change that one \
             with `ottla config set`"
        );
    }
}

fn listen<L: Listener>(server: &Arc<Server<Api>>, listeners: Vec<(String, L)>) -> JoinSet<()> {
    let mut listening = JoinSet::new();
    for (name, listener) in listeners {
        let server = Arc::clone(server);
        listening.spawn(async move {
            if let Err(error) = server.serve(listener, &name).await {
                warn!(listener = name, %error, "a listener has ended");
            }
        });
    }
    listening
}

/// Makes the controller's core whenever this node becomes the active controller.
fn activation(
    config: &NodeConfig,
    cluster_id: ClusterId,
    planned_moves: Arc<AtomicU64>,
) -> impl FnMut(&MetadataImage, u64) -> Controller + Send + use<> {
    let (node, file) = (config.node_id, config.settings.clone());
    let config = controller::Config { node, file, cluster_id, planned_moves };
    move |image, now_ms| Controller::activate(config.clone(), image, now_ms)
}

fn groups(config: &NodeConfig, seams: &Seams, rng: &mut StdRng) -> Groups {
    let broker = BrokerConfig::resolve(config.layers(&(), &()));
    let millis = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let config = Arc::new(group::Config {
        initial_rebalance_delay_ms: broker.group_initial_rebalance_delay_ms,
        min_session_timeout_ms: broker.group_min_session_timeout_ms,
        max_session_timeout_ms: broker.group_max_session_timeout_ms,
        max_size: broker.group_max_size,
        offset_metadata_max_bytes: usize::try_from(broker.offset_metadata_max_bytes).unwrap_or(0),
        offsets_retention: millis(i64::from(broker.offsets_retention_minutes) * 60_000),
        offsets_retention_check_interval: millis(broker.offsets_retention_check_interval_ms),
        commit_timeout: millis(i64::from(broker.offsets_commit_timeout_ms)),
        ..group::Config::default()
    });
    let settings = coordinator::Settings {
        load_bytes: usize::try_from(broker.offsets_load_buffer_size_bytes).unwrap_or(5 << 20),
        ..coordinator::Settings::default()
    };
    let (next_seed, shard_config) = (AtomicU64::new(rng.random()), Arc::clone(&config));
    let runtime = Runtime::new(settings, Arc::clone(&seams.clock), move |_| {
        // Another one each time: a shard that comes back to this node must not give out the ids of
        // members that it gave out before.
        let seed = next_seed.fetch_add(1, Ordering::Relaxed);
        GroupShard::new(Arc::clone(&shard_config), StdRng::seed_from_u64(seed))
    });
    Groups::new(runtime, config)
}

/// An id for a directory that was never used.
fn new_directory_id(rng: &mut impl Rng) -> DirectoryId {
    DirectoryId(rng_uuid(rng))
}
