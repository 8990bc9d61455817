//! JoinGroup: how members enter a group and begin its generations.

use std::collections::BTreeSet;

use bytes::Bytes;
use kafka_protocol::{
    error::ResponseError,
    messages::{JoinGroupRequest, JoinGroupResponse},
};

use super::{
    Client, Response, Str,
    classic::{Group, GroupState, Update},
    member::{Member, Protocol},
    own, own_opt,
    shard::{Continuation, Cx, GroupShard, Step},
    timers::Kind,
    wire,
};
use crate::coordinator::{Effects, Failure, Now, Token};

/// The first version that makes a new dynamic member come back with the id it was given.
const REQUIRES_KNOWN_MEMBER_ID: i16 = 4;
/// The first version that can tell a returning static leader not to assign.
const CAN_SKIP_ASSIGNMENT: i16 = 9;
/// Ids and names are written with lengths of 16 bits, with a UUID appended to some.
pub(super) const MAX_NAME_BYTES: usize = 32_000;

/// A JoinGroup, copied out of its request.
struct Join {
    token: Token,
    version: i16,
    member: Str,
    instance: Option<Str>,
    client: Client,
    protocol_type: Str,
    protocols: Vec<Protocol>,
    rebalance_timeout_ms: i32,
    session_timeout_ms: i32,
}

/// A static member that took another's place in a stable group, until that is committed.
#[derive(Debug)]
pub(super) struct Replacement {
    token: Token,
    group: Str,
    version: i16,
    old: Str,
    new: Str,
    /// The group's leader before.
    leader: Option<Str>,
    before: Update,
}

impl Join {
    fn new(token: Token, version: i16, request: &JoinGroupRequest, client: Client) -> Self {
        let mut names = BTreeSet::new();
        let protocols = request.protocols.iter().map(|protocol| Protocol {
            name: own(&protocol.name),
            metadata: Bytes::copy_from_slice(&protocol.metadata),
        });
        // Version 0 has no rebalance timeout of its own.
        let rebalance_timeout_ms =
            if version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms };
        Self {
            token,
            version,
            member: own(&request.member_id),
            instance: own_opt(request.group_instance_id.as_ref()),
            client,
            protocol_type: own(&request.protocol_type),
            protocols: protocols.filter(|protocol| names.insert(protocol.name.clone())).collect(),
            rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
        }
    }

    fn into_update(self) -> Update {
        Update {
            protocols: self.protocols,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            token: Some(self.token),
        }
    }

    fn into_member(self, id: Str) -> Member {
        Member {
            id,
            instance: self.instance,
            client_id: Str::from(self.client.id),
            client_host: Str::from(self.client.host),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            protocols: self.protocols,
            assignment: Bytes::new(),
            is_new: true,
            awaiting_join: Some(self.token),
            awaiting_sync: None,
        }
    }
}

/// The answer to a JoinGroup that failed.
pub(super) fn error_response(member: &str, error: ResponseError) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(error.code())
        .with_generation_id(-1)
        .with_member_id(wire(member))
}

impl GroupShard {
    pub(super) fn join(
        &mut self,
        token: Token,
        request: &JoinGroupRequest,
        version: i16,
        client: Client,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        if let Err(error) = self.validate_join(request) {
            let response = error_response(&request.member_id, error);
            out.reply_now(token, Response::Join(response));
            return;
        }
        let join = Join::new(token, version, request, client);
        let id = own(&request.group_id);
        let (groups, mut cx) = self.split(now, out);
        if !groups.contains_key(&id) {
            if !join.member.is_empty() {
                cx.join_error(token, &join.member, ResponseError::UnknownMemberId);
                return;
            }
            let group = Group::new(id.clone(), now.wall_ms);
            // So that the group is there after a restart as it is now.
            cx.write(vec![group.record(|_| Bytes::new())]);
            groups.insert(id.clone(), group);
        }
        groups.get_mut(&id).expect("just made if it was not there").join(join, &mut cx);
    }

