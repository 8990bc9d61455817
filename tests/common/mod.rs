//! A whole node on loopback, and a client that sends it bytes of its own choice.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiVersionsRequest, RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable, HeaderVersion, Request},
};
use ottla::{
    base::{Blocking, SystemClock},
    config::NodeConfig,
    log::StdDir,
    net::{SocketBuffers, TcpListener},
    node::{Beginning, Node, Operator, READINESS, Seams},
    observability::{Readiness, Registry},
    quorum::MemStore,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longer than anything here takes; a wait that reaches it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A node that serves clients.
pub(crate) struct Served {
    pub(crate) node: Node,
    pub(crate) address: String,
    _directory: tempfile::TempDir,
}

/// Starts a node with nothing set.
pub(crate) async fn serve() -> Served {
    serve_with(&[]).await
}

/// Starts a node with `settings`.
pub(crate) async fn serve_with(settings: &[(&str, &str)]) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let defaults = [
        ("node.id", "1"),
        ("log.dirs", directory.path().to_str().unwrap()),
        ("listeners", "PLAINTEXT://127.0.0.1:0"),
        ("offsets.topic.replication.factor", "1"),
    ];
    let settings: BTreeMap<String, String> = defaults
        .iter()
        .chain(settings)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let config = Arc::new(NodeConfig::from_settings(settings).unwrap());
    let seams = Seams {
        clock: Arc::new(SystemClock),
        directories: vec![Arc::new(StdDir::create(directory.path()).unwrap())],
        store: Arc::new(MemStore::default()),
        log_io: Blocking::threads("log", 2, 64).unwrap(),
        quorum_io: Blocking::threads("quorum", 3, 64).unwrap(),
        seed: 7,
        registry: Registry::new(),
        readiness: Readiness::new(READINESS),
        operator: Operator::default(),
        cluster: None,
        beginning: Beginning::Alone,
        fatal: Arc::new(|fatal| panic!("the quorum cannot go on: {fatal}")),
    };
    let listener =
        TcpListener::bind("127.0.0.1:0".parse().unwrap(), SocketBuffers::default()).unwrap();
    let listeners = vec![("PLAINTEXT".to_owned(), listener)];
    let node = timeout(LONG, Node::start(config, seams, listeners)).await.unwrap().unwrap();
    let address = node.bootstrap_servers().next().unwrap();
    Served { node, address, _directory: directory }
}

impl Served {
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// An honest client is served, on a connection of its own.
    pub(crate) async fn assert_serves(&self) {
        let mut stream = self.connect().await;
        let response = call(&mut stream, &ApiVersionsRequest::default(), 0).await;
        assert_eq!(response.error_code, 0);
        assert!(!response.api_keys.is_empty());
    }
}

/// A request as it goes over the wire.
pub(crate) fn frame<R: Request>(request: &R, version: i16) -> Vec<u8> {
    let mut body = BytesMut::new();
    RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(1)
        .encode(&mut body, R::header_version(version))
        .unwrap();
    request.encode(&mut body, version).unwrap();
    let mut framed = Vec::new();
    framed.put_u32(u32::try_from(body.len()).unwrap());
    framed.extend_from_slice(&body);
    framed
}

/// Sends a request and waits for its response.
pub(crate) async fn call<R: Request>(
    stream: &mut TcpStream,
    request: &R,
    version: i16,
) -> R::Response {
    stream.write_all(&frame(request, version)).await.unwrap();
    let mut bytes = receive(stream).await.expect("the connection was closed");
    let header = R::Response::header_version(version);
    ResponseHeader::decode(&mut bytes, header).unwrap();
    R::Response::decode(&mut bytes, version).unwrap()
}

/// The next response, or None where the node closed the connection.
pub(crate) async fn receive(stream: &mut TcpStream) -> Option<Bytes> {
    let read = async {
        let length = stream.read_u32().await.ok()?;
        let mut bytes = vec![0; length as usize];
        stream.read_exact(&mut bytes).await.ok()?;
        Some(Bytes::from(bytes))
    };
    timeout(LONG, read).await.expect("the node neither answers nor closes")
}
