//! The founding of a cluster, once, from any of its nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    Cluster,
    formation::Seed,
    wire::{Answer, Ask, Found, Inquire, Promise},
};
use crate::{
    base::{ClusterId, NodeId},
    config::Address,
    quorum::{Bootstrap, Member},
};

/// How long the new quorum may take to elect its first leader, beyond which the founding stands
/// nevertheless.
const FIRST_ELECTION: Duration = Duration::from_secs(10);
/// The pause between two questions for the first leader.
const ROUND: Duration = Duration::from_millis(50);
/// How long a node may take to promise, and to become a voter.
const PATIENCE: Duration = Duration::from_secs(4);

/// Why no cluster was founded. Unless said otherwise nothing was changed anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// There is one.
    #[error(
        "node {node} belongs to a cluster already: a cluster is bootstrapped once; nodes that start \
         with its seeds join by themselves"
    )]
    Exists {
        /// Who has a past.
        node: NodeId,
    },
    /// Nobody is to vote.
    #[error("name at least one voter")]
    NoVoters,
    /// A voter was not found.
    #[error(
        "voter {node} does not answer: start it, and see that its cluster listener is among \
         ottla.seeds of this node{silent}"
    )]
    SilentVoter {
        /// Who is missing.
        node: NodeId,
        /// Seeds where nobody was found, and why.
        silent: String,
    },
    /// A seed was not found: it may belong to a cluster.
    #[error(
        "seed {address} does not answer ({why}): it may belong to a cluster already; start it, or \
         take it out of ottla.seeds"
    )]
    SilentSeed {
        /// The seed.
        address: String,
        /// Why.
        why: String,
    },
    /// Two nodes have one id.
    #[error("two nodes say that they are node {node}: give each a node.id of its own")]
    Duplicate {
        /// The id.
        node: NodeId,
    },
    /// Without certificates there is no other node.
    #[error(
        "voters {others} are not this node, but it has no certificate to reach others with: set \
         ottla.cluster.tls.ca, cert and key"
    )]
    NoCertificate {
        /// Who else was named.
        others: String,
    },
    /// A node did not promise itself.
    #[error("node {node} does not take part: {why}; nothing was changed, so try again")]
    NotPromised {
        /// Who.
        node: NodeId,
        /// Why.
        why: String,
    },
    /// No voter took the news.
    #[error("no voter confirmed in time: look at /readyz of the nodes, then try again")]
    NotConfirmed,
}

/// A cluster that was founded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founded {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its first voters.
    pub voters: Vec<NodeId>,
    /// Voters that did not confirm; they learn of it when they look around.
    pub unconfirmed: Vec<NodeId>,
    /// The first leader, if there was one in time.
    pub leader: Option<NodeId>,
}

impl Cluster {
    /// Founds a cluster with these first voters.
    ///
    /// # Errors
    /// See [`BootstrapError`].
    pub async fn bootstrap(&self, voters: &BTreeSet<NodeId>) -> Result<Founded, BootstrapError> {
        if self.0.formation.is_member() {
            return Err(BootstrapError::Exists { node: self.node_id() });
        }
        if voters.is_empty() {
            return Err(BootstrapError::NoVoters);
        }
        let others: Vec<String> =
            voters.iter().filter(|id| **id != self.node_id()).map(ToString::to_string).collect();
        if self.transport().is_none() && !others.is_empty() {
            return Err(BootstrapError::NoCertificate { others: others.join(", ") });
        }
        let members = self.survey(voters).await?;
        let founding = self.new_id();
        self.collect_promises(founding, &members).await?;
        let cluster_id = self.0.config.cluster_id.unwrap_or_else(|| ClusterId(self.new_id()));
        let chosen = members.values().filter(|member| voters.contains(&member.node_id));
        let bootstrap = Bootstrap { cluster_id, voters: (1..).zip(chosen.copied()).collect() };
        info!(%cluster_id, voters = ?voters, "bootstrap a cluster");
        let unconfirmed = self.name_voters(founding, &bootstrap).await?;
        let leader = self.first_leader(voters).await;
        let voters = voters.iter().copied().collect();
        Ok(Founded { cluster_id, voters, unconfirmed, leader })
    }

