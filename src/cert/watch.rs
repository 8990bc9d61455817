//! Notices new certificate files, and certificates that are about to end.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Duration};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use tokio::{sync::Notify, time};
use tracing::{error, info, warn};

use super::{credentials::Credentials, error::CertError, files::Files, summary::day};
use crate::base::{Blocking, Clock, NodeId};

/// How long before its end a certificate is warned of.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often the warning is repeated.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// How a [`Watch`] runs.
#[derive(Debug, Clone)]
pub struct WatchConfig {
    /// The files.
    pub files: Files,
    /// Who this node is.
    pub node_id: NodeId,
    /// How often the files are looked at.
    pub every: Duration,
}

/// Looks at certificate files now and then, and whenever it is told to.
///
/// New files are taken up once they have not changed from one look to the next, so that a key and
/// its certificate need not be replaced at the same instant; at once where [`Watch::check`] asks.
/// Files that cannot be used are reported once, and what was in use stays in use.
#[derive(Debug)]
pub struct Watch {
    config: WatchConfig,
    clock: Arc<dyn Clock>,
    blocking: Blocking,
    asked: Arc<Notify>,
    metrics: Metrics,
}

/// What files look like from outside: size, time and inode of each, `None` for a missing one.
type Stamp = [Option<(u64, i64, i64, u64)>; 3];

struct Metrics {
    node_expiry: Gauge,
    ca_expiry: Gauge,
    loaded: Counter,
    refused: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    fn new() -> Self {
        describe_gauge!(
            "ottla_certificate_expiry_timestamp_seconds",
            "When the certificate of the cluster plane ends, as a Unix time."
        );
        describe_counter!(
            "ottla_certificate_reload_total",
            "New certificate files, by whether they were taken up."
        );
        let expiry = |of: &'static str| gauge!("ottla_certificate_expiry_timestamp_seconds", "certificate" => of);
        let reload =
            |result: &'static str| counter!("ottla_certificate_reload_total", "result" => result);
        Self {
            node_expiry: expiry("node"),
            ca_expiry: expiry("ca"),
            loaded: reload("taken"),
            refused: reload("refused"),
        }
    }
}

impl Watch {
    /// A watch over the files that `current` was loaded from. Metrics go to the recorder that is
    /// current here.
    #[must_use]
    pub fn new(config: WatchConfig, clock: Arc<dyn Clock>, blocking: Blocking) -> Self {
        let (asked, metrics) = (Arc::default(), Metrics::new());
        Self { config, clock, blocking, asked, metrics }
    }

    /// What to call to have the files looked at now, such as on SIGHUP.
    pub fn check(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let asked = Arc::clone(&self.asked);
        move || asked.notify_one()
    }

    /// Hands new credentials to `take`, for ever. `current` are those in use.
    pub async fn run(self, mut current: Credentials, take: impl Fn(Credentials) + Send) {
        let mut loaded = self.stamp().await;
        let (mut seen, mut warned) = (loaded, None);
        self.show(&current);
        loop {
            if warned.is_none_or(|at: time::Instant| at.elapsed() >= WARN_EVERY) {
                self.warn_of_expiry(&current);
                warned = Some(time::Instant::now());
            }
            let was_asked = tokio::select! {
                () = time::sleep(self.config.every) => false,
                () = self.asked.notified() => true,
            };
            let stamp = self.stamp().await;
            let is_settled = stamp == seen || was_asked;
            seen = stamp;
            if stamp == loaded || !is_settled {
                continue;
            }
            loaded = stamp;
            match self.load(&current).await {
                Ok(Some(new)) => {
                    info!(
                        certificate = %self.config.files.certificate.display(),
                        valid_until = %day(new.not_after_ms()), "take up the new certificate"
                    );
                    self.metrics.loaded.increment(1);
                    self.show(&new);
                    (current, warned) = (new.clone(), None);
                    take(new);
                }
                Ok(None) => {}
                Err(error) => {
                    self.metrics.refused.increment(1);
                    error!(%error, "the new certificate files are not usable; the old ones stay in use");
                }
            }
        }
    }

    /// `None` where the pool has stopped, and the node with it.
    async fn load(&self, current: &Credentials) -> Result<Option<Credentials>, CertError> {
        let (config, now_ms) = (self.config.clone(), self.clock.wall_ms());
        let load = move || config.files.load(config.node_id, now_ms);
        let Ok(new) = self.blocking.run(load).await else { return Ok(None) };
        let new = new?;
        if new.identity() == current.identity() {
            return Ok(Some(new));
        }
        Err(CertError::ChangedIdentity {
            path: self.config.files.certificate.clone(),
            found: new.identity(),
            current: current.identity(),
        })
    }

    async fn stamp(&self) -> Stamp {
        let files = self.config.files.clone();
        let look = move || [&files.ca, &files.certificate, &files.key].map(|path| stamp_of(path));
        self.blocking.run(look).await.unwrap_or_default()
    }

    fn show(&self, credentials: &Credentials) {
        self.metrics.node_expiry.set(credentials.not_after_ms() as f64 / 1000.0);
        self.metrics.ca_expiry.set(credentials.ca_not_after_ms() as f64 / 1000.0);
    }

    fn warn_of_expiry(&self, credentials: &Credentials) {
        let files = &self.config.files;
        let now_ms = self.clock.wall_ms();
        let ends = [
            (&files.certificate, credentials.not_after_ms(), "renew it: 'ottla cert node --renew'"),
            (
                &files.ca,
                credentials.ca_not_after_ms(),
                "make another with 'ottla cert ca --cluster CLUSTER', and add it to this file on every node",
            ),
        ];
        for (path, not_after_ms, remedy) in ends {
            let left_ms = not_after_ms.saturating_sub(now_ms);
            let file = path.display();
            let valid_until = day(not_after_ms);
            if left_ms <= 0 {
                error!(%file, %valid_until, remedy, "a certificate has expired: no node can connect anew");
            } else if u128::from(left_ms.unsigned_abs()) < EXPIRY_WARNING.as_millis() {
                let days_left = left_ms / 86_400_000;
                warn!(%file, %valid_until, days_left, remedy, "a certificate is about to expire");
            }
        }
    }
}

fn stamp_of(path: &Path) -> Option<(u64, i64, i64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.len(), found.mtime(), found.mtime_nsec(), found.ino()))
}
