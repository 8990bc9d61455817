//! A cluster of real processes whose quorum's leader is killed or paused, or whose voters change,
//! while topics are made and deleted through every node.
//!
//! Checked: no acknowledged change is lost, none is applied twice, and each node lists in the end
//! what it should. Measured: how long nobody gets a change acknowledged.

mod changes;
pub mod learner;
pub mod lost;
mod model;

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

use ottla::{base::TopicId, client::ClientError};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::Signal;
use serde::Serialize;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use self::changes::{REQUEST_TIMEOUT, Shared, Writer};
pub use self::model::Broken;
use crate::{
    figures::Figures,
    nodes::{LOOK, Nodes, NodesError, PATIENCE},
};

/// How many changes each node has under way.
const WRITERS: u32 = 2;
/// How long growing and shrinking leaves the changes alone between two steps.
const REST: Duration = Duration::from_millis(1_500);

/// What to run.
#[derive(Debug, Clone)]
pub struct QuorumConfig {
    /// The program; see [`crate::kill::binary`].
    pub binary: PathBuf,
    /// Where the nodes keep their data and output.
    pub directory: PathBuf,
    /// How many nodes there are, all of them voters.
    pub nodes: u32,
    /// How often the leader is killed or paused, by turns.
    pub rounds: u32,
    /// Decides when, and for how long.
    pub seed: u64,
}

/// Why a run could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum QuorumError {
    /// The nodes do not do what they are told.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// There is no client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nothing is acknowledged any more.
    #[error("no change is acknowledged through node {0} within {PATIENCE:?}")]
    Stuck(u32),
}

impl From<io::Error> for QuorumError {
    fn from(error: io::Error) -> Self {
        Self::Nodes(error.into())
    }
}

/// What is done to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP for one to five seconds.
    Pause,
}

/// What one fault led to.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Which, from 1.
    pub round: u32,
    /// What was done.
    pub fault: Fault,
    /// To whom.
    pub leader: u32,
    /// When a change that was asked later was acknowledged through any other node.
    pub gap_ms: u64,
    /// When that held for each of the other nodes.
    pub all_ms: u64,
}

/// One step of growing or shrinking.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What was done.
    pub what: String,
    /// How long that took.
    pub took_ms: u64,
    /// The longest time in which no change was acknowledged, from its begin to some time after it.
    pub gap_ms: u64,
    /// The slowest change of that time.
    pub slowest_ms: u64,
}

/// What came of a run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Each fault.
    pub rounds: Vec<Round>,
    /// The gaps that kills made.
    pub kill: Option<Figures>,
    /// The same until each other node had a change acknowledged.
    pub kill_all: Option<Figures>,
    /// The gaps that pauses made.
    pub pause: Option<Figures>,
    /// The same until each other node had a change acknowledged.
    pub pause_all: Option<Figures>,
    /// Each step of growing and shrinking.
    pub steps: Vec<Step>,
    /// Topics that were made.
    pub created: usize,
    /// Those that were deleted.
    pub deleted: usize,
    /// Attempts that got no answer, or "timed out".
    pub unknown: u64,
    /// Attempts that were refused, by error.
    pub refused: BTreeMap<String, u64>,
    /// What does not hold.
    pub broken: Vec<String>,
}

struct Run {
    nodes: Nodes,
    model: Shared,
    rng: StdRng,
    writers: JoinSet<()>,
    stop: watch::Sender<bool>,
    report: Report,
}

impl Run {
    fn prepare(config: &QuorumConfig, places: u32) -> Result<Self, QuorumError> {
        Ok(Self {
            nodes: Nodes::prepare(&config.binary, &config.directory, places)?,
            model: Shared::default(),
            rng: StdRng::seed_from_u64(config.seed),
            writers: JoinSet::new(),
            stop: watch::Sender::new(false),
            report: Report::default(),
        })
    }

    /// Makes and deletes topics through `node` from now on.
    fn write(&mut self, node: u32) -> Result<(), ClientError> {
        for number in 0..WRITERS {
            let writer = Writer {
                node,
                prefix: format!("t-{node}-{number}"),
                client: changes::client(self.nodes.kafka_address(node), self.rng.random())?,
                model: self.model.clone(),
                seed: self.rng.random(),
            };
            self.writers.spawn(writer.run(self.stop.subscribe()));
        }
        Ok(())
    }

