//! The features that a cluster agrees on, and the levels of them that this release knows.
//!
//! `ottla.metadata.version` gates metadata records: a record or field that older releases would
//! misread is written only once the finalized level allows it, and the level is raised only while
//! every registered broker supports it. The others are Kafka's own, for its clients and tools.

use crate::base::ClusterId;
use crate::metadata::{
    Batch, MetadataImage,
    records::{BrokerFeature, ClusterRecord, FeatureLevelRecord, Record},
};

/// Gates the metadata records.
pub const METADATA_VERSION: &str = "ottla.metadata.version";
/// The level that every release reads.
pub const METADATA_VERSION_MIN: i32 = 1;
/// The newest level that this release reads.
pub const METADATA_VERSION_MAX: i32 = 2;
/// The level from which on decided requests are remembered.
pub const REQUESTS: i32 = 2;
/// The level from which on voters that were removed are remembered.
pub const EXCLUDED_VOTERS: i32 = 2;

/// What this release knows of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupportedFeature {
    /// Its name.
    pub name: &'static str,
    /// The lowest level supported.
    pub min: i32,
    /// The highest level supported.
    pub max: i32,
    /// The level that a new cluster starts with; 0 for none.
    pub initial: i32,
}

/// Every feature of this release, sorted by name.
pub const SUPPORTED: &[SupportedFeature] = &[
    // Eligible leader replicas (KIP-966).
    SupportedFeature { name: "eligible.leader.replicas.version", min: 0, max: 1, initial: 1 },
    // Kafka's own level. Its tools map the numbers to its releases (30 is 4.3-IV0), so it cannot
    // carry levels of ours.
    SupportedFeature { name: "metadata.version", min: 30, max: 30, initial: 30 },
    SupportedFeature {
        name: METADATA_VERSION,
        min: METADATA_VERSION_MIN,
        max: METADATA_VERSION_MAX,
        initial: METADATA_VERSION_MAX,
    },
];

/// The features of this release as a broker registers them.
#[must_use]
pub fn supported_by_this_release() -> Vec<BrokerFeature> {
    SUPPORTED
        .iter()
        .map(|feature| BrokerFeature {
            name: feature.name.to_owned(),
            min_supported_version: feature.min,
            max_supported_version: feature.max,
        })
        .collect()
}

/// The first batch of a cluster's log.
#[must_use]
pub fn bootstrap(cluster_id: ClusterId) -> Batch {
    let mut records: Vec<Record> = vec![ClusterRecord { cluster_id: cluster_id.into() }.into()];
    records.extend(SUPPORTED.iter().filter(|feature| feature.initial > 0).map(|feature| {
        FeatureLevelRecord { name: feature.name.to_owned(), feature_level: feature.initial }.into()
    }));
    Batch::new(records)
}

impl MetadataImage {
    /// The finalized level of `ottla.metadata.version`, under which batches are written.
    #[must_use]
    pub fn metadata_version(&self) -> i32 {
        self.feature(METADATA_VERSION).unwrap_or(METADATA_VERSION_MIN)
    }
}
