//! What came of an empty node that was added, and what it is held to.

use std::fmt;

use serde::Serialize;

use crate::history::Summary;

/// How far from even a node may be.
const OFF_MAX: f64 = 0.1;
/// What the balancer thinks too little to be moved.
const OFF_MAX_BYTES: f64 = (8 << 20) as f64;
/// The producer's p99 while replicas move, as a multiple of what it was.
const SLOWER_MAX: f64 = 2.0;
/// What may arrive in a second beyond the rate: what bursts for a tenth of it, and a grant of as
/// much to each of three leaders.
const SLACK: f64 = 1.4;

/// What a node has.
#[derive(Debug, Clone, Serialize)]
pub struct Share {
    /// The node.
    pub node: u32,
    /// Its replicas.
    pub replicas: u64,
    /// What they take on disk.
    pub bytes: u64,
    /// How many partitions prefer it as their leader.
    pub preferred: u64,
    /// How many it leads.
    pub leads: u64,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, replicas, bytes, preferred, leads } = self;
        let mib = bytes >> 20;
        write!(
            f,
            "node {node} has {replicas} replicas of {mib} MiB, is preferred by {preferred} \
             partitions and leads {leads}"
        )
    }
}

/// How long writes took, from when they were due until they were acknowledged.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// How many there were.
    pub count: usize,
    /// Half took no longer.
    pub median_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// None took longer.
    pub worst_us: u64,
}

impl Latency {
    pub(super) fn of(mut took_us: Vec<u64>) -> Self {
        took_us.sort_unstable();
        let count = took_us.len();
        let at = |percent: usize| (count * percent).div_ceil(100).saturating_sub(1);
        let of = |percent| took_us.get(at(percent)).copied().unwrap_or_default();
        Self { count, median_us: of(50), p99_us: of(99), worst_us: of(100) }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, median_us, p99_us, worst_us } = self;
        write!(
            f,
            "{median_us} µs at the median, {p99_us} µs at p99, {worst_us} µs at worst, of {count}"
        )
    }
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What the nodes had before the new one came.
    pub before: Vec<Share>,
    /// What they had when nothing moved any more.
    pub after: Vec<Share>,
    /// How long that took, from the new node's start.
    pub took_ms: u64,
    /// What the new node may take.
    pub throttle_bytes_per_second: u64,
    /// What it took of what moved, as the throttle counts.
    pub throttled_bytes: u64,
    /// The most that arrived in any one second, without the load's part.
    pub most_bytes_per_second: u64,
    /// Of records before the new node came.
    pub usual: Latency,
    /// Of records until all was even.
    pub meanwhile: Latency,
    /// Of records after that.
    pub afterwards: Latency,
    /// What clients did.
    pub summary: Summary,
    /// How many batches were compared in the end.
    pub compared_batches: u64,
    /// What is not as it should be.
    pub missed: Vec<String>,
}

impl Report {
    pub(super) fn judge(&mut self) {
        self.missed.extend(off(&self.after));
        let (most, rate) = (self.most_bytes_per_second, self.throttle_bytes_per_second);
        if most as f64 > SLACK * rate as f64 {
            self.missed.push(format!("{most} bytes arrived in a second, where {rate} may"));
        }
        let (usual, meanwhile) = (self.usual.p99_us, self.meanwhile.p99_us);
        if meanwhile as f64 > SLOWER_MAX * usual as f64 {
            self.missed.push(format!("p99 of writes was {meanwhile} µs, and is {usual} µs else"));
        }
    }
}

/// What of it is further from even than it may be.
pub(super) fn off(shares: &[Share]) -> Vec<String> {
    type Figure = fn(&Share) -> u64;
    let figures: [(&str, Figure, f64); 4] = [
        ("replicas", |share| share.replicas, 1.0),
        ("bytes", |share| share.bytes, OFF_MAX_BYTES),
        ("preferred leaderships", |share| share.preferred, 1.0),
        ("leaderships", |share| share.leads, 1.0),
    ];
    let mut found = Vec::new();
    for (what, figure, divisible) in figures {
        let mean = shares.iter().map(figure).sum::<u64>() as f64 / shares.len() as f64;
        let allowed = (OFF_MAX * mean).max(divisible);
        for share in shares.iter().filter(|one| (figure(one) as f64 - mean).abs() > allowed) {
            let has = figure(share);
            found.push(format!("node {} has {has} {what} where {mean:.0} are even", share.node));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(node: u32, replicas: u64, bytes: u64, leads: u64) -> Share {
        Share { node, replicas, bytes: bytes << 20, preferred: leads, leads }
    }

    #[test]
    fn a_tenth_off_is_even_and_more_is_told() {
        let even = [share(1, 33, 330, 11), share(2, 30, 300, 10), share(3, 27, 270, 9)];
        assert_eq!(off(&even), Vec::<String>::new());
        let uneven = [share(1, 34, 330, 11), share(2, 30, 340, 8), share(3, 26, 230, 11)];
        let found = off(&uneven);
        assert_eq!(found.len(), 6, "{found:?}");
        assert_eq!(found[0], "node 1 has 34 replicas where 30 are even");
    }
}