    /// Waits until a change asked after `since` is acknowledged, through one of `nodes`.
    async fn acknowledged(
        &mut self,
        since: Instant,
        nodes: &[u32],
    ) -> Result<Duration, QuorumError> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(gap) = self.model.lock().first_after(since, nodes) {
                return Ok(gap);
            }
            self.nodes.are_alive()?;
            sleep(LOOK).await;
        }
        Err(QuorumError::Stuck(nodes.first().copied().unwrap_or_default()))
    }

    /// The same through each of them.
    async fn all_acknowledged(
        &mut self,
        since: Instant,
        nodes: &[u32],
    ) -> Result<Duration, QuorumError> {
        let mut longest = Duration::ZERO;
        for node in nodes {
            longest = longest.max(self.acknowledged(since, &[*node]).await?);
        }
        Ok(longest)
    }

    async fn round(&mut self, round: u32, fault: Fault) -> Result<Round, QuorumError> {
        let leader = self.nodes.leader().await?;
        sleep(Duration::from_millis(self.rng.random_range(100..=600))).await;
        let others: Vec<u32> = self.nodes.running().filter(|node| *node != leader).collect();
        let since = Instant::now();
        match fault {
            Fault::Kill => self.nodes.kill(leader).await?,
            Fault::Pause => self.nodes.signal(leader, Signal::STOP)?,
        }
        let pause = Duration::from_millis(self.rng.random_range(1_000..=5_000));
        let wakes = since + pause;
        if fault == Fault::Pause {
            // Whatever comes of the changes meanwhile.
            sleep(wakes.saturating_duration_since(Instant::now())).await;
            self.nodes.signal(leader, Signal::CONT)?;
        }
        let gap = self.acknowledged(since, &others).await?;
        let all = self.all_acknowledged(since, &others).await?;
        if fault == Fault::Kill {
            self.nodes.start(leader, &others)?;
        }
        // A woken leader gets time to give wrong answers, and a new one to serve.
        let back = Instant::now();
        self.all_acknowledged(back, &others).await?;
        self.acknowledged(back, &[leader]).await?;
        let ms = |duration: Duration| duration.as_millis() as u64;
        Ok(Round { round, fault, leader, gap_ms: ms(gap), all_ms: ms(all) })
    }

    /// Does something to the voters and measures what the changes feel of it.
    async fn step(
        &mut self,
        what: String,
        doing: impl AsyncFnOnce(&mut Self) -> Result<(), QuorumError>,
        progress: &mut impl FnMut(String),
    ) -> Result<(), QuorumError> {
        let from = Instant::now();
        doing(self).await?;
        let took = from.elapsed();
        sleep(REST).await;
        let to = Instant::now();
        let model = self.model.lock();
        let ((gap, at), slowest) = (model.longest_gap(from, to), model.slowest(from, to));
        drop(model);
        let ms = |duration: Duration| duration.as_millis() as u64;
        progress(format!(
            "{what}: {} ms, gap {} ms from {} ms on, slowest change {} ms",
            ms(took),
            ms(gap),
            ms(at - from),
            ms(slowest)
        ));
        self.report.steps.push(Step {
            what,
            took_ms: ms(took),
            gap_ms: ms(gap),
            slowest_ms: ms(slowest),
        });
        Ok(())
    }

    /// Ends the changes, compares what each node lists with what it should, and ends the nodes.
    async fn finish(mut self) -> Result<Report, QuorumError> {
        self.stop.send_replace(true);
        while self.writers.join_next().await.is_some() {}
        // What was not answered is over by then.
        sleep(REQUEST_TIMEOUT).await;
        let mut broken = Vec::new();
        for node in self.nodes.running().collect::<Vec<_>>() {
            broken.extend(self.compare(node).await?);
        }
        self.nodes.stop_all().await?;
        let model = self.model.lock();
        let mut report = self.report;
        report.broken = model.broken.iter().chain(&broken).map(ToString::to_string).collect();
        (report.created, report.deleted) = (model.created(), model.deleted());
        (report.unknown, report.refused) = (model.unknown, model.refused.clone());
        let gaps = |fault, of: fn(&Round) -> u64| {
            let rounds = report.rounds.iter().filter(|round| round.fault == fault);
            Figures::of(rounds.map(of).collect())
        };
        let figures = |fault| (gaps(fault, |r| r.gap_ms), gaps(fault, |r| r.all_ms));
        let (kills, pauses) = (figures(Fault::Kill), figures(Fault::Pause));
        (report.kill, report.kill_all) = kills;
        (report.pause, report.pause_all) = pauses;
        Ok(report)
    }

    /// A node may be behind for a moment.
    async fn compare(&self, node: u32) -> Result<Vec<Broken>, QuorumError> {
        let client = changes::client(self.nodes.kafka_address(node), 0)?;
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let broken = match client.refresh_all().await {
                Ok(()) => {
                    let view = client.view();
                    let topics = view.topics.values().filter(|topic| !topic.internal);
                    let listed: BTreeMap<String, TopicId> =
                        topics.map(|topic| (topic.name.to_string(), topic.id)).collect();
                    self.model.lock().compare(node, &listed)
                }
                Err(error) => vec![Broken::Silent(node, error.to_string())],
            };
            if broken.is_empty() || Instant::now() >= until {
                return Ok(broken);
            }
            sleep(LOOK).await;
        }
    }
}

