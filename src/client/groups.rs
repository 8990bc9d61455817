//! Administration of consumer groups.

use std::collections::BTreeMap;

use futures::future::join_all;
use kafka_protocol::messages::{
    ApiKey, DeleteGroupsRequest, DescribeGroupsRequest, GroupId, ListGroupsRequest,
    describe_groups_response::DescribedGroup,
};

use super::{
    admin::{PerElement, words},
    assignment::decode_assignment,
    cluster::{Client, Lane, Target, retrying},
    codec::text,
    error::ClientError,
    offsets::Partition,
};

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListing {
    /// Its name.
    pub group: String,
    /// What its members do with it; `consumer` for consumers.
    pub protocol_type: String,
    /// Its state; empty where the broker does not say.
    pub state: String,
    /// `classic` or another; empty where the broker does not say.
    pub kind: String,
    /// The node that coordinates it.
    pub coordinator: i32,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub group: String,
    /// Its state.
    pub state: String,
    /// What its members do with it.
    pub protocol_type: String,
    /// The assignor they agreed on.
    pub assignor: String,
    /// The node that coordinates it.
    pub coordinator: i32,
    /// Its members.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// The id that the coordinator gave it.
    pub member: String,
    /// The name that it gave itself, where it is a static member.
    pub instance: Option<String>,
    /// The client's name.
    pub client_id: String,
    /// Where it connected from.
    pub host: String,
    /// What it was given; none where that is not in the consumer protocol.
    pub assignment: Option<Vec<Partition>>,
}

impl Client {
    /// All groups of all brokers.
    ///
    /// # Errors
    /// The first broker's failure.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>, ClientError> {
        let api = ApiKey::ListGroups;
        retrying!(self, self.deadline(), async {
            self.refresh(&[], false).await?;
            let nodes: Vec<i32> = self.view().brokers.keys().copied().collect();
            let request = ListGroupsRequest::default();
            let asked = nodes.into_iter().map(|node| {
                let request = &request;
                async move { (node, self.call(Target::Node(node), Lane::GENERAL, request).await) }
            });
            let mut groups = BTreeMap::new();
            for (node, answer) in join_all(asked).await {
                let answer = answer?;
                ClientError::check(api, answer.error_code, None, || format!("broker {node}"))?;
                for group in answer.groups {
                    let listing = GroupListing {
                        group: group.group_id.to_string(),
                        protocol_type: group.protocol_type.to_string(),
                        state: group.group_state.to_string(),
                        kind: group.group_type.to_string(),
                        coordinator: node,
                    };
                    groups.insert(listing.group.clone(), listing);
                }
            }
            Ok(groups.into_values().collect())
        })
    }

    /// One group with its members.
    ///
    /// # Errors
    /// The group's error, or the failure to reach its coordinator.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, ClientError> {
        let api = ApiKey::DescribeGroups;
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
        retrying!(self, self.deadline(), async {
            let node = self.coordinator(group).await?;
            let response = self.call(Target::Node(node), Lane::GENERAL, &request).await?;
            let Some(found) = response.groups.into_iter().next() else {
                return Err(ClientError::Missing { api, subject: group.into() });
            };
            let message = words(&found.error_message);
            ClientError::check(api, found.error_code, message, || group.to_owned())?;
            Ok(description(found, node))
        })
    }

    /// Deletes groups, their offsets included.
    ///
    /// # Errors
    /// None of its own: each group has one.
    pub async fn delete_groups(&self, groups: &[String]) -> PerElement<()> {
        let deletions = groups
            .iter()
            .map(|group| async move { (group.clone(), self.delete_group(group).await) });
        join_all(deletions).await
    }

    async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let api = ApiKey::DeleteGroups;
        let names = vec![GroupId(text(group))];
        let request = DeleteGroupsRequest::default().with_groups_names(names);
        retrying!(self, self.deadline(), async {
            let node = self.coordinator(group).await?;
            let response = self.call(Target::Node(node), Lane::GENERAL, &request).await?;
            let Some(result) = response.results.into_iter().next() else {
                return Err(ClientError::Missing { api, subject: group.into() });
            };
            ClientError::check(api, result.error_code, None, || group.to_owned())
        })
    }
}

fn description(found: DescribedGroup, coordinator: i32) -> GroupDescription {
    let members = found.members.into_iter().map(|member| GroupMember {
        member: member.member_id.to_string(),
        instance: member.group_instance_id.map(|instance| instance.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        assignment: decode_assignment(&member.member_assignment),
    });
    GroupDescription {
        group: found.group_id.to_string(),
        state: found.group_state.to_string(),
        protocol_type: found.protocol_type.to_string(),
        assignor: found.protocol_data.to_string(),
        coordinator,
        members: members.collect(),
    }
}
