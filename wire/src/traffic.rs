//! `spec.traffic`: what the gateway does. Hot, as `spec.serving` is.

use crate::serving::{between, in_range};
use crate::{Mistake, Percent, Period};
use serde::{Deserialize, Serialize};

/// What the gateway does with the deployment's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// By what a caller is assigned to the stable or the canary revision.
    pub cohort: Cohort,
    /// When the gateway stops sending to an endpoint that fails.
    pub circuit_breaker: CircuitBreaker,
}

/// By what a caller is assigned to stable or canary. One key always gets the same side while the weight stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Cohort {
    /// The session (header `x-session-id`, or a cookie of that name) when there is one, else the request.
    #[default]
    Session,
    /// Each request for itself, by its `x-request-id`.
    Request,
    /// The API key (`authorization` or `x-api-key`) when there is one, else the request. Where all callers share
    /// one key, all of them are on one side.
    Caller,
}

/// Ejects an endpoint whose requests fail. Backpressure (429, 503 with Retry-After) and a client's own mistakes
/// (4xx) count for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// The share of failures among the last `window` outcomes at which it opens, 1% to 100%.
    pub failure_rate: Percent,
    /// How many outcomes are looked at, 1 to 1000; it never opens on fewer.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000)))]
    pub window: u32,
    /// How long it stays open before one request may try again.
    pub open_for: Period,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { failure_rate: Percent::whole(50), window: 10, open_for: Period::secs(1) }
    }
}

impl Traffic {
    /// Everything that is wrong with these fields, each under `at` (`spec.traffic`).
    pub fn check(&self, at: &str) -> Vec<Mistake> {
        let mut found = Vec::new();
        let breaker = &self.circuit_breaker;
        if !(100..=10_000).contains(&breaker.failure_rate.basis_points()) {
            found.push(Mistake::new(
                format!("{at}.circuitBreaker.failureRate"),
                format!("{} is out of range; allowed: 1% to 100%", breaker.failure_rate),
            ));
        }
        in_range(&mut found, format!("{at}.circuitBreaker.window"), breaker.window, 1, 1000);
        between(
            &mut found,
            format!("{at}.circuitBreaker.openFor"),
            breaker.open_for,
            Period::millis(10),
            Period::secs(600),
        );
        found
    }
}
