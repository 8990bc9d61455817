//! Administration of where replicas lie: brokers, the sizes of replicas, reassignments.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use kafka_protocol::{
    messages::{
        AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest, ApiKey, BrokerId,
        DescribeClusterRequest, DescribeLogDirsRequest, ListPartitionReassignmentsRequest,
        TopicName,
        alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
        alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic},
    },
    protocol::Message,
};

use super::{
    admin::{PerElement, words},
    cluster::{Client, Lane, Target, retrying},
    codec::text,
    error::ClientError,
    offsets::Partition,
};

/// A broker that is registered, whether it is there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerDescription {
    /// Its id.
    pub node: i32,
    /// Where clients reach it, as HOST:PORT.
    pub address: String,
    /// Its rack, where it has one.
    pub rack: Option<String>,
    /// Whether it is kept from serving, since it is away or has yet to catch up.
    pub fenced: bool,
}

/// What a broker has on its disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// The size of each replica, in bytes.
    pub replicas: BTreeMap<Partition, u64>,
    /// The bytes that are free on its volumes, where it says so.
    pub usable_bytes: Option<u64>,
}

/// A log directory of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Its path.
    pub path: String,
    /// Whether it has failed.
    pub is_offline: bool,
    /// What is free on its volume; -1 where that is not known.
    pub usable_bytes: i64,
    /// The size of its volume; -1 where that is not known.
    pub total_bytes: i64,
    /// The replicas in it.
    pub replicas: Vec<(Partition, ReplicaPlace)>,
}

/// A replica in a log directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaPlace {
    /// Its size.
    pub bytes: u64,
    /// Records that it misses; -1 where that is not known.
    pub offset_lag: i64,
    /// Whether it is a copy that is to take the place of the replica in another directory.
    pub is_future: bool,
}

/// A partition that is on the move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassignment {
    /// Which.
    pub partition: Partition,
    /// All that hold it by now: those that stay, and those that go.
    pub replicas: Vec<i32>,
    /// Those that are being added.
    pub adding: Vec<i32>,
    /// Those that go.
    pub removing: Vec<i32>,
}

impl Reassignment {
    /// Who holds it at the end.
    #[must_use]
    pub fn target(&self) -> Vec<i32> {
        self.replicas.iter().copied().filter(|node| !self.removing.contains(node)).collect()
    }
}

impl Client {
    /// The brokers that are registered, those that are away among them.
    ///
    /// # Errors
    /// The failure to reach a broker.
    pub async fn describe_brokers(&self) -> Result<Vec<BrokerDescription>, ClientError> {
        let build = |version| {
            Ok(DescribeClusterRequest::default().with_include_fenced_brokers(version >= 2))
        };
        let response = retrying!(self, self.deadline(), async {
            let versions = DescribeClusterRequest::VERSIONS;
            let response = self
                .call_versioned::<DescribeClusterRequest, DescribeClusterRequest>(
                    Target::Any,
                    Lane::GENERAL,
                    versions,
                    build,
                )
                .await?;
            let message = words(&response.error_message);
            let subject = || "cluster".to_owned();
            ClientError::check(ApiKey::DescribeCluster, response.error_code, message, subject)?;
            Ok(response)
        })?;
        let mut brokers: Vec<_> = response
            .brokers
            .into_iter()
            .map(|broker| BrokerDescription {
                node: broker.broker_id.0,
                address: format!("{}:{}", broker.host, broker.port),
                rack: broker.rack.map(|rack| rack.to_string()),
                fenced: broker.is_fenced,
            })
            .collect();
        brokers.sort_by_key(|broker| broker.node);
        Ok(brokers)
    }

    /// What these brokers have on their disks; none for those that did not say.
    pub async fn disk_use(&self, nodes: &[i32]) -> BTreeMap<i32, Option<DiskUse>> {
        let asked = nodes.iter().map(|node| async move { (*node, self.disk_use_of(*node).await) });
        join_all(asked).await.into_iter().map(|(node, found)| (node, found.ok())).collect()
    }

    /// The log directories of a broker, and what lies in them.
    ///
    /// # Errors
    /// The broker's refusal, or the failure to reach it.
    pub async fn directories(&self, node: i32) -> Result<Vec<Directory>, ClientError> {
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let response = self.call(Target::Node(node), Lane::GENERAL, &request).await?;
        let subject = || format!("node {node}");
        ClientError::check(ApiKey::DescribeLogDirs, response.error_code, None, subject)?;
        let mut directories = Vec::with_capacity(response.results.len());
        for found in response.results {
            let mut replicas = Vec::new();
            for topic in found.topics {
                let name: Arc<str> = topic.name.as_str().into();
                for one in topic.partitions {
                    let place = ReplicaPlace {
                        bytes: u64::try_from(one.partition_size).unwrap_or(0),
                        offset_lag: one.offset_lag,
                        is_future: one.is_future_key,
                    };
                    replicas.push((Partition::new(Arc::clone(&name), one.partition_index), place));
                }
            }
            directories.push(Directory {
                path: found.log_dir.to_string(),
                is_offline: found.error_code != 0,
                usable_bytes: found.usable_bytes,
                total_bytes: found.total_bytes,
                replicas,
            });
        }
        Ok(directories)
    }

