//! A node that belongs to no cluster yet: what it has promised, and how it comes into one.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use super::{
    Cluster,
    wire::{Answer, Ask, Found, Inquire, Join, Joined, Leader, Participant, Promise, Standing},
};
use crate::{
    base::NodeId,
    config::Address,
    quorum::{Bootstrap, Configuration, Origin},
    transport::{ConnectError, PeerInfo, RefuseError},
};

/// How long a promise holds.
pub(super) const PROMISE: Duration = Duration::from_secs(10);
/// The pause between two looks around.
const ROUND: Duration = Duration::from_millis(500);
/// How long one node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a leader may take to take a node in.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// What this node has promised or was told.
#[derive(Debug)]
pub(super) struct Formation(watch::Sender<Stage>);

impl Default for Formation {
    fn default() -> Self {
        Self(watch::Sender::new(Stage::Waiting(None)))
    }
}

/// A founding that was promised, and until when. It outlives an attempt to join: while it holds,
/// another founding must not get one.
type Promised = Option<(Vec<u8>, Instant)>;

#[derive(Debug, Clone, PartialEq)]
enum Stage {
    Waiting(Promised),
    /// It is to be a first voter.
    Named(Bootstrap),
    /// It asks a leader to be taken in.
    Joining(Promised),
    /// It takes part.
    Member,
}

impl Formation {
    pub(super) fn belongs(&self) {
        self.0.send_replace(Stage::Member);
    }

    pub(super) fn is_member(&self) -> bool {
        *self.0.borrow() == Stage::Member
    }

    /// Promises to take part in no other founding for a while.
    pub(super) fn promise(&self, promise: Promise) -> Result<(), &'static str> {
        let now = Instant::now();
        let mut outcome = Ok(());
        self.0.send_if_modified(|stage| {
            let Stage::Waiting(promised) = stage else {
                outcome = Err("it belongs to a cluster already, or is about to");
                return false;
            };
            let other =
                promised.as_ref().filter(|(id, until)| *id != promise.founding && *until > now);
            if other.is_some() {
                outcome = Err("another bootstrap is under way there");
                return false;
            }
            *promised = Some((promise.founding, now + PROMISE));
            false // Nobody waits for it.
        });
        outcome
    }

    /// Makes this node a first voter, if it has promised itself to this founding.
    pub(super) fn name(&self, founding: &[u8], bootstrap: Bootstrap) -> Result<(), &'static str> {
        let now = Instant::now();
        let mut outcome = Err("it belongs to a cluster already, or is about to");
        self.0.send_if_modified(|stage| match stage {
            Stage::Waiting(Some((id, until))) if id == founding && *until > now => {
                outcome = Ok(());
                *stage = Stage::Named(bootstrap);
                true
            }
            Stage::Waiting(_) => {
                outcome = Err("its promise is void, as the bootstrap took too long");
                false
            }
            Stage::Named(known) if *known == bootstrap => {
                outcome = Ok(());
                false
            }
            _ => false,
        });
        outcome
    }

    /// Waits until the node takes part.
    pub(super) async fn wait_member(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.0.subscribe().wait_for(|stage| *stage == Stage::Member).await;
    }

    async fn wait_named(&self) -> Origin {
        let mut stage = self.0.subscribe();
        loop {
            if let Stage::Named(bootstrap) = &*stage.borrow_and_update() {
                return Origin::Bootstrap(bootstrap.clone());
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = stage.changed().await;
        }
    }

    /// Learned from another node that this one is a first voter. False where something else came
    /// first.
    fn learn(&self, bootstrap: &Bootstrap) -> bool {
        self.0.send_if_modified(|stage| {
            let waits = matches!(stage, Stage::Waiting(_));
            if waits {
                *stage = Stage::Named(bootstrap.clone());
            }
            waits
        })
    }

    /// Asks to be taken in from now on. False where something else came first.
    fn begin_joining(&self) -> bool {
        self.0.send_if_modified(|stage| {
            let Stage::Waiting(promised) = stage else { return false };
            *stage = Stage::Joining(promised.take());
            true
        })
    }

    /// Nobody took it in.
    fn end_joining(&self) {
        self.0.send_if_modified(|stage| {
            let Stage::Joining(promised) = stage else { return false };
            *stage = Stage::Waiting(promised.take());
            true
        });
    }
}

/// What was found at a seed.
pub(super) enum Seed {
    /// This node itself.
    Oneself,
    /// A node, and how it stands.
    Node(Arc<PeerInfo>, Standing),
    /// Nobody to talk to, and why.
    Silent(String),
}

