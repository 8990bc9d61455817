//! A classic group: its state, its members and how it passes from one generation to the next.
//!
//! ```text
//!  Empty ──join──▶ PreparingRebalance ──all joined, or time is up──▶ CompletingRebalance
//!    ▲                ▲   ▲                                              │        │
//!    │ nobody left    │   └────────── join, leave, session lost ─────────┘        │ leader's
//!    └────────────────┤                                                           │ assignment
//!                     └────────── join, leave, session lost ──── Stable ◀─────────┘ committed
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use kafka_protocol::{
    error::ResponseError,
    messages::{
        JoinGroupResponse, SyncGroupResponse, join_group_response::JoinGroupResponseMember,
    },
};

use super::{
    Response, Str,
    member::{Member, Protocol},
    millis,
    shard::Cx,
    state::{Change, GroupMetadata},
    subscription,
    timers::{Kind, Timer},
    wire, wire_opt,
};
use crate::coordinator::Token;

/// Where a group stands. Kafka's fifth state, Dead, is a group that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl GroupState {
    /// As Kafka's APIs name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// How much longer a new group may wait for more members (KIP-134).
#[derive(Debug, Clone, Copy)]
pub(super) struct InitialRebalance {
    pub(super) delay: Duration,
    pub(super) remaining: Duration,
    pub(super) member_added: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: Str,
    pub(super) state: GroupState,
    pub(super) state_timestamp_ms: i64,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<Str>,
    pub(super) protocol: Option<Str>,
    pub(super) leader: Option<Str>,
    pub(super) members: BTreeMap<Str, Member>,
    /// Member ids by `group.instance.id`.
    pub(super) static_members: BTreeMap<Str, Str>,
    /// Ids handed out with MEMBER_ID_REQUIRED that have not come back yet.
    pub(super) pending_joins: BTreeSet<Str>,
    /// Members of this generation that have not asked for their assignment yet.
    pub(super) pending_syncs: BTreeSet<Str>,
    /// Set from the first join of an empty group until its first generation.
    pub(super) initial_rebalance: Option<InitialRebalance>,
    /// What its consumers subscribe to, where that is known.
    pub(super) subscribed_topics: Option<BTreeSet<Str>>,
    /// How many members support each protocol.
    support: BTreeMap<Str, usize>,
    /// How many members await their JoinGroup's answer.
    awaiting_join: usize,
}

impl Group {
    /// A group without members or protocol: new, or one that only offsets were committed for.
    pub(super) fn new(id: Str, now_ms: i64) -> Self {
        Self {
            id,
            state: GroupState::Empty,
            state_timestamp_ms: now_ms,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_joins: BTreeSet::new(),
            pending_syncs: BTreeSet::new(),
            initial_rebalance: None,
            subscribed_topics: None,
            support: BTreeMap::new(),
            awaiting_join: 0,
        }
    }

    /// A group as the log has it.
    pub(super) fn restore(id: Str, metadata: &GroupMetadata) -> Self {
        let mut this = Self::new(id, metadata.state_timestamp_ms);
        this.generation = metadata.generation;
        let kind = &metadata.protocol_type;
        this.protocol_type = (!kind.is_empty()).then(|| kind.clone());
        this.protocol.clone_from(&metadata.protocol);
        for member in &metadata.members {
            // What is read may say anything.
            if !this.members.contains_key(&member.id) {
                this.add(Member::restore(member, metadata));
            }
        }
        this.leader.clone_from(&metadata.leader);
        if !this.members.is_empty() {
            this.state = GroupState::Stable;
        }
        this.subscribed_topics = this.compute_subscribed_topics();
        this
    }

