//! DescribeGroups, ListGroups and DeleteGroups.

use std::collections::BTreeSet;

use kafka_protocol::{
    error::ResponseError,
    messages::{
        DeleteGroupsResponse, DescribeGroupsResponse, GroupId, ListGroupsRequest,
        ListGroupsResponse,
        delete_groups_response::DeletableGroupResult,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
        list_groups_response::ListedGroup,
    },
};

use super::{
    Response, Str,
    classic::{Group, GroupState},
    offsets::tombstone,
    own,
    shard::GroupShard,
    state::Change,
    wire, wire_opt,
};
use crate::coordinator::{Effects, Now, Token};

/// The first version of DescribeGroups that says GROUP_ID_NOT_FOUND instead of describing a group
/// that is not there as dead (KIP-1043).
const KNOWS_GROUP_ID_NOT_FOUND: i16 = 6;
/// What ListGroups calls the groups of this protocol (KIP-848).
const CLASSIC: &str = "classic";

impl GroupShard {
    pub(super) fn describe(
        &self,
        token: Token,
        groups: &[GroupId],
        version: i16,
        out: &mut Effects<Self>,
    ) {
        let described = groups.iter().map(|id| match self.groups.get(id.as_str()) {
            Some(group) => group.describe(),
            None => describe_missing(id, version),
        });
        let response = DescribeGroupsResponse::default().with_groups(described.collect());
        out.reply_now(token, Response::Describe(response));
    }

    pub(super) fn list(&self, token: Token, request: &ListGroupsRequest, out: &mut Effects<Self>) {
        let lower = |text: &str| text.trim().to_lowercase();
        let states: BTreeSet<_> = request.states_filter.iter().map(|s| lower(s)).collect();
        let types: BTreeSet<_> = request.types_filter.iter().map(|s| lower(s)).collect();
        let wanted = |group: &&Group| {
            states.is_empty() || states.contains(&group.state.name().to_lowercase())
        };
        let groups = if types.is_empty() || types.contains(CLASSIC) {
            self.groups.values().filter(wanted).map(Group::list).collect()
        } else {
            vec![]
        };
        let response = ListGroupsResponse::default().with_groups(groups);
        out.reply_now(token, Response::List(response));
    }

    pub(super) fn delete_groups(
        &mut self,
        token: Token,
        groups: Vec<GroupId>,
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let results = groups.into_iter().map(|id| {
            let result = self.delete_group(&own(&id), now, out);
            DeletableGroupResult::default()
                .with_group_id(id)
                .with_error_code(result.err().map_or(0, |error| error.code()))
        });
        let response = DeleteGroupsResponse::default().with_results(results.collect());
        out.reply(token, Response::Delete(response));
    }

    fn delete_group(
        &mut self,
        id: &Str,
        now: Now,
        out: &mut Effects<Self>,
    ) -> Result<(), ResponseError> {
        match self.groups.get(id) {
            None => return Err(ResponseError::GroupIdNotFound),
            Some(group) if group.state != GroupState::Empty => {
                return Err(ResponseError::NonEmptyGroup);
            }
            Some(_) => {}
        }
        self.remove_group(id, now, out);
        Ok(())
    }

    /// Deletes an empty group with all its offsets.
    pub(super) fn remove_group(&mut self, id: &Str, now: Now, out: &mut Effects<Self>) {
        let (_, mut cx) = self.split(now, out);
        let topics = cx.state.offsets.get(id).into_iter().flatten();
        let mut changes: Vec<_> = topics
            .flat_map(|(topic, partitions)| {
                partitions.keys().map(|partition| tombstone(id, topic, *partition))
            })
            .collect();
        changes.push(Change::Group { group: id.clone(), metadata: None });
        cx.write_split(changes);
        self.drop_group(id, ResponseError::UnknownMemberId, now, out);
    }
}

impl Group {
    fn describe(&self) -> DescribedGroup {
        let is_stable = self.state == GroupState::Stable;
        let protocol = self.protocol.as_ref().filter(|_| is_stable);
        let members = self.members.values().map(|member| {
            let described = DescribedGroupMember::default()
                .with_member_id(wire(&member.id))
                .with_group_instance_id(wire_opt(member.instance.as_ref()))
                .with_client_id(wire(&member.client_id))
                .with_client_host(wire(&member.client_host));
            if is_stable {
                described
                    .with_member_metadata(member.metadata(protocol))
                    .with_member_assignment(member.assignment.clone())
            } else {
                described
            }
        });
        DescribedGroup::default()
            .with_group_id(wire(&self.id).into())
            .with_group_state(wire(self.state.name()))
            .with_protocol_type(wire(self.protocol_type.as_deref().unwrap_or("")))
            .with_protocol_data(wire(protocol.map_or("", |protocol| protocol)))
            .with_members(members.collect())
            .with_authorized_operations(i32::MIN)
    }

    fn list(&self) -> ListedGroup {
        ListedGroup::default()
            .with_group_id(wire(&self.id).into())
            .with_protocol_type(wire(self.protocol_type.as_deref().unwrap_or("")))
            .with_group_state(wire(self.state.name()))
            .with_group_type(wire(CLASSIC))
    }
}

fn describe_missing(id: &GroupId, version: i16) -> DescribedGroup {
    let described = DescribedGroup::default()
        .with_group_id(id.clone())
        .with_group_state(wire("Dead"))
        .with_authorized_operations(i32::MIN);
    if version >= KNOWS_GROUP_ID_NOT_FOUND {
        described
            .with_error_code(ResponseError::GroupIdNotFound.code())
            .with_error_message(Some(wire(&format!("Group {} not found.", id.as_str()))))
    } else {
        described
    }
}
