//! Messages, requests and streams between nodes that trust each other.

use super::*;

/// Runs `work` on node 1, with node 2 beside it.
fn with_two<F>(seed: u64, work: impl FnOnce(Transport, Arc<Seen>, Arc<Seen>) -> F + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let pki = Pki::new();
    let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut sim = sim(seed);
    node(&mut sim, &pki, 2, &[], &theirs);
    let credentials = pki.credentials(1);
    sim.client(host(1), async move {
        let transport = start(&credentials, &ours, seed).await;
        transport.set_peers(book(&[2]));
        work(transport, ours, theirs).await;
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn messages_arrive_in_order_and_say_who_sent_them() {
    with_two(1, |transport, ours, theirs| async move {
        // Before there is a connection: kept for it.
        for n in 0..100u8 {
            transport.send(NodeId(2), MessageClass::Log, Bytes::from(vec![n]));
        }
        eventually("the last arrives", || theirs.has(&[99])).await;
        let seen: Vec<u8> = theirs.messages.lock().iter().map(|(_, bytes, _)| bytes[0]).collect();
        assert_eq!(seen, (0..100).collect::<Vec<u8>>());
        assert!(theirs.messages.lock().iter().all(|(from, ..)| *from == NodeId(1)));
        assert_eq!(*ours.connected.lock(), [NodeId(2)]);
        let large = Bytes::from(vec![7; 3 << 20]);
        assert!(transport.send(NodeId(2), MessageClass::Log, large.clone()));
        eventually("a large one arrives", || theirs.has(&large)).await;
        let too_large = Bytes::from(vec![0; (8 << 20) + 1]);
        assert!(!transport.send(NodeId(2), MessageClass::Log, too_large));
        assert!(!transport.send(NodeId(9), MessageClass::Log, Bytes::new()), "nobody knows node 9");
    });
}

#[test]
fn requests_are_answered_or_say_what_became_of_them() {
    with_two(2, |transport, _, _| async move {
        let call = |request: &'static [u8], deadline| {
            let transport = transport.clone();
            async move { transport.call(NodeId(2), Bytes::from_static(request), deadline).await }
        };
        assert_eq!(call(b"who", soon()).await.unwrap(), "1");
        assert_eq!(call(b"", soon()).await.unwrap(), "");
        let many = (0..200).map(|_| call(b"who", soon()));
        let answers = futures::future::join_all(many).await;
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == "1"));
        let busy = call(b"busy", soon()).await.unwrap_err();
        assert!(matches!(busy, CallError::NotServed { reason: NotServed::Busy, .. }), "{busy}");
        assert!(!busy.may_have_been_served());
        let before = Instant::now();
        let late = call(b"slow", before + Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(late, CallError::TimedOut(NodeId(2))) && late.may_have_been_served());
        assert!(before.elapsed() < Duration::from_millis(310));
        let large = Bytes::from(vec![1; 5 << 20]);
        let answer = transport.call(NodeId(2), large.clone(), soon()).await.unwrap();
        assert_eq!(answer, large);
        let too_large = Bytes::from(vec![1; (16 << 20) + 1]);
        let refused = transport.call(NodeId(2), too_large, soon()).await.unwrap_err();
        assert!(matches!(refused, CallError::TooLarge(_)));
        let unknown = transport.call(NodeId(9), Bytes::new(), soon()).await.unwrap_err();
        assert!(matches!(unknown, CallError::Unreachable(ConnectError::NoAddress(_))), "{unknown}");
    });
}

#[test]
fn abandoned_requests_do_not_use_up_the_streams() {
    with_two(3, |transport, _, _| async move {
        for _ in 0..200 {
            let deadline = Instant::now() + Duration::from_millis(20);
            let late = transport.call(NodeId(2), Bytes::from_static(b"slow"), deadline).await;
            assert!(late.is_err());
        }
        assert_eq!(
            transport.call(NodeId(2), Bytes::from_static(b"who"), soon()).await.unwrap(),
            "1"
        );
    });
}

