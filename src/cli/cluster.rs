//! `cluster`: bootstrap, status. `quorum`: describe and change the voters.

use std::{collections::BTreeSet, time::Duration};

use clap::{Args, Subcommand};
use serde::Deserialize;

use super::{
    failure::Failure,
    operator::OperatorArgs,
    output::{Out, progress},
    recover::{self, RecoverArgs},
};
use crate::{
    cluster::{
        BrokerState, BrokerSummary, ClusterSummary, FoundingSummary, LagFigures, MemberRole,
        MovesSummary, NodeFigures, QuorumSummary,
    },
    node::{BootstrapRequest, VotersChangeRequest, VotersRequest},
};

/// How often a node is asked how far a change is, which it does not tell by itself.
const LOOK: Duration = Duration::from_millis(200);
/// How much longer than the node may take to wait for it, so that its own word on it arrives.
const MARGIN: Duration = Duration::from_secs(1);
/// How long other nodes may take to say how they are.
const OTHERS: Duration = Duration::from_secs(2);

#[derive(Debug, Subcommand)]
pub(super) enum Cluster {
    /// Name the first voters of a new cluster, once, asking any of its nodes
    Bootstrap {
        #[command(flatten)]
        operator: OperatorArgs,
        /// Node ids of the first voters; one, three or five
        #[arg(long, required = true, value_delimiter = ',', value_name = "ID,…")]
        voters: Vec<u32>,
    },
    /// Show how a node stands, and what each node of its cluster holds and how far it is behind
    Status {
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Quorum {
    /// Show the voters and learners of the metadata quorum, and how far each is
    Describe {
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Make a node a voter, once it has caught up
    AddVoter(Voter),
    /// Take a node its vote; it stays a learner and a broker
    RemoveVoter(Voter),
    /// Have a voter lead the quorum
    TransferLeader(Voter),
    /// Go on with one survivor alone, offline, after the majority of the voters is lost for good
    Recover(RecoverArgs),
}

#[derive(Debug, Args)]
pub(super) struct Voter {
    /// The node
    node: u32,
    /// Its directory, where it had several; `ottla quorum describe` shows them
    #[arg(long, value_name = "ID")]
    directory: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Deserialize)]
struct Done {}

pub(super) async fn run(
    command: Cluster,
    patience: Duration,
    out: &mut Out,
) -> Result<(), Failure> {
    match command {
        Cluster::Bootstrap { operator, voters } => {
            bootstrap(&operator, &voters, patience, out).await
        }
        Cluster::Status { operator } => status(&operator, patience, out).await,
    }
}

pub(super) async fn run_quorum(
    command: Quorum,
    patience: Duration,
    out: &mut Out,
) -> Result<(), Failure> {
    match command {
        Quorum::Describe { operator } => describe(&operator, patience, out).await,
        Quorum::Recover(args) => recover::run(&args, out).await,
        Quorum::AddVoter(voter) => {
            change(voter, VotersChangeRequest::Add, "is a voter", patience, out).await
        }
        Quorum::RemoveVoter(voter) => {
            change(voter, VotersChangeRequest::Remove, "is no voter", patience, out).await
        }
        Quorum::TransferLeader(voter) => {
            change(voter, VotersChangeRequest::Lead, "leads the quorum", patience, out).await
        }
    }
}

async fn bootstrap(
    operator: &OperatorArgs,
    voters: &[u32],
    patience: Duration,
    out: &mut Out,
) -> Result<(), Failure> {
    let named: BTreeSet<u32> = voters.iter().copied().collect();
    if named.len() < voters.len() {
        return Err(Failure::usage("--voters names a node twice"));
    }
    if named.len().is_multiple_of(2) {
        let text =
            "warning: an even number of voters survives no more losses than one voter less would";
        eprintln_people(out, text)?;
    }
    let request = BootstrapRequest { voters: named };
    let founded: FoundingSummary = operator.post("/cluster/bootstrap", &request, patience).await?;
    if out.is_json() {
        return out.json(&founded);
    }
    let FoundingSummary { cluster_id, voters, unconfirmed, leader } = founded;
    out.note(&format!("cluster {cluster_id} is there, with voters {}", listed(&voters)))?;
    if !unconfirmed.is_empty() {
        let unconfirmed = listed(&unconfirmed);
        out.note(&format!("voters {unconfirmed} have yet to confirm; they do by themselves"))?;
    }
    match leader {
        Some(leader) => out.note(&format!("node {leader} leads its metadata quorum")),
        None => out.note("no leader yet: see `ottla cluster status`, and the nodes' logs"),
    }
}

fn listed(nodes: &[u32]) -> String {
    nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

fn eprintln_people(out: &Out, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    if !out.is_json() {
        writeln!(std::io::stderr(), "{text}")?;
    }
    Ok(())
}

async fn status(operator: &OperatorArgs, patience: Duration, out: &mut Out) -> Result<(), Failure> {
    // A node that does not answer is shown as such, and so not waited for as long as this one.
    let others = patience.min(OTHERS);
    let path = format!("/cluster/status?timeout_ms={}", others.as_millis());
    let summary: ClusterSummary = operator.get(&path, patience + others).await?;
    if out.is_json() {
        return out.json(&summary);
    }
    standing(&summary, out)?;
    if summary.nodes.is_empty() {
        return Ok(());
    }
    out.note("")?;
    nodes(&summary.nodes, out)?;
    for line in remarks(&summary) {
        out.note(&line)?;
    }
    Ok(())
}

fn standing(summary: &ClusterSummary, out: &mut Out) -> Result<(), Failure> {
    let dash = || "-".to_owned();
    let columns = [
        "node",
        "member",
        "cluster",
        "leader",
        "applied",
        "brokers",
        "partitions",
        "leaderless",
        "under-replicated",
        "under-min-isr",
    ];
    let figures = summary.nodes.iter().filter_map(|node| node.figures.as_ref());
    let under_min_isr: u64 = figures.map(|figures| figures.under_min_isr).sum();
    out.rows(&[&summary.standing], &columns, |one| {
        let brokers = match one.data.fenced {
            0 => one.data.brokers.to_string(),
            fenced => format!("{}, {fenced} fenced", one.data.brokers),
        };
        vec![
            one.node.to_string(),
            if one.member { "yes" } else { "no" }.to_owned(),
            one.cluster_id.clone().unwrap_or_else(dash),
            one.leader.map_or_else(dash, |leader| leader.to_string()),
            one.applied.to_string(),
            brokers,
            one.data.partitions.to_string(),
            one.data.leaderless.to_string(),
            one.data.under_replicated.to_string(),
            under_min_isr.to_string(),
        ]
    })
}

/// What each node holds, how far it is behind, and what the way to the others has cost it.
fn nodes(nodes: &[BrokerSummary], out: &mut Out) -> Result<(), Failure> {
    let columns = [
        "node",
        "state",
        "replicas",
        "offline",
        "leads",
        "bytes",
        "lag records",
        "lag bytes",
        "lag s",
        "isr shrinks",
        "isr expands",
        "sent",
        "received",
        "cpu s",
    ];
    out.rows(nodes, &columns, |one| {
        let said = |figure: fn(&NodeFigures) -> u64| {
            let figure = one.figures.as_ref().map(figure);
            figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string())
        };
        let cpu = one.figures.as_ref().map(|figures| seconds(figures.cluster_cpu_ms));
        let LagFigures { records, bytes, time_ms, .. } = one.lag;
        vec![
            one.node.to_string(),
            one.state.name().to_owned(),
            said(|node| node.replicas),
            said(|node| node.offline_replicas),
            said(|node| node.leaders),
            said(|node| node.bytes),
            records.to_string(),
            bytes.to_string(),
            seconds(time_ms),
            said(|node| node.isr_shrinks),
            said(|node| node.isr_expands),
            said(|node| node.sent_bytes),
            said(|node| node.received_bytes),
            cpu.unwrap_or_else(|| "-".to_owned()),
        ]
    })
}

/// What an operator should know besides.
fn remarks(summary: &ClusterSummary) -> Vec<String> {
    let mut remarks = Vec::new();
    let MovesSummary { running, waiting, by_balancer } = summary.standing.data.moves;
    let figures = summary.nodes.iter().filter_map(|node| node.figures.as_ref());
    let planned: u64 = figures.filter_map(|figures| figures.planned_moves).sum();
    if running + waiting > 0 || planned > 0 {
        remarks.push(format!(
            "Moves: {running} running, {waiting} waiting for a node or directory that is away; \
             {by_balancer} of them by the balancer, which has planned {planned} more. See 'ottla \
             topic reassign --verify'."
        ));
    }
    let silent = summary.nodes.iter().filter(|node| node.state == BrokerState::Silent);
    let silent: Vec<u32> = silent.map(|node| node.node).collect();
    if !silent.is_empty() {
        remarks.push(format!(
            "Node {} did not answer in time: sums are without what it would say.",
            listed(&silent)
        ));
    }
    remarks
}

fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1_000, ms % 1_000 / 100)
}

