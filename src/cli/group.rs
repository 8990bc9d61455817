//! `group`: list, describe, reset-offsets, delete.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    failure::Failure,
    output::{Out, or_dash},
    times,
    topic::per_element,
};
use crate::{
    base::{Clock as _, SystemClock},
    client::{Client, ClientError, Committed, OffsetSpec, Partition},
};

#[derive(Debug, Subcommand)]
pub(super) enum Group {
    /// List groups
    List,
    /// Show the members of groups, how far they have read and how much is left
    Describe {
        /// Which
        #[arg(required = true)]
        groups: Vec<String>,
    },
    /// Move a group without members to other offsets
    ResetOffsets(Reset),
    /// Delete groups without members, their offsets included
    Delete {
        /// Which
        #[arg(required = true)]
        groups: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Reset {
    /// Which
    group: String,
    /// A topic, or TOPIC:0,1,2 for some partitions; may be given again; all that the group has
    /// committed where not given
    #[arg(short, long, value_name = "TOPIC[:PARTITIONS]")]
    topic: Vec<String>,
    #[command(flatten)]
    to: To,
    /// Only show what would be done; so it is where neither is given
    #[arg(long, conflicts_with = "execute")]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    execute: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct To {
    /// To the oldest records
    #[arg(long)]
    to_earliest: bool,
    /// Behind the newest records
    #[arg(long)]
    to_latest: bool,
    /// To where it is: commits the present offsets anew
    #[arg(long)]
    to_current: bool,
    /// To this offset
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// To the first records at or after this time, in ms or as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = times::timestamp_ms)]
    to_timestamp: Option<i64>,
    /// To the first records that are at most so old, such as 2h or PT2H
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    by_duration: Option<Duration>,
    /// By so many records onwards, or back where negative
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    shift_by: Option<i64>,
}

pub(super) async fn run(command: Group, client: &Client, out: &mut Out) -> Result<(), Failure> {
    match command {
        Group::List => list(client, out).await,
        Group::Describe { groups } => describe(&groups, client, out).await,
        Group::ResetOffsets(args) => reset(args, client, out).await,
        Group::Delete { groups } => {
            let deleted = client.delete_groups(&groups).await;
            per_element(deleted, "group", "deleted", |_| false, out)
        }
    }
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Row {
        group: String,
        state: String,
        protocol_type: String,
        kind: String,
        coordinator: i32,
    }
    let rows: Vec<_> = client
        .list_groups()
        .await?
        .into_iter()
        .map(|group| Row {
            group: group.group,
            state: group.state,
            protocol_type: group.protocol_type,
            kind: group.kind,
            coordinator: group.coordinator,
        })
        .collect();
    out.rows(&rows, &["group", "state", "kind", "coordinator"], |row| {
        let coordinator = row.coordinator.to_string();
        vec![row.group.clone(), row.state.clone(), row.kind.clone(), coordinator]
    })
}

#[derive(Serialize)]
struct Progress {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end_offset: Option<i64>,
    lag: Option<i64>,
    member: Option<String>,
    client_id: Option<String>,
    host: Option<String>,
}

async fn describe(groups: &[String], client: &Client, out: &mut Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Described {
        group: String,
        state: String,
        assignor: String,
        coordinator: i32,
        members: usize,
        partitions: Vec<Progress>,
    }
    let mut all = Vec::new();
    for group in groups {
        let described = client.describe_group(group).await?;
        let partitions = progress_of(group, &described, client).await?;
        all.push(Described {
            group: described.group,
            state: described.state,
            assignor: described.assignor,
            coordinator: described.coordinator,
            members: described.members.len(),
            partitions,
        });
    }
    if out.is_json() {
        return out.json(&all);
    }
    for group in &all {
        let assignor = if group.assignor.is_empty() { "-" } else { &group.assignor };
        out.note(&format!(
            "Group {}  state {}  members {}  assignor {assignor}  coordinator {}",
            group.group, group.state, group.members, group.coordinator
        ))?;
        let columns = ["topic", "partition", "committed", "end", "lag", "member", "host"];
        out.rows(&group.partitions, &columns, |row| {
            vec![
                row.topic.clone(),
                row.partition.to_string(),
                or_dash(row.committed),
                or_dash(row.end_offset),
                or_dash(row.lag),
                row.member.clone().unwrap_or_else(|| "-".to_owned()),
                row.host.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })?;
    }
    Ok(())
}

async fn progress_of(
    group: &str,
    described: &crate::client::GroupDescription,
    client: &Client,
) -> Result<Vec<Progress>, ClientError> {
    let committed = client.committed(group, None).await?;
    let mut owners = BTreeMap::new();
    for member in &described.members {
        for partition in member.assignment.iter().flatten() {
            owners.insert(partition.clone(), member);
        }
    }
    let mut known: Vec<Partition> = committed.keys().chain(owners.keys()).cloned().collect();
    known.sort_unstable();
    known.dedup();
    let mut rows = Vec::new();
    for partition in known {
        // A topic that was deleted leaves its offsets behind for a while.
        let asked = [(partition.clone(), OffsetSpec::Latest)];
        let exists = client.partition(&partition.topic, partition.partition).await.is_ok();
        let end_offset = if exists {
            client.list_offsets(&asked).await?.remove(&partition).flatten()
        } else {
            None
        };
        let at = committed.get(&partition).map(|committed| committed.offset);
        let owner = owners.get(&partition);
        rows.push(Progress {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            committed: at,
            end_offset,
            lag: at.zip(end_offset).map(|(at, end)| (end - at).max(0)),
            member: owner.map(|owner| owner.member.clone()),
            client_id: owner.map(|owner| owner.client_id.clone()),
            host: owner.map(|owner| owner.host.clone()),
        });
    }
    Ok(rows)
}

async fn reset(args: Reset, client: &Client, out: &mut Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Row {
        topic: String,
        partition: i32,
        from: Option<i64>,
        to: i64,
        result: &'static str,
    }
    let committed = client.committed(&args.group, None).await?;
    let partitions = if args.topic.is_empty() {
        committed.keys().cloned().collect()
    } else {
        named_partitions(&args.topic, client).await?
    };
    if partitions.is_empty() {
        return Err(Failure::usage(format!(
            "group {} has committed nothing: name its topics with --topic",
            args.group
        )));
    }
    let targets = targets(&args.to, &partitions, &committed, client).await?;
    if args.execute {
        let offsets = targets.iter().map(|(p, to)| (p.clone(), Committed::at(*to))).collect();
        client.commit(&args.group, &offsets).await?;
    }
    let rows: Vec<_> = targets
        .into_iter()
        .map(|(partition, to)| Row {
            from: committed.get(&partition).map(|committed| committed.offset),
            topic: partition.topic.to_string(),
            partition: partition.partition,
            to,
            result: if args.execute { "reset" } else { "would be reset" },
        })
        .collect();
    out.rows(&rows, &["topic", "partition", "from", "to", "result"], |row| {
        vec![
            row.topic.clone(),
            row.partition.to_string(),
            or_dash(row.from),
            row.to.to_string(),
            row.result.to_owned(),
        ]
    })?;
    if !args.execute {
        out.note("Nothing was changed: pass --execute to do it.")?;
    }
    Ok(())
}

async fn named_partitions(names: &[String], client: &Client) -> Result<Vec<Partition>, Failure> {
    let mut partitions = Vec::new();
    for name in names {
        let (topic, numbers) = match name.split_once(':') {
            None => (name.as_str(), None),
            Some((topic, numbers)) => {
                let numbers = numbers.split(',').map(str::parse::<i32>).collect::<Result<_, _>>();
                let numbers: Vec<_> =
                    numbers.map_err(|_| Failure::usage(format!("'{name}' is not TOPIC:0,1,2")))?;
                (topic, Some(numbers))
            }
        };
        let view = client.topic(topic).await?;
        let all = || view.partitions.iter().map(|p| p.partition).collect();
        let numbers = numbers.unwrap_or_else(all);
        partitions.extend(numbers.into_iter().map(|p| Partition::new(view.name.clone(), p)));
    }
    Ok(partitions)
}

/// The offsets that `to` means, kept within what the partitions hold.
async fn targets(
    to: &To,
    partitions: &[Partition],
    committed: &BTreeMap<Partition, Committed>,
    client: &Client,
) -> Result<BTreeMap<Partition, i64>, ClientError> {
    let all = |spec| partitions.iter().map(|p| (p.clone(), spec)).collect::<Vec<_>>();
    let starts = client.list_offsets(&all(OffsetSpec::Earliest)).await?;
    let ends = client.list_offsets(&all(OffsetSpec::Latest)).await?;
    let timestamp_ms = to.to_timestamp.or_else(|| {
        let back = to.by_duration?;
        Some(SystemClock.wall_ms() - i64::try_from(back.as_millis()).unwrap_or(i64::MAX))
    });
    let timed = match timestamp_ms {
        Some(timestamp_ms) => {
            client.list_offsets(&all(OffsetSpec::Timestamp(timestamp_ms))).await?
        }
        None => BTreeMap::new(),
    };
    let mut targets = BTreeMap::new();
    for partition in partitions {
        let start = starts.get(partition).copied().flatten().unwrap_or(0);
        let end = ends.get(partition).copied().flatten().unwrap_or(0);
        let current = committed.get(partition).map_or(end, |committed| committed.offset);
        let target = if to.to_earliest {
            start
        } else if to.to_latest {
            end
        } else if let Some(offset) = to.to_offset {
            offset
        } else if let Some(count) = to.shift_by {
            current.saturating_add(count)
        } else if timestamp_ms.is_some() {
            timed.get(partition).copied().flatten().unwrap_or(end)
        } else {
            current
        };
        targets.insert(partition.clone(), target.clamp(start, end));
    }
    Ok(targets)
}
