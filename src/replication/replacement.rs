//! Replicas of a log directory that failed are begun anew in another directory of the node.
//!
//! # Goals
//! A partition has as many replicas again as it should, also where nobody repairs the disk.
//!
//! # Constraints
//! - Nothing is begun anew that is the only one, or the last one known to be in sync: the leader is
//!   another, active node, and this replica is not in the ISR.
//! - The node and with it the racks stay as they are: only the directory changes.
//! - A directory is not filled beyond [`KEPT_FREE`] of its volume.
//! - The controller knows before the empty log exists, so that it is never taken for the one that
//!   was lost (`controller::directories`).
//!
//! # Algorithm
//! The largest replica first, each goes to the working directory whose volume has the most room left,
//! what was planned before counted in. Once the image names that directory, the replica that is
//! offline makes way and its log is begun there; it catches up from the leader as any other.
//!
//! # Example
//! Of `/a`, `/b` with 100 GiB of room and `/c` with 300, `/a` fails with replicas of 150, 100 and 50
//! GiB: to `/c` (150 left), `/c` (50 left), and `/b`.
//!
//! What comes back with the failed directory is set aside (`-stray`).

use std::sync::Arc;

use super::Partitions;
use crate::{
    base::{DirectoryId, TopicPartition},
    log::LogDirectory,
    metadata::MetadataImage,
};

/// The share of a volume that is kept free.
const KEPT_FREE: f64 = 0.05;

/// A replica whose log directory has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Which.
    pub id: TopicPartition,
    /// How large it was, as far as that is known.
    pub bytes: u64,
    /// The directory, as far as that is known.
    pub directory: Option<String>,
}

/// A working directory that may take replicas.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Room {
    pub(super) directory: DirectoryId,
    pub(super) usable_bytes: u64,
    pub(super) total_bytes: u64,
    /// The volume, which several directories may share.
    pub(super) volume: (u64, u64),
}

/// Which replica goes where; those for which there is no room are left out.
pub(super) fn plan(
    mut lost: Vec<Lost>,
    mut rooms: Vec<Room>,
) -> Vec<(TopicPartition, DirectoryId)> {
    lost.sort_by_key(|one| (std::cmp::Reverse(one.bytes), one.id));
    let mut planned = Vec::new();
    for one in lost {
        let fits = |room: &&Room| {
            let kept = (room.total_bytes as f64 * KEPT_FREE) as u64;
            room.usable_bytes >= one.bytes.saturating_add(kept)
        };
        let most =
            rooms.iter().filter(fits).max_by_key(|room| (room.usable_bytes, room.directory.0));
        let Some(Room { directory, volume, .. }) = most.cloned() else { continue };
        for room in rooms.iter_mut().filter(|room| room.volume == volume) {
            room.usable_bytes -= one.bytes;
        }
        planned.push((one.id, directory));
    }
    planned
}

impl Partitions {
    /// The replicas of failed directories that may begin anew.
    #[must_use]
    pub fn lost(&self, image: &MetadataImage) -> Vec<Lost> {
        let node = self.config.node.node_id;
        let working: Vec<_> = self
            .working_directories()
            .filter_map(|one| one.meta().map(|meta| meta.directory_id))
            .collect();
        let gone = self.offline_ids().into_iter().map(|id| (id, None));
        let failed = self.all().into_iter().filter(|one| one.is_offline());
        let lost = gone.chain(failed.map(|one| (one.id(), Some(one))));
        let lost = lost.filter(|(id, _)| {
            image.partition(*id).is_some_and(|known| {
                let leads = |leader| {
                    leader != node && image.broker(leader).is_some_and(|broker| broker.is_active())
                };
                known.replicas.contains(&node)
                    && known.leader.is_some_and(leads)
                    && !known.isr.contains(&node)
                    // Else it is about to begin there.
                    && known.directory(node).is_none_or(|at| !working.contains(&at))
            })
        });
        let directory_of = |log: &Arc<crate::log::Log>| {
            let mut directories = self.directories().iter();
            let holds = |one: &&Arc<LogDirectory>| one.logs().iter().any(|l| Arc::ptr_eq(l, log));
            directories.find(holds).map(|one| one.location())
        };
        let describe = |(id, partition): (TopicPartition, Option<Arc<super::Partition>>)| {
            let log = partition.map(|partition| partition.log());
            let bytes = log.as_ref().map_or(0, |log| log.size_bytes());
            Lost { id, bytes, directory: log.as_ref().and_then(directory_of) }
        };
        lost.map(describe).collect()
    }

