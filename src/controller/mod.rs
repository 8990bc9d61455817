//! Decides what the metadata becomes: topics, placement, elections, reassignments, brokers and
//! their leases, configurations, features and producer ids.
//!
//! A request is one of Kafka's own messages, so that a node forwards it by its codec. A decision is
//! the entries to propose and the answer to give once the last of them is applied; the image that
//! it is taken against must hold all that was decided before, in flight or not. One file per
//! record family; each element of a request is decided against the elements before it, and is
//! refused by itself.
//!
//! State owned: the leases of brokers and the sizes of replicas, which are soft, and when what is done
//! at intervals is due. A new controller grants every broker a fresh lease ([`Controller::activate`]).
//!
//! Size: an entry is at most [`ENTRY_MAX_BYTES`]. What must not be torn (a topic with its
//! partitions and configuration, the partitions added to one topic) fits one entry or is refused
//! with POLICY_VIOLATION. A request of several topics, and the elections after a broker is fenced,
//! go on in further entries; every prefix of them keeps the invariants of the image.
//!
//! Must not: do I/O, read a clock, draw a random number that was not handed in, or keep a copy of
//! what the image holds.
//!
//! References: KIP-631, KIP-841 (fencing and ISR), KIP-858 (directories), KIP-966 (eligible leader
//! replicas).

mod away;
pub mod balance;
mod brokers;
mod configs;
mod directories;
mod draft;
pub mod driver;
mod election;
mod features;
mod isr;
mod placement;
mod producer_ids;
mod reassign;
mod sizes;
mod topics;
mod upkeep;
mod voters;
pub mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterConfigsRequest,
    AlterConfigsResponse, AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
    AlterPartitionRequest, AlterPartitionResponse, AssignReplicasToDirsRequest,
    AssignReplicasToDirsResponse, BrokerHeartbeatRequest, BrokerHeartbeatResponse,
    BrokerRegistrationRequest, BrokerRegistrationResponse, CreatePartitionsRequest,
    CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, ElectLeadersRequest, ElectLeadersResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, UnregisterBrokerRequest,
    UnregisterBrokerResponse, UpdateFeaturesRequest, UpdateFeaturesResponse,
};
use rand::Rng;

use crate::{
    base::{ClusterId, NodeId},
    config::{BrokerLayers, TopicLayers, Value},
    metadata::{self, Batch, ConfigResource, MetadataImage},
};

use brokers::Lease;
use draft::Draft;
pub use draft::{ENTRY_MAX_BYTES, Refusal};
use sizes::Sizes;
pub use sizes::{ReplicaSizesRequest, ReplicaSizesResponse, TopicSizes};
pub(crate) use topics::illegal as illegal_topic_name;
use upkeep::Upkeep;
pub use voters::{ExcludeVoterRequest, ExcludeVoterResponse};

/// What the active controller is asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Create topics.
    CreateTopics(CreateTopicsRequest),
    /// Delete topics, by name or id.
    DeleteTopics(DeleteTopicsRequest),
    /// Add partitions to topics.
    CreatePartitions(CreatePartitionsRequest),
    /// Replace configurations whole.
    AlterConfigs(AlterConfigsRequest),
    /// Change single keys of configurations.
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest),
    /// A broker started.
    BrokerRegistration(BrokerRegistrationRequest),
    /// A broker is alive.
    BrokerHeartbeat(BrokerHeartbeatRequest),
    /// A broker is gone for good.
    UnregisterBroker(UnregisterBrokerRequest),
    /// A leader changes the ISR of its partitions.
    AlterPartition(AlterPartitionRequest),
    /// A broker says where its replicas lie.
    AssignReplicasToDirs(AssignReplicasToDirsRequest),
    /// A broker needs producer ids.
    AllocateProducerIds(AllocateProducerIdsRequest),
    /// Finalize levels of features.
    UpdateFeatures(UpdateFeaturesRequest),
    /// Elect preferred leaders, or leaders out of sync.
    ElectLeaders(ElectLeadersRequest),
    /// Move partitions to other brokers, or stop moving them.
    AlterPartitionReassignments(AlterPartitionReassignmentsRequest),
    /// Keep a node from becoming a voter by itself, or allow it again.
    ExcludeVoter(ExcludeVoterRequest),
    /// A leader says how large its partitions are.
    ReplicaSizes(ReplicaSizesRequest),
}

