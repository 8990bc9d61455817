//! What a certificate says about who holds it.

use std::{fmt, str::FromStr};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::base::{ClusterId, NodeId};

const SCHEME: &str = "ottla:";

/// A cluster, and a node of it. Printed and parsed as the URI name of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node; `None` in the certificate of a CA.
    pub node_id: Option<NodeId>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}cluster/{}", self.cluster_id)?;
        self.node_id.map_or(Ok(()), |node| write!(f, "/node/{node}"))
    }
}

/// A text that is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not of the form ottla:cluster/CLUSTER/node/NODE")]
pub struct ParseIdentityError(Box<str>);

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, ParseIdentityError> {
        let parse = || {
            let rest = text.strip_prefix(SCHEME)?.strip_prefix("cluster/")?;
            let (cluster, node) = match rest.split_once("/node/") {
                Some((cluster, node)) => (cluster, Some(node)),
                None => (rest, None),
            };
            let node_id = match node {
                // One spelling for each: neither a sign nor leading zeros.
                Some(digits) => {
                    let number: u32 = digits.parse().ok()?;
                    (number.to_string() == digits).then_some(Some(NodeId(number)))?
                }
                None => None,
            };
            Some(Self { cluster_id: cluster.parse().ok()?, node_id })
        };
        parse().ok_or_else(|| ParseIdentityError(text.into()))
    }
}

/// Why a certificate says not who holds it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is not an X.509 certificate.
    #[error("it is no X.509 certificate")]
    Malformed,
    /// It names nobody.
    #[error("it has no URI name of the form ottla:cluster/CLUSTER/node/NODE")]
    Missing,
    /// It names several.
    #[error("it names more than one identity")]
    Ambiguous,
    /// Its name is not of the right form.
    #[error(transparent)]
    Unreadable(#[from] ParseIdentityError),
}

impl Identity {
    /// Who the holder of a certificate is. The certificate is not verified.
    ///
    /// # Errors
    /// Where it does not name exactly one identity.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::Malformed)?;
        let mut uris = uris(&certificate)?.into_iter().filter(|uri| uri.starts_with(SCHEME));
        let uri = uris.next().ok_or(IdentityError::Missing)?;
        match uris.next() {
            None => Ok(uri.parse()?),
            Some(_) => Err(IdentityError::Ambiguous),
        }
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, IdentityError> {
    let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
    let names = names.map(|extension| extension.value.general_names.as_slice());
    let uri = |name: &GeneralName<'a>| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    };
    Ok(names.unwrap_or_default().iter().filter_map(uri).collect())
}
