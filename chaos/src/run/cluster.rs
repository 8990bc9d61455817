//! Real processes, as a scenario needs them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use ottla::client::Client;
use rand::rngs::StdRng;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{RunError, TOPIC, monitor::Monitor};
use crate::{
    drive::{Backend, Disks, Leads, Links, NO_ROOM, VoterChange},
    nodes::{LOOK, Nodes, NodesError, PATIENCE},
    replicas,
    scenario::{Fault, Files},
};

/// The nodes, and what of them is seen from outside.
pub(super) struct Processes {
    pub(super) count: u32,
    pub(super) factor: i16,
    pub(super) nodes: Nodes,
    pub(super) client: Client,
    pub(super) monitor: Monitor,
    /// Why the nodes are on no disks of the suite's own, where they had to be.
    pub(super) no_disks: Option<String>,
}

impl Processes {
    fn seeds(&self) -> Vec<u32> {
        (1..=self.count).collect()
    }

    /// Starts nodes anew that have lost a disk, as whoever has healed it would. Returns the log
    /// directories that fail again, whose replicas lie elsewhere by now.
    pub(super) async fn restart_failed(
        &mut self,
        topic: &str,
        progress: &mut impl FnMut(String),
    ) -> Result<BTreeSet<PathBuf>, RunError> {
        let mut failed = BTreeSet::new();
        for node in self.seeds() {
            if self.nodes.failed_directories(node).await.is_none_or(|lost| lost.is_empty()) {
                continue;
            }
            progress(format!("node {node} has lost a disk, and starts anew"));
            self.nodes.stop(node).await?;
            self.start(node).await?;
            let until = Instant::now() + PATIENCE;
            while !self.nodes.is_member(node).await {
                self.nodes.are_alive()?;
                if Instant::now() > until {
                    return Err(NodesError::TooLate("that a node joins").into());
                }
                sleep(LOOK).await;
            }
            replicas::in_sync(&mut self.nodes, &self.client, topic, self.factor).await?;
            failed.extend(self.nodes.failed_directories(node).await.into_iter().flatten());
        }
        Ok(failed)
    }
}

impl Backend for Processes {
    type Error = NodesError;

    fn nodes(&self) -> u32 {
        self.count
    }

    fn cannot(&self, fault: Fault) -> Option<String> {
        if fault == Fault::Decommission && i64::from(self.factor) >= i64::from(self.count) {
            return Some(NO_ROOM.to_owned());
        }
        self.no_disks.clone().filter(|_| fault.needs_disks())
    }

    fn leads(&self) -> Leads {
        let now = self.monitor.now();
        let partition = now.partitions.iter().find_map(|it| u32::try_from(*it).ok());
        Leads { partition, controller: now.controller }
    }

    async fn is_in_sync(&self) -> bool {
        let topics = [TOPIC, "__consumer_offsets"];
        if self.client.refresh(&[TOPIC], false).await.is_err() {
            return false;
        }
        // It may not have been made yet.
        let _ = self.client.refresh(&topics, false).await;
        let view = self.client.view();
        let wanted = usize::try_from(self.factor).unwrap_or(0);
        topics
            .iter()
            .filter_map(|topic| view.topic(topic))
            .all(|topic| topic.partitions.iter().all(|partition| partition.isr.len() == wanted))
    }

    fn are_alive(&mut self) -> Result<(), NodesError> {
        self.nodes.are_alive()
    }

    fn is_running(&self, node: u32) -> bool {
        self.nodes.running().any(|it| it == node)
    }

    async fn is_member(&self, node: u32) -> bool {
        self.nodes.is_member(node).await
    }

    fn excuse(&mut self, node: u32, excused: bool) {
        self.nodes.excuse(node, excused);
    }

    async fn start(&mut self, node: u32) -> Result<(), NodesError> {
        let seeds = self.seeds();
        self.nodes.start(node, &seeds)
    }

    async fn stop(&mut self, nodes: &[u32]) -> Result<(), NodesError> {
        self.nodes.stop_together(nodes).await
    }

    async fn kill(&mut self, nodes: &[u32]) -> Result<(), NodesError> {
        self.nodes.kill_all(nodes).await
    }

    fn pause(&mut self, node: u32, paused: bool) -> Result<(), NodesError> {
        self.nodes.signal(node, if paused { Signal::STOP } else { Signal::CONT })
    }

    fn set_links(&mut self, links: Links) {
        if let Some(network) = self.nodes.network() {
            network.set(links);
        }
    }

    fn set_disks(&mut self, conditions: Disks) {
        let Some(disks) = self.nodes.disks() else { return };
        for ((node, disk), conditions) in conditions {
            disks.set(node, disk, conditions);
        }
    }

    fn switch_off(&mut self, node: u32) {
        if let Some(disks) = self.nodes.disks() {
            disks.switch_off(node);
        }
    }

    fn cut_power(&mut self, node: u32, torn: Option<&mut StdRng>) -> Result<(), NodesError> {
        Ok(self.nodes.disks().map_or(Ok(()), |disks| disks.cut_power(node, torn))?)
    }

    fn wipe(&mut self, node: u32) -> Result<(), NodesError> {
        Ok(self.nodes.disks().map_or(Ok(()), |disks| disks.wipe(node))?)
    }

    fn flip_bit(
        &mut self,
        node: u32,
        files: Files,
        rng: &mut StdRng,
    ) -> Result<Option<String>, NodesError> {
        let Some(disks) = self.nodes.disks() else { return Ok(None) };
        let flipped = disks.flip_bit(node, |path: &Path| is_of(files, path), rng)?;
        Ok(flipped.map(|(path, at)| format!("byte {at} of {}", path.display())))
    }

    fn skew(&mut self, node: u32, by_ms: i64) -> Result<(), NodesError> {
        self.nodes.skew(node, by_ms)
    }

    async fn renew_certificate(
        &mut self,
        node: u32,
        ends: Option<Duration>,
    ) -> Result<(), NodesError> {
        match ends {
            Some(after) => self.nodes.let_certificate_end(node, after),
            None => self.nodes.rotate_certificate(node).await,
        }
    }

    /// Through another node, as it may be the leader that is removed.
    async fn change_voter(
        &mut self,
        node: u32,
        change: VoterChange,
        within: Duration,
    ) -> Result<(), NodesError> {
        let other = self.nodes.running().find(|it| *it != node).unwrap_or(node);
        match change {
            VoterChange::Add => self.nodes.change_voters(node, "add", node, within).await,
            VoterChange::Remove => self.nodes.change_voters(other, "remove", node, within).await,
        }
    }

    async fn decommission(&mut self, node: u32, cancel: bool) -> Result<(), NodesError> {
        let id = node.to_string();
        let words = ["node", "decommission", &id, "--cancel"];
        self.nodes.command(if cancel { &words } else { &words[..3] }).await
    }

    fn change_version(&mut self, node: u32) -> Option<String> {
        self.nodes.change_version(node).map(|version| version.display().to_string())
    }

    fn too_late(&self, what: &'static str) -> NodesError {
        NodesError::TooLate(what)
    }
}

/// Whether a file is one of those, by its path on the disk.
fn is_of(files: Files, path: &Path) -> bool {
    let is_metadata = path.starts_with("quorum");
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match files {
        // What else the store keeps is for people, or can be made anew.
        Files::Metadata => {
            let is_data = [".sst", ".log"].iter().any(|end| name.ends_with(end));
            is_metadata && (is_data || name.starts_with("MANIFEST"))
        }
        Files::Logs => !is_metadata && path.extension().is_some_and(|it| it == "log"),
    }
}
