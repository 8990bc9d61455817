//! The streams between replicas: frames in order, until the connection breaks. What was on its way
//! then may arrive late, as a shell may handle what it had read before it noticed.

use bytes::Bytes;
use ottla::{
    base::{BrokerEpoch, Offset},
    replication::{
        leader::Push,
        subscription::{Answer, Refusal, Session},
        wire::{Acknowledged, Pushed, Reply, Request},
    },
};
use rand::RngExt as _;

use super::{
    Event, Failure, Sim,
    host::{self, At, Leading, Life, Role},
};

/// A connection that a follower has dialed.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) follower: At,
    pub(super) leader: At,
    alive: bool,
    /// Whether frames to the leader, and to the follower, are lost from here on.
    lost: [bool; 2],
    /// When the last frame arrives, to the leader and to the follower.
    last_ms: [u64; 2],
    /// What the follower has opened its stream with.
    broker_epoch: Option<BrokerEpoch>,
}

impl Sim {
    /// The connection of a follower to a leader, made if there is none; none where nobody answers.
    pub(super) fn connect(&mut self, host: usize, leader: usize) -> Option<u64> {
        let here = self.hosts[host].here(host);
        let there = self.hosts[leader].here(leader);
        self.hosts[leader].life.as_ref()?;
        let (known, broker_epoch) = match &self.hosts[host].life {
            Some(Life { role: Role::Following(following), broker_epoch, .. }) => {
                (following.connection, *broker_epoch)
            }
            _ => return None,
        };
        let is_good =
            |id: &u64| self.connections.get(id).is_some_and(|c| c.alive && c.leader == there);
        if let Some(id) = known.filter(is_good) {
            return Some(id);
        }
        self.made += 1;
        let id = self.made;
        let connection = Connection {
            follower: here,
            leader: there,
            alive: true,
            lost: [false; 2],
            last_ms: [self.now_ms; 2],
            broker_epoch: None,
        };
        self.connections.insert(id, connection);
        if let Some((following, _)) = self.hosts[host].following() {
            following.connection = Some(id);
        }
        let open = Request::Open { broker_epoch: broker_epoch? };
        self.send(id, true, open.encode());
        Some(id)
    }

    /// Sends a frame; where it is lost, so is the connection.
    pub(super) fn send(&mut self, id: u64, to_leader: bool, frame: Bytes) {
        let Some(connection) = self.connections.get(&id).filter(|c| c.alive) else { return };
        let (follower, leader) = (connection.follower, connection.leader);
        let (from, to) = if to_leader { (follower, leader) } else { (leader, follower) };
        let Some(delay_ms) = self.network.route(&mut self.rng, from.host, to.host)[0] else {
            return self.sever(id);
        };
        let last_ms = &mut self.connections.get_mut(&id).expect("it is alive").last_ms
            [usize::from(!to_leader)];
        *last_ms = (*last_ms).max(self.now_ms + delay_ms);
        let at_ms = *last_ms;
        self.heap.push(at_ms, Event::Frame(id, to_leader, frame));
    }

