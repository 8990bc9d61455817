//! Messages between nodes.

use ottla::quorum::{
    CoreError, Store as _,
    raftpb::{Message, MessageType},
};

use super::{At, Event, Failure, Sim, Trace, faults::Step, node::Image};

impl Sim {
    /// Returns whether the sender is still there.
    pub(super) fn send(&mut self, at: At, message: Message) -> Result<bool, Failure> {
        if self.reach(at.node, Step::Send, false) {
            return Ok(false);
        }
        self.checker.sent(&self.nodes[at.node], &message)?;
        let mut image = None;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let index = message.get_snapshot().get_metadata().index;
            image = self.life(at).and_then(|life| life.snapshots.get(&index).cloned());
        }
        // A message goes to where its receiver was last known to be.
        let Some(&host) = self.hosts.get(&message.to) else { return Ok(true) };
        let delays = self.network.route(&mut self.rng, at.node, host);
        if delays[0].is_none() {
            self.tell(|| format!("lost {}", describe(&message)), &message);
            if image.is_some() {
                self.at(300, Event::SnapshotSent(at, message.to, false));
            }
        }
        for delay_ms in delays.into_iter().flatten() {
            let message = Box::new(message.clone());
            self.at(delay_ms, Event::Deliver(message, image.clone(), at));
        }
        Ok(!self.reach(at.node, Step::Send, true))
    }

    pub(super) fn deliver(
        &mut self,
        message: Message,
        image: Option<Image>,
        sender: At,
    ) -> Result<(), Failure> {
        let Some(&host) = self.hosts.get(&message.to) else { return Ok(()) };
        let peer = message.to;
        let has_image = image.is_some();
        self.tell(|| describe(&message), &message);
        let node = &mut self.nodes[host];
        let mut arrived = false;
        if let Some(life) = &mut node.life {
            arrived = node.peer_id == Some(peer) && !life.core.is_installing();
            if let Some(image) = image.filter(|_| arrived) {
                let pairs: Vec<_> = image.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                node.store.stage(true, &pairs).map_err(anyhow::Error::from)?;
            }
            self.checker.received(node.peer_id, node.incarnation, &message);
            match life.core.step(message) {
                Err(CoreError::Misdirected { .. }) => self.counts.misdirected += 1,
                Ok(()) | Err(CoreError::BadMessage(..)) => {}
                Err(error) => return Err(anyhow::Error::from(error).into()),
            }
            self.touched.push(host);
        }
        if has_image {
            self.at(5, Event::SnapshotSent(sender, peer, arrived));
        }
        Ok(())
    }

    /// Adds a message to a story; heartbeats would drown it.
    fn tell(&mut self, line: impl FnOnce() -> String, message: &Message) {
        let is_heartbeat = matches!(
            message.get_msg_type(),
            MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse
        );
        if self.options.trace == Trace::Story && !is_heartbeat {
            self.say(line);
        }
    }
}

/// A message in one line.
pub(super) fn describe(m: &Message) -> String {
    let kind = format!("{:?}", m.get_msg_type());
    let kind = kind.trim_start_matches("Msg");
    let mut text = format!("{} → {} {kind} term {}", m.from, m.to, m.term);
    if m.get_msg_type() == MessageType::MsgSnapshot {
        let metadata = m.get_snapshot().get_metadata();
        text += &format!(" at ({}, {})", metadata.index, metadata.term);
    }
    match m.get_msg_type() {
        MessageType::MsgAppendResponse => text += &format!(" up to {}", m.index),
        _ if m.index > 0 => text += &format!(" after ({}, {})", m.index, m.log_term),
        _ => {}
    }
    if let (Some(first), Some(last)) = (m.entries.first(), m.entries.last())
        && first.index > 0
    {
        text += &format!(" entries {}..={}", first.index, last.index);
    }
    if m.commit > 0 {
        text += &format!(" commit {}", m.commit);
    }
    if m.reject {
        text += &format!(" rejected, hint {}", m.reject_hint);
    }
    text
}