/// The answer to a [`Request`], of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    CreateTopics(CreateTopicsResponse),
    DeleteTopics(DeleteTopicsResponse),
    CreatePartitions(CreatePartitionsResponse),
    AlterConfigs(AlterConfigsResponse),
    IncrementalAlterConfigs(IncrementalAlterConfigsResponse),
    BrokerRegistration(BrokerRegistrationResponse),
    BrokerHeartbeat(BrokerHeartbeatResponse),
    UnregisterBroker(UnregisterBrokerResponse),
    AlterPartition(AlterPartitionResponse),
    AssignReplicasToDirs(AssignReplicasToDirsResponse),
    AllocateProducerIds(AllocateProducerIdsResponse),
    UpdateFeatures(UpdateFeaturesResponse),
    ElectLeaders(ElectLeadersResponse),
    AlterPartitionReassignments(AlterPartitionReassignmentsResponse),
    ExcludeVoter(ExcludeVoterResponse),
    ReplicaSizes(ReplicaSizesResponse),
}

/// What to propose, and what to answer once all of it is applied (at once where it is nothing).
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<R = Response> {
    /// The entries, in their order. Each is atomic, and so is the state between them consistent.
    pub batches: Vec<Batch>,
    /// The answer.
    pub response: R,
}

/// What the controller is set to.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node, whose settings at run time count beside those of the file.
    pub node: NodeId,
    /// The broker keys of the node's file.
    pub file: BTreeMap<String, String>,
    /// The cluster, which the first controller of all makes known to it.
    pub cluster_id: ClusterId,
    /// Where it says how many moves the balancer would begin if more could be under way.
    pub planned_moves: Arc<AtomicU64>,
}

impl Config {
    /// A controller whose file sets nothing.
    #[must_use]
    pub fn defaults(node: NodeId, cluster_id: ClusterId) -> Self {
        Self { node, file: BTreeMap::new(), cluster_id, planned_moves: Arc::default() }
    }
}

/// The active controller's core.
#[derive(Debug)]
pub struct Controller {
    config: Config,
    leases: BTreeMap<NodeId, Lease>,
    upkeep: Upkeep,
    sizes: Sizes,
}

impl Controller {
    /// The core of a node that has just become the controller. `now_ms` is monotonic, of any zero.
    #[must_use]
    pub fn activate(config: Config, image: &MetadataImage, now_ms: u64) -> Self {
        let upkeep = Upkeep::begin(&View { image, config: &config }, now_ms);
        let (leases, sizes) = (BTreeMap::new(), Sizes::default());
        let mut controller = Self { config, leases, upkeep, sizes };
        controller.grant_leases(image, now_ms);
        controller
    }

    /// What to propose before anything is decided: in a new cluster, that it exists, and what all are
    /// to agree about.
    pub fn begin(&self, image: &MetadataImage) -> Vec<Batch> {
        let mut draft = Draft::new(image);
        if image.cluster_id().is_none() {
            for record in metadata::features::bootstrap(self.config.cluster_id).records {
                draft.add_alone(record);
            }
        }
        let view = View { image, config: &self.config };
        let agreed = configs::agree_on_min_isr(&view.at(&draft.image().clone()));
        agreed.into_iter().for_each(|record| draft.add_alone(record));
        draft.decide(()).batches
    }

