//! Which connections are let in: `max.connections`, `max.connections.per.ip` and its overrides.
//!
//! State: how many connections there are, in total and by address.

use std::{net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Limits;
use crate::base::HashMap;

#[derive(Debug, Default)]
pub(super) struct Admission {
    counts: Mutex<Counts>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's place. Given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    /// Waits until there is room for one more connection. Others wait in the system's backlog.
    pub(super) async fn room(&self, limits: impl Fn() -> usize) {
        loop {
            let freed = self.freed.notified();
            if self.counts.lock().total < limits() {
                return;
            }
            freed.await;
        }
    }

    /// Lets in a connection from `address`, unless that has its share already.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<Place> {
        let address = address.to_canonical();
        let most = limits.max_connections_per_ip_overrides.get(&address);
        let most = most.copied().unwrap_or(limits.max_connections_per_ip);
        let mut counts = self.counts.lock();
        let here = counts.by_address.entry(address).or_default();
        if *here >= most {
            if *here == 0 {
                counts.by_address.remove(&address);
            }
            return None;
        }
        *here += 1;
        counts.total += 1;
        drop(counts);
        Some(Place { admission: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock();
        counts.total -= 1;
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
