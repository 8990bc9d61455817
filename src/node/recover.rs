//! `ottla quorum recover`: a quorum from a survivor that does not run.
//!
//! Before it does anything it asks the survivor's seeds whether the quorum lives. That only guards
//! against a mistake: a majority that is cut off from here, or not among the seeds, is not found.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use rand::{TryRng as _, rngs::SysRng};
use tokio::time::Instant;

use super::{
    ProcessError,
    process::{QUORUM_DIRECTORY, any_port},
};
use crate::{
    base::{NodeId, SystemClock},
    cert,
    cluster::{Cluster, ClusterConfig, Description},
    config::{ClusterTls, NodeConfig},
    quorum::{self, Member, RocksStore},
    transport::{
        self, NotServed, PeerInfo, Service, Socket, Stream, StreamClass, SystemResolver, Transport,
        TransportConfig,
    },
};

/// How long the leader that the seeds know may take to be confirmed by its majority.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The configuration is not usable, or the store cannot be opened.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// There is no store.
    #[error("there is no metadata store at {0}: is this the survivor's configuration file?")]
    NoStore(PathBuf),
    /// The store is another node's.
    #[error("the metadata store belongs to node {found}, but node.id is {node}")]
    ForeignNode {
        /// Whose it is.
        found: NodeId,
        /// Who asks.
        node: NodeId,
    },
    /// There is no majority to give up.
    #[error(
        "the metadata quorum lives: node {leader} leads it in term {term}, with {active} of its \
         {voters} voters. Start node {node}, and it takes part again"
    )]
    Alive {
        /// Who was asked to go on alone.
        node: NodeId,
        /// Who leads.
        leader: u32,
        /// In which term.
        term: u64,
        /// Voters that the leader hears of, itself included.
        active: usize,
        /// All of them.
        voters: usize,
    },
    /// The quorum refuses, or its store fails.
    #[error(transparent)]
    Quorum(#[from] quorum::RecoverError),
}

/// A voter that the survivor knew.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FormerVoter {
    /// The node.
    pub node: u32,
    /// Its peer id.
    pub peer: u64,
    /// Its directory.
    pub directory: String,
}

/// What a survivor holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Survivor {
    /// The node.
    pub node: u32,
    /// Its peer id before.
    pub peer: u64,
    /// Its cluster.
    pub cluster_id: String,
    /// Its term.
    pub term: u64,
    /// Term of its last entry.
    pub last_term: u64,
    /// Index of its last entry.
    pub last_index: u64,
    /// Last index that it knows to be committed.
    pub committed: u64,
    /// Last index that it has applied.
    pub applied: u64,
    /// The voters that it knew.
    pub voters: Vec<FormerVoter>,
    /// What confirms the recovery.
    pub confirmation: String,
    /// Its peer id from now on, once it is recovered.
    pub recovered_as: Option<u64>,
}

/// Looks at the survivor whose configuration is the file `config`, and makes it the sole voter
/// where `confirmation` says so.
///
/// # Errors
/// See [`RecoverError`].
pub async fn recover(config: &Path, confirmation: Option<&str>) -> Result<Survivor, RecoverError> {
    let config = NodeConfig::load(config).map_err(ProcessError::from)?;
    let store = open(config.data_dirs[0].join(QUORUM_DIRECTORY))?;
    let survey = survey(&store, config.node_id)?;
    if let Some(tls) = &config.cluster_tls {
        let found = look_around(&config, tls, survey.identity.member).await?;
        if let Some(description) = found {
            let voters = description.replicas.iter().filter(|replica| replica.is_voter);
            return Err(RecoverError::Alive {
                node: config.node_id,
                leader: description.leader,
                term: description.term,
                active: voters.clone().filter(|voter| voter.is_active).count(),
                voters: voters.count(),
            });
        }
    }
    recover_in(&store, &survey, confirmation)
}

/// Opens the store, which nobody else may have open.
fn open(path: PathBuf) -> Result<RocksStore, RecoverError> {
    // Opening would make one.
    if !path.join("CURRENT").exists() {
        return Err(RecoverError::NoStore(path));
    }
    let opened = RocksStore::open(&path);
    Ok(opened.map_err(|source| ProcessError::Store { path, source })?)
}

fn survey(store: &RocksStore, node: NodeId) -> Result<quorum::Survey, RecoverError> {
    let survey = quorum::survey(store)?;
    let found = survey.identity.member.node_id;
    if found != node {
        return Err(RecoverError::ForeignNode { found, node });
    }
    Ok(survey)
}

