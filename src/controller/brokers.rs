//! Brokers: registration, leases, fencing, controlled shutdown.
//!
//! A broker registers fenced, under an epoch greater than all before, and is unfenced by its first
//! heartbeat that shows it has caught up with its registration. Each heartbeat renews its lease for
//! `broker.session.timeout.ms`; [`Controller::tick`] fences those whose lease ran out. A broker that
//! registers without the epoch of its last clean stop may have lost the tail of its logs, and counts
//! as out of sync everywhere.
//!
//! A broker that loses some of its log directories loses the replicas in them. One that loses all
//! is fenced, and its registration keeps naming them, so that its next start can be told from that
//! of a node with other disks.
//!
//! A broker that wants to shut down is relieved of what another replica in sync can lead, and leaves
//! the ISR of what others lead. When all others have applied that, it is fenced and may go. So no
//! client is sent to it by a broker that does not know yet, and what it alone can lead is served to
//! the end.
//!
//! Where a broker loses its place, the partitions change first and its registration last; where it
//! gains it, the other way round. So no prefix of the entries has a fenced leader.

use std::collections::BTreeMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationRequest,
        BrokerRegistrationResponse, UnregisterBrokerRequest, UnregisterBrokerResponse,
    },
};

use crate::{
    base::{BrokerEpoch, DirectoryId, NodeId, TopicId},
    controller::{
        Controller, Decision, View,
        configs::{MIN_ISR, has_elr},
        directories::forget,
        draft::Draft,
        election::{Change, Rules},
    },
    metadata::{
        Broker, MetadataImage, Partition, features,
        records::{
            BrokerEndpoint, BrokerFeature, BrokerRegistrationChangeRecord, RegisterBrokerRecord,
            UnregisterBrokerRecord,
        },
    },
};

/// The controller's patience with a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    epoch: BrokerEpoch,
    expires_ms: u64,
    /// What the broker must have applied before it is unfenced.
    catch_up_to: u64,
    /// What it said that it has applied.
    applied: u64,
    /// What all others must have applied before it may shut down.
    shut_down_at: Option<u64>,
}

/// Whether a partition may be left without a leader, or with one that was out of sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaderless {
    Allowed,
    Avoided,
}

/// The broker of this id, if its epoch is `epoch`.
pub(super) fn registered(
    image: &MetadataImage,
    id: i32,
    epoch: i64,
) -> Result<&Broker, ResponseError> {
    let broker = u32::try_from(id).ok().and_then(|id| image.broker(NodeId(id)));
    let broker = broker.ok_or(ResponseError::BrokerIdNotRegistered)?;
    if broker.epoch.0 == epoch { Ok(broker) } else { Err(ResponseError::StaleBrokerEpoch) }
}

impl View<'_> {
    pub(super) fn rules(&self, topic: &str) -> Rules {
        let min_isr = self.topic_config(topic, MIN_ISR);
        let min_isr = min_isr.and_then(|value| value.as_integer()).unwrap_or(1);
        let unclean = self.topic_config(topic, "unclean.leader.election.enable");
        Rules {
            unclean: unclean.is_some_and(|value| value.to_property() == "true"),
            min_isr: usize::try_from(min_isr).unwrap_or(1),
            elr: has_elr(self.image),
        }
    }
}

impl Controller {
    /// Fences the brokers whose lease ran out, and does what is done at intervals.
    pub fn tick(&mut self, image: &MetadataImage, now_ms: u64) -> Decision<()> {
        let mut draft = Draft::new(image);
        self.fence_expired(&mut draft, now_ms);
        self.upkeep.tick(&self.config, &mut self.sizes, &mut draft, now_ms);
        draft.decide(())
    }

