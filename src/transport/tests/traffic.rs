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
