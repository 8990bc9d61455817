//! The loop: turns the core and never waits for a disk.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    Environment, Inbox, QuorumConfig,
    apply::{Applier, ToApply},
    snapshot::{Position, SnapshotError},
    tasks, tick_of,
    transfer::Transfers,
};
use crate::quorum::{
    core::{Change, ChangeError, Core, CoreError, Fetch},
    handle::{
        Command, Handle, Inbound, ProposeDone, ProposeError, ReadDone, Shared, Speculation, Status,
    },
    machine::Machine,
    raftpb::{Entry, Message, MessageType},
    store::{ImageReader, Point, Write},
};

/// Commands and events taken in before their effects are.
const INPUTS_PER_TURN: usize = 256;
/// Applied entries that may wait for being stored.
const UNSTORED_MAX: usize = 1024;
/// Ticks after which an unanswered read index is asked for again.
const READ_RETRY_TICKS: u32 = 4;

/// What the other tasks tell the loop.
pub(super) enum Event {
    Persisted(u64),
    Applied(u64),
    /// The stored image reaches this index.
    Stored(u64),
    Fetched(Fetch, Vec<Entry>),
    Prepared {
        to: u64,
        reader: Option<Box<dyn ImageReader>>,
    },
    SnapshotSent {
        to: u64,
        arrived: bool,
    },
    /// A chunk of a snapshot is in the store.
    Staged {
        last: Option<Bytes>,
        reply: oneshot::Sender<Result<Position, SnapshotError>>,
    },
    /// Nothing is staged any more, for a snapshot without any pairs.
    Emptied {
        header: Message,
        reply: oneshot::Sender<Result<(), SnapshotError>>,
    },
    Compacted,
}

pub(super) struct Turn<M: Machine> {
    pub(super) core: Core,
    config: QuorumConfig,
    pub(super) environment: Environment,
    pub(super) shared: Arc<Shared<M>>,
    pub(super) transfers: Transfers,
    pub(super) events: mpsc::UnboundedSender<Event>,
    persister: mpsc::UnboundedSender<Write>,
    applier: mpsc::UnboundedSender<ToApply>,
    leads_term: Option<u64>,
    /// The last speculation of which a proposal was refused.
    refused: Option<Speculation>,
    new_reads: Vec<ReadDone>,
    asked_reads: BTreeMap<u64, Vec<ReadDone>>,
    next_read: u64,
    ticks_since_reads: u32,
    applied_entries: u64,
    compacting: bool,
    handing_over: Vec<oneshot::Sender<()>>,
}

/// Starts the tasks; the loop's is the first.
pub(super) fn spawn<M: Machine>(
    core: Core,
    config: QuorumConfig,
    environment: &Environment,
    handle: &Handle<M>,
    inbox: Inbox,
    applied: Point,
) -> Vec<JoinHandle<()>> {
    let (events, events_inbox) = mpsc::unbounded_channel();
    let (persister, persister_inbox) = mpsc::unbounded_channel();
    let (applier, applier_inbox) = mpsc::unbounded_channel();
    let (writer, writer_inbox) = mpsc::channel(UNSTORED_MAX);
    let applying = Applier {
        environment: environment.clone(),
        shared: Arc::clone(&handle.shared),
        inbox: applier_inbox,
        writer,
        events: events.clone(),
        configuration: applied.configuration,
        waiters: VecDeque::new(),
    };
    let ticks = interval(tick_of(&config));
    let turn = Turn {
        core,
        config,
        environment: environment.clone(),
        shared: Arc::clone(&handle.shared),
        events: events.clone(),
        persister,
        applier,
        leads_term: None,
        refused: None,
        new_reads: Vec::new(),
        asked_reads: BTreeMap::new(),
        next_read: 0,
        ticks_since_reads: 0,
        applied_entries: 0,
        compacting: false,
        handing_over: Vec::new(),
        transfers: Transfers::default(),
    };
    vec![
        tokio::spawn(turn.run(inbox, events_inbox, ticks)),
        tokio::spawn(tasks::persist(environment.clone(), persister_inbox, events.clone())),
        tokio::spawn(applying.run()),
        tokio::spawn(tasks::write_image(environment.clone(), writer_inbox, events)),
    ]
}