    /// Moves replicas of a broker to another of its log directories.
    ///
    /// # Errors
    /// The failure to reach the broker; each replica has its own.
    pub async fn move_replicas(
        &self,
        node: i32,
        replicas: &[Partition],
        path: &str,
    ) -> Result<PerElement<()>, ClientError> {
        let mut topics = BTreeMap::<&str, Vec<i32>>::new();
        for at in replicas {
            topics.entry(&at.topic).or_default().push(at.partition);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            AlterReplicaLogDirTopic::default()
                .with_name(TopicName(text(name)))
                .with_partitions(partitions)
        });
        let directory =
            AlterReplicaLogDir::default().with_path(text(path)).with_topics(topics.collect());
        let request = AlterReplicaLogDirsRequest::default().with_dirs(vec![directory]);
        let response = self.call(Target::Node(node), Lane::GENERAL, &request).await?;
        let api = ApiKey::AlterReplicaLogDirs;
        let mut outcomes = Vec::new();
        for topic in response.results {
            for one in topic.partitions {
                let name = format!("{}-{}", topic.topic_name.as_str(), one.partition_index);
                let outcome = ClientError::check(api, one.error_code, None, || name.clone());
                outcomes.push((name, outcome));
            }
        }
        Ok(outcomes)
    }

    async fn disk_use_of(&self, node: i32) -> Result<DiskUse, ClientError> {
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let response = self.call(Target::Node(node), Lane::GENERAL, &request).await?;
        let subject = || format!("node {node}");
        ClientError::check(ApiKey::DescribeLogDirs, response.error_code, None, subject)?;
        let mut found = DiskUse::default();
        for directory in response.results.into_iter().filter(|one| one.error_code == 0) {
            if let Ok(usable) = u64::try_from(directory.usable_bytes) {
                // Directories may share a volume, whose room must not be counted twice.
                found.usable_bytes = Some(found.usable_bytes.unwrap_or(0).max(usable));
            }
            for topic in directory.topics {
                let name: Arc<str> = topic.name.as_str().into();
                for one in topic.partitions.into_iter().filter(|one| !one.is_future_key) {
                    let at = Partition::new(Arc::clone(&name), one.partition_index);
                    let size = u64::try_from(one.partition_size).unwrap_or(0);
                    found.replicas.insert(at, size);
                }
            }
        }
        Ok(found)
    }

    /// The partitions that are on the move.
    ///
    /// # Errors
    /// The broker's refusal, or the failure to reach it.
    pub async fn list_reassignments(&self) -> Result<Vec<Reassignment>, ClientError> {
        let request = ListPartitionReassignmentsRequest::default()
            .with_topics(None)
            .with_timeout_ms(self.broker_timeout_ms());
        let api = ApiKey::ListPartitionReassignments;
        let response = retrying!(self, self.deadline(), async {
            let response = self.call(Target::Controller, Lane::GENERAL, &request).await?;
            let message = words(&response.error_message);
            ClientError::check(api, response.error_code, message, || "reassignments".to_owned())?;
            Ok(response)
        })?;
        let nodes = |list: Vec<BrokerId>| list.into_iter().map(|id| id.0).collect();
        let mut listed = Vec::new();
        for topic in response.topics {
            let name: Arc<str> = topic.name.as_str().into();
            for one in topic.partitions {
                listed.push(Reassignment {
                    partition: Partition::new(Arc::clone(&name), one.partition_index),
                    replicas: nodes(one.replicas),
                    adding: nodes(one.adding_replicas),
                    removing: nodes(one.removing_replicas),
                });
            }
        }
        Ok(listed)
    }

    /// Moves partitions to these brokers, the preferred leader first; or cancels their moves, where
    /// no brokers are named.
    ///
    /// # Errors
    /// The failure to reach a broker; each partition has its own.
    pub async fn reassign(
        &self,
        wanted: &[(Partition, Option<Vec<i32>>)],
    ) -> Result<PerElement<()>, ClientError> {
        let mut topics = BTreeMap::<&str, Vec<ReassignablePartition>>::new();
        for (at, replicas) in wanted {
            let replicas =
                replicas.as_ref().map(|list| list.iter().copied().map(BrokerId).collect());
            let one = ReassignablePartition::default()
                .with_partition_index(at.partition)
                .with_replicas(replicas);
            topics.entry(&at.topic).or_default().push(one);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            ReassignableTopic::default()
                .with_name(TopicName(text(name)))
                .with_partitions(partitions)
        });
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(self.broker_timeout_ms())
            .with_topics(topics.collect());
        let api = ApiKey::AlterPartitionReassignments;
        let response = retrying!(self, self.deadline(), async {
            let response = self.call(Target::Controller, Lane::GENERAL, &request).await?;
            let message = words(&response.error_message);
            ClientError::check(api, response.error_code, message, || "reassignments".to_owned())?;
            Ok(response)
        })?;
        self.invalidate();
        let mut outcomes = Vec::new();
        for topic in response.responses {
            for one in topic.partitions {
                let name = format!("{}-{}", topic.name.as_str(), one.partition_index);
                let message = words(&one.error_message);
                let outcome = ClientError::check(api, one.error_code, message, || name.clone());
                outcomes.push((name, outcome));
            }
        }
        Ok(outcomes)
    }
}
