//! What was asked of the controller and acknowledged, and the rules it is held to.

use std::{collections::BTreeMap, fmt, time::Duration};

use ottla::base::TopicId;
use tokio::time::Instant;

/// What an answer says about one attempt at a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done.
    Acknowledged(TopicId),
    /// It was done before, by whomever: the topic exists, or does not exist.
    Already,
    /// It may have been done or not, or may be done later.
    Unknown,
    /// It was not done.
    NotDone,
}

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The first attempt at a name that nobody else uses found the topic there.
    AppliedTwice(String),
    /// A topic was made again while it should have existed.
    AcknowledgedTwice(String),
    /// A topic whose making was acknowledged was not there when it was to be deleted.
    Lost(String),
    /// A topic is not there in the end.
    Missing(String, u32),
    /// A topic is there in the end that was deleted, or never made.
    Undead(String, u32),
    /// A topic is another one in the end than the one that was acknowledged.
    Replaced(String, u32),
    /// A node does not say what there is in the end.
    Silent(u32, String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppliedTwice(name) => write!(f, "{name}: its only creation found it there"),
            Self::AcknowledgedTwice(name) => {
                write!(f, "{name}: its creation was acknowledged twice")
            }
            Self::Lost(name) => write!(f, "{name}: its creation was acknowledged, and it was gone"),
            Self::Missing(name, node) => write!(f, "{name}: node {node} does not list it"),
            Self::Undead(name, node) => write!(f, "{name}: node {node} lists it, though deleted"),
            Self::Replaced(name, node) => {
                write!(f, "{name}: node {node} lists another of that name")
            }
            Self::Silent(node, why) => write!(f, "node {node} does not list topics: {why}"),
        }
    }
}

/// One topic that was asked for.
#[derive(Debug, Default)]
struct Topic {
    /// What it was acknowledged as; none while it is unknown whether it was made.
    id: Option<TopicId>,
    made: bool,
    /// An attempt to make it may still come about.
    making_lingers: bool,
    deleting: bool,
    deletion_lingers: bool,
    deleted: bool,
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ack {
    pub(super) node: u32,
    pub(super) sent: Instant,
    pub(super) at: Instant,
}

/// All that was asked, and when it was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Model {
    topics: BTreeMap<String, Topic>,
    pub(super) acks: Vec<Ack>,
    pub(super) broken: Vec<Broken>,
    /// Attempts whose outcome nobody told.
    pub(super) unknown: u64,
    /// Attempts that were refused for a while.
    pub(super) refused: BTreeMap<String, u64>,
}

impl Model {
    pub(super) fn create(&mut self, name: &str, outcome: Outcome) {
        let topic = self.topics.entry(name.to_owned()).or_default();
        match outcome {
            Outcome::Acknowledged(_) if topic.made => {
                self.broken.push(Broken::AcknowledgedTwice(name.to_owned()));
            }
            Outcome::Acknowledged(id) => (topic.made, topic.id) = (true, Some(id)),
            Outcome::Already => {
                if !topic.made && !topic.making_lingers {
                    self.broken.push(Broken::AppliedTwice(name.to_owned()));
                }
                topic.made = true;
            }
            Outcome::Unknown => {
                topic.making_lingers = true;
                self.unknown += 1;
            }
            Outcome::NotDone => {}
        }
    }

    /// From now on it may be gone.
    pub(super) fn deletes(&mut self, name: &str) {
        self.topics.entry(name.to_owned()).or_default().deleting = true;
    }

    pub(super) fn delete(&mut self, name: &str, outcome: Outcome) {
        let topic = self.topics.entry(name.to_owned()).or_default();
        match outcome {
            Outcome::Acknowledged(_) => topic.deleted = true,
            Outcome::Already => {
                if !topic.deletion_lingers {
                    self.broken.push(Broken::Lost(name.to_owned()));
                }
                topic.deleted = true;
            }
            Outcome::Unknown => {
                topic.deletion_lingers = true;
                self.unknown += 1;
            }
            Outcome::NotDone => {}
        }
    }

    /// How long after `since` a change was acknowledged that was asked later, of one of `nodes`.
    pub(super) fn first_after(&self, since: Instant, nodes: &[u32]) -> Option<Duration> {
        let later = |ack: &&Ack| ack.sent > since && nodes.contains(&ack.node);
        let acks = self.acks.iter().rev().take_while(|ack| ack.at > since).filter(later);
        acks.map(|ack| ack.at - since).min()
    }

    /// The longest time without an acknowledgement from `from` to `to`, and when it began.
    pub(super) fn longest_gap(&self, from: Instant, to: Instant) -> (Duration, Instant) {
        let acks = self.acks.iter().map(|ack| ack.at).filter(|at| (from..=to).contains(at));
        let mut longest = (Duration::ZERO, from);
        let mut last = from;
        for at in acks.chain([to]) {
            longest = longest.max((at.saturating_duration_since(last), last));
            last = at;
        }
        longest
    }

    /// The change that took longest among those asked from `from` to `to`.
    pub(super) fn slowest(&self, from: Instant, to: Instant) -> Duration {
        let acks = self.acks.iter().filter(|ack| ack.sent >= from && ack.sent <= to);
        acks.map(|ack| ack.at - ack.sent).max().unwrap_or_default()
    }

    /// What is wrong with a node's list at the end.
    pub(super) fn compare(&self, node: u32, listed: &BTreeMap<String, TopicId>) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (name, topic) in &self.topics {
            let found = listed.get(name);
            let name = || name.clone();
            if found.is_none() && topic.made && !topic.deleting {
                broken.push(Broken::Missing(name(), node));
            }
            let never = !topic.made || topic.deleted;
            if found.is_some() && never && !topic.making_lingers {
                broken.push(Broken::Undead(name(), node));
            }
            if let (Some(found), Some(id), false) = (found, topic.id, topic.making_lingers)
                && *found != id
            {
                broken.push(Broken::Replaced(name(), node));
            }
        }
        let strange = listed.keys().filter(|name| !self.topics.contains_key(*name));
        broken.extend(strange.map(|name| Broken::Undead(name.clone(), node)));
        broken
    }

    pub(super) fn created(&self) -> usize {
        self.topics.values().filter(|topic| topic.made).count()
    }

    pub(super) fn deleted(&self) -> usize {
        self.topics.values().filter(|topic| topic.deleted).count()
    }
}
