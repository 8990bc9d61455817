//! What was acknowledged is there, once, where it was said to be, in the order of sending.

use std::collections::BTreeMap;

use super::{
    Anomaly, Kind,
    log::{Log, in_words},
};
use crate::history::{Number, Op, OpId, Outcome, Partition, Process, What};

struct Sent {
    id: OpId,
    process: Process,
    partition: Partition,
}

pub(super) fn check(ops: &[Op], log: &Log) -> Vec<Anomaly> {
    let mut sent: BTreeMap<Number, Sent> = BTreeMap::new();
    let mut anomalies = Vec::new();
    let mut acknowledged: BTreeMap<(Partition, i64), (Number, OpId)> = BTreeMap::new();
    let mut last: BTreeMap<(Process, Partition), (i64, OpId)> = BTreeMap::new();
    for (id, op) in ops.iter().enumerate() {
        let What::Send { partition, number, outcome, .. } = &op.what else { continue };
        sent.insert(*number, Sent { id, process: op.process, partition: *partition });
        let Outcome::Acknowledged(offset) = outcome else { continue };
        if *offset < 0 {
            if !log.has(*partition, *number) {
                let says = format!("record {number} was acknowledged, and is not read");
                anomalies.push(Anomaly::at(Kind::LostWrite, *partition, says, &[id]));
            }
            continue;
        }
        let found = log.at(*partition, *offset);
        if found.map(|(number, _)| number) != Some(*number) {
            let says = format!(
                "record {number} was acknowledged at offset {offset}, where {} is read",
                in_words(found)
            );
            let proof: Vec<_> = [id].into_iter().chain(found.map(|(_, id)| id)).collect();
            anomalies.push(Anomaly::at(Kind::LostWrite, *partition, says, &proof));
        }
        if let Some((other, before)) = acknowledged.insert((*partition, *offset), (*number, id)) {
            let says = format!("records {other} and {number} were acknowledged at offset {offset}");
            anomalies.push(Anomaly::at(Kind::Disagreement, *partition, says, &[before, id]));
        }
        let last = last.entry((op.process, *partition)).or_insert((-1, id));
        if *offset <= last.0 {
            let says = format!("a later record was acknowledged at {offset}, after {}", last.0);
            anomalies.push(Anomaly::at(Kind::SendBackwards, *partition, says, &[last.1, id]));
        }
        *last = (*offset, id);
    }
    anomalies.extend(order(&sent, log));
    anomalies
}

/// Each record of the log was sent there, is there once, and after what was sent before it.
fn order(sent: &BTreeMap<Number, Sent>, log: &Log) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut places: BTreeMap<Number, i64> = BTreeMap::new();
    let mut last: BTreeMap<(Process, Partition), (Number, OpId)> = BTreeMap::new();
    for (partition, offset, number, read) in log.records() {
        let Some(wrote) = sent.get(&number).filter(|wrote| wrote.partition == partition) else {
            let says = format!("record {number} at offset {offset} was never sent there");
            anomalies.push(Anomaly::at(Kind::Invented, partition, says, &[read]));
            continue;
        };
        if let Some(other) = places.insert(number, offset) {
            let says = format!("record {number} is at offsets {other} and {offset}");
            anomalies.push(Anomaly::at(Kind::Duplicate, partition, says, &[wrote.id, read]));
            continue;
        }
        let last = last.entry((wrote.process, partition)).or_insert((number, wrote.id));
        if wrote.id < last.1 {
            let says = format!("record {number} at offset {offset} follows record {}", last.0);
            let proof = [wrote.id, last.1, read];
            anomalies.push(Anomaly::at(Kind::Reordered, partition, says, &proof));
        }
        *last = (number, wrote.id);
    }
    anomalies
}
