//! `node`: list the nodes that are brokers, and empty one before it goes.
//!
//! A node that is emptied is marked (`ottla.broker.drain`), so that nothing is placed on it any
//! more; then its replicas move, some at a time, each round planned anew by what the cluster says.
//! So the command can be stopped and run again. What holds it up is said while it waits.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::sleep;

use super::{
    balance::{BalanceError, Cluster, DRAIN, MoveRow, rows},
    directories::{self, Directories, MoveReplica},
    failure::Failure,
    hold_ups::Watch,
    output::{Out, progress},
    reassign::print,
    throttle::Throttled,
    times,
    topic::per_element,
};
use crate::client::{Client, ConfigChange};

/// How often the cluster is asked how far it is.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// List the nodes, those that are away among them
    List,
    /// Move all replicas of a node to others, and keep it empty
    Decommission(Decommission),
    /// List the log directories of nodes, and what lies in them
    Directories(Directories),
    /// Move replicas of a node to another of its log directories
    MoveReplica(MoveReplica),
}

#[derive(Debug, Args)]
pub(super) struct Decommission {
    /// The node
    node: u32,
    /// Only show which replicas would move from where to where
    #[arg(long, conflicts_with = "cancel")]
    plan: bool,
    /// Stop, take back what is on the move, and let the node have replicas again
    #[arg(long)]
    cancel: bool,
    /// How many partitions move at a time
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    concurrent: usize,
    /// Let no node send, nor take, more bytes a second of it; until the end
    #[arg(long, value_name = "BYTES")]
    throttle: Option<u64>,
    /// Give up when nothing has been copied for so long; what has begun goes on
    #[arg(long, value_parser = times::duration, default_value = "10m")]
    patience: Duration,
}

pub(super) async fn run(command: Node, client: &Client, out: &mut Out) -> Result<(), Failure> {
    match command {
        Node::List => list(client, out).await,
        Node::Directories(args) => directories::list(&args, client, out).await,
        Node::MoveReplica(args) => directories::move_replicas(&args, client, out).await,
        Node::Decommission(args) => {
            let node = i32::try_from(args.node).unwrap_or(-1);
            let cluster = Cluster::ask(client).await?;
            if cluster.broker(node).is_none() {
                return Err(BalanceError::Unknown(node).into());
            }
            if args.cancel {
                return cancel(node, &cluster, client, out).await;
            }
            let plan = cluster.plan(Some(node), &[], usize::MAX);
            let moves = rows(&plan);
            if args.plan {
                print(&moves, out)?;
            }
            if let Some(stuck) = cluster.stuck(node, &plan) {
                return Err(stuck.into());
            }
            if let Some(full) = cluster.full(&moves).first() {
                return Err(full.clone().into());
            }
            if args.plan { Ok(()) } else { decommission(node, &args, cluster, client, out).await }
        }
    }
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Row {
        node: i32,
        address: String,
        rack: Option<String>,
        state: &'static str,
        replicas: usize,
        leads: usize,
        bytes: Option<u64>,
    }
    let cluster = Cluster::ask(client).await?;
    let row = |broker: &crate::client::BrokerDescription| {
        let disk = cluster.disks.get(&broker.node).and_then(Option::as_ref);
        Row {
            node: broker.node,
            address: broker.address.clone(),
            rack: broker.rack.clone(),
            state: match (broker.fenced, cluster.is_drained(broker.node)) {
                (true, _) => "away",
                (false, true) => "drained",
                (false, false) => "there",
            },
            replicas: cluster.holds(broker.node),
            leads: cluster.leads(broker.node),
            bytes: disk.map(|disk| disk.replicas.values().sum()),
        }
    };
    let rows: Vec<Row> = cluster.brokers.iter().map(row).collect();
    out.rows(&rows, &["node", "address", "rack", "state", "replicas", "leads", "bytes"], |row| {
        vec![
            row.node.to_string(),
            row.address.clone(),
            row.rack.clone().unwrap_or_else(|| "-".to_owned()),
            row.state.to_owned(),
            row.replicas.to_string(),
            row.leads.to_string(),
            row.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
        ]
    })
}

