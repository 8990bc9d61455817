//! `cluster`: bootstrap, status. `quorum`: describe and change the voters.

use std::{collections::BTreeSet, time::Duration};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::{
    failure::Failure,
    operator::OperatorArgs,
    output::{Out, progress},
    recover::{self, RecoverArgs},
};
use crate::node::{BootstrapRequest, VotersChangeRequest, VotersRequest};

/// How long a node looks for the others and for the first leader.
const BOOTSTRAP_PATIENCE: Duration = Duration::from_secs(30);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(200);

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
    /// Show how a node stands: whether it belongs to a cluster, and who leads there
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

#[derive(Debug, Serialize, Deserialize)]
struct Founded {
    cluster_id: String,
    voters: Vec<u32>,
    unconfirmed: Vec<u32>,
    leader: Option<u32>,
}

/// How a node stands.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Standing {
    node: u32,
    directory: String,
    pub(super) member: bool,
    cluster_id: Option<String>,
    peer: Option<u64>,
    leader: Option<u32>,
    applied: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Description {
    leader: u32,
    term: u64,
    committed: u64,
    changing: bool,
    members: Vec<Member>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Member {
    node: u32,
    peer: u64,
    directory: String,
    role: String,
    log_end: u64,
    behind: u64,
    active: bool,
}

#[derive(Deserialize)]
struct Done {}

pub(super) async fn run(command: Cluster, out: &mut Out) -> Result<(), Failure> {
    match command {
        Cluster::Bootstrap { operator, voters } => bootstrap(&operator, &voters, out).await,
        Cluster::Status { operator } => status(&operator, out).await,
    }
}

pub(super) async fn run_quorum(
    command: Quorum,
    patience: Duration,
    out: &mut Out,
) -> Result<(), Failure> {
    match command {
        Quorum::Describe { operator } => describe(&operator, patience, out).await,
        Quorum::Recover(args) => recover::run(&args, out),
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

async fn bootstrap(operator: &OperatorArgs, voters: &[u32], out: &mut Out) -> Result<(), Failure> {
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
    let founded: Founded =
        operator.post("/cluster/bootstrap", &request, BOOTSTRAP_PATIENCE).await?;
    if out.is_json() {
        return out.json(&founded);
    }
    out.note(&format!(
        "cluster {} is there, with voters {:?}",
        founded.cluster_id, founded.voters
    ))?;
    if !founded.unconfirmed.is_empty() {
        let text =
            format!("voters {:?} have yet to confirm; they do by themselves", founded.unconfirmed);
        out.note(&text)?;
    }
    match founded.leader {
        Some(leader) => out.note(&format!("node {leader} leads its metadata quorum")),
        None => out.note("no leader yet: see `ottla cluster status`, and the nodes' logs"),
    }
}

fn eprintln_people(out: &Out, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    if !out.is_json() {
        writeln!(std::io::stderr(), "{text}")?;
    }
    Ok(())
}

async fn status(operator: &OperatorArgs, out: &mut Out) -> Result<(), Failure> {
    let standing: Standing = operator.get("/cluster", LOOK * 25).await?;
    let dash = || "-".to_owned();
    out.rows(&[standing], &["node", "member", "cluster", "leader", "applied"], |one| {
        vec![
            one.node.to_string(),
            if one.member { "yes" } else { "no" }.to_owned(),
            one.cluster_id.clone().unwrap_or_else(dash),
            one.leader.map_or_else(dash, |leader| leader.to_string()),
            one.applied.to_string(),
        ]
    })
}

async fn describe(
    operator: &OperatorArgs,
    patience: Duration,
    out: &mut Out,
) -> Result<(), Failure> {
    let path = format!("/quorum?timeout_ms={}", patience.as_millis());
    let described: Description = operator.get(&path, patience + LOOK).await?;
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
            one.role.clone(),
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
    let asking = operator.post::<Done>("/quorum/voters", &request, patience + LOOK);
    let watching = async {
        // Only an addition may take its time: the learner has to catch up.
        if change == VotersChangeRequest::Add {
            watch(&operator, node).await;
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
async fn watch(operator: &OperatorArgs, node: u32) {
    let mut bar: Option<indicatif::ProgressBar> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(now) = operator.get::<Description>("/quorum", LOOK * 10).await else { continue };
        let learner = now.members.iter().find(|one| one.node == node && one.role == "learner");
        let Some(learner) = learner else { continue };
        let bar = bar.get_or_insert_with(|| {
            progress(Some(now.committed), &format!("node {node} catches up"))
        });
        bar.set_length(now.committed);
        bar.set_position(learner.log_end.min(now.committed));
    }
}
