//! Producers and consumers, and whoever deletes records or changes settings.

use bytes::Bytes;
use ottla::{
    log::{Append, Origin},
    protocol::batch::{BatchBuilder, BatchOptions, NewRecord},
};
use rand::RngExt as _;

use super::{
    Event, Failure, Sim, cluster,
    host::{self, Life, Role, WALL_MS, Write},
};

impl Sim {
    /// Producers ask whoever believes to lead, deposed leaders as well; all with `acks=all`.
    pub(super) fn produce(&mut self) -> Result<(), Failure> {
        let pause_ms = if self.faults { self.rng.random_range(1..60) } else { 40 };
        self.at(pause_ms, Event::Produce);
        let leads = |host: &usize| {
            let life = self.hosts[*host].life.as_ref();
            life.is_some_and(|l| matches!(l.role, Role::Leading(_)) && !self.is_paused(*host))
        };
        let leaders: Vec<usize> = (0..self.hosts.len()).filter(leads).collect();
        if leaders.is_empty() {
            return Ok(());
        }
        let host = leaders[self.rng.random_range(0..leaders.len())];
        for _ in 0..self.rng.random_range(1..4) {
            self.append(host)?;
        }
        self.touched.insert(host);
        Ok(())
    }

    fn append(&mut self, host: usize) -> Result<(), Failure> {
        let batch = self.batch();
        let now_ms = self.now_ms;
        let Some((leading, log)) = self.hosts[host].leading() else { return Ok(()) };
        if !leading.core.has_min_isr() {
            return Ok(());
        }
        let how = Append {
            origin: Origin::Client,
            leader_epoch: leading.core.leader_epoch(),
            log_append_time_ms: None,
            now_ms: WALL_MS + now_ms as i64,
        };
        let body = host::body(&batch);
        let appended = log.append(&[batch], how).map_err(anyhow::Error::from)?;
        let end = appended.last_offset.plus(1);
        leading.core.handle_appended(end, now_ms);
        leading.writes.push(Write { base: appended.first_offset, end, body });
        self.counts.appended += 1;
        Ok(())
    }

    /// A few records; no two batches of a run are alike.
    fn batch(&mut self) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for _ in 0..self.rng.random_range(1..4) {
            self.values += 1;
            let value = self.values.to_be_bytes();
            let timestamp_ms = WALL_MS + self.now_ms as i64;
            builder.push(&NewRecord { timestamp_ms, value: Some(&value), ..NewRecord::default() });
        }
        builder.build().expect("an uncompressed batch").bytes().clone()
    }

    /// A consumer reads somewhere below the high watermark, from a leader or a follower.
    pub(super) fn consume(&mut self) -> Result<(), Failure> {
        let pause_ms = self.rng.random_range(5..80);
        self.at(pause_ms, Event::Consume);
        let host = self.rng.random_range(0..self.hosts.len());
        let at = self.rng.random_range(0..1 << 20);
        if self.is_paused(host) {
            return Ok(());
        }
        let Some(Life { log, role, .. }) = &self.hosts[host].life else { return Ok(()) };
        let end = match role {
            Role::Idle => return Ok(()),
            Role::Leading(leading) => leading.core.high_watermark(),
            Role::Following(following) => following.core.high_watermark(),
        };
        let start = log.log_start_offset();
        if start >= end {
            return Ok(());
        }
        let from = start.plus(at % end.since(start));
        let Some(bytes) = host::read(log, from, end, 600)? else { return Ok(()) };
        let batches = host::parse(bytes)?;
        self.checker.serves(host, &batches)?;
        Ok(())
    }

    /// Somebody deletes old records at a leader.
    pub(super) fn delete_records(&mut self) -> Result<(), Failure> {
        let share = self.rng.random_range(0..4);
        for host in 0..self.hosts.len() {
            let Some((leading, log)) = self.hosts[host].leading() else { continue };
            let (start, end) = (log.log_start_offset(), leading.core.high_watermark());
            let to = start.plus(end.since(start).max(0) * share / 4);
            if to > start {
                log.delete_records(to, end).map_err(anyhow::Error::from)?;
                self.counts.deleted += 1;
                self.checker.deleted(to);
                self.touched.insert(host);
            }
        }
        Ok(())
    }

    /// Somebody changes `min.insync.replicas`.
    pub(super) fn change_min_isr(&mut self) {
        let min_isr = self.rng.random_range(1..=self.hosts.len());
        self.say(|| format!("min.insync.replicas becomes {min_isr}"));
        self.cluster.decide(cluster::set_min_isr(min_isr), self.now_ms, &mut self.rng);
    }
}
