//! What is done to a node: the faults that scenarios are made of.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// SIGKILL; started again afterwards.
    Kill,
    /// SIGTERM, waiting for its end; started again afterwards.
    Stop,
    /// SIGSTOP; SIGCONT afterwards.
    Pause,
    /// No packet gets from it or to it, clients' neither.
    Cut,
    /// No packet gets to it.
    CutIn,
    /// No packet gets from it.
    CutOut,
    /// No packet gets from it to another node or back; clients reach it.
    CutFromNodes,
    /// Its packets take longer, in each direction.
    Slow {
        /// By how much.
        delay_ms: u64,
        /// Up to how much more, by lot.
        #[serde(default)]
        jitter_ms: u64,
    },
    /// A share of its packets is lost, in each direction.
    Lose {
        /// Which share.
        percent: f64,
    },
    /// A share of its packets arrives twice.
    Duplicate {
        /// Which share.
        percent: f64,
    },
    /// A share of its packets is overtaken by later ones.
    Reorder {
        /// Which share.
        percent: f64,
    },
    /// SIGKILL, and what it had not synced is lost; started again afterwards.
    PowerCut {
        /// Whether some of it survives, by lot.
        #[serde(default)]
        torn: bool,
    },
    /// Nothing more fits on its disk; restarted afterwards.
    DiskFull {
        /// Which of its disks.
        disk: Which,
    },
    /// Its disk answers with errors; restarted afterwards.
    DiskFails {
        /// Which of its disks.
        disk: Which,
        /// What fails.
        on: Failing,
    },
    /// Its disk takes longer to sync, and to read what is not cached.
    SlowDisk {
        /// Which of its disks.
        disk: Which,
        /// By how much.
        delay_ms: u64,
    },
    /// SIGKILL, and a bit of its files flips; started again afterwards.
    Corrupt {
        /// Of which files.
        files: Files,
    },
    /// SIGKILL, and its disks are emptied; it joins anew afterwards. Left out while a replica is out
    /// of sync or another node is away, since what it held might be the last of its kind.
    Wipe,
    /// Its wall clock jumps, and jumps back afterwards.
    Skew {
        /// Ahead by so much; behind where negative.
        by_ms: i64,
    },
    /// Its certificate ends three seconds later; it is given a new one afterwards, and not restarted.
    ExpireCertificate,
    /// It is no voter any more, and becomes one again afterwards.
    RemoveVoter,
    /// It is emptied of replicas, no voter any more, and stopped; it comes back afterwards, and may
    /// have replicas again. Left out where no other node could take what it has.
    Decommission,
    /// SIGTERM; started again afterwards as the other of two versions, where there is one.
    ChangeVersion,
}

/// Which disks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// The one that holds its metadata, and some of its logs.
    First,
    /// The one that holds the rest of its logs.
    Second,
    /// All of them.
    All,
}

/// What a disk that fails does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failing {
    /// It cannot be read.
    Reads,
    /// It cannot be written, nor synced.
    Writes,
}

/// Which files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Files {
    /// Segments of partitions.
    Logs,
    /// The store of metadata.
    Metadata,
}

/// What a fault is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Processes: a node is away, and comes back as the fault ends.
    Process,
    /// Links between nodes, and to their clients.
    Network,
    /// A disk while its node runs.
    Disk,
    /// What a node goes by: the time, its certificate, who votes.
    Cluster,
}

impl Fault {
    /// What it is one of.
    #[must_use]
    pub const fn layer(self) -> Layer {
        match self {
            Self::Kill
            | Self::Stop
            | Self::Pause
            | Self::PowerCut { .. }
            | Self::Corrupt { .. }
            | Self::Wipe
            | Self::Decommission
            | Self::ChangeVersion => Layer::Process,
            Self::Skew { .. } | Self::ExpireCertificate | Self::RemoveVoter => Layer::Cluster,
            Self::DiskFull { .. } | Self::DiskFails { .. } | Self::SlowDisk { .. } => Layer::Disk,
            _ => Layer::Network,
        }
    }

    /// Whether it is one of the network.
    #[must_use]
    pub const fn is_of_network(self) -> bool {
        matches!(self.layer(), Layer::Network)
    }

    /// Whether it is one of a disk while its node runs.
    #[must_use]
    pub const fn is_of_disk(self) -> bool {
        matches!(self.layer(), Layer::Disk)
    }

    /// Whether it changes what a node goes by: the time, its certificate, who votes.
    #[must_use]
    pub const fn is_of_cluster(self) -> bool {
        matches!(self.layer(), Layer::Cluster)
    }

