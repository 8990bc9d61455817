//! Where quinn's tasks run: tokio, with a meter of the processor time that they take.
//!
//! They encrypt, decrypt, send and receive. What is done with what they carry is done elsewhere.
//! Reading a thread's clock takes a third of a microsecond, so only every eighth turn of a task is
//! measured, and counted eight times. The figure goes nowhere but to whoever shows it.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use rustix::time::{ClockId, clock_gettime};

/// One of so many turns is measured.
const MEASURED: u32 = 8;

/// The processor time that quinn's tasks took, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter(Arc<AtomicU64>);

impl Meter {
    pub(super) fn seconds(&self) -> f64 {
        self.0.load(Relaxed) as f64 / 1e9
    }
}

/// Tokio, whose tasks are measured.
#[derive(Debug)]
pub(super) struct Metered(pub(super) Meter);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

struct MeteredTask {
    task: Task,
    turn: u32,
    meter: Meter,
}

impl Future for MeteredTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.turn = self.turn.wrapping_add(1);
        if !self.turn.is_multiple_of(MEASURED) {
            return self.task.as_mut().poll(cx);
        }
        let before = thread_ns();
        let polled = self.task.as_mut().poll(cx);
        let took_ns = thread_ns().saturating_sub(before);
        self.meter.0.fetch_add(took_ns * u64::from(MEASURED), Relaxed);
        polled
    }
}

/// What the thread has run for.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, rest) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + rest.unwrap_or(0)
}

impl Runtime for Metered {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Task) {
        tokio::spawn(MeteredTask { task, turn: 0, meter: self.0.clone() });
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}

impl fmt::Debug for MeteredTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeteredTask").field("turn", &self.turn).finish_non_exhaustive()
    }
}
