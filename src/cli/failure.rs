//! What a command fails with, the exit code it ends with, and what to try next.

use std::{error::Error as _, io, path::PathBuf};

use super::{balance::BalanceError, dev::DevError, operator::OperatorError};
use crate::{
    cert::CertError,
    client::{BatchError, ClientError},
    node::{ProcessError, RecoverError},
};

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The cluster, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A batch that was read makes no sense.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Arguments that clap cannot judge.
    #[error("{0}")]
    Usage(Box<str>),
    /// Standard input or output.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Output that is no JSON.
    #[error("cannot print as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Several elements, some of which failed; each was reported on its own.
    #[error("{failed} of {total} failed")]
    Partial {
        /// How many failed.
        failed: usize,
        /// Out of how many.
        total: usize,
        /// Whether all of those that failed were out of reach.
        unreachable: bool,
    },
    /// A check that found something.
    #[error("{0} problems found")]
    Problems(usize),
    /// Replicas that are not alike.
    #[error("{0} partitions or batches differ or are damaged")]
    Differences(usize),
    /// A checkpoint that is none.
    #[error("{} is no checkpoint of offsets", path.display())]
    Checkpoint {
        /// Which.
        path: PathBuf,
    },
    /// A benchmark could not go on.
    #[error("the measurement stopped: {0}")]
    Bench(#[source] ClientError),
    /// A node does not start, or did not end in order.
    #[error(transparent)]
    Node(#[from] ProcessError),
    /// No quorum was recovered.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// Certificates cannot be made or read.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// A node's operator endpoint, or the way to it.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// Replicas do not move.
    #[error(transparent)]
    Balance(#[from] BalanceError),
    /// Nodes for development do not serve.
    #[error(transparent)]
    Dev(#[from] DevError),
}

impl Failure {
    pub(super) fn usage(text: impl Into<Box<str>>) -> Self {
        Self::Usage(text.into())
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Operator(error) if error.is_unreachable() => 3,
            Self::Usage(_)
            | Self::Client(ClientError::Address(_))
            | Self::Node(ProcessError::Config(_))
            | Self::Recover(RecoverError::Process(ProcessError::Config(_))) => 2,
            Self::Client(error) | Self::Bench(error) if error.is_unreachable() => 3,
            Self::Partial { unreachable: true, .. }
            | Self::Balance(
                BalanceError::Away { .. }
                | BalanceError::Failed { .. }
                | BalanceError::NoLeader { .. }
                | BalanceError::Stalled { .. },
            ) => 3,
            _ => 1,
        }
    }

    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The message, followed by those of its causes that it does not name itself.
pub(super) fn with_causes(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// What to try next.
pub(super) fn next_step(failure: &Failure) -> Option<String> {
    use crate::client::WireError as E;
    let step = match failure {
        Failure::Client(error) | Failure::Bench(error) => match (error.wire(), error) {
            (Some(E::UnknownTopicOrPartition), _) => "see 'ottla topic list' for what exists",
            (Some(E::TopicAlreadyExists), _) => {
                "'ottla topic alter' changes a topic; 'ottla topic delete' makes room for a new one"
            }
            (Some(E::InvalidConfig), _) => "'ottla config explain KEY' says what a key accepts",
            (Some(E::InvalidReplicationFactor), _) => {
                "ask for at most as many replicas as there are brokers"
            }
            (Some(E::InvalidPartitions), _) => "the number of partitions can only grow",
            (Some(E::NonEmptyGroup | E::UnknownMemberId), _) => {
                "stop the group's consumers first; 'ottla group describe' lists them"
            }
            (Some(E::GroupIdNotFound), _) => "see 'ottla group list' for what exists",
            (Some(E::MessageTooLarge), _) => {
                "send smaller batches, or raise max.message.bytes of the topic"
            }
            (_, ClientError::Address(_)) => "pass --bootstrap-server HOST:PORT",
            (_, ClientError::OutOfRange { .. }) => {
                "start --from-beginning, or see 'ottla topic describe' for the offsets there are"
            }
            (_, ClientError::OutcomeUnknown) => {
                "read the topic's end before you write the same records again"
            }
            _ if error.is_unreachable() => {
                "is a broker running there? Check --bootstrap-server, or raise --timeout"
            }
            _ => return None,
        },
        Failure::Usage(_) => "'--help' lists what the command takes",
        Failure::Batch(_) => "'ottla log verify DIR' checks a log on disk",
        Failure::Problems(_) => {
            "stop the node and let it recover: it cuts a torn tail and fetches the rest anew"
        }
        Failure::Differences(_) => {
            "'ottla log dump' shows a segment's batches; a replica that is wrong is fetched anew \
             after its directory is emptied while its node is stopped"
        }
        Failure::Checkpoint { .. } => "was it being written? Stop the node, and look again",
        Failure::Partial { .. } => "the lines above say why; the others are done",
        Failure::Recover(RecoverError::Process(ProcessError::Store { .. })) => {
            "is the node running? Only a stopped one is recovered"
        }
        Failure::Recover(RecoverError::Alive { .. }) => {
            "'ottla quorum describe' on a node that runs shows the voters; a lost one is replaced \
             with 'ottla quorum remove-voter' and 'add-voter'"
        }
        Failure::Recover(RecoverError::Quorum(_)) => {
            "'ottla quorum recover' without --confirm shows what the node holds"
        }
        Failure::Node(ProcessError::Store { source, .. }) if source.is_damage() => {
            "where other nodes have the metadata, move this node's log directories away and start \
             it: it joins anew, and 'ottla quorum add-voter' makes it a voter again"
        }
        Failure::Node(ProcessError::Store { .. }) => {
            "is another node using the directory? Stop it, or name another directory"
        }
        Failure::Node(ProcessError::Bind { .. }) => "stop what uses the port, or name another",
        Failure::Node(ProcessError::Directory { .. }) => {
            "name a directory that this user may write to"
        }
        Failure::Operator(OperatorError::Unreachable { .. } | OperatorError::Strange { .. }) => {
            "is a node running there? --http takes its ottla.http.listener"
        }
        Failure::Operator(OperatorError::TimedOut { .. } | OperatorError::Unavailable(_)) => {
            "'ottla cluster status' and /readyz of the nodes say what they wait for"
        }
        Failure::Balance(error) => match error {
            BalanceError::Unknown(_) => "see 'ottla node list' for what exists",
            BalanceError::NoTaker { .. } => {
                "add a node, bring back one that is away, or lower the number of replicas"
            }
            BalanceError::Full { .. } => {
                "make room there, shorten the retention of large topics, or add a node"
            }
            BalanceError::Away { .. } => {
                "start it, or take the moves back with 'ottla topic reassign --cancel'"
            }
            BalanceError::Failed { .. } => {
                "'ottla node directories' shows it. Mend the disk, or take the moves back with 'ottla \
                 topic reassign --cancel'"
            }
            BalanceError::NoLeader { .. } => {
                "'ottla topic describe --unavailable-partitions' says who could lead: bring back one \
                 of those nodes"
            }
            BalanceError::Stalled { .. } => {
                "'ottla topic reassign --verify' shows how far each is; run this again to go on"
            }
        },
        Failure::Dev(_) => "the end of that log says why",
        Failure::File { .. } => "check that the path exists and can be read",
        _ => return None,
    };
    Some(step.to_owned())
}
