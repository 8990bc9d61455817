//! TLS 1.3 and QUIC's settings.
//!
//! Both sides show certificates, and each verifies that the cluster's CA signed the other's. Host
//! names are not compared: a node is who its certificate says by node id and cluster id, wherever
//! it is reached. That comparison follows the handshake (`handshake`), where a refusal can be
//! explained. Sessions are never resumed, so that every connection stands on certificates that are
//! valid when it is made, and there is no 0-RTT.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::{
    EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TimeSource, TransportConfig,
    VarInt, congestion,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    sign::SingleCertAndKey,
    time_provider::TimeProvider,
};

use super::{error::TlsError, hello::Lane};
use crate::{base::Clock, cert::Credentials};

const ALPN: &[u8] = b"ottla/1";
/// Sent as the server's name, which nobody looks at.
pub(super) const SERVER_NAME: &str = "ottla";

/// The largest datagram over loopback. With segmentation offload ten go at once, which must stay
/// below 65,507 bytes: above that, every such burst is lost.
const LOOPBACK_MTU: u16 = 6500;
/// The largest over a network of 1500 bytes. Found out for each path, since tunnels and overlays
/// take less, and a path that takes less loses every larger datagram.
const NETWORK_MTU: u16 = 1452;
/// What every path takes (RFC 9000, 14).
const SAFE_MTU: u16 = 1200;

const MIB: u32 = 1 << 20;
/// What one stream may send ahead of its reader.
const STREAM_WINDOW_BYTES: u32 = MIB;
/// The same for a stream of the bulk lane, on the side that dialed: it is the one that receives.
const BULK_STREAM_WINDOW_BYTES: u32 = 4 * MIB;
/// What a bulk connection may have sent ahead of its readers.
const BULK_WINDOW_BYTES: u32 = 32 * MIB;
/// Streams of a peer at a time: requests, or replicas and snapshots.
pub(super) const PEER_STREAMS_MAX: u32 = 32;
/// Streams of Raft messages, with room for classes to come.
const PEER_MESSAGE_STREAMS_MAX: u32 = 4;
/// Room for all streams of a control connection at once: no stream waits for the window of another.
const CONTROL_WINDOW_BYTES: u32 =
    (PEER_STREAMS_MAX + PEER_MESSAGE_STREAMS_MAX) * STREAM_WINDOW_BYTES;
/// What may be in flight before the first acknowledgement; quinn's default of ten packets would
/// cost a large message several round trips.
const INITIAL_CONGESTION_WINDOW_BYTES: u64 = 1 << 20;
/// Between neighbours. The default of 333 ms is for the internet, and delays the first repetition.
const INITIAL_RTT: Duration = Duration::from_millis(2);

/// Connections whose handshake has not begun, and what they may have sent.
const INCOMING_MAX: usize = 64;
const INCOMING_BUFFER_BYTES: u64 = 64 << 10;
const INCOMING_BUFFERS_BYTES: u64 = 8 << 20;

/// How long connections live without a sign of life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Liveness {
    pub(super) keep_alive: Duration,
    pub(super) idle: Duration,
}

/// What connections are made with, from one set of credentials.
pub(super) struct Tls {
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
    clock: Arc<dyn Clock>,
    liveness: Liveness,
}

impl Tls {
    pub(super) fn new(
        credentials: &Credentials,
        clock: &Arc<dyn Clock>,
        liveness: Liveness,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let time: Arc<dyn TimeProvider> = Arc::new(WallTime(Arc::clone(clock)));
        let key = Arc::new(SingleCertAndKey::from(credentials.key()));
        let versions = &[&rustls::version::TLS13];

        let clients =
            WebPkiClientVerifier::builder_with_provider(credentials.roots(), Arc::clone(&provider));
        let mut server =
            rustls::ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&time))
                .with_protocol_versions(versions)?
                .with_client_cert_verifier(clients.build()?)
                .with_cert_resolver(Arc::clone(&key) as _);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;

        let servers =
            ClusterVerifier { roots: credentials.roots(), provider: Arc::clone(&provider) };
        let mut client = rustls::ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers))
            .with_client_cert_resolver(key);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;

        Ok(Self {
            server: Arc::new(server.try_into()?),
            client: Arc::new(client.try_into()?),
            clock: Arc::clone(clock),
            liveness,
        })
    }

    /// For a connection from `remote`.
    pub(super) fn server(&self, remote: SocketAddr) -> ServerConfig {
        let mut config = ServerConfig::with_crypto(Arc::clone(&self.server) as _);
        config
            .transport_config(Arc::new(transport(remote, Lane::Control, self.liveness)))
            .migration(false)
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BUFFER_BYTES)
            .incoming_buffer_size_total(INCOMING_BUFFERS_BYTES)
            .time_source(Arc::new(WallTime(Arc::clone(&self.clock))));
        config
    }

    /// For a connection to `remote`.
    pub(super) fn client(&self, remote: SocketAddr, lane: Lane) -> quinn::ClientConfig {
        let mut config = quinn::ClientConfig::new(Arc::clone(&self.client) as _);
        config.transport_config(Arc::new(transport(remote, lane, self.liveness)));
        config
    }
}

/// For the whole endpoint. Its keys come from the private key, so that a node that was killed and
/// started again can tell its peers at once that their connections are gone.
pub(super) fn endpoint(credentials: &Credentials, seed: [u8; 32]) -> EndpointConfig {
    let reset = ::ring::hmac::Key::new(
        ::ring::hmac::HMAC_SHA256,
        &credentials.derive("ottla stateless reset"),
    );
    let ids = credentials.derive("ottla connection ids");
    let ids = ids.iter().take(8).fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config.rng_seed(Some(seed));
    config.max_udp_payload_size(LOOPBACK_MTU).expect("within what QUIC allows");
    config
}

fn transport(remote: SocketAddr, lane: Lane, liveness: Liveness) -> TransportConfig {
    let is_loopback = remote.ip().to_canonical().is_loopback();
    let (mtu, mtu_max) =
        if is_loopback { (LOOPBACK_MTU, LOOPBACK_MTU) } else { (SAFE_MTU, NETWORK_MTU) };
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu_max);
    let mut congestion = congestion::CubicConfig::default();
    congestion.initial_window(INITIAL_CONGESTION_WINDOW_BYTES);
    let (stream_window, window) = match lane {
        Lane::Control | Lane::Probe => (STREAM_WINDOW_BYTES, CONTROL_WINDOW_BYTES),
        Lane::Bulk => (BULK_STREAM_WINDOW_BYTES, BULK_WINDOW_BYTES),
    };
    let mut config = TransportConfig::default();
    config
        .initial_mtu(mtu)
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window(VarInt::from_u32(stream_window))
        .receive_window(VarInt::from_u32(window))
        .send_window(u64::from(window))
        .max_concurrent_bidi_streams(VarInt::from_u32(PEER_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(PEER_MESSAGE_STREAMS_MAX))
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(Some(liveness.keep_alive))
        .max_idle_timeout(IdleTimeout::try_from(liveness.idle).ok())
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(congestion));
    config
}

/// The node's clock, as TLS and QUIC want it.
#[derive(Debug)]
struct WallTime(Arc<dyn Clock>);

impl WallTime {
    fn since_epoch(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.wall_ms()).unwrap_or(0))
    }
}

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.since_epoch()))
    }
}

impl TimeSource for WallTime {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + self.since_epoch()
    }
}

/// Accepts a server whose certificate the CA signed, whatever host it names.
#[derive(Debug)]
struct ClusterVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ClusterVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // QUIC has no TLS 1.2.
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
