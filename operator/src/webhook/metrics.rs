//! What the webhooks count.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// From a tenth of a millisecond to the time-out of the API server.
const BOUNDS: [f64; 9] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Review {
    webhook: &'static str,
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Which {
    webhook: &'static str,
}

/// Reviews by webhook, result and reason, and the time that they took. Cloning gives the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    reviews: Family<Review, Counter>,
    seconds: Family<Which, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BOUNDS);
        Self { reviews: Family::default(), seconds: Family::new_with_constructor(histogram) }
    }
}

impl Metrics {
    /// Adds them to a registry whose prefix is `outrigger`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "webhook_reviews",
            "Reviews by the webhooks: inject (injected, unchanged, refused, failed), validate (allowed, refused, \
             failed)",
            self.reviews.clone(),
        );
        registry.register_with_unit(
            "webhook_review",
            "Time from a review's last byte to its answer",
            Unit::Seconds,
            self.seconds.clone(),
        );
    }

    /// Counts one review; `reason` is empty where nothing was refused.
    pub(super) fn reviewed(
        &self,
        webhook: &'static str,
        result: &'static str,
        reason: &'static str,
        took: Duration,
    ) {
        self.reviews.get_or_create(&Review { webhook, result, reason }).inc();
        self.seconds.get_or_create(&Which { webhook }).observe(took.as_secs_f64());
    }
}
