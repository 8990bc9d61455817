//! This node's place in a cluster: how it comes into one, and what keeps it there.

use std::sync::Arc;

use futures::FutureExt as _;
use rand::{RngExt as _, rngs::StdRng};
use tokio::{sync::watch, task::JoinSet};
use tracing::{info, warn};

use super::{Seams, StartError, directories::Directory, readiness, readiness::QUORUM};
use crate::{
    base::ClusterId,
    cert::{self, Credentials},
    cluster::{Cluster, ClusterConfig},
    config::{Address, NodeConfig},
    observability::Readiness,
    quorum::{self, Bootstrap, Environment, Handle, Member, Origin, Quorum, QuorumConfig},
    replication::Opener,
    transport::{self, ConnectError, Resolve, Socket, Transport, TransportConfig},
};

/// How a node that was never used comes into a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// It makes a cluster of its own, such as for development.
    Alone,
    /// It waits until an operator names the first voters, or a cluster takes it in.
    Waits,
}

/// The way to other nodes.
#[derive(Debug)]
pub struct ClusterSeams {
    /// Who this node is, and whom it trusts.
    pub credentials: Credentials,
    /// Where datagrams go.
    pub socket: Socket,
    /// Finds the addresses behind names.
    pub resolver: Arc<dyn Resolve>,
    /// Notices new certificates.
    pub watch: Option<cert::Watch>,
}

/// Comes into a cluster, or back into it.
pub(super) async fn begin(
    config: &NodeConfig,
    directories: &[Directory],
    seams: &mut Seams,
    rng: &mut StdRng,
) -> Result<(Cluster, Quorum), StartError> {
    let member = Member { node_id: config.node_id, directory_id: directories[0].id };
    let cluster_seams = seams.cluster.take();
    let certified = cluster_seams.as_ref().map(|seams| seams.credentials.cluster_id());
    let claimed = claimed(directories, certified)?;
    let cluster = Cluster::new(ClusterConfig {
        member,
        cluster_id: certified,
        seeds: config.seeds.clone(),
        voters_target: config.voters_target,
        suspicion_timeout: config.cluster_suspicion_timeout,
        seed: rng.random(),
    });
    if let Some(cluster_seams) = cluster_seams {
        connect(&cluster, config, member, cluster_seams, seams, rng.random())?;
    }
    seams.operator.serve(cluster.clone());

    let mut quorum_config = QuorumConfig::new(member, rng.random());
    quorum_config.cluster_id = claimed.or(certified);
    let environment = Environment {
        store: Arc::clone(&seams.store),
        blocking: seams.quorum_io.clone(),
        peers: cluster.peers(),
        fatal: Arc::clone(&seams.fatal),
    };
    let started = Quorum::start(quorum_config.clone(), None, environment.clone()).await;
    let quorum: Quorum = match started {
        Err(quorum::StartError::NotBootstrapped) => {
            if let Some(cluster) = directories[0].log.meta().and_then(|meta| meta.cluster_id) {
                let location = directories[0].log.location();
                return Err(StartError::LostStore { location, cluster });
            }
            let origin = match seams.beginning {
                Beginning::Alone => alone(member, claimed.or(certified), rng),
                Beginning::Waits => {
                    let readiness = seams.readiness.clone();
                    cluster.form(move |why| readiness.set(QUORUM, Err(why))).await
                }
            };
            Quorum::start(quorum_config, Some(origin), environment).await?
        }
        other => other?,
    };
    cluster.take_part(quorum.handle());
    Ok((cluster, quorum))
}

fn alone(member: Member, cluster_id: Option<ClusterId>, rng: &mut StdRng) -> Origin {
    let cluster_id = cluster_id.unwrap_or_else(|| ClusterId(super::rng_uuid(rng)));
    info!(%cluster_id, "bootstrap a cluster of one node");
    Bootstrap::single(member, cluster_id).into()
}

