//! One leader takes records in an epoch; later records are of the same leader epoch or a later one.
//!
//! Nodes tell who leads in which epoch. The last reading tells under which epoch each record was written, and a producer who took it, if
//! it was sent but once: who acknowledges a repetition need not have written it.

use std::collections::BTreeMap;

use super::{Anomaly, Kind, log::Log};
use crate::history::{Op, OpId, Outcome, Partition, What};

pub(super) fn check(ops: &[Op], log: &Log) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut leaders: BTreeMap<(Partition, i32), (i32, OpId)> = BTreeMap::new();
    let mut newest: BTreeMap<Partition, (i64, i32)> = BTreeMap::new();
    for (id, op) in ops.iter().enumerate() {
        match &op.what {
            What::Send { partition, number, by: Some(by), outcome, .. } => {
                let Outcome::Acknowledged(offset) = outcome else { continue };
                // Of a record that is lost, nobody knows the epoch.
                let kept = log.at(*partition, *offset).filter(|(kept, _)| kept == number);
                let Some(epoch) = kept.and_then(|_| log.epoch(*partition, *offset)) else {
                    continue;
                };
                let (leader, before) = *leaders.entry((*partition, epoch)).or_insert((*by, id));
                if leader != *by {
                    let says = format!(
                        "brokers {leader} and {by} both took records in leader epoch {epoch}"
                    );
                    anomalies.push(Anomaly::at(Kind::TwoLeaders, *partition, says, &[before, id]));
                }
            }
            What::Told { leaders: told, .. } => {
                for (partition, leader, epoch) in told.iter().filter(|(_, leader, _)| *leader > 0) {
                    let (other, before) =
                        *leaders.entry((*partition, *epoch)).or_insert((*leader, id));
                    if other != *leader {
                        let says = format!(
                            "brokers {other} and {leader} are both said to lead in leader epoch \
                             {epoch}"
                        );
                        let proof = [before, id];
                        anomalies.push(Anomaly::at(Kind::TwoLeaders, *partition, says, &proof));
                    }
                }
            }
            What::Poll { partition, epochs, .. } => {
                for (offset, epoch) in epochs {
                    let kept = log.epoch(*partition, *offset);
                    if let Some(kept) = kept.filter(|kept| kept != epoch) {
                        let says = format!(
                            "offset {offset} was read as of leader epoch {epoch}, and is of {kept} \
                             in the end"
                        );
                        anomalies.push(Anomaly::at(Kind::Disagreement, *partition, says, &[id]));
                    }
                }
            }
            _ => {}
        }
    }
    for (partition, offset, epoch, id) in log.epochs() {
        let (before, highest) = *newest.entry(partition).or_insert((offset, epoch));
        if epoch < highest {
            let says = format!(
                "offset {offset} is of leader epoch {epoch}, and {before} before it of {highest}"
            );
            anomalies.push(Anomaly::at(Kind::EpochBack, partition, says, &[id]));
        }
        newest.insert(partition, (offset, epoch.max(highest)));
    }
    anomalies
}
