//! Membership of a classic consumer group: joining, the leader's share-out, heartbeats, leaving.
//!
//! Joining is driven by the consumer, heartbeats by a task of their own, which only ever raises the
//! flag that says the consumer has to join again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        ApiKey, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        SyncGroupRequest, join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity, sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::{Message, StrBytes},
};
use tokio::{sync::Notify, task::AbortHandle, time::sleep};

use super::wire::Error as WireError;
use super::{
    assignment::{
        Assignor, decode_assignment, decode_subscription, encode_assignment, encode_subscription,
    },
    cluster::{Client, Lane, Target, retrying},
    codec::text,
    error::ClientError,
    offsets::{Committer, Partition},
};

/// How a consumer takes part in a group.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The group.
    pub group: String,
    /// A name of its own, so that a restart does not cause a rebalance.
    pub instance: Option<String>,
    /// How partitions are shared out.
    pub assignor: Assignor,
    /// After how long without a heartbeat the member counts as dead.
    pub session_timeout: Duration,
    /// How long a rebalance waits for members to join again.
    pub rebalance_timeout: Duration,
    /// How often the member says that it lives.
    pub heartbeat_interval: Duration,
    /// How often positions are committed; never by themselves where none.
    pub auto_commit: Option<Duration>,
}

impl GroupConfig {
    /// Kafka's defaults for `group`.
    #[must_use]
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            instance: None,
            assignor: Assignor::Range,
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_secs(60),
            heartbeat_interval: Duration::from_secs(3),
            auto_commit: Some(Duration::from_secs(5)),
        }
    }
}

/// What the heartbeats found out.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    rejoin: AtomicBool,
    /// Whether what the member held is no longer its own.
    lost: AtomicBool,
    changed: Notify,
}

impl Signal {
    pub(crate) fn wants_rejoin(&self) -> bool {
        self.rejoin.load(Ordering::Acquire)
    }

    pub(crate) async fn raised(&self) {
        while !self.wants_rejoin() {
            self.changed.notified().await;
        }
    }

    fn raise(&self, lost: bool) {
        self.lost.fetch_or(lost, Ordering::AcqRel);
        self.rejoin.store(true, Ordering::Release);
        self.changed.notify_one();
    }
}

/// One member.
#[derive(Debug)]
pub(crate) struct Membership {
    client: Client,
    config: GroupConfig,
    topics: Vec<Arc<str>>,
    lane: Lane,
    coordinator: Option<i32>,
    member: StrBytes,
    generation: i32,
    signal: Arc<Signal>,
    heartbeats: Option<AbortHandle>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop_heartbeats();
    }
}

impl Membership {
    pub(crate) fn new(client: Client, config: GroupConfig, topics: Vec<Arc<str>>) -> Self {
        let signal = Arc::new(Signal::default());
        signal.rejoin.store(true, Ordering::Release);
        Self {
            lane: client.lane(),
            client,
            config,
            topics,
            coordinator: None,
            member: StrBytes::new(),
            generation: -1,
            signal,
            heartbeats: None,
        }
    }

