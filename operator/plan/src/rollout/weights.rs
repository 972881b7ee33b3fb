//! How much of the traffic the canary gets, by what capacity it has, and what gateways make of it.

use super::Rollout;
use crate::plan::Event;
use outrigger_crds::status::Canary;
use outrigger_wire::traffic::Cohort;
use outrigger_wire::{BasisPoints, Reference};

/// Stable's first tokens below which no reference is made: the 90th percentile of fewer is a matter of luck.
const MIN_REFERENCE: u64 = 50;
/// Requests below which an observed share says nothing.
const MIN_OBSERVED: u64 = 50;
/// Standard errors beyond which an observed share is no luck: one false alarm in 30 000 looks.
const SIGMAS: f64 = 4.0;

impl Rollout<'_> {
    /// Replicas that a canary of this weight in percent needs.
    pub(crate) fn needed(&self, weight: u8) -> u32 {
        let all = self.world.spec.spec.scale.replicas;
        (u64::from(all) * u64::from(weight)).div_ceil(100) as u32
    }

    /// Sets the weights and the reference that follow from the status and the replicas.
    pub(super) fn weigh(&mut self) {
        let tried = self.world.status.canary.as_ref().map(|canary| &canary.revision);
        // A canary that begins with this write has no weight, even where replicas of it happen to run.
        let canary = self.status.canary.as_ref().filter(|canary| tried == Some(&canary.revision));
        let desired = canary.map_or(BasisPoints::ZERO, |canary| self.desired(canary));
        let before = self.world.status.weights.desired;
        let same_step = |canary: &Canary| {
            let then = self.world.status.canary.as_ref();
            then.is_some_and(|then| {
                then.revision == canary.revision && then.step_weight == canary.step_weight
            })
        };
        if desired < before && self.status.canary.as_ref().is_some_and(same_step) {
            let message =
                format!("the canary lost replicas: it takes {desired} of callers instead of {before}");
            self.events.push(Event::warning("WeightLowered", message));
        }
        self.status.weights.desired = desired;
        self.status.share = self.status.canary.as_ref().map(|_| desired.to_string()).unwrap_or_default();
        self.reach();
        self.refer();
        self.measure();
    }

    /// The step's weight × min(1, ready / needed), rounded down.
    pub(super) fn desired(&self, canary: &Canary) -> BasisPoints {
        let (ready, needed) = (self.ready(&canary.revision), self.needed(canary.step_weight));
        if ready == 0 || needed == 0 {
            return BasisPoints::ZERO;
        }
        let planned = u64::from(BasisPoints::percent(canary.step_weight).get());
        BasisPoints::new((planned * u64::from(ready.min(needed)) / u64::from(needed)) as u16)
    }

    /// The hold of a step counts from when its weight was first reached.
    fn reach(&mut self) {
        let desired = self.status.weights.desired;
        let (now, steps) = (self.now, self.world.spec.spec.rollout.steps.len());
        let Some(canary) = &mut self.status.canary else { return };
        if canary.step_reached.is_some() || desired != BasisPoints::percent(canary.step_weight) {
            return;
        }
        canary.step_reached = Some(now);
        let step = match canary.passed {
            Some(_) => "all steps passed".to_owned(),
            None => format!("step {} of {steps}", canary.step + 1),
        };
        let message = format!("canary {} takes {desired} of callers ({step})", canary.revision);
        self.events.push(Event::normal("StepReached", message));
    }

    /// The latencies that both revisions are counted against: made once per canary, before what they judge.
    fn refer(&mut self) {
        let first_token = &self.world.evidence.stable_first_token;
        if self.status.canary.is_none()
            || self.status.reference.is_some()
            || first_token.count() < MIN_REFERENCE
        {
            return;
        }
        let Some(slow_micros) = first_token.quantile(0.9) else { return };
        let margin = self.world.spec.spec.rollout.analysis.first_token_margin.fraction();
        self.status.references = self.status.references.saturating_add(1);
        self.status.reference = Some(Reference {
            generation: self.status.references,
            slow_micros,
            beyond_micros: (slow_micros as f64 * (1.0 + margin)).ceil() as u64,
        });
    }

    /// What gateways acknowledged and counted under the serial that stands.
    fn measure(&mut self) {
        let status = &self.world.status;
        let live = self.world.gateways.iter().filter(|gateway| gateway.live);
        let any = live.clone().next().is_some();
        self.status.weights.programmed = (any && live.clone().all(|gateway| gateway.serial == status.serial))
            .then_some(status.weights.desired);
        self.status.weights.observed =
            self.assigned().filter(|_| status.canary.is_some()).and_then(|(stable, canary)| {
                let total = stable.checked_add(canary).filter(|total| *total > 0)?;
                Some(BasisPoints::new((u128::from(canary) * 10_000 / u128::from(total)) as u16))
            });
    }

    /// Requests that gateways' hashes assigned to stable and to the canary under the serial that stands.
    fn assigned(&self) -> Option<(u64, u64)> {
        let serial = self.world.status.serial;
        let current = self.world.gateways.iter().filter(|gateway| gateway.serial == serial);
        current
            .map(|gateway| (gateway.assigned_stable, gateway.assigned_canary))
            .reduce(|a, b| (a.0.saturating_add(b.0), a.1.saturating_add(b.1)))
    }

    /// Whether gateways send the canary another share than they were told, beyond what chance explains. Where one
    /// caller makes many requests (cohorts by session or caller) their number says nothing about chance; then
    /// only all or nothing is tested.
    pub(crate) fn mismatch(&self) -> Option<String> {
        let status = &self.world.status;
        let unchanged = self.status.serial == status.serial;
        status.canary.as_ref().filter(|_| unchanged)?;
        let (stable, canary) = self.assigned()?;
        let told = status.weights.desired;
        let total = stable.saturating_add(canary);
        if total < MIN_OBSERVED {
            return None;
        }
        let impossible =
            (told == BasisPoints::ZERO && canary > 0) || (told == BasisPoints::FULL && stable > 0);
        let (n, p) = (total as f64, told.fraction());
        let beyond = (canary as f64 - n * p).abs() > SIGMAS * (n * p * (1.0 - p)).sqrt() + 1.0;
        let by_request = self.world.spec.spec.traffic.cohort == Cohort::Request;
        (impossible || (by_request && beyond)).then(|| {
            let seen = BasisPoints::new((canary as f64 / n * 10_000.0) as u16);
            format!("gateways send the canary {seen} of requests instead of {told}")
        })
    }
}
