use std::{io, net::SocketAddr, time::Duration};

use metrics::{counter, describe_counter, gauge, histogram, with_local_recorder};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    InvalidLevel, LogLevel, Readiness, Registry, Render,
    http::{self, Sources},
    logging::SetLevelError,
    process, process_metrics,
};
use crate::net::Listener;

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// What `registry` shows, but for the line on the build.
fn shown(registry: &Registry) -> String {
    let text = registry.render();
    let lines = text.lines().filter(|line| !line.contains("ottla_build_info"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn counters_and_gauges_are_shown_with_help_and_labels() {
    let registry = Registry::new();
    with_local_recorder(&registry, || {
        describe_counter!("requests_total", "Requests,\nall of them.");
        counter!("requests_total", "api" => "Fetch").increment(2);
        counter!("requests_total", "api" => "a \"quoted\" \\ name").increment(1);
        gauge!("connections").set(3.0);
        gauge!("connections").decrement(0.5);
    });
    let expected = "\
# TYPE connections gauge
connections 2.5
# HELP requests_total Requests,\\nall of them.
# TYPE requests_total counter
requests_total{api=\"Fetch\"} 2
requests_total{api=\"a \\\"quoted\\\" \\\\ name\"} 1
";
    assert_eq!(shown(&registry), expected);
}

#[test]
fn nodes_of_one_process_count_apart() {
    let (one, other) = (Registry::new(), Registry::new());
    let handle = with_local_recorder(&one, || counter!("requests_total"));
    with_local_recorder(&other, || counter!("requests_total")).increment(5);
    handle.increment(1);
    assert!(shown(&one).ends_with("\nrequests_total 1\n"));
    assert!(shown(&other).ends_with("\nrequests_total 5\n"));
}

#[test]
fn a_histogram_counts_into_buckets_whose_bounds_belong_to_them() {
    let registry = Registry::new();
    let sizes = with_local_recorder(&registry, || histogram!("batch_bytes", "topic" => "a"));
    assert_eq!(shown(&registry), "", "empty histograms are left out");
    for value in [64.0, 65.0, 1e9, f64::NAN, f64::INFINITY] {
        sizes.record(value);
    }
    let text = shown(&registry);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "# TYPE batch_bytes histogram");
    assert_eq!(lines[1], "batch_bytes_bucket{topic=\"a\",le=\"64\"} 1");
    assert_eq!(lines[2], "batch_bytes_bucket{topic=\"a\",le=\"256\"} 2");
    let end = [
        "batch_bytes_bucket{topic=\"a\",le=\"67108864\"} 2",
        "batch_bytes_bucket{topic=\"a\",le=\"+Inf\"} 3",
        "batch_bytes_sum{topic=\"a\"} 1000000129",
        "batch_bytes_count{topic=\"a\"} 3",
    ];
    assert_eq!(lines[lines.len() - 4..], end);
}

#[test]
fn what_is_read_while_rendering_keeps_its_names_together() {
    let registry = Registry::new();
    for partition in ["0", "1"] {
        registry.on_render(Box::new(move |render: &mut Render| {
            let labels = [("partition", partition)];
            render.gauge("log_size_bytes", "Size.", &labels, 7.0);
            render.counter("log_flushes_total", "Flushes.", &labels, 1.0);
        }));
    }
    let expected = "\
# HELP log_flushes_total Flushes.
# TYPE log_flushes_total counter
log_flushes_total{partition=\"0\"} 1
log_flushes_total{partition=\"1\"} 1
# HELP log_size_bytes Size.
# TYPE log_size_bytes gauge
log_size_bytes{partition=\"0\"} 7
log_size_bytes{partition=\"1\"} 7
";
    assert_eq!(shown(&registry), expected);
}

#[test]
fn the_process_shows_what_it_has_taken() {
    let registry = Registry::new();
    registry.on_render(Box::new(process_metrics));
    let text = registry.render();
    let figure = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is missing in {text}")).parse().unwrap()
    };
    assert!(figure("process_resident_memory_bytes") > 1e6);
    assert!(figure("process_open_fds") >= 3.0);
    assert!(figure("process_max_fds") >= figure("process_open_fds"));
    assert!(figure("process_cpu_seconds_total") >= 0.0);
    assert!(figure("process_start_time_seconds") > 1.7e9);
}

#[test]
fn a_programs_name_does_not_shift_its_times() {
    let mut render = Render::default();
    let fields = (3..=22).map(|field| (field * 100).to_string()).collect::<Vec<_>>().join(" ");
    process::times(&mut render, &format!("17 (a) 1 (b) {fields}"), Some("cpu 1\nbtime 1000\n"));
    let text = render.finish();
    assert!(text.contains("\nprocess_cpu_seconds_total 29\n"), "{text}");
    assert!(text.contains("\nprocess_start_time_seconds 1022\n"), "{text}");
}

#[test]
fn a_misspelt_level_changes_nothing() {
    let (level, _filter) = LogLevel::detached("info");
    let refused = level.set("debgu");
    assert!(
        matches!(refused, Err(SetLevelError::Level(InvalidLevel::NotALevel(word))) if word == "debgu")
    );
    assert!(matches!(level.set(" , "), Err(SetLevelError::Level(InvalidLevel::Empty))));
    assert!(level.set("ottla::net=loud").is_err());
    assert_eq!(level.current(), "info");
    level.set(" warn, ottla::net=debug\n").unwrap();
    assert_eq!(level.current(), "ottla::net=debug,warn");
}

/// A listener without a network: its connections are pipes.
struct Pipes(mpsc::Receiver<DuplexStream>);

impl Listener for Pipes {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        match self.0.recv().await {
            Some(stream) => Ok((stream, PEER)),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(PEER)
    }
}

struct Served {
    connect: mpsc::Sender<DuplexStream>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<io::Result<()>>,
}

impl Served {
    fn start(sources: Sources) -> Self {
        let (connect, pipes) = mpsc::channel(128);
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let ended = tokio::spawn(http::serve(Pipes(pipes), sources, stopped));
        Self { connect, stop, ended }
    }

    async fn connection(&self) -> DuplexStream {
        let (near, far) = duplex(1 << 16);
        self.connect.send(far).await.unwrap();
        near
    }

    /// The status and the body of the answer.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut connection = self.connection().await;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: ottla\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

fn sources(log_level: Option<LogLevel>) -> Sources {
    let (registry, readiness) = (Registry::new(), Readiness::new(&["quorum"]));
    Sources { registry, readiness, routes: axum::Router::new(), log_level }
}

#[tokio::test]
async fn a_node_is_alive_before_it_is_ready() {
    let sources = sources(None);
    let served = Served::start(sources.clone());
    assert_eq!(served.ask("GET", "/healthz", "").await.0, 200);
    sources.readiness.set("quorum", Err("no leader".to_owned()));
    let (status, body) = served.ask("GET", "/readyz", "").await;
    assert_eq!(status, 503);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let quorum = serde_json::json!({ "name": "quorum", "ready": false, "reason": "no leader" });
    assert_eq!(body, serde_json::json!({ "ready": false, "conditions": [quorum] }));
    sources.readiness.set("quorum", Ok(()));
    assert_eq!(served.ask("GET", "/readyz", "").await.0, 200);
}

#[tokio::test]
async fn metrics_are_served_in_prometheus_format() {
    let sources = sources(None);
    with_local_recorder(&sources.registry, || counter!("requests_total")).increment(4);
    let served = Served::start(sources);
    let (status, body) = served.ask("GET", "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(body.contains("\nrequests_total 4\n"), "{body}");
}

#[tokio::test]
async fn the_log_level_is_changed_over_http() {
    let (level, _filter) = LogLevel::detached("info");
    let served = Served::start(sources(Some(level)));
    assert_eq!(served.ask("PUT", "/loglevel", "debug").await, (200, "debug\n".to_owned()));
    let (status, why) = served.ask("PUT", "/loglevel", "loud").await;
    assert_eq!(status, 400);
    assert!(why.contains("\"loud\" is no level"), "{why}");
    assert_eq!(served.ask("PUT", "/loglevel", &"x".repeat(8 << 10)).await.0, 413);
    assert_eq!(served.ask("GET", "/loglevel", "").await, (200, "debug\n".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn silent_connections_keep_nobody_out() {
    let served = Served::start(sources(None));
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(served.connection().await);
    }
    let started = Instant::now();
    assert_eq!(served.ask("GET", "/healthz", "").await.0, 200);
    assert!(started.elapsed() < Duration::from_secs(100), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_neither_for_idle_connections_nor_for_stuck_ones() {
    let served = Served::start(sources(None));
    let mut idle = served.connection().await;
    let mut stuck = served.connection().await;
    stuck.write_all(b"PUT /loglevel HTTP/1.1\r\ncontent-length: 9\r\n\r\n").await.unwrap();
    assert_eq!(served.ask("GET", "/healthz", "").await.0, 200);
    served.stop.send(()).unwrap();
    let ended = timeout(Duration::from_secs(10), served.ended).await;
    ended.expect("ends in time").unwrap().unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
}
