//! What goes wrong, and when.

use rand::RngExt as _;

use super::{Event, Failure, Sim, host::Life};

impl Sim {
    pub(super) fn fault(&mut self) -> Result<(), Failure> {
        if !self.faults {
            return Ok(());
        }
        let hosts = self.hosts.len();
        let host = self.rng.random_range(0..hosts);
        match self.rng.random_range(0..20) {
            0..=2 => self.crash_for(host, 2_500),
            3 => {
                self.counts.blackouts += 1;
                for host in 0..hosts {
                    self.crash_for(host, 600);
                }
            }
            4 | 5 => self.stop(host),
            6 | 7 => self.pause(host),
            8 | 9 => self.network.cut_some(&mut self.rng, hosts + 1),
            10 => self.network.worsen(&mut self.rng),
            11..=13 => self.network.heal(),
            14 => self.cluster.fail_over(self.now_ms),
            15 => {
                let slow_ms = self.rng.random_range(200..2_000);
                self.hosts[host].slow_until_ms = self.now_ms + slow_ms;
            }
            16 => self.delete_records()?,
            17 => self.change_min_isr(),
            18 => self.sever_of(host),
            _ => self.checkpoint(host),
        }
        let pause_ms = self.rng.random_range(30..800);
        self.at(pause_ms, Event::Fault);
        Ok(())
    }

    fn crash_for(&mut self, host: usize, max_ms: u64) {
        self.crash(host);
        let down_ms = self.rng.random_range(1..max_ms);
        self.at(down_ms, Event::Restart(host));
    }

    /// Ends the node's life: its process is killed, or its power fails, where acknowledging waits for
    /// the disk.
    pub(super) fn crash(&mut self, host: usize) {
        let is_power_cut = self.is_strict && self.rng.random_bool(0.7);
        let seed = self.rng.random();
        let this = &mut self.hosts[host];
        let Some(life) = this.life.take() else { return };
        drop(life);
        if is_power_cut {
            this.disk.crash(seed);
        } else {
            this.disk.kill();
        }
        this.clean = None;
        self.counts.crashes += 1;
        self.say(|| format!("node {} crashes, power cut: {is_power_cut}", host + 1));
        self.sever_of(host);
    }

    /// The node is asked to stop in order.
    fn stop(&mut self, host: usize) {
        let stops_ms = self.now_ms + 1_500;
        let Some(life) = &mut self.hosts[host].life else { return };
        life.stops_ms = Some(stops_ms);
        self.say(|| format!("node {} is to stop", host + 1));
    }

    /// The controller has let the node go: it closes its logs and stops.
    pub(super) fn close(&mut self, host: usize) -> anyhow::Result<()> {
        self.rest(host);
        let this = &mut self.hosts[host];
        let Some(Life { directory, broker_epoch, log, .. }) = this.life.take() else {
            return Ok(());
        };
        drop(log);
        directory.close()?;
        this.clean = broker_epoch;
        this.disk.kill();
        self.counts.stops += 1;
        self.say(|| format!("node {} stops", host + 1));
        self.sever_of(host);
        let down_ms = self.rng.random_range(1..1_000);
        self.at(down_ms, Event::Restart(host));
        Ok(())
    }

    fn pause(&mut self, host: usize) {
        let until_ms = self.now_ms + self.rng.random_range(50..3_000);
        // What has waited for the end of a pause goes on in its order, so no pause is changed.
        if self.is_paused(host) {
            return;
        }
        if let Some(life) = &mut self.hosts[host].life {
            life.paused_until_ms = until_ms;
            self.counts.pauses += 1;
            self.say(|| format!("node {} pauses until {until_ms}", host + 1));
        }
    }

    pub(super) fn is_paused(&self, host: usize) -> bool {
        let life = self.hosts[host].life.as_ref();
        life.is_some_and(|life| life.paused_until_ms > self.now_ms)
    }

    /// The node writes its checkpoints.
    fn checkpoint(&mut self, host: usize) {
        if let Some(life) = &self.hosts[host].life {
            let known = [(life.log.name().to_owned(), life.high_watermark)].into();
            // A disk that fails is not part of these runs.
            let _ = life.directory.checkpoint();
            let _ = life.directory.checkpoint_high_watermarks(&known);
        }
    }

    pub(super) fn heal(&mut self) {
        self.faults = false;
        self.network.heal();
        self.healed_ms = self.now_ms;
        self.acknowledged_at_heal = self.checker.acknowledged_count();
        for host in 0..self.hosts.len() {
            self.hosts[host].slow_until_ms = 0;
            self.at(1, Event::Restart(host));
        }
        self.at(500, Event::Look);
    }
}
