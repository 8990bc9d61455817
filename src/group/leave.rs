//! LeaveGroup: members that go by themselves, or are sent by an administrator.

use kafka_protocol::{
    error::ResponseError,
    messages::{
        LeaveGroupRequest, LeaveGroupResponse, leave_group_request::MemberIdentity,
        leave_group_response::MemberResponse,
    },
};

use super::{
    Response,
    classic::{Group, GroupState},
    shard::{Cx, GroupShard},
};
use crate::coordinator::{Effects, Now, Token};

impl GroupShard {
    /// `request` names its members in the form of version 3 and later.
    pub(super) fn leave(
        &mut self,
        token: Token,
        request: &LeaveGroupRequest,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let (groups, mut cx) = self.split(now, out);
        let mut response = LeaveGroupResponse::default();
        if request.group_id.is_empty() {
            response.error_code = ResponseError::InvalidGroupId.code();
        } else {
            let group = groups.get_mut(request.group_id.as_str());
            response.members = match group {
                Some(group) => group.leave(&request.members, &mut cx),
                None => request
                    .members
                    .iter()
                    .map(|member| answer(member, Err(ResponseError::UnknownMemberId)))
                    .collect(),
            };
        }
        cx.out.reply(token, Response::Leave(response));
    }
}

impl Group {
    fn leave(&mut self, members: &[MemberIdentity], cx: &mut Cx<'_>) -> Vec<MemberResponse> {
        let answers: Vec<_> =
            members.iter().map(|member| answer(member, self.leave_one(member, cx))).collect();
        if answers.iter().any(|answer| answer.error_code == 0) {
            match self.state {
                GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(cx),
                GroupState::PreparingRebalance => self.maybe_complete_join(cx),
                GroupState::Empty => {}
            }
        }
        answers
    }

    fn leave_one(&mut self, member: &MemberIdentity, cx: &mut Cx<'_>) -> Result<(), ResponseError> {
        let instance = member.group_instance_id.as_deref();
        let id = if member.member_id.is_empty() {
            // An administrator names static members by their instance alone.
            let known = instance.and_then(|instance| self.static_members.get(instance));
            known.cloned().ok_or(ResponseError::UnknownMemberId)?
        } else {
            let id = super::own(&member.member_id);
            if !self.pending_joins.contains(&id) {
                self.validate_member(&id, instance)?;
            }
            id
        };
        self.remove(&id, cx);
        Ok(())
    }
}

fn answer(member: &MemberIdentity, result: Result<(), ResponseError>) -> MemberResponse {
    MemberResponse::default()
        .with_member_id(member.member_id.clone())
        .with_group_instance_id(member.group_instance_id.clone())
        .with_error_code(result.err().map_or(0, |error| error.code()))
}
