//! How nodes come back, and how voters change: what whoever runs a cluster would do.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Backend, Driver, LOOK, PATIENCE, STARTS, VOTES_AGAIN, VoterChange};
use crate::scenario::{Fault, Files};

impl<B: Backend, P: FnMut(String)> Driver<'_, B, P> {
    /// Changes the voters, as soon as that is possible.
    pub(super) async fn change_voter(
        &mut self,
        node: u32,
        change: VoterChange,
        within: Duration,
    ) -> Result<(), B::Error> {
        let until = Instant::now() + within;
        loop {
            self.backend.are_alive()?;
            match self.backend.change_voter(node, change, within).await {
                // It may have much to catch up, or another change is under way.
                Err(_) if Instant::now() <= until => sleep(LOOK * 10).await,
                answer => return answer,
            }
        }
    }

    /// Makes a node a voter again, now or once all else is well: others may be missing for it.
    pub(super) async fn votes_again(&mut self, node: u32) {
        let joined = self.joins(node, VOTES_AGAIN).await;
        let voter = VoterChange::Add;
        if joined.is_err() || self.change_voter(node, voter, VOTES_AGAIN).await.is_err() {
            self.no_voters.insert(node);
        }
    }

    /// Empties a node and stops it.
    pub(super) async fn decommission(&mut self, node: u32) -> Result<(), B::Error> {
        self.backend.decommission(node, false).await?;
        self.change_voter(node, VoterChange::Remove, PATIENCE).await?;
        self.backend.stop(&[node]).await
    }

    /// Starts a node again, as whoever runs it would.
    pub(super) async fn come_back(&mut self, node: u32, fault: Fault) -> Result<(), B::Error> {
        match fault {
            Fault::DiskFull { .. } | Fault::DiskFails { .. } => {
                self.backend.are_alive()?;
                if self.backend.is_running(node) {
                    self.backend.stop(&[node]).await?;
                } else {
                    self.say(format!("         node {node} had ended by itself"));
                }
                self.backend.excuse(node, false);
                self.backend.start(node).await?;
            }
            Fault::Corrupt { files: Files::Metadata } => {
                self.backend.excuse(node, true);
                self.backend.start(node).await?;
                if self.refuses_to_start(node).await? {
                    self.say(format!("         node {node} refuses to start, and is wiped"));
                    self.come_back_empty(node).await?;
                }
                self.backend.excuse(node, false);
            }
            Fault::Wipe => self.come_back_empty(node).await?,
            Fault::Decommission => {
                self.backend.start(node).await?;
                self.joins(node, PATIENCE).await?;
                self.change_voter(node, VoterChange::Add, PATIENCE).await?;
                self.backend.decommission(node, true).await?;
            }
            Fault::ChangeVersion => {
                if let Some(version) = self.backend.change_version(node) {
                    self.say(format!("         node {node} now runs {version}"));
                }
                self.backend.start(node).await?;
            }
            _ => self.backend.start(node).await?,
        }
        Ok(())
    }

    async fn refuses_to_start(&mut self, node: u32) -> Result<bool, B::Error> {
        let until = Instant::now() + STARTS;
        while Instant::now() < until {
            self.backend.are_alive()?;
            if !self.backend.is_running(node) {
                return Ok(true);
            }
            if self.backend.is_member(node).await {
                return Ok(false);
            }
            sleep(LOOK).await;
        }
        Ok(false)
    }

    /// A node whose disks are empty joins anew, and becomes a voter again.
    async fn come_back_empty(&mut self, node: u32) -> Result<(), B::Error> {
        self.backend.wipe(node)?;
        self.backend.start(node).await?;
        self.votes_again(node).await;
        Ok(())
    }

    /// Waits until a node is a member.
    pub(super) async fn joins(&mut self, node: u32, within: Duration) -> Result<(), B::Error> {
        let until = Instant::now() + within;
        while !self.backend.is_member(node).await {
            self.backend.are_alive()?;
            if Instant::now() > until {
                return Err(self.backend.too_late("that a node joins"));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}