    /// The record of the group as it is, with `assignment` for each member.
    pub(super) fn record(&self, assignment: impl Fn(&Member) -> Bytes) -> Change {
        let members = self.members.values();
        let metadata = GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| Str::from("")),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_timestamp_ms,
            members: members
                .map(|member| member.record(self.protocol.as_ref(), assignment(member)))
                .collect(),
        };
        Change::Group { group: self.id.clone(), metadata: Some(metadata) }
    }

    // Looking at members.

    pub(super) fn is_leader(&self, member: &str) -> bool {
        self.leader.as_deref() == Some(member)
    }

    /// Whether `member` may speak in the group, and for `instance` where it names one.
    pub(super) fn validate_member(
        &self,
        member: &str,
        instance: Option<&str>,
    ) -> Result<(), ResponseError> {
        if let Some(instance) = instance {
            match self.static_members.get(instance) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(known) if **known != *member => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    /// Whether a member with these protocols can be in the group with all others.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let everyone = self.members.len();
        let by_all = |protocol: &Protocol| {
            self.support.get(&protocol.name).copied().unwrap_or(0) == everyone
        };
        self.protocol_type.as_deref() == Some(protocol_type) && protocols.iter().any(by_all)
    }

    /// The most liked protocol among those that all members support.
    pub(super) fn select_protocol(&self) -> Option<Str> {
        let mut votes = BTreeMap::<&Str, usize>::new();
        for member in self.members.values() {
            if let Some(name) = member.vote(&self.support, self.members.len()) {
                *votes.entry(name).or_default() += 1;
            }
        }
        // Of equals the first by name, so that the choice is the same in every run.
        let best = votes.into_iter().rev().max_by_key(|(_, count)| *count);
        best.map(|(name, _)| name.clone())
    }

    /// The longest time that any member asks for to rejoin.
    pub(super) fn rebalance_timeout(&self) -> Duration {
        let timeouts = self.members.values().map(|member| member.rebalance_timeout_ms);
        millis(timeouts.max().unwrap_or(0))
    }

    pub(super) fn has_all_joined(&self) -> bool {
        self.awaiting_join == self.members.len() && self.pending_joins.is_empty()
    }

    pub(super) const fn awaiting_joins(&self) -> usize {
        self.awaiting_join
    }

    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.is_consumer_group(),
        }
    }

    pub(super) fn is_consumer_group(&self) -> bool {
        self.protocol_type.as_deref() == Some(subscription::CONSUMER)
    }

    /// The members as the leader is told of them.
    pub(super) fn members_for_leader(&self) -> Vec<JoinGroupResponseMember> {
        let members = self.members.values();
        members
            .map(|member| {
                JoinGroupResponseMember::default()
                    .with_member_id(wire(&member.id))
                    .with_group_instance_id(wire_opt(member.instance.as_ref()))
                    .with_metadata(member.metadata(self.protocol.as_ref()))
            })
            .collect()
    }

    /// The answer to a JoinGroup of `member` in the current generation.
    pub(super) fn join_response(&self, member: &str) -> JoinGroupResponse {
        let members = if self.is_leader(member) { self.members_for_leader() } else { vec![] };
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_type(wire_opt(self.protocol_type.as_ref()))
            .with_protocol_name(wire_opt(self.protocol.as_ref()))
            .with_leader(wire(self.leader.as_deref().unwrap_or("")))
            .with_member_id(wire(member))
            .with_members(members)
    }

    /// The answer to a SyncGroup of a member with `assignment` in the current generation.
    pub(super) fn sync_response(&self, assignment: Bytes) -> SyncGroupResponse {
        SyncGroupResponse::default()
            .with_protocol_type(wire_opt(self.protocol_type.as_ref()))
            .with_protocol_name(wire_opt(self.protocol.as_ref()))
            .with_assignment(assignment)
    }

    // Changing members.

    /// Adds a member that is not in the group yet.
    pub(super) fn add(&mut self, member: Member) {
        if let Some(instance) = &member.instance {
            self.static_members.insert(instance.clone(), member.id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.pending_joins.remove(&member.id);
        self.count_protocols(&member.protocols);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        let before = self.members.insert(member.id.clone(), member);
        assert!(before.is_none(), "a member joins once");
    }

    /// Takes a member or a pending id out of the group, with its timer. Its answers are due first.
    pub(super) fn remove(&mut self, id: &str, cx: &mut Cx<'_>) {
        self.pending_joins.remove(id);
        self.pending_syncs.remove(id);
        cx.timers.cancel(&self.heartbeat_timer(Str::from(id)));
        let Some(member) = self.members.remove(id) else { return };
        if let Some(token) = member.awaiting_join {
            cx.join_error(token, "", ResponseError::UnknownMemberId);
        }
        if let Some(token) = member.awaiting_sync {
            cx.sync_error(token, ResponseError::UnknownMemberId);
        }
        self.awaiting_join -= usize::from(member.awaiting_join.is_some());
        self.discount_protocols(&member.protocols);
        if let Some(instance) = &member.instance {
            self.static_members.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Gives a static member another id. Whoever waits under the old one is fenced.
    pub(super) fn replace_static(&mut self, old: &str, new: &Str, cx: &mut Cx<'_>) {
        let mut member = self.members.remove(old).expect("static members are members");
        if let Some(token) = member.awaiting_join.take() {
            self.awaiting_join -= 1;
            cx.join_error(token, old, ResponseError::FencedInstanceId);
        }
        if let Some(token) = member.awaiting_sync.take() {
            cx.sync_error(token, ResponseError::FencedInstanceId);
        }
        cx.timers.cancel(&self.heartbeat_timer(Str::from(old)));
        self.pending_syncs.remove(old);
        let instance = member.instance.clone().expect("only static members are replaced");
        self.static_members.insert(instance, new.clone());
        if self.is_leader(old) {
            self.leader = Some(new.clone());
        }
        member.id = new.clone();
        member.is_new = false;
        self.members.insert(new.clone(), member);
    }

    /// A member joins again with what it supports now.
    pub(super) fn update(&mut self, id: &str, update: Update, cx: &mut Cx<'_>) {
        let member = self.members.get_mut(id).expect("the caller has looked it up");
        let before = std::mem::replace(&mut member.protocols, update.protocols);
        member.rebalance_timeout_ms = update.rebalance_timeout_ms;
        member.session_timeout_ms = update.session_timeout_ms;
        let waited = std::mem::replace(&mut member.awaiting_join, update.token);
        let after = member.protocols.clone();
        if let Some(token) = waited {
            // Differs from Kafka: the request before this one is answered, not forgotten.
            cx.join_error(token, id, ResponseError::RebalanceInProgress);
        }
        self.awaiting_join -= usize::from(waited.is_some());
        self.awaiting_join += usize::from(update.token.is_some());
        self.discount_protocols(&before);
        self.count_protocols(&after);
    }

    /// Answers the JoinGroup that `id` awaits, if it does.
    pub(super) fn answer_join(&mut self, id: &str, response: JoinGroupResponse, cx: &mut Cx<'_>) {
        let token = self.members.get_mut(id).and_then(|member| member.awaiting_join.take());
        if let Some(token) = token {
            self.awaiting_join -= 1;
            cx.out.reply(token, Response::Join(response));
        }
    }

    // Passing from one generation to the next.

    pub(super) fn transition(&mut self, to: GroupState, cx: &Cx<'_>) {
        self.state = to;
        self.state_timestamp_ms = cx.now.wall_ms;
    }

    /// Begins a rebalance, unless one is being prepared already: then ends it if all have joined.
    pub(super) fn rebalance(&mut self, cx: &mut Cx<'_>) {
        if self.state == GroupState::PreparingRebalance {
            self.maybe_complete_join(cx);
        } else {
            self.prepare_rebalance(cx);
        }
    }

    pub(super) fn prepare_rebalance(&mut self, cx: &mut Cx<'_>) {
        if self.state == GroupState::CompletingRebalance {
            self.reset_assignments(ResponseError::RebalanceInProgress, cx);
        }
        self.pending_syncs.clear();
        cx.timers.cancel(&self.timer(Kind::Sync));
        let is_initial = self.state == GroupState::Empty;
        self.transition(GroupState::PreparingRebalance, cx);
        if is_initial {
            let delay = millis(cx.config.initial_rebalance_delay_ms);
            let remaining = self.rebalance_timeout().saturating_sub(delay);
            self.initial_rebalance =
                Some(InitialRebalance { delay, remaining, member_added: false });
            self.set_timer(Kind::Join, delay, cx);
        } else if self.has_all_joined() {
            self.complete_join(cx);
        } else {
            self.set_timer(Kind::Join, self.rebalance_timeout(), cx);
        }
    }

    /// Ends the join phase if nobody is missing. A new group's waits for its delay in any case.
    pub(super) fn maybe_complete_join(&mut self, cx: &mut Cx<'_>) {
        let is_due = self.state == GroupState::PreparingRebalance
            && self.initial_rebalance.is_none()
            && self.has_all_joined();
        if is_due {
            self.complete_join(cx);
        }
    }

    /// The time to join is up, or so it seems: a new group waits on while members come.
    pub(super) fn join_phase_expired(&mut self, cx: &mut Cx<'_>) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        match &mut self.initial_rebalance {
            Some(initial) if initial.member_added && !initial.remaining.is_zero() => {
                let waited = initial.delay;
                let delay = millis(cx.config.initial_rebalance_delay_ms).min(initial.remaining);
                *initial = InitialRebalance {
                    delay,
                    remaining: initial.remaining.saturating_sub(waited),
                    member_added: false,
                };
                self.set_timer(Kind::Join, delay, cx);
            }
            _ => self.complete_join(cx),
        }
    }

    /// Begins the next generation with those who have joined.
    pub(super) fn complete_join(&mut self, cx: &mut Cx<'_>) {
        cx.timers.cancel(&self.timer(Kind::Join));
        let is_absent =
            |member: &&Member| member.awaiting_join.is_none() && member.instance.is_none();
        let absent: Vec<_> =
            self.members.values().filter(is_absent).map(|member| member.id.clone()).collect();
        for id in absent {
            self.remove(&id, cx);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members are left and none has joined. Their sessions end this.
            self.set_timer(Kind::Join, self.rebalance_timeout(), cx);
            return;
        }
        self.initial_rebalance = None;
        self.pending_syncs.clear();
        self.generation = self.generation.wrapping_add(1).max(0);
        self.protocol = self.select_protocol();
        self.subscribed_topics = self.compute_subscribed_topics();
        if self.members.is_empty() {
            self.transition(GroupState::Empty, cx);
            let record = self.record(|member| member.assignment.clone());
            cx.write(vec![record]);
            return;
        }
        self.transition(GroupState::CompletingRebalance, cx);
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            let response = self.join_response(&id);
            self.answer_join(&id, response, cx);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
            }
            self.restart_session(&id, cx);
            self.pending_syncs.insert(id);
        }
        self.set_timer(Kind::Sync, self.rebalance_timeout(), cx);
    }

    /// Fails those who await an assignment that will not come.
    pub(super) fn reset_assignments(&mut self, error: ResponseError, cx: &mut Cx<'_>) {
        let mut answered = vec![];
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(token) = member.awaiting_sync.take() {
                cx.sync_error(token, error);
                answered.push(member.id.clone());
            }
        }
        for id in answered {
            self.restart_session(&id, cx);
        }
    }

    /// Fails every request that waits within the group.
    pub(super) fn fail_waiting(&mut self, error: ResponseError, cx: &mut Cx<'_>) {
        for member in self.members.values_mut() {
            let id = &member.id;
            if let Some(token) = member.awaiting_join.take() {
                cx.join_error(token, id, error);
            }
            if let Some(token) = member.awaiting_sync.take() {
                cx.sync_error(token, error);
            }
        }
        self.awaiting_join = 0;
    }

    // Timers.

    pub(super) fn timer(&self, kind: Kind) -> Timer {
        Timer { group: self.id.clone(), kind }
    }

    pub(super) fn heartbeat_timer(&self, member: Str) -> Timer {
        self.timer(Kind::Heartbeat(member))
    }

    pub(super) fn set_timer(&self, kind: Kind, after: Duration, cx: &mut Cx<'_>) {
        cx.timers.set(self.timer(kind), cx.now.monotonic + after);
    }

    /// The member has been heard of: its session lasts from now.
    pub(super) fn restart_session(&self, id: &Str, cx: &mut Cx<'_>) {
        if let Some(member) = self.members.get(id) {
            let timeout = millis(member.session_timeout_ms);
            self.set_timer(Kind::Heartbeat(id.clone()), timeout, cx);
        }
    }

    fn elect_joined_leader(&mut self) -> bool {
        let has_joined =
            |id: &Str| self.members.get(id).is_some_and(|member| member.awaiting_join.is_some());
        if self.leader.as_ref().is_some_and(has_joined) {
            return true;
        }
        let joined = self.members.keys().find(|id| has_joined(id)).cloned();
        if joined.is_some() {
            self.leader = joined;
            return true;
        }
        false
    }

    fn compute_subscribed_topics(&self) -> Option<BTreeSet<Str>> {
        if !self.is_consumer_group() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = Some(self.protocol.as_ref()?);
        let members = self.members.values();
        let all: Option<Vec<_>> =
            members.map(|member| subscription::topics(&member.metadata(protocol))).collect();
        Some(all?.into_iter().flatten().collect())
    }

    fn count_protocols(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            *self.support.entry(protocol.name.clone()).or_default() += 1;
        }
    }

    fn discount_protocols(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            if let Some(count) = self.support.get_mut(&protocol.name) {
                *count -= 1;
                if *count == 0 {
                    self.support.remove(&protocol.name);
                }
            }
        }
    }
}

/// What a member that joins again brings.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) protocols: Vec<Protocol>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// Awaits the answer; `None` to put back what was.
    pub(super) token: Option<Token>,
}