    fn fence_expired(&mut self, draft: &mut Draft, now_ms: u64) {
        let image = draft.image().clone();
        self.leases.retain(|id, lease| {
            image.broker(*id).is_some_and(|broker| broker.epoch == lease.epoch)
        });
        let expired: Vec<NodeId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires_ms <= now_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            if draft.image().broker(id).is_some_and(|broker| !broker.fenced) {
                // Its lease stays until the image has it: what is decided here may be refused.
                self.fence(draft, id);
            } else {
                self.leases.remove(&id);
            }
        }
    }

    /// When [`Controller::tick`] has something to do next, if nothing else happens.
    #[must_use]
    pub fn next_tick_ms(&self) -> Option<u64> {
        let leases = self.leases.values().map(|lease| lease.expires_ms);
        leases.chain([self.upkeep.due_ms()]).min()
    }

    pub(super) fn grant_leases(&mut self, image: &MetadataImage, now_ms: u64) {
        let unfenced = image.brokers().filter(|broker| !broker.fenced);
        for broker in unfenced {
            self.renew(image, broker.id, broker.epoch, now_ms);
        }
    }

    fn renew(&mut self, image: &MetadataImage, id: NodeId, epoch: BrokerEpoch, now_ms: u64) {
        let view = View { image, config: &self.config };
        let timeout_ms = view.broker_number("broker.session.timeout.ms");
        let expires_ms = now_ms.saturating_add(u64::try_from(timeout_ms).unwrap_or(0));
        let known = self.leases.get(&id).filter(|lease| lease.epoch == epoch);
        let lease = match known {
            Some(lease) => Lease { expires_ms, ..*lease },
            None => Lease {
                epoch,
                expires_ms,
                catch_up_to: image.applied_index(),
                applied: 0,
                shut_down_at: None,
            },
        };
        self.leases.insert(id, lease);
    }

    pub(super) fn register_broker(
        &mut self,
        image: &MetadataImage,
        request: BrokerRegistrationRequest,
        now_ms: u64,
    ) -> Decision<BrokerRegistrationResponse> {
        let response = BrokerRegistrationResponse::default();
        let (id, known) = match self.may_register(image, &request) {
            Ok(accepted) => accepted,
            Err(error) => return Decision::answer(response.with_error_code(error.code())),
        };
        let mut draft = Draft::new(image);
        // The same start of the process asks again: its answer was lost.
        if let Some(broker) = known.filter(|b| b.incarnation_id == request.incarnation_id) {
            self.renew(image, id, broker.epoch, now_ms);
            return Decision::answer(response.with_broker_epoch(broker.epoch.0));
        }
        if let Some(broker) = known {
            let clean = request.previous_broker_epoch == broker.epoch.0;
            self.relieve(&mut draft, id, (!clean).then_some(id), &|_| true, Leaderless::Allowed);
            if !shares_directory(broker, &request) {
                for at in image.partitions_of(id) {
                    forget(&mut draft, at, id);
                }
            }
        }
        let epoch = BrokerEpoch(image.last_broker_epoch().0 + 1);
        draft.add_alone(registration(id, epoch, request));
        self.leases.remove(&id);
        self.renew(image, id, epoch, now_ms);
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.catch_up_to += 1;
        }
        draft.decide(response.with_broker_epoch(epoch.0))
    }

    fn may_register<'a>(
        &self,
        image: &'a MetadataImage,
        request: &BrokerRegistrationRequest,
    ) -> Result<(NodeId, Option<&'a Broker>), ResponseError> {
        let id = u32::try_from(request.broker_id.0).map_err(|_| ResponseError::InvalidRequest)?;
        let cluster_id = image.cluster_id().map(|id| id.to_string());
        if cluster_id.as_deref() != Some(request.cluster_id.as_str()) {
            return Err(ResponseError::InconsistentClusterId);
        }
        if request.listeners.is_empty() || request.log_dirs.is_empty() {
            return Err(ResponseError::InvalidRegistration);
        }
        for (name, level) in image.features() {
            let supported = request.features.iter().find(|feature| feature.name.as_str() == name);
            let holds = supported.is_some_and(|feature| {
                (feature.min_supported_version..=feature.max_supported_version)
                    .contains(&(level as i16))
            });
            // Kafka's brokers need not know of every feature, but Ottla's gate of records they must.
            if !holds && (supported.is_some() || name == features::METADATA_VERSION) {
                return Err(ResponseError::UnsupportedVersion);
            }
        }
        let id = NodeId(id);
        let known = image.broker(id).map(|broker| &**broker);
        // Another process lives under this id while its lease runs, unless it said goodbye.
        let other = known.filter(|b| b.incarnation_id != request.incarnation_id && !b.fenced);
        match other {
            // The directories are locked by their process: who has them is its successor.
            Some(broker) if !shares_directory(broker, request) => {
                Err(ResponseError::DuplicateBrokerRegistration)
            }
            _ => Ok((id, known)),
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        image: &MetadataImage,
        request: &BrokerHeartbeatRequest,
        now_ms: u64,
    ) -> Decision<BrokerHeartbeatResponse> {
        let response = BrokerHeartbeatResponse::default();
        let broker = match registered(image, request.broker_id.0, request.broker_epoch) {
            Ok(broker) => broker,
            Err(error) => return Decision::answer(response.with_error_code(error.code())),
        };
        let id = broker.id;
        self.renew(image, id, broker.epoch, now_ms);
        let applied = u64::try_from(request.current_metadata_offset).unwrap_or(0);
        let caught_up = self.leases.get_mut(&id).is_some_and(|lease| {
            lease.applied = applied;
            applied >= lease.catch_up_to
        });
        let mut draft = Draft::new(image);
        let works = |directory: &DirectoryId| !request.offline_log_dirs.contains(&directory.0);
        let wants_fence = request.want_fence || !broker.directories.iter().any(works);
        if !wants_fence {
            self.directories_failed(&mut draft, broker, &request.offline_log_dirs);
        }
        if broker.fenced {
            if caught_up && !wants_fence && !request.want_shut_down {
                self.unfence(&mut draft, id);
            }
        } else if wants_fence {
            self.fence(&mut draft, id);
        } else if request.want_shut_down {
            self.shut_down(&mut draft, broker);
        }
        let fenced = draft.image().broker(id).is_none_or(|broker| broker.fenced);
        draft.decide(
            response
                .with_is_caught_up(caught_up)
                .with_is_fenced(fenced)
                .with_should_shut_down(fenced && request.want_shut_down),
        )
    }

    pub(super) fn unregister_broker(
        &mut self,
        image: &MetadataImage,
        request: &UnregisterBrokerRequest,
    ) -> Decision<UnregisterBrokerResponse> {
        let response = UnregisterBrokerResponse::default().with_error_message(None);
        let id = u32::try_from(request.broker_id.0).ok().map(NodeId);
        let Some(broker) = id.and_then(|id| image.broker(id)) else {
            let error = ResponseError::BrokerIdNotRegistered;
            let message = format!("Broker ID {} is not currently registered", request.broker_id.0);
            return Decision::answer(
                response.with_error_code(error.code()).with_error_message(Some(message.into())),
            );
        };
        let mut draft = Draft::new(image);
        self.relieve(&mut draft, broker.id, Some(broker.id), &|_| true, Leaderless::Allowed);
        draft.add_alone(UnregisterBrokerRecord {
            broker_id: broker.id.0,
            broker_epoch: broker.epoch.0,
        });
        self.leases.remove(&broker.id);
        draft.decide(response)
    }

    fn fence(&self, draft: &mut Draft, id: NodeId) {
        self.relieve(draft, id, None, &|_| true, Leaderless::Allowed);
        if let Some(mut change) = change_of(draft, id) {
            change.fenced = Some(true);
            draft.add_alone(change);
        }
    }

    fn shut_down(&mut self, draft: &mut Draft, broker: &Broker) {
        let id = broker.id;
        if !broker.in_controlled_shutdown {
            self.relieve(draft, id, None, &|_| true, Leaderless::Avoided);
            if let Some(mut change) = change_of(draft, id) {
                change.in_controlled_shutdown = Some(true);
                draft.add_alone(change);
            }
        }
        let newest = draft.next_index().saturating_sub(1);
        let Some(lease) = self.leases.get_mut(&id) else { return };
        // Anew where what was decided before was refused. A new controller takes what it found for
        // what the others must know.
        let decided = lease.shut_down_at.filter(|_| broker.in_controlled_shutdown);
        let at = *lease.shut_down_at.insert(decided.unwrap_or(newest));
        let knows = |other: &Broker| {
            !other.is_active() || self.leases.get(&other.id).is_some_and(|l| l.applied >= at)
        };
        if draft.image().brokers().all(|other| other.id == id || knows(other)) {
            self.fence(draft, id);
        }
    }

    fn unfence(&mut self, draft: &mut Draft, id: NodeId) {
        self.upkeep.handle_return(id);
        if let Some(mut change) = change_of(draft, id) {
            change.fenced = Some(false);
            draft.add_alone(change);
        }
        let image = draft.image().clone();
        let mut rules = RulesByTopic::default();
        for at in image.partitions_of(id) {
            // Only partitions without a leader wait for this broker.
            let Some(partition) = image.partition(at).filter(|p| p.leader.is_none()) else {
                continue;
            };
            let change = Change {
                at,
                partition,
                isr: partition.isr.to_vec(),
                unclean_shutdown: None,
                image: &image,
                barred: None,
                prefer: false,
                rules: rules.of(&View { image: &image, config: &self.config }, at.topic),
                assignment: None,
                recovered: false,
            };
            if let Some(record) = change.build() {
                draft.add_alone(record);
            }
        }
    }

    /// Takes `id` out of the ISR of its partitions in `directories`, and elects others where it led;
    /// but leaves alone those that nobody in sync could lead, if that is to be avoided.
    fn relieve(
        &self,
        draft: &mut Draft,
        id: NodeId,
        unclean_shutdown: Option<NodeId>,
        directories: &dyn Fn(DirectoryId) -> bool,
        leaderless: Leaderless,
    ) {
        let image = draft.image().clone();
        let mut rules = RulesByTopic::default();
        for at in image.partitions_of(id) {
            let Some(partition) = image.partition(at) else { continue };
            let has_a_part = partition.leader == Some(id)
                || partition.isr.contains(&id)
                || partition.eligible_leader_replicas.contains(&id);
            if !has_a_part || !partition.directory(id).is_some_and(directories) {
                continue;
            }
            let change = Change {
                at,
                partition,
                isr: partition.isr.iter().copied().filter(|node| *node != id).collect(),
                unclean_shutdown,
                image: &image,
                barred: Some(id),
                prefer: false,
                rules: rules.of(&View { image: &image, config: &self.config }, at.topic),
                assignment: None,
                recovered: false,
            };
            let record = change.build().filter(|record| {
                let leader = match record.leader {
                    Some(change) => change.leader.map(NodeId),
                    None => partition.leader,
                };
                let is_led = leader.is_some_and(|leader| partition.isr.contains(&leader));
                leaderless == Leaderless::Allowed || is_led
            });
            if let Some(record) = record {
                draft.add_alone(record);
            }
        }
    }

    fn directories_failed(&self, draft: &mut Draft, broker: &Broker, offline: &[uuid::Uuid]) {
        let failed = |directory: DirectoryId| {
            offline.contains(&directory.0) && broker.directories.contains(&directory)
        };
        if !broker.directories.iter().any(|directory| failed(*directory)) {
            return;
        }
        self.relieve(draft, broker.id, Some(broker.id), &failed, Leaderless::Allowed);
        if let Some(mut change) = change_of(draft, broker.id) {
            let online = broker.directories.iter().copied().filter(|d| !failed(*d));
            change.log_dirs = Some(online.collect());
            draft.add_alone(change);
        }
    }
}

