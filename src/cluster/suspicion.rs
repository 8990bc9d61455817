//! The leader of the quorum notices brokers that have fallen silent, and has them fenced long before
//! their leases run out.
//!
//! Every broker is a member of the quorum and answers its leader's heartbeats ten times a second, past
//! disks and queues. One that is not heard for `ottla.cluster.suspicion.timeout.ms` is fenced as if it
//! had asked for that. A mistake costs what fencing costs, and never more: its leaderships move, and it
//! is back with its next heartbeat.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kafka_protocol::messages::{BrokerHeartbeatRequest, BrokerId};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    Cluster,
    wire::{Ask, Inquire},
};
use crate::{
    base::{BrokerEpoch, NodeId},
    controller::Request,
    quorum::{Handle, Status},
};

/// The least time that a new leader gives a node to answer.
const GRACE: Duration = Duration::from_millis(150);
/// The pause after a broker was fenced, or could not be.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the controller may take to fence a broker.
const PATIENCE: Duration = Duration::from_secs(5);

/// When other nodes were last heard.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<BTreeMap<NodeId, Instant>>);

impl Heard {
    pub(super) fn note(&self, node: NodeId) {
        self.0.lock().insert(node, Instant::now());
    }

    fn last(&self, node: NodeId) -> Option<Instant> {
        self.0.lock().get(&node).copied()
    }
}

/// A term in which this node leads the quorum.
struct Office {
    since: Instant,
    /// Who led before: that one was heard all the time, until it was not.
    former: Option<NodeId>,
}

impl Cluster {
    /// Asks a node for a sign of life, and waits for it; for ever where there is none.
    pub async fn wait_for(&self, node: NodeId, deadline: Instant) {
        match self.ask(node, Ask::Inquire(Inquire {}), deadline).await {
            Ok(_) => self.0.alive.note(node),
            Err(_) => std::future::pending().await,
        }
    }

    /// Has silent brokers fenced whenever this node leads, until the node stops.
    pub async fn suspect_silent(self, mut stop: watch::Receiver<bool>) {
        let Some(quorum) = self.quorum().cloned() else { return };
        let limit = self.0.config.suspicion_timeout;
        if limit.is_zero() {
            return;
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.watch_silence(&quorum, limit) => {}
        }
    }

    async fn watch_silence(&self, quorum: &Handle, limit: Duration) {
        let mut status = quorum.watch_status();
        let mut former = None;
        loop {
            let now = Arc::clone(&status.borrow_and_update());
            if !now.is_leader() {
                former = leader_of(&now).or(former);
                if status.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let office = Office { since: Instant::now(), former };
            tokio::select! {
                lost = status.wait_for(|status| !status.is_leader()) => {
                    if lost.is_err() {
                        return;
                    }
                }
                () = self.serve_office(quorum, &office, limit) => return,
            }
        }
    }

    async fn serve_office(&self, quorum: &Handle, office: &Office, limit: Duration) {
        loop {
            let now = Instant::now();
            let image = quorum.image();
            let mut next = now + limit;
            for broker in image.brokers().filter(|b| !b.fenced && b.id != self.node_id()) {
                let heard = self.heard(office, broker.id, limit);
                if heard + limit > now {
                    next = next.min(heard + limit);
                    continue;
                }
                let silent_ms = now.duration_since(heard).as_millis();
                info!(broker = %broker.id, silent_ms, "fence a broker that has fallen silent");
                self.fence(broker.id, broker.epoch).await;
                next = next.min(now + PAUSE);
            }
            sleep_until(next).await;
        }
    }

    /// From when on a node's silence counts.
    fn heard(&self, office: &Office, node: NodeId, limit: Duration) -> Instant {
        let last = self.0.alive.last(node);
        // Others than the former leader did not talk to this node before.
        let earliest = if office.former == Some(node) {
            (office.since + GRACE).checked_sub(limit).unwrap_or(office.since)
        } else {
            office.since
        };
        last.map_or(earliest, |last| last.max(earliest))
    }

    async fn fence(&self, broker: NodeId, epoch: BrokerEpoch) {
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(broker.wire()))
            .with_broker_epoch(epoch.0)
            .with_want_fence(true);
        let request = Request::BrokerHeartbeat(request);
        let deadline = Instant::now() + PATIENCE;
        if let Err(error) = self.decide_here(request, None, deadline).await {
            warn!(%broker, %error, "a broker that has fallen silent is not fenced yet");
        }
    }
}

fn leader_of(status: &Arc<Status>) -> Option<NodeId> {
    status.leader().map(|member| member.node_id)
}
