//! The client's core: connections to brokers, metadata, calls with retries.
//!
//! State: one slot per (broker, lane) with at most one live connection, and the newest metadata.
//! A broker handles the requests of a connection one after another, so a long poll must not share
//! a connection with anything that is in a hurry: that is what lanes are for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, MetadataRequest, TopicName,
        metadata_request::MetadataRequestTopic,
    },
    protocol::{Message, Request, StrBytes, VersionRange},
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::time::{Instant, sleep, timeout};

use super::wire::Error as WireError;
use super::{
    codec,
    connect::Connect,
    connection::{Connection, wait_until},
    error::ClientError,
    metadata::{ClusterView, PartitionView, TopicView},
    versions::Versions,
};

/// How a client behaves towards a cluster.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `host:port` of brokers to ask first.
    pub bootstrap: Vec<String>,
    /// The name in requests.
    pub client_id: String,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for one response.
    pub request_timeout: Duration,
    /// How long one operation may take with all its retries.
    pub operation_timeout: Duration,
    /// How often one operation is tried.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with each further one.
    pub backoff: Duration,
    /// The longest wait between attempts.
    pub backoff_max: Duration,
    /// How long metadata counts as fresh.
    pub metadata_max_age: Duration,
    /// The largest response that is accepted.
    pub max_response_bytes: usize,
    /// Seeds the jitter of waits, so that a simulation replays.
    pub seed: u64,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            bootstrap: vec!["127.0.0.1:9092".to_owned()],
            client_id: "ottla".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(60),
            attempts: 1000,
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            metadata_max_age: Duration::from_secs(300),
            max_response_bytes: 256 << 20,
            seed: 0,
        }
    }
}

/// Whom a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Whoever answers.
    Any,
    /// The broker of that id.
    Node(i32),
    /// Whoever takes requests for the controller.
    Controller,
}

/// Separates connections to one broker: see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane(u32);

impl Lane {
    /// The lane of short requests.
    pub const GENERAL: Self = Self(0);
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    host: Arc<str>,
    port: u16,
    lane: Lane,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

/// An operation's attempts so far.
#[derive(Debug)]
pub(crate) struct Retry {
    client: Client,
    deadline: Instant,
    attempts: u32,
}

impl Retry {
    pub(crate) fn new(client: &Client, deadline: Instant) -> Self {
        Self { client: client.clone(), deadline, attempts: 0 }
    }