    /// Breaks a connection. Each side notices in its own time.
    pub(super) fn sever(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id).filter(|c| c.alive) else { return };
        connection.alive = false;
        self.counts.broken += 1;
        for side in [connection.follower, connection.leader] {
            let notice_ms = self.rng.random_range(0..300);
            self.at(notice_ms, Event::Severed(id, side));
        }
    }

    pub(super) fn sever_of(&mut self, host: usize) {
        let touches = |connection: &Connection| {
            connection.alive && (connection.follower.host == host || connection.leader.host == host)
        };
        let ids: Vec<u64> =
            self.connections.iter().filter(|(_, c)| touches(c)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.sever(id));
    }

    pub(super) fn severed(&mut self, id: u64, side: At) {
        let now_ms = self.now_ms;
        if self.life(side).is_none() {
            return;
        }
        if let Some((following, _)) = self.hosts[side.host].following()
            && following.connection == Some(id)
        {
            following.connection = None;
            if let Some(session) = following.core.session() {
                following.core.handle_closed(session, None, now_ms);
            }
        }
        if let Some((leading, _)) = self.hosts[side.host].leading() {
            let lost = leading.sessions.extract_if(.., |_, (_, by)| *by == id);
            let lost: Vec<_> = lost.collect();
            for (node, (session, _)) in lost {
                leading.core.handle_unsubscribed(node, session, now_ms);
            }
        }
        self.touched.insert(side.host);
    }

    pub(super) fn frame(&mut self, id: u64, to_leader: bool, frame: Bytes) -> Result<(), Failure> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let to = if to_leader { connection.leader } else { connection.follower };
        // Of a broken connection some frames may still be read, up to the first that is not there.
        let lost = &mut connection.lost[usize::from(!to_leader)];
        *lost |= !connection.alive && self.rng.random_bool(0.5);
        if *lost || self.life(to).is_none() {
            return Ok(());
        }
        self.touched.insert(to.host);
        if to_leader { self.request(id, to, frame) } else { self.reply(to, frame) }
    }

    fn request(&mut self, id: u64, to: At, frame: Bytes) -> Result<(), Failure> {
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let from = self.hosts[connection.follower.host].node;
        let opened = connection.broker_epoch.unwrap_or(BrokerEpoch(-1));
        match Request::decode(frame, opened).map_err(anyhow::Error::from)? {
            Request::Open { broker_epoch } => connection.broker_epoch = Some(broker_epoch),
            Request::Subscribe(_, subscribe) => {
                let session = subscribe.session;
                let answer = match self.hosts[to.host].leading() {
                    None => Answer::Refused(Refusal::NotLeader),
                    Some((leading, log)) => {
                        let answer =
                            leading.core.handle_subscribe(from, &subscribe, &**log, now_ms);
                        if answer == Answer::Agreed {
                            leading.sessions.insert(from, (session, id));
                        }
                        answer
                    }
                };
                self.counts.subscribed += u64::from(answer == Answer::Agreed);
                self.say(|| format!("node {} answers {subscribe:?} by {answer:?}", to.host + 1));
                let [frame, _] = Reply::Answer(session, answer).encode();
                self.send(id, false, frame);
            }
            Request::Acknowledge(ends) => {
                if let Some((leading, _)) = self.hosts[to.host].leading() {
                    for (session, end) in ends.iter() {
                        leading.core.handle_acknowledged(from, session, end, now_ms);
                    }
                }
            }
            Request::Unsubscribe(session) => {
                if let Some((leading, _)) = self.hosts[to.host].leading() {
                    leading.core.handle_unsubscribed(from, session, now_ms);
                }
            }
            // Nothing is throttled here.
            Request::Credit(..) => {}
        }
        Ok(())
    }

    fn reply(&mut self, to: At, frame: Bytes) -> Result<(), Failure> {
        let now_ms = self.now_ms;
        let Some((following, log)) = self.hosts[to.host].following() else { return Ok(()) };
        match Reply::decode(frame).map_err(anyhow::Error::from)? {
            Reply::Answer(session, answer) => {
                following.core.handle_answer(session, answer, &**log, now_ms);
            }
            Reply::Push(Pushed { session, from, progress, records }) => {
                let taken = following.core.handle_push(session, from, progress, records, now_ms);
                if let Err(error) = taken {
                    // Nothing here damages a frame, so only a mistake leads to this.
                    self.checker_refuses(to.host, &error.to_string())?;
                }
            }
            Reply::Close(session, refusal) => {
                following.core.handle_closed(session, Some(refusal), now_ms);
            }
            Reply::Ask(_) => {}
        }
        Ok(())
    }

    pub(super) fn acknowledge(&mut self, host: usize, session: Session, end: Offset) {
        let Some((following, _)) = self.hosts[host].following() else { return };
        let Some(id) = following.connection else { return };
        let ends = Acknowledged::collect(&mut std::iter::once((session, end)));
        self.send(id, true, Request::Acknowledge(ends).encode());
    }

    /// A leader sends one frame to each follower that misses something.
    pub(super) fn pump(&mut self, at: At) -> Result<(), Failure> {
        if self.life(at).is_none() {
            return Ok(());
        }
        let max_bytes = self.rng.random_range(1..800);
        let Some((leading, log)) = self.hosts[at.host].leading() else { return Ok(()) };
        leading.pumping = false;
        let mut frames = Vec::new();
        for (node, (_, id)) in leading.sessions.clone() {
            match leading.core.next_push(node, &**log) {
                None => {}
                Some(Push::Close { session, refusal }) => {
                    leading.sessions.remove(&node);
                    leading.core.handle_unsubscribed(node, session, self.now_ms);
                    let [frame, _] = Reply::Close(session, refusal).encode();
                    frames.push((id, frame));
                }
                Some(Push::Batches { session, from, progress }) => {
                    let end = log.log_end_offset();
                    // Only by mistake is a follower's end beyond.
                    let from_here = (from < end).then_some(from);
                    let records = from_here.map(|from| host::read(log, from, end, max_bytes));
                    let records = records.transpose()?.flatten().unwrap_or_default();
                    let batches = host::parse(records.clone())?;
                    let next = batches.last().map_or(from, |last| last.end);
                    leading.core.handle_pushed(node, session, next, progress);
                    let push = Pushed { session, from, progress, records };
                    frames.push((id, Reply::Push(push).encode().concat().into()));
                }
            }
        }
        for (id, frame) in frames {
            self.send(id, false, frame);
        }
        self.touched.insert(at.host);
        Ok(())
    }

    /// Whether some follower misses something.
    pub(super) fn has_pushes(leading: &Leading, log: &ottla::log::Log) -> bool {
        let mut nodes = leading.sessions.keys();
        nodes.any(|node| leading.core.next_push(*node, log).is_some())
    }

    /// A node leads no more: its followers hear of it.
    pub(super) fn close_all(&mut self, sessions: Vec<(Session, u64)>) {
        for (session, id) in sessions {
            let [frame, _] = Reply::Close(session, Refusal::NotLeader).encode();
            self.send(id, false, frame);
        }
    }
}
