//! Where certificates lie, and how they get there.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use uuid::Uuid;

use super::{
    credentials::Credentials,
    error::{CertError, Role},
    identity::{Identity, IdentityError},
    issue::{self, Pair},
    summary::Summary,
    watch::EXPIRY_WARNING,
};
use crate::base::{ClusterId, NodeId};

const CA: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CERTIFICATE: &str = "node.crt";
const KEY: &str = "node.key";
const REQUEST: &str = "node.csr";

const CA_DAYS: u32 = 3650;
const DEVELOPMENT_DAYS: u32 = 365;

/// The files that a node needs: `ottla.cluster.tls.ca`, `.cert` and `.key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Certificates that are trusted; may hold several, so that a CA can be replaced.
    pub ca: PathBuf,
    /// The node's certificate, followed by those between it and the CA, if any.
    pub certificate: PathBuf,
    /// The node's private key.
    pub key: PathBuf,
}

impl Files {
    /// The files as [`new_node`] puts them into a directory.
    #[must_use]
    pub fn within(directory: &Path) -> Self {
        Self {
            ca: directory.join(CA),
            certificate: directory.join(CERTIFICATE),
            key: directory.join(KEY),
        }
    }

    /// Reads and checks them. `node_id` is who this node is to be.
    ///
    /// # Errors
    /// Where they cannot be used at `now_ms`; see [`CertError`].
    pub fn load(&self, node_id: NodeId, now_ms: i64) -> Result<Credentials, CertError> {
        let credentials = Credentials::load(self, now_ms)?;
        if credentials.node_id() != node_id {
            return Err(CertError::OtherNode {
                path: self.certificate.clone(),
                found: Some(credentials.node_id()),
                node: node_id,
            });
        }
        Ok(credentials)
    }
}

/// A node's certificate to be made.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// Where the CA lies.
    pub ca: PathBuf,
    /// Where the node's files go; made if need be.
    pub directory: PathBuf,
    /// Which node.
    pub node_id: NodeId,
    /// Its host names and addresses.
    pub hosts: Vec<String>,
    /// How long it lasts.
    pub days: u32,
    /// Whether files that exist are replaced.
    pub renew: bool,
}

/// A node's certificate that another CA is to sign.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the key and the request go; made if need be.
    pub directory: PathBuf,
    /// The cluster; a new one where `None`.
    pub cluster_id: Option<ClusterId>,
    /// Which node.
    pub node_id: NodeId,
    /// Its host names and addresses.
    pub hosts: Vec<String>,
}

/// Makes a CA in `directory`, and with it the id of a new cluster; or one more CA of the cluster
/// `cluster_id`, such as before the first expires.
///
/// # Errors
/// Where one exists already, or the directory cannot be written.
pub fn new_ca(
    directory: &Path,
    cluster_id: Option<ClusterId>,
    now_ms: i64,
    days: Option<u32>,
) -> Result<ClusterId, CertError> {
    let remedy = "a CA stands for one cluster; name another directory for another CA";
    let (certificate, key) = (directory.join(CA), directory.join(CA_KEY));
    refuse_existing(&[&certificate, &key], remedy)?;
    make_directory(directory)?;
    let cluster_id = cluster_id.unwrap_or_else(|| ClusterId(Uuid::new_v4()));
    let identity = Identity { cluster_id, node_id: None };
    let pair = issue::ca(identity, now_ms, days.unwrap_or(CA_DAYS))?;
    // The key first: a CA whose key was never written could not be told from a good one.
    create(&key, &pair.key, 0o600, remedy)?;
    create(&certificate, &pair.certificate, 0o644, remedy)?;
    Ok(cluster_id)
}

/// Makes a node's certificate with a CA of [`new_ca`], and copies the CA's certificate beside it.
///
/// # Errors
/// Where the CA cannot be used, or files exist and may not be replaced.
pub fn new_node(new: &NewNode, now_ms: i64) -> Result<Files, CertError> {
    let files = Files::within(&new.directory);
    let remedy = "pass --renew to replace it";
    if !new.renew {
        refuse_existing(&[&files.certificate, &files.key], remedy)?;
    }
    let ca_path = new.ca.join(CA);
    let (issuer, cluster_id, ca_pem) = load_ca(&new.ca, &ca_path, now_ms)?;
    let identity = Identity { cluster_id, node_id: Some(new.node_id) };
    let pair = issue::node(&issuer, identity, &new.hosts, now_ms, new.days)?;
    make_directory(&new.directory)?;
    if ca_path != files.ca {
        replace(&files.ca, &ca_pem, 0o644)?;
    }
    let Pair { certificate, key } = pair;
    if new.renew {
        replace(&files.key, &key, 0o600)?;
        replace(&files.certificate, &certificate, 0o644)?;
    } else {
        create(&files.key, &key, 0o600, remedy)?;
        create(&files.certificate, &certificate, 0o644, remedy)?;
    }
    Ok(files)
}

