//! A group is given every record, and what it has stored stays stored: nothing lower is stored
//! later, or told later, or is where a member begins that is given the partition later.
//!
//! What is later: begun after the storing was acknowledged. A member of an earlier generation
//! cannot store any more, so the rule holds across members.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Kind};
use crate::history::{Op, OpId, Partition, Process, Reading, What};

/// What was stored, by when it was acknowledged.
#[derive(Default)]
struct Stored(Vec<(u64, i64, OpId)>);

impl Stored {
    /// The highest offset whose storing was acknowledged before that time, and the operation.
    fn before(&self, us: u64) -> Option<(i64, OpId)> {
        let earlier = self.0.iter().filter(|(ended_us, ..)| *ended_us < us);
        earlier.map(|(_, offset, id)| (*offset, *id)).max()
    }
}

/// What was stored before, where that is more.
fn went_back(
    stored: &BTreeMap<Partition, Stored>,
    partition: Partition,
    (offset, what): (i64, &str),
    (began_us, id): (u64, OpId),
) -> Option<Anomaly> {
    let (due, by) = stored.get(&partition)?.before(began_us).filter(|(due, _)| offset < *due)?;
    let says = format!("offset {due} was stored, and then {offset} {what}");
    Some(Anomaly::at(Kind::CommitBack, partition, says, &[by, id]))
}

pub(super) fn check(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut given: BTreeMap<Partition, BTreeSet<i64>> = BTreeMap::new();
    let mut stored: BTreeMap<Partition, Stored> = BTreeMap::new();
    // Who was given something when, and from which partitions of it nothing was read yet.
    let mut begins: BTreeMap<Process, (u64, BTreeSet<Partition>)> = BTreeMap::new();
    for (id, op) in ops.iter().enumerate() {
        match &op.what {
            What::Assigned { partitions } => {
                begins.insert(op.process, (op.began_us, partitions.iter().copied().collect()));
            }
            What::Poll { reading: Reading::InGroup, partition, records, .. } => {
                let first = records.first().map_or(i64::MAX, |(offset, _)| *offset);
                if let Some((since_us, fresh)) = begins.get_mut(&op.process)
                    && fresh.remove(partition)
                {
                    let read = (first, "was where a member began to read");
                    anomalies.extend(went_back(&stored, *partition, read, (*since_us, id)));
                }
                let given = given.entry(*partition).or_default();
                given.extend(records.iter().map(|(offset, _)| *offset));
            }
            What::Commit { partition, offset } => {
                let now = (*offset, "was stored");
                anomalies.extend(went_back(&stored, *partition, now, (op.began_us, id)));
                let ended_us = op.ended_us.unwrap_or(u64::MAX);
                stored.entry(*partition).or_default().0.push((ended_us, *offset, id));
            }
            What::Committed { partition, offset } => {
                let told = (*offset, "was told");
                anomalies.extend(went_back(&stored, *partition, told, (op.began_us, id)));
            }
            _ => {}
        }
    }
    for (partition, stored) in stored {
        let Some((offset, by)) = stored.before(u64::MAX) else { continue };
        let given = given.remove(&partition).unwrap_or_default();
        if let Some(missing) = (0..offset).find(|offset| !given.contains(offset)) {
            let says = format!("offset {offset} is stored, and {missing} was given to nobody");
            anomalies.push(Anomaly::at(Kind::GroupSkip, partition, says, &[by]));
        }
    }
    anomalies
}
