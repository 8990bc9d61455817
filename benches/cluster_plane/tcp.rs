//! Over TCP, plain or under TLS 1.3, with blocking calls, which cost least: what a copy takes that
//! does nothing else. All frames go over one connection, since streams need none of their own.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use anyhow::Result;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
    version::TLS13,
};

use crate::copies::{ACKNOWLEDGEMENT_BYTES, Copied, HEADER_BYTES, Load, Side, Watch, joined, side};

const NAME: &str = "localhost";
const LENGTH_BYTES: usize = 4;
/// As many frames are unacknowledged at most, so that acknowledgements always have room.
const UNACKNOWLEDGED_MAX: usize = 64;

pub(crate) fn plain(load: Load) -> Result<Copied> {
    copy(load, Ok, Ok)
}

pub(crate) fn tls(load: Load) -> Result<Copied> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (server, client) = (Arc::new(server), Arc::new(client));
    copy(
        load,
        move |stream| Ok(StreamOwned::new(ServerConnection::new(server)?, stream)),
        move |stream| {
            let name = ServerName::try_from(NAME)?;
            Ok(StreamOwned::new(ClientConnection::new(client, name)?, stream))
        },
    )
}

fn copy<S: Read + Write, R: Read + Write>(
    load: Load,
    send_over: impl FnOnce(TcpStream) -> Result<S> + Send + 'static,
    receive_over: impl FnOnce(TcpStream) -> Result<R> + Send + 'static,
) -> Result<Copied> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sender = side("sender", move || {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        push(load, send_over(stream)?)
    })?;
    let receiver = side("receiver", move || {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        follow(load, receive_over(stream)?)
    })?;
    let receiver = joined(receiver)?;
    Ok(Copied::new(load, &joined(sender)?, &receiver))
}

fn push(load: Load, mut stream: impl Read + Write) -> Result<Side> {
    let payload = load.payload();
    let frames = load.frames() * load.streams;
    let mut front = u32::try_from(HEADER_BYTES + payload.len())?.to_be_bytes().to_vec();
    front.resize(LENGTH_BYTES + HEADER_BYTES, 0);
    let mut acknowledgement = [0; ACKNOWLEDGEMENT_BYTES];
    // The follower greets once it is there, so that no handshake is counted.
    stream.read_exact(&mut acknowledgement)?;
    let watch = Watch::start()?;
    for frame in 0..frames {
        stream.write_all(&front)?;
        stream.write_all(&payload)?;
        if frame >= UNACKNOWLEDGED_MAX {
            stream.read_exact(&mut acknowledgement)?;
        }
    }
    for _ in 0..frames.min(UNACKNOWLEDGED_MAX) {
        stream.read_exact(&mut acknowledgement)?;
    }
    watch.stop()
}

fn follow(load: Load, mut stream: impl Read + Write) -> Result<Side> {
    let acknowledgement = [0; ACKNOWLEDGEMENT_BYTES];
    stream.write_all(&acknowledgement)?;
    stream.flush()?;
    let watch = Watch::start()?;
    let mut length = [0; LENGTH_BYTES];
    let mut frame = Vec::new();
    for _ in 0..load.frames() * load.streams {
        stream.read_exact(&mut length)?;
        frame.resize(usize::try_from(u32::from_be_bytes(length))?, 0);
        stream.read_exact(&mut frame)?;
        stream.write_all(&acknowledgement)?;
    }
    watch.stop()
}
