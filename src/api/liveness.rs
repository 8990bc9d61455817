//! What clients are told of brokers that may be dead.
//!
//! A client that has lost its connection to a leader asks for the metadata at once, within a
//! millisecond of that one's death, and not again for a second. So every other broker is asked for a
//! sign of life first, which takes a fraction of a millisecond, and the answer waits for one that is
//! silent: until it is heard after all, or fenced, and others lead.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::Context;
use crate::{base::NodeId, metadata::MetadataImage};

/// How long an answer waits for a silent broker at most: until another controller was elected, and
/// has fenced it.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a broker that was fenced is still listed. Where a leader moves and its former broker
/// vanishes at once, librdkafka is at a loss for a second; where it stays for long, that keeps trying
/// to reach it, and spares it for many seconds once it is back. Kafka's are listed for all the nine
/// seconds of their session.
const LISTED: Duration = Duration::from_secs(3);

/// Brokers that were fenced a short time ago.
#[derive(Debug, Default)]
pub(super) struct Departed(Mutex<BTreeMap<NodeId, Instant>>);

impl Context {
    /// This node goes on from one image to a newer one.
    pub fn note_departures(&self, before: &MetadataImage, after: &MetadataImage) {
        let mut departed = self.departed.0.lock();
        for broker in after.brokers() {
            let was_there = before.broker(broker.id).is_some_and(|former| !former.fenced);
            if !broker.fenced {
                departed.remove(&broker.id);
            } else if was_there && !broker.in_controlled_shutdown {
                departed.insert(broker.id, Instant::now());
            }
        }
    }

    /// Whether a broker that is fenced was there until lately, and is still to be listed.
    pub(super) fn departed_lately(&self, node: NodeId) -> bool {
        self.departed.0.lock().get(&node).is_some_and(|since| since.elapsed() < LISTED)
    }

    /// The newest image, once every active broker in it has given a sign of life.
    pub(super) async fn settled_image(&self) -> Arc<MetadataImage> {
        let image = self.image();
        let own = self.node_id();
        let others = image.brokers().filter(|broker| broker.id != own && broker.is_active());
        let others: Vec<NodeId> = others.map(|broker| broker.id).collect();
        if others.is_empty() {
            return image;
        }
        let deadline = Instant::now() + PATIENCE;
        let settle = others.into_iter().map(|node| async move {
            let is_gone =
                |image: &MetadataImage| image.broker(node).is_none_or(|broker| !broker.is_active());
            tokio::select! {
                () = self.cluster.wait_for(node, deadline) => {}
                () = self.published.wait_until(is_gone) => {}
            }
        });
        let _ = timeout_at(deadline, join_all(settle)).await;
        self.image()
    }
}
