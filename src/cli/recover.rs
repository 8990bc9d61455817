//! `quorum recover`: a quorum from a surviving minority, offline.

use std::path::PathBuf;

use clap::Args;

use super::{failure::Failure, output::Out};
use crate::node::{self, Survivor};

#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    /// The configuration file of the survivor, which must not run
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// What a call without this option prints: does it
    #[arg(long, value_name = "TEXT")]
    confirm: Option<String>,
}

pub(super) async fn run(args: &RecoverArgs, out: &mut Out) -> Result<(), Failure> {
    let survivor = node::recover(&args.config, args.confirm.as_deref()).await?;
    if out.is_json() {
        return out.json(&survivor);
    }
    if let Some(peer) = survivor.recovered_as {
        return out.note(&format!(
            "node {} is the only voter of cluster {} now, as peer {peer}. Start it.\n\
             Never start any other former member with its old disk: empty its data directories \
             first, and it joins anew. `ottla quorum add-voter` then makes it a voter.",
            survivor.node, survivor.cluster_id
        ));
    }
    inspect(&survivor, out)
}

fn inspect(survivor: &Survivor, out: &mut Out) -> Result<(), Failure> {
    out.note(&format!(
        "node {}, peer {}, of cluster {}. The voters it knew:",
        survivor.node, survivor.peer, survivor.cluster_id
    ))?;
    out.rows(&survivor.voters, &["node", "peer", "directory"], |voter| {
        vec![voter.node.to_string(), voter.peer.to_string(), voter.directory.clone()]
    })?;
    out.note("")?;
    let columns = ["last term", "last index", "committed", "applied", "term"];
    out.rows(std::slice::from_ref(survivor), &columns, |one| {
        let numbers = [one.last_term, one.last_index, one.committed, one.applied, one.term];
        numbers.map(|number| number.to_string()).to_vec()
    })?;
    out.note(&format!(
        "
Only where a majority of the voters is lost for good: as long as it can be started, start it.
Compare LAST TERM, then LAST INDEX on all survivors, and recover the one where they are highest.

What is lost: every change of metadata after index {}, acknowledged or not, such as topics,
configurations and members that the lost voters agreed on and this node never received.
What is kept: everything up to there, also changes that were never acknowledged.
What must never be: a former member started with its old disk. Enough of the former voters would go
on as the former cluster, beside the new one. Empty the data directories of every other member
first, survivors too; the records in them are lost unless they are copied elsewhere before.

To make this node the only voter:
  ottla quorum recover --config FILE --confirm {}",
        survivor.last_index, survivor.confirmation
    ))
}
