//! What goes wrong, and when.

use ottla::{
    base::{NodeId, Offset},
    controller::Response,
    log::SimDir,
};
use rand::{RngExt as _, seq::SliceRandom as _};

use super::{
    Event, Failure, Sim, cluster,
    host::{Host, Life},
};

impl Sim {
    pub(super) fn fault(&mut self) -> Result<(), Failure> {
        if !self.faults {
            return Ok(());
        }
        let hosts = self.hosts.len();
        let host = self.rng.random_range(0..hosts);
        match self.rng.random_range(0..24) {
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
            19..=21 => self.reassign(),
            22 => self.lose_disk(host),
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

    /// Ends the node's life: its process is killed, or its power fails, where acknowledging waits
    /// for the disk.
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

    /// The node's disk is replaced by an empty one, where that is not the only one that is sure to
    /// hold what was committed.
    fn lose_disk(&mut self, host: usize) {
        let image = self.cluster.newest();
        let Some(partition) = image.partition(self.cluster.partition) else { return };
        let holds = |other: &&Host| {
            let node = other.node;
            let counts =
                partition.isr.contains(&node) || partition.eligible_leader_replicas.contains(&node);
            let stays =
                node != self.hosts[host].node && !partition.removing_replicas.contains(&node);
            counts && stays && other.has_its_disk(image)
        };
        if !self.hosts.iter().any(|other| holds(&other)) {
            return;
        }
        self.crash(host);
        let this = &mut self.hosts[host];
        this.disk = SimDir::new();
        // Where it may have been stopped in order, which only the former disk knows.
        this.clean = None;
        this.disks += 1;
        this.lost_life = this.lives;
        this.holds = Offset::ZERO;
        self.counts.lost_disks += 1;
        self.say(|| format!("node {} gets an empty disk", host + 1));
        let down_ms = self.rng.random_range(1..2_500);
        self.at(down_ms, Event::Restart(host));
    }

    /// Somebody has the partition move to other nodes, to more or to fewer, or cancels that.
    fn reassign(&mut self) {
        let image = self.cluster.newest();
        let Some(partition) = image.partition(self.cluster.partition) else { return };
        // Who trusts a replica alone that has lost its disk, before anybody could know, has lost.
        let is_hollow =
            |host: &Host| partition.replicas.contains(&host.node) && !host.has_its_disk(image);
        if self.hosts.iter().any(is_hollow) {
            return;
        }
        let is_cancelled = partition.is_reassigning() && self.rng.random_bool(0.5);
        let mut target: Vec<NodeId> = self.hosts.iter().map(|host| host.node).collect();
        target.shuffle(&mut self.rng);
        target.truncate(self.rng.random_range(1..=target.len()));
        let request = cluster::reassign((!is_cancelled).then_some(&*target));
        let response = self.cluster.decide(request, self.now_ms, &mut self.rng);
        let Response::AlterPartitionReassignments(response) = response else { return };
        let mut partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
        if partitions.any(|partition| partition.error_code == 0) {
            self.counts.cancelled += u64::from(is_cancelled);
            self.counts.reassigned += u64::from(!is_cancelled);
            self.say(|| match is_cancelled {
                true => "the reassignment is cancelled".to_owned(),
                false => format!("the partition is to move to {target:?}"),
            });
        }
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
            let _ = life.directory.checkpoint_high_watermarks(|| known);
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
