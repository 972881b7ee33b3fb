//! `spec.rollout`: how a new revision is tried.

use crate::schema;
use outrigger_wire::{Percent, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a new revision is tried. Hot: a change re-evaluates the current step and restarts no canary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = schema::rollout)]
pub struct Rollout {
    /// The canary's shares of callers, rising, and how long each is held; 1 to 20 of them. After the last comes an
    /// implicit step of 100, which is not held: when the canary has all replicas it becomes stable.
    #[schemars(length(min = 1, max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub steps: Vec<Step>,
    /// What the canary is judged by.
    pub analysis: Analysis,
    /// A canary of which no further replica becomes ready for this long has failed, 1s to 24h. Where a replica
    /// can't be had at all (a port, a program), the rollout is blocked instead.
    pub progress_deadline: Period,
    /// How long the replaced revision's replicas are kept running after a promotion, 0s to 24h. Going back to it
    /// within this time, its replicas still ready, skips the steps. 0s: they drain at once. Until it has passed,
    /// the deployment takes twice its resources; the next canary ends it early.
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
            rollback_window: Period::secs(0),
        }
    }
}

/// One step of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::step)]
pub struct Step {
    /// The canary's share of callers in percent, 1 to 100, above the step before.
    #[schemars(range(min = 1, max = 100))]
    pub weight: u8,
    /// How long it is held at least, from when the share was reached, up to 24h.
    pub hold: Period,
    /// An analysis that is still undecided after this long is no longer waited for, `hold` to 24h; 4 × `hold`, at
    /// least 1m, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hold: Option<Period>,
    /// What happens then: hold, promote or abort. A canary that nobody called, or whose counts can't be had, is
    /// held in any case.
    #[serde(default)]
    pub on_undecided: OnUndecided,
}

/// What happens to a canary that is still undecided after `maxHold`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
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
#[schemars(transform = schema::analysis)]
pub struct Analysis {
    /// Canary requests below which no step advances, 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: u32,
    /// Additional errors that are tolerated, in percentage points, 0.1% to 50%.
    pub errors_margin: Percent,
    /// Additional time to first token that is tolerated, 1% to 1000%. What counts as too slow is fixed when a
    /// canary begins, so a change holds from the next canary on.
    pub first_token_margin: Percent,
}

impl Default for Analysis {
    fn default() -> Self {
        Self { min_requests: 50, errors_margin: Percent::whole(2), first_token_margin: Percent::whole(25) }
    }
}
