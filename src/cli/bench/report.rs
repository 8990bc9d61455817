//! What a measurement prints.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::{failure::Failure, output::Out};

/// Latencies in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latencies {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
    pub(super) mean_ms: f64,
    pub(super) samples: u64,
}

impl From<&Histogram<u64>> for Latencies {
    fn from(micros: &Histogram<u64>) -> Self {
        let ms = |micros: u64| micros as f64 / 1000.0;
        Self {
            p50_ms: ms(micros.value_at_quantile(0.5)),
            p99_ms: ms(micros.value_at_quantile(0.99)),
            p999_ms: ms(micros.value_at_quantile(0.999)),
            max_ms: ms(micros.max()),
            mean_ms: micros.mean() / 1000.0,
            samples: micros.len(),
        }
    }
}

/// CPU time of this process and of all brokers' together, in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu<'a> {
    own: f64,
    broker: Option<f64>,
    broker_pids: &'a [u32],
}

impl<'a> Cpu<'a> {
    pub(super) fn now(broker_pids: &'a [u32]) -> Self {
        let brokers = broker_pids.iter().map(|pid| seconds(&pid.to_string()));
        let broker = brokers.sum::<Option<f64>>().filter(|_| !broker_pids.is_empty());
        Self { own: seconds("self").unwrap_or(0.0), broker, broker_pids }
    }

    /// What was used since, by this process and by the brokers.
    pub(super) fn since(self) -> (f64, Option<f64>) {
        let now = Self::now(self.broker_pids);
        (now.own - self.own, now.broker.zip(self.broker).map(|(now, then)| now - then))
    }
}

/// User and system time of a process. Linux counts them in hundredths of a second.
fn seconds(process: &str) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / 100.0)
}

/// A finished measurement.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) benchmark: &'static str,
    pub(super) topic: String,
    pub(super) seconds: f64,
    pub(super) records: u64,
    /// Values alone, before compression.
    pub(super) bytes: u64,
    pub(super) records_per_second: f64,
    pub(super) mib_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target_records_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) acknowledged: Option<Latencies>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_to_end: Option<Latencies>,
    pub(super) client_cpu_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) broker_cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) broker_cpu_seconds_per_gib: Option<f64>,
}

impl Report {
    pub(super) fn new(
        benchmark: &'static str,
        topic: &str,
        elapsed: Duration,
        records: u64,
        bytes: u64,
        (client_cpu_seconds, broker_cpu_seconds): (f64, Option<f64>),
    ) -> Self {
        let seconds = elapsed.as_secs_f64().max(f64::EPSILON);
        let gib = bytes as f64 / f64::from(1 << 30);
        Self {
            benchmark,
            topic: topic.to_owned(),
            seconds,
            records,
            bytes,
            records_per_second: records as f64 / seconds,
            mib_per_second: bytes as f64 / f64::from(1 << 20) / seconds,
            target_records_per_second: None,
            acknowledged: None,
            end_to_end: None,
            client_cpu_seconds,
            broker_cpu_seconds,
            broker_cpu_seconds_per_gib: broker_cpu_seconds.filter(|_| gib > 0.0).map(|s| s / gib),
        }
    }

    pub(super) fn print(&self, out: &mut Out) -> Result<(), Failure> {
        if out.is_json() {
            return out.json(self);
        }
        let mut rows = vec![
            ("records".to_owned(), self.records.to_string()),
            ("seconds".to_owned(), format!("{:.2}", self.seconds)),
            ("records/s".to_owned(), format!("{:.0}", self.records_per_second)),
            ("MiB/s".to_owned(), format!("{:.2}", self.mib_per_second)),
        ];
        if let Some(target) = self.target_records_per_second {
            rows.push(("target records/s".to_owned(), format!("{target:.0}")));
        }
        let latencies = [("acknowledged", &self.acknowledged), ("end to end", &self.end_to_end)];
        for (name, latencies) in latencies {
            let Some(latencies) = latencies else { continue };
            for (of, ms) in [
                ("p50", latencies.p50_ms),
                ("p99", latencies.p99_ms),
                ("p99.9", latencies.p999_ms),
                ("max", latencies.max_ms),
            ] {
                rows.push((format!("{name} {of} ms"), format!("{ms:.3}")));
            }
        }
        rows.push(("client CPU s".to_owned(), format!("{:.2}", self.client_cpu_seconds)));
        if let Some(seconds) = self.broker_cpu_seconds {
            rows.push(("broker CPU s".to_owned(), format!("{seconds:.2}")));
        }
        if let Some(seconds) = self.broker_cpu_seconds_per_gib {
            rows.push(("broker CPU s/GiB".to_owned(), format!("{seconds:.2}")));
        }
        out.rows(&rows, &[self.benchmark, "value"], |(name, value)| {
            vec![name.clone(), value.clone()]
        })
    }
}