/// What a leader says whom the seeds know, if there is one.
async fn look_around(
    config: &NodeConfig,
    tls: &ClusterTls,
    member: Member,
) -> Result<Option<Description>, ProcessError> {
    let system = |what| move |source| ProcessError::System { what, source };
    let clock = Arc::new(SystemClock);
    let ClusterTls { ca, certificate, key } = tls.clone();
    let files = cert::Files { ca, certificate, key };
    let credentials = files.load(config.node_id, crate::base::Clock::wall_ms(&*clock))?;
    let cluster = Cluster::new(ClusterConfig {
        member,
        cluster_id: Some(credentials.cluster_id()),
        seeds: config.seeds.clone(),
        voters_target: 0,
        suspicion_timeout: Duration::ZERO,
        seed: 0,
    });
    let socket = any_port(&config.cluster_listener.host).and_then(Socket::bind);
    let socket = socket.map_err(system("open a socket"))?;
    let seed = SysRng.try_next_u64();
    let seed = seed.map_err(|error| system("draw a seed")(std::io::Error::other(error)))?;
    let seams = transport::Seams { socket, clock, resolver: Arc::new(SystemResolver), seed };
    let transport_config = TransportConfig::new(config, member.directory_id);
    let started = Transport::start(transport_config, &credentials, seams, Arc::new(Away));
    let transport = started.map_err(|error| ProcessError::Start(Box::new(error.into())))?;
    cluster.connect(transport.clone());
    let found = cluster.describe_from_outside(Instant::now() + LOOK_MAX).await;
    transport.stop().await;
    Ok(found)
}

/// Serves nobody: the node does not run.
struct Away;

impl Service for Away {
    fn admit(&self, _: &PeerInfo) -> Result<(), Cow<'static, str>> {
        Err(Cow::Borrowed("this node does not run; somebody may be about to recover from it"))
    }

    fn message(&self, _: &Arc<PeerInfo>, _: Bytes) {}

    fn call(
        &self,
        _: Arc<PeerInfo>,
        _: Bytes,
        _: Instant,
    ) -> BoxFuture<'static, Result<Bytes, NotServed>> {
        std::future::ready(Err(NotServed::NotReady)).boxed()
    }

    fn stream(&self, _: Arc<PeerInfo>, _: StreamClass, _: Stream) {}
}

fn recover_in(
    store: &RocksStore,
    survey: &quorum::Survey,
    confirmation: Option<&str>,
) -> Result<Survivor, RecoverError> {
    let recovered = confirmation.map(|text| quorum::recover(store, text)).transpose()?;
    let voters = survey.voters().into_iter().map(|(peer, member)| FormerVoter {
        node: member.node_id.0,
        peer,
        directory: member.directory_id.to_string(),
    });
    Ok(Survivor {
        node: survey.identity.member.node_id.0,
        peer: survey.identity.peer_id,
        cluster_id: survey.identity.cluster_id.to_string(),
        term: survey.term,
        last_term: survey.last_term,
        last_index: survey.last_index,
        committed: survey.commit,
        applied: survey.applied,
        voters: voters.collect(),
        confirmation: survey.confirmation(),
        recovered_as: recovered.map(|identity| identity.peer_id),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::{
        base::{ClusterId, DirectoryId},
        quorum::{Configuration, Identity, Member, Store as _},
    };

    #[test]
    fn only_a_used_store_that_no_node_holds_is_recovered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("quorum");
        let recover = |node, text| {
            let store = open(path.clone())?;
            recover_in(&store, &survey(&store, NodeId(node))?, text)
        };
        assert!(matches!(recover(1, None), Err(RecoverError::NoStore(_))));
        assert!(!path.exists());

        let running = RocksStore::open(&path).unwrap();
        let member = |id: u32| Member {
            node_id: NodeId(id),
            directory_id: DirectoryId(Uuid::from_u128(id.into())),
        };
        let cluster_id = ClusterId(Uuid::from_u128(9));
        let identity = Identity { cluster_id, member: member(1), peer_id: 1 };
        let voters = BTreeMap::from([1, 2, 3].map(|id| (u64::from(id), member(id))));
        running.initialize(identity, Some(Configuration::of_voters(voters))).unwrap();
        let held = recover(1, None).unwrap_err();
        assert!(matches!(held, RecoverError::Process(ProcessError::Store { .. })), "{held}");
        drop(running);

        assert!(matches!(recover(2, None), Err(RecoverError::ForeignNode { .. })));
        let survivor = recover(1, None).unwrap();
        assert_eq!((survivor.voters.len(), survivor.recovered_as), (3, None));
        assert!(recover(1, Some("yes")).is_err());
        let recovered = recover(1, Some(&survivor.confirmation)).unwrap();
        assert!(recovered.recovered_as.is_some_and(|peer| peer > 3));
        let again = recover(1, Some(&survivor.confirmation)).unwrap_err();
        assert!(again.to_string().contains("the only voter"), "{again}");
    }
}
