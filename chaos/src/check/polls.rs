//! What was read stays; and a consumer misses nothing and goes back never, within one poll and
//! from poll to poll, until its group gives it partitions anew.

use std::collections::BTreeMap;

use super::{
    Anomaly, Kind,
    log::{Log, in_words},
};
use crate::history::{Op, OpId, Partition, Process, Reading, What};

pub(super) fn check(ops: &[Op], log: &Log) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    // The offset that is due, and the operation that read up to it.
    let mut due: BTreeMap<(Process, Partition), (Option<i64>, Option<OpId>)> = BTreeMap::new();
    for (id, op) in ops.iter().enumerate() {
        if let What::Assigned { .. } = &op.what {
            // It goes on where the group has stored that it is; see the rules for groups.
            due.retain(|(process, _), _| *process != op.process);
        }
        let What::Poll { reading, partition, records, .. } = &op.what else { continue };
        let from_start = (*reading == Reading::Along).then_some(0);
        let due = due.entry((op.process, *partition)).or_insert((from_start, None));
        for (offset, number) in records {
            let expected = match reading {
                Reading::InGroup | Reading::Along => due.0.unwrap_or(*offset),
                // A hole there is told of where the log is read.
                Reading::AtTheEnd => *offset,
            };
            let kind = match offset.cmp(&expected) {
                std::cmp::Ordering::Less => Some(Kind::PollBackwards),
                std::cmp::Ordering::Greater => Some(Kind::PollSkip),
                std::cmp::Ordering::Equal => None,
            };
            if let Some(kind) = kind {
                let says = format!("offset {offset} was read where {expected} was due");
                let proof: Vec<_> = due.1.into_iter().chain([id]).collect();
                anomalies.push(Anomaly::at(kind, *partition, says, &proof));
            }
            *due = (Some(offset + 1), Some(id));
            let found = log.at(*partition, *offset);
            if found.map(|(number, _)| number) != Some(*number) {
                let kind = if found.is_some() { Kind::Disagreement } else { Kind::LostRead };
                let says = format!(
                    "record {number} was read at offset {offset}, where {} is in the end",
                    in_words(found)
                );
                let proof: Vec<_> = [id].into_iter().chain(found.map(|(_, id)| id)).collect();
                anomalies.push(Anomaly::at(kind, *partition, says, &proof));
            }
        }
    }
    anomalies
}
