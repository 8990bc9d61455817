//! What the partitions hold in the end, as the last reading found it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Kind};
use crate::history::{Number, Op, OpId, Partition, Reading, What};

/// The records of all partitions, and the operations that read them.
#[derive(Debug, Default)]
pub(super) struct Log {
    partitions: BTreeMap<Partition, BTreeMap<i64, (Number, OpId)>>,
    numbers: BTreeSet<(Partition, Number)>,
    /// From which offset on which leader epoch, and the operation that read it.
    epochs: BTreeMap<Partition, BTreeMap<i64, (i32, OpId)>>,
}

impl Log {
    /// With what contradicts that each partition is read from its start, without a hole.
    pub(super) fn read(ops: &[Op]) -> (Self, Vec<Anomaly>) {
        let mut log = Self::default();
        let mut anomalies = Vec::new();
        let mut due: BTreeMap<Partition, i64> = BTreeMap::new();
        for (id, op) in ops.iter().enumerate() {
            let What::Poll { reading: Reading::AtTheEnd, partition, records, epochs, .. } =
                &op.what
            else {
                continue;
            };
            let begun = epochs.iter().map(|(offset, epoch)| (*offset, (*epoch, id)));
            log.epochs.entry(*partition).or_default().extend(begun);
            let held = log.partitions.entry(*partition).or_default();
            let due = due.entry(*partition).or_default();
            for (offset, number) in records {
                if *offset != *due {
                    let says = format!("offset {offset} is read where {due} is due");
                    anomalies.push(Anomaly::at(Kind::Gap, *partition, says, &[id]));
                }
                *due = offset + 1;
                held.insert(*offset, (*number, id));
                log.numbers.insert((*partition, *number));
            }
        }
        (log, anomalies)
    }

    /// The record at an offset, and the operation that read it.
    pub(super) fn at(&self, partition: Partition, offset: i64) -> Option<(Number, OpId)> {
        self.partitions.get(&partition)?.get(&offset).copied()
    }

    /// Whether the partition holds a record.
    pub(super) fn has(&self, partition: Partition, number: Number) -> bool {
        self.numbers.contains(&(partition, number))
    }

    /// The leader epoch of the record at an offset.
    pub(super) fn epoch(&self, partition: Partition, offset: i64) -> Option<i32> {
        self.partitions.get(&partition)?.get(&offset)?;
        let (_, (epoch, _)) = self.epochs.get(&partition)?.range(..=offset).next_back()?;
        Some(*epoch)
    }

    /// Where leader epochs begin: partition, offset, epoch, and the operation that read it.
    pub(super) fn epochs(&self) -> impl Iterator<Item = (Partition, i64, i32, OpId)> {
        self.epochs.iter().flat_map(|(partition, begun)| {
            begun.iter().map(|(offset, (epoch, id))| (*partition, *offset, *epoch, *id))
        })
    }

    /// All records in their order: partition, offset, number, and the operation that read it.
    pub(super) fn records(&self) -> impl Iterator<Item = (Partition, i64, Number, OpId)> {
        self.partitions.iter().flat_map(|(partition, held)| {
            held.iter().map(|(offset, (number, id))| (*partition, *offset, *number, *id))
        })
    }
}

/// What an offset holds, in words.
pub(super) fn in_words(found: Option<(Number, OpId)>) -> String {
    found.map_or_else(|| "nothing".to_owned(), |(number, _)| format!("record {number}"))
}