impl Cluster {
    /// Waits until this node has a place in a cluster: as a first voter, or taken in by a leader.
    /// `say` hears what it waits for.
    pub async fn form(&self, say: impl Fn(String) + Sync) -> Origin {
        let mut said = String::new();
        let mut tell = |text: String| {
            if text != said {
                info!("{text}");
                say(text.clone());
                said = text;
            }
        };
        loop {
            tokio::select! {
                biased;
                named = self.0.formation.wait_named() => return named,
                found = self.look_around() => match found {
                    Ok(origin) => return origin,
                    Err(waits_for) => tell(waits_for),
                },
            }
            tokio::select! {
                named = self.0.formation.wait_named() => return named,
                () = sleep(ROUND) => {}
            }
        }
    }

    /// How this node stands, for others that look around.
    pub(super) fn standing(&self) -> Standing {
        let Some(quorum) = self.quorum() else { return Standing::default() };
        let status = quorum.status();
        let found = first_voters(&status.configuration).map(|voters| {
            let bootstrap = Bootstrap { cluster_id: status.identity.cluster_id, voters };
            Found::new(uuid::Uuid::nil(), &bootstrap)
        });
        Standing { is_member: true, found, leader: self.leader_hint() }
    }

    /// Asks every seed how it stands.
    pub(super) async fn ask_seeds(&self) -> Vec<(Address, Seed)> {
        let seeds = self.0.config.seeds.iter();
        join_all(seeds.map(async |seed| (seed.clone(), self.ask_seed(seed).await))).await
    }

    async fn ask_seed(&self, seed: &Address) -> Seed {
        let Some(transport) = self.transport() else {
            return Seed::Silent("this node has no certificate for the cluster plane".to_owned());
        };
        let deadline = Instant::now() + PATIENCE;
        let peer = match transport.discover(seed, deadline).await {
            Ok(peer) => peer,
            Err(ConnectError::Refused { source, .. })
                if matches!(*source, RefuseError::Oneself(_)) =>
            {
                return Seed::Oneself;
            }
            Err(error) => return Seed::Silent(error.to_string()),
        };
        match self.ask(peer.node_id, Ask::Inquire(Inquire {}), deadline).await {
            Ok(Answer::Standing(standing)) => Seed::Node(peer, standing),
            Ok(_) => Seed::Silent(format!("node {} gives no sensible answer", peer.node_id)),
            Err(error) => Seed::Silent(error.to_string()),
        }
    }

    /// One look at the seeds: a place in a cluster, or what this node still waits for.
    async fn look_around(&self) -> Result<Origin, String> {
        let found = self.ask_seeds().await;
        let member = self.member();
        for (_, seed) in &found {
            let Seed::Node(_, standing) = seed else { continue };
            let named = standing.found.as_ref().and_then(Found::bootstrap);
            let named = named.filter(|one| one.voters.values().any(|voter| *voter == member));
            if let Some(bootstrap) = named {
                info!("learned from another node that this one is a first voter");
                if self.0.formation.learn(&bootstrap) {
                    return Ok(Origin::Bootstrap(bootstrap));
                }
            }
        }
        let members = found.iter().filter_map(|(_, seed)| match seed {
            Seed::Node(peer, standing) if standing.is_member => Some((&**peer, standing)),
            _ => None,
        });
        let mut reason = None;
        for (peer, standing) in members {
            if !self.0.formation.begin_joining() {
                break;
            }
            match self.join_through(peer, standing, 0).await {
                Ok(peer_id) => {
                    return Ok(Origin::Join { cluster_id: peer.cluster_id, peer_id });
                }
                Err(why) => reason = Some(why),
            }
            self.0.formation.end_joining();
        }
        Err(reason.unwrap_or_else(|| waits_for(member.node_id, &found)))
    }

    /// Has the leader that a member knows take this node in, or remember it. Returns the peer id.
    pub(super) async fn join_through(
        &self,
        peer: &PeerInfo,
        standing: &Standing,
        peer_id: u64,
    ) -> Result<u64, String> {
        let Some(leader) = &standing.leader else {
            return Err(format!(
                "node {} belongs to a cluster whose quorum has no leader: start more of its voters",
                peer.node_id
            ));
        };
        let deadline = Instant::now() + JOIN_PATIENCE;
        let leader_id = self.find_leader(peer.node_id, leader, deadline).await;
        let who = Participant::new(peer_id, self.member());
        match self.ask(leader_id, Ask::Join(Join { who }), deadline).await {
            Ok(Answer::Joined(Joined { peer_id })) => Ok(peer_id),
            Ok(Answer::Refused(refused)) => Err(refused.text),
            Ok(_) => Err("the leader of the metadata quorum changes".to_owned()),
            Err(error) => Err(format!("the leader, node {leader_id}, cannot be asked: {error}")),
        }
    }