#[test]
fn streams_carry_what_is_written_and_its_end() {
    with_two(4, |transport, _, theirs| async move {
        let mut stream = transport.open(NodeId(2), StreamClass::Snapshot, soon()).await.unwrap();
        for _ in 0..64 {
            stream.sender.write(&mut [Bytes::from(vec![3; 100_000])]).await.unwrap();
        }
        stream.sender.finish();
        let answer = stream.receiver.read_frame(100).await.unwrap().unwrap();
        assert_eq!(answer, "6400000");
        assert_eq!(stream.receiver.read_frame(100).await, Ok(None));
        assert_eq!(theirs.stream_bytes.lock()[&StreamClass::Snapshot], 6_400_000);
    });
}

#[test]
fn the_system_s_sockets_carry_it_too() {
    let pki = Pki::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let start = |node: u32, seen: &Arc<Seen>| {
            let seams = Seams {
                socket: Socket::bind(([127, 0, 0, 1], 0).into()).unwrap(),
                clock: TokioClock::starting_at(EPOCH_MS),
                resolver: Arc::new(SystemResolver),
                seed: u64::from(node),
            };
            let service = Arc::new(Echo(Arc::clone(seen)));
            Transport::start(config(node), &pki.credentials(node), seams, service).unwrap()
        };
        let (one, two) = (Arc::<Seen>::default(), Arc::<Seen>::default());
        let (first, second) = (start(1, &one), start(2, &two));
        let port = second.local_addr().unwrap().port();
        let at = Address { host: "localhost".to_owned(), port };
        assert_eq!(first.discover(&at, soon()).await.unwrap().node_id, NodeId(2));
        assert_eq!(first.call(NodeId(2), Bytes::from_static(b"who"), soon()).await.unwrap(), "1");
        let mut stream = first.open(NodeId(2), StreamClass::Replica, soon()).await.unwrap();
        for _ in 0..32 {
            stream.sender.write(&mut [Bytes::from(vec![1; 1 << 20])]).await.unwrap();
        }
        stream.sender.finish();
        let answer = stream.receiver.read_frame(100).await.unwrap().unwrap();
        assert_eq!(answer, (32 << 20).to_string());
        first.stop().await;
        second.stop().await;
    });
}

/// Sends an urgent message every 10 ms for a while. Returns the longest that one took to arrive.
async fn slowest_message(transport: &Transport, theirs: &Seen) -> Duration {
    theirs.messages.lock().clear();
    let mut sent = Vec::new();
    for n in 0..100u64 {
        let message = Bytes::copy_from_slice(&[&[1, 2, 3], &n.to_be_bytes()[..]].concat());
        sent.push((message.clone(), turmoil::sim_elapsed().unwrap()));
        assert!(transport.send(NodeId(2), MessageClass::Urgent, message));
        sleep(Duration::from_millis(10)).await;
    }
    let last = sent.last().unwrap().0.clone();
    eventually("the last message arrives", || theirs.has(&last)).await;
    let seen = theirs.messages.lock();
    let took = |(message, at): &(Bytes, Duration)| {
        seen.iter().find(|(_, found, _)| found == message).map(|found| found.2.saturating_sub(*at))
    };
    sent.iter().map(|one| took(one).expect("none is lost")).max().unwrap()
}

/// Runs `work` on node 1, behind a line of 10 MB/s to node 2.
fn behind_a_slow_line<F>(work: impl FnOnce(Transport, Arc<Seen>) -> F + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let pki = Pki::new();
    let (ours, theirs) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut sim = sim(5);
    node(&mut sim, &pki, 2, &[], &theirs);
    let credentials = pki.credentials(1);
    sim.client(host(1), async move {
        let socket = SimUdp::slow(PORT, 10_000).await;
        let transport = start_on(&credentials, &ours, 1, config(1), socket);
        transport.set_peers(book(&[2]));
        eventually("connected", || !ours.connected.lock().is_empty()).await;
        assert!(slowest_message(&transport, &theirs).await < Duration::from_millis(6));
        work(transport, theirs).await;
        Ok(())
    });
    sim.run().unwrap();
}