/// Kills and pauses leaders by turns.
///
/// # Errors
/// Where the nodes do not come up or go down as they should.
pub async fn break_leaders(
    config: &QuorumConfig,
    mut progress: impl FnMut(String),
) -> Result<Report, QuorumError> {
    let mut run = Run::prepare(config, config.nodes)?;
    let all: Vec<u32> = (1..=config.nodes).collect();
    for node in &all {
        run.nodes.start(*node, &all)?;
    }
    run.nodes.bootstrap(&all).await?;
    let begun = Instant::now();
    for node in &all {
        run.write(*node)?;
    }
    run.all_acknowledged(begun, &all).await?;
    for round in 1..=config.rounds {
        let fault = if round % 2 == 1 { Fault::Kill } else { Fault::Pause };
        let done = run.round(round, fault).await?;
        progress(format!(
            "round {round} of {}: {fault:?} node {}: {} ms, through each other node {} ms",
            config.rounds, done.leader, done.gap_ms, done.all_ms
        ));
        run.report.rounds.push(done);
    }
    run.finish().await
}

/// Grows a cluster from one voter to three and five, and shrinks it to three that are all others.
///
/// # Errors
/// Where the nodes do not come up or go down as they should.
pub async fn grow(
    config: &QuorumConfig,
    mut progress: impl FnMut(String),
) -> Result<Report, QuorumError> {
    let mut run = Run::prepare(config, 6)?;
    run.nodes.start(1, &[1])?;
    run.nodes.bootstrap(&[1]).await?;
    let begun = Instant::now();
    run.write(1)?;
    run.all_acknowledged(begun, &[1]).await?;
    for node in 2..=5 {
        run.join(node, &mut progress).await?;
    }
    for node in 1..=2 {
        run.leave(node, &mut progress).await?;
    }
    run.join(6, &mut progress).await?;
    run.leave(3, &mut progress).await?;
    run.finish().await
}

impl Run {
    async fn join(
        &mut self,
        node: u32,
        progress: &mut impl FnMut(String),
    ) -> Result<(), QuorumError> {
        let starting = async |run: &mut Self| {
            let begun = Instant::now();
            let others: Vec<u32> = run.nodes.running().collect();
            run.nodes.start(node, &others)?;
            run.write(node)?;
            run.acknowledged(begun, &[node]).await.map(drop)
        };
        self.step(format!("start node {node}"), starting, progress).await?;
        let adding =
            async |run: &mut Self| Ok(run.nodes.change_voters(node, "add", node, PATIENCE).await?);
        self.step(format!("add voter {node}"), adding, progress).await
    }

    async fn leave(
        &mut self,
        node: u32,
        progress: &mut impl FnMut(String),
    ) -> Result<(), QuorumError> {
        let through = self.nodes.running().filter(|other| *other != node).last().unwrap_or(node);
        let removing = async |run: &mut Self| {
            Ok(run.nodes.change_voters(through, "remove", node, PATIENCE).await?)
        };
        self.step(format!("remove voter {node}"), removing, progress).await?;
        let stopping = async |run: &mut Self| Ok(run.nodes.stop(node).await?);
        self.step(format!("stop node {node}"), stopping, progress).await
    }
}
