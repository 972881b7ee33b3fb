//! `spec.rollout`: how a new revision is tried.

use outrigger_wire::{Percent, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a new revision is tried. Hot: a change re-evaluates the current step and restarts no canary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// The canary's shares of callers, rising, and how long each is held. After the last comes an implicit step
    /// of 100.
    pub steps: Vec<Step>,
    /// What the canary is judged by.
    pub analysis: Analysis,
    /// A canary that makes no progress (a replica becoming ready) for this long has failed.
    pub progress_deadline: Period,
    /// Within this time after a promotion, going back to the revision before skips the steps, if its replicas
    /// are still warm.
    pub rollback_window: Period,
}

impl Default for Rollout {
    fn default() -> Self {
        let hold = Period::secs(15 * 60);
        let step = |weight| Step { weight, hold, max_hold: None, on_undecided: OnUndecided::Hold };
        Self {
            steps: vec![step(1), step(10), step(50)],
            analysis: Analysis::default(),
            progress_deadline: Period::secs(600),
            rollback_window: Period::secs(30 * 60),
        }
    }
}

/// One step of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The canary's share of callers in percent, 1 to 100, above the step before.
    #[schemars(range(min = 1, max = 100))]
    pub weight: u8,
    /// How long it is held at least.
    pub hold: Period,
    /// After this long an analysis that is still undecided is no longer waited for; 4 × `hold` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hold: Option<Period>,
    /// What happens then.
    #[serde(default)]
    pub on_undecided: OnUndecided,
}

/// What happens to a canary that is still undecided after `maxHold`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnUndecided {
    /// It stays at its step, with a condition.
    #[default]
    Hold,
    /// It goes on to the next step.
    Promote,
    /// It is rolled back.
    Abort,
}

/// What the canary is judged by: errors and time to first token, compared with stable by tests that stay valid
/// however often one looks, and the health of its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Analysis {
    /// Canary requests below which no step advances, 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: u32,
    /// Additional errors that are tolerated, in percentage points.
    pub errors_margin: Percent,
    /// Additional time to first token that is tolerated.
    pub first_token_margin: Percent,
}

impl Default for Analysis {
    fn default() -> Self {
        Self { min_requests: 50, errors_margin: Percent::whole(2), first_token_margin: Percent::whole(25) }
    }
}
