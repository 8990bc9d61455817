//! The certificates of a cluster's nodes: for a year, or until in a moment.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ottla::{
    base::{Clock as _, NodeId, SystemClock},
    cert::{self, CertError, Files, NewNode},
};

const DAY_MS: i64 = 86_400_000;

/// The CA of a cluster, and what it signed.
#[derive(Debug)]
pub(crate) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    pub(crate) fn within(directory: &Path) -> Self {
        Self { directory: directory.join("certificates") }
    }

    /// A node's certificate, made where there is none that lasts.
    pub(crate) fn of(&self, node: u32) -> Result<Files, CertError> {
        // A CA that is old enough to have signed what is about to end.
        let made_ms = SystemClock.wall_ms() - 2 * DAY_MS;
        match cert::new_ca(&self.directory, None, made_ms, None) {
            Ok(_) | Err(CertError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
        cert::development(&self.directory, NodeId(node), SystemClock.wall_ms())
    }

    /// Gives a node a new certificate that ends after a moment.
    pub(crate) fn end_after(&self, node: u32, lasts: Duration) -> Result<(), CertError> {
        let lasts_ms = i64::try_from(lasts.as_millis()).unwrap_or(DAY_MS);
        self.renew(node, 1, SystemClock.wall_ms() - DAY_MS + lasts_ms)
    }

    /// Gives a node a new certificate that lasts.
    pub(crate) fn rotate(&self, node: u32) -> Result<(), CertError> {
        self.renew(node, 365, SystemClock.wall_ms())
    }

    fn renew(&self, node: u32, days: u32, now_ms: i64) -> Result<(), CertError> {
        let new = NewNode {
            ca: self.directory.clone(),
            directory: self.directory.join(format!("node-{node}")),
            node_id: NodeId(node),
            hosts: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
            days,
            renew: true,
        };
        cert::new_node(&new, now_ms).map(drop)
    }
}
