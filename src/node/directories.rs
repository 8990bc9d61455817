//! The node's log directories: whose they are.

use std::sync::Arc;

use rand::Rng;

use super::{StartError, new_directory_id};
use crate::{
    base::{Blocking, DirectoryId},
    config::NodeConfig,
    log::{Dir, LogDirectory, MetaProperties},
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
        let dir = Arc::clone(dir);
        let log = Arc::new(blocking.run(move || LogDirectory::open(dir)).await??);
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
            write_meta(&log, meta, blocking).await?;
        }
        directories.push(Directory { id, log });
    }
    Ok(directories)
}

/// Notes the cluster in directories that belong to none yet; refuses those of another.
pub(super) async fn claim(
    directories: &[Directory],
    identity: &Identity,
    blocking: &Blocking,
) -> Result<(), StartError> {
    let cluster = identity.cluster_id;
    for Directory { id, log } in directories {
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
                write_meta(log, meta, blocking).await?;
            }
        }
    }
    Ok(())
}

async fn write_meta(
    log: &Arc<LogDirectory>,
    meta: MetaProperties,
    blocking: &Blocking,
) -> Result<(), StartError> {
    let log = Arc::clone(log);
    Ok(blocking.run(move || log.set_meta(meta)).await??)
}
