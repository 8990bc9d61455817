//! Certificates of the cluster plane: made, read, checked and watched.
//!
//! Who a node is, is what its certificate says: a URI name `ottla:cluster/CLUSTER/node/NODE`,
//! signed by a CA that all nodes of the cluster trust. (A path, since a URI's host has no case and
//! an id does.) Certificates are made before there is a cluster, so it is the CA that makes the
//! cluster's id: its own certificate carries `ottla:cluster/CLUSTER`, every node certificate it
//! signs carries the same, and `ottla cluster bootstrap` takes the id from there. A node can
//! therefore neither join nor bootstrap a cluster other than the one it was certified for, even
//! before the cluster exists. With a CA of the user's own, `ottla cert request` chooses the id, and
//! the CA signs it into each node.
//!
//! # State it owns
//! None but files: see [`Files`].
//!
//! # Invariants
//! - [`Credentials`] are usable: in their time, the key fits, the chain ends in the CA, and they
//!   name a cluster and a node.
//! - A private key is written with mode 0600, and nothing that exists is overwritten unasked.
//!
//! # What it must not do
//! Open sockets, or read a clock: the time is an argument.
//!
//! # References
//! RFC 5280 (4.2.1.6, names), RFC 3986.

mod credentials;
mod error;
mod files;
mod identity;
mod issue;
mod summary;
#[cfg(test)]
mod tests;
mod watch;

pub use self::{
    credentials::Credentials,
    error::{CertError, Role},
    files::{Files, NewNode, Request, development, new_ca, new_node, new_request},
    identity::{Identity, IdentityError, ParseIdentityError},
    summary::{Summary, read_summaries},
    watch::{EXPIRY_WARNING, Watch, WatchConfig},
};
