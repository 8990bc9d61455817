//! SyncGroup: how the leader's assignment reaches the members.

use bytes::Bytes;
use kafka_protocol::{
    error::ResponseError,
    messages::{SyncGroupRequest, SyncGroupResponse},
};

use super::{
    Response, Str,
    classic::{Group, GroupState},
    own,
    shard::{Continuation, Cx, GroupShard, Step},
    state::Change,
};
use crate::{
    base::HashMap,
    coordinator::{Effects, Failure, Now, Token},
};

/// A generation's assignment, until it is committed.
#[derive(Debug)]
pub(super) struct Assignment {
    group: Str,
    generation: i32,
    by_member: HashMap<Str, Bytes>,
}

pub(super) fn error_response(error: ResponseError) -> SyncGroupResponse {
    SyncGroupResponse::default().with_error_code(error.code())
}

impl GroupShard {
    pub(super) fn sync(
        &mut self,
        token: Token,
        request: &SyncGroupRequest,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let (groups, mut cx) = self.split(now, out);
        let group = groups.get_mut(request.group_id.as_str());
        if request.group_id.is_empty() {
            cx.sync_error(token, ResponseError::InvalidGroupId);
        } else if let Some(group) = group {
            group.sync(token, request, &mut cx);
        } else {
            cx.sync_error(token, ResponseError::UnknownMemberId);
        }
    }

    /// An assignment is committed, or refused.
    pub(super) fn assigned(
        &mut self,
        assignment: Assignment,
        result: Result<(), Failure>,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let (groups, mut cx) = self.split(now, out);
        let Some(group) = groups.get_mut(&assignment.group) else { return };
        // Another rebalance may have begun meanwhile: then the members have been told so.
        let is_current = group.state == GroupState::CompletingRebalance
            && group.generation == assignment.generation;
        match result {
            _ if !is_current => {}
            Ok(()) => group.assign(assignment.by_member, &mut cx),
            Err(error) => {
                group.reset_assignments(error, &mut cx);
                group.rebalance(&mut cx);
            }
        }
    }
}

impl Group {
    fn sync(&mut self, token: Token, request: &SyncGroupRequest, cx: &mut Cx<'_>) {
        if let Err(error) = self.validate_sync(request) {
            cx.sync_error(token, error);
            return;
        }
        let id = own(&request.member_id);
        self.pending_syncs.remove(&id);
        let member = self.members.get_mut(&id).expect("validated");
        match self.state {
            GroupState::Stable => {
                let assignment = member.assignment.clone();
                cx.out.reply_now(token, Response::Sync(self.sync_response(assignment)));
            }
            GroupState::CompletingRebalance => {
                if let Some(waited) = member.awaiting_sync.replace(token) {
                    // Differs from Kafka: the request before this one is answered, not forgotten.
                    cx.sync_error(waited, ResponseError::RebalanceInProgress);
                }
                if self.is_leader(&id) {
                    self.store_assignment(request, cx);
                }
            }
            GroupState::PreparingRebalance | GroupState::Empty => {
                unreachable!("validation lets nobody through in these states")
            }
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), ResponseError> {
        if self.state == GroupState::Empty {
            return Err(ResponseError::UnknownMemberId);
        }
        self.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        let differs = |theirs: Option<&str>, ours: Option<&Str>| match (theirs, ours) {
            (Some(theirs), Some(ours)) => *theirs != **ours,
            _ => false,
        };
        if differs(request.protocol_type.as_deref(), self.protocol_type.as_ref())
            || differs(request.protocol_name.as_deref(), self.protocol.as_ref())
        {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        if self.state == GroupState::PreparingRebalance {
            return Err(ResponseError::RebalanceInProgress);
        }
        Ok(())
    }

    fn store_assignment(&mut self, request: &SyncGroupRequest, cx: &mut Cx<'_>) {
        let assignments = request.assignments.iter();
        let by_member: HashMap<Str, Bytes> = assignments
            .filter_map(|of| {
                let (id, _) = self.members.get_key_value(of.member_id.as_str())?;
                Some((id.clone(), Bytes::copy_from_slice(&of.assignment)))
            })
            .collect();
        let record: Change =
            self.record(|member| by_member.get(&member.id).cloned().unwrap_or_default());
        cx.write(vec![record]);
        let group = self.id.clone();
        let assignment = Assignment { group, generation: self.generation, by_member };
        cx.out.then(Continuation(Step::Assigned(assignment)));
    }

    fn assign(&mut self, mut by_member: HashMap<Str, Bytes>, cx: &mut Cx<'_>) {
        self.transition(GroupState::Stable, cx);
        let mut answered = vec![];
        for member in self.members.values_mut() {
            member.assignment = by_member.remove(&member.id).unwrap_or_default();
            if let Some(token) = member.awaiting_sync.take() {
                answered.push((member.id.clone(), token, member.assignment.clone()));
            }
        }
        for (id, token, assignment) in answered {
            cx.out.reply_now(token, Response::Sync(self.sync_response(assignment)));
            self.restart_session(&id, cx);
        }
    }

    /// Members that have not asked for their assignment in time go; the others begin anew.
    pub(super) fn sync_phase_expired(&mut self, cx: &mut Cx<'_>) {
        let is_due = matches!(self.state, GroupState::CompletingRebalance | GroupState::Stable);
        if !is_due || self.pending_syncs.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_syncs) {
            self.remove(&id, cx);
        }
        self.prepare_rebalance(cx);
    }
}
