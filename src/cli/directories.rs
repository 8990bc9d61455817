//! `node directories` and `node move-replica`: which log directories nodes have, what lies in them,
//! and moving replicas between those of one node.

use clap::Args;
use serde::Serialize;

use super::{
    failure::Failure,
    output::{Out, or_dash},
    topic::per_element,
};
use crate::client::{Client, Partition, ReplicaPlace};

#[derive(Debug, Args)]
pub(super) struct Directories {
    /// Of which nodes; of all where none is named
    nodes: Vec<u32>,
    /// List the replicas in them too
    #[arg(long)]
    replicas: bool,
}

#[derive(Debug, Args)]
pub(super) struct MoveReplica {
    /// The node
    node: u32,
    /// Which replicas, as TOPIC-PARTITION
    #[arg(required = true, value_parser = partition)]
    replicas: Vec<Partition>,
    /// The directory, as the node's log.dirs has it; where a replica is already, its move is cancelled
    #[arg(long, value_name = "DIRECTORY")]
    to: String,
}

fn partition(text: &str) -> Result<Partition, String> {
    let parsed = text.rsplit_once('-').and_then(|(topic, partition)| {
        let partition: i32 = partition.parse().ok()?;
        (!topic.is_empty()).then(|| Partition::new(topic, partition))
    });
    parsed.ok_or_else(|| "a replica is named as TOPIC-PARTITION, such as orders-0".to_owned())
}

#[derive(Serialize)]
struct Row {
    node: i32,
    directory: String,
    state: &'static str,
    replicas: usize,
    bytes: u64,
    /// Replicas that are being copied to it.
    arriving: usize,
    usable_bytes: Option<i64>,
    total_bytes: Option<i64>,
}

#[derive(Serialize)]
struct ReplicaRow {
    node: i32,
    directory: String,
    topic: String,
    partition: i32,
    bytes: u64,
    state: &'static str,
    /// Records that it misses.
    lag: Option<i64>,
}

pub(super) async fn list(
    args: &Directories,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let nodes: Vec<i32> = if args.nodes.is_empty() {
        let brokers = client.describe_brokers().await?;
        brokers.into_iter().filter(|one| !one.fenced).map(|one| one.node).collect()
    } else {
        args.nodes.iter().map(|node| i32::try_from(*node).unwrap_or(-1)).collect()
    };
    let (mut rows, mut replicas) = (Vec::new(), Vec::new());
    for node in nodes {
        for directory in client.directories(node).await? {
            let there = directory.replicas.iter().filter(|(_, place)| !place.is_future);
            let known = |bytes: i64| (bytes >= 0).then_some(bytes);
            rows.push(Row {
                node,
                directory: directory.path.clone(),
                state: if directory.is_offline { "offline" } else { "online" },
                replicas: there.clone().count(),
                bytes: there.map(|(_, place)| place.bytes).sum(),
                arriving: directory.replicas.iter().filter(|(_, place)| place.is_future).count(),
                usable_bytes: known(directory.usable_bytes),
                total_bytes: known(directory.total_bytes),
            });
            let row = |(at, place): &(Partition, ReplicaPlace)| ReplicaRow {
                node,
                directory: directory.path.clone(),
                topic: at.topic.to_string(),
                partition: at.partition,
                bytes: place.bytes,
                state: if place.is_future { "arriving" } else { "there" },
                lag: (place.offset_lag >= 0).then_some(place.offset_lag),
            };
            replicas.extend(directory.replicas.iter().map(row));
        }
    }
    if args.replicas {
        let columns = ["node", "directory", "topic", "partition", "bytes", "state", "lag"];
        return out.rows(&replicas, &columns, |row| {
            vec![
                row.node.to_string(),
                row.directory.clone(),
                row.topic.clone(),
                row.partition.to_string(),
                row.bytes.to_string(),
                row.state.to_owned(),
                or_dash(row.lag),
            ]
        });
    }
    let columns =
        ["node", "directory", "state", "replicas", "bytes", "arriving", "usable", "total"];
    out.rows(&rows, &columns, |row| {
        vec![
            row.node.to_string(),
            row.directory.clone(),
            row.state.to_owned(),
            row.replicas.to_string(),
            row.bytes.to_string(),
            row.arriving.to_string(),
            or_dash(row.usable_bytes),
            or_dash(row.total_bytes),
        ]
    })
}

pub(super) async fn move_replicas(
    args: &MoveReplica,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let node = i32::try_from(args.node).unwrap_or(-1);
    let outcomes = client.move_replicas(node, &args.replicas, &args.to).await?;
    per_element(outcomes, "replica", "moves", |_| false, out)?;
    out.note("`ottla node directories --replicas` shows how far it is.")
}
