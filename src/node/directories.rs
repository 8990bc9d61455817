//! The node's log directories: whose they are.

use std::sync::Arc;

use rand::Rng;

use super::{StartError, new_directory_id};
use crate::{
    base::{Blocking, DirectoryId},
    config::NodeConfig,
    log::{Dir, LogDirectory, MetaProperties, OpenError},
    metadata::directory,
    quorum::Identity,
};

/// A log directory that this node has claimed.
pub(super) struct Directory {
    pub(super) id: DirectoryId,
    pub(super) log: Arc<LogDirectory>,
}

/// Opens the directories; one that was never used gets an id.
pub(super) async fn open(
    config: &NodeConfig,
    dirs: &[Arc<dyn Dir>],
    blocking: &Blocking,
    rng: &mut impl Rng,
) -> Result<Vec<Directory>, StartError> {
    let mut directories = Vec::with_capacity(dirs.len());
    for dir in dirs {
        let opened = Arc::clone(dir);
        let log = match blocking.run(move || LogDirectory::open(opened)).await? {
            Ok(log) => Arc::new(log),
            // The first one holds the metadata of this node; without others it goes on.
            Err(OpenError::Log(error)) if !directories.is_empty() => {
                let log = Arc::new(LogDirectory::failed(Arc::clone(dir), error));
                directories.push(Directory { id: directory::LOST, log });
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let meta = log.meta();
        if let Some(meta) = meta.filter(|meta| meta.node_id != config.node_id) {
            return Err(StartError::ForeignNode {
                location: log.location(),
                found: meta.node_id,
                node: config.node_id,
            });
        }
        let id = meta.map_or_else(|| new_directory_id(rng), |meta| meta.directory_id);
        if meta.is_none() {
            // Durable before the id is told to anybody.
            let meta =
                MetaProperties { cluster_id: None, node_id: config.node_id, directory_id: id };
            write_meta(&log, meta, directories.is_empty(), blocking).await?;
        }
        directories.push(Directory { id, log });
    }
    Ok(directories)
}

/// The ids of those that have not failed.
pub(super) fn working(directories: &[Directory]) -> Vec<DirectoryId> {
    let working = directories.iter().filter(|one| one.log.failure().is_none());
    working.map(|one| one.id).collect()
}

/// Notes the cluster in directories that belong to none yet; refuses those of another.
pub(super) async fn claim(
    directories: &[Directory],
    identity: &Identity,
    blocking: &Blocking,
) -> Result<(), StartError> {
    let cluster = identity.cluster_id;
    for (at, Directory { id, log }) in directories.iter().enumerate() {
        if log.failure().is_some() {
            continue;
        }
        match log.meta().and_then(|meta| meta.cluster_id) {
            Some(found) if found == cluster => {}
            Some(found) => {
                return Err(StartError::ForeignCluster {
                    location: log.location(),
                    found,
                    cluster,
                });
            }
            None => {
                let meta = MetaProperties {
                    cluster_id: Some(cluster),
                    node_id: identity.member.node_id,
                    directory_id: *id,
                };
                write_meta(log, meta, at == 0, blocking).await?;
            }
        }
    }
    Ok(())
}

/// A directory that fails is offline from then on, and the node goes on without it, unless it must
/// have it.
async fn write_meta(
    log: &Arc<LogDirectory>,
    meta: MetaProperties,
    is_needed: bool,
    blocking: &Blocking,
) -> Result<(), StartError> {
    let log = Arc::clone(log);
    let written = blocking.run(move || log.set_meta(meta)).await?;
    if is_needed { Ok(written?) } else { Ok(()) }
}
