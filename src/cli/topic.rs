//! `topic`: make, list, describe, alter, reassign, delete.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    describe::{self, Describe},
    failure::Failure,
    output::Out,
    reassign::{self, Reassign},
};
use crate::client::{
    Client, ClientError, ConfigChange, NewTopic, PerElement, Resource, WireError, retrying,
};

#[derive(Debug, Subcommand)]
pub(super) enum Topic {
    /// Make a topic
    Create(Create),
    /// List topics
    List {
        /// List those that the cluster keeps for itself as well
        #[arg(long)]
        internal: bool,
    },
    /// Show the partitions and settings of topics, what is wrong, and how far followers are behind
    Describe(Describe),
    /// Add partitions, or change settings
    Alter(Alter),
    /// Spread the replicas and leaders of topics evenly over the nodes
    Reassign(Reassign),
    /// Delete topics and all that is in them
    Delete {
        /// Which
        #[arg(required = true)]
        topics: Vec<String>,
        /// Do not mind topics that do not exist
        #[arg(long)]
        if_exists: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Its name
    topic: String,
    /// How many partitions; the broker's default where not given
    #[arg(short, long)]
    partitions: Option<i32>,
    /// How many replicas of each; the broker's default where not given
    #[arg(short, long)]
    replication_factor: Option<i16>,
    /// A setting; may be given again
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Do not mind a topic that exists
    #[arg(long)]
    if_not_exists: bool,
    /// Only check whether it could be made
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Alter {
    /// Which
    topic: String,
    /// How many partitions it should have; only more than now
    #[arg(short, long)]
    partitions: Option<i32>,
    /// A setting to change; may be given again
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// A setting to take back to its default; may be given again
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() {
        Err("expected KEY=VALUE".to_owned())
    } else {
        Ok((key.into(), value.into()))
    }
}

pub(super) async fn run(command: Topic, client: &Client, out: &mut Out) -> Result<(), Failure> {
    match command {
        Topic::Create(args) => create(args, client, out).await,
        Topic::List { internal } => list(internal, client, out).await,
        Topic::Describe(args) => describe::run(&args, client, out).await,
        Topic::Alter(args) => alter(args, client, out).await,
        Topic::Reassign(args) => reassign::run(args, client, out).await,
        Topic::Delete { topics, if_exists } => {
            let absent = |error: &ClientError| {
                if_exists && error.wire() == Some(WireError::UnknownTopicOrPartition)
            };
            let deleted = client.delete_topics(&topics).await?;
            per_element(deleted, "topic", "deleted", absent, out)
        }
    }
}

/// Reports what became of each element.
pub(super) fn per_element(
    elements: PerElement<()>,
    column: &str,
    done: &str,
    forgiven: impl Fn(&ClientError) -> bool,
    out: &mut Out,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Row {
        name: String,
        result: String,
        error: Option<String>,
    }
    let total = elements.len();
    let failures: Vec<&ClientError> = elements
        .iter()
        .filter_map(|(_, outcome)| outcome.as_ref().err().filter(|error| !forgiven(error)))
        .collect();
    let failed = failures.len();
    let unreachable = failed > 0 && failures.iter().all(|error| error.is_unreachable());
    // A single failure speaks for itself.
    if total == 1
        && let Some(error) = failures.first()
    {
        return Err(Failure::Client((*error).clone()));
    }
    let rows: Vec<_> = elements
        .into_iter()
        .map(|(name, outcome)| match outcome {
            Ok(()) => Row { name, result: done.to_owned(), error: None },
            Err(error) if forgiven(&error) => {
                Row { name, result: "absent".to_owned(), error: None }
            }
            Err(error) => Row { name, result: "failed".to_owned(), error: Some(error.to_string()) },
        })
        .collect();
    out.rows(&rows, &[column, "result", "error"], |row| {
        vec![row.name.clone(), row.result.clone(), row.error.clone().unwrap_or_default()]
    })?;
    if failed == 0 { Ok(()) } else { Err(Failure::Partial { failed, total, unreachable }) }
}

async fn create(args: Create, client: &Client, out: &mut Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Row {
        topic: String,
        id: String,
        partitions: i32,
        replication_factor: i16,
        result: &'static str,
    }
    let topic = NewTopic {
        name: args.topic,
        partitions: args.partitions,
        replication_factor: args.replication_factor,
        configs: args.config,
    };
    let made = match client.create_topic(&topic, args.dry_run).await {
        Err(error) if args.if_not_exists && error.wire() == Some(WireError::TopicAlreadyExists) => {
            return out.note(&format!("topic {} exists already", topic.name));
        }
        made => made?,
    };
    let row = Row {
        topic: topic.name,
        id: made.id.to_string(),
        partitions: made.partitions,
        replication_factor: made.replication_factor,
        result: if args.dry_run { "valid" } else { "created" },
    };
    let columns = ["topic", "id", "partitions", "replicas", "result"];
    out.rows(&[row], &columns, |row| {
        vec![
            row.topic.clone(),
            row.id.clone(),
            row.partitions.to_string(),
            row.replication_factor.to_string(),
            row.result.to_owned(),
        ]
    })
}

async fn list(internal: bool, client: &Client, out: &mut Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Row {
        topic: String,
        id: String,
        partitions: usize,
        replication_factor: usize,
        internal: bool,
    }
    retrying!(client, client.deadline(), async { client.refresh_all().await })?;
    let view = client.view();
    let shown = view.topics.values().filter(|topic| internal || !topic.internal);
    let rows: Vec<_> = shown
        .map(|topic| Row {
            topic: topic.name.to_string(),
            id: topic.id.to_string(),
            partitions: topic.partitions.len(),
            replication_factor: topic.partitions.first().map_or(0, |p| p.replicas.len()),
            internal: topic.internal,
        })
        .collect();
    out.rows(&rows, &["topic", "id", "partitions", "replicas"], |row| {
        vec![
            row.topic.clone(),
            row.id.clone(),
            row.partitions.to_string(),
            row.replication_factor.to_string(),
        ]
    })
}

async fn alter(args: Alter, client: &Client, out: &mut Out) -> Result<(), Failure> {
    let set = args.config.into_iter().map(|(key, value)| ConfigChange::Set(key, value));
    let changes: Vec<_> = set.chain(args.unset.into_iter().map(ConfigChange::Unset)).collect();
    if changes.is_empty() && args.partitions.is_none() {
        return Err(Failure::usage("nothing to change: give --partitions, --config or --unset"));
    }
    if !changes.is_empty() {
        client.alter_configs(&Resource::Topic(args.topic.clone()), &changes, false).await?;
    }
    if let Some(count) = args.partitions {
        client.create_partitions(&args.topic, count).await?;
    }
    per_element(vec![(args.topic, Ok(()))], "topic", "altered", |_| false, out)
}
