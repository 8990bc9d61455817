//! Whether a node may be sent work.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

/// What must hold before a node may be sent work, and whether it does. Clones share everything.
#[derive(Debug, Clone)]
pub struct Readiness {
    conditions: Arc<Mutex<Vec<Condition>>>,
}

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// What it is called.
    pub name: &'static str,
    /// Whether it holds.
    pub ready: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Readiness {
    /// The conditions `names`, none of which holds yet.
    #[must_use]
    pub fn new(names: &[&'static str]) -> Self {
        let readiness = Self { conditions: Arc::default() };
        for name in names {
            readiness.set(name, Err("not started".to_owned()));
        }
        readiness
    }

    /// Says whether the condition `name` holds, and why not. One that is not among those the
    /// readiness was made with is added.
    pub fn set(&self, name: &'static str, state: Result<(), String>) {
        let condition = Condition { name, ready: state.is_ok(), reason: state.err() };
        let mut conditions = self.conditions.lock();
        match conditions.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }

    /// Whether every condition holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.lock().iter().all(|condition| condition.ready)
    }

    /// The conditions, in the order in which they were named.
    #[must_use]
    pub fn conditions(&self) -> Vec<Condition> {
        self.conditions.lock().clone()
    }
}
