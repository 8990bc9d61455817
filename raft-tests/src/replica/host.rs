//! One simulated node: its disk, and what a crash takes away.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::anyhow;
use bytes::Bytes;
use ottla::{
    base::{BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, Offset, TopicPartition},
    log::{Log, LogConfig, LogDirectory, SimDir},
    metadata::MetadataImage,
    protocol::batch::Batches,
    replication::{follower::Follower, leader::Leader, subscription::Session},
};

use uuid::Uuid;

use super::cluster::TOPIC;
use crate::machine::digest_of;

/// The wall clock at the start of a run.
pub(super) const WALL_MS: i64 = 1_700_000_000_000;

/// For one life of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) host: usize,
    pub(super) life: u64,
}

pub(super) struct Host {
    pub(super) node: NodeId,
    pub(super) disk: SimDir,
    /// How often the disk was replaced by an empty one.
    pub(super) disks: u64,
    /// The last life that the former disk had.
    pub(super) lost_life: u64,
    /// None while it is down.
    pub(super) life: Option<Life>,
    /// Tells the events of one life from those of another.
    pub(super) lives: u64,
    /// How many subscriptions it has made, in all its lives.
    pub(super) sessions: u64,
    /// The registration under which it stopped in order.
    pub(super) clean: Option<BrokerEpoch>,
    /// The metadata that it had last.
    pub(super) version: usize,
    /// The end of what a crash leaves of its log.
    pub(super) holds: Offset,
    /// Its disk is slow until then.
    pub(super) slow_until_ms: u64,
}

/// What a crash takes away.
pub(super) struct Life {
    pub(super) directory: LogDirectory,
    pub(super) log: Arc<Log>,
    pub(super) broker_epoch: Option<BrokerEpoch>,
    pub(super) role: Role,
    /// Counts the roles, so that what one asked for is not told to the next.
    pub(super) roles: u64,
    /// The end of what it knows to be committed.
    pub(super) high_watermark: Offset,
    pub(super) paused_until_ms: u64,
    /// It wants to stop in order, and stops anyhow at this time.
    pub(super) stops_ms: Option<u64>,
    /// When its core is looked after next, if nothing happens before.
    pub(super) deadline_ms: Option<u64>,
}

pub(super) enum Role {
    Idle,
    Leading(Leading),
    Following(Following),
}

pub(super) struct Leading {
    pub(super) core: Leader,
    pub(super) writes: Vec<Write>,
    /// The subscriptions of the followers, and the connections that they came by.
    pub(super) sessions: BTreeMap<NodeId, (Session, u64)>,
    pub(super) flushing: bool,
    pub(super) pumping: bool,
}

pub(super) struct Following {
    pub(super) core: Follower,
    pub(super) leader: NodeId,
    pub(super) connection: Option<u64>,
}

/// A write that somebody waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    pub(super) base: Offset,
    pub(super) end: Offset,
    pub(super) body: u64,
}

/// A batch as a log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) base: Offset,
    pub(super) end: Offset,
    pub(super) epoch: LeaderEpoch,
    /// Of what no log changes.
    pub(super) body: u64,
}

