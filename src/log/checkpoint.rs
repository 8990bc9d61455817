//! The small text files of a log directory: checkpoints of offsets, `meta.properties`,
//! `partition.metadata` and the marker of a clean shutdown, each in Kafka's form.

use std::collections::BTreeMap;

use super::error::Damage;
use crate::base::{ClusterId, DirectoryId, NodeId, Offset, TopicId};

/// Up to where each log is known to be flushed.
pub(crate) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// Log start offsets that lie above the first segment's.
pub(crate) const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// High watermarks.
pub(crate) const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
/// Up to where each log is compacted.
pub(crate) const CLEANER: &str = "cleaner-offset-checkpoint";
/// Where logs ended that have moved to another directory; what is left of them here is not used.
pub(crate) const MOVED: &str = "moved-log-offset-checkpoint";
/// The identity of the directory.
pub(crate) const META_PROPERTIES: &str = "meta.properties";
/// There after a clean shutdown, until the next start.
pub(crate) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// The topic's id, in each log's own directory.
pub(crate) const PARTITION_METADATA: &str = "partition.metadata";
/// The leader epochs, in each log's own directory.
pub(crate) const LEADER_EPOCHS: &str = "leader-epoch-checkpoint";

/// The lines of a checkpoint after version and count, which are checked.
pub(crate) fn parse_lines(bytes: &[u8]) -> Result<Vec<&str>, Damage> {
    let text = std::str::from_utf8(bytes).map_err(|_| Damage::Format)?;
    let mut lines = text.lines();
    if lines.next() != Some("0") {
        return Err(Damage::Format);
    }
    let count: usize = lines.next().and_then(|line| line.parse().ok()).ok_or(Damage::Format)?;
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    if lines.len() == count { Ok(lines) } else { Err(Damage::Format) }
}

/// Offsets by log name (`topic-partition`).
pub(crate) type Offsets = BTreeMap<String, Offset>;

pub(crate) fn encode_offsets<N: AsRef<str>>(
    offsets: impl ExactSizeIterator<Item = (N, Offset)>,
) -> String {
    let mut text = format!("0\n{}\n", offsets.len());
    for (name, offset) in offsets {
        let name = name.as_ref();
        let (topic, partition) = name.rsplit_once('-').unwrap_or((name, "0"));
        text.push_str(&format!("{topic} {partition} {offset}\n"));
    }
    text
}

pub(crate) fn decode_offsets(bytes: &[u8]) -> Result<Offsets, Damage> {
    let lines = parse_lines(bytes)?;
    let offsets = lines.into_iter().map(|line| {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(topic), Some(partition), Some(offset), None) => {
                let offset = offset.parse().map_err(|_| Damage::Format)?;
                Ok((format!("{topic}-{partition}"), Offset(offset)))
            }
            _ => Err(Damage::Format),
        }
    });
    offsets.collect()
}

/// Whose directory it is: the content of `meta.properties`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaProperties {
    /// The cluster; none until the node belongs to one.
    pub cluster_id: Option<ClusterId>,
    /// The node.
    pub node_id: NodeId,
    /// The directory itself.
    pub directory_id: DirectoryId,
}

impl MetaProperties {
    pub(crate) fn encode(&self) -> String {
        let cluster = self.cluster_id.map(|id| format!("cluster.id={id}\n")).unwrap_or_default();
        format!(
            "version=1\n{cluster}node.id={}\ndirectory.id={}\n",
            self.node_id, self.directory_id
        )
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let text = std::str::from_utf8(bytes).map_err(|_| Damage::Format)?;
        let mut properties = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once('=').ok_or(Damage::Format)?;
            properties.insert(key.trim(), value.trim());
        }
        let required = |key| properties.get(key).copied().ok_or(Damage::Format);
        if required("version")? != "1" {
            return Err(Damage::Format);
        }
        let cluster_id = properties.get("cluster.id").map(|id| id.parse()).transpose();
        Ok(Self {
            cluster_id: cluster_id.map_err(|_| Damage::Format)?,
            node_id: NodeId(required("node.id")?.parse().map_err(|_| Damage::Format)?),
            directory_id: required("directory.id")?.parse().map_err(|_| Damage::Format)?,
        })
    }
}

pub(crate) fn encode_partition_metadata(topic_id: TopicId) -> String {
    format!("version: 0\ntopic_id: {topic_id}")
}

pub(crate) fn decode_partition_metadata(bytes: &[u8]) -> Result<TopicId, Damage> {
    let text = std::str::from_utf8(bytes).map_err(|_| Damage::Format)?;
    let mut lines = text.lines();
    if lines.next() != Some("version: 0") {
        return Err(Damage::Format);
    }
    let id = lines.next().and_then(|line| line.strip_prefix("topic_id: "));
    id.and_then(|id| id.parse().ok()).ok_or(Damage::Format)
}
