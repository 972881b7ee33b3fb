//! The analysis' constants, each with its unit and reason. The resource may set margins and the minimum of
//! requests; everything else stands here.

use outrigger_wire::{Percent, Period};

/// What the tests are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Canary requests below which nothing passes and no step advances.
    pub min_requests: u64,
    /// Additional errors that are tolerated, in percentage points.
    pub errors_margin: Percent,
    /// Additional time to first token that is tolerated.
    pub first_token_margin: Percent,
    /// Wrong rollbacks for errors, per rollout; and wrong passes of a canary that is worse by just the margin.
    pub errors_alpha: f64,
    /// Wrong rollbacks for each latency metric, per rollout.
    pub latency_alpha: f64,
    /// Wrong passes of each latency metric, per rollout, of a canary that is worse by just the margin.
    pub latency_pass_alpha: f64,
    /// Gaps for errors: a gap is wide enough when stable's hazard under it is within this ratio of that under the
    /// widest.
    pub errors_plateau: f64,
    /// Gaps for latencies: likewise.
    pub latency_plateau: f64,
    /// Events of stable under the widest gap, below which the widest gap is used.
    pub plateau_events: u64,
    /// The share of requests that a latency is judged at: stable's slowest tenth, as the reference is its 90th
    /// percentile.
    pub slow_share: f64,
    /// Engine restarts of canary replicas within the window that fail it, while stable's had none.
    pub restarts: u32,
    /// How far back restarts count for health.
    pub health_window: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Requests. Below it a share of a few percent can't be told from none.
            min_requests: 50,
            // Percentage points. A restart or a handful of time-outs in a step stays below it.
            errors_margin: Percent::whole(2),
            // Of stable's 90th percentile. Two runs of one engine differ by less.
            first_token_margin: Percent::whole(25),
            // With the latency's at most 3.25 % by the tests' own bound; 2 % at most as simulated (R.15).
            errors_alpha: 0.03,
            // Slow requests are many, so that a strict bound costs little: 2 × is found within a minute or two.
            latency_alpha: 0.0025,
            // A canary at the margin is no disaster, and the test for Fail watches it too: 0.0025 would ask for a
            // third more requests. Latencies that hang together make it less strict than it reads, so not 0.03.
            latency_pass_alpha: 0.01,
            // Failures in bursts of five have 2.5 × the hazard under gap 2 and 5 × under gap 0: 1.4 tells them
            // apart and lets the noise of a few dozen failures pass.
            errors_plateau: 1.4,
            // Latencies hang together weakly but over long stretches, and slow requests are many: 1.2 shows it.
            latency_plateau: 1.2,
            // Fewer have hazards too uncertain to be compared.
            plateau_events: 6,
            slow_share: 0.1,
            // One restart is a node's or a request's fault, two may be; three while stable runs are the revision's.
            restarts: 3,
            // As long as the default progress deadline.
            health_window: Period::secs(600),
        }
    }
}