/// What the queue of the slow line holds at most takes this long, and a lost packet twice that.
const LINE_DELAY: Duration = Duration::from_millis(2 * 256 * 1_500 / 10_000 + 10);

#[test]
fn bulk_that_fills_the_line_does_not_delay_messages() {
    behind_a_slow_line(|transport, theirs| async move {
        let mut stream = transport.open(NodeId(2), StreamClass::Snapshot, soon()).await.unwrap();
        let filling = tokio::spawn(async move {
            let block = Bytes::from(vec![9; 1 << 20]);
            while stream.sender.write(&mut [block.clone()]).await.is_ok() {}
        });
        sleep(Duration::from_millis(500)).await;
        let before = theirs.stream_bytes.lock()[&StreamClass::Snapshot];
        let started = Instant::now();
        let slowest = slowest_message(&transport, &theirs).await;
        let bytes = theirs.stream_bytes.lock()[&StreamClass::Snapshot] - before;
        filling.abort();
        let rate = bytes as f64 / started.elapsed().as_secs_f64();
        assert!(rate > 5e6, "the line is not full: {rate} bytes a second");
        assert!(slowest < LINE_DELAY, "{slowest:?}");
    });
}

#[test]
fn large_requests_and_entries_do_not_delay_heartbeats() {
    behind_a_slow_line(|transport, theirs| async move {
        let large = Bytes::from(vec![8; 15 << 20]);
        let deadline = Instant::now() + Duration::from_secs(60);
        let caller = transport.clone();
        let calling = tokio::spawn(async move { caller.call(NodeId(2), large, deadline).await });
        let entries = transport.clone();
        let appending = tokio::spawn(async move {
            for _ in 0..5 {
                entries.send(NodeId(2), MessageClass::Log, Bytes::from(vec![5; 1 << 20]));
                sleep(Duration::from_millis(200)).await;
            }
        });
        sleep(Duration::from_millis(100)).await;
        let slowest = slowest_message(&transport, &theirs).await;
        assert!(!calling.is_finished(), "the line was idle");
        assert!(slowest < LINE_DELAY, "{slowest:?}");
        appending.await.unwrap();
        assert_eq!(calling.await.unwrap().unwrap().len(), 15 << 20);
    });
}

#[test]
fn a_stream_that_nobody_reads_holds_up_neither_requests_nor_other_streams() {
    with_two(6, |transport, _, _| async move {
        // More than its window takes; the service of node 1 reads nothing of what comes back.
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let mut stream = transport.open(NodeId(2), StreamClass::CatchUp, soon()).await.unwrap();
            stream.sender.write(&mut [Bytes::from_static(b"x")]).await.unwrap();
            stalled.push(stream);
        }
        let mut stream = transport.open(NodeId(2), StreamClass::Replica, soon()).await.unwrap();
        stream.sender.write(&mut [Bytes::from(vec![1; 5 << 20])]).await.unwrap();
        stream.sender.finish();
        assert!(stream.receiver.read_frame(100).await.unwrap().is_some());
        assert_eq!(
            transport.call(NodeId(2), Bytes::from_static(b"who"), soon()).await.unwrap(),
            "1"
        );
        // There is an end to how many streams a peer may have.
        let mut more = Vec::new();
        let refused = loop {
            let deadline = Instant::now() + Duration::from_millis(100);
            match transport.open(NodeId(2), StreamClass::Replica, deadline).await {
                Ok(stream) => more.push(stream),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, OpenError::TimedOut(NodeId(2))), "{refused}");
        assert!(more.len() < 40);
    });
}
