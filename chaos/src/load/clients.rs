//! Who works: the clients of a run, by what they do and what they are.

use serde::{Deserialize, Serialize};

use crate::history::Process;

/// Whose clients work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clients {
    /// The project's own.
    Own,
    /// librdkafka's.
    Librdkafka,
    /// Both, in one group.
    #[default]
    Both,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Writes.
    Writer,
    /// Reads all partitions along with the writers.
    Reader,
    /// Reads as a member of the group.
    Member,
}

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Who it is in the history.
    pub process: Process,
    /// What it does.
    pub role: Role,
    /// Whether it is librdkafka's, or else the project's own.
    pub stock: bool,
}

impl Clients {
    /// All of them: two writers, a reader and two members of each kind.
    #[must_use]
    pub fn workers(self) -> Vec<Worker> {
        let roles = [Role::Writer, Role::Writer, Role::Reader, Role::Member, Role::Member];
        let kinds: &[bool] = match self {
            Self::Own => &[false],
            Self::Librdkafka => &[true],
            Self::Both => &[false, true],
        };
        let of_kind = kinds.iter().flat_map(|stock| roles.map(|role| (role, *stock)));
        (1..).zip(of_kind).map(|(process, (role, stock))| Worker { process, role, stock }).collect()
    }
}
