//! The promises, held against the run after every event.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla::quorum::{
    core::Committed,
    raftpb::{Entry, Message, MessageType},
};

use crate::{kv::digest_of, node::Node};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub promise: &'static str,
    /// How.
    pub detail: String,
}

macro_rules! promise {
    ($holds:expr, $name:literal, $($detail:tt)+) => {
        if !$holds {
            return Err(Violation { promise: $name, detail: format!($($detail)+) });
        }
    };
}

type Checked = Result<(), Violation>;

/// What has been seen so far, of all nodes together.
#[derive(Debug, Default)]
pub struct Checker {
    leaders: BTreeMap<u64, u64>,
    /// (index, term) to (term before, digest).
    entries: BTreeMap<(u64, u64), (Option<u64>, u64)>,
    /// Index to (term, digest).
    committed: BTreeMap<u64, (u64, u64)>,
    /// Applied index to digest of the image.
    images: BTreeMap<u64, u64>,
    acknowledged: BTreeMap<u64, Bytes>,
}

impl Checker {
    /// How many entries are known as committed.
    #[must_use]
    pub fn committed_count(&self) -> usize {
        self.committed.len()
    }

    /// How many proposals were acknowledged.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged.len()
    }

    /// How many terms had a leader.
    #[must_use]
    pub fn leaders_count(&self) -> usize {
        self.leaders.len()
    }

    /// Election safety, leader completeness, and that the commit index never goes back.
    pub(crate) fn state(&mut self, node: &mut Node) -> Checked {
        let Some(life) = &mut node.life else { return Ok(()) };
        let status = life.core.status();
        promise!(
            status.commit >= life.seen_commit,
            "the commit index never goes back",
            "{} from {} to {}",
            node.peer_id,
            life.seen_commit,
            status.commit
        );
        life.seen_commit = status.commit;
        if !life.core.is_leader() {
            return Ok(());
        }
        let known = self.leaders.insert(status.term, node.peer_id);
        promise!(
            known.is_none_or(|peer| peer == node.peer_id),
            "at most one leader per term",
            "term {}: {known:?} and {}",
            status.term,
            node.peer_id
        );
        if known.is_some() {
            return Ok(());
        }
        let (log, truncated) = (node.store.log(), life.core.truncated().0);
        for (index, (term, _)) in self.committed.range(truncated + 1..) {
            promise!(
                log.get(index).is_some_and(|e| e.term == *term),
                "a leader has every committed entry",
                "leader {} of term {} lacks ({index}, {term})",
                node.peer_id,
                status.term
            );
        }
        Ok(())
    }

    /// Log matching: an index and a term name one entry, and one history before it. Counts from when
    /// an entry is durable or sent: a sole voter that loses both its entries and its term may use the
    /// term again.
    pub(crate) fn written(&mut self, node: &Node, entries: &[Entry]) -> Checked {
        let Some(first) = entries.first() else { return Ok(()) };
        let before = first.index - 1;
        let previous = node.store.durable().1.get(&before).map(|e| e.term);
        self.entries(node.peer_id, previous, entries)
    }

    fn entries(&mut self, peer: u64, mut previous: Option<u64>, entries: &[Entry]) -> Checked {
        for entry in entries {
            let digest = digest_of((&entry.data, entry.index, entry.term));
            let known = self.entries.entry((entry.index, entry.term)).or_insert((previous, digest));
            let same = known.1 == digest
                && (previous.is_none() || known.0.is_none() || known.0 == previous);
            promise!(
                same,
                "logs that share an entry share all before it",
                "node {peer}: ({}, {})",
                entry.index,
                entry.term
            );
            known.0 = known.0.or(previous);
            previous = Some(entry.term);
        }
        Ok(())
    }

    /// Committed entries never change, and are durable on a majority when they are first seen.
    pub(crate) fn committed(&mut self, nodes: &[Node], entry: &Committed) -> Checked {
        let value = (entry.term, digest_of(&entry.data));
        if let Some(known) = self.committed.get(&entry.index) {
            promise!(
                *known == value,
                "committed entries never change",
                "index {}: {known:?} became {value:?}",
                entry.index
            );
            return Ok(());
        }
        let holds = |node: &&Node| {
            let (_, log, truncated) = node.store.durable();
            truncated.0 >= entry.index
                || log.get(&entry.index).is_some_and(|e| e.term == entry.term)
        };
        let durable = nodes.iter().filter(holds).count();
        promise!(
            durable > nodes.len() / 2,
            "what is committed is durable on a majority",
            "({}, {}) on {durable} of {}",
            entry.index,
            entry.term,
            nodes.len()
        );
        self.committed.insert(entry.index, value);
        Ok(())
    }

    /// Equal applied index, equal image.
    pub(crate) fn applied(&mut self, peer_id: u64, index: u64, digest: u64) -> Checked {
        let known = *self.images.entry(index).or_insert(digest);
        promise!(
            known == digest,
            "equal images at equal applied index",
            "node {peer_id} at {index}"
        );
        Ok(())
    }

    /// A client was told that its change happened.
    pub(crate) fn acknowledged(&mut self, index: u64, payload: Bytes) {
        self.acknowledged.insert(index, payload);
    }

    /// Nothing is promised to another node that a crash could take back.
    pub(crate) fn sent(&mut self, node: &Node, message: &Message) -> Checked {
        let (hard_state, log, truncated) = node.store.durable();
        let kind = message.get_msg_type();
        if kind == MessageType::MsgAppend {
            self.entries(node.peer_id, Some(message.log_term), &message.entries)?;
        }
        let is_pre_vote =
            matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
        promise!(
            is_pre_vote || message.term <= hard_state.term,
            "nothing is sent before it is durable",
            "{kind:?} of term {} from {} whose durable term is {}",
            message.term,
            node.peer_id,
            hard_state.term
        );
        let voted_for = match kind {
            MessageType::MsgRequestVote => Some(node.peer_id),
            MessageType::MsgRequestVoteResponse if !message.reject => Some(message.to),
            _ => None,
        };
        promise!(
            voted_for.is_none_or(|peer| message.term < hard_state.term || hard_state.vote == peer),
            "nothing is sent before it is durable",
            "a vote of {} for {voted_for:?} in term {}",
            node.peer_id,
            message.term
        );
        if kind == MessageType::MsgAppendResponse && !message.reject {
            let last = log.get_max().map_or(truncated.0, |(index, _)| *index);
            promise!(
                message.index <= last,
                "nothing is sent before it is durable",
                "{} acknowledges {} and holds {last}",
                node.peer_id,
                message.index
            );
        }
        Ok(())
    }

    /// At the end: what was acknowledged is what is committed.
    pub(crate) fn kept(&self) -> Checked {
        for (index, payload) in &self.acknowledged {
            let digest = self.committed.get(index).map(|(_, digest)| *digest);
            promise!(
                digest == Some(digest_of(payload)),
                "acknowledged changes are kept",
                "index {index}"
            );
        }
        Ok(())
    }
}
