//! What came of a run: for machines as JSON, for people as a page.

mod html;
mod timeline;

use serde::{Deserialize, Serialize};

use crate::{
    check::Anomaly,
    history::{Op, Outcome, Summary, What},
    scenario::Scenario,
};

/// How long a slice of the timeline is.
const SLICE_MS: u64 = 250;

/// What came of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// What was to be done.
    pub scenario: Scenario,
    /// What decided the rest.
    pub seed: u64,
    /// How many nodes there were.
    pub nodes: u32,
    /// How many held each partition.
    pub replication_factor: i16,
    /// Whether each write was flushed before it was acknowledged.
    pub flush: bool,
    /// What repeats it.
    pub repeat: String,
    /// How long it took, from the first write to the end of the last reading.
    pub seconds: f64,
    /// What was done to whom.
    pub events: Vec<Event>,
    /// What could not be done here, and why.
    pub left_out: Vec<String>,
    /// Who led, whenever that changed.
    pub leaders: Vec<Leaders>,
    /// How writes fared over time.
    pub slices: Vec<Slice>,
    /// How much was done.
    pub summary: Summary,
    /// How long some partition took no writes, at the longest.
    pub longest_gap_ms: u64,
    /// How long after the end of the last fault all partitions had taken a write.
    pub written_after_ms: Option<u64>,
    /// How long after the end of the last fault all replicas were in sync.
    pub in_sync_after_ms: Option<u64>,
    /// Packets that reached a node or a client; behind a proxy, those between nodes.
    pub packets_passed: u64,
    /// Packets that were lost on purpose.
    pub packets_lost: u64,
    /// What does not hold.
    pub anomalies: Vec<Anomaly>,
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The step of the scenario, from 0.
    pub step: usize,
    /// What.
    pub what: String,
    /// To whom.
    pub nodes: Vec<u32>,
    /// When it began.
    pub from_ms: u64,
    /// When it had ended; none while it goes on.
    pub to_ms: Option<u64>,
}

/// Who led from a moment on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaders {
    /// From when.
    pub at_ms: u64,
    /// Of the quorum; none where no node knows one.
    pub controller: Option<u32>,
    /// Of each partition; -1 for none.
    pub partitions: Vec<i32>,
}

/// How the writes fared that were acknowledged in a quarter of a second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Slice {
    /// How many.
    pub acknowledged: u32,
    /// How long half of them took at most.
    pub p50_ms: f64,
    /// How long 99 of 100 took at most.
    pub p99_ms: f64,
}

impl Report {
    /// Whether all promises held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.anomalies.is_empty()
    }

    /// As a page that needs nothing else.
    #[must_use]
    pub fn to_html(&self, ops: &[Op]) -> String {
        html::page(self, ops)
    }
}

/// Cuts a history into slices.
#[must_use]
pub fn slices(ops: &[Op]) -> Vec<Slice> {
    let mut took: Vec<Vec<u64>> = Vec::new();
    for op in ops {
        let What::Send { outcome: Outcome::Acknowledged(_), due_us, .. } = op.what else {
            continue;
        };
        let Some(ended_us) = op.ended_us else { continue };
        let slice = usize::try_from(ended_us / 1_000 / SLICE_MS).unwrap_or(usize::MAX);
        if took.len() <= slice {
            took.resize(slice + 1, Vec::new());
        }
        took[slice].push(ended_us.saturating_sub(due_us));
    }
    took.into_iter().map(slice).collect()
}

fn slice(mut took_us: Vec<u64>) -> Slice {
    took_us.sort_unstable();
    let at = |percent: usize| {
        let index = (took_us.len() * percent).div_ceil(100).saturating_sub(1);
        took_us.get(index).map_or(0.0, |us| *us as f64 / 1_000.0)
    };
    Slice { acknowledged: took_us.len() as u32, p50_ms: at(50), p99_ms: at(99) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Reading;

    fn send(due_us: u64, ended_us: u64, outcome: Outcome) -> Op {
        let what = What::Send { partition: 0, number: 0, due_us, by: None, outcome };
        // What it waited to be handed over counts.
        Op { process: 1, began_us: ended_us - 1, ended_us: Some(ended_us), what }
    }

    #[test]
    fn a_slice_counts_what_was_acknowledged_in_it() {
        let other = What::Poll {
            reading: Reading::Along,
            partition: 0,
            records: Vec::new(),
            epochs: Vec::new(),
            high_watermark: None,
        };
        let ops = [
            send(0, 2_000, Outcome::Acknowledged(0)),
            send(1_000, 5_000, Outcome::Acknowledged(1)),
            send(1_000, 600_000, Outcome::Acknowledged(2)),
            send(1_000, 5_000, Outcome::GivenUp(String::new())),
            Op { process: 2, began_us: 0, ended_us: Some(1), what: other },
        ];
        let slices = slices(&ops);
        assert_eq!(
            slices,
            [
                Slice { acknowledged: 2, p50_ms: 2.0, p99_ms: 4.0 },
                Slice::default(),
                Slice { acknowledged: 1, p50_ms: 599.0, p99_ms: 599.0 },
            ]
        );
    }
}
