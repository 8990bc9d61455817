//! What a node does with the metadata and with what its core asks for: the shell of production in
//! virtual time.

use ottla::{
    base::{BrokerEpoch, NodeId, Offset},
    controller::Request,
    log::{Append, Origin},
    metadata::{MetadataImage, Partition},
    replication::{
        follower::{self, Action, Follower, FollowerConfig},
        isr_request,
        leader::{self, Leader, LeaderConfig, Registration},
        subscription::Session,
        wire,
    },
};
use rand::RngExt as _;

use super::{
    Event, Failure, Question, Sim, cluster,
    host::{self, At, Following, Leading, Life, Role, WALL_MS},
};

impl Sim {
    /// Takes up the role that the node's metadata gives it.
    pub(super) fn take_role(&mut self, host: usize) -> Result<(), Failure> {
        if self.delete_stray(host)? {
            return Ok(());
        }
        let (node, version) = (self.hosts[host].node, self.hosts[host].version);
        let image = self.cluster.image(version).clone();
        let Some(life) = &self.hosts[host].life else { return Ok(()) };
        let registered = image.broker(node).map(|broker| broker.epoch);
        // What is older than this process's registration speaks of a former one.
        if life.broker_epoch.is_none() || registered != life.broker_epoch {
            if life.broker_epoch.is_none() || registered > life.broker_epoch {
                self.rest(host);
            }
            return Ok(());
        }
        let Some(partition) = image.partition(self.cluster.partition).cloned() else {
            return Ok(());
        };
        match partition.leader {
            Some(leader) if leader == node => self.lead(host, &image, &partition),
            Some(leader) => {
                self.follow(host, leader, &partition);
                Ok(())
            }
            None => {
                self.rest(host);
                Ok(())
            }
        }
    }

    /// Gives up the role.
    pub(super) fn rest(&mut self, host: usize) {
        let Some(life) = &mut self.hosts[host].life else { return };
        life.roles += 1;
        match std::mem::replace(&mut life.role, Role::Idle) {
            Role::Idle => {}
            Role::Leading(leading) => {
                self.close_all(leading.sessions.into_values().collect());
            }
            Role::Following(following) => {
                if let Some((id, session)) = following.connection.zip(following.core.session()) {
                    let over = wire::Request::Unsubscribe(session);
                    self.send(id, true, over.encode());
                }
            }
        }
    }

    fn lead(
        &mut self,
        host: usize,
        image: &MetadataImage,
        partition: &Partition,
    ) -> Result<(), Failure> {
        let now_ms = self.now_ms;
        let registration = registration(image, partition);
        let epoch = registration.leader_epoch;
        if let Some((leading, _)) = self.hosts[host].leading()
            && leading.core.leader_epoch() == epoch
        {
            leading.core.handle_registration(registration, now_ms);
            return Ok(());
        }
        self.rest(host);
        let (config, is_strict) = (self.leader_config(host), self.is_strict);
        let here = self.hosts[host].here(host);
        let Some(life) = &mut self.hosts[host].life else { return Ok(()) };
        life.log.assign_epoch(epoch);
        let end = life.log.log_end_offset();
        let start = leader::Start {
            log_end_offset: end,
            acknowledged: if is_strict { life.log.recovery_point() } else { end },
            high_watermark: life.high_watermark,
        };
        let (start_offset, log) = (life.log.log_start_offset(), &life.log);
        let held = host::read_all(log, start_offset, end)?;
        life.role = Role::Leading(Leading {
            core: Leader::new(config, registration, start, now_ms),
            writes: Vec::new(),
            sessions: Default::default(),
            flushing: false,
            pumping: false,
        });
        self.say(|| format!("node {} leads in epoch {epoch} from {end} on", host + 1));
        self.checker.leads(here, epoch, &held)?;
        Ok(())
    }

    fn follow(&mut self, host: usize, leader: NodeId, partition: &Partition) {
        let (now_ms, epoch) = (self.now_ms, partition.leader_epoch);
        if let Some((following, _)) = self.hosts[host].following() {
            if following.leader == leader {
                following.core.handle_leader(epoch, now_ms);
                return;
            }
            if following.core.leader_epoch() >= epoch {
                return;
            }
        }
        self.rest(host);
        let config = self.follower_config();
        let Some(life) = &mut self.hosts[host].life else { return };
        let Some(broker_epoch) = life.broker_epoch else { return };
        let start = follower::Start {
            flushed: life.log.recovery_point(),
            high_watermark: life.high_watermark,
            broker_epoch,
            leader_epoch: epoch,
        };
        let core = Follower::new(config, &*life.log, start, now_ms);
        life.role = Role::Following(Following { core, leader, connection: None });
        self.say(|| format!("node {} follows {leader} in epoch {epoch}", host + 1));
    }

