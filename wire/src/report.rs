//! What a gateway counted: cumulative, so that a lost report loses nothing and a repeated one counts once.

use crate::stream::DeploymentReports;
use crate::{GapCounts, GatewayId, Histogram, RevisionId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A gateway's report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayReport {
    /// Which gateway.
    pub gateway: GatewayId,
    /// One run of it, drawn at its start: counters begin at zero with it.
    pub incarnation: u64,
    /// Grows with every report of this incarnation.
    pub sequence: u64,
    /// What it counted, per deployment.
    pub deployments: DeploymentReports,
}

/// What a gateway counted of one deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentReport {
    /// The serial of the routes that all of its data threads work by: the acknowledgement.
    pub serial: u64,
    /// Requests that the hash assigned to stable under that serial.
    pub assigned_stable: u64,
    /// Requests that the hash assigned to the canary under that serial.
    pub assigned_canary: u64,
    /// The reference generation of the slow and beyond counts; 0 when there was none.
    pub reference: u32,
    /// Per revision. Each attempt counts for the revision that the hash assigned, whoever served it.
    pub revisions: BTreeMap<RevisionId, RevisionReport>,
    /// Revisions that this gateway's own breaker has ejected now.
    #[serde(default)]
    pub ejected: Vec<RevisionId>,
}

/// What a gateway counted of one revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionReport {
    /// Cumulative counts by prompt length.
    pub strata: BTreeMap<Stratum, StratumReport>,
    /// Requests in flight now.
    pub in_flight: u32,
    /// Age in milliseconds of the oldest of them.
    pub oldest_millis: u64,
}

/// The length of a request's body: prefill grows with it, so latencies compare only within a stratum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stratum {
    /// Below 1 KiB.
    #[serde(rename = "<1KiB")]
    Short,
    /// Below 8 KiB.
    #[serde(rename = "<8KiB")]
    Medium,
    /// Below 64 KiB.
    #[serde(rename = "<64KiB")]
    Long,
    /// 64 KiB and more.
    #[serde(rename = ">=64KiB")]
    VeryLong,
}

impl Stratum {
    /// The stratum of a request body of this many bytes.
    pub const fn of(body_bytes: u64) -> Self {
        match body_bytes {
            0..1_024 => Self::Short,
            1_024..8_192 => Self::Medium,
            8_192..65_536 => Self::Long,
            _ => Self::VeryLong,
        }
    }
}

/// How one attempt ended, seen by the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Answered, with whatever status an engine in order gives, a client's own 4xx included.
    Success,
    /// A 5xx, a refused or broken connection, a deadline, a stream that broke off; also an attempt of an ejected
    /// revision, which the other one served.
    Failure,
    /// Refused because of load: 429, or 503 with Retry-After. Neither success nor failure.
    Backpressure,
    /// The client left first. Neither success nor failure.
    Cancelled,
}

/// Cumulative counts of one revision and stratum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StratumReport {
    /// Attempts that ended so. A request in flight beyond its bound is counted as a failure at that moment and
    /// not again when it ends.
    pub success: u64,
    /// See [`Outcome::Failure`].
    pub failure: u64,
    /// See [`Outcome::Backpressure`].
    pub backpressure: u64,
    /// See [`Outcome::Cancelled`].
    pub cancelled: u64,
    /// Failures among successes and failures.
    pub failures: GapCounts,
    /// First tokens slower than [`crate::Reference::slow_micros`], among those that came or are overdue.
    pub slow: GapCounts,
    /// First tokens slower than [`crate::Reference::beyond_micros`], likewise.
    pub beyond: GapCounts,
    /// Time to the first byte of the answer's body.
    pub first_token: Histogram,
    /// Time to the answer's end.
    pub duration: Histogram,
}

impl StratumReport {
    /// What came since `earlier`; counters that ran backwards count from zero.
    pub fn since(&self, earlier: &Self) -> Self {
        let minus = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Self {
            success: minus(self.success, earlier.success),
            failure: minus(self.failure, earlier.failure),
            backpressure: minus(self.backpressure, earlier.backpressure),
            cancelled: minus(self.cancelled, earlier.cancelled),
            failures: self.failures.since(&earlier.failures),
            slow: self.slow.since(&earlier.slow),
            beyond: self.beyond.since(&earlier.beyond),
            first_token: self.first_token.since(&earlier.first_token),
            duration: self.duration.since(&earlier.duration),
        }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.success = self.success.saturating_add(other.success);
        self.failure = self.failure.saturating_add(other.failure);
        self.backpressure = self.backpressure.saturating_add(other.backpressure);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
        self.failures.add(&other.failures);
        self.slow.add(&other.slow);
        self.beyond.add(&other.beyond);
        self.first_token.add(&other.first_token);
        self.duration.add(&other.duration);
    }
}

impl RevisionReport {
    /// What came since `earlier`, per stratum. What is in flight is a present value and stays.
    pub fn since(&self, earlier: &Self) -> Self {
        let strata = self.strata.iter().map(|(stratum, now)| {
            let before = earlier.strata.get(stratum);
            (*stratum, before.map_or_else(|| now.clone(), |before| now.since(before)))
        });
        Self { strata: strata.collect(), ..self.clone() }
    }

    /// Adds another gateway's, or a later stretch of the same one's.
    pub fn add(&mut self, other: &Self) {
        for (stratum, counts) in &other.strata {
            self.strata.entry(*stratum).or_default().add(counts);
        }
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.oldest_millis = self.oldest_millis.max(other.oldest_millis);
    }

    /// All strata together.
    pub fn total(&self) -> StratumReport {
        let mut total = StratumReport::default();
        self.strata.values().for_each(|counts| total.add(counts));
        total
    }
}
