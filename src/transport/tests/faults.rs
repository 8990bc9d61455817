//! What the network and crashes do to connections.

use super::*;

/// Sends a numbered message to node 2 every 10 ms, for ever.
fn chatter(transport: &Transport) {
    let transport = transport.clone();
    tokio::spawn(async move {
        for n in 0u64.. {
            let message = Bytes::copy_from_slice(&n.to_be_bytes());
            transport.send(NodeId(2), MessageClass::Urgent, message);
            sleep(Duration::from_millis(10)).await;
        }
    });
}

/// Waits for a message that arrives from now on. Returns how long it took.
async fn next_message(seen: &Seen) -> Duration {
    let (started, before) = (Instant::now(), seen.messages.lock().len());
    eventually("a message arrives", || seen.messages.lock().len() > before).await;
    started.elapsed()
}

#[test]
fn a_partition_is_noticed_and_its_end_is_too() {
    let pki = Pki::new();
    let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut sim = sim(11);
    node(&mut sim, &pki, 2, &[1], &theirs);
    let credentials = pki.credentials(1);
    sim.client(host(1), async move {
        let transport = start(&credentials, &ours, 1).await;
        transport.set_peers(book(&[2]));
        chatter(&transport);
        next_message(&theirs).await;

        turmoil::partition(host(1), host(2));
        let cut = Instant::now();
        eventually("the loss is reported", || ours.unreachable.lock().contains(&NodeId(2))).await;
        let noticed = cut.elapsed();
        assert!(noticed < Duration::from_millis(3_600), "after {noticed:?}");
        sleep(Duration::from_secs(20)).await;
        let failing = transport.call(NodeId(2), Bytes::new(), soon()).await.unwrap_err();
        assert!(matches!(failing, CallError::Unreachable(_)), "{failing}");

        turmoil::repair(host(1), host(2));
        let healed = next_message(&theirs).await;
        assert!(healed < Duration::from_millis(2_100), "after {healed:?}");
        let last = theirs.messages.lock().last().unwrap().1.clone();
        let now = u64::from_be_bytes(last.as_ref().try_into().unwrap());
        assert!(now > 1_900, "nothing that was sent long ago arrives: {now}");
        let link = &transport.links()[0];
        assert!(
            link.connected && link.connects == 2 && link.dropped_old + link.dropped_full > 1_000
        );
        assert!(transport.figures().iter().any(|one| one.name == "ottla_cluster_rtt_seconds"));
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_cut_in_one_direction_is_noticed_on_both_sides() {
    for seed in 0..2 {
        let pki = Pki::new();
        let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
        let mut sim = sim(seed);
        node(&mut sim, &pki, 2, &[1], &theirs);
        let credentials = pki.credentials(1);
        sim.client(host(1), async move {
            let transport = start(&credentials, &ours, seed).await;
            transport.set_peers(book(&[2]));
            chatter(&transport);
            eventually("both are connected", || {
                !ours.connected.lock().is_empty() && !theirs.connected.lock().is_empty()
            })
            .await;
            let (from, to) = if seed == 0 { (1, 2) } else { (2, 1) };
            turmoil::partition_oneway(host(from), host(to));
            eventually("both notice", || {
                !ours.unreachable.lock().is_empty() && !theirs.unreachable.lock().is_empty()
            })
            .await;
            turmoil::repair_oneway(host(from), host(to));
            assert!(next_message(&theirs).await < Duration::from_millis(2_100));
            Ok(())
        });
        sim.run().unwrap();
    }
}

/// Runs node 1 beside node 2, which is crashed, and started again after `down`. Returns how long
/// after that its first message arrives.
fn after_restart(down: Duration) -> Duration {
    let pki = Pki::new();
    let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut sim = sim(21);
    node(&mut sim, &pki, 2, &[1], &theirs);
    let (credentials, seen) = (pki.credentials(1), Arc::clone(&ours));
    sim.host(host(1), move || {
        let (credentials, seen) = (credentials.clone(), Arc::clone(&seen));
        async move {
            let transport = start(&credentials, &seen, 1).await;
            transport.set_peers(book(&[2]));
            chatter(&transport);
            std::future::pending().await
        }
    });
    let advance = |sim: &mut Sim<'_>, by: Duration| {
        let until = sim.elapsed() + by;
        while sim.elapsed() < until {
            sim.step().unwrap();
        }
    };
    advance(&mut sim, Duration::from_secs(1));
    assert!(!theirs.messages.lock().is_empty());
    sim.crash(host(2));
    advance(&mut sim, down);
    let before = theirs.messages.lock().len();
    sim.bounce(host(2));
    let restarted = sim.elapsed();
    while theirs.messages.lock().len() == before {
        sim.step().unwrap();
    }
    sim.elapsed() - restarted
}

#[test]
fn a_node_that_comes_back_is_reached_at_once() {
    // Within the idle timeout, when its peer does not know yet that the connection is gone.
    let quick = after_restart(Duration::from_millis(300));
    assert!(quick < Duration::from_millis(500), "{quick:?}");
    // Long after, when its peer waits between attempts.
    let late = after_restart(Duration::from_secs(30));
    assert!(late < Duration::from_millis(500), "{late:?}");
}

/// Names that move.
#[derive(Debug, Default)]
struct Moving(Mutex<u32>);

impl Resolve for Moving {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let at = host(*self.0.lock());
        Box::pin(async move { Ok(vec![SocketAddr::new(turmoil::lookup(at), port)]) })
    }
}

#[test]
fn names_are_resolved_anew_at_every_attempt() {
    let pki = Pki::new();
    let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut sim = sim(31);
    // The same node at two addresses, one after the other.
    for at in [4, 5] {
        let (credentials, seen) = (pki.credentials(2), Arc::clone(&theirs));
        sim.host(host(at), move || {
            let (credentials, seen) = (credentials.clone(), Arc::clone(&seen));
            async move {
                let _transport = start(&credentials, &seen, u64::from(at)).await;
                std::future::pending().await
            }
        });
    }
    let credentials = pki.credentials(1);
    sim.client(host(1), async move {
        let resolver = Arc::new(Moving(Mutex::new(4)));
        let seams = Seams {
            socket: SimUdp::bind(PORT).await,
            clock: TokioClock::starting_at(EPOCH_MS),
            resolver: Arc::clone(&resolver) as _,
            seed: 1,
        };
        let service = Arc::new(Echo(Arc::clone(&ours)));
        let transport = Transport::start(config(1), &credentials, seams, service).unwrap();
        transport.set_peers(book(&[2]));
        chatter(&transport);
        next_message(&theirs).await;
        *resolver.0.lock() = 5;
        turmoil::partition(host(1), host(4));
        sleep(Duration::from_secs(4)).await;
        next_message(&theirs).await;
        assert_eq!(transport.links()[0].connects, 2);
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_peer_that_left_the_book_is_let_go() {
    let pki = Pki::new();
    let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut sim = sim(41);
    node(&mut sim, &pki, 2, &[], &theirs);
    let credentials = pki.credentials(1);
    sim.client(host(1), async move {
        let transport = start(&credentials, &ours, 1).await;
        transport.set_peers(book(&[2]));
        eventually("connected", || !ours.connected.lock().is_empty()).await;
        transport.set_peers(book(&[]));
        assert!(transport.links().is_empty());
        assert!(!transport.send(NodeId(2), MessageClass::Log, Bytes::new()));
        transport.set_peers(book(&[2]));
        eventually("connected again", || ours.connected.lock().len() == 2).await;
        Ok(())
    });
    sim.run().unwrap();
}

/// When which message arrived, with packets lost at random.
fn lossy(seed: u64) -> Vec<(Bytes, Duration)> {
    let pki = Pki::new();
    let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut sim = sim(seed);
    node(&mut sim, &pki, 2, &[], &theirs);
    let credentials = pki.credentials(1);
    let seen = Arc::clone(&theirs);
    sim.client(host(1), async move {
        let socket = SimUdp::losing(PORT, 0.1, seed).await;
        let transport = start_on(&credentials, &ours, seed, config(1), socket);
        transport.set_peers(book(&[2]));
        for n in 0..200u8 {
            // Some of several packets.
            transport.send(NodeId(2), MessageClass::Log, Bytes::from(vec![n; 40 * usize::from(n)]));
            let answer = transport.call(NodeId(2), Bytes::from_static(b"who"), soon()).await;
            assert_eq!(answer.unwrap(), "1");
        }
        eventually("the last arrives", || theirs.has(&[199; 40 * 199])).await;
        assert!(transport.links()[0].lost_packets > 10);
        Ok(())
    });
    sim.run().unwrap();
    let messages = seen.messages.lock();
    messages.iter().map(|(_, message, at)| (message.clone(), *at)).collect()
}

#[test]
fn lost_packets_lose_nothing_and_a_seed_says_when_everything_arrives() {
    let first = lossy(51);
    assert!(first.iter().map(|(message, _)| message.first().copied().unwrap_or(0)).eq(0..200));
    assert_eq!(first, lossy(51));
    assert_ne!(first, lossy(52));
}

#[test]
fn a_node_that_stops_says_so_and_takes_nothing_more() {
    let pki = Pki::new();
    let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut sim = sim(61);
    let (one, two) = (pki.credentials(1), pki.credentials(2));
    sim.client(host(1), async move {
        let transport = start(&one, &ours, 1).await;
        let socket = SimUdp::bind(PORT + 1).await;
        let stopping = start_on(&two, &theirs, 2, config(2), socket);
        let at = Address { port: PORT + 1, ..address(1) };
        transport.set_peers(BTreeMap::from([(NodeId(2), vec![at])]));
        let call = || transport.call(NodeId(2), Bytes::from_static(b"who"), soon());
        assert_eq!(call().await.unwrap(), "1");
        let before = Instant::now();
        stopping.stop().await;
        eventually("it is noticed", || !ours.unreachable.lock().is_empty()).await;
        assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
        let refused = call().await.unwrap_err();
        assert!(!refused.may_have_been_served(), "{refused}");
        // There is nothing that somebody would have to set right.
        let CallError::Unreachable(why) = refused else { panic!("{refused}") };
        assert!(!why.is_refusal(), "{why}");
        let stopped = stopping.call(NodeId(1), Bytes::new(), soon()).await.unwrap_err();
        assert!(matches!(stopped, CallError::Unreachable(ConnectError::Stopped)), "{stopped}");
        Ok(())
    });
    sim.run().unwrap();
}
