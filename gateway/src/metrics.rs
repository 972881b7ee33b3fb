//! What the gateway shows at `/metrics`. Labels are deployments and revisions of the table and words of this
//! program: nothing that a client sends makes a series.

use outrigger_wire::Outcome;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// One revision of one deployment.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct OfRevision {
    /// `namespace/name`.
    pub(crate) deployment: String,
    /// The revision.
    pub(crate) revision: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfOutcome {
    deployment: String,
    revision: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfDeployment {
    deployment: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

/// Seconds: from a cached answer of a small model to the longest completion, each about twice the one before.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

type Ratio = Gauge<f64, AtomicU64>;

/// The gateway's metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    attempts: Family<OfOutcome, Counter>,
    duration: Family<OfRevision, Histogram>,
    first_token: Family<OfRevision, Histogram>,
    in_flight: Family<OfRevision, Gauge>,
    ejected: Family<OfRevision, Gauge>,
    retries: Family<OfRevision, Counter>,
    fallbacks: Family<OfRevision, Counter>,
    refused: Family<OfReason, Counter>,
    weight: Family<OfDeployment, Ratio>,
    serial: Family<OfDeployment, Gauge>,
    dropped: Counter,
    table_live: Gauge,
}

/// The metrics of one revision, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct RevisionMetrics {
    labels: OfRevision,
    outcomes: [Counter; 4],
    /// Time to the answer's end, in seconds.
    pub(crate) duration: Histogram,
    /// Time to the first byte of the answer's body, in seconds.
    pub(crate) first_token: Histogram,
    /// Attempts in flight.
    pub(crate) in_flight: Gauge,
    /// 1 while this gateway's breaker keeps requests from it.
    pub(crate) ejected: Gauge,
    /// Attempts made again.
    pub(crate) retries: Counter,
    /// Requests of its callers that stable served.
    pub(crate) fallbacks: Counter,
}

const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Success, "success"),
    (Outcome::Failure, "failure"),
    (Outcome::Backpressure, "backpressure"),
    (Outcome::Cancelled, "cancelled"),
];

impl Metrics {
    /// Registers all of them under `outrigger_gateway_`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("outrigger_gateway");
        let metrics = Self {
            attempts: Family::default(),
            duration: Family::new_with_constructor(seconds),
            first_token: Family::new_with_constructor(seconds),
            in_flight: Family::default(),
            ejected: Family::default(),
            retries: Family::default(),
            fallbacks: Family::default(),
            refused: Family::default(),
            weight: Family::default(),
            serial: Family::default(),
            dropped: Counter::default(),
            table_live: Gauge::default(),
        };
        let m = metrics.clone();
        registry.register(
            "attempts",
            "Attempts by the revision that the hash assigned and by outcome; a request that is retried has several",
            m.attempts,
        );
        let unit = || Unit::Seconds;
        registry.register_with_unit("duration", "Time to the end of successful answers", unit(), m.duration);
        registry.register_with_unit(
            "first_token",
            "Time to the first byte of the body of successful answers",
            unit(),
            m.first_token,
        );
        registry.register("in_flight", "Attempts in flight", m.in_flight);
        registry.register("revision_ejected", "1 while the breaker keeps requests from a canary", m.ejected);
        registry.register("retries", "Attempts made again on another endpoint", m.retries);
        registry.register("fallbacks", "Requests of a canary's callers that stable served", m.fallbacks);
        registry.register("refused", "Requests that the gateway answered itself, by reason", m.refused);
        registry.register("programmed_weight_ratio", "The canary's share that all threads work by", m.weight);
        registry.register("serial", "The serial of the routes that all threads work by", m.serial);
        registry.register("dropped_records", "Outcomes that were not counted for want of room", m.dropped);
        registry.register("table_live", "1 while the stream of routes lives", m.table_live);
        metrics
    }

    /// The metrics of one revision.
    pub(crate) fn revision(&self, deployment: &str, revision: &str) -> RevisionMetrics {
        let labels = OfRevision { deployment: deployment.to_owned(), revision: revision.to_owned() };
        let outcomes = OUTCOMES.map(|(_, name)| self.attempts.get_or_create_owned(&labels.with(name)));
        RevisionMetrics {
            outcomes,
            duration: self.duration.get_or_create_owned(&labels),
            first_token: self.first_token.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            ejected: self.ejected.get_or_create_owned(&labels),
            retries: self.retries.get_or_create_owned(&labels),
            fallbacks: self.fallbacks.get_or_create_owned(&labels),
            labels,
        }
    }

    /// Takes a revision's series away.
    pub(crate) fn forget(&self, revision: &RevisionMetrics) {
        let labels = &revision.labels;
        for (_, name) in OUTCOMES {
            self.attempts.remove(&labels.with(name));
        }
        self.duration.remove(labels);
        self.first_token.remove(labels);
        self.in_flight.remove(labels);
        self.ejected.remove(labels);
        self.retries.remove(labels);
        self.fallbacks.remove(labels);
    }

    /// What all threads work by.
    pub(crate) fn programmed(&self, deployment: &str, serial: u64, weight: f64) {
        let labels = OfDeployment { deployment: deployment.to_owned() };
        self.weight.get_or_create(&labels).set(weight);
        self.serial.get_or_create(&labels).set(i64::try_from(serial).unwrap_or(i64::MAX));
    }

    /// Takes a deployment's series away.
    pub(crate) fn forget_deployment(&self, deployment: &str) {
        let labels = OfDeployment { deployment: deployment.to_owned() };
        self.weight.remove(&labels);
        self.serial.remove(&labels);
    }

    /// The gateway answered a request itself.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&OfReason { reason }).inc();
    }

    /// Records were dropped.
    pub(crate) fn dropped(&self, count: u64) {
        self.dropped.inc_by(count);
    }

    /// Whether the stream of routes lives.
    pub(crate) fn table_live(&self, live: bool) {
        self.table_live.set(i64::from(live));
    }
}

impl OfRevision {
    fn with(&self, outcome: &'static str) -> OfOutcome {
        OfOutcome { deployment: self.deployment.clone(), revision: self.revision.clone(), outcome }
    }
}

impl RevisionMetrics {
    /// The counter of one outcome.
    pub(crate) fn outcome(&self, outcome: Outcome) -> &Counter {
        let [success, failure, backpressure, cancelled] = &self.outcomes;
        match outcome {
            Outcome::Success => success,
            Outcome::Failure => failure,
            Outcome::Backpressure => backpressure,
            Outcome::Cancelled => cancelled,
        }
    }
}
