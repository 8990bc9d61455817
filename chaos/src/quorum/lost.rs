//! A majority of the voters that is lost for good, and what `ottla quorum recover` makes of the
//! survivor, on real processes.

use std::{fs, process::Output};

use kafka_protocol::{
    messages::{ApiKey, CreateTopicsRequest, TopicName, create_topics_request::CreatableTopic},
    protocol::StrBytes,
};
use ottla::client::{ClientError, Lane, Target, WireError};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::{QuorumConfig, QuorumError, changes};
use crate::nodes::{LOOK, Nodes, PATIENCE};

const SURVIVOR: u32 = 1;
/// Topics that are made before the loss.
const TOPICS: usize = 20;

/// What came of a run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Why the survivor was not recovered while the others lived.
    pub refused_alive: String,
    /// Why it was not recovered with a wrong confirmation.
    pub refused_unconfirmed: String,
    /// Topics that were made before the loss and are there after it.
    pub kept: usize,
    /// From the survivor's start until a change was acknowledged.
    pub recovered_ms: u64,
    /// What does not hold.
    pub broken: Vec<String>,
}

struct Run {
    nodes: Nodes,
    config: QuorumConfig,
    report: Report,
}

/// Loses two of three voters, recovers the third, and gives it two new ones.
///
/// # Errors
/// Where the nodes do not come up or go down as they should.
pub async fn run(
    config: &QuorumConfig,
    mut progress: impl FnMut(String),
) -> Result<Report, QuorumError> {
    let nodes = Nodes::prepare(&config.binary, &config.directory, 4)?;
    let mut run = Run { nodes, config: config.clone(), report: Report::default() };
    run.begin().await?;
    progress("three voters have topics".to_owned());
    run.refuses_while_alive().await?;
    progress(format!("while the others live: {}", run.report.refused_alive));
    run.lose().await?;
    progress("two are lost, and the survivor is recovered".to_owned());
    run.go_on().await?;
    progress("two new nodes vote".to_owned());
    Ok(run.report)
}

impl Run {
    async fn begin(&mut self) -> Result<(), QuorumError> {
        for node in 1..=3 {
            self.nodes.start(node, &[1, 2, 3])?;
        }
        self.nodes.bootstrap(&[1, 2, 3]).await?;
        for number in 0..TOPICS {
            self.make(SURVIVOR, &format!("before-{number}")).await?;
        }
        // All of them are to be in the survivor's log, also if it does not lead.
        self.lists(SURVIVOR).await
    }

    /// Makes a topic through `node`, as soon as that works.
    async fn make(&mut self, node: u32, name: &str) -> Result<(), QuorumError> {
        let client = changes::client(self.nodes.kafka_address(node), self.config.seed)?;
        let topic = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let request =
            CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(2_500);
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = client.call(Target::Any, Lane::GENERAL, &request).await;
            let code = answer.map(|answer| answer.topics.first().map_or(-1, |one| one.error_code));
            let error = match code.map(WireError::try_from_code) {
                Ok(None | Some(WireError::TopicAlreadyExists)) => return Ok(()),
                Ok(Some(error)) => {
                    let (api, subject) = (ApiKey::CreateTopics, name.into());
                    ClientError::Refused { api, subject, error, message: None }
                }
                Err(error) => error,
            };
            self.nodes.are_alive()?;
            if Instant::now() >= until {
                return Err(error.into());
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until `node` lists the topics that were made before the loss.
    async fn lists(&mut self, node: u32) -> Result<(), QuorumError> {
        let until = Instant::now() + PATIENCE;
        loop {
            self.report.kept = self.listed(node).await;
            if self.report.kept == TOPICS {
                return Ok(());
            }
            self.nodes.are_alive()?;
            if Instant::now() >= until {
                let text = format!("node {node} lists {} of {TOPICS} topics", self.report.kept);
                self.report.broken.push(text);
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    async fn listed(&self, node: u32) -> usize {
        let address = self.nodes.kafka_address(node);
        let Ok(client) = changes::client(address, self.config.seed) else { return 0 };
        if client.refresh_all().await.is_err() {
            return 0;
        }
        let view = client.view();
        view.topics.values().filter(|topic| topic.name.starts_with("before-")).count()
    }

    /// What `ottla quorum recover` says of the survivor.
    async fn recover(&self, confirm: Option<&str>) -> Result<Output, QuorumError> {
        let mut command = Command::new(&self.config.binary);
        command.args(["--output", "json", "quorum", "recover", "--config"]);
        command.arg(self.nodes.config(SURVIVOR));
        if let Some(text) = confirm {
            command.args(["--confirm", text]);
        }
        Ok(command.output().await?)
    }

    /// Expects that the survivor is not recovered, and returns why.
    async fn refused(&mut self, confirm: Option<&str>, why: &str) -> Result<String, QuorumError> {
        let output = self.recover(confirm).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() || !said.contains(why) {
            self.report.broken.push(format!("not refused since {why:?}: {said}"));
        }
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }

    async fn refuses_while_alive(&mut self) -> Result<(), QuorumError> {
        // It runs, and holds its store.
        self.refused(None, "cannot open the metadata store").await?;
        self.nodes.stop(SURVIVOR).await?;
        self.make(2, "without-the-survivor").await?;
        self.report.refused_alive = self.refused(None, "the metadata quorum lives").await?;
        self.refused(Some("yes"), "the metadata quorum lives").await?;
        self.nodes.start(SURVIVOR, &[1, 2, 3])?;
        self.make(SURVIVOR, "with-the-survivor").await
    }

    async fn lose(&mut self) -> Result<(), QuorumError> {
        for node in [2, 3] {
            self.nodes.kill(node).await?;
            fs::remove_dir_all(self.nodes.data(node))?;
        }
        self.nodes.stop(SURVIVOR).await?;
        self.report.refused_unconfirmed = self.refused(Some("yes"), "does not fit").await?;
        let shown = self.recover(None).await?;
        let survivor: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        if survivor["voters"].as_array().map(Vec::len) != Some(3) {
            self.report.broken.push(format!("the survivor knows other voters: {survivor}"));
        }
        let confirmation = survivor["confirmation"].as_str().unwrap_or_default().to_owned();
        let done = self.recover(Some(&confirmation)).await?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            self.report.broken.push(format!("not recovered: {said}"));
        }
        Ok(())
    }

    async fn go_on(&mut self) -> Result<(), QuorumError> {
        let begun = Instant::now();
        self.nodes.start(SURVIVOR, &[SURVIVOR])?;
        self.make(SURVIVOR, "after").await?;
        self.report.recovered_ms = begun.elapsed().as_millis() as u64;
        self.lists(SURVIVOR).await?;
        // One in the place of a lost node, with an empty disk, and one that never was there.
        for node in [2, 4] {
            self.nodes.start(node, &[SURVIVOR])?;
            self.make(node, &format!("through-{node}")).await?;
            self.nodes.change_voters(node, "add", node, PATIENCE).await?;
            self.lists(node).await?;
        }
        // The new quorum is one: it does without the survivor.
        self.nodes.stop(SURVIVOR).await?;
        self.make(2, "without-the-first").await?;
        self.nodes.stop_all().await?;
        Ok(())
    }
}
