//! Two revisions under simulated traffic, counted as gateways count and judged as the planner judges.

use outrigger_verdict::{Delta, Metric, Settings, State, Verdict, step};
use outrigger_wire::{GapCounter, Histogram, RevisionReport, Stratum, StratumReport};

/// How one revision behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arm {
    /// Share of requests that fail.
    pub(crate) errors: f64,
    /// Consecutive requests of this revision that fail together; the share stays.
    pub(crate) burst: u32,
    /// Times to first token are this many times those of a plain engine (log-normal, σ 0.5).
    pub(crate) slower: f64,
    /// How much of a request's latency the next one shares (AR(1) in the logarithm).
    pub(crate) rho: f64,
}

impl Arm {
    /// Errors that are independent, and usual latencies.
    pub(crate) const fn failing(errors: f64) -> Self {
        Self { errors, burst: 1, slower: 1.0, rho: 0.0 }
    }

    /// The same, five at a time.
    pub(crate) const fn bursting(errors: f64) -> Self {
        Self { burst: 5, ..Self::failing(errors) }
    }
}

/// A stretch of a rollout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// The canary's share of requests.
    pub(crate) share: f64,
    /// How long it lasts.
    pub(crate) seconds: u32,
}

/// A rollout.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Requests per second, both revisions together.
    pub(crate) rps: u32,
    /// One after the other.
    pub(crate) stretches: Vec<Stretch>,
    /// The revision that serves.
    pub(crate) stable: Arm,
    /// The one that is tried.
    pub(crate) canary: Arm,
}

impl Setting {
    /// The setting of contract R.15: 10 requests a second, 5 % of them to the canary, for 20 minutes.
    pub(crate) fn r15(stable: Arm, canary: Arm) -> Self {
        Self { rps: 10, stretches: vec![Stretch { share: 0.05, seconds: 1200 }], stable, canary }
    }
}

/// How a rollout went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// When it was rolled back, in minutes, and for which metric.
    pub(crate) failed: Option<(f64, Metric)>,
    /// When each metric first passed (errors, first token): minutes, and requests of the canary by then.
    pub(crate) passed: [Option<(f64, u64)>; 2],
}

/// Seconds between two looks.
const LOOK: u32 = 5;
/// Looks between two stores of the state.
const STORE: u32 = 2;

struct Simulated {
    arm: Arm,
    left: u32,
    log: f64,
    report: StratumReport,
    failures: GapCounter,
    slow: GapCounter,
    beyond: GapCounter,
}

impl Simulated {
    fn new(arm: Arm) -> Self {
        let report = StratumReport::default();
        let (failures, slow, beyond) = Default::default();
        Self { arm, left: 0, log: 0.0, report, failures, slow, beyond }
    }

    fn request(&mut self, rng: &mut fastrand::Rng, reference: (u64, u64)) {
        let millis = 200.0 * self.arm.slower * (0.5 * self.deviate(rng)).exp();
        if self.left == 0 && rng.f64() < self.arm.errors / f64::from(self.arm.burst) {
            self.left = self.arm.burst;
        }
        let fails = self.left > 0;
        self.left = self.left.saturating_sub(1);
        self.failures.record(fails);
        if fails {
            self.report.failure += 1;
            return;
        }
        self.report.success += 1;
        let micros = (millis * 1e3) as u64;
        self.report.first_token.record(micros);
        self.slow.record(micros > reference.0);
        self.beyond.record(micros > reference.1);
    }

    /// A standard normal deviate that shares ρ with the one before.
    fn deviate(&mut self, rng: &mut fastrand::Rng) -> f64 {
        let (radius, angle) = ((-2.0 * (1.0 - rng.f64()).ln()).sqrt(), std::f64::consts::TAU * rng.f64());
        let rho = self.arm.rho;
        self.log = rho * self.log + (1.0 - rho * rho).sqrt() * radius * angle.cos();
        self.log
    }

    /// The counts so far, and the first tokens since the state was stored.
    fn so_far(&self) -> StratumReport {
        let mut report = self.report.clone();
        (report.failures, report.slow, report.beyond) =
            (self.failures.counts(), self.slow.counts(), self.beyond.counts());
        report
    }
}

/// What came between the two.
fn since(now: &StratumReport, before: &StratumReport) -> RevisionReport {
    let report = StratumReport {
        success: now.success - before.success,
        failure: now.failure - before.failure,
        failures: now.failures.since(&before.failures),
        slow: now.slow.since(&before.slow),
        beyond: now.beyond.since(&before.beyond),
        first_token: now.first_token.clone(),
        ..StratumReport::default()
    };
    RevisionReport { strata: [(Stratum::Short, report)].into(), ..RevisionReport::default() }
}

/// A reference as the planner takes it: the 90th percentile of a thousand of stable's requests, and 25 % more.
fn reference(stable: Arm, rng: &mut fastrand::Rng) -> (u64, u64) {
    let mut histogram = Histogram::default();
    let mut arm = Simulated::new(Arm { errors: 0.0, ..stable });
    for _ in 0..1000 {
        arm.request(rng, (0, 0));
    }
    histogram.add(&arm.report.first_token);
    let slow = histogram.quantile(0.9).unwrap_or(0);
    (slow, slow + slow / 4)
}

/// One rollout, until a metric fails or it is over.
pub(crate) fn rollout(setting: &Setting, seed: u64) -> Outcome {
    let rng = &mut fastrand::Rng::with_seed(seed);
    let reference = reference(setting.stable, rng);
    let (mut stable, mut canary) = (Simulated::new(setting.stable), Simulated::new(setting.canary));
    let mut stored = (State::default(), 0, stable.so_far(), canary.so_far());
    let mut outcome = Outcome::default();
    let mut second = 0;
    for stretch in &setting.stretches {
        for _ in 0..stretch.seconds {
            second += 1;
            for _ in 0..setting.rps {
                let arm = if rng.f64() < stretch.share { &mut canary } else { &mut stable };
                arm.request(rng, reference);
            }
            if second % LOOK != 0 {
                continue;
            }
            let delta = Delta {
                reference: 1,
                stable: since(&stable.so_far(), &stored.2),
                canary: since(&canary.so_far(), &stored.3),
                seconds: f64::from(second - stored.1),
                gateways: 1,
            };
            let (state, verdicts) = step(&stored.0, &delta, &Settings::default());
            let minutes = f64::from(second) / 60.0;
            let sent = canary.report.success + canary.report.failure;
            for (metric, passed) in verdicts.0.iter().zip(&mut outcome.passed) {
                if metric.verdict == Verdict::Pass {
                    passed.get_or_insert((minutes, sent));
                }
            }
            if let Some(failed) = verdicts.failed() {
                outcome.failed = Some((minutes, failed.metric));
                return outcome;
            }
            if second % (LOOK * STORE) == 0 {
                (stable.report.first_token, canary.report.first_token) = Default::default();
                stored = (state, second, stable.so_far(), canary.so_far());
            }
        }
    }
    outcome
}
