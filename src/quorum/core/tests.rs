//! What the simulation found, in a few steps each.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::*;
use crate::{
    base::{ClusterId, DirectoryId, NodeId},
    quorum::{
        identity::{Identity, Member},
        store::{MemStore, Store as _},
    },
};

fn member(peer: u64) -> Member {
    let directory_id = DirectoryId(Uuid::from_u128(peer.into()));
    Member { node_id: NodeId(peer as u32), directory_id }
}

/// One of three voters, which has just started.
fn voter(peer_id: u64, seed: u64) -> Core {
    let store = MemStore::new();
    let cluster_id = ClusterId(Uuid::from_u128(1));
    let identity = Identity { cluster_id, member: member(peer_id), peer_id };
    let first = Configuration::of_voters((1..=3).map(|id| (id, member(id))).collect());
    store.initialize(identity, Some(first)).unwrap();
    Core::new(CoreConfig::new(peer_id, seed), &store.load().unwrap()).unwrap()
}

fn message(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
    let mut message = Message { from, to, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

/// Takes what is to be done; the disk is done with all of it at once.
fn on_a_fast_disk(core: &mut Core) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        let effects = core.take_effects();
        if effects.is_empty() {
            return messages;
        }
        messages.extend(effects.messages);
        for write in effects.writes {
            core.persisted(write.number);
        }
    }
}

#[test]
fn nobody_campaigns_while_a_snapshot_is_installed() {
    let mut core = voter(1, 7);
    let members: BTreeMap<_, _> = (1..=3).map(|id| (id, member(id))).collect();
    let point = Point { index: 50, term: 2, configuration: Configuration::of_voters(members) };
    let mut snapshot = message(MessageType::MsgSnapshot, 2, 1, 2);
    snapshot.set_snapshot(snapshot_at(&point));
    core.step(snapshot).unwrap();
    assert!(core.is_installing());
    let effects = core.take_effects();
    assert_eq!(effects.writes[0].install, Some(point));
    core.persisted(effects.writes[0].number);
    for _ in 0..100 {
        core.tick();
    }
    core.step(message(MessageType::MsgTimeoutNow, 2, 1, 2)).unwrap();
    assert_eq!(core.role(), StateRole::Follower);

    on_a_fast_disk(&mut core);
    core.applied(50);
    for _ in 0..100 {
        core.tick();
    }
    assert_eq!(core.role(), StateRole::PreCandidate);
}

#[test]
fn leave_to_campaign_counts_for_the_term_that_was_asked_for() {
    let mut core = voter(1, 7);
    while core.role() != StateRole::PreCandidate {
        core.tick();
    }
    on_a_fast_disk(&mut core);
    core.step(message(MessageType::MsgRequestPreVoteResponse, 2, 1, 1)).unwrap();
    assert_eq!(core.role(), StateRole::PreCandidate);
    core.step(message(MessageType::MsgRequestPreVoteResponse, 2, 1, 2)).unwrap();
    assert_eq!(core.role(), StateRole::Candidate);
}

#[test]
fn no_two_reads_have_the_same_context() {
    let context = |peer, seed| {
        let mut core = voter(peer, seed);
        core.step(message(MessageType::MsgHeartbeat, 3, peer, 2)).unwrap();
        core.read_index(0);
        let messages = on_a_fast_disk(&mut core);
        let asked = messages.into_iter().find(|m| m.get_msg_type() == MessageType::MsgReadIndex);
        asked.unwrap().entries[0].data.clone()
    };
    // Of two nodes, and of two lives of one.
    assert_ne!(context(1, 7), context(2, 7));
    assert_ne!(context(1, 7), context(1, 8));
}

#[test]
fn a_message_for_what_a_node_was_before_is_refused() {
    let mut core = voter(1, 7);
    let refused = core.step(message(MessageType::MsgRequestVote, 2, 4, 9));
    assert!(matches!(refused, Err(CoreError::Misdirected { to: 4, peer_id: 1, .. })));
    assert_eq!(core.term(), 1);
}

fn acknowledge(core: &mut Core, from: u64, index: u64) {
    let mut acknowledgement =
        message(MessageType::MsgAppendResponse, from, core.config.peer_id, core.term());
    acknowledgement.index = index;
    core.step(acknowledgement).unwrap();
}

#[test]
fn entries_follow_the_index_that_their_message_names() {
    let mut core = voter(1, 7);
    while core.role() != StateRole::PreCandidate {
        core.tick();
    }
    core.step(message(MessageType::MsgRequestPreVoteResponse, 2, 1, 2)).unwrap();
    on_a_fast_disk(&mut core);
    core.step(message(MessageType::MsgRequestVoteResponse, 2, 1, 2)).unwrap();
    on_a_fast_disk(&mut core);
    assert!(core.is_leader());
    let first = core.raw.raft.raft_log.last_index();
    for peer in [2, 3] {
        acknowledge(&mut core, peer, first);
    }
    core.propose(vec![1]).unwrap();
    let last = core.propose(vec![2]).unwrap().index;
    on_a_fast_disk(&mut core);
    // Peer 2 is told that they are committed; then it turns out that it may not have them.
    acknowledge(&mut core, 3, last);
    core.unreachable(2);
    core.propose(vec![3]).unwrap();
    let messages = on_a_fast_disk(&mut core);
    let appends = messages.iter().filter(|m| m.to == 2 && !m.entries.is_empty());
    let appends: Vec<_> = appends.map(|m| (m.index + 1, m.entries[0].index)).collect();
    assert_eq!(appends, [(first + 1, first + 1)]);
}

#[test]
fn entries_that_do_not_follow_their_message_are_refused() {
    for indexes in [[1, 2], [2, 4]] {
        let mut core = voter(1, 7);
        let mut append = message(MessageType::MsgAppend, 2, 1, 2);
        (append.index, append.log_term) = (1, 1);
        let entries = indexes.map(|index| Entry { index, term: 2, ..Entry::default() });
        append.set_entries(entries.to_vec().into());
        let refused = core.step(append);
        assert!(matches!(refused, Err(CoreError::BadMessage(MessageType::MsgAppend, 2))));
        assert_eq!(core.term(), 1);
    }
}
