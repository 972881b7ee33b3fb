//! The tests' sums, and what they say.
//!
//! What makes a canary fail is twofold: evidence that it is worse than stable (`worse`), *and* a measured
//! difference above the margin. A test against "worse by more than the margin" would need some ten times the
//! requests (R.15 asks for 5 % against 1 % within minutes at half a request per second), and a test of "worse"
//! alone would, given traffic enough, roll back a canary for a difference that its owner declared to tolerate.
//! A canary passes when a difference above the margin is excluded (`margin`).

use crate::margin::{Bet, Share, burst};
use crate::quantile::Coarse;
use crate::words;
use crate::worse::{Worse, log_mean, plateau};
use crate::{Delta, Metric, MetricVerdict, Settings, Verdict, Verdicts};
use outrigger_wire::{GapCounts, Period, RevisionReport, StratumReport};
use serde::{Deserialize, Serialize};

pub use crate::health::{Health, health};

#[cfg(test)]
mod tests;

/// What is assumed of shares before anything was counted: half an event in fifty requests. It weighs as little as
/// a second or two of traffic, and keeps every guess above zero.
const PRIOR: Share = Share { events: 0.5, trials: 50.0 };
/// Where the canary's errors may lie between stable's and stable's plus the margin. Where it is as good as stable
/// the first guess pays best; the others cost little and pay when it is somewhat worse.
const ERROR_GUESSES: [f64; 3] = [0.0, 0.15, 0.4];
/// One more guess: both fail this rarely, as a fraction of the margin. Most deployments have hardly any errors, and
/// one whose first requests failed while an engine started has a share of errors that takes long to come down.
const HARDLY_ANY: f64 = 0.05;
/// Likewise for the share of requests beyond the margin, as fractions of the bound: how much lies beyond 1.25 ×
/// the 90th percentile depends on the shape of the tail.
const BEYOND_GUESSES: [f64; 4] = [0.05, 0.3, 0.55, 0.8];
/// The canary's rate of requests is smoothed over this many seconds: a change of weight shows in the ETA soon.
const RATE_SECONDS: f64 = 20.0;
/// Evidence (natural logarithm) below which its growth so far says nothing about when it will be enough.
const GROWING: f64 = 0.7;
/// Canary requests above which no forecast is given a number: what takes longer depends on chance alone.
const FORECAST: u64 = 100_000_000;

