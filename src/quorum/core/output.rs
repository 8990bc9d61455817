//! From the library's readiness to effects: what is written, what waits for it, what is handed out.

use bytes::Bytes;
use raft::{
    INVALID_ID, Ready,
    eraftpb::{Entry, EntryType},
};

use super::{Apply, Bug, Committed, Core, Effects, Pending, point::point_of};
use crate::quorum::{log_sizes::size_bytes, store::Write};

impl Core {
    /// What to do since the last call.
    #[must_use]
    pub fn take_effects(&mut self) -> Effects {
        while self.raw.has_ready() {
            let ready = self.raw.ready();
            self.process(ready);
        }
        let mut effects = std::mem::take(&mut self.effects);
        effects.fetches = self.raw.store().take_fetches();
        effects.snapshots = self.raw.store().take_snapshots_wanted();
        effects
    }

    fn process(&mut self, mut ready: Ready) {
        let number = ready.number();
        let write = self.write_of(&mut ready);
        for state in ready.take_read_states() {
            let context = state.request_ctx.strip_prefix(&self.read_prefix);
            if let Some(Ok(context)) = context.map(<[u8; 8]>::try_from) {
                self.effects.reads.push((u64::from_be_bytes(context), state.index));
            }
        }
        let hard_state = self.raw.raft.hard_state();
        let (vote, commit) = ((hard_state.term, hard_state.vote), hard_state.commit);
        let mut messages = ready.take_messages();
        if vote == self.durable_vote {
            self.effects.messages.append(&mut messages);
        }
        messages.extend(ready.take_persisted_messages());
        if self.config.bug.is(Bug::SendBeforePersist) {
            self.effects.messages.append(&mut messages);
        }
        let committed = ready.take_committed_entries();
        let install = write.as_ref().and_then(|w| w.install.clone());
        let is_write = write.is_some();
        // What is not written does not become durable with this step.
        let commit = if is_write { commit } else { self.written_commit };
        self.written_commit = commit;
        self.raw.advance_append_async(ready);
        if let Some(point) = &install {
            self.installing = Some(point.index);
            self.configuration = point.configuration.clone();
            self.configuration_index = point.index;
        }
        self.pending.push_back(Pending { number, is_write, messages, install, vote, commit });
        self.effects.writes.extend(write);
        for entry in committed {
            self.hand_out(entry);
        }
        if self.pending.iter().all(|p| !p.is_write) {
            self.settle(number);
        }
    }

    /// What must be durable before this step counts. A new commit index alone is not written: it
    /// goes along with the next write, and the applied index implies it. Not so where it covers a
    /// change of the configuration: a node that forgot it might wait for peers that were removed
    /// since.
    fn write_of(&mut self, ready: &mut Ready) -> Option<Write> {
        let entries = ready.take_entries();
        self.raw.mut_store().append_after(ready.snapshot(), &entries);
        if !self.commits_change() && !ready.must_sync() {
            return None;
        }
        let mut write = Write { number: ready.number(), ..Write::default() };
        write.hard_state = Some(self.raw.raft.hard_state());
        if let Some(hard_state) =
            write.hard_state.as_mut().filter(|_| self.config.bug.is(Bug::ForgetVote))
        {
            hard_state.vote = INVALID_ID;
        }
        if !ready.snapshot().is_empty() {
            write.install = Some(point_of(ready.snapshot()));
        }
        write.entries = entries;
        Some(write)
    }

    /// Whether the commit index has come to cover a change of the configuration.
    fn commits_change(&mut self) -> bool {
        let commit = self.commit();
        let since = std::mem::replace(&mut self.checked_commit, commit);
        self.raw.store().has_change(since + 1, commit)
    }

    pub(super) fn settle(&mut self, number: u64) {
        let mut last = None;
        while let Some(step) = self.pending.pop_front_if(|p| p.number <= number || !p.is_write) {
            last = Some(step.number);
            self.durable_vote = step.vote;
            self.durable_commit = step.commit;
            self.effects.messages.extend(step.messages);
            if let Some(point) = step.install {
                self.effects.applies.push(Apply::Install(point));
            }
        }
        if let Some(last) = last {
            self.raw.on_persist_ready(last);
        }
    }

    fn hand_out(&mut self, entry: Entry) {
        let mut committed = Committed {
            index: entry.index,
            term: entry.term,
            data: Bytes::new(),
            configuration: None,
        };
        match entry.entry_type {
            EntryType::EntryNormal => committed.data = entry.data.clone(),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.change_configuration(&entry);
                committed.configuration = Some(self.configuration.clone());
            }
        }
        let size = size_bytes(&entry);
        self.unapplied.push_back((entry.index, size));
        self.unapplied_bytes += size;
        self.effects.applies.push(Apply::Entry(committed));
    }
}
