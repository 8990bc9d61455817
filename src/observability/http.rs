//! The operator plane's HTTP endpoints.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process runs |
//! | `GET /readyz` | 200 where the node may be sent work, else 503; the conditions as JSON |
//! | `GET /metrics` | all metrics in Prometheus' text format |
//! | `GET /loglevel` | the directives in force, as text |
//! | `PUT /loglevel` | puts the directives of the body in force; 400 says what is wrong with them |
//!
//! Whoever can connect may use all of them. Connections are few, and none may be silent for long,
//! so that a forgotten one does not keep operators out.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, Sleep, sleep},
};
use tracing::{info, warn};

use super::{LogLevel, Readiness, Registry, logging::SetLevelError};
use crate::net::Listener;

/// The most connections at a time. Further ones wait.
const CONNECTIONS: usize = 64;
/// A connection on which nothing moves is closed after this long; scrapes come more often.
const SILENCE: Duration = Duration::from_secs(90);
/// How long a stop waits for requests under way.
const DRAIN: Duration = Duration::from_secs(5);
/// The pause after the system refused to accept, which it does when file handles run out.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// The longest body of a request.
const BODY_MAX_BYTES: usize = 4 << 10;
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the endpoints show.
#[derive(Debug, Clone)]
pub struct Sources {
    /// For `/metrics`.
    pub registry: Registry,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// What else is served.
    pub routes: Router,
    /// For `/loglevel`, which is not found where the log belongs to somebody else.
    pub log_level: Option<LogLevel>,
}

/// Serves the endpoints on `listener` until `stop` is ready and what is under way then has been
/// answered, or a few seconds have passed.
///
/// # Errors
/// Where the listener does not know its address.
pub async fn serve<L: Listener>(
    listener: L,
    sources: Sources,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    info!(%address, "serve health, readiness and metrics");
    let listener = Places { listener, places: Arc::new(Semaphore::new(CONNECTIONS)) };
    let (stopping, mut stopped) = watch::channel(false);
    let stop = async move {
        stop.await;
        stopping.send_replace(true);
        // The receiver below sees the value also once this end is gone.
    };
    let server = axum::serve(listener, router(sources)).with_graceful_shutdown(stop);
    let overdue = async {
        // An error is as good: it means that the stop has come and gone.
        let _ = stopped.wait_for(|stopping| *stopping).await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        served = async { server.await } => served,
        () = overdue => {
            warn!("requests of operators did not end in time");
            Ok(())
        }
    }
}

fn router(mut sources: Sources) -> Router {
    let routes = std::mem::take(&mut sources.routes);
    Router::new()
        .route("/healthz", get(async || Json(json!({ "status": "ok" }))))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/loglevel", get(level).put(set_level))
        .with_state(sources)
        .merge(routes)
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
}

async fn ready(State(sources): State<Sources>) -> (StatusCode, Json<serde_json::Value>) {
    let conditions = sources.readiness.conditions();
    let ready = conditions.iter().all(|condition| condition.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "conditions": conditions })))
}

async fn metrics(State(sources): State<Sources>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], sources.registry.render()).into_response()
}

async fn level(State(sources): State<Sources>) -> Response {
    match sources.log_level {
        Some(level) => (StatusCode::OK, line(&level.current())).into_response(),
        None => no_level(),
    }
}

async fn set_level(State(sources): State<Sources>, directives: String) -> Response {
    let Some(level) = sources.log_level else { return no_level() };
    match level.set(&directives) {
        Ok(()) => {
            let directives = level.current();
            info!(directives, "the log level was changed");
            (StatusCode::OK, line(&directives)).into_response()
        }
        Err(error @ SetLevelError::Level(_)) => {
            (StatusCode::BAD_REQUEST, line(&error)).into_response()
        }
        Err(error @ SetLevelError::Ended(_)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, line(&error)).into_response()
        }
    }
}

fn no_level() -> Response {
    (StatusCode::NOT_FOUND, line(&"the log is not this node's to change")).into_response()
}

fn line(text: &impl std::fmt::Display) -> String {
    format!("{text}\n")
}

/// Hands out connections while there are places.
struct Places<L> {
    listener: L,
    places: Arc<Semaphore>,
}

impl<L: Listener> axum::serve::Listener for Places<L> {
    type Io = Watched<L::Stream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let places = Arc::clone(&self.places);
        let place = places.acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (Watched::new(stream, place), peer),
                Err(error) => {
                    warn!(%error, "could not accept an operator's connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends where nothing moves on it.
struct Watched<S> {
    stream: S,
    silence: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<S: Unpin> Watched<S> {
    fn new(stream: S, place: OwnedSemaphorePermit) -> Self {
        Self { stream, silence: Box::pin(sleep(SILENCE)), _place: place }
    }

    /// Polls the stream, and has the deadline move with it.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(moved) = poll(Pin::new(&mut self.stream), cx) {
            self.silence.as_mut().reset(Instant::now() + SILENCE);
            return Poll::Ready(moved);
        }
        self.silence.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(cx, |stream, cx| stream.poll_read(cx, into))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Flushes succeed without anything moving, so they do not put the deadline off.
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
