//! Where blocking I/O runs: flushes, recovery, compaction, the quorum store.
//!
//! The production pool is a fixed number of threads behind a bounded queue. The simulated ones run
//! each job on the simulation's single thread: inline, or with a delay before and after it, so that
//! a crash can come between what was written and what was synced.

use std::{fmt, sync::Arc, thread, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};

/// How nice a thread is that gives way.
const ASIDE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// The pool has stopped, or the job's result can no longer be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pool for blocking I/O has stopped")]
pub struct BlockingStopped;

/// Runs blocking jobs. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct Blocking(Kind);

#[derive(Clone)]
enum Kind {
    Threads(mpsc::Sender<Job>),
    Inline,
    Simulated(Arc<Simulated>),
}

struct Simulated {
    rng: parking_lot::Mutex<SmallRng>,
    slowest: Duration,
    further: FurtherDelay,
}

/// By how much a simulated disk takes longer than usual. Clones share it, so that it may change
/// while jobs come.
#[derive(Debug, Clone, Default)]
pub struct FurtherDelay(Arc<parking_lot::Mutex<Duration>>);

impl FurtherDelay {
    /// By how much each job from now on takes longer.
    pub fn set(&self, delay: Duration) {
        *self.0.lock() = delay;
    }
}

impl Simulated {
    fn delay(&self) -> Duration {
        self.rng.lock().random_range(Duration::ZERO..=self.slowest)
    }
}

impl Blocking {
    /// A pool of `threads` threads named `name`, with at most `queue` jobs waiting.
    ///
    /// # Errors
    /// Where the system starts no more threads.
    pub fn threads(name: &str, threads: usize, queue: usize) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Job>(queue);
        let receiver = Arc::new(parking_lot::Mutex::new(receiver));
        for n in 0..threads {
            let receiver = Arc::clone(&receiver);
            thread::Builder::new().name(format!("{name}-{n}")).spawn(move || {
                loop {
                    // The lock only hands out jobs: it is free again before the job runs.
                    let job = receiver.lock().blocking_recv();
                    let Some(job) = job else { return };
                    job();
                }
            })?;
        }
        Ok(Self(Kind::Threads(sender)))
    }

    /// Runs each job at once on the thread that asks for it.
    #[must_use]
    pub const fn inline() -> Self {
        Self(Kind::Inline)
    }

    /// Runs each job on the runtime's own thread, up to `slowest` after it was asked for, and
    /// answers up to `slowest` after it ran. For a simulation with virtual time.
    #[must_use]
    pub fn simulated(seed: u64, slowest: Duration) -> Self {
        Self::slowed(seed, slowest, FurtherDelay::default())
    }

    /// As [`Self::simulated`], each job `further` later than that.
    #[must_use]
    pub fn slowed(seed: u64, slowest: Duration, further: FurtherDelay) -> Self {
        let rng = parking_lot::Mutex::new(SmallRng::seed_from_u64(seed));
        Self(Kind::Simulated(Arc::new(Simulated { rng, slowest, further })))
    }

    /// Runs `job` and returns what it returned. Waits for room in the queue.
    ///
    /// Dropping the future does not stop a job that has been queued.
    ///
    /// # Errors
    /// Where the pool has stopped.
    pub async fn run<T, F>(&self, job: F) -> Result<T, BlockingStopped>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match &self.0 {
            Kind::Inline => Ok(job()),
            Kind::Simulated(disk) => {
                let further = *disk.further.0.lock();
                let (before, after) = (disk.delay() + further, disk.delay());
                // A task of its own: who asked may stop waiting, the job runs all the same.
                let job = tokio::spawn(async move {
                    time::sleep(before).await;
                    let result = job();
                    time::sleep(after).await;
                    result
                });
                job.await.map_err(|_| BlockingStopped)
            }
            Kind::Threads(sender) => {
                let (done, result) = oneshot::channel();
                let job = move || drop(done.send(job()));
                sender.send(Box::new(job)).await.map_err(|_| BlockingStopped)?;
                result.await.map_err(|_| BlockingStopped)
            }
        }
    }

    /// As [`Self::run`], for a job that takes long and may take longer: on a thread of its own, which
    /// gives way to all others.
    ///
    /// # Errors
    /// Where the job has panicked, or the pool has stopped.
    pub async fn run_aside<T, F>(&self, job: F) -> Result<T, BlockingStopped>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let Kind::Threads(_) = self.0 else { return self.run(job).await };
        let (done, result) = oneshot::channel();
        let job = Arc::new(parking_lot::Mutex::new(Some(move || drop(done.send(job())))));
        let given = Arc::clone(&job);
        let thread = thread::Builder::new().name("aside".to_owned()).spawn(move || {
            let this = rustix::thread::gettid();
            // Without it the job is only less polite.
            let _ = rustix::process::setpriority_process(Some(this), ASIDE);
            let job = given.lock().take();
            job.into_iter().for_each(|job| job());
        });
        let left = if thread.is_err() { job.lock().take() } else { None };
        if let Some(job) = left {
            self.run(job).await?;
        }
        result.await.map_err(|_| BlockingStopped)
    }
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Threads(_) => "Blocking::Threads",
            Kind::Inline => "Blocking::Inline",
            Kind::Simulated(_) => "Blocking::Simulated",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pool_answers_every_job() {
        let simulated = Blocking::simulated(1, Duration::from_millis(1));
        for pool in [Blocking::threads("test", 2, 1).unwrap(), Blocking::inline(), simulated] {
            let jobs = (0..32).map(|n| {
                let pool = pool.clone();
                async move { pool.run(move || n * 2).await }
            });
            let answers = futures::future::join_all(jobs).await;
            assert_eq!(answers, (0..32).map(|n| Ok(n * 2)).collect::<Vec<_>>());
        }
    }
}
