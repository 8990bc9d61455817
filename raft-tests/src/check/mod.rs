//! The promises, held against the run after every event.

mod quorums;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ottla::{
    metadata::MetadataImage,
    quorum::{
        Configuration,
        core::Committed,
        raftpb::{Entry, Message, MessageType, StateRole},
    },
};

use crate::{
    machine::digest_of,
    sim::node::{Life, Node},
};

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

pub(crate) use promise;

pub(crate) type Checked = Result<(), Violation>;

/// Asks for leave to raise the term: (peer, incarnation, the new term).
type Asking = (u64, u64, u64);

/// What has been seen so far, of all nodes together.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    leaders: BTreeMap<u64, u64>,
    /// (index, term) to (term before, digest).
    entries: BTreeMap<(u64, u64), (Option<u64>, u64)>,
    /// Index to (term, digest).
    committed: BTreeMap<u64, (u64, u64)>,
    /// Applied index to the digest of all pairs, and the metadata.
    images: BTreeMap<u64, (u64, MetadataImage)>,
    acknowledged: BTreeMap<u64, Bytes>,
    /// By the index from which on it holds.
    configurations: BTreeMap<u64, Configuration>,
    /// Who granted it.
    pre_votes: BTreeMap<Asking, BTreeSet<u64>>,
}

impl Checker {
    pub(crate) fn new(first: Configuration) -> Self {
        Self { configurations: BTreeMap::from([(1, first)]), ..Self::default() }
    }

    pub(crate) fn committed_count(&self) -> u64 {
        self.committed.len() as u64
    }

