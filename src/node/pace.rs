//! Keeping disk work in the background below a rate that may change at any time.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes that went and that the rate does not allow for yet.
pub(super) struct Pace {
    debt_bytes: f64,
    since: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { debt_bytes: 0.0, since: Instant::now() }
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.debt_bytes += bytes as f64;
    }

    /// How long to wait at `rate` bytes a second before anything more is read.
    pub(super) fn wait(&mut self, rate: f64) -> Option<Duration> {
        let now = Instant::now();
        let passed = now.duration_since(self.since).as_secs_f64();
        self.since = now;
        self.debt_bytes = (self.debt_bytes - passed * rate.max(1.0)).max(0.0);
        let wait = Duration::try_from_secs_f64(self.debt_bytes / rate.max(1.0));
        wait.ok().filter(|wait| *wait >= Duration::from_millis(1))
    }
}
