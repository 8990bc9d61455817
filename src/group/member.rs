//! A member of a classic group.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Str,
    state::{GroupMetadata, MemberMetadata},
};
use crate::coordinator::Token;

/// A protocol that a member supports, with what it tells the group's leader under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: Str,
    pub(super) metadata: Bytes,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: Str,
    /// `group.instance.id` of a static member.
    pub(super) instance: Option<Str>,
    pub(super) client_id: Str,
    pub(super) client_host: Str,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// In the member's order of preference; names are distinct.
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// Joined in a rebalance that has not ended: it cannot send heartbeats yet.
    pub(super) is_new: bool,
    pub(super) awaiting_join: Option<Token>,
    pub(super) awaiting_sync: Option<Token>,
}

impl Member {
    /// A member as the log has it.
    pub(super) fn restore(member: &MemberMetadata, group: &GroupMetadata) -> Self {
        let protocol = group
            .protocol
            .iter()
            .map(|name| Protocol { name: name.clone(), metadata: member.subscription.clone() });
        Self {
            id: member.id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            protocols: protocol.collect(),
            assignment: member.assignment.clone(),
            is_new: false,
            awaiting_join: None,
            awaiting_sync: None,
        }
    }

    /// The member as the log is to have it, with the assignment it is to get.
    pub(super) fn record(&self, protocol: Option<&Str>, assignment: Bytes) -> MemberMetadata {
        MemberMetadata {
            id: self.id.clone(),
            instance: self.instance.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol),
            assignment,
        }
    }

    /// What it says under `protocol`; empty where it does not support that.
    pub(super) fn metadata(&self, protocol: Option<&Str>) -> Bytes {
        let of = self.protocols.iter().find(|of| Some(&of.name) == protocol);
        of.map(|of| of.metadata.clone()).unwrap_or_default()
    }

    /// The protocol it likes best among those that every member supports.
    pub(super) fn vote(&self, support: &BTreeMap<Str, usize>, members: usize) -> Option<&Str> {
        let names = self.protocols.iter().map(|protocol| &protocol.name);
        names.into_iter().find(|name| support.get(*name) == Some(&members))
    }

    /// Whether its session goes on although nothing was heard: it waits for an answer of ours.
    pub(super) fn is_waiting(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }
}