    /// Waits until the next attempt, or says that there should be none.
    pub(crate) async fn again(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.attempts += 1;
        let attempts = self.attempts;
        if error.invalidates_metadata() {
            self.client.invalidate();
        }
        if !error.is_retriable() {
            return Err(error);
        }
        let wait = self.client.backoff(attempts);
        if attempts >= self.client.config().attempts || Instant::now() + wait >= self.deadline {
            return Err(ClientError::DeadlineExceeded { attempts, last: Arc::new(error) });
        }
        tracing::debug!(%error, attempts, "trying again");
        sleep(wait).await;
        Ok(())
    }
}

/// Runs an async block until it succeeds, fails for good, or the budget or the deadline is used
/// up. A macro, since the future of an async closure cannot be known to be `Send`.
macro_rules! retrying {
    ($client:expr, $deadline:expr, $attempt:expr) => {{
        let mut retry = $crate::client::Retry::new(&$client, $deadline);
        loop {
            match $attempt.await {
                Ok(done) => break Ok(done),
                Err(error) => {
                    if let Err(error) = retry.again(error).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}
pub(crate) use retrying;

/// A client of one cluster. Clones share connections and metadata.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ClientConfig,
    client_id: StrBytes,
    bootstrap: Vec<(Arc<str>, u16)>,
    connect: Arc<dyn Connect>,
    slots: Mutex<BTreeMap<Place, Slot>>,
    view: ArcSwap<ClusterView>,
    /// When the view was last fetched; none where it is known to be out of date.
    refreshed: Mutex<Option<Instant>>,
    next_lane: AtomicU32,
    rng: Mutex<SmallRng>,
}

impl Client {
    /// A client that connects when it is first used.
    ///
    /// # Errors
    /// Where a bootstrap address is not `host:port`.
    pub fn new(config: ClientConfig, connect: Arc<dyn Connect>) -> Result<Self, ClientError> {
        let bootstrap = config.bootstrap.iter().map(|address| parse_address(address));
        let inner = Inner {
            bootstrap: bootstrap.collect::<Result<_, _>>()?,
            client_id: codec::text(&config.client_id),
            rng: Mutex::new(SmallRng::seed_from_u64(config.seed)),
            config,
            connect,
            slots: Mutex::default(),
            view: ArcSwap::default(),
            refreshed: Mutex::default(),
            next_lane: AtomicU32::new(1),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// What the client was made with.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.0.config
    }

    /// The newest metadata, without asking anybody.
    #[must_use]
    pub fn view(&self) -> Arc<ClusterView> {
        self.0.view.load_full()
    }

    /// A lane that nobody else uses.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane(self.0.next_lane.fetch_add(1, Ordering::Relaxed))
    }

    /// When an operation that starts now has to be done.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.0.config.operation_timeout
    }

    pub(crate) fn client_id(&self) -> &StrBytes {
        &self.0.client_id
    }

    /// The wait after that many attempts, with jitter.
    pub(crate) fn backoff(&self, attempts: u32) -> Duration {
        let config = &self.0.config;
        let doubled = config.backoff.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        let jitter = self.0.rng.lock().random_range(0.8..1.2);
        doubled.min(config.backoff_max).mul_f64(jitter)
    }

    /// Asks once, and waits for the answer as long as `request_timeout` allows.
    ///
    /// # Errors
    /// Any of [`ClientError`]; error codes inside the response are the caller's to read.
    pub async fn call<R: Request>(
        &self,
        target: Target,
        lane: Lane,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        self.call_versioned::<R, &R>(target, lane, R::VERSIONS, |_| Ok(request)).await
    }

    /// As [`Client::call`], with a request that depends on the version.
    pub(crate) async fn call_versioned<R: Request, B: std::borrow::Borrow<R>>(
        &self,
        target: Target,
        lane: Lane,
        versions: VersionRange,
        build: impl FnOnce(i16) -> Result<B, ClientError>,
    ) -> Result<R::Response, ClientError> {
        let within = self.0.config.request_timeout;
        self.call_within(target, lane, versions, within, build).await
    }

    /// As [`Client::call_versioned`], waiting for the answer for `within`.
    pub(crate) async fn call_within<R: Request, B: std::borrow::Borrow<R>>(
        &self,
        target: Target,
        lane: Lane,
        versions: VersionRange,
        within: Duration,
        build: impl FnOnce(i16) -> Result<B, ClientError>,
    ) -> Result<R::Response, ClientError> {
        let connection = self.connection(target, lane).await?;
        self.call_on(&connection, versions, within, build).await
    }

    async fn call_on<R: Request, B: std::borrow::Borrow<R>>(
        &self,
        connection: &Connection,
        versions: VersionRange,
        within: Duration,
        build: impl FnOnce(i16) -> Result<B, ClientError>,
    ) -> Result<R::Response, ClientError> {
        let version = choose(connection, codec::api_of::<R>(), versions)?;
        let frame = codec::encode(build(version)?.borrow(), version, &self.0.client_id)?;
        let pending = connection.send(frame).await?;
        let address = Arc::clone(pending.address());
        let response = wait_until(connection, pending, Instant::now() + within).await?;
        decode::<R>(connection, &address, response, version)
    }

    /// A live connection to `target`.
    pub(crate) async fn connection(
        &self,
        target: Target,
        lane: Lane,
    ) -> Result<Arc<Connection>, ClientError> {
        match target {
            Target::Any => self.any_connection(lane).await,
            Target::Node(node) => {
                let place = match self.place(node, lane) {
                    Some(place) => place,
                    None => {
                        self.refresh(&[], false).await?;
                        self.place(node, lane).ok_or(ClientError::UnknownBroker { node })?
                    }
                };
                self.connection_to(place).await
            }
            Target::Controller => {
                if self.0.view.load().brokers.is_empty() || self.is_stale() {
                    self.refresh(&[], false).await?;
                }
                let controller = self.0.view.load().controller;
                match self.place(controller, lane) {
                    Some(place) => self.connection_to(place).await,
                    None => self.any_connection(lane).await,
                }
            }
        }
    }

    fn place(&self, node: i32, lane: Lane) -> Option<Place> {
        let view = self.0.view.load();
        let broker = view.brokers.get(&node)?;
        Some(Place { host: Arc::clone(&broker.host), port: broker.port, lane })
    }

    async fn any_connection(&self, lane: Lane) -> Result<Arc<Connection>, ClientError> {
        let known = {
            let view = self.0.view.load();
            let known = view.brokers.values().map(|broker| (Arc::clone(&broker.host), broker.port));
            known.collect::<Vec<_>>()
        };
        let mut last = ClientError::Closed;
        for (host, port) in known.into_iter().chain(self.0.bootstrap.iter().cloned()) {
            match self.connection_to(Place { host, port, lane }).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connection_to(&self, place: Place) -> Result<Arc<Connection>, ClientError> {
        let slot = Arc::clone(self.0.slots.lock().entry(place.clone()).or_default());
        // One caller connects, the others wait for it.
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(Arc::clone(connection));
        }
        *slot = None;
        let connection = Arc::new(self.open(&place).await?);
        *slot = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn open(&self, place: &Place) -> Result<Connection, ClientError> {
        let config = &self.0.config;
        let address: Arc<str> = format!("{}:{}", place.host, place.port).into();
        let connecting = self.0.connect.connect(&place.host, place.port);
        let stream = match timeout(config.connect_timeout, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let stream = stream.map_err(|source| ClientError::Connect {
            address: Arc::clone(&address),
            source: Arc::new(source),
        })?;
        let mut connection = Connection::start(stream, address, config.max_response_bytes);
        let versions = self.negotiate(&connection).await?;
        connection.set_versions(versions);
        Ok(connection)
    }

    /// Asks which versions a broker serves: in a flexible version first, then in the oldest.
    async fn negotiate(&self, connection: &Connection) -> Result<Versions, ClientError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("ottla"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        for version in [3, 0] {
            let request =
                if version == 0 { ApiVersionsRequest::default() } else { request.clone() };
            let frame = codec::encode(&request, version, &self.0.client_id)?;
            let pending = connection.send(frame).await?;
            let deadline = Instant::now() + self.0.config.request_timeout;
            let response = wait_until(connection, pending, deadline).await?;
            // A broker that does not serve the version says so in the oldest one.
            let refused = response.get(4..6) == Some(&35i16.to_be_bytes()[..]);
            if refused && version > 0 {
                continue;
            }
            let address = connection.address();
            let answer = decode::<ApiVersionsRequest>(connection, address, response, version)?;
            ClientError::check(ApiKey::ApiVersions, answer.error_code, None, || {
                address.to_string()
            })?;
            return Ok(Versions::from(&answer));
        }
        let VersionRange { min, max } = ApiVersionsRequest::VERSIONS;
        let address = Arc::clone(connection.address());
        Err(ClientError::UnsupportedVersion { address, api: ApiKey::ApiVersions, min, max })
    }

    /// Says that the metadata is out of date.
    pub fn invalidate(&self) {
        *self.0.refreshed.lock() = None;
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.0
            .refreshed
            .lock()
            .is_none_or(|refreshed| refreshed.elapsed() > self.0.config.metadata_max_age)
    }

    /// Asks for metadata of `topics` and keeps it. Asks once.
    ///
    /// # Errors
    /// As [`Client::call`]. A topic's own error is found in [`ClusterView::errors`].
    pub async fn refresh(&self, topics: &[&str], auto_create: bool) -> Result<(), ClientError> {
        self.fetch_metadata(Some(topics), auto_create).await
    }

    /// Asks for metadata of all topics and keeps it. Asks once.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn refresh_all(&self) -> Result<(), ClientError> {
        self.fetch_metadata(None, false).await
    }

    async fn fetch_metadata(
        &self,
        topics: Option<&[&str]>,
        auto_create: bool,
    ) -> Result<(), ClientError> {
        let build = |version| {
            let wanted = topics.map(|topics| {
                let named = topics.iter().map(|name| {
                    MetadataRequestTopic::default().with_name(Some(TopicName(codec::text(name))))
                });
                named.collect::<Vec<_>>()
            });
            // Version 0 spells "all" as an empty list, and creates whatever is named.
            let wanted = if version == 0 { Some(wanted.unwrap_or_default()) } else { wanted };
            let request = MetadataRequest::default().with_topics(wanted);
            let creating = version < 4 || auto_create;
            Ok(request.with_allow_auto_topic_creation(creating))
        };
        let versions = VersionRange { min: 1, ..MetadataRequest::VERSIONS };
        let connection = self.any_connection(Lane::GENERAL).await?;
        let within = self.0.config.request_timeout;
        let response = self
            .call_on::<MetadataRequest, MetadataRequest>(&connection, versions, within, build)
            .await?;
        ClientError::check(ApiKey::Metadata, response.error_code, None, || "topics".to_owned())?;
        self.0.view.rcu(|view| {
            let mut view = ClusterView::clone(view);
            view.merge(response.clone(), topics.is_none());
            view
        });
        *self.0.refreshed.lock() = Some(Instant::now());
        Ok(())
    }

    /// What is known of `topic`, asked anew where it is unknown or out of date. Asks once.
    ///
    /// # Errors
    /// As [`Client::call`], and the topic's own error.
    pub async fn topic(&self, topic: &str) -> Result<Arc<TopicView>, ClientError> {
        if !self.is_stale()
            && let Some(view) = self.0.view.load().topic(topic)
        {
            return Ok(Arc::clone(view));
        }
        // Whatever else is known may be out of date as well.
        let view = self.view();
        let known = view.topics.keys().map(|name| &**name).filter(|name| *name != topic);
        let names: Vec<&str> = std::iter::once(topic).chain(known).collect();
        self.refresh(&names, false).await?;
        let view = self.0.view.load();
        if let Some(error) = view.errors.get(topic) {
            return Err(ClientError::refused(ApiKey::Metadata, topic, *error, None));
        }
        view.topic(topic).map(Arc::clone).ok_or_else(|| {
            let error = WireError::UnknownTopicOrPartition;
            ClientError::refused(ApiKey::Metadata, topic, error, None)
        })
    }

    /// The partition, with a leader. Asks once where that is unknown.
    ///
    /// # Errors
    /// As [`Client::topic`], and where the partition or its leader does not exist.
    pub async fn partition(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<PartitionView, ClientError> {
        let view = self.topic(topic).await?;
        let found = view.partition(partition).ok_or_else(|| {
            let error = WireError::UnknownTopicOrPartition;
            ClientError::refused(ApiKey::Metadata, format!("{topic}-{partition}"), error, None)
        })?;
        if found.leader < 0 {
            return Err(ClientError::NoLeader { topic: topic.into(), partition });
        }
        Ok(found.clone())
    }
}

/// The newest version of `api` that this client and the other side of `connection` share.
pub(crate) fn choose(
    connection: &Connection,
    api: ApiKey,
    ours: VersionRange,
) -> Result<i16, ClientError> {
    connection.versions().choose(api, ours).ok_or_else(|| {
        let address = Arc::clone(connection.address());
        ClientError::UnsupportedVersion { address, api, min: ours.min, max: ours.max }
    })
}

/// Reads a response; a malformed one ends the connection.
pub(crate) fn decode<R: Request>(
    connection: &Connection,
    address: &Arc<str>,
    response: bytes::Bytes,
    version: i16,
) -> Result<R::Response, ClientError> {
    codec::decode::<R>(response, version).map_err(|source| {
        connection.close();
        let address = Arc::clone(address);
        ClientError::Malformed { address, api: codec::api_of::<R>(), source }
    })
}

fn parse_address(address: &str) -> Result<(Arc<str>, u16), ClientError> {
    let invalid = || ClientError::Address(address.into());
    let (host, port) = address.trim().rsplit_once(':').ok_or_else(invalid)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().map_err(|_| invalid())?;
    if host.is_empty() { Err(invalid()) } else { Ok((host.into(), port)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports() {
        assert_eq!(parse_address("a.b:1").unwrap(), ("a.b".into(), 1));
        assert_eq!(parse_address("[::1]:9092").unwrap(), ("::1".into(), 9092));
        for wrong in ["", "host", ":1", "host:", "host:x", "host:65536"] {
            assert!(matches!(parse_address(wrong), Err(ClientError::Address(_))), "{wrong}");
        }
    }
}
