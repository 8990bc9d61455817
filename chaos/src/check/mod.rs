//! The rules that a history is held to, after those of Jepsen's workload for Kafka.
//!
//! Every checker takes the operations of a run and returns what contradicts its rule, with the
//! operations that prove it. They judge what clients saw, and know nothing of nodes or faults.

mod admin;
mod epochs;
mod groups;
mod log;
mod polls;
mod progress;
#[cfg(test)]
mod tests;
mod watermarks;
mod writes;

use std::fmt;

use serde::{Deserialize, Serialize};

use self::log::Log;
pub use self::progress::unread;
use crate::history::{Op, OpId, Outcome, Partition, What};

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Which rule.
    pub kind: Kind,
    /// Where, if it is about a partition.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partition: Option<Partition>,
    /// What happened.
    pub says: String,
    /// The operations that show it.
    pub proof: Vec<OpId>,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A record was acknowledged, and is not there.
    LostWrite,
    /// A record was read, and is not there any more.
    LostRead,
    /// A record is there twice.
    Duplicate,
    /// Two records were seen at one offset.
    Disagreement,
    /// A record is there before one that its producer sent to the partition earlier.
    Reordered,
    /// A record is there that nobody sent there.
    Invented,
    /// Offsets do not follow one another.
    Gap,
    /// A producer was told a lower offset for a later record.
    SendBackwards,
    /// A consumer was led back to what it had read.
    PollBackwards,
    /// A consumer was led past a record.
    PollSkip,
    /// A group's stored offset is behind a record that none of its members was given.
    GroupSkip,
    /// Two brokers took records for one partition in one leader epoch.
    TwoLeaders,
    /// A record lies behind one of a later leader epoch.
    EpochBack,
    /// No order of the changes of a topic explains what the controller answered.
    NotLinearizable,
    /// A node told long after a change what was before it.
    StaleMetadata,
    /// A node told an earlier leader epoch than before.
    MetadataBack,
    /// What brokers said is committed went back.
    HighWatermarkBack,
    /// A group's stored offset went back.
    CommitBack,
    /// A consumer that goes on is not given, in time, what was acknowledged.
    Unread,
    /// A client gave up, though no outage was as long as its patience.
    GivenUp,
    /// Replicas of a partition differ.
    Diverged,
    /// The cluster does not serve again once the faults are over.
    Unavailable,
    /// A node ended, or reported a fault of its own.
    NodeFailed,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        f.pad(name.as_str().ok_or(fmt::Error)?)
    }
}

impl Anomaly {
    fn at(kind: Kind, partition: Partition, says: impl Into<String>, proof: &[OpId]) -> Self {
        Self { kind, partition: Some(partition), says: says.into(), proof: proof.to_vec() }
    }

    /// One that no operation shows.
    #[must_use]
    pub fn of_cluster(kind: Kind, says: impl Into<String>) -> Self {
        Self { kind, partition: None, says: says.into(), proof: Vec::new() }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind)?;
        if let Some(partition) = self.partition {
            write!(f, "partition {partition}: ")?;
        }
        write!(f, "{}", self.says)?;
        if !self.proof.is_empty() {
            let ops: Vec<_> = self.proof.iter().map(ToString::to_string).collect();
            write!(f, " (operation {})", ops.join(", "))?;
        }
        Ok(())
    }
}

/// Holds a whole run, which ended with a reading of everything, to all rules.
#[must_use]
pub fn check(ops: &[Op]) -> Vec<Anomaly> {
    let (log, mut anomalies) = Log::read(ops);
    anomalies.extend(writes::check(ops, &log));
    anomalies.extend(polls::check(ops, &log));
    anomalies.extend(epochs::check(ops, &log));
    anomalies.extend(admin::check(ops));
    anomalies.extend(groups::check(ops));
    anomalies.extend(watermarks::check(ops));
    anomalies.extend(failures(ops));
    anomalies
}

fn failures(ops: &[Op]) -> impl Iterator<Item = Anomaly> {
    ops.iter().enumerate().filter_map(|(id, op)| match &op.what {
        What::Failed { reason } => {
            let says = format!("process {} failed: {reason}", op.process);
            Some(Anomaly { proof: vec![id], ..Anomaly::of_cluster(Kind::GivenUp, says) })
        }
        What::Send { partition, number, outcome, .. } => {
            let reason = match outcome {
                Outcome::Acknowledged(_) => return None,
                Outcome::GivenUp(reason) => reason,
                Outcome::Unknown => "nothing was heard of it",
            };
            let says = format!("record {number}: {reason}");
            Some(Anomaly::at(Kind::GivenUp, *partition, says, &[id]))
        }
        _ => None,
    })
}