    pub(crate) fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.signal)
    }

    pub(crate) const fn config(&self) -> &GroupConfig {
        &self.config
    }

    /// Whether what the member held until now may still be committed.
    pub(crate) fn holds_assignment(&self) -> bool {
        self.generation >= 0 && !self.signal.lost.load(Ordering::Acquire)
    }

    pub(crate) fn committer(&self) -> Committer {
        let instance = self.instance();
        Committer { generation: self.generation, member: self.member.clone(), instance }
    }

    fn instance(&self) -> Option<StrBytes> {
        self.config.instance.as_deref().map(text)
    }

    fn group(&self) -> GroupId {
        GroupId(text(&self.config.group))
    }

    fn stop_heartbeats(&mut self) {
        if let Some(task) = self.heartbeats.take() {
            task.abort();
        }
    }

    /// Joins the group, or joins it again, and returns what the member is given. Tries until that
    /// works or fails for good; the group's other members may take their time.
    pub(crate) async fn join(&mut self) -> Result<Vec<Partition>, ClientError> {
        self.stop_heartbeats();
        let client = self.client.clone();
        let deadline = client.deadline() + self.config.rebalance_timeout;
        let assigned = retrying!(client, deadline, async {
            let joined = self.join_once().await;
            joined.map_err(|error| self.digest(error))
        })?;
        self.signal.lost.store(false, Ordering::Release);
        self.signal.rejoin.store(false, Ordering::Release);
        self.start_heartbeats();
        Ok(assigned)
    }

    /// Draws the consequences of an error; those that joining again mends become retriable.
    fn digest(&mut self, error: ClientError) -> ClientError {
        match error.wire() {
            Some(WireError::MemberIdRequired) => {}
            Some(WireError::UnknownMemberId) => self.member = StrBytes::new(),
            Some(WireError::IllegalGeneration) => self.generation = -1,
            Some(WireError::RebalanceInProgress) => {}
            _ => {
                if error.is_retriable() {
                    self.coordinator = None;
                }
                return error;
            }
        }
        let subject: Arc<str> = self.config.group.as_str().into();
        ClientError::Missing { api: ApiKey::JoinGroup, subject }
    }

    async fn coordinator(&mut self) -> Result<i32, ClientError> {
        match self.coordinator {
            Some(node) => Ok(node),
            None => {
                let node = self.client.coordinator(&self.config.group).await?;
                self.coordinator = Some(node);
                Ok(node)
            }
        }
    }

    async fn join_once(&mut self) -> Result<Vec<Partition>, ClientError> {
        let node = Target::Node(self.coordinator().await?);
        let mut joined = self.ask_to_join(node).await?;
        if joined.error_code == WireError::MemberIdRequired.code() {
            self.member = joined.member_id;
            joined = self.ask_to_join(node).await?;
        }
        let group = || self.config.group.clone();
        ClientError::check(ApiKey::JoinGroup, joined.error_code, None, group)?;
        self.member = joined.member_id.clone();
        self.generation = joined.generation_id;
        let shares = if joined.leader == joined.member_id && !joined.skip_assignment {
            self.share_out(&joined).await?
        } else {
            Vec::new()
        };
        self.sync(node, &joined, shares).await
    }

    async fn ask_to_join(&self, node: Target) -> Result<JoinGroupResponse, ClientError> {
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str(self.config.assignor.name()))
            .with_metadata(encode_subscription(&self.topics));
        let build = |version| {
            let request = JoinGroupRequest::default()
                .with_group_id(self.group())
                .with_session_timeout_ms(millis(self.config.session_timeout))
                .with_member_id(self.member.clone())
                .with_group_instance_id(self.instance().filter(|_| version >= 5))
                .with_protocol_type(StrBytes::from_static_str("consumer"))
                .with_protocols(vec![protocol.clone()]);
            Ok(if version >= 1 {
                request.with_rebalance_timeout_ms(millis(self.config.rebalance_timeout))
            } else {
                request
            })
        };
        let within = self.config.rebalance_timeout + self.client.config().request_timeout;
        let versions = JoinGroupRequest::VERSIONS;
        self.client
            .call_within::<JoinGroupRequest, JoinGroupRequest>(
                node, self.lane, versions, within, build,
            )
            .await
    }

    /// As the leader of the group, decides who gets what.
    async fn share_out(
        &self,
        joined: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let members: BTreeMap<String, Vec<Arc<str>>> = joined
            .members
            .iter()
            .map(|member| {
                let topics = decode_subscription(&member.metadata).unwrap_or_default();
                (member.member_id.to_string(), topics)
            })
            .collect();
        let mut names: Vec<&str> = members.values().flatten().map(|topic| &**topic).collect();
        names.sort_unstable();
        names.dedup();
        self.client.refresh(&names, false).await?;
        let view = self.client.view();
        let topics = names.iter().filter_map(|name| view.topic(name));
        let count = |topic: &super::TopicView| i32::try_from(topic.partitions.len()).unwrap_or(0);
        let topics = topics.map(|topic| (Arc::clone(&topic.name), count(topic))).collect();
        let shares = self.config.assignor.assign(&members, &topics);
        Ok(shares
            .into_iter()
            .map(|(member, partitions)| {
                SyncGroupRequestAssignment::default()
                    .with_member_id(text(&member))
                    .with_assignment(encode_assignment(&partitions))
            })
            .collect())
    }

    async fn sync(
        &self,
        node: Target,
        joined: &JoinGroupResponse,
        shares: Vec<SyncGroupRequestAssignment>,
    ) -> Result<Vec<Partition>, ClientError> {
        let build = |version| {
            let request = SyncGroupRequest::default()
                .with_group_id(self.group())
                .with_generation_id(self.generation)
                .with_member_id(self.member.clone())
                .with_group_instance_id(self.instance().filter(|_| version >= 3))
                .with_assignments(shares);
            Ok(if version >= 5 {
                request
                    .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
                    .with_protocol_name(joined.protocol_name.clone())
            } else {
                request
            })
        };
        let within = self.config.rebalance_timeout + self.client.config().request_timeout;
        let versions = SyncGroupRequest::VERSIONS;
        let synced = self
            .client
            .call_within::<SyncGroupRequest, SyncGroupRequest>(
                node, self.lane, versions, within, build,
            )
            .await?;
        let group = || self.config.group.clone();
        ClientError::check(ApiKey::SyncGroup, synced.error_code, None, group)?;
        let assignment: Bytes = synced.assignment;
        decode_assignment(&assignment).ok_or_else(|| ClientError::ForeignAssignment {
            group: self.config.group.as_str().into(),
        })
    }

    fn start_heartbeats(&mut self) {
        let client = self.client.clone();
        let Some(node) = self.coordinator else { return };
        let (lane, signal) = (self.lane, self.signal());
        let request = HeartbeatRequest::default()
            .with_group_id(self.group())
            .with_generation_id(self.generation)
            .with_member_id(self.member.clone());
        let instance = self.instance();
        let (interval, session) = (self.config.heartbeat_interval, self.config.session_timeout);
        let heartbeats = async move {
            let mut silent = Duration::ZERO;
            loop {
                sleep(interval).await;
                let build = |version| {
                    let instance = instance.clone().filter(|_| version >= 3);
                    Ok(request.clone().with_group_instance_id(instance))
                };
                let versions = HeartbeatRequest::VERSIONS;
                let answer = client
                    .call_within::<HeartbeatRequest, HeartbeatRequest>(
                        Target::Node(node),
                        lane,
                        versions,
                        session,
                        build,
                    )
                    .await;
                match answer.map(|answer| WireError::try_from_code(answer.error_code)) {
                    Ok(None) => silent = Duration::ZERO,
                    Ok(Some(WireError::RebalanceInProgress)) => return signal.raise(false),
                    Ok(Some(error)) => {
                        tracing::debug!(%error, "heartbeat refused");
                        let moved = error.is_retriable();
                        return signal.raise(!moved);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "heartbeat failed");
                        silent += interval;
                        if silent >= session {
                            return signal.raise(true);
                        }
                    }
                }
            }
        };
        self.heartbeats = Some(tokio::spawn(heartbeats).abort_handle());
    }

    /// Leaves the group, so that the others need not wait for the session to end. A static member
    /// stays, since it means to come back.
    pub(crate) async fn leave(&mut self) -> Result<(), ClientError> {
        self.stop_heartbeats();
        if self.config.instance.is_some() || self.generation < 0 {
            return Ok(());
        }
        let Some(node) = self.coordinator else { return Ok(()) };
        let build = |version| {
            let request = LeaveGroupRequest::default().with_group_id(self.group());
            Ok(if version >= 3 {
                let member = MemberIdentity::default().with_member_id(self.member.clone());
                request.with_members(vec![member])
            } else {
                request.with_member_id(self.member.clone())
            })
        };
        let versions = LeaveGroupRequest::VERSIONS;
        let left = self
            .client
            .call_versioned::<LeaveGroupRequest, LeaveGroupRequest>(
                Target::Node(node),
                self.lane,
                versions,
                build,
            )
            .await?;
        self.generation = -1;
        let group = || self.config.group.clone();
        ClientError::check(ApiKey::LeaveGroup, left.error_code, None, group)
    }
}
