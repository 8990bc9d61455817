//! What the links of a network do to packets, whatever carries these.
//!
//! Each packet that comes in is handed to an [`Inlet`], which has it leave by its [`Exit`] at once,
//! later, twice or never, as its link's conditions and the seed say. What waits is bounded.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::Conditions;

/// As many packets wait in an inlet that delays them, and some more until they are taken in; further
/// ones are lost, as in a router's queue.
const QUEUE: usize = 10_000;
const TAKEN_IN: usize = 1_000;

/// A sender and a receiver.
pub(super) type Link = (u32, u32);

/// What each link does now, and what became of packets.
#[derive(Default)]
pub(super) struct Links {
    conditions: watch::Sender<BTreeMap<Link, Conditions>>,
    passed: AtomicU64,
    lost: AtomicU64,
}

impl Links {
    /// What links do from now on; all others pass everything.
    pub(super) fn set(&self, conditions: BTreeMap<Link, Conditions>) {
        self.conditions.send_replace(conditions);
    }

    pub(super) fn of(&self, link: Link) -> Conditions {
        self.conditions.borrow().get(&link).copied().unwrap_or_default()
    }

    /// Waits until none of `links` is cut.
    pub(super) async fn until_open(&self, links: &[Link]) {
        let is_cut =
            |all: &BTreeMap<Link, Conditions>, link| all.get(link).is_some_and(|it| it.cut);
        let is_open = |all: &BTreeMap<_, _>| !links.iter().any(|link| is_cut(all, link));
        // It cannot end in between: this is its sender.
        drop(self.conditions.subscribe().wait_for(is_open).await);
    }

    /// How many packets were passed on, and how many lost.
    pub(super) fn packets(&self) -> (u64, u64) {
        (self.passed.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}

/// Where packets leave to.
pub(super) trait Exit: Clone + Send + Sync + 'static {
    /// Fails where the receiver has no room, or is not there: the packet is lost.
    fn send(&self, packet: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
}

/// Where packets come in, whose order is kept unless they are delayed.
pub(super) struct Inlet<E> {
    links: Arc<Links>,
    rng: SmallRng,
    late: mpsc::Sender<(Instant, Late<E>)>,
}

struct Late<E> {
    packet: Vec<u8>,
    to: E,
}

impl<E: Exit> Inlet<E> {
    /// One of `tasks` hands over what is late.
    pub(super) fn new(links: &Arc<Links>, rng: &mut SmallRng, tasks: &mut JoinSet<()>) -> Self {
        let (late, queue) = mpsc::channel(TAKEN_IN);
        tasks.spawn(deliver_late(queue));
        Self { links: Arc::clone(links), rng: SmallRng::seed_from_u64(rng.random()), late }
    }

    /// A packet of `link` came in, for `to`.
    pub(super) async fn pass(&mut self, link: Link, packet: &[u8], to: &E) {
        let mut passed = 0;
        for takes in self.links.of(link).copies(&mut self.rng) {
            if takes.is_zero() {
                passed += u64::from(to.send(packet).await.is_ok());
            } else {
                let late = Late { packet: packet.to_vec(), to: to.clone() };
                passed += u64::from(self.late.try_send((Instant::now() + takes, late)).is_ok());
            }
        }
        self.links.passed.fetch_add(passed, Ordering::Relaxed);
        self.links.lost.fetch_add(u64::from(passed == 0), Ordering::Relaxed);
    }
}

/// Hands packets over when their time has come, and those of one time in their order.
async fn deliver_late<E: Exit>(mut queue: mpsc::Receiver<(Instant, Late<E>)>) {
    let mut waiting = BinaryHeap::new();
    let mut packets = BTreeMap::new();
    let mut number: u64 = 0;
    loop {
        let next = waiting.peek().map(|Reverse((at, _))| *at);
        tokio::select! {
            taken = queue.recv(), if packets.len() < QUEUE => {
                let Some((at, late)) = taken else { return };
                number += 1;
                waiting.push(Reverse((at, number)));
                packets.insert(number, late);
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let due = waiting.pop().and_then(|Reverse((_, number))| packets.remove(&number));
                if let Some(Late { packet, to }) = due {
                    let _ = to.send(&packet).await;
                }
            }
        }
    }
}
