//! What the node shows at `/metrics` beside what its parts count: read when it is asked for.

use crate::{api::Context, observability::Render, transport::Transport};

/// Adds the figures of logs, partitions and the quorum.
pub(super) fn render(context: &Context, render: &mut Render) {
    logs(context, render);
    quorum(context, render);
    let image = context.image();
    let topics = image.topic_count() as f64;
    render.gauge("ottla_topics", "Topics of the cluster.", &[], topics);
    let partitions = image.partition_count() as f64;
    render.gauge("ottla_partitions", "Partitions of the cluster.", &[], partitions);
}

/// Adds the figures of the connections to other nodes.
pub(super) fn transport(transport: &Transport, render: &mut Render) {
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
