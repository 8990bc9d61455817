//! How the rest of the node asks the group coordinator.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use kafka_protocol::messages::TopicName;
use tracing::warn;

use super::{CommittedOffsets, Config, GroupShard, Request, Response, partition_for};
use crate::{
    base::{LeaderEpoch, PartitionIndex},
    coordinator::{Failure, Runtime, ShardLog},
};

/// How long a SyncGroup, or a JoinGroup beyond its rebalance timeout, may wait for its group: far
/// longer than the group's own timers let it. It ends waits of requests whose group is stuck.
const PARKED_WAIT: Duration = Duration::from_secs(1_800);

/// The group coordinator of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Groups {
    runtime: Runtime<GroupShard>,
    config: Arc<Config>,
    /// Of the offsets topic; 0 while there is none.
    partitions: Arc<AtomicI32>,
}

impl Groups {
    /// A coordinator over the shards of `runtime`.
    #[must_use]
    pub fn new(runtime: Runtime<GroupShard>, config: Arc<Config>) -> Self {
        Self { runtime, config, partitions: Arc::new(AtomicI32::new(0)) }
    }

    /// What it is configured with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The offsets topic has `partitions` partitions; 0 if it does not exist.
    pub fn topic_changed(&self, partitions: i32) {
        self.partitions.store(partitions.max(0), Ordering::Release);
    }

    /// This node leads a partition of the offsets topic since `leader_epoch`.
    pub fn elected(
        &self,
        partition: PartitionIndex,
        leader_epoch: LeaderEpoch,
        log: Arc<dyn ShardLog>,
    ) {
        self.runtime.elected(partition, leader_epoch, log);
    }

    /// This node leads a partition of the offsets topic no more, as of `leader_epoch`.
    pub fn resigned(&self, partition: PartitionIndex, leader_epoch: LeaderEpoch) {
        self.runtime.resigned(partition, leader_epoch);
    }

    /// The node stops.
    pub fn shut_down(&self) {
        self.runtime.shut_down();
    }

    /// The partition that keeps `group_id`.
    ///
    /// # Errors
    /// `CoordinatorNotAvailable` while there is no offsets topic.
    pub fn partition_for(&self, group_id: &str) -> Result<PartitionIndex, Failure> {
        match self.partitions.load(Ordering::Acquire) {
            0 => Err(Failure::CoordinatorNotAvailable),
            count => Ok(PartitionIndex(partition_for(group_id, count))),
        }
    }

    /// The partitions of the offsets topic that this node leads.
    #[must_use]
    pub fn led(&self) -> Vec<PartitionIndex> {
        self.runtime.partitions()
    }

    /// Puts `request` to the shard of `group_id`.
    ///
    /// # Errors
    /// Those that a response is made of elsewhere, since this has none of its own: the coordinator
    /// is elsewhere, is loading, or could not write.
    pub async fn call(&self, group_id: &str, request: Request) -> Result<Response, Failure> {
        let partition = self.partition_for(group_id)?;
        self.call_partition(partition, request).await
    }

    /// Puts `request` to the shard of `partition`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_partition(
        &self,
        partition: PartitionIndex,
        request: Request,
    ) -> Result<Response, Failure> {
        let wait = self.wait_for(&request);
        self.runtime.call(partition, request, wait).await
    }

    /// Deletes the offsets of topics that are gone from every shard led here.
    pub async fn topics_deleted(&self, topics: Vec<TopicName>) {
        for partition in self.led() {
            let request = Request::TopicsDeleted(topics.clone());
            match self.call_partition(partition, request).await {
                Ok(_) | Err(Failure::NotCoordinator) => {}
                Err(error) => warn!(%partition, %error, "offsets of deleted topics are kept"),
            }
        }
    }

    /// What the groups of every shard that is led here and loaded have committed.
    pub async fn committed_offsets(&self) -> Vec<CommittedOffsets> {
        let mut committed = Vec::new();
        for partition in self.led() {
            let answer = self.call_partition(partition, Request::Committed).await;
            if let Ok(Response::Committed(offsets)) = answer {
                committed.push(offsets);
            }
        }
        committed
    }

    fn wait_for(&self, request: &Request) -> Duration {
        match request {
            Request::Join { request, .. } => {
                PARKED_WAIT.max(super::millis(request.rebalance_timeout_ms))
                    + self.config.commit_timeout
            }
            Request::Sync(_) => PARKED_WAIT,
            _ => self.config.commit_timeout,
        }
    }
}
