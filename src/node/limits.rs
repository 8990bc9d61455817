//! What clients may take, from the settings of the broker, also as they change at run time.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    api::{Api, Context},
    config::Value,
    metadata::ConfigResource,
    net::{Acceptance, Limits, Server},
};

const MAX_CONNECTIONS: &str = "max.connections";
const CREATION_RATE: &str = "max.connection.creation.rate";

/// A time that no connection lives to see; the end of time itself cannot be reckoned with.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The limits as they are set now.
pub(super) fn limits(context: &Context) -> Limits {
    let config = context.broker_config();
    let defaults = Limits::default();
    Limits {
        request_max_bytes: count(config.socket_request_max_bytes),
        acceptance: Acceptance {
            max_connections: count(config.max_connections),
            creation_rate: config.max_connection_creation_rate.unsigned_abs(),
        },
        by_listener: of_listeners(context),
        max_connections_per_ip: count(config.max_connections_per_ip),
        max_connections_per_ip_overrides: config
            .connections_per_ip()
            .map(|(address, limit)| (address.to_canonical(), count(limit)))
            .collect(),
        max_idle: u64::try_from(config.connections_max_idle_ms)
            .map_or(FOREVER, |ms| Duration::from_millis(ms).min(FOREVER)),
        request_memory_bytes: usize::try_from(config.queued_max_request_bytes)
            .unwrap_or(usize::MAX >> 4),
        ..defaults
    }
}

fn count(value: i32) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// What is set as `listener.name.LISTENER.KEY`.
fn of_listeners(context: &Context) -> crate::base::HashMap<String, Acceptance> {
    let (node, image) = (&context.node, context.image());
    let broker = image.config_map(&ConfigResource::broker(node.node_id));
    let cluster_default = image.config_map(&ConfigResource::all_brokers());
    let layers = node.layers(&broker, &cluster_default);
    let set = |listener: &str, key| {
        let value = layers.find_for_listener(listener, key).as_ref().and_then(Value::as_integer);
        value.and_then(|value| u32::try_from(value).ok())
    };
    let mut limits = crate::base::HashMap::default();
    for listener in &node.listeners {
        let mut acceptance = Acceptance::default();
        if let Some(most) = set(&listener.name, MAX_CONNECTIONS) {
            acceptance.max_connections = most as usize;
        }
        if let Some(rate) = set(&listener.name, CREATION_RATE) {
            acceptance.creation_rate = rate;
        }
        limits.insert(listener.name.clone(), acceptance);
    }
    limits
}

/// Passes on what changes, until the node stops.
pub(super) async fn follow(
    mut changes: watch::Receiver<()>,
    context: Context,
    server: Arc<Server<Api>>,
) {
    while changes.changed().await.is_ok() {
        server.set_limits(limits(&context));
    }
}
