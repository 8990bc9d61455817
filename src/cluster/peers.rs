//! Raft's messages over the transport.

use bytes::Bytes;
use protobuf::Message as _;

use super::{Cluster, snapshots};
use crate::{
    base::NodeId,
    quorum::{
        Configuration, Peers, SnapshotSource, life_of,
        raftpb::{Message, MessageType},
    },
    transport::{MessageClass, PeerInfo},
};

/// Peer ids that are remembered beside those of the configuration.
const HEARD_MAX: usize = 1024;

impl Peers for Cluster {
    fn send(&self, messages: Vec<Message>) {
        let (Some(transport), Some(quorum)) = (self.transport(), self.quorum()) else { return };
        let status = quorum.status();
        for message in messages {
            let to = message.to;
            let bytes = message.write_to_bytes().map(Bytes::from);
            let sent = match (self.node_of(&status.configuration, to), bytes) {
                (Some(node), Ok(bytes)) => transport.send(node, class(&message), bytes),
                _ => false,
            };
            if !sent {
                quorum.unreachable(to);
            }
        }
    }

    fn send_snapshot(&self, snapshot: SnapshotSource) {
        let (Some(transport), Some(quorum)) = (self.transport(), self.quorum()) else { return };
        if let Some(node) = self.node_of(&quorum.status().configuration, snapshot.to()) {
            tokio::spawn(snapshots::carry(transport.clone(), node, snapshot));
        }
    }
}

impl Cluster {
    /// The node behind a peer id.
    fn node_of(&self, configuration: &Configuration, peer_id: u64) -> Option<NodeId> {
        match configuration.members.get(&peer_id) {
            Some(member) => Some(member.node_id),
            None => self.0.heard.lock().get(&peer_id).copied(),
        }
    }

    /// A message or a snapshot's header came. False where its peer id is somebody else's: a node
    /// whose disk was replaced counts no more as what it was. Nor does a peer from before the
    /// quorum was recovered.
    pub(super) fn hear(&self, from: &PeerInfo, message: &Message) -> bool {
        let Some(quorum) = self.quorum() else { return false };
        let status = quorum.status();
        if life_of(message.from) != life_of(status.identity.peer_id) {
            return false;
        }
        match status.configuration.members.get(&message.from) {
            Some(member) => {
                member.node_id == from.node_id && member.directory_id == from.directory_id
            }
            None => {
                let mut heard = self.0.heard.lock();
                heard.insert(message.from, from.node_id);
                while heard.len() > HEARD_MAX {
                    heard.pop_first();
                }
                true
            }
        }
    }
}

/// What keeps a leader in office, or makes one, never waits for entries.
fn class(message: &Message) -> MessageClass {
    match message.get_msg_type() {
        MessageType::MsgAppend if !message.entries.is_empty() => MessageClass::Log,
        _ => MessageClass::Urgent,
    }
}