    /// Whether it takes from a node what it had made last. More than one at a time would break more
    /// than a cluster promises to bear.
    #[must_use]
    pub const fn destroys(self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Wipe | Self::Decommission)
    }

    /// Whether a process must be there to be hit, and is hit by nothing else meanwhile.
    #[must_use]
    pub const fn needs_process(self) -> bool {
        !matches!(self.layer(), Layer::Network)
            && !matches!(self, Self::Skew { .. } | Self::ExpireCertificate | Self::SlowDisk { .. })
    }

    /// Whether the process is killed for it.
    #[must_use]
    pub const fn kills(self) -> bool {
        matches!(self, Self::Kill | Self::PowerCut { .. } | Self::Corrupt { .. } | Self::Wipe)
    }

    /// Whether the nodes need disks of the suite's own for it.
    #[must_use]
    pub const fn needs_disks(self) -> bool {
        matches!(self.layer(), Layer::Disk)
            || matches!(self, Self::PowerCut { .. } | Self::Corrupt { .. } | Self::Wipe)
    }

    /// What it is called, whatever its figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::CutIn => "cut-in",
            Self::CutOut => "cut-out",
            Self::CutFromNodes => "cut-from-nodes",
            Self::Slow { .. } => "slow",
            Self::Lose { .. } => "lose",
            Self::Duplicate { .. } => "duplicate",
            Self::Reorder { .. } => "reorder",
            Self::PowerCut { .. } => "power-cut",
            Self::DiskFull { .. } => "disk-full",
            Self::DiskFails { .. } => "disk-fails",
            Self::SlowDisk { .. } => "slow-disk",
            Self::Corrupt { .. } => "corrupt",
            Self::Wipe => "wipe",
            Self::Skew { .. } => "skew",
            Self::ExpireCertificate => "expire-certificate",
            Self::RemoveVoter => "remove-voter",
            Self::Decommission => "decommission",
            Self::ChangeVersion => "change-version",
        }
    }

    /// Each of them, as they are drawn by lot.
    pub const ALL: [Self; 21] = [
        Self::Kill,
        Self::Stop,
        Self::Pause,
        Self::Cut,
        Self::CutIn,
        Self::CutOut,
        Self::CutFromNodes,
        Self::Slow { delay_ms: 50, jitter_ms: 50 },
        Self::Lose { percent: 10.0 },
        Self::Duplicate { percent: 10.0 },
        Self::Reorder { percent: 10.0 },
        Self::PowerCut { torn: false },
        Self::PowerCut { torn: true },
        Self::DiskFull { disk: Which::Second },
        Self::DiskFull { disk: Which::First },
        Self::DiskFails { disk: Which::Second, on: Failing::Writes },
        Self::DiskFails { disk: Which::First, on: Failing::Writes },
        Self::DiskFails { disk: Which::Second, on: Failing::Reads },
        Self::SlowDisk { disk: Which::All, delay_ms: 100 },
        Self::Corrupt { files: Files::Logs },
        Self::Wipe,
    ];

    /// Further ones, which are drawn by lot where they are named.
    pub const NAMED_ONLY: [Self; 5] = [
        Self::Skew { by_ms: 300_000 },
        Self::Skew { by_ms: -300_000 },
        Self::ExpireCertificate,
        Self::RemoveVoter,
        Self::ChangeVersion,
    ];

    /// What there is to choose from by name.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        let all = Self::ALL.into_iter().chain(Self::NAMED_ONLY);
        let mut names: Vec<_> = all.map(Self::name).collect();
        names.dedup();
        names
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Slow { delay_ms, jitter_ms: 0 } => write!(f, " by {delay_ms} ms"),
            Self::Slow { delay_ms, jitter_ms } => {
                write!(f, " by {delay_ms} to {} ms", delay_ms + jitter_ms)
            }
            Self::Lose { percent } | Self::Duplicate { percent } | Self::Reorder { percent } => {
                write!(f, " {percent} %")
            }
            Self::Skew { by_ms } => write!(f, " by {by_ms} ms"),
            Self::PowerCut { torn: true } => f.write_str(", torn"),
            Self::DiskFull { disk } => write!(f, ", {disk}"),
            Self::DiskFails { disk, on: Failing::Reads } => write!(f, " to read, {disk}"),
            Self::DiskFails { disk, on: Failing::Writes } => write!(f, " to write, {disk}"),
            Self::SlowDisk { disk, delay_ms } => write!(f, " by {delay_ms} ms, {disk}"),
            Self::Corrupt { files: Files::Logs } => f.write_str(" a log"),
            Self::Corrupt { files: Files::Metadata } => f.write_str(" metadata"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "the disk with the metadata",
            Self::Second => "a disk of logs",
            Self::All => "all disks",
        })
    }
}
