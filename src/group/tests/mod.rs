//! The protocol as clients see it, in virtual time, over a log that may refuse and crash.

mod errors;
mod offsets;
mod rebalance;
mod replay;
mod runtime;
mod statics;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    error::ResponseError,
    messages::{
        HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        LeaveGroupResponse, OffsetCommitRequest, SyncGroupRequest, SyncGroupResponse,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics},
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::StrBytes,
};
use rand::{SeedableRng, rngs::StdRng};

use super::{Client, Config, GroupShard, Request, Response};
use crate::coordinator::{AppendError, Failure, Now, Pipeline, Record, Shard, Source, Token};

pub(super) const START_MS: i64 = 1_700_000_000_000;
pub(super) const GROUP: &str = "g";

pub(super) fn s(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// One shard over a log in memory, in virtual time.
pub(super) struct Sim {
    config: Arc<Config>,
    pub(super) log: Vec<Record>,
    pipeline: Option<Pipeline<GroupShard>>,
    now_ms: u64,
    next_token: u64,
    answers: BTreeMap<Token, Result<Response, Failure>>,
    seed: u64,
    /// Whether appends stay under way until `commit`.
    pub(super) hold: bool,
}

impl Sim {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Self {
        let mut this = Self {
            config: Arc::new(config),
            log: vec![],
            pipeline: None,
            now_ms: 0,
            next_token: 0,
            answers: BTreeMap::new(),
            seed: 0,
            hold: false,
        };
        this.restart();
        this
    }

    /// Loads a new shard from the log. What was not in the log is lost.
    pub(super) fn restart(&mut self) {
        self.seed += 1;
        let mut shard = GroupShard::new(Arc::clone(&self.config), StdRng::seed_from_u64(self.seed));
        for record in &self.log {
            shard.replay(record, Source { transaction: None }).unwrap();
        }
        self.pipeline = Some(Pipeline::new(shard, 1 << 20, self.now()));
        self.settle();
    }

    /// Ends the shard as when leadership is lost.
    pub(super) fn resign(&mut self) {
        let replies = self.pipeline.take().unwrap().unload(Failure::NotCoordinator);
        self.answers.extend(replies);
        self.restart();
    }

    pub(super) fn now(&self) -> Now {
        Now {
            monotonic: Duration::from_millis(self.now_ms),
            wall_ms: START_MS + i64::try_from(self.now_ms).unwrap(),
        }
    }

    pub(super) fn pipeline(&mut self) -> &mut Pipeline<GroupShard> {
        self.pipeline.as_mut().unwrap()
    }

    pub(super) fn shard(&self) -> &GroupShard {
        self.pipeline.as_ref().unwrap().shard()
    }

    /// Puts a request and returns its token; see [`Self::answer`].
    pub(super) fn send(&mut self, request: Request) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        let now = self.now();
        self.pipeline().request(token, request, now);
        self.settle();
        token
    }

    /// The answer, if there is one by now.
    pub(super) fn poll(&mut self, token: Token) -> Option<Result<Response, Failure>> {
        self.answers.remove(&token)
    }

    pub(super) fn answer(&mut self, token: Token) -> Response {
        self.poll(token).expect("no answer yet").expect("failed")
    }

    pub(super) fn ask(&mut self, request: Request) -> Response {
        let token = self.send(request);
        self.answer(token)
    }

    /// Lets time pass, with every timer on its way.
    pub(super) fn advance(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while let Some(at) = self.pipeline().next_deadline() {
            let at = u64::try_from(at.as_millis()).unwrap();
            if at > until {
                break;
            }
            self.now_ms = self.now_ms.max(at);
            let now = self.now();
            self.pipeline().expire(now);
            self.settle();
        }
        self.now_ms = until;
    }

    fn settle(&mut self) {
        if !self.hold {
            self.commit();
        }
        let replies = self.pipeline().take_replies();
        self.take(replies);
    }

    fn take(&mut self, replies: Vec<(Token, Result<Response, Failure>)>) {
        for (token, answer) in replies {
            assert!(self.answers.insert(token, answer).is_none(), "{token:?} was answered twice");
        }
    }

    /// Commits whatever is decided.
    pub(super) fn commit(&mut self) {
        let now = self.now();
        let (pipeline, log) = (self.pipeline.as_mut().unwrap(), &mut self.log);
        while let Some((records, _)) = pipeline.take_batch() {
            log.extend_from_slice(records);
            pipeline.committed(now);
        }
        let replies = pipeline.take_replies();
        self.take(replies);
    }

    /// Refuses what is decided.
    pub(super) fn refuse(&mut self) {
        let now = self.now();
        let pipeline = self.pipeline();
        assert!(pipeline.take_batch().is_some(), "nothing to refuse");
        pipeline.failed(AppendError::NotEnoughReplicas, now);
        let replies = pipeline.take_replies();
        self.take(replies);
    }

    // Requests.

    pub(super) fn join(&mut self, join: Join) -> Token {
        let version = join.version;
        let client = Client { id: "client".to_owned(), host: "/127.0.0.1".to_owned() };
        self.send(Request::Join { request: join.request(), version, client })
    }

    pub(super) fn joined(&mut self, token: Token) -> JoinGroupResponse {
        match self.answer(token) {
            Response::Join(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// A dynamic member's way in: a first JoinGroup for the id, a second with it.
    pub(super) fn enter(&mut self, join: Join) -> (String, Token) {
        let first = self.join(join.clone());
        let response = self.joined(first);
        assert_eq!(response.error_code, ResponseError::MemberIdRequired.code());
        let id = response.member_id.to_string();
        (id.clone(), self.join(join.member(&id)))
    }

    pub(super) fn sync(
        &mut self,
        member: &str,
        generation: i32,
        assignments: &[(&str, &str)],
    ) -> Token {
        let assignments = assignments.iter().map(|(id, assignment)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(s(id))
                .with_assignment(Bytes::copy_from_slice(assignment.as_bytes()))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(s(GROUP).into())
            .with_member_id(s(member))
            .with_generation_id(generation)
            .with_assignments(assignments.collect());
        self.send(Request::Sync(request))
    }

    pub(super) fn synced(&mut self, token: Token) -> SyncGroupResponse {
        match self.answer(token) {
            Response::Sync(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn heartbeat(&mut self, member: &str, generation: i32) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(s(GROUP).into())
            .with_member_id(s(member))
            .with_generation_id(generation);
        match self.ask(Request::Heartbeat(request)) {
            Response::Heartbeat(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn leave(&mut self, members: &[(&str, Option<&str>)]) -> LeaveGroupResponse {
        let members = members.iter().map(|(id, instance)| {
            MemberIdentity::default().with_member_id(s(id)).with_group_instance_id(instance.map(s))
        });
        let request = LeaveGroupRequest::default()
            .with_group_id(s(GROUP).into())
            .with_members(members.collect());
        match self.ask(Request::Leave(request)) {
            Response::Leave(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn commit_request(
        group: &str,
        member: &str,
        generation: i32,
        topic: &str,
        offset: i64,
    ) -> Request {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(7)
            .with_committed_metadata(Some(s("note")));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(s(topic).into())
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(s(group).into())
            .with_member_id(s(member))
            .with_generation_id_or_member_epoch(generation)
            .with_topics(vec![topic]);
        Request::CommitOffsets { request, version: 9 }
    }

    /// The one partition's error code.
    pub(super) fn commit_offset(&mut self, member: &str, generation: i32, offset: i64) -> i16 {
        let request = Self::commit_request(GROUP, member, generation, "t", offset);
        match self.ask(request) {
            Response::CommitOffsets(response) => response.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    /// The committed offset of partition 0 of `topic`.
    pub(super) fn fetch(&mut self, group: &str, topic: &str) -> i64 {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(s(topic).into())
            .with_partition_indexes(vec![0]);
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(s(group).into())
            .with_topics(Some(vec![topic]));
        match self.ask(Request::FetchOffsets { group, require_stable: false }) {
            Response::FetchOffsets(response) => {
                let partition = &response.topics[0].partitions[0];
                assert_eq!(partition.error_code, 0);
                partition.committed_offset
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn state(&self) -> &'static str {
        self.shard().groups.get(GROUP).map_or("Dead", |group| group.state.name())
    }

    /// A stable group of dynamic members; returns their ids, the leader first, and the generation.
    pub(super) fn stable(&mut self, members: usize) -> (Vec<String>, i32) {
        let entered: Vec<_> = (0..members).map(|_| self.enter(Join::dynamic())).collect();
        self.advance(10_000);
        let mut ids: Vec<_> = entered.iter().map(|(id, _)| id.clone()).collect();
        let responses: Vec<_> = entered.iter().map(|(_, token)| self.joined(*token)).collect();
        let generation = responses[0].generation_id;
        ids.sort_by_key(|id| **id != *responses[0].leader);
        let assignments: Vec<_> = ids.iter().map(|id| (id.as_str(), "parts")).collect();
        let tokens: Vec<_> =
            ids.iter().rev().map(|id| self.sync(id, generation, &assignments)).collect();
        for token in tokens {
            assert_eq!(self.synced(token).assignment, "parts");
        }
        assert_eq!(self.state(), "Stable");
        (ids, generation)
    }
}

/// A JoinGroup to be.
#[derive(Debug, Clone)]
pub(super) struct Join {
    pub(super) version: i16,
    pub(super) member: String,
    pub(super) instance: Option<String>,
    pub(super) protocol_type: &'static str,
    pub(super) protocols: Vec<(&'static str, Bytes)>,
    pub(super) session_ms: i32,
    pub(super) rebalance_ms: i32,
}

impl Join {
    pub(super) fn dynamic() -> Self {
        Self {
            version: 9,
            member: String::new(),
            instance: None,
            protocol_type: "consumer",
            protocols: vec![("range", subscription(&["t"]))],
            session_ms: 10_000,
            rebalance_ms: 60_000,
        }
    }

    pub(super) fn fixed(instance: &str) -> Self {
        Self { instance: Some(instance.to_owned()), ..Self::dynamic() }
    }

    pub(super) fn member(mut self, id: &str) -> Self {
        id.clone_into(&mut self.member);
        self
    }

    pub(super) fn protocols(mut self, names: &[&'static str]) -> Self {
        self.protocols = names.iter().map(|name| (*name, subscription(&["t"]))).collect();
        self
    }

    fn request(&self) -> JoinGroupRequest {
        let protocols = self.protocols.iter().map(|(name, metadata)| {
            JoinGroupRequestProtocol::default().with_name(s(name)).with_metadata(metadata.clone())
        });
        JoinGroupRequest::default()
            .with_group_id(s(GROUP).into())
            .with_member_id(s(&self.member))
            .with_group_instance_id(self.instance.as_deref().map(s))
            .with_protocol_type(s(self.protocol_type))
            .with_protocols(protocols.collect())
            .with_session_timeout_ms(self.session_ms)
            .with_rebalance_timeout_ms(self.rebalance_ms)
    }
}

/// A consumer's subscription, version 1.
pub(super) fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(1);
    bytes.put_i32(i32::try_from(topics.len()).unwrap());
    for topic in topics {
        bytes.put_i16(i16::try_from(topic.len()).unwrap());
        bytes.put_slice(topic.as_bytes());
    }
    bytes.put_i32(-1);
    bytes.put_i32(0);
    bytes.freeze()
}

pub(super) fn code(error: ResponseError) -> i16 {
    error.code()
}
