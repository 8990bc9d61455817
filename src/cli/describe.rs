//! `topic describe`: partitions and settings of topics, what is wrong with them, and how far their
//! followers are behind.
//!
//! Who holds and leads what comes from the metadata; offsets and lags are known to the leaders
//! alone, which are asked at once. One that does not answer is named, and not waited for.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use serde::Serialize;

use super::{
    failure::Failure,
    output::{Out, join, or_dash},
};
use crate::client::{
    Client, ConfigEntry, FollowerLag, LeaderWord, Partition, PartitionDescription, Reassignment,
    Resource, TopicDescription, retrying,
};

const MIN_ISR: &str = "min.insync.replicas";
/// How long the leaders may take.
const WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct Describe {
    /// Which; all where none is named
    topics: Vec<String>,
    /// Show only partitions of which a replica is out of sync, other than one being added
    #[arg(long)]
    under_replicated_partitions: bool,
    /// Show only partitions with fewer replicas in sync than min.insync.replicas
    #[arg(long)]
    under_min_isr_partitions: bool,
    /// Show only partitions with just as many replicas in sync as min.insync.replicas
    #[arg(long)]
    at_min_isr_partitions: bool,
    /// Show only partitions that nobody leads
    #[arg(long)]
    unavailable_partitions: bool,
}

#[derive(Debug, Serialize)]
struct Described {
    topic: String,
    id: String,
    internal: bool,
    partitions: Vec<PartitionRow>,
    configs: Vec<(String, Option<String>)>,
    /// Leaders that did not answer.
    silent: Vec<i32>,
}

#[derive(Debug, Default, Serialize)]
struct PartitionRow {
    partition: i32,
    /// -1 where there is none.
    leader: i32,
    leader_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    eligible_leader_replicas: Vec<i32>,
    offline_replicas: Vec<i32>,
    adding: Vec<i32>,
    removing: Vec<i32>,
    log_start_offset: Option<i64>,
    end_offset: Option<i64>,
    bytes: Option<u64>,
    /// How far the followers are; none where the leader does not say.
    followers: Option<Vec<FollowerRow>>,
    #[serde(flatten)]
    state: State,
}

#[derive(Debug, Serialize)]
struct FollowerRow {
    node: i32,
    lag_records: u64,
    lag_bytes: u64,
    lag_ms: u64,
}

/// What is wrong with a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct State {
    unavailable: bool,
    under_replicated: bool,
    under_min_isr: bool,
    at_min_isr: bool,
}

impl State {
    fn of(one: &PartitionDescription, adding: &[i32], min_isr: usize) -> Self {
        let is_missed = |node: &&i32| !adding.contains(node) && !one.isr.contains(node);
        Self {
            unavailable: one.leader < 0,
            under_replicated: one.replicas.iter().any(|node| is_missed(&node)),
            under_min_isr: one.isr.len() < min_isr,
            at_min_isr: one.isr.len() == min_isr,
        }
    }

    fn words(self) -> String {
        let words = [
            (self.unavailable, "no leader"),
            (self.under_min_isr, "under min isr"),
            (self.under_replicated, "under-replicated"),
        ];
        let words: Vec<_> = words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
        words.join(", ")
    }
}

impl Describe {
    /// Whether partitions in that state are to be shown.
    fn shows(&self, state: State) -> bool {
        let asked = [
            (self.under_replicated_partitions, state.under_replicated),
            (self.under_min_isr_partitions, state.under_min_isr),
            (self.at_min_isr_partitions, state.at_min_isr),
            (self.unavailable_partitions, state.unavailable),
        ];
        !self.is_narrowed() || asked.into_iter().any(|(is_asked, is)| is_asked && is)
    }

    const fn is_narrowed(&self) -> bool {
        self.under_replicated_partitions
            || self.under_min_isr_partitions
            || self.at_min_isr_partitions
            || self.unavailable_partitions
    }
}

