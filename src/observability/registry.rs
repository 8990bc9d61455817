//! What one node counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use parking_lot::RwLock;

use super::render::{Kind, Labels, Render};

/// Adds what is read only while it is rendered.
type Hook = Arc<dyn Fn(&mut Render) + Send + Sync>;

/// The metrics of one node.
///
/// A [`Recorder`] whose handles are atomics: make them with the macros of `metrics` within
/// [`metrics::with_local_recorder`], once, and keep them. Clones share everything.
///
/// Histograms take their buckets from the name: `_seconds`, `_bytes`, or a plain number.
#[derive(Clone, Default)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: RwLock<State>,
    hooks: RwLock<Vec<Hook>>,
}

#[derive(Default)]
struct State {
    help: BTreeMap<String, String>,
    families: BTreeMap<String, Family>,
}

/// Every series of one name, by its labels.
enum Family {
    Counter(BTreeMap<Labels, Arc<AtomicU64>>),
    /// Bits of an `f64`.
    Gauge(BTreeMap<Labels, Arc<AtomicU64>>),
    Histogram(BTreeMap<Labels, Arc<Buckets>>),
}

impl Registry {
    /// A registry in which nothing has been counted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `hook` add metrics whenever the registry is rendered, instead of keeping them up to date
    /// in between. It runs on the thread that renders and must not wait for I/O.
    pub fn on_render(&self, hook: Box<dyn Fn(&mut Render) + Send + Sync>) {
        self.shared.hooks.write().push(Arc::from(hook));
    }

    /// All metrics in Prometheus' text format.
    ///
    /// Histograms in which nothing was recorded yet are left out: one per API and figure would be
    /// most of the text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut render = Render::default();
        render.gauge(
            "ottla_build_info",
            "The version that runs, as a label.",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        );
        self.shared.state.read().render(&mut render);
        // Called without a lock, so that a hook may make handles.
        let hooks = self.shared.hooks.read().clone();
        for hook in hooks {
            hook(&mut render);
        }
        render.finish()
    }

    /// What the counter `name` has reached, over all its labels; 0 where nobody counts it.
    #[must_use]
    pub fn counter_total(&self, name: &str) -> u64 {
        match self.shared.state.read().families.get(name) {
            Some(Family::Counter(series)) => series.values().map(|one| one.load(Relaxed)).sum(),
            _ => 0,
        }
    }

    fn describe(&self, name: &KeyName, help: &str) {
        self.shared.state.write().help.insert(name.as_str().to_owned(), help.to_owned());
    }

    /// The series of `key`, which `find` makes where it is new. `None` where the name already
    /// belongs to another kind of metric.
    fn series<T>(
        &self,
        key: &Key,
        empty: Family,
        find: impl FnOnce(&mut Family, Labels) -> Option<Arc<T>>,
    ) -> Option<Arc<T>> {
        let labels = Labels::new(key.labels().map(|label| (label.key(), label.value())));
        let mut state = self.shared.state.write();
        let family = state.families.entry(key.name().to_owned()).or_insert(empty);
        let found = find(family, labels);
        debug_assert!(found.is_some(), "{} is of two kinds", key.name());
        found
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Recorder for Registry {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, &description);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, &description);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, &description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let series = self.series(key, Family::Counter(BTreeMap::new()), |family, labels| {
            let Family::Counter(series) = family else { return None };
            Some(Arc::clone(series.entry(labels).or_default()))
        });
        series.map_or_else(Counter::noop, Counter::from_arc)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let series = self.series(key, Family::Gauge(BTreeMap::new()), |family, labels| {
            let Family::Gauge(series) = family else { return None };
            Some(Arc::clone(series.entry(labels).or_default()))
        });
        series.map_or_else(Gauge::noop, Gauge::from_arc)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let series = self.series(key, Family::Histogram(BTreeMap::new()), |family, labels| {
            let Family::Histogram(series) = family else { return None };
            let new = || Arc::new(Buckets::new(bounds(key.name())));
            Some(Arc::clone(series.entry(labels).or_insert_with(new)))
        });
        series.map_or_else(Histogram::noop, Histogram::from_arc)
    }
}

impl State {
    fn render(&self, render: &mut Render) {
        for (name, family) in &self.families {
            let help = self.help.get(name).map_or("", String::as_str);
            match family {
                Family::Counter(series) => {
                    let family = render.family(name, help, Kind::Counter);
                    for (labels, value) in series {
                        family.sample(name, "", labels, None, value.load(Relaxed));
                    }
                }
                Family::Gauge(series) => {
                    let family = render.family(name, help, Kind::Gauge);
                    for (labels, value) in series {
                        family.sample(name, "", labels, None, f64::from_bits(value.load(Relaxed)));
                    }
                }
                Family::Histogram(series) => {
                    for (labels, buckets) in series {
                        buckets.render(name, help, labels, render);
                    }
                }
            }
        }
    }
}

/// How many values fell where, and their sum.
struct Buckets {
    /// Upper bounds, rising, each within its bucket.
    bounds: &'static [f64],
    /// One for each bound, and one for what is above them all.
    counts: Box<[AtomicU64]>,
    /// Bits of an `f64`.
    sum: AtomicU64,
}

const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
const BYTES: &[f64] = &[
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
const NUMBERS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 4_096.0, 16_384.0];

fn bounds(name: &str) -> &'static [f64] {
    if name.ends_with("_seconds") {
        SECONDS
    } else if name.ends_with("_bytes") {
        BYTES
    } else {
        NUMBERS
    }
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    fn render(&self, name: &str, help: &str, labels: &Labels, render: &mut Render) {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        let sum = f64::from_bits(self.sum.load(Relaxed));
        // Added up from what was just read, so that the count never differs from the last bucket.
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return;
        }
        let family = render.family(name, help, Kind::Histogram);
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&counts) {
            below += count;
            family.sample(name, "_bucket", labels, Some(*bound), below);
        }
        family.sample(name, "_bucket", labels, Some(f64::INFINITY), total);
        family.sample(name, "_sum", labels, None, sum);
        family.sample(name, "_count", labels, None, total);
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        // One such value would spoil the sum for good.
        if !value.is_finite() {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        GaugeFn::increment(&self.sum, value);
    }
}