async fn decommission(
    node: i32,
    args: &Decommission,
    mut cluster: Cluster,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    set_drain(node, true, client).await?;
    let total = cluster.holds(node);
    out.note(&estimate(node, total, cluster.bytes(node), args.throttle))?;
    let bar = progress(Some(total as u64), &format!("partitions have left node {node}"));
    let mut watch = Watch::new(node, total, args.patience);
    let mut throttled = Throttled::default();
    loop {
        let left = cluster.holds(node);
        bar.set_position(total.saturating_sub(left) as u64);
        if left == 0 {
            break;
        }
        let going = go_on(node, args, &cluster, &mut throttled, client).await;
        let going = going.and_then(|stuck| watch.look(&cluster, stuck, &bar));
        if let Err(error) = going {
            bar.abandon();
            return Err(error);
        }
        sleep(LOOK).await;
        cluster = Cluster::ask(client).await?;
    }
    bar.finish_and_clear();
    throttled.restore(client).await?;
    #[derive(Serialize)]
    struct Done {
        node: i32,
        moved: usize,
    }
    if out.is_json() {
        return out.json(&Done { node, moved: total });
    }
    out.note(&format!(
        "Node {node} is empty; {total} partitions have left it. Take its vote, if it has one, with \
         'ottla quorum remove-voter {node}', and stop it."
    ))
}

/// What is about to happen, and how long it takes as far as that is known.
fn estimate(node: i32, partitions: usize, bytes: Option<u64>, throttle: Option<u64>) -> String {
    let size = bytes.map_or_else(|| "of unknown size".to_owned(), |all| format!("{all} bytes"));
    let begin = format!("{partitions} partitions leave node {node}: {size}");
    match (bytes, throttle.filter(|rate| *rate > 0)) {
        // Others may send and take at the same time, but one node's rate is certain.
        (Some(bytes), Some(rate)) => {
            let seconds = bytes.div_ceil(rate);
            format!("{begin}, about {seconds} s if it is sent at {rate} bytes a second.")
        }
        _ => format!("{begin}."),
    }
}

/// Begins as many moves as there may be at a time. Returns why some cannot begin, where a node that
/// is away may yet take them.
async fn go_on(
    node: i32,
    args: &Decommission,
    cluster: &Cluster,
    throttled: &mut Throttled,
    client: &Client,
) -> Result<Option<BalanceError>, Failure> {
    let leaving = cluster.reassignments.iter().filter(|one| one.removing.contains(&node));
    // What waits for a node that is away takes nobody's place.
    let going = leaving.filter(|one| !one.adding.iter().any(|target| cluster.is_away(*target)));
    let room = args.concurrent.max(1).saturating_sub(going.count());
    let plan = cluster.plan(Some(node), &[], room);
    let stuck = cluster.stuck(node, &plan);
    if let Some(stuck) = stuck.as_ref().filter(|stuck| stuck.is_final()) {
        return Err(stuck.clone().into());
    }
    let moves = rows(&plan);
    if let Some(full) = cluster.full(&moves).first() {
        return Err(full.clone().into());
    }
    if let Some(rate) = args.throttle {
        throttled.set(client, &moves, rate).await?;
    }
    let wanted: Vec<_> = moves.iter().map(MoveRow::wanted).collect();
    if !wanted.is_empty() {
        for (_, outcome) in client.reassign(&wanted).await? {
            outcome?;
        }
    }
    Ok(stuck)
}

async fn cancel(
    node: i32,
    cluster: &Cluster,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    set_drain(node, false, client).await?;
    let leaving = cluster.reassignments.iter().filter(|one| one.removing.contains(&node));
    let wanted: Vec<_> = leaving.map(|one| (one.partition.clone(), None)).collect();
    if wanted.is_empty() {
        return out.note(&format!("Node {node} gets replicas again; nothing was on the move."));
    }
    let outcomes = client.reassign(&wanted).await?;
    per_element(outcomes, "partition", "cancelled", |_| false, out)
}

async fn set_drain(node: i32, drain: bool, client: &Client) -> Result<(), Failure> {
    let change = match drain {
        true => ConfigChange::Set(DRAIN.to_owned(), "true".to_owned()),
        false => ConfigChange::Unset(DRAIN.to_owned()),
    };
    Ok(client.alter_broker_anywhere(node, &[change]).await?)
}
