//! Where the replicas of new partitions go.
//!
//! # Goals
//! Leaders, followers, and the followers of each leader are spread evenly over the brokers; the
//! replicas of a partition are spread over the racks; what is new is available at once.
//!
//! # Constraints
//! - Replicas of a partition are on different brokers; there are as many as was asked for.
//! - The first replica, which will lead, is on a broker that is not fenced.
//! - A fenced broker gets a replica only where the others do not suffice. One in controlled shutdown
//!   counts as fenced, and so does one that is drained, unless all are.
//!
//! # Algorithm
//! The brokers stand in a ring that takes one broker of each rack in turn; racks, and brokers
//! within them, are in random order, fenced ones stand behind. Partition `p` is led by the broker
//! `p` places on among those that are not fenced. Its followers are those that follow on the ring,
//! starting one place further for each round that the leaders have made, in four passes: not
//! fenced and in a rack without a replica, not fenced, fenced and in such a rack, the rest.
//!
//! # Example
//! Racks a: 1, 2 and b: 3, 4 make the ring 1 3 2 4. Six partitions of three replicas:
//!
//! ```text
//! 0: 1 3 2    2: 2 4 1    4: 1 4 2    (round 1 starts two places on: at 2, but a has one,
//! 1: 3 2 4    3: 4 1 3    5: 3 1 4     so 4 comes first)
//! ```
//!
//! Racks of unequal size keep the first goal only for as long as the second allows it.

use kafka_protocol::ResponseError;
use rand::{Rng, RngExt, seq::SliceRandom};

use crate::{
    base::NodeId,
    controller::{draft::Refusal, upkeep::is_drained},
    metadata::{Broker, MetadataImage},
};

/// Places partitions, one at a time.
#[derive(Debug)]
pub(super) struct Placer<'a> {
    /// Those that are not fenced come first.
    ring: Vec<&'a Broker>,
    active: usize,
    start: usize,
    replication_factor: usize,
    placed: usize,
}

impl<'a> Placer<'a> {
    /// A placer over the brokers of `image`.
    ///
    /// # Errors
    /// INVALID_REPLICATION_FACTOR where there are too few, or all are fenced.
    pub(super) fn new(
        image: &'a MetadataImage,
        replication_factor: i16,
        rng: &mut dyn Rng,
    ) -> Result<Self, Refusal> {
        let refuse = |reason: String| {
            Err(Refusal::new(
                ResponseError::InvalidReplicationFactor,
                format!("Unable to replicate the partition {replication_factor} time(s): {reason}"),
            ))
        };
        let brokers: Vec<&Broker> = image.brokers().map(|broker| &**broker).collect();
        let wanted = usize::try_from(replication_factor).unwrap_or(0);
        if wanted == 0 {
            return refuse("The replication factor must be positive.".to_owned());
        }
        if wanted > brokers.len() {
            return refuse(format!(
                "The target replication factor of {replication_factor} cannot be reached because \
                 only {} broker(s) are registered.",
                brokers.len()
            ));
        }
        let takes = |broker: &&Broker| broker.is_active() && !is_drained(image, broker.id);
        let some_take = brokers.iter().any(takes);
        let (active, fenced): (Vec<_>, Vec<_>) =
            brokers.into_iter().partition(|b| if some_take { takes(b) } else { b.is_active() });
        if active.is_empty() {
            return refuse(
                "All brokers are currently fenced or in controlled shutdown.".to_owned(),
            );
        }
        let mut ring = interleave(active, rng);
        let active = ring.len();
        ring.extend(interleave(fenced, rng));
        let start = rng.random_range(0..active);
        Ok(Self { ring, active, start, replication_factor: wanted, placed: 0 })
    }

    /// The replicas of the next partition, the leader first.
    pub(super) fn place(&mut self) -> Vec<NodeId> {
        let (round, lead) = (self.placed / self.active, self.placed % self.active);
        self.placed += 1;
        let lead = (self.start + lead) % self.active;
        let shift = 1 + round % (self.active - 1).max(1);
        let followers = |of: std::ops::Range<usize>| {
            let (from, len) = (of.start, of.len());
            (0..len)
                .map(move |step| from + (lead + shift + step) % len.max(1))
                .filter(move |at| *at != lead)
        };
        let mut chosen = vec![self.ring[lead]];
        for pool in [0..self.active, self.active..self.ring.len()] {
            for other_rack in [true, false] {
                for at in followers(pool.clone()) {
                    if chosen.len() == self.replication_factor {
                        break;
                    }
                    let broker = self.ring[at];
                    let rack_taken = || chosen.iter().any(|b| b.rack == broker.rack);
                    let taken = chosen.iter().any(|b| b.id == broker.id);
                    if !(taken || other_rack && rack_taken()) {
                        chosen.push(broker);
                    }
                }
            }
        }
        chosen.iter().map(|broker| broker.id).collect()
    }
}

/// One broker of each rack in turn, in random order.
fn interleave<'a>(mut brokers: Vec<&'a Broker>, rng: &mut dyn Rng) -> Vec<&'a Broker> {
    brokers.shuffle(rng);
    let mut racks: Vec<Vec<&'a Broker>> = Vec::new();
    for broker in brokers {
        match racks.iter_mut().find(|rack| rack[0].rack == broker.rack) {
            Some(rack) => rack.push(broker),
            None => racks.push(vec![broker]),
        }
    }
    let longest = racks.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|i| racks.iter().filter_map(move |rack| rack.get(i).copied())).collect()
}
