//! What a user of certificates relies on.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time;

use super::*;
use crate::base::{Blocking, NodeId, TokioClock};

const NOW_MS: i64 = 1_800_000_000_000;
const DAY_MS: i64 = 86_400_000;

fn node_of(ca: &Path, directory: &Path, node: u32, renew: bool) -> Result<Files, CertError> {
    new_node_at(ca, directory, node, renew, NOW_MS)
}

fn new_node_at(
    ca: &Path,
    directory: &Path,
    node: u32,
    renew: bool,
    now_ms: i64,
) -> Result<Files, CertError> {
    let new = NewNode {
        ca: ca.to_owned(),
        directory: directory.to_owned(),
        node_id: NodeId(node),
        hosts: vec!["node.example".to_owned(), "10.0.0.1".to_owned()],
        days: 365,
        renew,
    };
    new_node(&new, now_ms)
}

/// A CA, and a node's files made with it.
fn made(node: u32) -> (TempDir, Files) {
    let dir = TempDir::new().unwrap();
    new_ca(dir.path(), None, NOW_MS, None).unwrap();
    let files = node_of(dir.path(), &dir.path().join("node"), node, false).unwrap();
    (dir, files)
}

#[test]
fn identities_have_one_spelling() {
    let text = "ottla:cluster/AAAAAAAAAAAAAAAAAAAAAQ/node/7";
    let identity: Identity = text.parse().unwrap();
    assert_eq!(identity.node_id, Some(NodeId(7)));
    assert_eq!(identity.to_string(), text);
    let ca: Identity = "ottla:cluster/AAAAAAAAAAAAAAAAAAAAAQ".parse().unwrap();
    assert_eq!(ca.node_id, None);
    for wrong in [
        "",
        "ottla:cluster/",
        "ottla:cluster/AAAAAAAAAAAAAAAAAAAAAQ/node/",
        "ottla:cluster/AAAAAAAAAAAAAAAAAAAAAQ/node/+7",
        "ottla:cluster/AAAAAAAAAAAAAAAAAAAAAQ/node/07",
        "ottla:cluster/AAAAAAAAAAAAAAAAAAAAAQ/node/7/x",
        "ottla:cluster/AAAAAAAAAAAAAAAAAAAAAQ/node/4294967296",
        "ottla://AAAAAAAAAAAAAAAAAAAAAQ/7",
        "OTTLA:cluster/AAAAAAAAAAAAAAAAAAAAAQ",
    ] {
        assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
    }
}

#[test]
fn the_cluster_of_a_ca_is_that_of_its_nodes() {
    let dir = TempDir::new().unwrap();
    let cluster_id = new_ca(dir.path(), None, NOW_MS, None).unwrap();
    let files = node_of(dir.path(), &dir.path().join("n"), 7, false).unwrap();
    let credentials = files.load(NodeId(7), NOW_MS).unwrap();
    assert_eq!(credentials.cluster_id(), cluster_id);
    assert_eq!(credentials.not_after_ms(), NOW_MS + 365 * DAY_MS);
    let shown = read_summaries(&files.certificate).unwrap().remove(0);
    assert_eq!(shown.node_id, Some(7));
    assert_eq!(shown.cluster_id, Some(cluster_id.to_string()));
    assert_eq!(shown.hosts, ["node.example", "10.0.0.1"]);
    assert!(!shown.is_ca && read_summaries(&files.ca).unwrap()[0].is_ca);
}

