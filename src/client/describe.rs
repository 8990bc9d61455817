//! How partitions stand: by the metadata, and by what their leaders say.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use kafka_protocol::{
    messages::{
        ApiKey, BrokerId, DescribeLogDirsRequest, DescribeTopicPartitionsRequest,
        DescribeTopicPartitionsResponse, TopicName,
        describe_log_dirs_request::DescribableLogDirTopic,
        describe_topic_partitions_request::{Cursor, TopicRequest},
        describe_topic_partitions_response::DescribeTopicPartitionsResponsePartition,
    },
    protocol::Message,
};
use tokio::time::{Duration, timeout};

use super::{
    cluster::{Client, Lane, Target, retrying},
    codec::text,
    error::ClientError,
    offsets::{OffsetSpec, Partition},
    wire::{FOLLOWER_LAGS, FollowerLag, follower_lags},
};
use crate::base::TopicId;

/// The most partitions that are asked for at a time.
const PAGE: i32 = 2_000;

/// A topic, as the metadata has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub id: TopicId,
    /// Whether the cluster keeps it for itself.
    pub internal: bool,
    /// Its partitions by number.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition, as the metadata has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: i32,
    /// The leader's node id; -1 where there is none.
    pub leader: i32,
    /// How many leaders it has had.
    pub leader_epoch: i32,
    /// The nodes that hold it, the preferred one first.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub isr: Vec<i32>,
    /// Those out of sync that are known to hold all that is committed (KIP-966).
    pub eligible_leader_replicas: Vec<i32>,
    /// Those that are down.
    pub offline: Vec<i32>,
}

/// What a leader says of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderWord {
    /// Where its log begins.
    pub start_offset: Option<i64>,
    /// The end of what is committed.
    pub end_offset: Option<i64>,
    /// Its size.
    pub bytes: Option<u64>,
    /// How far its followers are; none where the broker does not say such.
    pub followers: Option<Vec<FollowerLag>>,
}

impl Client {
    /// The partitions of these topics, or of all where none is named.
    ///
    /// # Errors
    /// The refusal of the first topic that there is no answer for, or the failure to reach a broker.
    pub async fn describe_topics(
        &self,
        topics: &[String],
    ) -> Result<Vec<TopicDescription>, ClientError> {
        let mut described: Vec<TopicDescription> = Vec::new();
        let mut cursor: Option<Cursor> = None;
        loop {
            let asked = topics.iter().map(|name| topic_request(name)).collect();
            let request = DescribeTopicPartitionsRequest::default()
                .with_topics(asked)
                .with_response_partition_limit(PAGE)
                .with_cursor(cursor);
            let page = retrying!(self, self.deadline(), async {
                self.call(Target::Any, Lane::GENERAL, &request).await
            })?;
            // Whether a topic is there is not asked again.
            let page = check(page)?;
            for topic in page.topics {
                let name: Arc<str> = topic.name.as_ref().map_or("", |name| name.as_str()).into();
                let partitions = topic.partitions.into_iter().map(description);
                match described.last_mut().filter(|last| last.name == name) {
                    Some(last) => last.partitions.extend(partitions),
                    None => described.push(TopicDescription {
                        name,
                        id: TopicId(topic.topic_id),
                        internal: topic.is_internal,
                        partitions: partitions.collect(),
                    }),
                }
            }
            let Some(next) = page.next_cursor else { return Ok(described) };
            cursor = Some(
                Cursor::default()
                    .with_topic_name(next.topic_name)
                    .with_partition_index(next.partition_index),
            );
        }
    }

    /// What the leaders of these partitions say, each asked for no longer than `within`, and the
    /// nodes that did not answer.
    pub async fn ask_leaders(
        &self,
        led: &BTreeMap<i32, Vec<Partition>>,
        within: Duration,
    ) -> (BTreeMap<Partition, LeaderWord>, Vec<i32>) {
        let asked = led.iter().map(|(node, partitions)| async move {
            (*node, timeout(within, self.ask_leader(*node, partitions)).await)
        });
        let (mut words, mut silent) = (BTreeMap::new(), Vec::new());
        for (node, answer) in join_all(asked).await {
            match answer {
                Ok(Ok(said)) => words.extend(said),
                _ => silent.push(node),
            }
        }
        (words, silent)
    }

