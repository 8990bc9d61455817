//! Heartbeat, and what happens without it.

use kafka_protocol::{
    error::ResponseError,
    messages::{HeartbeatRequest, HeartbeatResponse},
};

use super::{
    Response, Str,
    classic::{Group, GroupState},
    own,
    shard::{Cx, GroupShard},
};
use crate::coordinator::{Effects, Now, Token};

impl GroupShard {
    pub(super) fn heartbeat(
        &mut self,
        token: Token,
        request: &HeartbeatRequest,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let (groups, mut cx) = self.split(now, out);
        let result = if request.group_id.is_empty() {
            Err(ResponseError::InvalidGroupId)
        } else if let Some(group) = groups.get_mut(request.group_id.as_str()) {
            group.heartbeat(request, &mut cx)
        } else {
            Err(ResponseError::UnknownMemberId)
        };
        let code = result.err().map_or(0, |error| error.code());
        let response = HeartbeatResponse::default().with_error_code(code);
        cx.out.reply_now(token, Response::Heartbeat(response));
    }
}

impl Group {
    fn heartbeat(&self, request: &HeartbeatRequest, cx: &mut Cx<'_>) -> Result<(), ResponseError> {
        self.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        match self.state {
            GroupState::Empty => return Err(ResponseError::UnknownMemberId),
            GroupState::PreparingRebalance
            | GroupState::CompletingRebalance
            | GroupState::Stable => {
                self.restart_session(&own(&request.member_id), cx);
            }
        }
        if self.state == GroupState::PreparingRebalance {
            return Err(ResponseError::RebalanceInProgress);
        }
        Ok(())
    }

    /// Nothing was heard of a member, or of an id that was handed out, in time.
    pub(super) fn session_expired(&mut self, id: &Str, cx: &mut Cx<'_>) {
        if self.pending_joins.contains(id) {
            self.remove(id, cx);
            self.maybe_complete_join(cx);
        } else if self.members.get(id).is_some_and(|member| !member.is_waiting()) {
            self.remove(id, cx);
            self.rebalance(cx);
        }
    }
}