impl Host {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            disk: SimDir::new(),
            disks: 0,
            lost_life: 0,
            life: None,
            lives: 0,
            sessions: 0,
            clean: None,
            version: 0,
            holds: Offset::ZERO,
            slow_until_ms: 0,
        }
    }

    /// Starts from what the disk holds.
    pub(super) fn start(&mut self, partition: TopicPartition, now_ms: u64) -> anyhow::Result<()> {
        self.lives += 1;
        let (config, wall_ms) = (log_config(), WALL_MS + now_ms as i64);
        let directory = LogDirectory::open(Arc::new(self.disk.clone()))?;
        let name = format!("{TOPIC}-0");
        if directory.found().contains(&name) {
            directory.load(&name, Arc::clone(&config), wall_ms)?;
        }
        let log = directory.create(TOPIC, partition.partition, partition.topic, config, wall_ms)?;
        let known = directory.high_watermark(&name).unwrap_or(Offset::ZERO);
        let high_watermark = known.max(log.log_start_offset()).min(log.log_end_offset());
        self.life = Some(Life {
            directory,
            log,
            broker_epoch: None,
            role: Role::Idle,
            roles: 0,
            high_watermark,
            paused_until_ms: 0,
            stops_ms: None,
            deadline_ms: None,
        });
        Ok(())
    }

    /// The log directory's id, by which the controller tells a new disk from the old one.
    pub(super) fn directory_id(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.disks) << 64 | 1_000 | u128::from(self.node.0))
    }

    /// Whether what the controller has registered is the disk that the node has.
    pub(super) fn has_its_disk(&self, image: &MetadataImage) -> bool {
        let id = DirectoryId(self.directory_id());
        image.broker(self.node).is_some_and(|broker| broker.directories.contains(&id))
    }

    /// The node holds no replica any more: its log is deleted. An empty one stands for none.
    pub(super) fn delete_log(
        &mut self,
        partition: TopicPartition,
        now_ms: u64,
    ) -> anyhow::Result<bool> {
        let Some(life) = &mut self.life else { return Ok(false) };
        if life.log.log_end_offset() == Offset::ZERO {
            return Ok(false);
        }
        let (index, wall_ms) = (partition.partition, WALL_MS + now_ms as i64);
        life.directory.delete(TOPIC, index)?;
        life.log = life.directory.create(TOPIC, index, partition.topic, log_config(), wall_ms)?;
        life.high_watermark = Offset::ZERO;
        Ok(true)
    }

    pub(super) const fn here(&self, host: usize) -> At {
        At { host, life: self.lives }
    }

    pub(super) fn leading(&mut self) -> Option<(&mut Leading, &Arc<Log>)> {
        match self.life.as_mut() {
            Some(Life { role: Role::Leading(leading), log, .. }) => Some((leading, log)),
            _ => None,
        }
    }

    pub(super) fn following(&mut self) -> Option<(&mut Following, &Arc<Log>)> {
        match self.life.as_mut() {
            Some(Life { role: Role::Following(following), log, .. }) => Some((following, log)),
            _ => None,
        }
    }
}

fn log_config() -> Arc<LogConfig> {
    let config =
        LogConfig { segment_bytes: 1_500, index_interval_bytes: 300, ..LogConfig::default() };
    Arc::new(config)
}

/// Whole batches of a log from `from` on, of at most `max_bytes` or one; none at the end.
pub(super) fn read(
    log: &Log,
    from: Offset,
    to: Offset,
    max_bytes: u32,
) -> anyhow::Result<Option<Bytes>> {
    let Some(slice) = log.read(from, to, max_bytes, true)? else { return Ok(None) };
    let mut bytes = vec![0; slice.len_bytes as usize];
    let length = slice.file.read_at(slice.position, &mut bytes)?;
    if length < bytes.len() {
        return Err(anyhow!("a log ends before its end"));
    }
    Ok(Some(bytes.into()))
}

/// The batches in `bytes`.
pub(super) fn parse(bytes: Bytes) -> anyhow::Result<Vec<Stored>> {
    let batches = Batches::parse_stored(bytes)?;
    let stored = batches.iter().map(|batch| Stored {
        base: batch.base_offset(),
        end: batch.last_offset().plus(1),
        epoch: batch.leader_epoch(),
        body: body(batch.bytes()),
    });
    Ok(stored.collect())
}

/// A digest of what no log changes in a batch: all from the CRC on.
pub(super) fn body(batch: &[u8]) -> u64 {
    digest_of(&batch[17..])
}

/// All batches of a log between two offsets.
pub(super) fn read_all(log: &Log, from: Offset, to: Offset) -> anyhow::Result<Vec<Stored>> {
    let (mut stored, mut next) = (Vec::new(), from.max(log.log_start_offset()));
    while next < to {
        let Some(bytes) = read(log, next, to, 1 << 20)? else { break };
        stored.extend(parse(bytes)?);
        next = stored.last().map_or(to, |last: &Stored| last.end);
    }
    Ok(stored)
}
