//! Offsets of partitions and of groups.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use kafka_protocol::{
    messages::{
        ApiKey, BrokerId, FindCoordinatorRequest, GroupId, ListOffsetsRequest, OffsetCommitRequest,
        OffsetFetchRequest, OffsetFetchResponse, TopicName,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{
            OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        },
    },
    protocol::{Message, StrBytes, VersionRange},
};

use super::wire::Error as WireError;
use super::{
    admin::words,
    cluster::{Client, Lane, Target, retrying},
    codec::text,
    error::ClientError,
};

/// Something for each partition, by topic.
type ByTopic<T> = BTreeMap<Arc<str>, Vec<(i32, T)>>;

/// A partition by its topic's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

impl Partition {
    /// The partition of that number in `topic`.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A place in a partition, by what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The oldest record.
    Earliest,
    /// Behind the newest record.
    Latest,
    /// The first record at or after a time, in milliseconds since the Unix epoch.
    Timestamp(i64),
    /// The record with the greatest timestamp.
    MaxTimestamp,
}

impl OffsetSpec {
    const fn to_wire(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::MaxTimestamp => -3,
            Self::Timestamp(timestamp_ms) => timestamp_ms,
        }
    }
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the last record read; -1 where unknown.
    pub leader_epoch: i32,
    /// What the consumer noted beside it.
    pub metadata: String,
}

impl Committed {
    /// `offset`, with nothing noted.
    #[must_use]
    pub const fn at(offset: i64) -> Self {
        Self { offset, leader_epoch: -1, metadata: String::new() }
    }
}

/// Who commits: a member of a group's present generation, or nobody in particular.
#[derive(Debug, Clone)]
pub(crate) struct Committer {
    pub(crate) generation: i32,
    pub(crate) member: StrBytes,
    pub(crate) instance: Option<StrBytes>,
}

impl Committer {
    pub(crate) const OUTSIDER: Self =
        Self { generation: -1, member: StrBytes::new(), instance: None };
}

fn by_topic<T>(partitions: impl IntoIterator<Item = (Partition, T)>) -> ByTopic<T> {
    let mut topics = BTreeMap::<_, Vec<_>>::new();
    for (Partition { topic, partition }, value) in partitions {
        topics.entry(topic).or_default().push((partition, value));
    }
    topics
}

impl Client {
    /// The offsets that `specs` mean. A timestamp beyond all records has none.
    ///
    /// # Errors
    /// The first partition's error that does not go away by trying again.
    pub async fn list_offsets(
        &self,
        specs: &[(Partition, OffsetSpec)],
    ) -> Result<BTreeMap<Partition, Option<i64>>, ClientError> {
        let mut found = BTreeMap::new();
        retrying!(self, self.deadline(), async {
            let mut leaders = BTreeMap::<i32, Vec<(Partition, OffsetSpec)>>::new();
            for (partition, spec) in specs {
                if !found.contains_key(partition) {
                    let view = self.partition(&partition.topic, partition.partition).await?;
                    leaders.entry(view.leader).or_default().push((partition.clone(), *spec));
                }
            }
            let asked = leaders.into_iter().map(|(leader, specs)| self.ask_offsets(leader, specs));
            let mut failed = None;
            for answer in join_all(asked).await {
                match answer {
                    Err(error) => failed = Some(error),
                    Ok(answers) => {
                        for (partition, offset) in answers {
                            match offset {
                                Ok(offset) => drop(found.insert(partition, offset)),
                                Err(error) => failed = Some(error),
                            }
                        }
                    }
                }
            }
            failed.map_or(Ok(()), Err)
        })?;
        Ok(found)
    }

