//! The group coordinator: Kafka's classic group protocol and committed offsets.
//!
//! [`GroupShard`] is the state machine of one partition of `__consumer_offsets`: it takes requests
//! and the time and returns records, answers and deadlines. It opens nothing, waits for nothing
//! and draws no random number that was not handed to it. The [`coordinator`](crate::coordinator)
//! runs it; [`Groups`] is how the rest of the node asks.
//!
//! State: what records make up (`state`, the fold of the log, seen as committed or as decided)
//! and, over it, what only lives here: who awaits which answer, timers, members between two
//! generations. Invariants:
//! - A group exists here exactly if the decided records name it: by its metadata or by an offset.
//! - Replaying the log gives the committed state.
//! - Generations of a group only grow; a request with another generation changes nothing.
//! - Every request is answered once: now, after its records are committed, or when its group moves.
//!
//! References: KIP-62 (rebalance timeout), KIP-134 (initial delay), KIP-211 (expiry of offsets),
//! KIP-345 (static membership), KIP-394 (member id required), KIP-429 (cooperative rebalancing),
//! KIP-496 (OffsetDelete), KIP-814 (static leader skips the assignment).

mod classic;
mod committed;
mod describe;
mod expiry;
mod handle;
mod heartbeat;
mod join;
mod leave;
mod member;
mod offsets;
mod records;
mod shard;
mod state;
mod subscription;
mod sync;
mod timers;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use kafka_protocol::messages::{
    DeleteGroupsResponse, DescribeGroupsResponse, GroupId, HeartbeatRequest, HeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest,
    ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest,
    OffsetDeleteResponse, SyncGroupRequest, SyncGroupResponse, TopicName,
    offset_fetch_request::OffsetFetchRequestGroup, offset_fetch_response::OffsetFetchResponseGroup,
};
use kafka_protocol::protocol::StrBytes;

pub use committed::{CommittedOffsets, GroupOffset};
pub use handle::Groups;
pub use shard::GroupShard;

/// A name or id within the state: never a slice of a request, which would keep its buffer alive.
type Str = Arc<str>;

/// The topic that the coordinator keeps its records in.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// What the group coordinator is configured with, under Kafka's names.
#[derive(Debug, Clone)]
pub struct Config {
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i32,
    /// `group.min.session.timeout.ms`
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_timeout_ms: i32,
    /// `group.max.size`
    pub max_size: i32,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval: Duration,
    /// `offsets.commit.timeout.ms`: how long a request waits for its records.
    pub commit_timeout: Duration,
    /// How long a new member may wait for its group without a sign of life. Kafka has it fixed.
    pub new_member_join_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3_000,
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            max_size: i32::MAX,
            offset_metadata_max_bytes: 4_096,
            offsets_retention: Duration::from_secs(10_080 * 60),
            offsets_retention_check_interval: Duration::from_secs(600),
            commit_timeout: Duration::from_secs(5),
            new_member_join_timeout: Duration::from_secs(300),
        }
    }
}

/// Who sends a JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The `client.id` of its request header.
    pub id: String,
    /// Its address as Kafka prints it, with a slash before it: `/10.0.0.1`.
    pub host: String,
}

/// What a shard is asked: Kafka's own requests, with what their headers add.
#[derive(Debug, Clone)]
pub enum Request {
    Join {
        request: JoinGroupRequest,
        version: i16,
        client: Client,
    },
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    Leave(LeaveGroupRequest),
    CommitOffsets {
        request: OffsetCommitRequest,
        version: i16,
    },
    FetchOffsets {
        group: OffsetFetchRequestGroup,
        require_stable: bool,
    },
    DeleteOffsets(OffsetDeleteRequest),
    Describe {
        groups: Vec<GroupId>,
        version: i16,
    },
    List(ListGroupsRequest),
    Delete {
        groups: Vec<GroupId>,
    },
    /// Topics are gone: their offsets go as well.
    TopicsDeleted(Vec<TopicName>),
    /// What all groups have committed.
    Committed,
}

/// What a shard answers. Errors that Kafka puts into the response are in the response.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    Leave(LeaveGroupResponse),
    CommitOffsets(OffsetCommitResponse),
    FetchOffsets(OffsetFetchResponseGroup),
    DeleteOffsets(OffsetDeleteResponse),
    Describe(DescribeGroupsResponse),
    List(ListGroupsResponse),
    Delete(DeleteGroupsResponse),
    TopicsDeleted,
    Committed(CommittedOffsets),
}

/// The partition of the offsets topic that keeps `group_id`, as Kafka chooses it.
///
/// `partitions` is the topic's number of partitions and positive.
#[must_use]
pub fn partition_for(group_id: &str, partitions: i32) -> i32 {
    // Java's String.hashCode: over UTF-16 units, wrapping. Kafka takes the absolute value, with 0
    // for the one number that has none.
    let hash = group_id
        .encode_utf16()
        .fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) % partitions
}

fn wire(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn wire_opt(text: Option<&Str>) -> Option<StrBytes> {
    text.map(|text| wire(text))
}

fn own(text: &StrBytes) -> Str {
    Arc::from(text.as_str())
}

fn own_opt(text: Option<&StrBytes>) -> Option<Str> {
    text.map(own)
}

fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
