//! What is as large as the cluster, for whoever shows it.

use std::sync::atomic::Ordering::Relaxed;

use quinn::ConnectionStats;

use super::{
    endpoint::{Shared, Transport},
    error::ConnectError,
    hello::Lane,
    link::{Link, State},
};
use crate::base::NodeId;

/// Sums over connections.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    sent_bytes: u64,
    received_bytes: u64,
    lost_packets: u64,
}

impl Totals {
    pub(super) fn add(&mut self, stats: &ConnectionStats) {
        self.sent_bytes += stats.udp_tx.bytes;
        self.received_bytes += stats.udp_rx.bytes;
        self.lost_packets += stats.path.lost_packets;
    }
}

/// This node's connection to a peer.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// The peer.
    pub node_id: NodeId,
    /// What it is for.
    pub lane: Lane,
    /// Whether it is up.
    pub connected: bool,
    /// Why not, where an attempt failed.
    pub error: Option<ConnectError>,
    /// Round trip in seconds, while it is up.
    pub rtt_seconds: Option<f64>,
    /// How often it was made.
    pub connects: u64,
    /// Bytes of UDP sent.
    pub sent_bytes: u64,
    /// Bytes of UDP received.
    pub received_bytes: u64,
    /// Packets that were sent again.
    pub lost_packets: u64,
    /// Raft messages dropped for newer ones.
    pub dropped_full: u64,
    /// Raft messages that waited for too long.
    pub dropped_old: u64,
}

impl LinkStatus {
    fn of(link: &Link) -> Self {
        let mut totals = *link.past.lock();
        let (mut rtt_seconds, mut error) = (None, None);
        match link.state() {
            State::Up(session) => {
                let stats = session.connection.stats();
                totals.add(&stats);
                rtt_seconds = Some(stats.path.rtt.as_secs_f64());
            }
            State::Down(reason) => error = Some(reason),
            State::Idle | State::Connecting => {}
        }
        Self {
            node_id: link.node,
            lane: link.lane,
            connected: rtt_seconds.is_some(),
            error,
            rtt_seconds,
            connects: link.connects.load(Relaxed),
            sent_bytes: totals.sent_bytes,
            received_bytes: totals.received_bytes,
            lost_packets: totals.lost_packets,
            dropped_full: link.dropped_full.load(Relaxed),
            dropped_old: link.dropped_old.load(Relaxed),
        }
    }
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The metric.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Whether it only ever grows.
    pub is_counter: bool,
    /// Label and value.
    pub labels: [(&'static str, String); 2],
    /// The value.
    pub value: f64,
}

type Column = (&'static str, &'static str, bool, fn(&LinkStatus) -> f64);

/// Metric, help, whether it is a counter, and where it comes from.
const COLUMNS: &[Column] = &[
    ("ottla_cluster_connected", "Whether this node's connection to a peer is up.", false, |link| {
        f64::from(u8::from(link.connected))
    }),
    (
        "ottla_cluster_rtt_seconds",
        "Round trip to a peer, smoothed; 0 without a connection.",
        false,
        |link| link.rtt_seconds.unwrap_or(0.0),
    ),
    ("ottla_cluster_connects_total", "Connections that this node made to a peer.", true, |link| {
        link.connects as f64
    }),
    (
        "ottla_cluster_sent_bytes_total",
        "Bytes of UDP sent over connections that this node made.",
        true,
        |link| link.sent_bytes as f64,
    ),
    (
        "ottla_cluster_received_bytes_total",
        "Bytes of UDP received over connections that this node made.",
        true,
        |link| link.received_bytes as f64,
    ),
    ("ottla_cluster_lost_packets_total", "Packets to a peer that were sent again.", true, |link| {
        link.lost_packets as f64
    }),
    (
        "ottla_cluster_messages_dropped_full_total",
        "Raft messages to a peer that were dropped for newer ones.",
        true,
        |link| link.dropped_full as f64,
    ),
    (
        "ottla_cluster_messages_dropped_old_total",
        "Raft messages to a peer that waited for too long.",
        true,
        |link| link.dropped_old as f64,
    ),
];

impl Transport {
    /// This node's connections to peers, by node and lane.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        statuses(self.shared())
    }

    /// About how much processor time encryption, packets and timers have taken. What is done with
    /// what was carried is not in it.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.shared().meter.seconds()
    }

    /// The connections as metrics, for whoever renders them.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        let links = self.links();
        let column = |(name, help, is_counter, value): &Column| {
            let (name, help, is_counter, value) = (*name, *help, *is_counter, *value);
            links.iter().map(move |link| Figure {
                name,
                help,
                is_counter,
                labels: [("peer", link.node_id.to_string()), ("lane", link.lane.name().to_owned())],
                value: value(link),
            })
        };
        COLUMNS.iter().flat_map(column).collect()
    }
}

fn statuses(shared: &Shared) -> Vec<LinkStatus> {
    shared.links().iter().map(|link| LinkStatus::of(link)).collect()
}
