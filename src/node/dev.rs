//! Nodes for development: on loopback, with settings and certificates that make themselves.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    Beginning,
    process::{self, ProcessError},
};
use crate::{
    base::{Clock as _, NodeId, SystemClock},
    cert::{self, CertError},
    config::NodeConfig,
};

/// Certificates of all nodes, within their directory.
const CERTIFICATES: &str = "certificates";
/// The most voters that a cluster for development has.
const VOTERS_MAX: u16 = 5;
/// How many replicas a topic has at most unless it says how many.
const REPLICAS_MAX: u16 = 3;

/// A node for development.
#[derive(Debug, Clone)]
pub struct DevNode {
    /// Where all nodes of the cluster keep what is theirs.
    pub directory: PathBuf,
    /// Which one it is, from 1.
    pub number: u16,
    /// How many there are.
    pub of: u16,
    /// Where clients connect to the first one; the others count up.
    pub kafka_port: u16,
    /// Where other nodes connect to the first one.
    pub cluster_port: u16,
    /// Where operators look at the first one.
    pub http_port: u16,
}

impl DevNode {
    /// How many of the nodes vote: an odd number.
    #[must_use]
    pub fn voters(&self) -> u16 {
        self.of.min(VOTERS_MAX).div_ceil(2) * 2 - 1
    }

    /// How many replicas a topic has that is created without saying how many.
    fn replicas(&self) -> u16 {
        self.of.min(REPLICAS_MAX)
    }

    /// Where operators look at it.
    #[must_use]
    pub fn http_address(&self) -> String {
        listener(self.http_port, self.number)
    }

    /// Its settings. Makes its certificate where there is none.
    ///
    /// # Errors
    /// Where the certificate cannot be made.
    pub fn settings(&self) -> Result<BTreeMap<String, String>, CertError> {
        let certificates = self.directory.join(CERTIFICATES);
        let id = NodeId(self.number.into());
        let tls = cert::development(&certificates, id, SystemClock.wall_ms())?;
        let file = |path: &Path| path.display().to_string();
        let seeds: Vec<_> =
            (1..=self.of).map(|number| listener(self.cluster_port, number)).collect();
        let settings = [
            ("node.id", id.to_string()),
            ("log.dirs", file(&self.directory.join(format!("node-{id}")))),
            ("listeners", format!("PLAINTEXT://{}", listener(self.kafka_port, self.number))),
            ("ottla.cluster.listener", listener(self.cluster_port, self.number)),
            ("ottla.cluster.tls.ca", file(&tls.ca)),
            ("ottla.cluster.tls.cert", file(&tls.certificate)),
            ("ottla.cluster.tls.key", file(&tls.key)),
            ("ottla.http.listener", self.http_address()),
            // A cluster that had fewer nodes at its last start grows by itself.
            ("ottla.quorum.voters.target", self.voters().to_string()),
            ("ottla.seeds", if self.of > 1 { seeds.join(",") } else { String::new() }),
            // What is written outlives a node, where there are enough.
            ("default.replication.factor", self.replicas().to_string()),
            ("offsets.topic.replication.factor", self.replicas().to_string()),
            ("min.insync.replicas", self.replicas().div_ceil(2).to_string()),
            // A developer does not wait three seconds for the first member of a group.
            ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ];
        Ok(settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

fn listener(first_port: u16, number: u16) -> String {
    format!("127.0.0.1:{}", first_port.saturating_add(number - 1))
}

/// Serves the one node of a cluster for development, on loopback, until SIGTERM or SIGINT.
///
/// # Errors
/// See [`ProcessError`].
pub fn dev(node: &DevNode, ready: impl FnOnce(&str)) -> Result<(), ProcessError> {
    process::run(NodeConfig::from_settings(node.settings()?)?, Beginning::Alone, ready)
}