/// The rules of a topic are looked up once for all its partitions.
#[derive(Debug, Default)]
pub(super) struct RulesByTopic(BTreeMap<TopicId, Rules>);

impl RulesByTopic {
    pub(super) fn of(&mut self, view: &View<'_>, topic: TopicId) -> Rules {
        let name = || view.image.topic(topic).map_or("", |topic| &*topic.name);
        *self.0.entry(topic).or_insert_with(|| view.rules(name()))
    }
}

/// Whether the broker may lead, as far as its state and its replica's directory go.
pub(super) fn may_lead(image: &MetadataImage, partition: &Partition, node: NodeId) -> bool {
    image.broker(node).is_some_and(|broker| partition.is_active_on(broker))
}

fn shares_directory(broker: &Broker, request: &BrokerRegistrationRequest) -> bool {
    request.log_dirs.iter().any(|id| broker.directories.contains(&DirectoryId(*id)))
}

fn change_of(draft: &Draft, id: NodeId) -> Option<BrokerRegistrationChangeRecord> {
    let broker = draft.image().broker(id)?;
    Some(BrokerRegistrationChangeRecord::new(id, broker.epoch))
}

fn registration(
    id: NodeId,
    epoch: BrokerEpoch,
    request: BrokerRegistrationRequest,
) -> RegisterBrokerRecord {
    let endpoint =
        |l: kafka_protocol::messages::broker_registration_request::Listener| BrokerEndpoint {
            name: l.name.to_string(),
            host: l.host.to_string(),
            port: u32::from(l.port),
            security_protocol: i32::from(l.security_protocol),
        };
    let feature =
        |f: kafka_protocol::messages::broker_registration_request::Feature| BrokerFeature {
            name: f.name.to_string(),
            min_supported_version: i32::from(f.min_supported_version),
            max_supported_version: i32::from(f.max_supported_version),
        };
    RegisterBrokerRecord {
        broker_id: id.0,
        incarnation_id: request.incarnation_id.into(),
        broker_epoch: epoch.0,
        end_points: request.listeners.into_iter().map(endpoint).collect(),
        features: request.features.into_iter().map(feature).collect(),
        rack: request.rack.map(|rack| rack.to_string()),
        fenced: true,
        in_controlled_shutdown: false,
        log_dirs: request.log_dirs.into_iter().map(Into::into).collect(),
    }
}
