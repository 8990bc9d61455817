//! In which log directory a replica is, or is to be (KIP-858).
//!
//! The image names the directory of a replica once this node has told the controller. Until then,
//! and where a disk was replaced, the logs that lie in the directories decide. While a directory is
//! offline, no log is begun for a replica that may have one in it: it would be empty, and lead.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::watch;
use tracing::warn;

use super::{Partition, Partitions};
use crate::{
    base::{BlockingStopped, DirectoryId, PartitionIndex, TopicPartition},
    log::{CreateError, Log, LogDirectory, LogError},
    metadata::{MetadataImage, directory},
};

/// Why a replica is offline.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// Its log cannot be had.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Beginning an empty log would hide the one that may be there.
    #[error("no log of it was found, and {location}, which may hold it, is offline")]
    Hidden { location: String },
}

/// The replicas of this node whose directory the image does not name as it is.
pub type Misplaced = BTreeMap<TopicPartition, DirectoryId>;

impl Partitions {
    /// The log directories that have not failed.
    pub fn working_directories(&self) -> impl Iterator<Item = &Arc<LogDirectory>> {
        self.config.directories.iter().filter(|directory| directory.failure().is_none())
    }

    /// How many log directories have failed.
    #[must_use]
    pub fn failures(&self) -> watch::Receiver<usize> {
        self.failures.subscribe()
    }

    /// Why no log directory works any more, if none does: the first one's failure.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<LogError>> {
        let directories = &self.config.directories;
        let failed = directories.iter().all(|directory| directory.failure().is_some());
        directories.first().filter(|_| failed)?.failure()
    }

    /// The replicas whose directory the controller is to be told of (KIP-858). On a node with one
    /// directory these are only the ones that were in another: it need not be told where else.
    #[must_use]
    pub fn misplaced(&self) -> watch::Receiver<Misplaced> {
        self.misplaced.subscribe()
    }

    /// The controller was told of these.
    pub fn told(&self, told: &Misplaced) {
        self.misplaced.send_if_modified(|misplaced| {
            misplaced.retain(|id, directory| told.get(id) != Some(directory));
            false
        });
    }

    /// Where a replica is, or else is to be: in the directory that the image names, if this node
    /// has it, or else in the one with the fewest logs.
    pub(super) fn place(
        &self,
        id: TopicPartition,
        topic: &str,
        registered: DirectoryId,
    ) -> Result<Arc<LogDirectory>, PlaceError> {
        let directories = &self.config.directories;
        let is_named = |one: &&Arc<LogDirectory>| {
            one.meta().is_some_and(|meta| meta.directory_id == registered)
        };
        let holds = |one: &&Arc<LogDirectory>| {
            one.log(topic, id.partition).is_some_and(|log| log.topic_id() == id.topic)
        };
        let named = directories.iter().find(is_named);
        // A directory that has failed counts only as long as the image does not name another.
        let has =
            |one: &&Arc<LogDirectory>| holds(one) && (named.is_none() || one.failure().is_none());
        let held = named.filter(holds).or_else(|| directories.iter().find(has));
        let offline = directories.iter().find(|directory| directory.failure().is_some());
        if held.is_none() && named.is_some_and(|one| one.has_moved(topic, id.partition)) {
            let location = offline
                .map_or_else(|| "the directory it moved to".to_owned(), |one| one.location());
            return Err(PlaceError::Hidden { location });
        }
        if let Some(known) = held.or(named) {
            return Ok(Arc::clone(known));
        }
        let is_new = self.opened.load(Ordering::Relaxed) && !self.is_offline(id);
        if let Some(offline) = offline.filter(|_| !is_new) {
            return Err(PlaceError::Hidden { location: offline.location() });
        }
        let chosen = self.moves.choice(topic, id.partition);
        let chosen = self.working_directories().find(|one| Some(one.location()) == chosen);
        if let Some(chosen) = chosen {
            return Ok(Arc::clone(chosen));
        }
        let emptiest = self.working_directories().min_by_key(|directory| directory.logs().len());
        Ok(Arc::clone(emptiest.unwrap_or(&directories[0])))
    }

    /// Of several logs of one replica the one counts that lies where the image says: another was
    /// begun there while the directory of this one was offline. The others are kept aside.
    pub(super) async fn set_doubles_aside(
        &self,
        image: &MetadataImage,
    ) -> Result<(), BlockingStopped> {
        let node = self.config.node.node_id;
        let mut seen = BTreeMap::<String, (Arc<LogDirectory>, Arc<Log>)>::new();
        let mut aside = Vec::new();
        for directory in self.working_directories() {
            for log in directory.logs() {
                let name = log.name().to_owned();
                let Some((other, of)) = seen.remove(&name) else {
                    seen.insert(name, (Arc::clone(directory), log));
                    continue;
                };
                let index = name.rsplit_once('-').and_then(|(_, index)| index.parse().ok());
                let said = index.and_then(|index| {
                    let id =
                        TopicPartition { topic: log.topic_id(), partition: PartitionIndex(index) };
                    image.partition(id)?.directory(node)
                });
                let is_said = directory.meta().map(|meta| meta.directory_id) == said;
                let ((kept, log), stray) = if is_said {
                    ((Arc::clone(directory), log), (other, of))
                } else {
                    ((other, of), (Arc::clone(directory), log))
                };
                seen.insert(name, (kept, log));
                aside.push(stray);
            }
        }
        let set_aside = move || {
            for (directory, log) in aside {
                let location = directory.location();
                warn!(
                    log = log.name(),
                    directory = location,
                    "a log is set aside, as another directory has the replica's by now: remove its \
                     directory, whose name ends in -stray, once nothing in it is missed"
                );
                if let Err(error) = directory.set_aside(&log) {
                    warn!(log = log.name(), directory = location, %error, "it was not set aside");
                }
            }
        };
        self.config.blocking.run(set_aside).await
    }

    /// Notes which of these replicas the image has in another directory than they are in.
    pub(super) fn compare_places(&self, image: &MetadataImage, ids: &[TopicPartition]) {
        let is_only_one = self.config.directories.len() == 1;
        let node = self.config.node.node_id;
        self.misplaced.send_if_modified(|misplaced| {
            let mut changed = false;
            for id in ids {
                let said = image.partition(*id).and_then(|partition| partition.directory(node));
                let is = match self.lookup(*id) {
                    _ if is_only_one && said == Some(directory::UNASSIGNED) => None,
                    Some(partition) => self.holder(&partition),
                    // Where the image names a directory, that one is known to be offline.
                    None => (said == Some(directory::UNASSIGNED)).then_some(directory::LOST),
                };
                let is = is.filter(|is| said.is_some_and(|said| said != *is));
                changed |= is.is_some();
                match is {
                    Some(is) => drop(misplaced.insert(*id, is)),
                    None => drop(misplaced.remove(id)),
                }
            }
            changed
        });
    }

    /// The directory that holds the replica.
    pub(super) fn holder(&self, partition: &Partition) -> Option<DirectoryId> {
        let (topic, index) = (partition.topic(), partition.id().partition);
        let mut directories = self.config.directories.iter();
        let holds = |directory: &&Arc<LogDirectory>| {
            directory.log(topic, index).is_some_and(|log| Arc::ptr_eq(&log, &partition.log()))
        };
        Some(directories.find(holds)?.meta()?.directory_id)
    }
}