impl<M: Machine> Turn<M> {
    async fn run(
        mut self,
        mut inbox: Inbox,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut ticks: Interval,
    ) {
        // After a stall a burst of ticks would look like silence of the leader.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.dispatch();
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick(),
                event = events.recv() => {
                    let Some(event) = event else { return };
                    self.event(event);
                }
                message = inbox.messages.recv() => {
                    let Some(message) = message else { return };
                    self.step(message);
                }
                command = inbox.commands.recv() => {
                    let Some(command) = command else { return };
                    if self.command(command).is_break() {
                        return;
                    }
                }
            }
            if self.take_more(&mut inbox, &mut events).is_break() {
                return;
            }
        }
    }

    /// Takes what has arrived meanwhile, so that one sync serves it all.
    fn take_more(
        &mut self,
        inbox: &mut Inbox,
        events: &mut mpsc::UnboundedReceiver<Event>,
    ) -> std::ops::ControlFlow<()> {
        for _ in 0..INPUTS_PER_TURN {
            if let Ok(event) = events.try_recv() {
                self.event(event);
            } else if let Ok(message) = inbox.messages.try_recv() {
                self.step(message);
            } else if let Ok(command) = inbox.commands.try_recv() {
                self.command(command)?;
            } else {
                break;
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn tick(&mut self) {
        self.core.tick();
        self.ticks_since_reads += 1;
        if self.ticks_since_reads >= READ_RETRY_TICKS {
            self.ticks_since_reads = 0;
            for (_, reads) in std::mem::take(&mut self.asked_reads) {
                self.new_reads.extend(reads);
            }
            self.new_reads.retain(|done| !done.is_closed());
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Persisted(number) => self.core.persisted(number),
            Event::Applied(index) => {
                self.applied_entries += 1;
                self.core.applied(index);
            }
            Event::Stored(index) => self.compact(index),
            Event::Fetched(fetch, entries) => self.core.fetched(fetch, entries),
            Event::Prepared { to, reader } => self.prepared(to, reader),
            Event::SnapshotSent { to, arrived } => self.snapshot_sent(to, arrived),
            Event::Staged { last, reply } => self.staged(last, reply),
            Event::Emptied { header, reply } => self.hand_in(header, reply),
            Event::Compacted => self.compacting = false,
        }
    }

    fn command(&mut self, command: Command) -> std::ops::ControlFlow<()> {
        match command {
            Command::Propose { data, speculation, done } => self.propose(data, speculation, done),
            Command::Read(done) => self.new_reads.push(done),
            Command::Change { change, refused, done } => self.change(change, refused, done),
            Command::Receive(request) => self.receive(*request),
            Command::Unreachable(peer_id) => self.core.unreachable(peer_id),
            Command::Transfer(to) => self.core.transfer_leader(to),
            Command::HandOver(done) => self.hand_over(done),
            Command::Stop => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    fn step(&mut self, Inbound { message, size_bytes }: Inbound) {
        self.shared.inbound_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
        let from = message.from;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            tracing::warn!(from, "a snapshot came without its image and was refused");
            return;
        }
        match self.core.step(*message) {
            Ok(()) => {}
            // Until the others know of this node's new disk they go on writing to the old one.
            Err(error @ CoreError::Misdirected { .. }) => tracing::debug!(from, %error),
            Err(error) => tracing::warn!(from, %error, "message from a peer refused"),
        }
    }

    fn change(&mut self, change: Change, refused: oneshot::Sender<ChangeError>, done: ProposeDone) {
        match self.core.change(change) {
            Ok(place) => drop(self.applier.send(ToApply::Waiter(place, done))),
            Err(error) => drop(refused.send(error)),
        }
    }

    fn hand_over(&mut self, done: oneshot::Sender<()>) {
        match self.core.best_successor().filter(|_| self.core.is_leader()) {
            None => drop(done.send(())),
            Some(successor) => {
                self.handing_over.push(done);
                self.core.transfer_leader(successor);
            }
        }
    }

    fn propose(&mut self, data: Vec<u8>, speculation: Option<Speculation>, done: ProposeDone) {
        let result = match speculation {
            Some(s) if s.term != self.core.term() => Err(ProposeError::NotLeader),
            Some(s) if self.refused.is_some_and(|refused| s <= refused) => {
                Err(ProposeError::Superseded)
            }
            _ => self.core.propose(data).map_err(|error| match error {
                CoreError::Busy => ProposeError::Busy,
                CoreError::TooLarge { .. } => ProposeError::TooLarge,
                _ => ProposeError::NotLeader,
            }),
        };
        match result {
            Ok(place) => drop(self.applier.send(ToApply::Waiter(place, done))),
            Err(error) => {
                self.refused = self.refused.max(speculation);
                let _ = done.send(Err(error));
            }
        }
    }

    fn compact(&mut self, stored: u64) {
        if self.compacting {
            return;
        }
        let (entries, bytes) = (self.config.log_margin_entries, self.config.log_margin_bytes);
        let Some(index) = self.core.compaction_point(stored, entries, bytes) else { return };
        let Some(term) = self.core.compact(index) else { return };
        self.compacting = true;
        tasks::job(&self.environment, &self.events, move |store| {
            store.compact(index, term)?;
            Ok(Event::Compacted)
        });
    }

    /// Does what the core asks for.
    fn dispatch(&mut self) {
        self.ask_reads();
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                break;
            }
            // Before what the new role does, so that whoever waits learns of a loss first.
            self.note_role();
            for write in effects.writes {
                let _ = self.persister.send(write);
            }
            self.send(effects.messages);
            if !effects.applies.is_empty() {
                let _ = self.applier.send(ToApply::Apply(effects.applies));
            }
            for (context, index) in effects.reads {
                for done in self.asked_reads.remove(&context).unwrap_or_default() {
                    let _ = done.send(index);
                }
            }
            for fetch in effects.fetches {
                tasks::job(&self.environment, &self.events, move |store| {
                    let entries = store.entries(fetch.low, fetch.high, fetch.max_bytes);
                    // Compacted meanwhile: the core then asks for a snapshot instead.
                    Ok(Event::Fetched(fetch, entries.unwrap_or_default()))
                });
            }
            for wanted in effects.snapshots {
                self.prepare(wanted);
            }
        }
        self.note_role();
        self.publish_status();
    }

    fn send(&mut self, messages: Vec<Message>) {
        let is_snapshot = |m: &Message| m.get_msg_type() == MessageType::MsgSnapshot;
        let (snapshots, messages): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_snapshot);
        if !messages.is_empty() {
            self.environment.peers.send(messages);
        }
        for header in snapshots {
            self.send_snapshot(header);
        }
    }

    fn ask_reads(&mut self) {
        if self.new_reads.is_empty() || (self.core.is_leader() && !self.core.can_read()) {
            return;
        }
        self.next_read += 1;
        self.asked_reads.insert(self.next_read, std::mem::take(&mut self.new_reads));
        self.core.read_index(self.next_read);
    }

    fn note_role(&mut self) {
        let now = self.core.is_leader().then(|| self.core.term());
        if self.leads_term != now {
            if self.leads_term.is_some() {
                let _ = self.applier.send(ToApply::LeadershipLost);
                self.forget_prepared();
                self.handing_over.clear();
            }
            self.leads_term = now;
            // Before a read is answered that another leader confirmed.
            self.publish_status();
        }
    }

    fn publish_status(&self) {
        let raft = self.core.status();
        self.shared.status.send_if_modified(|status| {
            let log_start_index = self.core.truncated().0 + 1;
            let same = status.raft == raft
                && status.applied_entries == self.applied_entries
                && status.log_start_index == log_start_index
                && status.configuration == *self.core.configuration();
            if same {
                return false;
            }
            *status = Arc::new(Status {
                raft,
                configuration: self.core.configuration().clone(),
                identity: status.identity,
                log_start_index,
                applied_entries: self.applied_entries,
            });
            true
        });
    }
}
