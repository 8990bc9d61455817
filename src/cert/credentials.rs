//! A certificate, its key and the CA, checked.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{ParsedCertificate, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use super::{
    error::{CertError, Role},
    files::{Files, certificates, read},
    identity::{Identity, IdentityError},
    summary::Summary,
};
use crate::base::{ClusterId, NodeId};

/// What a node shows, and whom it trusts. Usable at the time it was loaded.
#[derive(Clone)]
pub struct Credentials {
    cluster_id: ClusterId,
    node_id: NodeId,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    secret: Arc<[u8]>,
    not_after_ms: i64,
    ca_not_after_ms: i64,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        f.debug_struct("Credentials")
            .field("identity", &self.identity())
            .field("not_after_ms", &self.not_after_ms)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// The cluster that the certificate names.
    #[must_use]
    pub const fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// The node that the certificate names.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Both.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity { cluster_id: self.cluster_id, node_id: Some(self.node_id) }
    }

    /// When the node's certificate ends, as a Unix time in milliseconds.
    #[must_use]
    pub const fn not_after_ms(&self) -> i64 {
        self.not_after_ms
    }

    /// When the last of the trusted certificates ends.
    #[must_use]
    pub const fn ca_not_after_ms(&self) -> i64 {
        self.ca_not_after_ms
    }

    /// The certificate with its chain, and its key.
    #[must_use]
    pub fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    /// Whom to trust.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }

    /// A secret for `purpose` that outlives a restart: it depends on the private key alone.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let key = ::ring::hmac::Key::new(::ring::hmac::HMAC_SHA256, &self.secret);
        let tag = ::ring::hmac::sign(&key, purpose.as_bytes());
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    pub(super) fn load(files: &Files, now_ms: i64) -> Result<Self, CertError> {
        let provider = ring::default_provider();
        let (roots, ca_not_after_ms) = load_roots(&files.ca, now_ms)?;
        let pem = read(Role::Certificate, &files.certificate)?;
        let chain = certificates(Role::Certificate, &files.certificate, &pem)?;
        let path = &files.certificate;
        let not_pem = || CertError::NotPem { role: Role::Certificate, path: path.clone() };
        let summary = Summary::of(&chain[0]).ok_or_else(not_pem)?;
        summary.check_time(Role::Certificate, path, now_ms)?;
        let no_identity =
            |source| CertError::NoIdentity { role: Role::Certificate, path: path.clone(), source };
        let identity = Identity::of_certificate(&chain[0]).map_err(no_identity)?;
        let node_id = identity.node_id.ok_or_else(|| no_identity(IdentityError::Missing))?;
        check_chain(&chain, &roots, &provider, now_ms).map_err(|source| CertError::NotSigned {
            certificate: path.clone(),
            ca: files.ca.clone(),
            source,
        })?;
        let (key, secret) = load_key(files, chain, &provider)?;
        Ok(Self {
            cluster_id: identity.cluster_id,
            node_id,
            key: Arc::new(key),
            roots: Arc::new(roots),
            secret,
            not_after_ms: summary.not_after_ms,
            ca_not_after_ms,
        })
    }
}

/// The trusted certificates, and when the last of them ends. Those whose time is over are left out;
/// at least one must remain.
fn load_roots(path: &Path, now_ms: i64) -> Result<(RootCertStore, i64), CertError> {
    let pem = read(Role::Ca, path)?;
    let mut roots = RootCertStore::empty();
    let (mut last_ms, mut over) = (i64::MIN, None);
    for der in certificates(Role::Ca, path, &pem)? {
        let not_pem = || CertError::NotPem { role: Role::Ca, path: path.to_owned() };
        let summary = Summary::of(&der).ok_or_else(not_pem)?;
        match summary.check_time(Role::Ca, path, now_ms) {
            Ok(()) => {
                roots.add(der).map_err(|_| not_pem())?;
                last_ms = last_ms.max(summary.not_after_ms);
            }
            Err(error) => over = Some(error),
        }
    }
    match over {
        Some(error) if roots.is_empty() => Err(error),
        _ => Ok((roots, last_ms)),
    }
}

/// Checks that the chain would be accepted by both sides of a connection.
fn check_chain(
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now_ms: i64,
) -> Result<(), rustls::Error> {
    let seconds = u64::try_from(now_ms / 1000).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let algorithms = provider.signature_verification_algorithms.all;
    let certificate = ParsedCertificate::try_from(&chain[0])?;
    verify_server_cert_signed_by_trust_anchor(&certificate, roots, &chain[1..], now, algorithms)?;
    let clients = WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots.clone()),
        Arc::new(provider.clone()),
    );
    let clients = clients.build().map_err(|error| rustls::Error::General(error.to_string()))?;
    clients.verify_client_cert(&chain[0], &chain[1..], now).map(drop)
}

fn load_key(
    files: &Files,
    chain: Vec<CertificateDer<'static>>,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, Arc<[u8]>), CertError> {
    let path = &files.key;
    let pem = read(Role::Key, path)?;
    let der = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| CertError::NotPem { role: Role::Key, path: path.clone() })?;
    let secret: Arc<[u8]> = der.secret_der().into();
    let key = provider
        .key_provider
        .load_private_key(der)
        .map_err(|_| CertError::UnusableKey { role: Role::Key, path: path.clone() })?;
    let key = CertifiedKey::new(chain, key);
    key.keys_match().map_err(|_| CertError::KeyMismatch {
        certificate: files.certificate.clone(),
        key: path.clone(),
    })?;
    Ok((key, secret))
}
