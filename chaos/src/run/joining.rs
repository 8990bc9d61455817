//! What joins the nodes of a run, and what it leaves out.

use super::{RunConfig, RunError, with_causes};
use crate::{
    network::{Network, NetworkKind},
    nodes::Nodes,
    scenario::{Fault, Step},
};

/// Readies the nodes, in namespaces unless these were not asked for or cannot be had, or else
/// behind a proxy.
pub(super) async fn join(
    config: &RunConfig,
    seed: u64,
    left_out: &mut Vec<String>,
    progress: &mut impl FnMut(String),
) -> Result<Nodes, RunError> {
    let kind = config.network.unwrap_or(NetworkKind::Namespaces);
    let network = match Network::new(kind, config.nodes, seed).await {
        Err(error) if config.network.is_none() => {
            let why = with_causes(&error);
            progress(format!("{why}; a proxy on loopback is between the nodes instead"));
            left_out.extend(lacks(NetworkKind::Proxy, &config.scenario.steps));
            Network::new(NetworkKind::Proxy, config.nodes, seed).await?
        }
        network => {
            left_out.extend(lacks(kind, &config.scenario.steps));
            network?
        }
    };
    left_out.iter().for_each(|it| progress(format!("left out: {it}")));
    Ok(Nodes::prepare_in(network, &config.binary, &config.directory, config.nodes))
}

/// What of these steps cannot be done to real nodes that are joined so.
fn lacks(kind: NetworkKind, steps: &[Step]) -> Vec<String> {
    if kind == NetworkKind::Namespaces {
        return Vec::new();
    }
    let has = |wanted: fn(&Fault) -> bool| steps.iter().any(|step| wanted(&step.fault));
    let mut lacks = Vec::new();
    if has(|it| matches!(it, Fault::Lose { .. } | Fault::Duplicate { .. } | Fault::Reorder { .. }))
    {
        lacks.push(
            "packets of clients that are lost, doubled or out of order: the proxy passes on the \
             bytes of their connections, for which TCP would make good; those of nodes are"
                .to_owned(),
        );
    }
    if has(|it| matches!(it, Fault::Cut | Fault::CutIn | Fault::CutOut)) {
        lacks.push(
            "connecting in vain to a node that is cut off: clients get a connection to the proxy, \
             over which nothing comes"
                .to_owned(),
        );
    }
    lacks
}
