//! Many seeds, on all cores.
#![expect(clippy::print_stderr, reason = "a panic has no other way out")]

use std::{
    cell::Cell,
    ops::{AddAssign, Range},
    panic,
    sync::{
        Mutex, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crate::{Outcome, check::Violation};

/// How a range of seeds went.
#[derive(Debug, Clone, Default)]
pub struct Sweep<C> {
    /// Seeds that were run.
    pub seeds: u64,
    /// What happened in all of them.
    pub counts: C,
    /// The seeds that broke a promise, in ascending order.
    pub broken: Vec<(u64, Violation)>,
    /// A simulation that failed by itself.
    pub error: Option<String>,
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// An assertion of the core or of the library that fails ends the process.
fn tell_seed_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            eprintln!("seed {} panics", SEED.get());
            usual(panic);
        }));
    });
}

/// Runs the seeds on as many threads as there are cores. With `stop_early` the first broken promise
/// ends it. `progress` is told now and then how many seeds are done.
pub fn sweep<C: Default + AddAssign + Send>(
    seeds: Range<u64>,
    stop_early: bool,
    run: impl Fn(u64) -> anyhow::Result<Outcome<C>> + Sync,
    progress: impl Fn(u64) + Sync,
) -> Sweep<C> {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Sweep::<C>::default());
    tell_seed_of_panics();
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            SEED.set(seed);
            let outcome = run(seed);
            let Ok(mut total) = total.lock() else { return };
            total.seeds += 1;
            match outcome {
                Ok(outcome) => {
                    total.counts += outcome.counts;
                    total.broken.extend(outcome.violation.map(|violation| (seed, violation)));
                }
                Err(error) => total.error = Some(format!("seed {seed}: {error:#}")),
            }
            if total.error.is_some() || (stop_early && !total.broken.is_empty()) {
                stop.store(true, Ordering::Relaxed);
            }
            progress(total.seeds);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut total = total.into_inner().unwrap_or_default();
    total.broken.sort_by_key(|(seed, _)| *seed);
    total
}