    pub(super) async fn ask_offsets(
        &self,
        leader: i32,
        specs: Vec<(Partition, OffsetSpec)>,
    ) -> Result<Vec<(Partition, Result<Option<i64>, ClientError>)>, ClientError> {
        let api = ApiKey::ListOffsets;
        let topics = by_topic(specs).into_iter().map(|(topic, partitions)| {
            let partitions = partitions.into_iter().map(|(partition, spec)| {
                ListOffsetsPartition::default()
                    .with_partition_index(partition)
                    .with_timestamp(spec.to_wire())
            });
            ListOffsetsTopic::default()
                .with_name(TopicName(text(&topic)))
                .with_partitions(partitions.collect())
        });
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(topics.collect());
        let response = self.call(Target::Node(leader), Lane::GENERAL, &request).await?;
        let mut found = Vec::new();
        for topic in response.topics {
            let name: Arc<str> = topic.name.as_str().into();
            for answer in topic.partitions {
                let partition = Partition::new(Arc::clone(&name), answer.partition_index);
                let checked =
                    ClientError::check(api, answer.error_code, None, || partition.to_string());
                let offset = checked.map(|()| (answer.offset >= 0).then_some(answer.offset));
                found.push((partition, offset));
            }
        }
        Ok(found)
    }

    /// The node that coordinates `group`. Asks once.
    ///
    /// # Errors
    /// As [`Client::call`], and the coordinator's absence.
    pub(crate) async fn coordinator(&self, group: &str) -> Result<i32, ClientError> {
        let api = ApiKey::FindCoordinator;
        let build = |version| {
            let request = FindCoordinatorRequest::default();
            Ok(if version >= 4 {
                request.with_coordinator_keys(vec![text(group)])
            } else {
                request.with_key(text(group))
            })
        };
        let response = self
            .call_versioned::<FindCoordinatorRequest, FindCoordinatorRequest>(
                Target::Any,
                Lane::GENERAL,
                FindCoordinatorRequest::VERSIONS,
                build,
            )
            .await?;
        let subject = || group.to_owned();
        match response.coordinators.first() {
            Some(found) => {
                ClientError::check(api, found.error_code, words(&found.error_message), subject)?;
                Ok(found.node_id.0)
            }
            None => {
                let message = words(&response.error_message);
                ClientError::check(api, response.error_code, message, subject)?;
                Ok(response.node_id.0)
            }
        }
    }

    /// What `group` has committed: for `partitions`, or wherever it has committed.
    ///
    /// # Errors
    /// The group's error, or the first partition's.
    pub async fn committed(
        &self,
        group: &str,
        partitions: Option<&[Partition]>,
    ) -> Result<BTreeMap<Partition, Committed>, ClientError> {
        let topics = partitions
            .map(|partitions| by_topic(partitions.iter().map(|partition| (partition.clone(), ()))));
        let build = |version| Ok(offset_fetch(group, topics.as_ref(), version));
        // All partitions can be asked for since version 2. Version 10 knows topics only by id.
        let versions = VersionRange { min: 2, max: OffsetFetchRequest::VERSIONS.max.min(9) };
        retrying!(self, self.deadline(), async {
            let node = self.coordinator(group).await?;
            let response = self
                .call_versioned::<OffsetFetchRequest, OffsetFetchRequest>(
                    Target::Node(node),
                    Lane::GENERAL,
                    versions,
                    build,
                )
                .await?;
            read_committed(group, response)
        })
    }

    /// Commits for a group that has no members now, as tools do.
    ///
    /// # Errors
    /// The first partition's error that does not go away by trying again.
    pub async fn commit(
        &self,
        group: &str,
        offsets: &BTreeMap<Partition, Committed>,
    ) -> Result<(), ClientError> {
        self.commit_as(group, &Committer::OUTSIDER, offsets).await
    }

