//! Deadlines of groups and members.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Str;

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The join phase ends, with whoever has joined.
    Join,
    /// Members that have not asked for their assignment are removed.
    Sync,
    /// A member (pending or not) has not been heard of.
    Heartbeat(Str),
}

/// A timer: there is at most one of each kind in a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    pub(super) group: Str,
    pub(super) kind: Kind,
}

/// Timers by what they are for and by when they are due, on the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Timers {
    deadlines: BTreeMap<Timer, Duration>,
    order: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.order.first().map(|(deadline, _)| *deadline)
    }

    /// Sets the timer, in place of what it was set to before.
    pub(super) fn set(&mut self, timer: Timer, deadline: Duration) {
        if let Some(before) = self.deadlines.insert(timer.clone(), deadline) {
            let mut entry = (before, timer);
            self.order.remove(&entry);
            entry.0 = deadline;
            self.order.insert(entry);
        } else {
            self.order.insert((deadline, timer));
        }
    }

    pub(super) fn cancel(&mut self, timer: &Timer) {
        if let Some(deadline) = self.deadlines.remove(timer) {
            self.order.remove(&(deadline, timer.clone()));
        }
    }

    /// Cancels every timer of `group`.
    pub(super) fn cancel_group(&mut self, group: &Str) {
        let first = Timer { group: group.clone(), kind: Kind::Join };
        let timers: Vec<_> = self
            .deadlines
            .range(first..)
            .map(|(timer, _)| timer)
            .take_while(|timer| timer.group == *group)
            .cloned()
            .collect();
        for timer in timers {
            self.cancel(&timer);
        }
    }

    /// Takes the first timer that is due by `now`.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Timer> {
        if self.next_deadline()? > now {
            return None;
        }
        let (_, timer) = self.order.pop_first()?;
        self.deadlines.remove(&timer);
        Some(timer)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
