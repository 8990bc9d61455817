//! Replication throttles (KIP-73): how fast replicas catch up that are out of sync.
//!
//! A replica in sync is never slowed. One that is not is held to up to two rates: its leader's node
//! sends no faster than the one, and its own node has no more sent to it than the other. Which
//! these are says a [`Budget`] each: the operator's for replicas that the topic's
//! `*.replication.throttled.replicas` name, and else the balancer's, for replicas that the
//! balancer is adding.
//!
//! The leader's rate is a [`Limiter`] over all of its streams. The follower's is one at the
//! follower: a leader that has something throttled for it asks for credit, per stream and budget,
//! and the follower grants it in small amounts as its rate allows. So the sum over all leaders is
//! within the rate, nobody has to know who else sends, and a stream is never held up: what has to
//! wait steps aside, and the others go on.
//!
//! Invariants: see `limiter`; nothing polls: who waits is woken by time, credit, or another rate.

mod limiter;

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use self::limiter::Limiter;
use super::Metrics;
use crate::config::BrokerConfig;

/// The least and the most that a follower grants at a time.
const GRANT_MIN_BYTES: u64 = 64 << 10;
const GRANT_MAX_BYTES: u64 = 1 << 20;
/// A grant is what the rate allows in a tenth of a second, within these bounds.
const GRANTS_PER_SECOND: u64 = 10;

/// Whose rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Budget {
    /// What the operator set (`leader.` and `follower.replication.throttled.rate`).
    Operator,
    /// What the balancer may use (`ottla.balancer.throttle.bytes.per.second`).
    Balancer,
}

/// Which end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Leader,
    Follower,
}

/// What a replica has to pass before it is sent records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Gates {
    /// The rate of the leader's node.
    pub(super) leader: Option<Budget>,
    /// The credit of the follower's node.
    pub(super) follower: Option<Budget>,
}

/// Bytes a second; none for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rates {
    pub(super) leader: Option<u64>,
    pub(super) follower: Option<u64>,
    pub(super) balancer: Option<u64>,
}

/// The throttles of a node.
#[derive(Debug)]
pub(super) struct Throttles {
    origin: Instant,
    /// By [`slot`].
    limits: Mutex<[Limit; 4]>,
    changed: watch::Sender<()>,
}

struct Limit {
    limiter: Limiter,
    rate: Gauge,
    bytes: Counter,
}

impl std::fmt::Debug for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.limiter.fmt(f)
    }
}

impl Gates {
    pub(super) const OPEN: Self = Self { leader: None, follower: None };
}

impl Rates {
    pub(super) fn of(config: &BrokerConfig) -> Self {
        // Kafka's default stands for no limit.
        let rate = |bytes: i64| u64::try_from(bytes).ok().filter(|rate| *rate != i64::MAX as u64);
        let balancer = u64::try_from(config.ottla_balancer_throttle_bytes_per_second).ok();
        Self {
            leader: rate(config.leader_replication_throttled_rate),
            follower: rate(config.follower_replication_throttled_rate),
            balancer: balancer.filter(|rate| *rate > 0),
        }
    }
}

const fn slot(side: Side, budget: Budget) -> usize {
    match (side, budget) {
        (Side::Leader, Budget::Operator) => 0,
        (Side::Leader, Budget::Balancer) => 1,
        (Side::Follower, Budget::Operator) => 2,
        (Side::Follower, Budget::Balancer) => 3,
    }
}

impl Throttles {
    pub(super) fn new(metrics: &Metrics) -> Arc<Self> {
        let limits = metrics.throttles.clone().map(|(rate, bytes)| {
            rate.set(f64::INFINITY);
            Limit { limiter: Limiter::unlimited(), rate, bytes }
        });
        let (origin, limits) = (Instant::now(), Mutex::new(limits));
        Arc::new(Self { origin, limits, changed: watch::Sender::default() })
    }

    /// Puts these rates in force.
    pub(super) fn set(&self, rates: Rates) {
        let now_us = self.now_us();
        let rates = [rates.leader, rates.balancer, rates.follower, rates.balancer];
        let mut is_news = false;
        for (limit, rate) in self.limits.lock().iter_mut().zip(rates) {
            if limit.limiter.rate() != rate {
                limit.limiter.set_rate(rate, now_us);
                limit.rate.set(rate.map_or(f64::INFINITY, |rate| rate as f64));
                is_news = true;
            }
        }
        if is_news {
            self.changed.send_replace(());
        }
    }

    /// Hears of other rates.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// When so much as a byte may be sent: none in the past or now. `Err` where not at this rate.
    pub(super) fn ready(&self, side: Side, budget: Budget) -> Result<Option<Instant>, Stopped> {
        let now_us = self.now_us();
        let ready_us = self.limits.lock()[slot(side, budget)].limiter.ready_us(now_us);
        let ready_us = ready_us.ok_or(Stopped)?;
        let at = || self.origin.checked_add(Duration::from_micros(ready_us)).ok_or(Stopped);
        (ready_us > now_us).then(at).transpose()
    }

    /// Takes `bytes`, if anything may be sent now.
    pub(super) fn admit(&self, side: Side, budget: Budget, bytes: u64) -> bool {
        let now_us = self.now_us();
        let mut limits = self.limits.lock();
        let limit = &mut limits[slot(side, budget)];
        let is_admitted = limit.limiter.admit(bytes, now_us);
        if is_admitted && side == Side::Follower {
            limit.bytes.increment(bytes);
        }
        is_admitted
    }

    /// It was `actual` bytes that a leader sent where `admitted` were.
    pub(super) fn sent(&self, budget: Budget, admitted: u64, actual: u64) {
        let mut limits = self.limits.lock();
        let limit = &mut limits[slot(Side::Leader, budget)];
        limit.limiter.correct(admitted, actual);
        limit.bytes.increment(actual);
    }

    /// What this node, as a follower, lets a leader send at a time.
    pub(super) fn grant_bytes(&self, budget: Budget) -> u64 {
        let rate = self.limits.lock()[slot(Side::Follower, budget)].limiter.rate();
        rate.map_or(GRANT_MAX_BYTES, |rate| {
            (rate / GRANTS_PER_SECOND).clamp(GRANT_MIN_BYTES, GRANT_MAX_BYTES)
        })
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// The rate is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped;

/// Waits until `at`, or for as long as it takes where there is none.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
