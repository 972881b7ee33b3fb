//! Metrics with one writer each: a handle is made once per thread and label set, counted without a lock or a
//! locked instruction, and summed when scraped.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Label sets of one family, at most; what comes later is counted under `other`. A table that names ever new
/// revisions can't fill the memory.
const MAX_SERIES: usize = 4096;

/// Upper bounds in seconds: from a proxied millisecond to the default total time-out.
pub const BOUNDS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A gauge that one thread writes.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// A histogram of seconds that one thread writes.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One per bound, and one for what is above.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// One writer: load and store are enough, and cost no locked instruction.
fn add(to: &AtomicU64, n: u64) {
    to.store(to.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        add(&self.0, n);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        add(&self.0, n as u64);
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
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(bucket) {
            add(bucket, 1);
        }
        add(&self.nanos, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

/// What a family is made of.
pub trait Metric: Default + fmt::Debug + Send + Sync + 'static {
    /// Whether what was counted stays when its writer is gone; a gauge's doesn't.
    const STAYS: bool;
    /// As the text says it.
    const TYPE: MetricType;

    /// Adds another's counts to one's own.
    fn absorb(&self, other: &Self);

    /// Writes it.
    ///
    /// # Errors
    ///
    /// The encoder's.
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result;
}

impl Metric for Counter {
    const STAYS: bool = true;
    const TYPE: MetricType = MetricType::Counter;

    fn absorb(&self, other: &Self) {
        self.add(other.get());
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<[(&str, &str); 0], u64, u64>(&self.get(), None)
    }
}

impl Metric for Gauge {
    const STAYS: bool = false;
    const TYPE: MetricType = MetricType::Gauge;

    fn absorb(&self, other: &Self) {
        self.add(other.get());
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.get())
    }
}

impl Metric for Histogram {
    const STAYS: bool = true;
    const TYPE: MetricType = MetricType::Histogram;

    fn absorb(&self, other: &Self) {
        for (mine, its) in self.buckets.iter().zip(&other.buckets) {
            add(mine, its.load(Ordering::Relaxed));
        }
        add(&self.nanos, other.nanos.load(Ordering::Relaxed));
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let sum = Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<[(&str, &str); 0]>(sum, self.count(), &buckets, None)
    }
}

/// A metric with labels. Cloning gives the same family.
#[derive(Debug)]
pub struct Family<M: Metric>(Arc<Inner<M>>);

impl<M: Metric> Clone for Family<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<M> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    series: Mutex<BTreeMap<Vec<String>, Series<M>>>,
}

/// The shards of one label set.
#[derive(Debug, Default)]
struct Series<M> {
    /// What writers that are gone have counted.
    past: M,
    shards: Vec<Arc<M>>,
}

impl<M: Metric> Family<M> {
    /// Registers a family under `name` (without `_total`, which the encoder adds to counters) with these labels.
    pub fn register(
        registry: &mut Registry,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        let this = Self(Arc::new(Inner { name, help, labels, series: Mutex::default() }));
        registry.register_collector(Box::new(this.clone()));
        this
    }

    /// A shard for these label values, in the order of the names: make it once per thread, not per request. What
    /// a counter or histogram counted stays when its shards are dropped; a gauge goes with them.
    pub fn handle(&self, values: &[&str]) -> Arc<M> {
        let mut key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let mut series = self.0.lock();
        if series.len() >= MAX_SERIES && !series.contains_key(&key) {
            key = vec!["other".to_owned(); values.len()];
        }
        let of_key = series.entry(key).or_default();
        of_key.settle();
        let shard = Arc::new(M::default());
        of_key.shards.push(Arc::clone(&shard));
        shard
    }

    /// Forgets the label sets for which `keep` says no and that nobody writes any more.
    pub fn retain(&self, keep: impl Fn(&[String]) -> bool) {
        self.0.lock().retain(|values, series| {
            series.settle();
            !series.shards.is_empty() || keep(values)
        });
    }
}

impl<M: Metric> Inner<M> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, Series<M>>> {
        // Counts are whole at every moment, also where a panic let go of them.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Metric> Series<M> {
    /// Adds up the shards whose writers are gone.
    fn settle(&mut self) {
        let past = &self.past;
        self.shards.retain(|shard| {
            let written = Arc::strong_count(shard) > 1;
            if !written && M::STAYS {
                past.absorb(shard);
            }
            written
        });
    }
}

impl<M: Metric> Collector for Family<M> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut series = self.0.lock();
        if !M::STAYS {
            series.retain(|_, series| {
                series.settle();
                !series.shards.is_empty()
            });
        }
        if series.is_empty() {
            return Ok(());
        }
        let mut metric = encoder.encode_descriptor(self.0.name, self.0.help, None, M::TYPE)?;
        for (values, series) in series.iter_mut() {
            series.settle();
            let sum = M::default();
            sum.absorb(&series.past);
            series.shards.iter().for_each(|shard| sum.absorb(shard));
            let labels: Vec<(&str, &str)> =
                self.0.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            if labels.is_empty() {
                return sum.encode(metric);
            }
            sum.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The registry as OpenMetrics text.
pub fn text(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing into a string can't fail; a collector that fails leaves what was written before it.
    let _ = prometheus_client::encoding::text::encode(&mut out, registry);
    out
}

#[cfg(test)]
mod tests;
