//! What is copied, and what it took.

use std::{
    fs,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use tokio::time::Instant;

/// A follower answers each frame with that many bytes.
pub(crate) const ACKNOWLEDGEMENT_BYTES: usize = 16;
/// What is at the front of a frame besides its length.
pub(crate) const HEADER_BYTES: usize = 41;

/// What to copy.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) bytes: usize,
    pub(crate) frame_bytes: usize,
    pub(crate) streams: usize,
}

/// One copy: how long it took, and how long either side's thread ran.
pub(crate) struct Copied {
    bytes: usize,
    elapsed: Duration,
    sender: Duration,
    receiver: Duration,
}

/// What a side's thread measured.
pub(crate) struct Side {
    cpu: Duration,
    elapsed: Duration,
}

impl Load {
    /// How many frames each stream copies.
    pub(crate) const fn frames(self) -> usize {
        self.bytes / self.frame_bytes / self.streams
    }

    /// One frame's bytes, which every frame shares, as they lie in memory.
    pub(crate) fn payload(self) -> Bytes {
        (0..self.frame_bytes).map(|at| (at % 251) as u8).collect()
    }
}

impl Copied {
    pub(crate) const fn new(load: Load, sender: &Side, receiver: &Side) -> Self {
        Self {
            bytes: load.frames() * load.streams * load.frame_bytes,
            elapsed: sender.elapsed,
            sender: sender.cpu,
            receiver: receiver.cpu,
        }
    }

    fn gib(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 30)
    }

    pub(crate) fn mib_per_second(&self) -> f64 {
        self.gib() * 1024.0 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn sender_per_gib(&self) -> f64 {
        self.sender.as_secs_f64() / self.gib()
    }

    pub(crate) fn receiver_per_gib(&self) -> f64 {
        self.receiver.as_secs_f64() / self.gib()
    }
}

/// Counts from its making on.
pub(crate) struct Watch {
    cpu: Duration,
    started: Instant,
}

impl Watch {
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { cpu: thread_cpu()?, started: Instant::now() })
    }

    pub(crate) fn stop(self) -> Result<Side> {
        Ok(Side { cpu: thread_cpu()? - self.cpu, elapsed: self.started.elapsed() })
    }
}

/// How long this thread has run, the system's part included.
fn thread_cpu() -> Result<Duration> {
    const PATH: &str = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(PATH).context(PATH)?;
    let nanoseconds = text.split_whitespace().next().context(PATH)?;
    Ok(Duration::from_nanos(nanoseconds.parse().context(PATH)?))
}

pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Runs `sides` on a thread each and waits for what they measured.
pub(crate) fn joined<T>(side: JoinHandle<Result<T>>) -> Result<T> {
    side.join().map_err(|_| anyhow!("a side panicked"))?
}

/// A thread with a name, for whoever profiles it.
pub(crate) fn side<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    Ok(thread::Builder::new().name(name.to_owned()).spawn(run)?)
}