    fn validate_join(&self, request: &JoinGroupRequest) -> Result<(), ResponseError> {
        let limits = self.config.min_session_timeout_ms..=self.config.max_session_timeout_ms;
        if request.group_id.is_empty() || request.group_id.len() > MAX_NAME_BYTES {
            return Err(ResponseError::InvalidGroupId);
        }
        if !limits.contains(&request.session_timeout_ms) {
            return Err(ResponseError::InvalidSessionTimeout);
        }
        let names = request.protocols.iter().map(|protocol| protocol.name.len());
        let instance = request.group_instance_id.iter().map(|instance| instance.len());
        let protocol_type = request.protocol_type.len();
        let longest = names.chain(instance).chain([protocol_type]).max();
        if longest > Some(MAX_NAME_BYTES) {
            return Err(ResponseError::InvalidRequest);
        }
        Ok(())
    }

    /// A static member's replacement is committed, or refused.
    pub(super) fn replaced(
        &mut self,
        replacement: Replacement,
        result: Result<(), Failure>,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let (groups, mut cx) = self.split(now, out);
        let Some(group) = groups.get_mut(&replacement.group) else { return };
        match result {
            Ok(()) => group.replacement_committed(&replacement, &mut cx),
            Err(error) => group.replacement_refused(replacement, error, &mut cx),
        }
    }
}

impl Group {
    fn join(&mut self, join: Join, cx: &mut Cx<'_>) {
        if !self.has_room_for(&join.member, cx) {
            let member = join.member.clone();
            cx.join_error(join.token, "", ResponseError::GroupMaxSizeReached);
            self.remove(&member, cx);
            self.maybe_complete_join(cx);
        } else if !self.supports(&join.protocol_type, &join.protocols) {
            cx.join_error(join.token, &join.member, ResponseError::InconsistentGroupProtocol);
        } else if join.member.is_empty() {
            self.join_new(join, cx);
        } else if self.pending_joins.contains(&join.member) {
            if join.instance.is_some() {
                // Ids are pending only for dynamic members.
                cx.join_error(join.token, &join.member, ResponseError::UnknownMemberId);
            } else {
                let id = join.member.clone();
                self.admit(id, join, cx);
            }
        } else if let Err(error) = self.validate_member(&join.member, join.instance.as_deref()) {
            cx.join_error(join.token, &join.member, error);
        } else {
            self.rejoin(join, cx);
        }
    }

    /// Whether `group.max.size` allows the member, counting those who have joined this time while
    /// a rebalance is prepared: so the last ones to come back are shut out, not the first.
    fn has_room_for(&self, member: &str, cx: &Cx<'_>) -> bool {
        let max = usize::try_from(cx.config.max_size).unwrap_or(0);
        let known = self.members.get(member);
        match self.state {
            GroupState::Empty => true,
            GroupState::PreparingRebalance => {
                known.is_some_and(|known| known.awaiting_join.is_some())
                    || self.awaiting_joins() < max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                known.is_some() || self.members.len() < max
            }
        }
    }

    fn join_new(&mut self, join: Join, cx: &mut Cx<'_>) {
        let prefix = join.instance.as_deref().unwrap_or(&join.client.id);
        let id = cx.new_member_id(prefix);
        if let Some(instance) = &join.instance {
            if let Some(old) = self.static_members.get(instance).cloned() {
                self.replace(&old, id, join, cx);
            } else {
                self.admit(id, join, cx);
            }
        } else if join.version >= REQUIRES_KNOWN_MEMBER_ID {
            self.pending_joins.insert(id.clone());
            let timeout = super::millis(join.session_timeout_ms);
            self.set_timer(Kind::Heartbeat(id.clone()), timeout, cx);
            cx.join_error(join.token, &id, ResponseError::MemberIdRequired);
        } else {
            self.admit(id, join, cx);
        }
    }

