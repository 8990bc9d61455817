//! Who may talk to whom, and what both sides are told otherwise.

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::*;
use crate::cert::{Request, new_request};

/// Collects what is logged on this thread.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl io::Write for Logs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The warnings that are logged on this thread while `run` runs.
fn warnings(run: impl FnOnce()) -> String {
    let logs = Logs::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("off,ottla::transport=warn"))
        .with_ansi(false)
        .without_time()
        .with_writer(logs.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let text = logs.0.lock().clone();
    String::from_utf8(text).unwrap()
}

/// A node that dials, or is dialed.
struct Side {
    credentials: Credentials,
    /// How far its clock is ahead.
    ahead: Duration,
    config: TransportConfig,
}

impl Side {
    fn new(credentials: Credentials) -> Self {
        let config = config(credentials.node_id().0);
        Self { credentials, ahead: Duration::ZERO, config }
    }

    fn start(self, seen: &Arc<Seen>, socket: Socket) -> Transport {
        let ahead_ms = i64::try_from(self.ahead.as_millis()).unwrap();
        let seams = Seams {
            socket,
            clock: TokioClock::starting_at(EPOCH_MS + ahead_ms),
            resolver: Arc::new(SimResolver),
            seed: 1,
        };
        let service = Arc::new(Echo(Arc::clone(seen)));
        Transport::start(self.config, &self.credentials, seams, service).unwrap()
    }
}

/// Has `dials` call whomever it takes for node 2. Returns why that fails, and every warning of
/// both.
fn refusal(dials: Side, answers: Side, refuse: Option<NodeId>) -> (ConnectError, String) {
    let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    *theirs.refuse.lock() = refuse;
    let result = Arc::new(Mutex::new(None));
    let failed = Arc::clone(&result);
    let logs = warnings(move || {
        let mut sim = sim(61);
        let answers = Mutex::new(Some(answers));
        let seen = Arc::clone(&theirs);
        sim.host(host(2), move || {
            let (answers, seen) = (answers.lock().take().unwrap(), Arc::clone(&seen));
            async move {
                let _transport = answers.start(&seen, SimUdp::bind(PORT).await);
                std::future::pending().await
            }
        });
        sim.client(host(1), async move {
            let transport = dials.start(&ours, SimUdp::bind(PORT).await);
            transport.set_peers(book(&[2]));
            let refused = transport.call(NodeId(2), Bytes::from_static(b"who"), soon()).await;
            let Err(CallError::Unreachable(error)) = refused else {
                // The dialing side may be done before the other has verified its certificate.
                panic!("expected a refusal, not {refused:?}");
            };
            assert!(transport.call(NodeId(2), Bytes::from_static(b"x"), soon()).await.is_err());
            assert!(!transport.links()[0].connected);
            assert!(ours.messages.lock().is_empty() && theirs.connected.lock().is_empty());
            sleep(Duration::from_millis(100)).await;
            *failed.lock() = Some(error);
            Ok(())
        });
        sim.run().unwrap();
    });
    let error = result.lock().take().unwrap();
    assert!(error.is_refusal(), "{error}");
    (error, logs)
}

/// Checks that the logs of both sides say why, and that at least one says that it was the one that
/// refused.
fn assert_both_know(logs: &str, why: &str) {
    let lines: Vec<&str> = logs.lines().filter(|line| line.contains(why)).collect();
    let told = |what| lines.iter().any(|line| line.contains(what));
    let (dialing, dialed) = ("this node refused a peer", "refused a connection from a peer");
    assert!(told(dialing) || told("a peer refused this node"), "{why}:\n{logs}");
    assert!(told(dialed) || told("had dialed refused this node"), "{why}:\n{logs}");
    assert!(told(dialing) || told(dialed), "{why}:\n{logs}");
}

#[test]
fn another_node_than_the_dialed_one_is_refused_by_whoever_dials() {
    let pki = Pki::new();
    let (error, logs) = refusal(Side::new(pki.credentials(1)), Side::new(pki.credentials(3)), None);
    assert!(error.to_string().contains("node 2 was dialed, but node 3 answers there"), "{error}");
    assert_both_know(&logs, "node 2 was dialed, but node 3 answers");
}

/// Credentials signed by a CA that signs for any cluster.
fn of_own_ca(ca: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>, node: u32) -> Credentials {
    let dir = TempDir::new().unwrap();
    let request = Request {
        directory: dir.path().to_owned(),
        cluster_id: None,
        node_id: NodeId(node),
        hosts: Vec::new(),
    };
    let (_, path) = new_request(&request).unwrap();
    let pem = std::fs::read_to_string(path).unwrap();
    let signed = rcgen::CertificateSigningRequestParams::from_pem(&pem).unwrap();
    let files = Files::within(dir.path());
    std::fs::write(&files.ca, ca.pem()).unwrap();
    std::fs::write(&files.certificate, signed.signed_by(ca).unwrap().pem()).unwrap();
    files.load(NodeId(node), EPOCH_MS).unwrap()
}

#[test]
fn another_cluster_under_the_same_ca_is_refused() {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let (error, logs) = refusal(Side::new(of_own_ca(&ca, 1)), Side::new(of_own_ca(&ca, 2)), None);
    assert!(error.to_string().contains("its certificate is of cluster"), "{error}");
    assert_both_know(&logs, "its certificate is of cluster");
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let (_, logs) = refusal(Side::new(ours.credentials(1)), Side::new(theirs.credentials(2)), None);
    assert_both_know(&logs, "UnknownIssuer");
}

