//! What people want to know of a certificate.

use std::path::Path;

use serde::Serialize;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::{
    error::{CertError, Role},
    files::{certificates, read},
    identity::Identity,
};

/// A certificate at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Whom it was made for.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its number among those of its issuer.
    pub serial: String,
    /// The cluster that it names.
    pub cluster_id: Option<String>,
    /// The node that it names.
    pub node_id: Option<u32>,
    /// Host names and addresses.
    pub hosts: Vec<String>,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Start of its time, as a Unix time in milliseconds.
    pub not_before_ms: i64,
    /// End of its time, as a Unix time in milliseconds.
    pub not_after_ms: i64,
}

impl Summary {
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let identity = Identity::of_certificate(der).ok();
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|extension| extension.value.general_names.as_slice());
        let host = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(octets) => address(octets),
            _ => None,
        };
        let validity = certificate.validity();
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial_as_string(),
            cluster_id: identity.map(|one| one.cluster_id.to_string()),
            node_id: identity.and_then(|one| one.node_id).map(|node| node.0),
            hosts: names.unwrap_or_default().iter().filter_map(host).collect(),
            is_ca: certificate.is_ca(),
            not_before_ms: validity.not_before.timestamp().saturating_mul(1000),
            not_after_ms: validity.not_after.timestamp().saturating_mul(1000),
        })
    }

    /// The day of its end, in UTC.
    #[must_use]
    pub fn last_day(&self) -> time::Date {
        day(self.not_after_ms)
    }

    /// Whether its time has come and is not over.
    pub(super) fn check_time(&self, role: Role, path: &Path, now_ms: i64) -> Result<(), CertError> {
        let path = path.to_owned();
        if now_ms > self.not_after_ms {
            return Err(CertError::Expired { role, path, not_after: day(self.not_after_ms) });
        }
        if now_ms < self.not_before_ms {
            return Err(CertError::NotYetValid { role, path, not_before: day(self.not_before_ms) });
        }
        Ok(())
    }
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).map(std::net::IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(octets).map(std::net::IpAddr::from);
    v4.or_else(|_| v6()).ok().map(|address| address.to_string())
}

/// The day on which a time falls, in UTC.
pub(super) fn day(unix_ms: i64) -> time::Date {
    time::OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1000))
        .map_or(time::Date::MAX, time::OffsetDateTime::date)
}

/// The certificates in a file.
///
/// # Errors
/// Where the file cannot be read or holds none.
pub fn read_summaries(path: &Path) -> Result<Vec<Summary>, CertError> {
    let pem = read(Role::Certificate, path)?;
    let found = certificates(Role::Certificate, path, &pem)?;
    let not_pem = || CertError::NotPem { role: Role::Certificate, path: path.to_owned() };
    found.iter().map(|der| Summary::of(der).ok_or_else(not_pem)).collect()
}