    /// A member that was not in the group enters it.
    fn admit(&mut self, id: Str, join: Join, cx: &mut Cx<'_>) {
        if let Some(initial) = &mut self.initial_rebalance {
            initial.member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        self.add(join.into_member(id.clone()));
        // It cannot send heartbeats before it knows its id. Should its request be lost meanwhile,
        // this ends it; until then the client comes back, and each time as another member.
        self.set_timer(Kind::Heartbeat(id), cx.config.new_member_join_timeout, cx);
        self.rebalance(cx);
    }

    fn rejoin(&mut self, join: Join, cx: &mut Cx<'_>) {
        let id = join.member.clone();
        let is_same = self.members.get(&id).is_some_and(|known| known.protocols == join.protocols);
        let needs_rebalance = match self.state {
            GroupState::PreparingRebalance => true,
            // It may have missed the answer to its first JoinGroup.
            GroupState::CompletingRebalance => !is_same,
            // A leader asks for a rebalance by this: topics may have changed.
            GroupState::Stable => !is_same || self.is_leader(&id),
            GroupState::Empty => {
                cx.join_error(join.token, &id, ResponseError::UnknownMemberId);
                return;
            }
        };
        if needs_rebalance {
            self.update(&id, join.into_update(), cx);
            self.rebalance(cx);
        } else {
            let response = self.join_response(&id);
            cx.out.reply(join.token, Response::Join(response));
        }
    }

    /// A static member comes back without its id: it gets a new one, and its former self is fenced.
    fn replace(&mut self, old: &Str, new: Str, join: Join, cx: &mut Cx<'_>) {
        let (token, version) = (join.token, join.version);
        let leader = self.leader.clone();
        self.replace_static(old, &new, cx);
        self.restart_session(&new, cx);
        let before = &self.members[&new];
        let before = Update {
            protocols: before.protocols.clone(),
            rebalance_timeout_ms: before.rebalance_timeout_ms,
            session_timeout_ms: before.session_timeout_ms,
            token: None,
        };
        self.update(&new, join.into_update(), cx);
        match self.state {
            GroupState::Stable if self.protocol == self.select_protocol() => {
                // Nothing changes for the others: only the id is to be kept.
                cx.write(vec![self.record(|member| member.assignment.clone())]);
                let group = self.id.clone();
                let old = old.clone();
                let replacement = Replacement { token, group, version, old, new, leader, before };
                cx.out.then(Continuation(Step::Replaced(replacement)));
            }
            // While the leader assigns, it knows the member by its old id only.
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(cx),
            GroupState::PreparingRebalance | GroupState::Empty => self.maybe_complete_join(cx),
        }
    }

    fn replacement_committed(&mut self, replacement: &Replacement, cx: &mut Cx<'_>) {
        let waits = self
            .members
            .get(&replacement.new)
            .is_some_and(|member| member.awaiting_join == Some(replacement.token));
        // Otherwise a rebalance has begun meanwhile, and its end is the answer.
        if !waits || self.state != GroupState::Stable {
            return;
        }
        let mut response = self.join_response(&replacement.new);
        if replacement.version >= CAN_SKIP_ASSIGNMENT {
            response.skip_assignment = self.is_leader(&replacement.new);
        } else {
            // The id of the leader before, so that the member does not take itself for one.
            response.leader = wire(replacement.leader.as_deref().unwrap_or(""));
            response.members.clear();
        }
        self.answer_join(&replacement.new, response, cx);
    }

    fn replacement_refused(
        &mut self,
        replacement: Replacement,
        error: ResponseError,
        cx: &mut Cx<'_>,
    ) {
        let Replacement { token, old, new, before, .. } = replacement;
        let waits =
            self.members.get(&new).is_some_and(|member| member.awaiting_join == Some(token));
        if !waits {
            return;
        }
        self.answer_join(&new, error_response("", error), cx);
        self.update(&new, before, cx);
        self.replace_static(&new, &old, cx);
        self.restart_session(&old, cx);
        if self.state == GroupState::PreparingRebalance {
            self.maybe_complete_join(cx);
        }
    }
}