pub(super) async fn run(args: &Describe, client: &Client, out: &mut Out) -> Result<(), Failure> {
    // Whom to ask, and nothing of topics.
    retrying!(client, client.deadline(), async { client.refresh(&[], false).await })?;
    let topics = client.describe_topics(&args.topics).await?;
    // What is on the move only explains what is seen, and must not keep it from being shown.
    let reassignments = client.list_reassignments().await.unwrap_or_default();
    let mut described = Vec::new();
    for topic in topics {
        let resource = Resource::Topic(topic.name.to_string());
        let configs = client.describe_configs(&resource, None, false).await?;
        let mut rows = rows(&topic, &reassignments, min_isr(&configs));
        rows.retain(|row| args.shows(row.state));
        if rows.is_empty() && args.is_narrowed() {
            continue;
        }
        let silent = ask_leaders(&topic, &mut rows, client).await;
        let set = configs.into_iter().filter(|entry| entry.source.is_set());
        described.push(Described {
            topic: topic.name.to_string(),
            id: topic.id.to_string(),
            internal: topic.internal,
            partitions: rows,
            configs: set.map(|entry| (entry.name, entry.value)).collect(),
            silent,
        });
    }
    if out.is_json() {
        return out.json(&described);
    }
    if described.is_empty() && args.is_narrowed() {
        return out.note("No partition is in that state.");
    }
    described.iter().try_for_each(|topic| print(topic, out))
}

/// As a topic has it; more than there are replicas counts as all of them.
fn min_isr(configs: &[ConfigEntry]) -> usize {
    let entry = configs.iter().find(|entry| entry.name == MIN_ISR);
    entry.and_then(|entry| entry.value.as_deref()?.parse().ok()).unwrap_or(1)
}

fn rows(
    topic: &TopicDescription,
    reassignments: &[Reassignment],
    min_isr: usize,
) -> Vec<PartitionRow> {
    let row = |one: &PartitionDescription| {
        let at = Partition::new(topic.name.clone(), one.partition);
        let moving = reassignments.iter().find(|moving| moving.partition == at);
        let adding = moving.map(|moving| moving.adding.clone()).unwrap_or_default();
        PartitionRow {
            partition: one.partition,
            leader: one.leader,
            leader_epoch: one.leader_epoch,
            replicas: one.replicas.clone(),
            isr: one.isr.clone(),
            eligible_leader_replicas: one.eligible_leader_replicas.clone(),
            offline_replicas: one.offline.clone(),
            removing: moving.map(|moving| moving.removing.clone()).unwrap_or_default(),
            state: State::of(one, &adding, min_isr.min(one.replicas.len())),
            adding,
            ..PartitionRow::default()
        }
    };
    topic.partitions.iter().map(row).collect()
}

/// Adds what the leaders say. Returns those that did not answer.
async fn ask_leaders(
    topic: &TopicDescription,
    rows: &mut [PartitionRow],
    client: &Client,
) -> Vec<i32> {
    let at = |row: &PartitionRow| Partition::new(topic.name.clone(), row.partition);
    let mut led = BTreeMap::<i32, Vec<Partition>>::new();
    for row in rows.iter().filter(|row| row.leader >= 0) {
        led.entry(row.leader).or_default().push(at(row));
    }
    let within = WITHIN.min(client.config().operation_timeout);
    let (mut words, silent) = client.ask_leaders(&led, within).await;
    for row in rows {
        let Some(word) = words.remove(&at(row)) else { continue };
        let LeaderWord { start_offset, end_offset, bytes, followers } = word;
        row.log_start_offset = start_offset;
        row.end_offset = end_offset;
        row.bytes = bytes;
        row.followers = followers.map(|all| all.into_iter().map(follower_row).collect());
    }
    silent
}

fn follower_row(lag: FollowerLag) -> FollowerRow {
    let FollowerLag { node, records, bytes, time_ms } = lag;
    FollowerRow { node, lag_records: records, lag_bytes: bytes, lag_ms: time_ms }
}

