//! Why certificates cannot be made or used.

use std::{fmt, io, path::PathBuf};

use super::identity::{Identity, IdentityError};
use crate::base::NodeId;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The certificates that are trusted.
    Ca,
    /// The CA's private key.
    CaKey,
    /// The node's certificate.
    Certificate,
    /// The node's private key.
    Key,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "CA certificate",
            Self::CaKey => "CA key",
            Self::Certificate => "node certificate",
            Self::Key => "node key",
        })
    }
}

impl Role {
    const fn remedy(self) -> &'static str {
        match self {
            Self::Ca | Self::CaKey => "'ottla cert ca --dir DIR' makes a CA",
            Self::Certificate | Self::Key => {
                "'ottla cert node --ca DIR --node ID --host NAME' makes a node's certificate"
            }
        }
    }
}

/// Why certificates cannot be made or used. Each names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file cannot be read.
    #[error("cannot read the {role} {}: {source}; {}", path.display(), role.remedy())]
    Unreadable {
        /// What it is for.
        role: Role,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file or directory cannot be written.
    #[error("cannot write {}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file would be overwritten.
    #[error("{} exists already, and is left as it is: {remedy}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {role} in PEM; {}", path.display(), role.remedy())]
    NotPem {
        /// What it should hold.
        role: Role,
        /// The file.
        path: PathBuf,
    },
    /// A key is of a kind that is not supported.
    #[error("the {role} {} is not a key that can sign: use Ed25519, ECDSA P-256 or P-384, or RSA", path.display())]
    UnusableKey {
        /// What it is for.
        role: Role,
        /// The file.
        path: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error(
        "the key {} does not belong to the certificate {}: put the two that were made together \
         in place, or make a new pair with 'ottla cert node --renew'",
        key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate's time is over.
    #[error("the {role} {} expired on {not_after}; {}", path.display(), expired_remedy(*.role))]
    Expired {
        /// What it is for.
        role: Role,
        /// The file.
        path: PathBuf,
        /// Its last day.
        not_after: time::Date,
    },
    /// A certificate's time has not begun.
    #[error(
        "the {role} {} is valid only from {not_before} on: check the clock of this machine and of \
         the one that made it", path.display()
    )]
    NotYetValid {
        /// What it is for.
        role: Role,
        /// The file.
        path: PathBuf,
        /// Its first day.
        not_before: time::Date,
    },
    /// The CA did not sign the certificate.
    #[error(
        "{} was not signed by the CA in {}, or not for use between nodes: name the CA that signed \
         it, and give it the extended key usages serverAuth and clientAuth",
        certificate.display(), ca.display()
    )]
    NotSigned {
        /// The certificate's file.
        certificate: PathBuf,
        /// The CA's file.
        ca: PathBuf,
        /// What the verifier says.
        source: rustls::Error,
    },
    /// The certificate says not whose it is.
    #[error("the {role} {} says not who holds it: {source}; {}", path.display(), role.remedy())]
    NoIdentity {
        /// What it is for.
        role: Role,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The certificate is another node's.
    #[error(
        "the certificate {} belongs to node {found}, but this is node {node}: name the certificate of \
         node {node}, or correct node.id", path.display(), found = Found(.found)
    )]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: Option<NodeId>,
        /// Who asks.
        node: NodeId,
    },
    /// New files name another node or cluster than those in use.
    #[error(
        "{} now names {found}, but this node runs as {current}: who a node is can only change \
         with a restart", path.display()
    )]
    ChangedIdentity {
        /// The file.
        path: PathBuf,
        /// What it names.
        found: Identity,
        /// What is in use.
        current: Identity,
    },
    /// A host name that no certificate can carry.
    #[error("'{host}' is neither a host name nor an address")]
    Host {
        /// The text.
        host: String,
    },
    /// A certificate would outlive every calendar.
    #[error("certificates cannot last {days} days")]
    Lifetime {
        /// The days that were asked for.
        days: u32,
    },
    /// The certificate could not be made.
    #[error("the certificate cannot be made")]
    Issue(#[from] rcgen::Error),
}

struct Found<'a>(&'a Option<NodeId>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("(none, as it is a CA's)"),
        }
    }
}

const fn expired_remedy(role: Role) -> &'static str {
    match role {
        Role::Ca | Role::CaKey => {
            "make another with 'ottla cert ca --cluster CLUSTER', let every node trust both for a \
             while, and renew the nodes' certificates"
        }
        Role::Certificate | Role::Key => {
            "'ottla cert node --ca DIR --node ID --host NAME --renew' makes a new one"
        }
    }
}