    pub(crate) async fn commit_as(
        &self,
        group: &str,
        committer: &Committer,
        offsets: &BTreeMap<Partition, Committed>,
    ) -> Result<(), ClientError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let api = ApiKey::OffsetCommit;
        let topics = by_topic(offsets.clone()).into_iter().map(|(topic, partitions)| {
            let partitions = partitions.into_iter().map(|(partition, committed)| {
                OffsetCommitRequestPartition::default()
                    .with_partition_index(partition)
                    .with_committed_offset(committed.offset)
                    .with_committed_leader_epoch(committed.leader_epoch)
                    .with_committed_metadata(Some(text(&committed.metadata)))
            });
            OffsetCommitRequestTopic::default()
                .with_name(TopicName(text(&topic)))
                .with_partitions(partitions.collect())
        });
        let topics: Vec<_> = topics.collect();
        let build = |version| {
            Ok(OffsetCommitRequest::default()
                .with_group_id(GroupId(text(group)))
                .with_generation_id_or_member_epoch(committer.generation)
                .with_member_id(committer.member.clone())
                .with_group_instance_id(committer.instance.clone().filter(|_| version >= 7))
                .with_topics(topics.clone()))
        };
        let versions = VersionRange { max: 9, ..OffsetCommitRequest::VERSIONS };
        retrying!(self, self.deadline(), async {
            let node = self.coordinator(group).await?;
            let response = self
                .call_versioned::<OffsetCommitRequest, OffsetCommitRequest>(
                    Target::Node(node),
                    Lane::GENERAL,
                    versions,
                    build,
                )
                .await?;
            for topic in &response.topics {
                for partition in &topic.partitions {
                    ClientError::check(api, partition.error_code, None, || {
                        format!("{group} at {}-{}", &*topic.name, partition.partition_index)
                    })?;
                }
            }
            Ok(())
        })
    }
}

fn offset_fetch(group: &str, topics: Option<&ByTopic<()>>, version: i16) -> OffsetFetchRequest {
    let indexes = |partitions: &[(i32, ())]| partitions.iter().map(|(index, ())| *index).collect();
    let request = OffsetFetchRequest::default();
    if version < 8 {
        let topics = topics.map(|topics| {
            let topics = topics.iter().map(|(topic, partitions)| {
                OffsetFetchRequestTopic::default()
                    .with_name(TopicName(text(topic)))
                    .with_partition_indexes(indexes(partitions))
            });
            topics.collect()
        });
        return request.with_group_id(GroupId(text(group))).with_topics(topics);
    }
    let topics = topics.map(|topics| {
        let topics = topics.iter().map(|(topic, partitions)| {
            OffsetFetchRequestTopics::default()
                .with_name(TopicName(text(topic)))
                .with_partition_indexes(indexes(partitions))
        });
        topics.collect()
    });
    let wanted =
        OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(topics);
    request.with_groups(vec![wanted])
}

fn read_committed(
    group: &str,
    response: OffsetFetchResponse,
) -> Result<BTreeMap<Partition, Committed>, ClientError> {
    let api = ApiKey::OffsetFetch;
    let mut found = BTreeMap::new();
    let mut take = |topic: &str, index, code, offset, leader_epoch, metadata: Option<StrBytes>| {
        ClientError::check(api, code, None, || format!("{group} at {topic}-{index}"))?;
        if offset >= 0 {
            let metadata = metadata.map(|text| text.to_string()).unwrap_or_default();
            let committed = Committed { offset, leader_epoch, metadata };
            found.insert(Partition::new(topic, index), committed);
        }
        Ok::<_, ClientError>(())
    };
    let group_code = response.groups.first().map_or(response.error_code, |group| group.error_code);
    let unknown = WireError::GroupIdNotFound.code();
    if group_code == unknown {
        return Ok(BTreeMap::new());
    }
    ClientError::check(api, group_code, None, || group.to_owned())?;
    for topic in response.topics {
        for p in topic.partitions {
            let (epoch, metadata) = (p.committed_leader_epoch, p.metadata);
            take(
                &topic.name,
                p.partition_index,
                p.error_code,
                p.committed_offset,
                epoch,
                metadata,
            )?;
        }
    }
    for topic in response.groups.into_iter().flat_map(|group| group.topics) {
        for p in topic.partitions {
            let (epoch, metadata) = (p.committed_leader_epoch, p.metadata);
            take(
                &topic.name,
                p.partition_index,
                p.error_code,
                p.committed_offset,
                epoch,
                metadata,
            )?;
        }
    }
    Ok(found)
}
