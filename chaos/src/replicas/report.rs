//! What came of a run.

use std::fmt;

use serde::Serialize;

use super::Fault;
use crate::{figures::Figures, history::Summary};

/// What one fault led to.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Which, from 1.
    pub round: u32,
    /// What was done.
    pub fault: Fault,
    /// To whom.
    pub node: u32,
    /// For how long it was paused. A client waits as long for what a paused node took from it, or
    /// until its request times out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<u64>,
    /// Whether all replicas were in sync before, so that the figures count.
    pub counts: bool,
    /// For each partition that the node led, when a write that was sent after the fault was
    /// acknowledged.
    pub gaps_ms: Vec<u64>,
    /// The longest time without an acknowledgement for any partition, until all nodes served again.
    pub longest_ms: u64,
    /// Whether all replicas were in sync after it.
    pub in_sync: bool,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, fault, node, gaps_ms, longest_ms, .. } = self;
        write!(f, "round {round}: {fault:?} node {node}")?;
        if let Some(paused_ms) = self.paused_ms {
            write!(f, " for {paused_ms} ms")?;
        }
        write!(f, ": ")?;
        match gaps_ms.iter().max() {
            Some(worst) => write!(
                f,
                "{} partitions led, written again after {worst} ms at most",
                gaps_ms.len()
            )?,
            None => write!(f, "no partition led")?,
        }
        write!(f, "; longest gap {longest_ms} ms")?;
        if !self.counts {
            write!(f, " (not in sync before)")?;
        }
        Ok(())
    }
}

/// What came of a run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Each fault.
    pub rounds: Vec<Round>,
    /// How long no write is acknowledged for some partition where nothing is done.
    pub usual_gap_ms: u64,
    /// Until a partition is written again whose leader was killed.
    pub kill: Option<Figures>,
    /// The same where it was paused.
    pub pause: Option<Figures>,
    /// The longest gap of any partition around each planned stop and start.
    pub stop: Option<Figures>,
    /// How much was checked.
    pub summary: Summary,
    /// How many batches were compared over all replicas.
    pub compared_batches: u64,
    /// What does not hold.
    pub broken: Vec<String>,
}

impl Report {
    /// Makes the figures of the rounds.
    pub(super) fn sum_up(&mut self) {
        let of = |fault| self.rounds.iter().filter(move |r| r.fault == fault && r.counts);
        let gaps = |fault| Figures::of(of(fault).flat_map(|r| r.gaps_ms.clone()).collect());
        let (kill, pause) = (gaps(Fault::Kill), gaps(Fault::Pause));
        let stop = Figures::of(of(Fault::Stop).map(|round| round.longest_ms).collect());
        (self.kill, self.pause, self.stop) = (kill, pause, stop);
    }
}