    async fn ask_leader(
        &self,
        node: i32,
        partitions: &[Partition],
    ) -> Result<BTreeMap<Partition, LeaderWord>, ClientError> {
        let mut words = self.leader_logs(node, partitions).await?;
        let of = |spec| partitions.iter().map(move |at| (at.clone(), spec)).collect::<Vec<_>>();
        for (at, offset) in self.ask_offsets(node, of(OffsetSpec::Earliest)).await? {
            words.entry(at).or_default().start_offset = offset.ok().flatten();
        }
        for (at, offset) in self.ask_offsets(node, of(OffsetSpec::Latest)).await? {
            words.entry(at).or_default().end_offset = offset.ok().flatten();
        }
        Ok(words)
    }

    async fn leader_logs(
        &self,
        node: i32,
        partitions: &[Partition],
    ) -> Result<BTreeMap<Partition, LeaderWord>, ClientError> {
        let mut topics = BTreeMap::<&str, Vec<i32>>::new();
        for at in partitions {
            topics.entry(&at.topic).or_default().push(at.partition);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            DescribableLogDirTopic::default()
                .with_topic(TopicName(text(name)))
                .with_partitions(partitions)
        });
        let request = DescribeLogDirsRequest::default().with_topics(Some(topics.collect()));
        let build = |version| {
            let request = request.clone();
            // Only these versions have tagged fields.
            let is_flexible = version >= 2;
            Ok(if is_flexible {
                request.with_unknown_tagged_field(FOLLOWER_LAGS, Bytes::new())
            } else {
                request
            })
        };
        let versions = DescribeLogDirsRequest::VERSIONS;
        let response = self
            .call_versioned::<DescribeLogDirsRequest, DescribeLogDirsRequest>(
                Target::Node(node),
                Lane::GENERAL,
                versions,
                build,
            )
            .await?;
        let subject = || format!("node {node}");
        ClientError::check(ApiKey::DescribeLogDirs, response.error_code, None, subject)?;
        let mut words = BTreeMap::new();
        for topic in response.results.into_iter().flat_map(|directory| directory.topics) {
            let name: Arc<str> = topic.name.as_str().into();
            for mut one in topic.partitions.into_iter().filter(|one| !one.is_future_key) {
                let followers = one.unknown_tagged_fields.remove(&FOLLOWER_LAGS);
                let word = LeaderWord {
                    bytes: u64::try_from(one.partition_size).ok(),
                    followers: followers.map(follower_lags),
                    ..LeaderWord::default()
                };
                words.insert(Partition::new(Arc::clone(&name), one.partition_index), word);
            }
        }
        Ok(words)
    }
}

fn topic_request(name: &str) -> TopicRequest {
    TopicRequest::default().with_name(TopicName(text(name)))
}

/// The page, unless one of its topics was refused.
fn check(
    page: DescribeTopicPartitionsResponse,
) -> Result<DescribeTopicPartitionsResponse, ClientError> {
    let api = ApiKey::DescribeTopicPartitions;
    for topic in &page.topics {
        let name = || topic.name.as_ref().map_or_else(String::new, |name| name.as_str().to_owned());
        ClientError::check(api, topic.error_code, None, name)?;
    }
    Ok(page)
}

fn description(one: DescribeTopicPartitionsResponsePartition) -> PartitionDescription {
    let nodes = |list: Vec<BrokerId>| list.into_iter().map(|id| id.0).collect::<Vec<i32>>();
    PartitionDescription {
        partition: one.partition_index,
        leader: one.leader_id.0,
        leader_epoch: one.leader_epoch,
        replicas: nodes(one.replica_nodes),
        isr: nodes(one.isr_nodes),
        eligible_leader_replicas: nodes(one.eligible_leader_replicas.unwrap_or_default()),
        offline: nodes(one.offline_replicas),
    }
}