    /// Learns where the leader is that `peer` knows. Where it is not there, a call says why.
    pub(super) async fn find_leader(
        &self,
        peer: NodeId,
        leader: &Leader,
        deadline: Instant,
    ) -> NodeId {
        let leader_id = NodeId(leader.node_id);
        if let (Some(transport), Some(place)) = (self.transport(), leader.address.clone())
            && leader_id != peer
            && let Some(address) = place.address()
        {
            let _ = transport.discover(&address, deadline.min(Instant::now() + PATIENCE)).await;
        }
        leader_id
    }

    /// A node that takes part but hears of no leader makes itself known to it, until the quorum
    /// stops. `say` hears why the leader does not want it.
    pub async fn stay_known(self, say: impl Fn(Option<String>)) {
        let Some(quorum) = self.quorum() else { return };
        let mut status = quorum.watch_status();
        let mut told = None;
        loop {
            if status.wait_for(|status| status.raft.leader.is_none()).await.is_err() {
                return;
            }
            let until = Instant::now() + 2 * ROUND;
            let found = timeout_at(until, status.wait_for(|status| status.raft.leader.is_some()));
            if found.await.is_ok() {
                told = None;
                say(None);
                continue;
            }
            let peer_id = quorum.status().identity.peer_id;
            for (_, seed) in self.ask_seeds().await {
                let Seed::Node(peer, standing) = seed else { continue };
                if standing.leader.is_none() {
                    continue;
                }
                match self.join_through(&peer, &standing, peer_id).await {
                    Ok(_) => {
                        told = None;
                        say(None);
                    }
                    // It is asked again every second, and may say the same for days.
                    Err(why) if told.as_ref() == Some(&why) => {}
                    Err(why) => {
                        warn!("{why}");
                        say(Some(why.clone()));
                        told = Some(why);
                    }
                }
                break;
            }
        }
    }
}

/// The first voters, as long as nobody was ever added or removed.
fn first_voters(now: &Configuration) -> Option<BTreeMap<u64, crate::quorum::Member>> {
    (*now == Configuration::of_voters(now.members.clone())).then(|| now.members.clone())
}

fn waits_for(own: NodeId, found: &[(Address, Seed)]) -> String {
    let mut nodes = vec![own];
    let mut silent = String::new();
    for (address, seed) in found {
        match seed {
            Seed::Oneself => {}
            Seed::Node(peer, _) => nodes.push(peer.node_id),
            Seed::Silent(why) => {
                // Writing to a string cannot fail.
                let _ = write!(silent, "; seed {address}: {why}");
            }
        }
    }
    nodes.sort_unstable();
    nodes.dedup();
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    // An even voter more survives no further loss.
    let odd = names.len().min(5).div_ceil(2) * 2 - 1;
    let voters = names[..odd].join(",");
    format!(
        "this node belongs to no cluster yet. Of its seeds, itself included, nodes {} wait as well: \
         run `ottla cluster bootstrap --voters {voters}` once, for any one of them{silent}",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{ClusterId, DirectoryId},
        cluster::ClusterConfig,
        quorum::Member,
    };

    fn waiting() -> (Cluster, Bootstrap) {
        let directory_id = DirectoryId(uuid::Uuid::from_u128(1));
        let member = Member { node_id: NodeId(1), directory_id };
        let config = ClusterConfig {
            member,
            cluster_id: None,
            seeds: Vec::new(),
            voters_target: 0,
            suspicion_timeout: Duration::ZERO,
            seed: 1,
        };
        let cluster_id = ClusterId(uuid::Uuid::from_u128(2));
        (Cluster::new(config), Bootstrap::single(member, cluster_id))
    }

    fn promise(founding: &[u8]) -> Promise {
        Promise { founding: founding.to_vec() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_promise_outlives_looks_around_and_attempts_to_join() {
        let (cluster, bootstrap) = waiting();
        let formation = &cluster.0.formation;
        formation.promise(promise(b"first")).unwrap();
        cluster.look_around().await.unwrap_err();
        assert!(formation.begin_joining());
        formation.name(b"first", bootstrap.clone()).unwrap_err();
        formation.end_joining();
        formation.promise(promise(b"second")).unwrap_err();
        formation.name(b"second", bootstrap.clone()).unwrap_err();
        formation.name(b"first", bootstrap).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_promise_ends_by_itself() {
        let (cluster, bootstrap) = waiting();
        let formation = &cluster.0.formation;
        formation.promise(promise(b"first")).unwrap();
        sleep(PROMISE).await;
        formation.name(b"first", bootstrap).unwrap_err();
        formation.promise(promise(b"second")).unwrap();
    }
}
