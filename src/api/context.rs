//! What the answers are made of.

use std::{ops::Deref, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::Instant};

use super::{
    error::WireError,
    fetch_session::{FetchSessions, Limits},
    liveness::Departed,
    producers::ProducerIds,
};
use crate::{
    base::{Clock, NodeId},
    cluster::{Cluster, Controllers, LeaderError},
    config::{BrokerConfig, NodeConfig},
    controller,
    group::Groups,
    metadata::{ConfigResource, MetadataImage},
    protocol::ResponseError,
    quorum,
    replication::Partitions,
};

/// The image that clients are served from: the newest one that this node's partitions and
/// coordinators have followed, so that what a client learns of exists here.
#[derive(Debug, Clone)]
pub struct Published(watch::Sender<Arc<MetadataImage>>);

impl Published {
    /// Publishes a first image.
    #[must_use]
    pub fn new(image: Arc<MetadataImage>) -> Self {
        Self(watch::Sender::new(image))
    }

    /// The newest image.
    #[must_use]
    pub fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.0.borrow())
    }

    /// Publishes a newer image.
    pub fn publish(&self, image: Arc<MetadataImage>) {
        self.0.send_replace(image);
    }

    /// Waits until the image holds the entry at `index`.
    pub async fn wait_for(&self, index: u64) {
        self.wait_until(|image| image.applied_index() >= index).await;
    }

    /// Waits for an image of which something holds.
    pub async fn wait_until(&self, mut holds: impl FnMut(&MetadataImage) -> bool) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.0.subscribe().wait_for(|image| holds(image)).await;
    }
}

/// The parts of a node that requests are answered from.
#[derive(Debug)]
pub struct ContextParts {
    /// The node's file.
    pub node: Arc<NodeConfig>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The image that clients are served from.
    pub published: Published,
    /// The metadata quorum.
    pub quorum: quorum::Handle<MetadataImage>,
    /// The active controller, wherever it is.
    pub controllers: Controllers,
    /// This node's part in the cluster.
    pub cluster: Cluster,
    /// The replicas of this node.
    pub partitions: Arc<Partitions>,
    /// The group coordinator.
    pub groups: Groups,
    /// The ids of fetch sessions are drawn from a generator with this seed.
    pub seed: u64,
}

/// What every answer may look at. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context(Arc<Shared>);

/// See [`Context`].
#[derive(Debug)]
pub struct Shared {
    parts: ContextParts,
    pub(super) config: ArcSwap<BrokerConfig>,
    config_changes: watch::Sender<()>,
    pub(super) fetch_sessions: FetchSessions,
    pub(super) producer_ids: ProducerIds,
    pub(super) departed: Departed,
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Deref for Shared {
    type Target = ContextParts;

    fn deref(&self) -> &ContextParts {
        &self.parts
    }
}

impl Context {
    /// A context over the parts of a node.
    #[must_use]
    pub fn new(parts: ContextParts) -> Self {
        let config = broker_config(&parts.node, &parts.published.image());
        let limits = Limits {
            slots: usize::try_from(config.max_incremental_fetch_session_cache_slots).unwrap_or(0),
            eviction_ms: 120_000,
        };
        let fetch_sessions = FetchSessions::new(limits, parts.seed);
        let config = ArcSwap::from_pointee(config);
        let producer_ids = ProducerIds::default();
        let config_changes = watch::Sender::new(());
        let departed = Departed::default();
        Self(Arc::new(Shared {
            parts,
            config,
            config_changes,
            fetch_sessions,
            producer_ids,
            departed,
        }))
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node.node_id
    }

    /// The image that this answer is made from.
    #[must_use]
    pub fn image(&self) -> Arc<MetadataImage> {
        self.published.image()
    }

    /// The settings of this broker that are in force.
    #[must_use]
    pub fn broker_config(&self) -> Arc<BrokerConfig> {
        self.config.load_full()
    }

    /// Takes up what was set at run time.
    pub fn configs_changed(&self) {
        self.config.store(Arc::new(broker_config(&self.node, &self.image())));
        self.config_changes.send_replace(());
    }

    /// Tells whenever settings of this broker may have changed.
    #[must_use]
    pub fn config_changes(&self) -> watch::Receiver<()> {
        self.config_changes.subscribe()
    }

    /// Has the controller decide, and waits until this node has followed what it decided.
    pub(super) async fn ask_controller(
        &self,
        request: controller::Request,
        timeout_ms: i32,
    ) -> Result<controller::Response, WireError> {
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        let deadline = Instant::now() + timeout;
        let id = Some(self.controllers.new_id());
        let answer = self.controllers.request(request, id, deadline).await;
        let (response, index) = answer.map_err(|error| {
            let code = match error {
                LeaderError::NoLeader | LeaderError::NoCluster => ResponseError::NotController,
                LeaderError::Unknown => ResponseError::RequestTimedOut,
            };
            WireError::new(code, error.to_string())
        })?;
        // Too late is no failure: the change has happened, and is about to be seen here.
        let _ = tokio::time::timeout_at(deadline, self.follows(index)).await;
        Ok(response)
    }

    /// Waits until clients are served from all that this node has applied up to the entry at
    /// `index`.
    async fn follows(&self, index: u64) {
        self.quorum.wait_applied(index).await;
        // An entry of the quorum's own, such as a leader's first, makes no image to wait for.
        self.published.wait_for(self.quorum.image().applied_index()).await;
    }
}

fn broker_config(node: &NodeConfig, image: &MetadataImage) -> BrokerConfig {
    let broker = image.config_map(&ConfigResource::broker(node.node_id));
    let cluster_default = image.config_map(&ConfigResource::all_brokers());
    BrokerConfig::resolve(node.layers(&broker, &cluster_default))
}