/// The tests' sums since the canary began: at most 4 KiB as JSON, stored in the status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    errors: Errors,
    first_token: FirstToken,
    /// Requests of the canary that ended per second, lately.
    rate: f32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Errors {
    worse: Worse,
    within: Bet,
    canary: GapCounts,
    stable: GapCounts,
    /// Refusals because of load: neither trials nor failures, told in the reason.
    backpressure: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FirstToken {
    /// The generation of the reference that the sums below are about.
    reference: u32,
    worse: Worse,
    /// Likewise on requests beyond the margin: it tells where nearly all of stable's are slow, as when the
    /// reference was taken at calmer times, or within a histogram's bucket that holds them all.
    worse_beyond: Worse,
    /// The canary's share beyond the margin is below stable's share of slow requests.
    within_stable: Bet,
    /// It is below the reference's own share.
    within_reference: Bet,
    canary: GapCounts,
    stable: GapCounts,
    canary_beyond: GapCounts,
    stable_beyond: GapCounts,
    canary_millis: Coarse,
    stable_millis: Coarse,
}

/// Takes in what was counted since `state` was stored, and says what the sums then say.
pub fn step(state: &State, delta: &Delta, settings: &Settings) -> (State, Verdicts) {
    let mut next = state.clone();
    next.errors.take(delta, settings);
    next.first_token.take(delta, settings);
    let ended = Share::of(&sum(&delta.canary, |s| &s.failures)).trials;
    let seen = Share::of(&state.errors.canary).trials > 0.0;
    let rate = smoothed(f64::from(state.rate), ended, delta.seconds, seen);
    // Where nothing came the state stays as it is, so that silence makes no writes.
    if ended > 0.0 {
        next.rate = rate as f32;
    }
    let verdicts = [next.errors.judge(delta, settings, rate), next.first_token.judge(delta, settings, rate)];
    (next, Verdicts(verdicts.into()))
}

/// The rate after `ended` more requests in `seconds`.
fn smoothed(rate: f64, ended: f64, seconds: f64, seen: bool) -> f64 {
    // Shorter than half a second, a delta says nothing about a rate.
    if !seconds.is_finite() || seconds < 0.5 {
        return rate;
    }
    let old = if seen { (-seconds / RATE_SECONDS).exp() } else { 0.0 };
    rate * old + ended / seconds * (1.0 - old)
}

/// The sum over strata.
fn sum(report: &RevisionReport, of: impl Fn(&StratumReport) -> &GapCounts) -> GapCounts {
    let mut sum = GapCounts::default();
    report.strata.values().for_each(|stratum| sum.add(of(stratum)));
    sum
}

/// Each stratum's counts of the canary and of stable: prompts of different length fail and last differently, so
/// only within a stratum are the two compared.
fn strata<'a>(
    delta: &'a Delta,
    of: impl Fn(&'a StratumReport) -> &'a GapCounts + 'a,
) -> impl Iterator<Item = (&'a GapCounts, &'a GapCounts)> {
    let canary = delta.canary.strata.iter();
    canary.filter_map(move |(stratum, canary)| Some((of(canary), of(delta.stable.strata.get(stratum)?))))
}

impl Errors {
    fn take(&mut self, delta: &Delta, settings: &Settings) {
        for (canary, stable) in strata(delta, |s| &s.failures) {
            self.worse.take(canary, stable);
        }
        let (canary, stable) = (sum(&delta.canary, |s| &s.failures), sum(&delta.stable, |s| &s.failures));
        let margin = settings.errors_margin.fraction().clamp(1e-4, 0.9);
        let expected = like(Share::of(&self.stable)).min(0.999 - margin);
        let [alike, near, further] = ERROR_GUESSES.map(|part| (expected + part * margin, expected));
        let guesses = [alike, near, further, (HARDLY_ANY * margin, HARDLY_ANY * margin)];
        self.within.take(Share::of(&canary), Share::of(&stable), margin, guesses);
        self.canary.add(&canary);
        self.stable.add(&stable);
        for stratum in delta.canary.strata.values() {
            self.backpressure = self.backpressure.saturating_add(stratum.backpressure);
        }
    }

    fn judge(&self, delta: &Delta, settings: &Settings, rate: f64) -> MetricVerdict {
        let gap = plateau(&self.stable, settings.errors_plateau, settings.plateau_events);
        let (canary, stable) = (Share::of(&self.canary), Share::of(&self.stable));
        let excess = canary.value().unwrap_or(0.0) - stable.value().unwrap_or(0.0);
        let margin = settings.errors_margin.fraction();
        let expected = like(stable);
        let findings = Findings {
            samples: canary.trials as u64,
            worse: self.worse.evidence(gap),
            above_margin: excess > margin,
            within: self.within.evidence(burst(&self.canary, &self.stable)),
            bound: -settings.errors_alpha.ln(),
            pass_bound: -settings.errors_alpha.ln(),
            usual: divergence(expected, (expected + margin).min(0.999)),
            rate,
        };
        let verdict = findings.verdict(delta, settings);
        let reason = words::errors(&verdict, &findings, (canary, stable), self.backpressure, settings);
        findings.put(Metric::Errors, verdict, (canary.value(), stable.value()), settings, reason)
    }
}

/// A share that was counted, a little prior knowledge added.
fn like(counted: Share) -> f64 {
    (counted.events + PRIOR.events) / (counted.trials + PRIOR.trials)
}

/// Kullback-Leibler divergence of one share from another.
fn divergence(of: f64, from: f64) -> f64 {
    let part = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    part(of, from) + part(1.0 - of, 1.0 - from)
}

impl FirstToken {
    fn take(&mut self, delta: &Delta, settings: &Settings) {
        if delta.reference > self.reference {
            // Counts against another reference start anew, and with them the test. The distributions stand.
            *self = Self {
                reference: delta.reference,
                canary_millis: std::mem::take(&mut self.canary_millis),
                stable_millis: std::mem::take(&mut self.stable_millis),
                ..Self::default()
            };
        }
        let histograms = |report: &RevisionReport, coarse: &mut Coarse| {
            report.strata.values().for_each(|stratum| coarse.add(&stratum.first_token));
        };
        histograms(&delta.canary, &mut self.canary_millis);
        histograms(&delta.stable, &mut self.stable_millis);
        if delta.reference == 0 || delta.reference != self.reference {
            return;
        }
        for (canary, stable) in strata(delta, |s| &s.slow) {
            self.worse.take(canary, stable);
        }
        for (canary, stable) in strata(delta, |s| &s.beyond) {
            self.worse_beyond.take(canary, stable);
        }
        let beyond = [&delta.canary, &delta.stable].map(|arm| sum(arm, |s| &s.beyond));
        let slow = [&delta.canary, &delta.stable].map(|arm| sum(arm, |s| &s.slow));
        self.bet(Share::of(&beyond[0]), Share::of(&slow[1]), settings);
        self.canary.add(&slow[0]);
        self.stable.add(&slow[1]);
        self.canary_beyond.add(&beyond[0]);
        self.stable_beyond.add(&beyond[1]);
    }

    /// Bets on what was seen of the canary beyond the margin and of stable's slow requests.
    fn bet(&mut self, beyond: Share, slow: Share, settings: &Settings) {
        let before = Share::of(&self.stable);
        let expected = before.events + settings.slow_share * PRIOR.trials;
        let expected = (expected / (before.trials + PRIOR.trials)).clamp(1e-6, 0.999);
        let guesses = BEYOND_GUESSES.map(|part| (part * expected, expected));
        self.within_stable.take(beyond, slow, 0.0, guesses);
        let guesses = BEYOND_GUESSES.map(|part| part * settings.slow_share);
        self.within_reference.take_fixed(beyond, settings.slow_share, guesses);
    }

    /// Evidence that the canary is slower: the mean of two e-values, itself one.
    fn slower(&self, settings: &Settings) -> f64 {
        let gap = |counts| plateau(counts, settings.latency_plateau, settings.plateau_events);
        let slow = self.worse.evidence(gap(&self.stable));
        let beyond = self.worse_beyond.evidence(gap(&self.stable_beyond));
        log_mean([slow, beyond].into_iter())
    }

    /// Evidence that the canary's share beyond the margin lies below the larger of two: the tenth that the
    /// reference left slow, and the share that is slow of stable now. The second makes up for a reference that was
    /// taken at calmer times and for its own error; the mean of two bets is a bet against both at once.
    fn within(&self) -> f64 {
        let burst = burst(&self.canary_beyond, &self.stable_beyond);
        log_mean([self.within_stable.evidence(burst), self.within_reference.evidence(burst)].into_iter())
    }

    /// Whether the canary was measured to be slower than stable by more than the margin. Where the reference is
    /// below the greater part of stable's requests it says little, and the 90th percentiles themselves are compared.
    fn above_margin(&self, millis: (Option<f64>, Option<f64>), settings: &Settings) -> bool {
        let slow = Share::of(&self.stable).value().unwrap_or(0.0);
        let beyond = Share::of(&self.canary_beyond).value().unwrap_or(0.0);
        let apart = match millis {
            (Some(canary), Some(stable)) => canary > stable * (1.0 + settings.first_token_margin.fraction()),
            _ => false,
        };
        beyond > slow.max(settings.slow_share) || (slow > 0.5 && apart)
    }

    fn judge(&self, delta: &Delta, settings: &Settings, rate: f64) -> MetricVerdict {
        let (canary, stable) = (Share::of(&self.canary), Share::of(&self.stable));
        let millis = (self.canary_millis.p90_millis(), self.stable_millis.p90_millis());
        let findings = Findings {
            samples: canary.trials as u64,
            worse: self.slower(settings),
            above_margin: self.above_margin(millis, settings),
            within: self.within(),
            bound: -settings.latency_alpha.ln(),
            pass_bound: -settings.latency_pass_alpha.ln(),
            // Where half of what is slow is beyond the margin too: a tail of medium weight.
            usual: divergence(0.5 * settings.slow_share, settings.slow_share),
            rate,
        };
        let verdict = findings.verdict(delta, settings);
        let shares = words::Slow { canary, stable, beyond: Share::of(&self.canary_beyond) };
        let reason = words::first_token(&verdict, &findings, millis, &shares, self.reference, settings);
        findings.put(Metric::TimeToFirstToken, verdict, millis, settings, reason)
    }
}

/// What one metric's tests found; logarithms are natural.
pub(crate) struct Findings {
    /// Canary requests.
    pub(crate) samples: u64,
    /// Evidence that it is worse.
    pub(crate) worse: f64,
    /// Whether what was measured lies above the margin.
    above_margin: bool,
    /// Evidence that it is within the margin.
    pub(crate) within: f64,
    /// Where the first is enough.
    pub(crate) bound: f64,
    /// Where the second is.
    pub(crate) pass_bound: f64,
    /// How much `within` grows with a request of a canary that is as good as stable.
    usual: f64,
    /// Canary requests per second.
    rate: f64,
}

impl Findings {
    fn verdict(&self, delta: &Delta, settings: &Settings) -> Verdict {
        if self.samples == 0 {
            return if delta.gateways == 0 { Verdict::ProviderError } else { Verdict::NoData };
        }
        if self.worse >= self.bound && self.above_margin {
            return Verdict::Fail;
        }
        if self.within >= self.pass_bound && self.samples >= settings.min_requests {
            return Verdict::Pass;
        }
        let needed = self.needed(settings.min_requests);
        Verdict::Undecided { samples: self.samples, needed, eta: self.eta(needed) }
    }

    /// Canary requests at which it will be known: evidence grows in proportion to them. Where none grows yet, as
    /// many as a canary like stable takes, or, past those, as many again.
    fn needed(&self, min_requests: u64) -> u64 {
        let fail = if self.above_margin { self.worse } else { 0.0 };
        let samples = self.samples as f64;
        let at = |evidence: f64, bound: f64| match evidence >= GROWING {
            true => samples * (bound / evidence).max(1.0),
            false => f64::INFINITY,
        };
        let mut forecast = at(fail, self.bound).min(at(self.within, self.pass_bound));
        if forecast.is_infinite() {
            forecast = ((self.pass_bound + GROWING) / self.usual.max(1e-9)).max(2.0 * samples);
        }
        (forecast.ceil() as u64).min(FORECAST).max(min_requests).max(self.samples.saturating_add(1))
    }

    fn eta(&self, needed: u64) -> Option<Period> {
        let seconds = needed.saturating_sub(self.samples) as f64 / self.rate;
        let longest = outrigger_wire::quantity::LONGEST_PERIOD.as_secs_f64();
        (seconds.is_finite() && (0.0..=longest).contains(&seconds))
            .then(|| Period::secs(seconds.ceil() as u64))
    }

    fn put(
        &self,
        metric: Metric,
        verdict: Verdict,
        (canary, stable): (Option<f64>, Option<f64>),
        settings: &Settings,
        reason: String,
    ) -> MetricVerdict {
        // A reader needs no sixteen digits.
        let rounded = |value: f64| (value * 1e4).round() / 1e4;
        let log10 = |natural: f64| rounded(natural / std::f64::consts::LN_10);
        MetricVerdict {
            metric,
            verdict,
            canary: canary.map(rounded),
            stable: stable.map(rounded),
            evidence: log10(self.worse),
            bound: log10(self.bound),
            excluded: log10(self.within * self.bound / self.pass_bound),
            enough: self.samples >= settings.min_requests,
            reason,
        }
    }
}