    /// Has the controller told that these replicas begin anew in another directory; returns how many
    /// found room. Blocks.
    pub fn place_anew(&self, lost: Vec<Lost>) -> usize {
        let room = |directory: &Arc<LogDirectory>| {
            let space = directory.space().ok()?;
            Some(Room {
                directory: directory.meta()?.directory_id,
                usable_bytes: space.usable_bytes,
                total_bytes: space.total_bytes,
                volume: (space.total_bytes, space.usable_bytes),
            })
        };
        let planned = plan(lost, self.working_directories().filter_map(room).collect());
        let count = planned.len();
        self.shared.metrics.replaced_replicas.increment(count as u64);
        self.misplaced.send_if_modified(|misplaced| {
            misplaced.extend(planned);
            count > 0
        });
        count
    }

    /// Lets go of replicas in failed directories that the image has in a working one: they begin
    /// anew there.
    pub(super) fn make_way(&self, image: &MetadataImage, ids: &[TopicPartition]) {
        let node = self.config.node.node_id;
        for id in ids {
            let Some(partition) = self.lookup(*id).filter(|partition| partition.is_offline())
            else {
                continue;
            };
            let said = image.partition(*id).and_then(|partition| partition.directory(node));
            let mut working = self.working_directories().filter_map(|one| one.meta());
            if working.any(|meta| Some(meta.directory_id) == said) {
                partition.rest();
                self.forget(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::{PartitionIndex, TopicId};

    fn lost(index: i32, bytes: u64) -> Lost {
        let topic = TopicId(uuid::Uuid::from_u128(1));
        let id = TopicPartition { topic, partition: PartitionIndex(index) };
        Lost { id, bytes, directory: None }
    }

    fn room(id: u128, usable_bytes: u64, total_bytes: u64, volume: u64) -> Room {
        let directory = DirectoryId(uuid::Uuid::from_u128(id));
        Room { directory, usable_bytes, total_bytes, volume: (volume, 0) }
    }

    fn numbers(planned: &[(TopicPartition, DirectoryId)]) -> Vec<(i32, u128)> {
        planned.iter().map(|(id, to)| (id.partition.0, to.0.as_u128())).collect()
    }

    #[test]
    fn the_largest_goes_where_there_is_most_room() {
        let rooms = vec![room(1, 100, 1_000, 1), room(2, 300, 1_000, 2)];
        let planned = plan(vec![lost(0, 40), lost(1, 150), lost(2, 100)], rooms.clone());
        assert_eq!(numbers(&planned), [(1, 2), (2, 2), (0, 1)]);
        // Nothing is filled to the brim, nor is there room twice on one volume.
        assert!(plan(vec![lost(0, 260)], rooms).is_empty());
        let shared = vec![room(1, 300, 1_000, 1), room(2, 300, 1_000, 1)];
        let planned = plan(vec![lost(0, 150), lost(1, 150)], shared);
        assert_eq!(planned.len(), 1);
    }

    proptest! {
        #[test]
        fn no_volume_is_filled(
            sizes in prop::collection::vec(0..500u64, 0..40),
            rooms in prop::collection::vec((0..2_000u64, 0..2_000u64), 0..5),
        ) {
            let all: Vec<_> = (0..).zip(&sizes).map(|(n, bytes)| lost(n, *bytes)).collect();
            let volumes: Vec<_> = (1..).zip(&rooms)
                .map(|(n, (usable, more))| room(n, *usable, usable + more, n as u64))
                .collect();
            let planned = plan(all.clone(), volumes.clone());
            for volume in &volumes {
                let goes = planned.iter().filter(|(_, to)| *to == volume.directory);
                let taken: u64 = goes.map(|(id, _)| sizes[id.partition.0 as usize]).sum();
                let kept = (volume.total_bytes as f64 * KEPT_FREE) as u64;
                prop_assert!(taken == 0 || volume.usable_bytes >= taken + kept);
                // What is left out fits nowhere.
                for one in &all {
                    let is_planned = planned.iter().any(|(id, _)| *id == one.id);
                    prop_assert!(is_planned || volume.usable_bytes < taken + one.bytes + kept);
                }
            }
        }
    }
}
