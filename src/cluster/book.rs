//! The transport's address book: whom this node keeps a connection to, and where they are.

use std::collections::BTreeMap;

use crate::{
    base::NodeId,
    config::Address,
    metadata::{Broker, CLUSTER_LISTENER, MetadataImage},
    quorum::{Configuration, Status},
};

use super::Cluster;

impl Cluster {
    /// Keeps the book as the configuration and the registrations of brokers have it, until the
    /// quorum stops.
    pub async fn keep_book(self) {
        let (Some(transport), Some(quorum)) = (self.transport(), self.quorum()) else { return };
        let mut status = quorum.watch_status();
        let mut known: Option<(Configuration, BTreeMap<NodeId, Address>)> = None;
        let mut registered = None;
        let mut places = BTreeMap::new();
        loop {
            let now = std::sync::Arc::clone(&status.borrow_and_update());
            let image = quorum.image();
            // Every registration has a new epoch.
            if registered.replace(image.last_broker_epoch()) != Some(image.last_broker_epoch()) {
                places = places_of(&image);
                for (node, address) in &places {
                    transport.learn(*node, address.clone());
                }
            }
            let stays = known.as_ref().is_some_and(|(configuration, at)| {
                *configuration == now.configuration && *at == places
            });
            if !stays {
                transport.set_peers(peers_of(self.node_id(), &now, &places));
                known = Some((now.configuration.clone(), places.clone()));
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Where the brokers say that other nodes reach them.
fn places_of(image: &MetadataImage) -> BTreeMap<NodeId, Address> {
    let place = |broker: &std::sync::Arc<Broker>| {
        let endpoint = broker.endpoint(CLUSTER_LISTENER)?;
        let port = u16::try_from(endpoint.port).ok()?;
        Some((broker.id, Address { host: endpoint.host.clone(), port }))
    };
    image.brokers().filter_map(place).collect()
}

/// A voter keeps a connection to everybody, a learner to the voters.
fn peers_of(
    own: NodeId,
    status: &Status,
    places: &BTreeMap<NodeId, Address>,
) -> BTreeMap<NodeId, Vec<Address>> {
    let configuration = &status.configuration;
    let votes = configuration.is_voter(status.raft.peer_id);
    let members = configuration.members.iter();
    let kept = members.filter(|(peer, _)| votes || configuration.is_voter(**peer));
    let kept = kept.map(|(_, member)| member.node_id).filter(|node| *node != own);
    kept.map(|node| (node, places.get(&node).cloned().into_iter().collect())).collect()
}
