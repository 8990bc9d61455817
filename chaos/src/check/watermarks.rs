//! What a consumer is told is committed only grows, as long as one broker tells it. A new leader
//! learns only after its election how much of what the former one has told is committed, and may
//! serve what it is sure of meanwhile.

use std::collections::BTreeMap;

use super::{Anomaly, Kind};
use crate::history::{HighWatermark, Op, OpId, Partition, Process, What};

pub(super) fn check(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut highest: BTreeMap<(Process, Partition), (HighWatermark, OpId)> = BTreeMap::new();
    for (id, op) in ops.iter().enumerate() {
        let What::Poll { partition, high_watermark: Some(told), .. } = &op.what else { continue };
        let highest = highest.entry((op.process, *partition)).or_insert((*told, id));
        if told.by == highest.0.by && told.offset < highest.0.offset {
            let (told, before) = (told.offset, highest.0.offset);
            let says = format!("high watermark {told} was told after {before}");
            let proof = [highest.1, id];
            anomalies.push(Anomaly::at(Kind::HighWatermarkBack, *partition, says, &proof));
        }
        *highest = (*told, id);
    }
    anomalies
}