    /// Decides `request` against `image`, which holds every decision before this one.
    pub fn decide(
        &mut self,
        image: &MetadataImage,
        request: Request,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> Decision {
        let view = View { image, config: &self.config };
        match request {
            Request::CreateTopics(r) => topics::create(&view, r, rng).map(Response::CreateTopics),
            Request::DeleteTopics(r) => topics::delete(&view, r).map(Response::DeleteTopics),
            Request::CreatePartitions(r) => {
                topics::create_partitions(&view, r, rng).map(Response::CreatePartitions)
            }
            Request::AlterConfigs(r) => configs::alter(&view, r).map(Response::AlterConfigs),
            Request::IncrementalAlterConfigs(r) => {
                configs::alter_incrementally(&view, r).map(Response::IncrementalAlterConfigs)
            }
            Request::BrokerRegistration(r) => {
                self.register_broker(image, r, now_ms).map(Response::BrokerRegistration)
            }
            Request::BrokerHeartbeat(r) => {
                self.heartbeat(image, &r, now_ms).map(Response::BrokerHeartbeat)
            }
            Request::UnregisterBroker(r) => {
                self.unregister_broker(image, &r).map(Response::UnregisterBroker)
            }
            Request::AlterPartition(r) => isr::alter(&view, &r).map(Response::AlterPartition),
            Request::AssignReplicasToDirs(r) => {
                directories::assign(&view, &r).map(Response::AssignReplicasToDirs)
            }
            Request::AllocateProducerIds(r) => {
                producer_ids::allocate(&view, &r).map(Response::AllocateProducerIds)
            }
            Request::UpdateFeatures(r) => features::update(&view, r).map(Response::UpdateFeatures),
            Request::ElectLeaders(r) => election::elect(&view, r).map(Response::ElectLeaders),
            Request::AlterPartitionReassignments(r) => {
                reassign::alter(&view, &r).map(Response::AlterPartitionReassignments)
            }
            Request::ExcludeVoter(r) => voters::exclude(&view, r).map(Response::ExcludeVoter),
            Request::ReplicaSizes(r) => self.sizes.report(image, &r).map(Response::ReplicaSizes),
        }
    }
}

impl<R> Decision<R> {
    /// Nothing to propose.
    pub(crate) const fn answer(response: R) -> Self {
        Self { batches: Vec::new(), response }
    }

    fn map<S>(self, wrap: impl FnOnce(R) -> S) -> Decision<S> {
        Decision { batches: self.batches, response: wrap(self.response) }
    }
}

/// What a manager decides against.
#[derive(Debug, Clone, Copy)]
struct View<'a> {
    image: &'a MetadataImage,
    config: &'a Config,
}

impl<'a> View<'a> {
    /// The same node's view of a later image.
    const fn at<'b>(&self, image: &'b MetadataImage) -> View<'b>
    where
        'a: 'b,
    {
        View { image, config: self.config }
    }

    fn with_broker_layers<T>(&self, read: impl FnOnce(BrokerLayers<'_>) -> T) -> T {
        let broker = self.image.config(&ConfigResource::broker(self.config.node));
        let cluster_default = self.image.config(&ConfigResource::all_brokers());
        read(BrokerLayers {
            broker: &broker,
            cluster_default: &cluster_default,
            file: &self.config.file,
        })
    }

    /// A key of the broker that has a number.
    fn broker_number(&self, key: &str) -> i64 {
        let found = self.with_broker_layers(|layers| layers.find(key));
        found.value.and_then(|value| value.as_integer()).expect("the key has a number by default")
    }

    /// A key of the broker that is true or false.
    fn broker_flag(&self, key: &str) -> bool {
        let found = self.with_broker_layers(|layers| layers.find(key));
        found.value.is_some_and(|value| value.to_property() == "true")
    }

    fn topic_config(&self, topic: &str, key: &str) -> Option<Value> {
        let overrides = self.image.config(&ConfigResource::topic(topic));
        self.with_broker_layers(|broker| TopicLayers { topic: &overrides, broker }.find(key).value)
    }
}