async fn describe(
    operator: &OperatorArgs,
    patience: Duration,
    out: &mut Out,
) -> Result<(), Failure> {
    let path = format!("/quorum?timeout_ms={}", patience.as_millis());
    let described: QuorumSummary = operator.get(&path, patience + MARGIN).await?;
    if out.is_json() {
        return out.json(&described);
    }
    out.note(&format!(
        "leader {}, term {}, committed {}{}",
        described.leader,
        described.term,
        described.committed,
        if described.changing { ", a change is under way" } else { "" }
    ))?;
    let columns = ["node", "role", "peer", "log end", "behind", "active", "directory"];
    out.rows(&described.members, &columns, |one| {
        vec![
            one.node.to_string(),
            one.role.to_string(),
            one.peer.to_string(),
            one.log_end.to_string(),
            one.behind.to_string(),
            if one.active { "yes" } else { "no" }.to_owned(),
            one.directory.clone(),
        ]
    })
}

async fn change(
    voter: Voter,
    change: VotersChangeRequest,
    outcome: &str,
    patience: Duration,
    out: &mut Out,
) -> Result<(), Failure> {
    let Voter { node, directory, operator } = voter;
    let timeout_ms = u64::try_from(patience.as_millis()).ok();
    let request = VotersRequest { change, node, directory, timeout_ms };
    let asking = operator.post::<Done>("/quorum/voters", &request, patience + MARGIN);
    let watching = async {
        // Only an addition may take its time: the learner has to catch up.
        if change == VotersChangeRequest::Add {
            watch(&operator, node, patience).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = asking => { done?; }
        () = watching => {}
    }
    if out.is_json() {
        return out.json(&serde_json::json!({ "node": node, "outcome": outcome }));
    }
    out.note(&format!("node {node} {outcome}"))
}

/// Shows how far a learner is behind.
async fn watch(operator: &OperatorArgs, node: u32, patience: Duration) {
    let mut bar: Option<indicatif::ProgressBar> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(now) = operator.get::<QuorumSummary>("/quorum", patience).await else { continue };
        let learner =
            now.members.iter().find(|one| one.node == node && one.role == MemberRole::Learner);
        let Some(learner) = learner else { continue };
        let bar = bar.get_or_insert_with(|| {
            progress(Some(now.committed), &format!("node {node} catches up"))
        });
        bar.set_length(now.committed);
        bar.set_position(learner.log_end.min(now.committed));
    }
}
