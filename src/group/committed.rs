//! What all groups of a shard have committed, to look at beside the shard.

use super::state::State;

/// The committed offsets of one shard at a moment. Shares its structure with the shard's own
/// state, so that taking it costs next to nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedOffsets(pub(super) State);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupOffset<'a> {
    /// Who committed.
    pub group: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: i32,
    /// The next offset that the group reads.
    pub offset: i64,
}

impl CommittedOffsets {
    /// All of them, ordered by group, topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = GroupOffset<'_>> {
        self.0.offsets.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions.iter().map(move |(partition, committed)| GroupOffset {
                    group,
                    topic,
                    partition: *partition,
                    offset: committed.offset,
                })
            })
        })
    }
}
