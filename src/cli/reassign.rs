//! `topic reassign`: shows a plan that spreads replicas and leaders evenly, carries it out, shows
//! how far it is, and cancels it.

use clap::Args;
use serde::Serialize;

use super::{
    balance::{BalanceError, Cluster, MoveRow, rows},
    failure::Failure,
    output::{Out, join},
    throttle,
    topic::per_element,
};
use crate::client::{Client, Partition, Reassignment};

#[derive(Debug, Args)]
pub(super) struct Reassign {
    /// Which topics; all where none is named
    topics: Vec<String>,
    #[command(flatten)]
    what: What,
    /// Move at most so many partitions
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Let no node send, nor take, more bytes a second of it, until --lift-throttles
    #[arg(long, value_name = "BYTES", requires = "execute")]
    throttle: Option<u64>,
    /// Take all throttles of brokers and topics away, once nothing is on the move
    #[arg(long, requires = "verify")]
    lift_throttles: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Show which replicas would move from where to where, and how much that is
    #[arg(long)]
    plan: bool,
    /// Make the plan and begin to carry it out
    #[arg(long)]
    execute: bool,
    /// Show what is on the move, and how far
    #[arg(long)]
    verify: bool,
    /// Cancel what is on the move
    #[arg(long)]
    cancel: bool,
}

pub(super) async fn run(args: Reassign, client: &Client, out: &mut Out) -> Result<(), Failure> {
    let cluster = Cluster::ask(client).await?;
    let limit = args.limit.unwrap_or(usize::MAX);
    match args.what {
        What { verify: true, .. } => verify(&cluster, &args, client, out).await,
        What { cancel: true, .. } => cancel(&cluster, &args.topics, client, out).await,
        What { execute, .. } => {
            let plan = cluster.plan(None, &args.topics, limit);
            let moves = rows(&plan);
            if !execute && (out.is_json() || !moves.is_empty()) {
                print(&moves, out)?;
            }
            if let Some(full) = cluster.full(&moves).first() {
                return Err(full.clone().into());
            }
            match execute {
                true => carry_out(&moves, args.throttle, client, out).await,
                false => summary(&moves, out),
            }
        }
    }
}

pub(super) fn print(moves: &[MoveRow], out: &mut Out) -> Result<(), Failure> {
    out.rows(moves, &MoveRow::COLUMNS, MoveRow::cells)
}

fn summary(moves: &[MoveRow], out: &mut Out) -> Result<(), Failure> {
    if moves.is_empty() {
        return out.note("Everything is even: there is nothing to move.");
    }
    let copied = moves.iter().filter(|one| !one.copies.is_empty()).count();
    let bytes: u64 = moves.iter().filter_map(|one| one.bytes).sum();
    out.note(&format!(
        "{copied} partitions would be copied, {bytes} bytes in all; {} only get another order. \
         --execute does it.",
        moves.len() - copied
    ))
}

async fn carry_out(
    moves: &[MoveRow],
    rate: Option<u64>,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    if moves.is_empty() {
        return summary(moves, out);
    }
    if let Some(rate) = rate {
        throttle::Throttled::default().set(client, moves, rate).await?;
    }
    let wanted: Vec<_> = moves.iter().map(MoveRow::wanted).collect();
    let outcomes = client.reassign(&wanted).await?;
    per_element(outcomes, "partition", "begun", |_| false, out)?;
    out.note("--verify shows how far it is, --cancel takes it back.")
}

#[derive(Debug, Serialize)]
struct Progress {
    topic: String,
    partition: i32,
    replicas: Vec<i32>,
    adding: Vec<i32>,
    removing: Vec<i32>,
    /// What the slowest of those that are added has.
    copied_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

async fn verify(
    cluster: &Cluster,
    args: &Reassign,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let is_asked = |one: &&Reassignment| is_named(&args.topics, &one.partition);
    let listed = cluster.reassignments.iter().filter(is_asked);
    let progress: Vec<Progress> = listed.map(|one| progress(cluster, one)).collect();
    if progress.is_empty() {
        if cluster.reassignments.is_empty() {
            throttles(cluster, args.lift_throttles, client, out).await?;
        }
        if out.is_json() {
            return out.json(&progress);
        }
        return out.note("Nothing is on the move.");
    }
    let columns = ["topic", "partition", "replicas", "adding", "removing", "copied", "of"];
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |b| b.to_string());
    out.rows(&progress, &columns, |one| {
        vec![
            one.topic.clone(),
            one.partition.to_string(),
            join(&one.replicas),
            join(&one.adding),
            join(&one.removing),
            bytes(one.copied_bytes),
            bytes(one.total_bytes),
        ]
    })?;
    let waits = |node: &i32| progress.iter().filter(|one| one.adding.contains(node)).count();
    let mut adding = progress.iter().flat_map(|one| &one.adding);
    match adding.find(|node| cluster.is_away(**node)) {
        Some(node) => Err(BalanceError::Away { node: *node, count: waits(node) }.into()),
        None => Ok(()),
    }
}

/// Says which throttles there are, or takes them away. Whose they are is not known.
async fn throttles(
    cluster: &Cluster,
    lift: bool,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let Some(found) = throttle::find(client, cluster).await? else { return Ok(()) };
    if lift {
        throttle::lift(client, &found).await?;
        return out.note(&format!("The throttles of {found} are taken away."));
    }
    out.note(&format!(
        "Throttles are in force: {found}. If they are not meant to stay, 'ottla topic reassign \
         --verify --lift-throttles' takes them away."
    ))
}

fn progress(cluster: &Cluster, one: &Reassignment) -> Progress {
    let at = &one.partition;
    let size = |node: &i32| {
        let disk = cluster.disks.get(node).and_then(Option::as_ref);
        disk.and_then(|disk| disk.replicas.get(at)).copied()
    };
    let copied = one.adding.iter().map(|node| size(node).unwrap_or(0)).min();
    Progress {
        topic: at.topic.to_string(),
        partition: at.partition,
        replicas: one.replicas.clone(),
        adding: one.adding.clone(),
        removing: one.removing.clone(),
        copied_bytes: copied,
        total_bytes: one.replicas.iter().filter_map(size).max(),
    }
}

async fn cancel(
    cluster: &Cluster,
    topics: &[String],
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let listed = cluster.reassignments.iter().filter(|one| is_named(topics, &one.partition));
    let wanted: Vec<_> = listed.map(|one| (one.partition.clone(), None)).collect();
    if wanted.is_empty() {
        return out.note("Nothing is on the move.");
    }
    let outcomes = client.reassign(&wanted).await?;
    per_element(outcomes, "partition", "cancelled", |_| false, out)
}

fn is_named(topics: &[String], partition: &Partition) -> bool {
    topics.is_empty() || topics.iter().any(|topic| **topic == *partition.topic)
}
