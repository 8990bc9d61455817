//! A node as a process: `ottla server` and `ottla dev`.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rand::{TryRng, rngs::SysRng};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
};
use tracing::{error, info, warn};

use super::{Beginning, ClusterSeams, Node, NodeFailure, Operator, READINESS, Seams, StartError};
use crate::{
    base::{Blocking, SystemClock},
    cert::{self, CertError},
    config::{BrokerConfig, ClusterTls, LoadError, NodeConfig},
    log::{Dir, StdDir},
    net::{SocketBuffers, TcpListener},
    observability::{LogLevel, Readiness, Registry, http, logging, process_metrics},
    quorum::{Fatal, FatalHook, RocksStore, StoreError},
    transport::{Socket, SystemResolver},
};

/// Threads that flush, open and clean logs. Flushes of several logs overlap in the file system's
/// journal, so more threads than cores pay off.
const LOG_THREADS: usize = 8;
/// The quorum's calls take turns of up to three.
const QUORUM_THREADS: usize = 3;
/// How often new certificates are looked for.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(60);
/// Jobs that may wait for a thread.
const QUEUE: usize = 1_024;
/// How long a node that cannot go on may take to end in order.
const STOP_MAX: Duration = Duration::from_secs(15);
/// The metadata quorum's store, within the first log directory.
pub(super) const QUORUM_DIRECTORY: &str = "quorum";

