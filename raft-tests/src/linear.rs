//! What clients did and saw, and whether one order of all of it explains that.
//!
//! Keys are registers that do not depend on each other, so each is checked by itself. A write whose
//! outcome its client never learned may take effect at any time after it was invoked, or never: it
//! counts only if somebody read what it wrote.
//!
//! References: Herlihy & Wing, *Linearizability*; Lowe, *Testing for linearizability* (the
//! algorithm, which is `todc-utils`').

use std::collections::{BTreeMap, BTreeSet};

use todc_utils::{
    linearizability::{
        WGLChecker,
        history::{Action, History as Actions},
    },
    specifications::Specification,
};

/// Key of a register.
pub(crate) type Key = u8;
/// What is written; no two writes of a run are alike. 0 is what a register holds at first.
pub(crate) type Value = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read(Value),
    Write(Value),
}

struct Register;

impl Specification for Register {
    type State = Value;
    type Operation = Operation;

    fn init() -> Value {
        0
    }

    fn apply(operation: &Operation, state: &Value) -> (bool, Value) {
        match operation {
            Operation::Read(value) => (value == state, *state),
            Operation::Write(value) => (true, *value),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Read(Option<Value>),
    Write(Value),
}

#[derive(Debug, Clone, Copy)]
struct Call {
    key: Key,
    kind: Kind,
    invoked: u64,
    completed: Option<u64>,
}

/// The calls of all clients, in the order of their invocation.
#[derive(Debug, Default)]
pub(crate) struct History {
    calls: Vec<Call>,
    now: u64,
}

/// Names a call until it completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(usize);

impl History {
    pub(crate) fn invoke_read(&mut self, key: Key) -> CallId {
        self.invoke(key, Kind::Read(None))
    }

    pub(crate) fn invoke_write(&mut self, key: Key, value: Value) -> CallId {
        self.invoke(key, Kind::Write(value))
    }

    fn invoke(&mut self, key: Key, kind: Kind) -> CallId {
        self.now += 1;
        self.calls.push(Call { key, kind, invoked: self.now, completed: None });
        CallId(self.calls.len() - 1)
    }

    pub(crate) fn completed_write(&mut self, call: CallId) {
        self.now += 1;
        self.calls[call.0].completed = Some(self.now);
    }

    pub(crate) fn completed_read(&mut self, call: CallId, value: Value) {
        self.completed_write(call);
        self.calls[call.0].kind = Kind::Read(Some(value));
    }

    /// How many calls were answered.
    pub(crate) fn completed_count(&self) -> usize {
        self.calls.iter().filter(|call| call.completed.is_some()).count()
    }

    /// The first key whose calls no order explains.
    pub(crate) fn unexplained(&self) -> Option<Key> {
        let mut by_key: BTreeMap<Key, Vec<Call>> = BTreeMap::new();
        for call in &self.calls {
            by_key.entry(call.key).or_default().push(*call);
        }
        by_key.into_iter().find(|(_, calls)| !is_linearizable(calls)).map(|(key, _)| key)
    }
}

fn is_linearizable(calls: &[Call]) -> bool {
    let read = |call: &Call| match call.kind {
        Kind::Read(value) => value,
        Kind::Write(_) => None,
    };
    let seen: BTreeSet<Value> = calls.iter().filter_map(read).collect();
    let mut actions = Vec::new();
    for (process, call) in calls.iter().enumerate() {
        let operation = match (call.kind, call.completed) {
            (Kind::Read(Some(value)), Some(_)) => Operation::Read(value),
            (Kind::Write(value), completed) if completed.is_some() || seen.contains(&value) => {
                Operation::Write(value)
            }
            _ => continue,
        };
        actions.push((call.invoked, (process, Action::Call(operation))));
        let completed = call.completed.unwrap_or(u64::MAX);
        actions.push((completed, (process, Action::Response(operation))));
    }
    actions.sort_by_key(|(at, _)| *at);
    let actions: Vec<_> = actions.into_iter().map(|(_, action)| action).collect();
    actions.is_empty() || WGLChecker::<Register>::is_linearizable(Actions::from_actions(actions))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `steps` over one register: each is (client, what), in order of time.
    fn history(steps: &[(u8, &str)]) -> History {
        let mut history = History::default();
        let mut open = BTreeMap::new();
        for (client, step) in steps {
            let (what, value) = step.split_once(' ').unwrap_or((step, "0"));
            let value = value.parse().unwrap();
            match what {
                "write" => drop(open.insert(client, history.invoke_write(1, value))),
                "read" => drop(open.insert(client, history.invoke_read(1))),
                "written" => history.completed_write(open[client]),
                "saw" => history.completed_read(open[client], value),
                _ => unreachable!("{what}"),
            }
        }
        history
    }

    #[test]
    fn explainable_histories_pass() {
        let concurrent = [(0, "write 1"), (1, "read"), (1, "saw 1"), (2, "read"), (2, "saw 1")];
        assert_eq!(history(&concurrent).unexplained(), None);
        let before = [(0, "write 1"), (1, "read"), (1, "saw 0"), (0, "written")];
        assert_eq!(history(&before).unexplained(), None);
        let unknown_takes_effect_late =
            [(0, "write 1"), (1, "write 2"), (1, "written"), (2, "read"), (2, "saw 1")];
        assert_eq!(history(&unknown_takes_effect_late).unexplained(), None);
        let unknown_never = [(0, "write 1"), (1, "read"), (1, "saw 0"), (1, "read"), (1, "saw 0")];
        assert_eq!(history(&unknown_never).unexplained(), None);
        assert_eq!(history(&[]).unexplained(), None);
    }

    #[test]
    fn a_lost_write_is_found() {
        let steps = [(0, "write 1"), (0, "written"), (1, "read"), (1, "saw 0")];
        assert_eq!(history(&steps).unexplained(), Some(1));
    }

    #[test]
    fn a_stale_read_is_found() {
        let steps = [
            (0, "write 1"),
            (0, "written"),
            (0, "write 2"),
            (1, "read"),
            (1, "saw 2"),
            (2, "read"),
            (2, "saw 1"),
        ];
        assert_eq!(history(&steps).unexplained(), Some(1));
    }

    #[test]
    fn a_value_that_comes_back_is_found() {
        let steps = [
            (0, "write 1"),
            (1, "read"),
            (1, "saw 1"),
            (1, "write 2"),
            (1, "written"),
            (2, "read"),
            (2, "saw 2"),
            (2, "read"),
            (2, "saw 1"),
        ];
        assert_eq!(history(&steps).unexplained(), Some(1));
    }

    #[test]
    fn a_value_that_nobody_wrote_is_found() {
        let steps = [(0, "read"), (0, "saw 7")];
        assert_eq!(history(&steps).unexplained(), Some(1));
    }
}
