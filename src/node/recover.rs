//! `ottla quorum recover`: a quorum from a survivor that does not run.

use std::path::{Path, PathBuf};

use super::{ProcessError, process::QUORUM_DIRECTORY};
use crate::{
    base::NodeId,
    config::NodeConfig,
    quorum::{self, RocksStore},
};

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
    #[error("the metadata store {path} belongs to node {found}, but node.id is {node}")]
    ForeignNode {
        /// The store.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asks.
        node: NodeId,
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

/// Looks at the survivor whose configuration is the file `config`, and makes it the sole voter where
/// `confirmation` says so.
///
/// # Errors
/// See [`RecoverError`].
pub fn recover(config: &Path, confirmation: Option<&str>) -> Result<Survivor, RecoverError> {
    let config = NodeConfig::load(config).map_err(ProcessError::from)?;
    recover_in(config.data_dirs[0].join(QUORUM_DIRECTORY), config.node_id, confirmation)
}

fn recover_in(
    path: PathBuf,
    node: NodeId,
    confirmation: Option<&str>,
) -> Result<Survivor, RecoverError> {
    // Opening would make one.
    if !path.join("CURRENT").exists() {
        return Err(RecoverError::NoStore(path));
    }
    let opened = RocksStore::open(&path);
    let store = opened.map_err(|source| ProcessError::Store { path: path.clone(), source })?;
    let survey = quorum::survey(&store)?;
    let found = survey.identity.member.node_id;
    if found != node {
        return Err(RecoverError::ForeignNode { path, found, node });
    }
    let recovered = confirmation.map(|text| quorum::recover(&store, text)).transpose()?;
    let voters = survey.voters().into_iter().map(|(peer, member)| FormerVoter {
        node: member.node_id.0,
        peer,
        directory: member.directory_id.to_string(),
    });
    Ok(Survivor {
        node: found.0,
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
        let recover = |node, text| recover_in(path.clone(), NodeId(node), text);
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