    fn leader_config(&self, host: usize) -> LeaderConfig {
        let mut config = LeaderConfig::new(self.hosts[host].node);
        config.replica_lag_time_max_ms = self.lag_ms;
        config.bug = self.options.bug;
        config
    }

    fn follower_config(&self) -> FollowerConfig {
        let mut config = FollowerConfig::new(if self.is_strict { 1 } else { 1_000 });
        config.bug = self.options.bug;
        config
    }

    /// Does what the node's core asks for, and checks what came of it.
    pub(super) fn serve(&mut self, host: usize) -> Result<(), Failure> {
        let Some(life) = &self.hosts[host].life else { return Ok(()) };
        match &life.role {
            Role::Idle => {}
            Role::Leading(_) => self.serve_leader(host)?,
            Role::Following(_) => self.serve_follower(host)?,
        }
        self.note_high_watermark(host)?;
        let (is_strict, now_ms) = (self.is_strict, self.now_ms);
        let this = &mut self.hosts[host];
        let here = this.here(host);
        let Some(life) = &mut this.life else { return Ok(()) };
        let end = life.log.log_end_offset();
        this.holds = if is_strict { life.log.recovery_point() } else { end };
        let deadline_ms = match &life.role {
            Role::Idle => None,
            Role::Leading(leading) => leading.core.next_deadline_ms(),
            Role::Following(following) => following.core.next_deadline_ms(),
        };
        if let Some(at_ms) = deadline_ms
            && life.deadline_ms.is_none_or(|known_ms| at_ms < known_ms || known_ms <= now_ms)
        {
            life.deadline_ms = Some(at_ms);
            self.heap.push(at_ms.max(now_ms + 1), Event::Deadline(here));
        }
        Ok(())
    }

    fn serve_leader(&mut self, host: usize) -> Result<(), Failure> {
        let (now_ms, node, is_strict) = (self.now_ms, self.hosts[host].node, self.is_strict);
        let here = self.hosts[host].here(host);
        let broker_epoch = self.hosts[host].life.as_ref().and_then(|life| life.broker_epoch);
        let Some((leading, log)) = self.hosts[host].leading() else { return Ok(()) };
        let end = log.log_end_offset();
        leading.core.handle_time(now_ms);
        if !is_strict {
            leading.core.handle_own_acknowledged(end, now_ms);
        }
        let asked = leading.core.poll_alter_partition(now_ms);
        let flushes = is_strict && log.recovery_point() < end && !leading.flushing;
        leading.flushing |= flushes;
        let pumps = !leading.pumping && Self::has_pushes(leading, log);
        leading.pumping |= pumps;
        if pumps {
            let delay_ms = self.rng.random_range(0..3);
            self.at(delay_ms, Event::Pump(here));
        }
        if flushes {
            self.flush(host, 0);
        }
        if let Some((asked, broker_epoch)) = asked.zip(broker_epoch) {
            self.say(|| format!("node {} asks for {asked:?}", host + 1));
            let questions = [(self.cluster.partition, &asked)];
            let request = isr_request::request(node, broker_epoch, &questions);
            let question = Question::Isr(asked.leader_epoch, asked.number);
            self.ask(here, question, Request::AlterPartition(request));
            self.at(250, Event::Unanswered(here, asked.leader_epoch, asked.number));
        }
        Ok(())
    }

    fn serve_follower(&mut self, host: usize) -> Result<(), Failure> {
        let now_ms = self.now_ms;
        loop {
            let mut next = self.hosts[host].sessions;
            let Some((following, _)) = self.hosts[host].following() else { return Ok(()) };
            let leader = following.leader;
            let action = following.core.poll_action(now_ms, || {
                next += 1;
                Session(next)
            });
            self.hosts[host].sessions = next;
            match action {
                None => return Ok(()),
                Some(Action::Subscribe(subscribe)) => {
                    if let Some(id) = self.connect(host, leader.0 as usize - 1) {
                        let frame = wire::Request::Subscribe(self.cluster.partition, subscribe);
                        self.send(id, true, frame.encode());
                    }
                }
                Some(Action::Unsubscribe(session)) => {
                    let Some((following, _)) = self.hosts[host].following() else { continue };
                    if let Some(id) = following.connection {
                        self.send(id, true, wire::Request::Unsubscribe(session).encode());
                    }
                }
                Some(Action::Acknowledge { session, end }) => {
                    self.acknowledge(host, session, end);
                }
                Some(Action::Flush(number)) => self.flush(host, number),
                Some(action) => self.change_log(host, action)?,
            }
        }
    }

