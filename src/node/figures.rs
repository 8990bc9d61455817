//! What the node shows at `/metrics` beside what its parts count: read when it is asked for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    api::Context,
    base::NodeId,
    cluster::{LagFigures, MovesSummary, NodeFigures},
    observability::{Registry, Render},
    replication::{Lag, Partition},
    transport::Transport,
};

/// Adds the figures of logs, partitions and the quorum; where this node is the controller, those of
/// the cluster, with moves of which `planned` are yet to begin.
pub(super) fn render(context: &Context, planned: &AtomicU64, render: &mut Render) {
    logs(context, render);
    quorum(context, render);
    if context.quorum.status().is_leader() {
        decided(context, planned, render);
    }
    let image = context.image();
    let topics = image.topic_count() as f64;
    render.gauge("ottla_topics", "Topics of the cluster.", &[], topics);
    let partitions = image.partition_count() as f64;
    render.gauge("ottla_partitions", "Partitions of the cluster.", &[], partitions);
}

/// The same in short, for whoever asks how the cluster is.
pub(super) fn node(context: &Context, registry: &Registry, planned: &AtomicU64) -> NodeFigures {
    let mut replicas = context.partitions.all();
    let held = replicas.len() + context.partitions.offline_count();
    replicas.retain(|replica| !replica.is_offline());
    let leaders = replicas.iter().filter(|replica| replica.leader_epoch().is_some());
    let below = replicas.iter().filter(|replica| replica.is_under_min_isr());
    let follower = |(node, lag): (NodeId, Lag)| {
        let Lag { records, bytes, time_ms } = lag;
        LagFigures { node: node.0, records, bytes, time_ms }
    };
    let transport = context.cluster.transport();
    let links = transport.map(Transport::links).unwrap_or_default();
    let cpu_seconds = transport.map_or(0.0, Transport::cpu_seconds);
    let is_controller = context.quorum.status().is_leader();
    NodeFigures {
        replicas: replicas.len() as u64,
        offline_replicas: (held - replicas.len()) as u64,
        leaders: leaders.count() as u64,
        bytes: replicas.iter().map(|replica| replica.log().size_bytes()).sum(),
        under_min_isr: below.count() as u64,
        isr_shrinks: registry.counter_total("ottla_isr_shrinks_total"),
        isr_expands: registry.counter_total("ottla_isr_expands_total"),
        sent_bytes: links.iter().map(|link| link.sent_bytes).sum(),
        received_bytes: links.iter().map(|link| link.received_bytes).sum(),
        cluster_cpu_ms: (cpu_seconds * 1e3) as u64,
        planned_moves: is_controller.then(|| planned.load(Ordering::Relaxed)),
        followers: behind(&replicas).into_iter().map(follower).collect(),
    }
}

/// Adds the figures of the connections to other nodes.
pub(super) fn transport(transport: &Transport, render: &mut Render) {
    render.counter(
        "ottla_cluster_cpu_seconds_total",
        "About how much processor time the connections between nodes took: encryption, packets, \
         timers. What is done with what they carry is not in it.",
        &[],
        transport.cpu_seconds(),
    );
    for figure in transport.figures() {
        let labels = figure.labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        if figure.is_counter {
            render.counter(figure.name, figure.help, &labels, figure.value);
        } else {
            render.gauge(figure.name, figure.help, &labels, figure.value);
        }
    }
}

fn logs(context: &Context, render: &mut Render) {
    let mut replicas = context.partitions.all();
    let held = replicas.len() + context.partitions.offline_count();
    replicas.retain(|replica| !replica.is_offline());
    let leaders = replicas.iter().filter(|replica| replica.leader_epoch().is_some()).count();
    let below = replicas.iter().filter(|replica| replica.is_under_min_isr()).count();
    render.gauge(
        "ottla_replicas",
        "Replicas of this node that are online.",
        &[],
        replicas.len() as f64,
    );
    render.gauge(
        "ottla_offline_replicas",
        "Replicas of this node whose log directory has failed.",
        &[],
        (held - replicas.len()) as f64,
    );
    render.gauge("ottla_leaders", "Partitions that this node leads.", &[], leaders as f64);
    render.gauge(
        "ottla_under_min_isr_partitions",
        "Partitions led here that take no acks=all write.",
        &[],
        below as f64,
    );
    followers(context, &replicas, render);
    for directory in context.partitions.directories() {
        let location = directory.location();
        let labels = [("directory", location.as_str())];
        let offline = f64::from(u8::from(directory.failure().is_some()));
        render.gauge("ottla_log_directory_offline", "Whether it has failed.", &labels, offline);
        let logs = directory.logs();
        render.gauge("ottla_logs", "Logs in the directory.", &labels, logs.len() as f64);
        let bytes: u64 = logs.iter().map(|log| log.size_bytes()).sum();
        render.gauge("ottla_log_size_bytes", "Size of all segments.", &labels, bytes as f64);
        let handles = directory.open_handles() as f64;
        render.gauge("ottla_log_open_files", "Files of logs that are open.", &labels, handles);
    }
}