#[test]
fn keys_are_their_owners_alone() {
    let (dir, files) = made(1);
    for key in [&files.key, &dir.path().join("ca.key")] {
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    node_of(dir.path(), &dir.path().join("node"), 1, true).unwrap();
    assert_eq!(files.key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn nothing_is_overwritten_unasked() {
    let (dir, files) = made(1);
    let before = std::fs::read(&files.key).unwrap();
    assert!(matches!(new_ca(dir.path(), None, NOW_MS, None), Err(CertError::Exists { .. })));
    let again = node_of(dir.path(), &dir.path().join("node"), 1, false);
    assert!(again.unwrap_err().to_string().contains("--renew"));
    assert_eq!(std::fs::read(&files.key).unwrap(), before);
    let renewed = node_of(dir.path(), &dir.path().join("node"), 1, true).unwrap();
    renewed.load(NodeId(1), NOW_MS).unwrap();
    assert_ne!(std::fs::read(&files.key).unwrap(), before);
}

#[test]
fn unusable_files_are_told_apart_and_named() {
    let (dir, files) = made(1);
    let load = |files: &Files| files.load(NodeId(1), NOW_MS).unwrap_err();
    let text = files.load(NodeId(2), NOW_MS).unwrap_err().to_string();
    assert!(text.contains("belongs to node 1, but this is node 2"), "{text}");
    let missing = Files { ca: dir.path().join("none"), ..files.clone() };
    let text = load(&missing).to_string();
    assert!(text.contains("none") && text.contains("ottla cert ca"), "{text}");
    let swapped = Files { key: files.certificate.clone(), ..files.clone() };
    assert!(matches!(load(&swapped), CertError::NotPem { role: Role::Key, .. }));
    let ca_as_node = Files { certificate: files.ca.clone(), ..files.clone() };
    assert!(matches!(load(&ca_as_node), CertError::NoIdentity { .. }));
    let expired = files.load(NodeId(1), NOW_MS + 366 * DAY_MS).unwrap_err().to_string();
    assert!(expired.contains("node.crt expired on 2028-01-15"), "{expired}");
    assert!(expired.contains("--renew"), "{expired}");
    let early = files.load(NodeId(1), NOW_MS - DAY_MS).unwrap_err();
    assert!(matches!(early, CertError::NotYetValid { .. }), "{early}");
    let late_ca = node_at(&dir, NOW_MS + 3_651 * DAY_MS).unwrap_err();
    assert!(matches!(late_ca, CertError::Expired { role: Role::Ca, .. }), "{late_ca}");
}

fn node_at(dir: &TempDir, now_ms: i64) -> Result<Files, CertError> {
    new_node_at(dir.path(), &dir.path().join("late"), 1, false, now_ms)
}

#[test]
fn another_cas_certificate_and_another_certificates_key_are_refused() {
    let ((_one, first), (_two, second)) = (made(1), made(1));
    let load = |files: Files| files.load(NodeId(1), NOW_MS).unwrap_err();
    let foreign = load(Files { ca: second.ca.clone(), ..first.clone() });
    assert!(matches!(foreign, CertError::NotSigned { .. }), "{foreign}");
    let mixed = load(Files { key: second.key, ..first.clone() });
    assert!(matches!(mixed, CertError::KeyMismatch { .. }), "{mixed}");
    // Both CAs in one file, as while one is replaced by the other.
    let both = first.ca.with_file_name("both.crt");
    let bytes = [std::fs::read(&second.ca).unwrap(), std::fs::read(&first.ca).unwrap()].concat();
    std::fs::write(&both, bytes).unwrap();
    Files { ca: both, ..first }.load(NodeId(1), NOW_MS).unwrap();
}

#[test]
fn a_cluster_may_have_another_ca_before_the_first_expires() {
    let (dir, old) = made(1);
    let cluster_id = old.load(NodeId(1), NOW_MS).unwrap().cluster_id();
    let second = dir.path().join("second");
    assert_eq!(new_ca(&second, Some(cluster_id), NOW_MS, None).unwrap(), cluster_id);
    let new = node_of(&second, &second.join("node"), 1, false).unwrap();
    let both = [std::fs::read(&old.ca).unwrap(), std::fs::read(&new.ca).unwrap()].concat();
    std::fs::write(&old.ca, both).unwrap();
    let renewed = Files { ca: old.ca.clone(), ..new };
    for files in [old, renewed] {
        assert_eq!(files.load(NodeId(1), NOW_MS).unwrap().cluster_id(), cluster_id);
    }
}

#[test]
fn wrong_hosts_are_refused() {
    let (dir, _) = made(1);
    for host in ["", "a b", "exämple", "-.-..", "http://x"] {
        let new = NewNode {
            ca: dir.path().to_owned(),
            directory: dir.path().join("other"),
            node_id: NodeId(2),
            hosts: vec![host.to_owned()],
            days: 1,
            renew: false,
        };
        let refused = new_node(&new, NOW_MS);
        assert!(matches!(refused, Err(CertError::Host { .. })), "{host}");
    }
}

#[test]
fn a_ca_of_ones_own_signs_requests() {
    let dir = TempDir::new().unwrap();
    let request = Request {
        directory: dir.path().join("node"),
        cluster_id: None,
        node_id: NodeId(3),
        hosts: vec!["node.example".to_owned()],
    };
    let (cluster_id, path) = new_request(&request).unwrap();
    // The company's CA: it knows nothing of clusters, and signs what it is asked for.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let pem = std::fs::read_to_string(path).unwrap();
    let signed = rcgen::CertificateSigningRequestParams::from_pem(&pem).unwrap();
    let files = Files::within(&request.directory);
    std::fs::write(&files.ca, ca.pem()).unwrap();
    std::fs::write(&files.certificate, signed.signed_by(&ca).unwrap().pem()).unwrap();
    let credentials = files.load(NodeId(3), NOW_MS).unwrap();
    assert_eq!(credentials.cluster_id(), cluster_id);
}

#[test]
fn development_certificates_are_made_once_and_renewed_before_they_end() {
    let dir = TempDir::new().unwrap();
    let at = |node, now_ms| {
        let files = development(dir.path(), NodeId(node), now_ms).unwrap();
        (std::fs::read(&files.certificate).unwrap(), files.load(NodeId(node), now_ms).unwrap())
    };
    let (first, one) = at(1, NOW_MS);
    let (_, two) = at(2, NOW_MS);
    assert_eq!(one.cluster_id(), two.cluster_id());
    assert_eq!(at(1, NOW_MS + 300 * DAY_MS).0, first);
    assert_ne!(at(1, NOW_MS + 340 * DAY_MS).0, first);
}

#[tokio::test(start_paused = true)]
async fn new_files_are_taken_up_and_unusable_ones_are_not() {
    let (dir, files) = made(1);
    let config =
        WatchConfig { files: files.clone(), node_id: NodeId(1), every: Duration::from_secs(10) };
    let watch = Watch::new(config, TokioClock::starting_at(NOW_MS), Blocking::inline());
    let current = files.load(NodeId(1), NOW_MS).unwrap();
    let check = watch.check();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&taken);
    let running = tokio::spawn(watch.run(current, move |new| seen.lock().push(new)));
    time::sleep(Duration::from_secs(60)).await;
    assert!(taken.lock().is_empty(), "nothing has changed");

    node_of(dir.path(), &dir.path().join("node"), 1, true).unwrap();
    time::sleep(Duration::from_secs(21)).await;
    assert_eq!(taken.lock().len(), 1);

    // A certificate without its key, then one of another node.
    let good = std::fs::read(&files.certificate).unwrap();
    let (_other, foreign) = made(1);
    std::fs::copy(&foreign.certificate, &files.certificate).unwrap();
    time::sleep(Duration::from_secs(60)).await;
    node_of(dir.path(), &dir.path().join("node"), 2, true).unwrap();
    time::sleep(Duration::from_secs(60)).await;
    assert_eq!(taken.lock().len(), 1, "what cannot be used is not taken up");
    assert_ne!(std::fs::read(&files.certificate).unwrap(), good);

    node_of(dir.path(), &dir.path().join("node"), 1, true).unwrap();
    check();
    time::sleep(Duration::from_millis(1)).await;
    assert_eq!(taken.lock().len(), 2, "asked for, it does not wait");
    running.abort();
}