    pub(crate) fn acknowledged_count(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    pub(crate) fn leaders_count(&self) -> u64 {
        self.leaders.len() as u64
    }

    pub(crate) fn configurations_count(&self) -> u64 {
        self.configurations.len() as u64
    }

    /// The last configuration that was committed, and from which index on it holds.
    pub(crate) fn newest_configuration(&self) -> Option<(u64, &Configuration)> {
        self.configurations.last_key_value().map(|(index, newest)| (*index, newest))
    }

    /// A node has started from what its disk holds.
    pub(crate) fn started(&mut self, node: &Node) -> Checked {
        match &node.life {
            Some(life) if self.images.contains_key(&life.applied) => {
                self.installed(node, life.applied)
            }
            _ => Ok(()),
        }
    }

    /// Election safety, leader completeness, and that the commit index never goes back.
    pub(crate) fn state(&mut self, node: &mut Node) -> Checked {
        let (peer, Some(life)) = (node.peer_id.unwrap_or(0), &mut node.life) else {
            return Ok(());
        };
        let (commit, term) = (life.core.commit(), life.core.term());
        promise!(
            commit >= life.seen_commit,
            "the commit index never goes back",
            "peer {peer} from {} to {commit}",
            life.seen_commit
        );
        life.seen_commit = commit;
        if life.core.role() != StateRole::Leader {
            return Ok(());
        }
        let known = self.leaders.insert(term, peer);
        promise!(
            known.is_none_or(|known| known == peer),
            "at most one leader per term",
            "term {term}: {known:?} and {peer}"
        );
        if known.is_some() {
            return Ok(());
        }
        let (log, truncated) = (node.store.log(), life.core.truncated().0);
        for (index, (entry_term, _)) in self.committed.range(truncated + 1..) {
            promise!(
                log.get(index).is_some_and(|e| e.term == *entry_term),
                "a leader has every committed entry",
                "leader {peer} of term {term} lacks ({index}, {entry_term})"
            );
        }
        Ok(())
    }

    /// Log matching: an index and a term name one entry, and one history before it. Counts from
    /// when an entry is durable or sent: a sole voter that loses both its entries and its term may
    /// use the term again.
    pub(crate) fn written(&mut self, node: &Node, entries: &[Entry]) -> Checked {
        let Some(first) = entries.first() else { return Ok(()) };
        let before = first.index - 1;
        let previous = node.store.durable().1.get(&before).map(|e| e.term);
        self.entries(node.peer_id.unwrap_or(0), previous, entries)
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
                "peer {peer}: ({}, {})",
                entry.index,
                entry.term
            );
            known.0 = known.0.or(previous);
            previous = Some(entry.term);
        }
        Ok(())
    }

    /// Committed entries never change, and are durable on a majority when they are first seen.
    pub(crate) fn committed(
        &mut self,
        nodes: &[Node],
        graveyard: &[Node],
        entry: &Committed,
    ) -> Checked {
        let value = (entry.term, digest_of(&entry.data));
        let index = entry.index;
        if let Some(known) = self.committed.get(&index) {
            promise!(
                *known == value,
                "committed entries never change",
                "index {index}: {known:?} became {value:?}"
            );
        } else {
            self.durable(nodes, graveyard, entry)?;
            self.committed.insert(index, value);
        }
        let Some(configuration) = &entry.configuration else {
            let known = self.configurations.get(&index).filter(|_| index > 1);
            promise!(
                known.is_none(),
                "equal configurations at equal index",
                "a node passed the change at {index} by"
            );
            return Ok(());
        };
        self.configuration(index, configuration)
    }

    fn durable(&self, nodes: &[Node], graveyard: &[Node], entry: &Committed) -> Checked {
        let holds = |node: &&Node| {
            let (_, log, truncated) = node.store.durable();
            truncated.0 >= entry.index
                || log.get(&entry.index).is_some_and(|e| e.term == entry.term)
        };
        let holders = nodes.iter().chain(graveyard).filter(holds);
        let holders: BTreeSet<u64> = holders.filter_map(|node| node.peer_id).collect();
        // A leader counts by the configuration that it has applied, which may lack the last change.
        let mut counted = self.configurations.range(..=entry.index).rev().take(2);
        promise!(
            counted.any(|(_, configuration)| quorums::decides(configuration, &holders)),
            "what is committed is durable on a majority",
            "({}, {}) on {holders:?}",
            entry.index,
            entry.term
        );
        Ok(())
    }

    /// All nodes go through the same configurations, and the quorums of one overlap those of the
    /// next.
    fn configuration(&mut self, index: u64, configuration: &Configuration) -> Checked {
        if let Some(known) = self.configurations.get(&index) {
            promise!(
                known == configuration,
                "equal configurations at equal index",
                "index {index}: {known:?} and {configuration:?}"
            );
            return Ok(());
        }
        if let Some((before, last)) = self.configurations.range(..index).next_back() {
            promise!(
                quorums::overlap(last, configuration),
                "quorums of consecutive configurations overlap",
                "{before}: {last:?}, {index}: {configuration:?}"
            );
            promise!(
                configuration.last_peer_id >= last.last_peer_id,
                "a peer id is given out once",
                "{before}: {last:?}, {index}: {configuration:?}"
            );
        }
        self.configurations.insert(index, configuration.clone());
        Ok(())
    }

    /// Entries are applied once, in order, and only once they are committed.
    pub(crate) fn follows(&self, host: usize, life: &Life, index: u64) -> Checked {
        promise!(
            index == life.applied + 1,
            "entries apply once, in order",
            "node {}: {index} after {}",
            host + 1,
            life.applied
        );
        promise!(
            index <= life.core.commit(),
            "only what is committed is applied",
            "node {}: {index} beyond {}",
            host + 1,
            life.core.commit()
        );
        Ok(())
    }

    /// Equal applied index, equal image.
    pub(crate) fn applied(&mut self, node: &Node, index: u64) -> Checked {
        let Some(life) = &node.life else { return Ok(()) };
        let digest = life.state.digest();
        let known = self.images.entry(index);
        let known = known.or_insert_with(|| (digest, life.state.metadata().clone()));
        promise!(
            known.0 == digest,
            "equal images at equal applied index",
            "peer {:?} at {index}",
            node.peer_id
        );
        Ok(())
    }

    /// An image that was loaded is the one that was folded.
    pub(crate) fn installed(&mut self, node: &Node, index: u64) -> Checked {
        self.applied(node, index)?;
        let metadata = node.life.as_ref().map(|life| life.state.metadata());
        promise!(
            self.images.get(&index).map(|(_, known)| known) == metadata,
            "a loaded image is the folded one",
            "peer {:?} at {index}",
            node.peer_id
        );
        Ok(())
    }

    /// A client was told that its change happened.
    pub(crate) fn acknowledged(&mut self, index: u64, payload: Bytes) {
        self.acknowledged.insert(index, payload);
    }

    /// A message is about to be handled.
    pub(crate) fn received(&mut self, peer: Option<u64>, incarnation: u64, message: &Message) {
        let is_grant = message.get_msg_type() == MessageType::MsgRequestPreVoteResponse
            && !message.reject
            && peer == Some(message.to);
        if is_grant {
            let asking = (message.to, incarnation, message.term);
            self.pre_votes.entry(asking).or_default().insert(message.from);
        }
    }

    /// Nothing is promised to another node that a crash could take back.
    pub(crate) fn sent(&mut self, node: &Node, message: &Message) -> Checked {
        let (hard_state, log, truncated) = node.store.durable();
        let kind = message.get_msg_type();
        let peer = node.peer_id.unwrap_or(0);
        // A request for a read goes on to whoever is thought to lead.
        promise!(
            message.from == peer || kind == MessageType::MsgReadIndex,
            "a node speaks for itself alone",
            "{kind:?} of {} from {peer}",
            message.from
        );
        if kind == MessageType::MsgAppend {
            self.entries(peer, Some(message.log_term), &message.entries)?;
        }
        let is_pre_vote =
            matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
        promise!(
            is_pre_vote || message.term <= hard_state.term,
            "nothing is sent before it is durable",
            "{kind:?} of term {} from {peer} whose durable term is {}",
            message.term,
            hard_state.term
        );
        let voted_for = match kind {
            MessageType::MsgRequestVote => Some(peer),
            MessageType::MsgRequestVoteResponse if !message.reject => Some(message.to),
            _ => None,
        };
        promise!(
            voted_for.is_none_or(|peer| message.term < hard_state.term || hard_state.vote == peer),
            "nothing is sent before it is durable",
            "a vote of {peer} for {voted_for:?} in term {}",
            message.term
        );
        if kind == MessageType::MsgAppendResponse && !message.reject {
            let last = log.get_max().map_or(truncated.0, |(index, _)| *index);
            promise!(
                message.index <= last,
                "nothing is sent before it is durable",
                "{peer} acknowledges {} and holds {last}",
                message.index
            );
        }
        // Only a candidate that the leader itself appointed need not ask first.
        if kind == MessageType::MsgRequestVote && message.context.is_empty() {
            self.asked_first(node, message)?;
        }
        Ok(())
    }

    fn asked_first(&self, node: &Node, message: &Message) -> Checked {
        let Some(life) = &node.life else { return Ok(()) };
        let asking = (message.from, node.incarnation, message.term);
        let mut granted = self.pre_votes.get(&asking).cloned().unwrap_or_default();
        granted.insert(message.from);
        promise!(
            quorums::decides(life.core.configuration(), &granted),
            "nobody raises the term without a majority's leave",
            "peer {} asks for votes in term {} with the leave of {granted:?}",
            message.from,
            message.term
        );
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
