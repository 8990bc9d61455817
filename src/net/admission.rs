//! Which connections are let in, and when: `max.connections` and `max.connection.creation.rate`, of
//! the node and of each listener, and `max.connections.per.ip` with its overrides.
//!
//! State: how many connections there are, in total, by listener and by address, and when the next
//! one may come.
//!
//! Who is beyond an address's share is closed; all others wait in the system's backlog, where they
//! cost nothing. References: KIP-402, KIP-612.

use std::{net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::{Acceptance, Limits};
use crate::base::{HashMap, LogLimit};

#[derive(Debug, Default)]
pub(super) struct Admission {
    counts: Mutex<Counts>,
    /// A connection ended, or limits changed.
    freed: Notify,
    waits: LogLimit,
}

#[derive(Debug, Default)]
struct Counts {
    all: Accepted,
    by_listener: HashMap<Arc<str>, Accepted>,
    by_address: HashMap<IpAddr, usize>,
}

/// What has been let in, on one listener or on all of them.
#[derive(Debug, Default)]
struct Accepted {
    open: usize,
    /// When connections that kept exactly the rate would be due next.
    due: Option<Instant>,
}

/// Why a connection cannot come in yet.
enum Wait {
    ForEnd,
    Until(Instant),
}

/// How far connections may be ahead of their rate, so that a reconnecting crowd gets in at once.
const BURST: Duration = Duration::from_secs(1);

impl Accepted {
    fn wait(&self, limits: Acceptance, now: Instant) -> Option<Wait> {
        if self.open >= limits.max_connections {
            return Some(Wait::ForEnd);
        }
        // A bucket that holds a second's worth: the next may come up to that much before it is due.
        let interval = interval(limits.creation_rate)?;
        let at = (self.due? + interval).checked_sub(BURST)?;
        (at > now).then_some(Wait::Until(at))
    }

    fn enter(&mut self, limits: Acceptance, now: Instant) {
        self.open += 1;
        self.due = interval(limits.creation_rate)
            .map(|interval| self.due.map_or(now, |due| due.max(now)) + interval);
    }
}

/// The time between two connections at this rate; none where it is not limited.
fn interval(creation_rate: u32) -> Option<Duration> {
    // Kafka delays a connection by a second at most, so that a rate of 0 lets in one a second.
    (creation_rate < i32::MAX as u32).then(|| Duration::from_secs(1) / creation_rate.max(1))
}

/// A connection's place. Given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    listener: Arc<str>,
    address: IpAddr,
}

impl Admission {
    /// Waits until there is room for one more connection. Takes nothing: cancel safe.
    pub(super) async fn room(&self, listener: &str, limits: impl Fn() -> Arc<Limits>) {
        loop {
            let freed = self.freed.notified();
            let Some(wait) = self.wait(listener, &limits()) else { return };
            let (setting, until) = match wait {
                Wait::ForEnd => ("max.connections", None),
                Wait::Until(at) => ("max.connection.creation.rate", Some(at)),
            };
            if let Some(more) = self.waits.permits() {
                warn!(listener, more, "connections wait to be accepted: {setting} is reached");
            }
            let slept = async {
                match until {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = freed => {}
                () = slept => {}
            }
        }
    }

    fn wait(&self, listener: &str, limits: &Limits) -> Option<Wait> {
        let now = Instant::now();
        let counts = self.counts.lock();
        let own = counts.by_listener.get(listener);
        let own = own.and_then(|own| own.wait(limits.of_listener(listener), now));
        match (counts.all.wait(limits.acceptance, now), own) {
            (Some(Wait::Until(one)), Some(Wait::Until(other))) => Some(Wait::Until(one.max(other))),
            (Some(Wait::ForEnd), _) | (_, Some(Wait::ForEnd)) => Some(Wait::ForEnd),
            (one, other) => one.or(other),
        }
    }

    /// Has those who wait look at the limits again.
    pub(super) fn limits_changed(&self) {
        self.freed.notify_waiters();
    }

    /// Lets in a connection from `address`, unless that has its share already.
    pub(super) fn enter(
        self: &Arc<Self>,
        listener: &Arc<str>,
        address: IpAddr,
        limits: &Limits,
    ) -> Option<Place> {
        let address = address.to_canonical();
        let most = limits.max_connections_per_ip_overrides.get(&address);
        let most = most.copied().unwrap_or(limits.max_connections_per_ip);
        let now = Instant::now();
        let mut counts = self.counts.lock();
        counts.all.enter(limits.acceptance, now);
        let own = counts.by_listener.entry(Arc::clone(listener)).or_default();
        own.enter(limits.of_listener(listener), now);
        let here = counts.by_address.entry(address).or_default();
        *here += 1;
        let refused = *here > most;
        drop(counts);
        let place = Place { admission: Arc::clone(self), listener: Arc::clone(listener), address };
        (!refused).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock();
        counts.all.open -= 1;
        if let Some(own) = counts.by_listener.get_mut(&self.listener) {
            own.open -= 1;
        }
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                counts.by_address.remove(&self.address);
            }
        }
        drop(counts);
        self.admission.freed.notify_waiters();
    }
}
