//! The task of one shard: load, serve, load again after its log failed, end with the leadership.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    AppendError, BoxFuture, Failure, Now, Pipeline, ReadError, Shard, ShardLog, Token, batches,
    runtime::{Command, Settings, SharedStage, Stage},
};
use crate::base::{Clock, HashMap, PartitionIndex};

/// Requests handled between two looks at the log.
const REQUESTS_PER_TURN: usize = 256;

pub(super) struct Task<S: Shard> {
    pub(super) partition: PartitionIndex,
    pub(super) log: Arc<dyn ShardLog>,
    pub(super) queue: mpsc::Receiver<Command<S>>,
    pub(super) stage: Arc<SharedStage>,
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started: Instant,
}

/// How serving ended.
enum End {
    /// The runtime has dropped the shard.
    Dropped,
    /// The leadership has passed.
    NotLeader,
    /// What the log holds is not known any more.
    Reload(AppendError),
}

impl<S: Shard> Task<S> {
    pub(super) async fn run(mut self, make: impl Fn() -> S) {
        let partition = self.partition;
        loop {
            let loading = load(make(), &*self.log, &self.settings, partition);
            // Biased, so that a shard dropped meanwhile does not start.
            let loaded = tokio::select! {
                biased;
                () = refuse(&mut self.queue, Failure::CoordinatorLoadInProgress) => return,
                loaded = loading => loaded,
            };
            let end = match loaded {
                Ok(shard) => self.serve(shard).await,
                Err(ReadError::NotLeader) => End::NotLeader,
                Err(source) => {
                    error!(%partition, %source, "a coordinator's shard cannot be loaded");
                    self.stage.set(Stage::Stopped);
                    End::Reload(AppendError::Storage)
                }
            };
            match end {
                End::Dropped => return,
                End::NotLeader => {
                    self.stage.set(Stage::Stopped);
                    return refuse(&mut self.queue, Failure::NotCoordinator).await;
                }
                End::Reload(source) => {
                    warn!(%partition, %source, "loading a coordinator's shard again");
                    tokio::select! {
                        () = refuse(&mut self.queue, Failure::NotCoordinator) => return,
                        () = sleep(self.settings.load_retry_backoff) => {}
                    }
                    self.stage.set(Stage::Loading);
                }
            }
        }
    }

    fn now(&self) -> Now {
        Now { monotonic: self.started.elapsed(), wall_ms: self.clock.wall_ms() }
    }

    async fn serve(&mut self, shard: S) -> End {
        let log = Arc::clone(&self.log);
        let mut pipeline = Pipeline::new(shard, self.settings.max_batch_bytes, self.now());
        let mut waiting = Waiting::default();
        let mut append: Option<BoxFuture<'_, Result<(), AppendError>>> = None;
        self.stage.set(Stage::Active);
        let (end, failure) = loop {
            if append.is_none()
                && let Some((records, source)) = pipeline.take_batch()
            {
                append = Some(log.append(batches::encode(records, source, self.clock.wall_ms())));
            }
            waiting.answer(pipeline.take_replies());
            let deadline = pipeline.next_deadline();
            let has_room = pipeline.pending_bytes() < self.settings.max_pending_bytes;
            tokio::select! {
                result = outcome(&mut append) => {
                    append = None;
                    match result {
                        Ok(()) => pipeline.committed(self.now()),
                        Err(error) if error.is_refusal() => pipeline.failed(error, self.now()),
                        Err(AppendError::NotLeader) => {
                            break (End::NotLeader, Failure::NotCoordinator);
                        }
                        Err(error) => break (End::Reload(error), error.response_error()),
                    }
                }
                command = self.queue.recv(), if has_room => {
                    let Some(command) = command else {
                        break (End::Dropped, Failure::NotCoordinator);
                    };
                    self.take_in(command, &mut pipeline, &mut waiting);
                }
                () = until(self.started, deadline) => pipeline.expire(self.now()),
            }
        };
        self.stage.set(Stage::Stopped);
        drop(append);
        waiting.answer(pipeline.unload(failure));
        end
    }

    fn take_in(&mut self, first: Command<S>, pipeline: &mut Pipeline<S>, waiting: &mut Waiting<S>) {
        let now = self.now();
        let mut next = Some(first);
        for _ in 0..REQUESTS_PER_TURN {
            let Some(Command { request, reply }) = next else { return };
            let token = waiting.admit(reply);
            pipeline.request(token, request, now);
            waiting.answer(pipeline.take_replies());
            if pipeline.pending_bytes() >= self.settings.max_pending_bytes {
                return;
            }
            next = self.queue.try_recv().ok();
        }
        // The last one taken from the queue must not be lost with the turn.
        if let Some(Command { request, reply }) = next {
            let token = waiting.admit(reply);
            pipeline.request(token, request, now);
        }
    }
}

/// Callers by token.
struct Waiting<S: Shard> {
    next: u64,
    replies: HashMap<Token, oneshot::Sender<Result<S::Response, Failure>>>,
}

impl<S: Shard> Default for Waiting<S> {
    fn default() -> Self {
        Self { next: 0, replies: HashMap::default() }
    }
}

impl<S: Shard> Waiting<S> {
    fn admit(&mut self, reply: oneshot::Sender<Result<S::Response, Failure>>) -> Token {
        let token = Token(self.next);
        self.next += 1;
        self.replies.insert(token, reply);
        token
    }

    fn answer(&mut self, replies: Vec<(Token, Result<S::Response, Failure>)>) {
        for (token, response) in replies {
            if let Some(reply) = self.replies.remove(&token) {
                // A caller that has given up meanwhile is none of our business.
                drop(reply.send(response));
            }
        }
    }
}

/// Answers every request with `failure`; ends when the runtime has dropped the shard.
async fn refuse<S: Shard>(queue: &mut mpsc::Receiver<Command<S>>, failure: Failure) {
    while let Some(command) = queue.recv().await {
        drop(command.reply.send(Err(failure)));
    }
}

async fn outcome(
    append: &mut Option<BoxFuture<'_, Result<(), AppendError>>>,
) -> Result<(), AppendError> {
    match append {
        Some(append) => append.await,
        None => std::future::pending().await,
    }
}

async fn until(started: Instant, deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => sleep_until(started + deadline).await,
        None => std::future::pending().await,
    }
}

/// Replays the log into `shard`.
async fn load<S: Shard>(
    mut shard: S,
    log: &dyn ShardLog,
    settings: &Settings,
    partition: PartitionIndex,
) -> Result<S, ReadError> {
    let extent = log.extent().await?;
    let started = Instant::now();
    let mut next = extent.start;
    let (mut records, mut skipped) = (0u64, 0u64);
    while next < extent.end {
        let bytes = log.read(next, settings.load_bytes).await?;
        if bytes.is_empty() {
            break;
        }
        let counts = batches::replay(bytes, next, &mut shard)?;
        records += counts.records;
        skipped += counts.skipped;
        // Batches move the offset on, or the read would be the same for ever.
        if counts.next <= next {
            return Err(ReadError::Storage);
        }
        next = counts.next;
        // A long replay must not keep its thread from everyone else.
        tokio::task::yield_now().await;
    }
    if skipped > 0 {
        error!(%partition, skipped, "a coordinator's shard holds records that are not understood");
    }
    let elapsed = started.elapsed();
    if records > 0 {
        info!(%partition, records, ?elapsed, "loaded a coordinator's shard");
    }
    Ok(shard)
}