/// The cluster that the directories say they belong to.
fn claimed(
    directories: &[Directory],
    certified: Option<ClusterId>,
) -> Result<Option<ClusterId>, StartError> {
    let mut claimed = directories.iter().filter_map(|one| Some((one, one.log.meta()?.cluster_id?)));
    let first = claimed.next();
    match (first, certified) {
        (Some((directory, found)), Some(certified)) if found != certified => {
            let location = directory.log.location();
            Err(StartError::ForeignCertificate { location, found, certified })
        }
        (first, _) => Ok(first.map(|(_, cluster)| cluster)),
    }
}

/// Opens the way to other nodes.
fn connect(
    cluster: &Cluster,
    config: &NodeConfig,
    member: Member,
    cluster_seams: ClusterSeams,
    seams: &Seams,
    seed: u64,
) -> Result<(), StartError> {
    let ClusterSeams { credentials, socket, resolver, watch } = cluster_seams;
    let address = socket.local_addr().map_err(transport::StartError::from)?;
    let advertised = advertised(config, address.port());
    let transport_config =
        TransportConfig { advertised, ..TransportConfig::new(config, member.directory_id) };
    let transport_seams =
        transport::Seams { socket, clock: Arc::clone(&seams.clock), resolver, seed };
    let service = Arc::new(cluster.plane());
    let transport = metrics::with_local_recorder(&seams.registry, || {
        Transport::start(transport_config, &credentials, transport_seams, service)
    })?;
    let shown = transport.clone();
    seams.registry.on_render(Box::new(move |render| super::figures::transport(&shown, render)));
    if let Some(watch) = watch {
        let renewed = transport.clone();
        // Ends with the runtime: it holds nothing but the transport.
        tokio::spawn(watch.run(credentials, move |credentials| {
            if let Err(error) = renewed.set_credentials(&credentials) {
                warn!(%error, "the new certificate cannot be used");
            }
        }));
    }
    info!(%address, "listen to other nodes");
    cluster.connect(transport);
    Ok(())
}

/// Where other nodes reach this one, where any can.
pub(super) fn reached_at(cluster: &Cluster, config: &NodeConfig) -> Option<Address> {
    let bound = cluster.transport()?.local_addr().ok()?.port();
    Some(advertised(config, bound))
}

/// A port of 0 stands for the one that was bound.
fn advertised(config: &NodeConfig, bound: u16) -> Address {
    let mut advertised = config.cluster_advertised_listener.clone();
    if advertised.port == 0 {
        advertised.port = bound;
    }
    advertised
}

/// Opens streams to other nodes.
pub(super) fn opener(cluster: &Cluster) -> Opener {
    let cluster = cluster.clone();
    Arc::new(move |node, class, deadline| {
        let cluster = cluster.clone();
        async move {
            match cluster.transport() {
                Some(transport) => transport.open(node, class, deadline).await,
                None => Err(ConnectError::NoAddress(node).into()),
            }
        }
        .boxed()
    })
}

/// Starts what keeps this node's place.
pub(super) fn keep(
    cluster: &Cluster,
    quorum: &Handle,
    readiness: &Readiness,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    let (refused, refusal) = watch::channel(None);
    tasks.spawn(readiness::follow_quorum(
        quorum.watch_status(),
        |status| status.raft.leader.is_some(),
        refusal,
        readiness.clone(),
    ));
    tasks.spawn(cluster.clone().keep_book());
    tasks.spawn(cluster.clone().stay_known(move |why| drop(refused.send_replace(why))));
    tasks.spawn(cluster.clone().keep_voters(stop.clone()));
    tasks.spawn(cluster.clone().suspect_silent(stop.clone()));
}

/// Waits until this node knows all that the cluster had agreed on when it came.
pub(super) async fn caught_up(quorum: &Handle) {
    let mut status = quorum.watch_status();
    if quorum.read_index().await.is_err() {
        // It has stopped, and the node stops as well.
        return;
    }
    // The first leader's first entry makes the cluster.
    while quorum.image().cluster_id().is_none() {
        if status.changed().await.is_err() {
            return;
        }
    }
}
