//! What was acknowledged is read in the end by every consumer that goes on: Jepsen's "unseen" must
//! go to none. Apart from the other rules, as it holds only of runs that wait for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Kind};
use crate::history::{Op, OpId, Outcome, Partition, Process, Reading, What};

/// Where consumers that read along, and the group, are behind what is acknowledged.
#[must_use]
pub fn unread(ops: &[Op]) -> Vec<Anomaly> {
    let mut ends: BTreeMap<Partition, (i64, OpId)> = BTreeMap::new();
    let mut along: BTreeMap<(Process, Partition), i64> = BTreeMap::new();
    let mut readers: BTreeSet<Process> = BTreeSet::new();
    let mut stored: BTreeMap<Partition, i64> = BTreeMap::new();
    let mut has_group = false;
    for (id, op) in ops.iter().enumerate() {
        match &op.what {
            What::Send { partition, outcome: Outcome::Acknowledged(offset), .. } => {
                let end = ends.entry(*partition).or_insert((0, id));
                *end = (*end).max((offset + 1, id));
            }
            What::Poll { reading: Reading::Along, partition, records, .. } => {
                readers.insert(op.process);
                let due = along.entry((op.process, *partition)).or_default();
                *due = records.last().map_or(*due, |(offset, _)| offset + 1);
            }
            What::Assigned { .. } => has_group = true,
            What::Commit { partition, offset } => {
                has_group = true;
                let stored = stored.entry(*partition).or_default();
                *stored = (*stored).max(*offset);
            }
            _ => {}
        }
    }
    let mut anomalies = Vec::new();
    for (partition, (end, id)) in ends {
        let mut behind = |who: &str, at: i64| {
            if at < end {
                let says = format!("{who} is at offset {at}, and {end} is acknowledged");
                anomalies.push(Anomaly::at(Kind::Unread, partition, says, &[id]));
            }
        };
        for reader in &readers {
            let at = along.get(&(*reader, partition)).copied().unwrap_or_default();
            behind(&format!("consumer {reader}"), at);
        }
        if has_group {
            behind("the group", stored.get(&partition).copied().unwrap_or_default());
        }
    }
    anomalies
}
