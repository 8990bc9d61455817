//! What happened in a simulation, with virtual times: every packet and every event of the node.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
};

/// Which events count: all packets, and what the node and this suite tell. The Raft library tells
/// of the election timeouts that it draws unseeded, which the quorum's core then replaces.
const EVENTS: &str = "off,turmoil=trace,ottla=debug,ottla::quorum::raft=info,chaos=debug";
/// The same where nodes talk to each other: turmoil would tell what is in their packets, which is
/// encrypted, and so never the same.
const EVENTS_OF_NODES: &str = "off,ottla=debug,ottla::quorum::raft=info,chaos=debug";

/// A trace. Clones share it.
#[derive(Clone, Default)]
pub struct Trace(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// FNV-1a over every line.
    digest: AtomicU64,
    events: AtomicU64,
    /// None where only the digest is wanted.
    lines: Option<Mutex<Vec<String>>>,
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub fn new(keep_lines: bool) -> Self {
        let lines = keep_lines.then(Mutex::default);
        let digest = AtomicU64::new(0xcbf2_9ce4_8422_2325);
        Self(Arc::new(Inner { digest, lines, ..Inner::default() }))
    }

    /// A number that equal traces share.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.0.digest.load(Ordering::Relaxed)
    }

    /// How many events it holds.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.0.events.load(Ordering::Relaxed)
    }

    /// The events; none where they were not kept.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.lines.as_ref().map(|lines| lines.lock().clone()).unwrap_or_default()
    }

    /// Runs `run` on this thread and writes down what happens meanwhile.
    pub fn capture<T>(self, run: impl FnOnce() -> T) -> T {
        self.capture_events(EVENTS, run)
    }

    /// The same for nodes that encrypt what they tell each other.
    pub fn capture_nodes<T>(self, run: impl FnOnce() -> T) -> T {
        self.capture_events(EVENTS_OF_NODES, run)
    }

    fn capture_events<T>(self, events: &str, run: impl FnOnce() -> T) -> T {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(events))
            .with_ansi(false)
            .with_timer(VirtualTime)
            .with_writer(self)
            .finish();
        tracing::subscriber::with_default(subscriber, run)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events, digest {:016x}", self.events(), self.digest())
    }
}

impl io::Write for Trace {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut digest = self.digest();
        for byte in line {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.0.digest.store(digest, Ordering::Relaxed);
        self.0.events.fetch_add(1, Ordering::Relaxed);
        if let Some(lines) = &self.0.lines {
            lines.lock().push(String::from_utf8_lossy(line).trim_end().to_owned());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Trace {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

struct VirtualTime;

impl FormatTime for VirtualTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        // Between steps (a crash, a restart) turmoil's clock adds real time: no time is told then.
        let within = tokio::runtime::Handle::try_current().is_ok();
        match turmoil::sim_elapsed().filter(|_| within) {
            Some(elapsed) => write!(w, "{:10.6}", elapsed.as_secs_f64()),
            None => write!(w, "          "),
        }
    }
}