/// How far the followers of what is led here are.
fn followers(context: &Context, replicas: &[Arc<Partition>], render: &mut Render) {
    let image = context.image();
    let is_short = |replica: &&Arc<Partition>| {
        let topic = image.topic(replica.id().topic);
        let partition = topic.and_then(|topic| topic.partition(replica.id().partition));
        replica.leader_epoch().is_some() && partition.is_some_and(|one| one.is_under_replicated())
    };
    render.gauge(
        "ottla_under_replicated_partitions",
        "Partitions led here of which a replica is out of sync, other than one that is being added.",
        &[],
        replicas.iter().filter(is_short).count() as f64,
    );
    for (node, lag) in behind(replicas) {
        let node = node.to_string();
        let labels = [("follower", &*node)];
        render.gauge(
            "ottla_replica_lag_records",
            "Records that a follower has not acknowledged, of all partitions led here.",
            &labels,
            lag.records as f64,
        );
        render.gauge(
            "ottla_replica_lag_bytes",
            "About how many bytes those records have.",
            &labels,
            lag.bytes as f64,
        );
        render.gauge(
            "ottla_replica_lag_seconds",
            "The longest time for which a follower has not had everything.",
            &labels,
            lag.time_ms as f64 / 1e3,
        );
    }
}

/// How far each follower of what is led here is, over all partitions.
fn behind(replicas: &[Arc<Partition>]) -> BTreeMap<NodeId, Lag> {
    let mut lags: BTreeMap<NodeId, Lag> = BTreeMap::new();
    for (node, lag) in replicas.iter().flat_map(|replica| replica.lags()) {
        let total = lags.entry(node).or_default();
        total.records += lag.records;
        total.bytes += lag.bytes;
        total.time_ms = total.time_ms.max(lag.time_ms);
    }
    lags
}

/// What only the controller shows: partitions without a leader, what is on the move, and what the
/// balancer would move if more could be.
fn decided(context: &Context, planned: &AtomicU64, render: &mut Render) {
    let image = context.image();
    let moves = MovesSummary::of(&image);
    let leaderless = image
        .topics()
        .flat_map(|topic| topic.partitions.values())
        .filter(|partition| partition.leader.is_none())
        .count();
    render.gauge(
        "ottla_leaderless_partitions",
        "Partitions that nobody leads, shown by the controller.",
        &[],
        leaderless as f64,
    );
    let mut show = |state, count| {
        render.gauge(
            "ottla_moves",
            "Partitions that move to other brokers, shown by the controller: running, waiting for \
             a broker or directory that is away, or planned by the balancer and to begin.",
            &[("state", state)],
            count,
        );
    };
    show("running", moves.running as f64);
    show("waiting", moves.waiting as f64);
    show("planned", planned.load(Ordering::Relaxed) as f64);
    render.gauge(
        "ottla_balancer_moves",
        "Those of the running and waiting moves that the balancer began.",
        &[],
        moves.by_balancer as f64,
    );
}

fn quorum(context: &Context, render: &mut Render) {
    let status = context.quorum.status();
    let leads = f64::from(u8::from(status.is_leader()));
    render.gauge("ottla_raft_is_leader", "Whether this node is the controller.", &[], leads);
    render.gauge("ottla_raft_term", "Term of the quorum.", &[], status.raft.term as f64);
    render.gauge(
        "ottla_raft_commit_index",
        "Last committed entry.",
        &[],
        status.raft.commit as f64,
    );
    let applied = context.quorum.applied_index() as f64;
    render.gauge("ottla_raft_applied_index", "Last entry in the image.", &[], applied);
    let published = context.image().applied_index() as f64;
    render.gauge("ottla_published_index", "Last entry that clients are shown.", &[], published);
    let start = status.log_start_index as f64;
    render.gauge("ottla_raft_log_start_index", "First entry that is kept.", &[], start);
}