/// Why a process does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The configuration is not usable.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// The certificates of the cluster plane cannot be made or used.
    #[error(transparent)]
    Certificates(#[from] CertError),
    /// The log cannot be set up.
    #[error(transparent)]
    Log(#[from] logging::InitError),
    /// The system refuses something that every node needs.
    #[error("cannot {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A log directory cannot be made.
    #[error("cannot use {path} as a log directory")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The metadata store cannot be opened.
    #[error("cannot open the metadata store {path}")]
    Store {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// A listener's address cannot be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The node does not start.
    #[error("the node does not start")]
    Start(#[source] Box<StartError>),
    /// The node had to end.
    #[error("the node cannot go on")]
    Failed(#[source] NodeFailure),
}

/// Serves as the file `config` says, until SIGTERM or SIGINT. `ready` hears of it once clients are
/// served, with the addresses they reach the node under.
///
/// # Errors
/// See [`ProcessError`].
pub fn server(config: &Path, ready: impl FnOnce(&str)) -> Result<(), ProcessError> {
    run(NodeConfig::load(config)?, Beginning::Waits, ready)
}

pub(super) fn run(
    config: NodeConfig,
    beginning: Beginning,
    ready: impl FnOnce(&str),
) -> Result<(), ProcessError> {
    let log_level = logging::init(&config.log_level, config.log_format)?;
    for warning in &config.warnings {
        warn!(key = warning.name, line = warning.line, "this key has no effect yet");
    }
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| ProcessError::System { what: "start the runtime", source })?;
    runtime.block_on(serve(Arc::new(config), beginning, log_level, ready))
}

async fn serve(
    config: Arc<NodeConfig>,
    beginning: Beginning,
    log_level: LogLevel,
    ready: impl FnOnce(&str),
) -> Result<(), ProcessError> {
    let system = |what| move |source| ProcessError::System { what, source };
    // Before anything is written, so that a signal during the start ends it in order.
    let mut terminate = signal(SignalKind::terminate()).map_err(system("await SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("await SIGINT"))?;
    let hangup = signal(SignalKind::hangup()).map_err(system("await SIGHUP"))?;
    let listeners = bind(&config)?;
    let (registry, readiness) = (Registry::new(), Readiness::new(READINESS));
    registry.on_render(Box::new(process_metrics));
    let operator = Operator::default();
    let (stop_operators, operators) =
        operators(&config, &registry, &readiness, &operator, log_level)?;
    let mut seams = seams(&config, registry, readiness, operator, beginning)?;
    if let Some(tls) = &config.cluster_tls {
        seams.cluster = Some(cluster_seams(&config, tls, &seams, hangup)?);
    }
    let start = Node::start(Arc::clone(&config), seams, listeners);
    let node = tokio::select! {
        node = start => node.map_err(|error| ProcessError::Start(Box::new(error)))?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let servers: Vec<_> = node.bootstrap_servers().collect();
    info!(node_id = %config.node_id, servers = servers.join(","), "ready");
    ready(&servers.join(","));
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = node.failed() => Some(failure),
    };
    let stopped = match failure {
        None => node.stop().await.map_err(|error| ProcessError::Start(Box::new(error))),
        Some(failure) => {
            error!(%failure, "the node ends");
            // A disk that hangs must not keep it.
            let _ = tokio::time::timeout(STOP_MAX, node.stop()).await;
            Err(ProcessError::Failed(failure))
        }
    };
    // The last to go, so that the stop can be watched.
    drop(stop_operators);
    if let Some(operators) = operators {
        let _ = operators.await;
    }
    stopped
}

/// Serves health, readiness and metrics from before the node's start until its end.
fn operators(
    config: &NodeConfig,
    registry: &Registry,
    readiness: &Readiness,
    operator: &Operator,
    log_level: LogLevel,
) -> Result<(oneshot::Sender<()>, Option<JoinHandle<()>>), ProcessError> {
    let (stop, stopped) = oneshot::channel();
    let Some(address) = &config.http_listener else { return Ok((stop, None)) };
    let listener = bind_one(&address.host, address.port, SocketBuffers::default())?;
    let sources = http::Sources {
        registry: registry.clone(),
        readiness: readiness.clone(),
        routes: operator.routes(),
        log_level: Some(log_level),
    };
    // Ends when the sender is dropped.
    let serving = http::serve(listener, sources, async { drop(stopped.await) });
    let task = tokio::spawn(async move {
        if let Err(error) = serving.await {
            warn!(%error, "health and metrics are not served");
        }
    });
    Ok((stop, Some(task)))
}

fn bind(config: &NodeConfig) -> Result<Vec<(String, TcpListener)>, ProcessError> {
    let broker = BrokerConfig::resolve(config.layers(&(), &()));
    let buffers = SocketBuffers {
        send_bytes: usize::try_from(broker.socket_send_buffer_bytes).ok(),
        receive_bytes: usize::try_from(broker.socket_receive_buffer_bytes).ok(),
        backlog: broker.socket_listen_backlog_size,
    };
    let mut listeners = Vec::with_capacity(config.listeners.len());
    for listener in &config.listeners {
        let bound = bind_one(&listener.host, listener.port, buffers)?;
        listeners.push((listener.name.clone(), bound));
    }
    Ok(listeners)
}

fn bind_one(host: &str, port: u16, buffers: SocketBuffers) -> Result<TcpListener, ProcessError> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let error = |source| ProcessError::Bind { address: format!("{host}:{port}"), source };
    TcpListener::bind(resolve(host, port).map_err(error)?, buffers).map_err(error)
}

/// A port of the system's choice, on the interface that `host` stands for.
pub(super) fn any_port(host: &str) -> io::Result<SocketAddr> {
    resolve(if host.is_empty() { "0.0.0.0" } else { host }, 0)
}

fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let mut addresses = (host, port).to_socket_addrs()?;
    addresses.next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn seams(
    config: &NodeConfig,
    registry: Registry,
    readiness: Readiness,
    operator: Operator,
    beginning: Beginning,
) -> Result<Seams, ProcessError> {
    let system = |what| move |source| ProcessError::System { what, source };
    let mut directories: Vec<Arc<dyn Dir>> = Vec::with_capacity(config.data_dirs.len());
    for path in &config.data_dirs {
        let dir = match StdDir::create(path) {
            Ok(dir) => dir,
            // The node goes on without it, but not without the first, which holds the metadata.
            Err(error) if !directories.is_empty() => {
                warn!(directory = %path.display(), %error, "a log directory cannot be made");
                StdDir::at(path)
            }
            Err(source) => return Err(ProcessError::Directory { path: path.clone(), source }),
        };
        directories.push(Arc::new(dir));
    }
    let path = config.data_dirs[0].join(QUORUM_DIRECTORY);
    let store = RocksStore::open(&path).map_err(|source| ProcessError::Store { path, source })?;
    let threads = "start threads for files";
    let seed =
        SysRng.try_next_u64().map_err(|error| system("draw a seed")(io::Error::other(error)))?;
    Ok(Seams {
        clock: Arc::new(SystemClock),
        directories,
        store: Arc::new(store),
        log_io: Blocking::threads("ottla-log", LOG_THREADS, QUEUE).map_err(system(threads))?,
        quorum_io: Blocking::threads("ottla-quorum", QUORUM_THREADS, QUEUE)
            .map_err(system(threads))?,
        seed,
        fatal: end_the_process(),
        registry,
        readiness,
        operator,
        cluster: None,
        beginning,
    })
}

/// Binds the cluster plane, and looks for new certificates, also on SIGHUP.
fn cluster_seams(
    config: &NodeConfig,
    tls: &ClusterTls,
    seams: &Seams,
    mut hangup: Signal,
) -> Result<ClusterSeams, ProcessError> {
    let ClusterTls { ca, certificate, key } = tls.clone();
    let files = cert::Files { ca, certificate, key };
    let credentials = files.load(config.node_id, seams.clock.wall_ms())?;
    let listener = &config.cluster_listener;
    let host = if listener.host.is_empty() { "0.0.0.0" } else { &listener.host };
    let socket = resolve(host, listener.port).and_then(Socket::bind);
    let socket =
        socket.map_err(|source| ProcessError::Bind { address: listener.to_string(), source })?;
    let watch_config =
        cert::WatchConfig { files, node_id: config.node_id, every: CERTIFICATES_EVERY };
    let watch = metrics::with_local_recorder(&seams.registry, || {
        cert::Watch::new(watch_config, Arc::clone(&seams.clock), seams.log_io.clone())
    });
    let check = watch.check();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            check();
        }
    });
    let resolver = Arc::new(SystemResolver);
    Ok(ClusterSeams { credentials, socket, resolver, watch: Some(watch) })
}

/// What was promised to be durable may not be: nothing may be answered any more.
fn end_the_process() -> FatalHook {
    Arc::new(|fatal: Fatal| {
        let remedy = "if a disk failed or is full, see to that and start the node again; if its \
                      data are damaged, move its log directories away and start it: it joins \
                      anew, and 'ottla quorum add-voter' makes it a voter again";
        error!(
            cause = in_words(&fatal),
            remedy, "the metadata quorum cannot go on; the process ends"
        );
        std::process::abort();
    })
}

/// The message, followed by those of its causes.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Thousands of partitions and connections need more files than the usual soft limit.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_the_process_is_named_down_to_its_cause() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let says = in_words(&Fatal::from(StoreError::Directory(full)));
        assert_eq!(says, "cannot create the directory of the metadata store: no storage space");
    }

    #[test]
    fn a_damaged_metadata_store_is_told_from_one_that_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::open(directory.path()).unwrap();
        assert!(!RocksStore::open(directory.path()).unwrap_err().is_damage());
        drop(store);
        for file in std::fs::read_dir(directory.path()).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST") {
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[20] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
        }
        assert!(RocksStore::open(directory.path()).unwrap_err().is_damage());
    }
}