#[test]
fn an_expired_certificate_is_refused_on_either_side() {
    let pki = Pki::new();
    let days = |node, days| Side::new(pki.files(node, days).load(NodeId(node), EPOCH_MS).unwrap());
    let late = |side| Side { ahead: Duration::from_secs(3 * 24 * 3600), ..side };
    let (_, logs) = refusal(late(days(1, 365)), days(2, 2), None);
    assert_both_know(&logs, "xpired");
    let (_, logs) = refusal(days(1, 2), late(days(2, 365)), None);
    assert_both_know(&logs, "xpired");
}

#[test]
fn whom_the_service_does_not_admit_learns_why() {
    let pki = Pki::new();
    let (one, two) = (Side::new(pki.credentials(1)), Side::new(pki.credentials(2)));
    let (error, logs) = refusal(one, two, Some(NodeId(1)));
    assert!(error.to_string().contains("it was removed from the cluster"), "{error}");
    assert_both_know(&logs, "it was removed from the cluster");
}

#[test]
fn the_same_node_id_from_two_disks_is_refused_while_the_first_is_there() {
    let pki = Pki::new();
    let seen = Arc::<Seen>::default();
    let mut sim = sim(62);
    node(&mut sim, &pki, 2, &[], &seen);
    let credentials = pki.credentials(1);
    let first = Side::new(credentials.clone());
    let mut second = Side::new(credentials);
    second.config.directory_id = DirectoryId(uuid::Uuid::from_u128(99));
    sim.client(host(1), async move {
        let transport = first.start(&seen, SimUdp::bind(PORT).await);
        transport.set_peers(book(&[2]));
        transport.call(NodeId(2), Bytes::from_static(b"who"), soon()).await.unwrap();
        // Another process on the same host, with a copy of the certificate.
        let copy = second.start(&Arc::default(), SimUdp::bind(PORT + 1).await);
        copy.set_peers(book(&[2]));
        let refused = copy.call(NodeId(2), Bytes::new(), soon()).await.unwrap_err();
        assert!(refused.to_string().contains("is node.id 1 used twice?"), "{refused}");
        assert_eq!(
            transport.call(NodeId(2), Bytes::from_static(b"who"), soon()).await.unwrap(),
            "1"
        );
        // Once the first is gone, the second may come: a disk that was wiped.
        transport.stop().await;
        let mut answer = copy.call(NodeId(2), Bytes::from_static(b"who"), soon()).await;
        for _ in 0..200 {
            if answer.is_ok() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
            answer = copy.call(NodeId(2), Bytes::from_static(b"who"), soon()).await;
        }
        assert_eq!(answer.unwrap(), "1");
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn seeds_say_who_they_are_and_a_node_finds_itself_among_them() {
    let pki = Pki::new();
    let seen = Arc::<Seen>::default();
    let mut sim = sim(63);
    node(&mut sim, &pki, 2, &[], &seen);
    let credentials = pki.credentials(1);
    let logs = warnings(move || {
        sim.client(host(1), async move {
            let transport = start(&credentials, &seen, 1).await;
            let found = transport.discover(&address(2), soon()).await.unwrap();
            assert_eq!((found.node_id, found.cluster_id), (NodeId(2), credentials.cluster_id()));
            assert_eq!(found.advertised, Some(address(2)));
            assert_eq!(found.version, *VERSIONS.end());
            // Nobody told where node 2 is, but that it was found.
            let answer = transport.call(NodeId(2), Bytes::from_static(b"who"), soon()).await;
            assert_eq!(answer.unwrap(), "1");
            match transport.discover(&address(1), soon()).await {
                Err(ConnectError::Refused { source, .. }) => {
                    assert_eq!(*source, RefuseError::Oneself(NodeId(1)));
                }
                other => panic!("{other:?}"),
            }
            sleep(Duration::from_millis(50)).await;
            Ok(())
        });
        sim.run().unwrap();
    });
    assert_eq!(logs, "", "none of this is worth a warning");
}

#[test]
fn new_certificates_are_shown_from_the_next_connection_on() {
    let pki = Pki::new();
    let seen = Arc::<Seen>::default();
    let mut sim = sim(64);
    node(&mut sim, &pki, 2, &[1], &seen);
    // Made so that it ends a minute after the start.
    let new = NewNode {
        ca: pki.0.path().to_owned(),
        directory: pki.0.path().join("short"),
        node_id: NodeId(1),
        hosts: Vec::new(),
        days: 1,
        renew: true,
    };
    let short = new_node(&new, EPOCH_MS - DAY_MS + 60_000).unwrap();
    let short = short.load(NodeId(1), EPOCH_MS).unwrap();
    let renewed = pki.credentials(1);
    sim.client(host(1), async move {
        let transport = start(&short, &seen, 1).await;
        transport.set_peers(book(&[2]));
        let call = || transport.call(NodeId(2), Bytes::from_static(b"who"), soon());
        assert_eq!(call().await.unwrap(), "1");
        sleep(Duration::from_secs(70)).await;
        assert_eq!(call().await.unwrap(), "1", "connections outlive certificates");
        turmoil::partition(host(1), host(2));
        sleep(Duration::from_secs(5)).await;
        turmoil::repair(host(1), host(2));
        sleep(Duration::from_secs(10)).await;
        assert!(call().await.is_err(), "a new one cannot be made with the old certificate");
        transport.set_credentials(&renewed).unwrap();
        eventually("connected with the new one", || transport.links()[0].connected).await;
        assert_eq!(call().await.unwrap(), "1");
        Ok(())
    });
    sim.run().unwrap();
}
