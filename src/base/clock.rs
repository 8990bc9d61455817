//! The clock seam.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

/// Tells the time. Handed to whatever needs it; nothing else reads a clock.
///
/// Monotonic time is tokio's, which the simulation drives, so it needs no method here.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since the Unix epoch, as record timestamps have them. May jump either way.
    fn wall_ms(&self) -> i64;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
    fn wall_ms(&self) -> i64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A wall clock that advances with tokio's, for simulated time.
#[derive(Debug, Clone)]
pub struct TokioClock {
    started: Instant,
    started_ms: i64,
}

impl TokioClock {
    /// A clock that says `started_ms` now. Must be called within a tokio runtime.
    #[must_use]
    pub fn starting_at(started_ms: i64) -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), started_ms })
    }
}

impl Clock for TokioClock {
    fn wall_ms(&self) -> i64 {
        self.started_ms + i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}
