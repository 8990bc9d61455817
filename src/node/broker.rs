//! This node as a broker of the cluster: registration and heartbeats.

use std::time::Duration;

use kafka_protocol::messages::{
    BrokerHeartbeatRequest, BrokerRegistrationRequest,
    broker_registration_request::{Feature, Listener as RegisteredListener},
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::{info, warn};
use uuid::Uuid;

use super::{StartError, readiness::REGISTRATION};
use crate::{
    api::Context,
    base::{BrokerEpoch, DirectoryId},
    cluster::LeaderError,
    config::{Address, NodeConfig, SecurityProtocol},
    controller::{Request, Response},
    metadata::{Broker, CLUSTER_LISTENER, features},
    net::Listener,
    observability::Readiness,
    protocol::{ResponseError, StrBytes},
};

/// How long the controller may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The controller does not take this node.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// It said why.
    #[error("the controller refuses this broker: {0}")]
    Refused(ResponseError),
    /// It does not answer.
    #[error("the controller does not answer")]
    Unanswered(#[from] LeaderError),
}

/// Where clients reach this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) protocol: SecurityProtocol,
}

/// What this node tells the cluster of itself.
#[derive(Debug, Clone)]
pub(super) struct Registration {
    pub(super) endpoints: Vec<Endpoint>,
    /// Where other nodes reach this one; none for a node that is alone.
    pub(super) cluster: Option<Address>,
    pub(super) directories: Vec<DirectoryId>,
    pub(super) incarnation: Uuid,
    /// Its logs were closed in order, so that it may lead what it led.
    pub(super) was_clean: bool,
}

/// What the node advertises; a port of 0 stands for the one that was bound.
pub(super) fn endpoints<L: Listener>(
    config: &NodeConfig,
    listeners: &[(String, L)],
) -> Result<Vec<Endpoint>, StartError> {
    let mut endpoints = Vec::with_capacity(listeners.len());
    for advertised in &config.advertised_listeners {
        let bound = listeners.iter().find(|(name, _)| *name == advertised.name);
        let port = match (advertised.port, bound) {
            (0, Some((name, listener))) => {
                let address = listener.local_addr();
                address
                    .map_err(|source| StartError::Listener { name: name.clone(), source })?
                    .port()
            }
            (port, _) => port,
        };
        endpoints.push(Endpoint {
            name: advertised.name.clone(),
            host: advertised.host.clone(),
            port,
            protocol: advertised.protocol,
        });
    }
    Ok(endpoints)
}

/// How long a refusal may last that time may cure.
const REGISTRATION_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// Registers this node for the first time since its start, however long the controller is away.
///
/// # Errors
/// Where the controller refuses it.
pub(super) async fn enter(
    context: &Context,
    registration: &Registration,
    readiness: &Readiness,
) -> Result<BrokerEpoch, RegistrationError> {
    let started = Instant::now();
    loop {
        match register(context, registration).await {
            // An earlier process of this node lives until its lease ends, for all that is known.
            Err(RegistrationError::Refused(error @ ResponseError::DuplicateBrokerRegistration))
                if started.elapsed() < REGISTRATION_MAX =>
            {
                let why = format!("the controller still knows an earlier process of it ({error})");
                readiness.set(REGISTRATION, Err(why));
            }
            Err(RegistrationError::Unanswered(error)) => {
                readiness.set(REGISTRATION, Err(error.to_string()));
            }
            outcome => return outcome,
        }
        time::sleep(PAUSE).await;
    }
}