fn print(topic: &Described, out: &mut Out) -> Result<(), Failure> {
    out.note(&format!("Topic {}  id {}", topic.topic, topic.id))?;
    for (key, value) in &topic.configs {
        out.note(&format!("  {key} = {}", value.as_deref().unwrap_or("(hidden)")))?;
    }
    let columns = [
        "partition",
        "leader",
        "epoch",
        "replicas",
        "isr",
        "elr",
        "offline",
        "start",
        "end",
        "bytes",
        "lag",
        "state",
    ];
    let list = |nodes: &[i32]| match nodes {
        [] => "-".to_owned(),
        nodes => join(nodes),
    };
    out.rows(&topic.partitions, &columns, |row| {
        vec![
            row.partition.to_string(),
            row.leader.to_string(),
            row.leader_epoch.to_string(),
            join(&row.replicas),
            list(&row.isr),
            list(&row.eligible_leader_replicas),
            list(&row.offline_replicas),
            or_dash(row.log_start_offset),
            or_dash(row.end_offset),
            row.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            lag(row.followers.as_deref()),
            state(row),
        ]
    })?;
    remarks(topic).iter().try_for_each(|line| out.note(line))
}

/// Each follower that is behind, with records, bytes and seconds.
fn lag(followers: Option<&[FollowerRow]>) -> String {
    let Some(followers) = followers else { return "-".to_owned() };
    let behind = followers.iter().filter(|one| one.lag_records > 0).map(|one| {
        let FollowerRow { node, lag_records, lag_bytes, lag_ms } = one;
        let tenths = lag_ms / 100;
        format!("{node}: {lag_records} rec, {lag_bytes} B, {}.{} s", tenths / 10, tenths % 10)
    });
    let behind: Vec<_> = behind.collect();
    if behind.is_empty() { "none".to_owned() } else { behind.join("; ") }
}

fn state(row: &PartitionRow) -> String {
    let mut words = vec![row.state.words()];
    if !row.adding.is_empty() {
        words.push(format!("adding {}", join(&row.adding)));
    }
    if !row.removing.is_empty() {
        words.push(format!("removing {}", join(&row.removing)));
    }
    words.retain(|word| !word.is_empty());
    if words.is_empty() { "ok".to_owned() } else { words.join(", ") }
}

/// What an operator should know besides: which nodes hold replicas out of sync, and who is silent.
fn remarks(topic: &Described) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut by_node = BTreeMap::<i32, usize>::new();
    for row in &topic.partitions {
        let missed = |node: &&i32| !row.isr.contains(node) && !row.adding.contains(node);
        for node in row.replicas.iter().filter(missed) {
            *by_node.entry(*node).or_default() += 1;
        }
    }
    let nodes: Vec<_> =
        by_node.iter().map(|(node, count)| format!("node {node} in {count}")).collect();
    let under = topic.partitions.iter().filter(|row| row.state.under_replicated).count();
    if under > 0 {
        remarks.push(format!(
            "Under-replicated partitions: {under}. Out of sync is {}.",
            nodes.join(", ")
        ));
    }
    if !topic.silent.is_empty() {
        remarks.push(format!(
            "Node {} did not answer: what it leads is shown without offsets and lag.",
            join(&topic.silent)
        ));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(leader: i32, isr: &[i32]) -> PartitionDescription {
        PartitionDescription {
            partition: 0,
            leader,
            leader_epoch: 1,
            replicas: vec![1, 2, 3],
            isr: isr.to_vec(),
            eligible_leader_replicas: Vec::new(),
            offline: Vec::new(),
        }
    }

    #[test]
    fn a_replica_that_is_being_added_is_not_missed() {
        let state = |isr: &[i32], adding: &[i32]| State::of(&partition(1, isr), adding, 2);
        assert!(state(&[1, 2], &[]).under_replicated);
        assert!(!state(&[1, 2], &[3]).under_replicated);
        assert!(state(&[1, 3], &[3]).under_replicated);
        assert_eq!(state(&[1, 2, 3], &[]), State::default());
        assert!(state(&[1, 2], &[3]).at_min_isr);
        assert!(state(&[1], &[3]).under_min_isr && !state(&[1], &[3]).at_min_isr);
        assert!(State::of(&partition(-1, &[1]), &[], 1).unavailable);
    }

    #[test]
    fn only_followers_that_are_behind_are_shown() {
        let row =
            |node, lag_records| FollowerRow { node, lag_records, lag_bytes: 70, lag_ms: 2_340 };
        assert_eq!(lag(Some(&[row(2, 0), row(3, 7)])), "3: 7 rec, 70 B, 2.3 s");
        assert_eq!(lag(Some(&[row(2, 0)])), "none");
        assert_eq!(lag(None), "-");
    }
}
