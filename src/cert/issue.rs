//! Makes certificates. Keys are Ed25519: small, and their signatures are always of one size, so
//! that a handshake takes the same packets every time.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};
use time::{Duration, OffsetDateTime};

use super::{error::CertError, identity::Identity};

/// How long before it is made a certificate is valid already, for clocks that are behind.
const BACKDATED: Duration = Duration::hours(1);

/// A certificate and its key in PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// A CA for a new cluster.
pub(super) fn ca(identity: Identity, now_ms: i64, days: u32) -> Result<Pair, CertError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = params(&format!("Ottla CA {}", identity.cluster_id), identity, &[])?;
    (params.not_before, params.not_after) = validity(now_ms, days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key_pem = key.serialize_pem();
    let certificate = CertifiedIssuer::self_signed(params, key)?.pem();
    Ok(Pair { certificate, key: key_pem })
}

/// A node's certificate, signed by `issuer`.
pub(super) fn node(
    issuer: &Issuer<'_, KeyPair>,
    identity: Identity,
    hosts: &[String],
    now_ms: i64,
    days: u32,
) -> Result<Pair, CertError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = node_params(identity, hosts)?;
    (params.not_before, params.not_after) = validity(now_ms, days)?;
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

/// A request for a node's certificate, in place of the certificate.
pub(super) fn request(identity: Identity, hosts: &[String]) -> Result<Pair, CertError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let request = node_params(identity, hosts)?.serialize_request(&key)?;
    Ok(Pair { certificate: request.pem()?, key: key.serialize_pem() })
}

fn node_params(identity: Identity, hosts: &[String]) -> Result<CertificateParams, CertError> {
    let name = identity.node_id.map_or_else(String::new, |node| format!("Ottla node {node}"));
    let mut params = params(&name, identity, hosts)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A node is both sides of its connections.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn params(
    name: &str,
    identity: Identity,
    hosts: &[String],
) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    for host in hosts {
        let refused = || CertError::Host { host: host.clone() };
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if is_name(host) => {
                SanType::DnsName(host.as_str().try_into().map_err(|_| refused())?)
            }
            Err(_) => return Err(refused()),
        });
    }
    Ok(params)
}

fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

fn validity(now_ms: i64, days: u32) -> Result<(OffsetDateTime, OffsetDateTime), CertError> {
    let lifetime = || CertError::Lifetime { days };
    let now = OffsetDateTime::from_unix_timestamp(now_ms / 1000).map_err(|_| lifetime())?;
    let end = now.checked_add(Duration::days(i64::from(days))).ok_or_else(lifetime)?;
    Ok((now - BACKDATED, end))
}