/// Registers this node and waits until it is unfenced: from then on it may lead.
pub(super) async fn register(
    context: &Context,
    registration: &Registration,
) -> Result<BrokerEpoch, RegistrationError> {
    let request = Request::BrokerRegistration(request(context, registration));
    let (response, index) = ask(context, request).await?;
    let Response::BrokerRegistration(response) = response else {
        return Err(RegistrationError::Refused(ResponseError::UnknownServerError));
    };
    if let Some(error) = ResponseError::try_from_code(response.error_code) {
        return Err(RegistrationError::Refused(error));
    }
    let epoch = BrokerEpoch(response.broker_epoch);
    context.published.wait_for(index).await;
    loop {
        context.published.wait_for(context.quorum.applied_index()).await;
        if !beat(context, epoch, false).await? {
            break;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    info!(%epoch, "registered as a broker");
    Ok(epoch)
}

fn request(context: &Context, registration: &Registration) -> BrokerRegistrationRequest {
    let image = context.quorum.image();
    let node = context.node_id();
    let cluster = registration.cluster.iter().map(|address| {
        RegisteredListener::default()
            .with_name(StrBytes::from_static_str(CLUSTER_LISTENER))
            .with_host(StrBytes::from_string(address.host.clone()))
            .with_port(address.port)
            .with_security_protocol(SecurityProtocol::Ssl.wire())
    });
    let listeners = registration.endpoints.iter().map(|endpoint| {
        RegisteredListener::default()
            .with_name(StrBytes::from_string(endpoint.name.clone()))
            .with_host(StrBytes::from_string(endpoint.host.clone()))
            .with_port(endpoint.port)
            .with_security_protocol(endpoint.protocol.wire())
    });
    let features = features::supported_by_this_release().into_iter().map(|feature| {
        let level = |level: i32| i16::try_from(level).unwrap_or(i16::MAX);
        Feature::default()
            .with_name(StrBytes::from_string(feature.name))
            .with_min_supported_version(level(feature.min_supported_version))
            .with_max_supported_version(level(feature.max_supported_version))
    });
    let known = image.broker(node).filter(|_| registration.was_clean);
    let cluster_id = image.cluster_id().map(|id| id.to_string()).unwrap_or_default();
    BrokerRegistrationRequest::default()
        .with_broker_id(node.wire().into())
        .with_cluster_id(StrBytes::from_string(cluster_id))
        .with_incarnation_id(registration.incarnation)
        .with_listeners(listeners.chain(cluster).collect())
        .with_features(features.collect())
        .with_rack(context.node.rack.clone().map(StrBytes::from_string))
        .with_log_dirs(registration.directories.iter().map(|id| id.0).collect())
        .with_previous_broker_epoch(known.map_or(-1, |broker| broker.epoch.0))
}

/// One heartbeat. Returns whether this node is fenced.
async fn beat(
    context: &Context,
    epoch: BrokerEpoch,
    want_shut_down: bool,
) -> Result<bool, RegistrationError> {
    let directories = context.partitions.directories();
    let offline = directories.iter().filter(|directory| directory.failure().is_some());
    let offline = offline.filter_map(|directory| Some(directory.meta()?.directory_id.0));
    let applied = i64::try_from(context.published.image().applied_index()).unwrap_or(i64::MAX);
    let request = BrokerHeartbeatRequest::default()
        .with_broker_id(context.node_id().wire().into())
        .with_broker_epoch(epoch.0)
        .with_current_metadata_offset(applied)
        .with_want_shut_down(want_shut_down)
        .with_offline_log_dirs(offline.collect());
    let (response, index) = ask(context, Request::BrokerHeartbeat(request)).await?;
    let Response::BrokerHeartbeat(response) = response else {
        return Err(RegistrationError::Refused(ResponseError::UnknownServerError));
    };
    match ResponseError::try_from_code(response.error_code) {
        Some(error) => Err(RegistrationError::Refused(error)),
        None => {
            // What being unfenced brought (leaderships) is followed before the first client is
            // served.
            context.published.wait_for(index).await;
            Ok(response.is_fenced)
        }
    }
}

async fn ask(context: &Context, request: Request) -> Result<(Response, u64), LeaderError> {
    // Each of them is the same done twice.
    context.controllers.request(request, None, Instant::now() + PATIENCE).await
}

/// How long the controller may take to relieve a node that stops.
const FAREWELL: Duration = Duration::from_secs(5);
const FAREWELL_PAUSE: Duration = Duration::from_millis(20);

/// Has the controller give this node's leaderships to others, where there are any, so that clients
/// need not wait for the end of its lease.
pub(super) async fn leave(context: &Context) {
    let image = context.image();
    let node = context.node_id();
    let Some(own) = image.broker(node).filter(|broker| !broker.fenced) else { return };
    if !image.brokers().any(|broker| broker.id != node && broker.is_active()) {
        return;
    }
    // Fenced as soon as all others say that they know who leads instead.
    let relieved = async {
        while !beat(context, own.epoch, true).await? {
            time::sleep(FAREWELL_PAUSE).await;
        }
        Ok::<_, RegistrationError>(())
    };
    match time::timeout(FAREWELL, relieved).await {
        Ok(Ok(())) => info!("the controller relieved this broker of its partitions"),
        Ok(Err(error)) => warn!(%error, "this broker leaves without being relieved"),
        Err(_) => warn!("this broker leaves before all others know who leads instead"),
    }
}

fn leaves(broker: &Broker) -> bool {
    broker.in_controlled_shutdown && !broker.fenced
}

/// Keeps the lease of this node alive until it stops.
pub(super) async fn heartbeat(
    context: Context,
    registration: Registration,
    mut epoch: BrokerEpoch,
    mut stop: watch::Receiver<bool>,
) {
    let mut failures = context.partitions.failures();
    let own = context.node_id();
    let mut told = 0;
    loop {
        let every = context.broker_config().broker_heartbeat_interval_ms;
        let every = Duration::from_millis(u64::try_from(every).unwrap_or(2_000));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = time::sleep(every) => {}
            // The sooner others lead what was in a log directory that has failed.
            Ok(()) = failures.changed() => {}
            // The sooner one that waits for this node to know may go, and this one is unfenced.
            () = context.published.wait_until(|image| {
                let waits = |one: &Broker| if one.id == own { one.fenced } else { leaves(one) };
                image.applied_index() > told && image.brokers().any(|one| waits(one))
            }) => {}
        }
        told = context.image().applied_index();
        match beat(&context, epoch, false).await {
            Ok(false) => {}
            Ok(true) => warn!("this broker is fenced"),
            Err(RegistrationError::Refused(
                ResponseError::StaleBrokerEpoch | ResponseError::BrokerIdNotRegistered,
            )) => match register(&context, &registration).await {
                Ok(registered) => epoch = registered,
                Err(error) => warn!(%error, "cannot register again"),
            },
            Err(error) => warn!(%error, "a heartbeat failed"),
        }
    }
}
