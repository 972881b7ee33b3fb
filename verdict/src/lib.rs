//! Is the canary worse? Sequential tests over what gateways counted, valid however often one looks.
//!
//! Pure: `step(state, delta, settings) -> (state, verdicts)`. The state is small enough to stand in a resource's
//! status; the delta is what came since the state was stored. Who asks, and what follows from the answer, is
//! elsewhere.

pub mod baseline;
mod health;
mod margin;
mod quantile;
pub mod rates;
pub mod settings;
pub mod step;
mod words;
mod worse;

pub use baseline::{Baselines, Delta};
pub use rates::Window;
pub use settings::Settings;
pub use step::{State, health, step};

use outrigger_wire::Period;
use serde::{Deserialize, Serialize};

/// What is judged. Later metrics join here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Metric {
    /// The canary's share of failures.
    Errors,
    /// The canary's time to first token.
    TimeToFirstToken,
    /// Warm-up, progress by the deadline, restarts.
    Health,
}

/// What one metric says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Verdict {
    /// Degradation beyond the margin is excluded.
    Pass,
    /// The canary is worse.
    Fail,
    /// Not yet known.
    Undecided {
        /// Canary requests so far.
        samples: u64,
        /// Canary requests at which, at what was seen so far, it will be known.
        needed: u64,
        /// When that will be at the present rate.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        eta: Option<Period>,
    },
    /// Nothing was counted: a missing series, no traffic. Holds; never promotes, never rolls back.
    NoData,
    /// Who should have counted could not be asked. Holds likewise.
    ProviderError,
}

impl Verdict {
    /// The word that conditions, events and screens show.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "Pass",
            Self::Fail => "Fail",
            Self::Undecided { .. } => "Undecided",
            Self::NoData => "NoData",
            Self::ProviderError => "ProviderError",
        }
    }
}

/// A metric's verdict with what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MetricVerdict {
    /// Which metric.
    pub metric: Metric,
    /// What it says.
    pub verdict: Verdict,
    /// The canary's value: a share for errors, milliseconds (90th percentile) for latencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<f64>,
    /// Stable's value, in the same unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<f64>,
    /// Evidence that the canary is worse, as log₁₀ of the e-value; it fails at `bound`.
    pub evidence: f64,
    /// log₁₀(1/α) of this metric.
    pub bound: f64,
    /// Evidence that degradation beyond the margin is excluded, on such a scale that it passes at `bound` too (a
    /// wrong pass and a wrong rollback may have different probabilities; the reason gives the e-value itself).
    pub excluded: f64,
    /// Whether enough canary requests were seen for a step to advance.
    pub enough: bool,
    /// One sentence: `errors 6.1 % against 1.0 %: the canary is worse (e-value 10^3.4, bound 10^1.5)`.
    pub reason: String,
}

/// All metrics together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdicts(pub Vec<MetricVerdict>);

impl Verdicts {
    /// The first metric that fails.
    pub fn failed(&self) -> Option<&MetricVerdict> {
        self.0.iter().find(|m| m.verdict == Verdict::Fail)
    }
}