/// Makes a key and a request that a CA of the user's own can sign. Returns the cluster's id and the
/// request's file.
///
/// # Errors
/// Where files exist or cannot be written.
pub fn new_request(new: &Request) -> Result<(ClusterId, PathBuf), CertError> {
    let (key, request) = (new.directory.join(KEY), new.directory.join(REQUEST));
    let remedy = "remove it first if nothing uses it any more";
    refuse_existing(&[&key, &request], remedy)?;
    let cluster_id = new.cluster_id.unwrap_or_else(|| ClusterId(Uuid::new_v4()));
    let identity = Identity { cluster_id, node_id: Some(new.node_id) };
    let pair = issue::request(identity, &new.hosts)?;
    make_directory(&new.directory)?;
    create(&key, &pair.key, 0o600, remedy)?;
    create(&request, &pair.certificate, 0o644, remedy)?;
    Ok((cluster_id, request))
}

/// The files of a node for development on this machine: made where there are none, renewed before
/// they expire. All nodes of one `directory` form one cluster.
///
/// # Errors
/// Where the directory cannot be written, or holds something that cannot be used.
pub fn development(directory: &Path, node_id: NodeId, now_ms: i64) -> Result<Files, CertError> {
    match new_ca(directory, None, now_ms, None) {
        Ok(_) | Err(CertError::Exists { .. }) => {}
        Err(error) => return Err(error),
    }
    let directory_of_node = directory.join(format!("node-{node_id}"));
    let files = Files::within(&directory_of_node);
    let warned_ms = i64::try_from(EXPIRY_WARNING.as_millis()).unwrap_or(i64::MAX);
    if files.load(node_id, now_ms + warned_ms).is_err() {
        let new = NewNode {
            ca: directory.to_owned(),
            directory: directory_of_node,
            node_id,
            hosts: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
            days: DEVELOPMENT_DAYS,
            renew: true,
        };
        new_node(&new, now_ms)?;
    }
    Ok(files)
}

/// The CA in `directory`, the cluster that it stands for, and its certificate in PEM.
fn load_ca(
    directory: &Path,
    path: &Path,
    now_ms: i64,
) -> Result<(Issuer<'static, KeyPair>, ClusterId, String), CertError> {
    let not_pem = |role, path: &Path| CertError::NotPem { role, path: path.to_owned() };
    let pem = read(Role::Ca, path)?;
    let der = certificates(Role::Ca, path, &pem)?.swap_remove(0);
    let summary = Summary::of(&der).ok_or_else(|| not_pem(Role::Ca, path))?;
    summary.check_time(Role::Ca, path, now_ms)?;
    let no_identity =
        |source| CertError::NoIdentity { role: Role::Ca, path: path.to_owned(), source };
    let identity = Identity::of_certificate(&der).map_err(no_identity)?;
    if identity.node_id.is_some() || !summary.is_ca {
        return Err(no_identity(IdentityError::Missing));
    }
    let key_path = directory.join(CA_KEY);
    let key_pem = read(Role::CaKey, &key_path)?;
    let key = std::str::from_utf8(&key_pem).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
    let key = key.ok_or_else(|| not_pem(Role::CaKey, &key_path))?;
    if !belongs(&der, &key) {
        return Err(CertError::KeyMismatch { certificate: path.to_owned(), key: key_path });
    }
    let pem = String::from_utf8(pem).map_err(|_| not_pem(Role::Ca, path))?;
    Ok((Issuer::from_ca_cert_der(&der, key)?, identity.cluster_id, pem))
}

fn belongs(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    use x509_parser::prelude::FromDer as _;
    x509_parser::certificate::X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
        *parsed.public_key().subject_public_key.data == *key.public_key_raw()
    })
}

pub(super) fn read(role: Role, path: &Path) -> Result<Vec<u8>, CertError> {
    fs::read(path).map_err(|source| CertError::Unreadable { role, path: path.to_owned(), source })
}

/// The certificates in `pem`: at least one.
pub(super) fn certificates(
    role: Role,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| CertError::NotPem { role, path: path.to_owned() })
}

fn refuse_existing(paths: &[&Path], remedy: &'static str) -> Result<(), CertError> {
    match paths.iter().find(|path| path.exists()) {
        Some(path) => Err(CertError::Exists { path: (*path).to_owned(), remedy }),
        None => Ok(()),
    }
}

fn make_directory(path: &Path) -> Result<(), CertError> {
    fs::create_dir_all(path).map_err(unwritable(path))
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> CertError + use<> {
    let path = path.to_owned();
    move |source| CertError::Unwritable { path, source }
}

/// Writes a file that must be new.
fn create(path: &Path, text: &str, mode: u32, remedy: &'static str) -> Result<(), CertError> {
    write_new(path, text, mode).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CertError::Exists { path: path.to_owned(), remedy },
        _ => CertError::Unwritable { path: path.to_owned(), source },
    })
}

/// Writes a file, new or not, so that a reader finds the old or the new one, never a part.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // Left behind by a process of the same id that was killed.
    let _ = fs::remove_file(&temporary);
    write_new(&temporary, text, mode).map_err(unwritable(&temporary))?;
    fs::rename(&temporary, path).map_err(unwritable(path))
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