    /// Everybody who waits, this node among them; refuses where somebody has a past, or is missing.
    async fn survey(
        &self,
        voters: &BTreeSet<NodeId>,
    ) -> Result<BTreeMap<NodeId, Member>, BootstrapError> {
        let mut members = BTreeMap::from([(self.node_id(), self.member())]);
        let mut silent: Vec<(Address, String)> = Vec::new();
        for (address, seed) in self.ask_seeds().await {
            match seed {
                Seed::Oneself => {}
                Seed::Silent(why) => silent.push((address, why)),
                Seed::Node(peer, standing) => {
                    let (node_id, directory_id) = (peer.node_id, peer.directory_id);
                    if standing.is_member {
                        return Err(BootstrapError::Exists { node: node_id });
                    }
                    let found = Member { node_id, directory_id };
                    if members.insert(node_id, found).is_some_and(|known| known != found) {
                        return Err(BootstrapError::Duplicate { node: node_id });
                    }
                }
            }
        }
        if let Some(node) = voters.iter().find(|id| !members.contains_key(id)) {
            let silent = silent.iter().map(|(address, why)| format!("; seed {address}: {why}"));
            return Err(BootstrapError::SilentVoter { node: *node, silent: silent.collect() });
        }
        match silent.into_iter().next() {
            Some((address, why)) => {
                Err(BootstrapError::SilentSeed { address: address.to_string(), why })
            }
            None => Ok(members),
        }
    }

    async fn collect_promises(
        &self,
        founding: Uuid,
        members: &BTreeMap<NodeId, Member>,
    ) -> Result<(), BootstrapError> {
        let promise = Promise { founding: founding.as_bytes().to_vec() };
        let asked = members.keys().map(async |node| {
            let answer = self.ask_to_found(*node, Ask::Promise(promise.clone())).await;
            answer.map_err(|why| BootstrapError::NotPromised { node: *node, why })
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Tells the voters. Returns who did not confirm.
    async fn name_voters(
        &self,
        founding: Uuid,
        bootstrap: &Bootstrap,
    ) -> Result<Vec<NodeId>, BootstrapError> {
        let found = Found::new(founding, bootstrap);
        let told = bootstrap.voters.values().map(async |voter| {
            let answer = self.ask_to_found(voter.node_id, Ask::Found(found.clone())).await;
            answer.map_err(|why| {
                warn!(node = %voter.node_id, why, "a first voter did not confirm");
                voter.node_id
            })
        });
        let unconfirmed: Vec<NodeId> =
            join_all(told).await.into_iter().filter_map(Result::err).collect();
        if unconfirmed.len() == bootstrap.voters.len() {
            return Err(BootstrapError::NotConfirmed);
        }
        Ok(unconfirmed)
    }

    /// Asks another node, or this one.
    async fn ask_to_found(&self, node: NodeId, ask: Ask) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let answer = match (node == self.node_id(), ask) {
            (true, Ask::Promise(promise)) => {
                return self.0.formation.promise(promise).map_err(str::to_owned);
            }
            (true, Ask::Found(found)) => self.become_voter(&found, deadline).await,
            (_, ask) => self.ask(node, ask, deadline).await.map_err(|error| error.to_string())?,
        };
        match answer {
            Answer::Done(_) => Ok(()),
            Answer::Refused(refused) => Err(refused.text),
            _ => Err("it did not say in time what became of it".to_owned()),
        }
    }

    /// Waits for the first leader.
    async fn first_leader(&self, voters: &BTreeSet<NodeId>) -> Option<NodeId> {
        let deadline = Instant::now() + FIRST_ELECTION;
        while Instant::now() < deadline {
            for voter in voters {
                let standing = if *voter == self.node_id() {
                    self.standing()
                } else {
                    let until = deadline.min(Instant::now() + PATIENCE);
                    match self.ask(*voter, Ask::Inquire(Inquire {}), until).await {
                        Ok(Answer::Standing(standing)) => standing,
                        _ => continue,
                    }
                };
                if let Some(leader) = standing.leader {
                    return Some(NodeId(leader.node_id));
                }
            }
            sleep(ROUND).await;
        }
        None
    }
}