    fn change_log(&mut self, host: usize, action: Action) -> Result<(), Failure> {
        let now_ms = self.now_ms;
        let Some(life) = &mut self.hosts[host].life else { return Ok(()) };
        let Role::Following(following) = &mut life.role else { return Ok(()) };
        let (log, core) = (&life.log, &mut following.core);
        match action {
            Action::Truncate(to) => {
                self.counts.truncated += 1;
                self.counts.cut += log.log_end_offset().since(to).max(0) as u64;
                self.checker.cut(host, to, life.high_watermark)?;
                log.truncate_to(to).map_err(anyhow::Error::from)?;
                core.handle_cut(&**log, now_ms);
                self.say(|| format!("node {} cuts its log to {to}", host + 1));
            }
            Action::StartAt(offset) => {
                self.counts.started_over += 1;
                log.truncate_fully_and_start_at(offset).map_err(anyhow::Error::from)?;
                core.handle_cut(&**log, now_ms);
                life.high_watermark = life.high_watermark.min(offset);
                self.say(|| format!("node {} begins its log anew at {offset}", host + 1));
            }
            Action::Append(batches) => {
                let how = Append {
                    origin: Origin::Replication,
                    leader_epoch: core.leader_epoch(),
                    log_append_time_ms: None,
                    now_ms: WALL_MS + now_ms as i64,
                };
                log.append(&batches, how).map_err(anyhow::Error::from)?;
            }
            Action::RaiseLogStart(offset) => {
                let end = core.high_watermark();
                log.delete_records(offset, end).map_err(anyhow::Error::from)?;
            }
            other => unreachable!("{other:?} does not change the log"),
        }
        Ok(())
    }

    /// Begins a flush, which takes its time; what is appended meanwhile is not part of it.
    fn flush(&mut self, host: usize, number: u64) {
        let is_slow = self.hosts[host].slow_until_ms > self.now_ms;
        let delay_ms = self.rng.random_range(if is_slow { 100..900 } else { 1..8 });
        let here = self.hosts[host].here(host);
        let Some(life) = &self.hosts[host].life else { return };
        let (role, end) = (life.roles, life.log.log_end_offset());
        self.at(delay_ms, Event::Flushed(here, role, number, end));
    }

    pub(super) fn flushed(
        &mut self,
        at: At,
        role: u64,
        number: u64,
        end: Offset,
    ) -> Result<(), Failure> {
        let now_ms = self.now_ms;
        let Some(life) = self.life(at) else { return Ok(()) };
        let flushed = life.log.flush().map_err(anyhow::Error::from)?.min(end);
        if life.roles == role {
            match &mut life.role {
                Role::Idle => {}
                Role::Leading(leading) => {
                    leading.flushing = false;
                    leading.core.handle_own_acknowledged(flushed, now_ms);
                }
                Role::Following(following) => following.core.handle_flushed(number, flushed),
            }
        }
        self.touched.insert(at.host);
        Ok(())
    }

    /// What the node shows to be committed by now is so, and whose writes that covers hear of it.
    fn note_high_watermark(&mut self, host: usize) -> Result<(), Failure> {
        let Some(Life { log, role, high_watermark, .. }) = &mut self.hosts[host].life else {
            return Ok(());
        };
        match role {
            Role::Idle => {}
            Role::Following(following) => {
                let now = following.core.high_watermark();
                let news = host::read_all(log, *high_watermark, now)?;
                *high_watermark = now;
                self.checker.follows(host, &news)?;
            }
            Role::Leading(leading) => {
                let (core, now) = (&leading.core, leading.core.high_watermark());
                let news = host::read_all(log, *high_watermark, now)?;
                *high_watermark = now;
                let is_settled = core.settled_high_watermark().is_some();
                self.checker.commits(core.leader_epoch(), now, is_settled, &news)?;
                let done: Vec<_> = leading.writes.extract_if(.., |w| w.end <= now).collect();
                for write in done {
                    self.checker.acknowledges(write.base, write.body)?;
                }
            }
        }
        Ok(())
    }
}

/// A partition's registration as its leader acts on it.
fn registration(image: &MetadataImage, partition: &Partition) -> Registration {
    let active = |node: &NodeId| -> Option<(NodeId, BrokerEpoch)> {
        let broker = image.broker(*node).filter(|broker| partition.is_active_on(broker))?;
        Some((*node, broker.epoch))
    };
    Registration {
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        replicas: partition.replicas.iter().copied().collect(),
        isr: partition.isr.iter().copied().collect(),
        recovering: partition.recovering,
        min_insync_replicas: cluster::min_isr(image),
        active: partition.replicas.iter().filter_map(active).collect(),
    }
}
