//! One canary: its start, its steps, its end.

use super::{Blocked, MAX_FAILED, Rollout, after, counted};
use crate::plan::{Event, Waiting};
use crate::world::Trouble;
use jiff::Timestamp;
use outrigger_crds::status::{Canary, Failed};
use outrigger_crds::{OnUndecided, Step};
use outrigger_verdict::step::Health;
use outrigger_verdict::{Metric, MetricVerdict, Settings, Verdict};
use outrigger_wire::{BasisPoints, Period, RevisionId};

/// The least that `maxHold` is when a step doesn't say it: four times a hold of nothing would be nothing.
const LEAST_MAX_HOLD: Period = Period::secs(60);

/// What keeps replicas from being had and is the revision's own fault: a canary fails by it, in the end.
const FAULTS: [&str; 2] = ["ImageNotPulled", "CannotStart"];

/// Why a canary stays at its step although `maxHold` has passed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Undecided {
    /// One word: `NoData`, `MaxHoldExceeded`.
    pub(crate) reason: &'static str,
    /// The sentence.
    pub(crate) message: String,
}

impl Rollout<'_> {
    /// The declared revision is tried from now on, with no traffic yet. The one that was tried until now ends with
    /// the same write, so its weight is nobody's.
    pub(super) fn begin(&mut self, stable: &RevisionId, before: Option<RevisionId>) {
        let declared = self.declared.clone();
        self.end_canary();
        let weight = self.world.spec.spec.rollout.steps.first().map_or(100, |step| step.weight);
        self.status.canary = Some(Canary {
            revision: declared.clone(),
            started: self.now,
            step: 0,
            step_weight: weight,
            step_reached: None,
            passed: None,
            progressed: self.now,
            most_ready: 0,
            lacking: true,
            paused: None,
            analysis: outrigger_verdict::State::default(),
            analysed: self.now,
        });
        self.status.reference = None;
        self.status.verdicts.clear();
        let instead = before.map(|before| format!(", in place of {before}")).unwrap_or_default();
        let message =
            format!("revision {declared} is tried beside {stable}{instead}: no traffic until it is ready");
        self.events.push(Event::normal("CanaryStarted", message));
    }

    /// One look at the canary: what its analysis says, whether it fails, whether it goes on.
    pub(super) fn judge(&mut self, stable: &RevisionId) {
        let Some(mut canary) = self.status.canary.take() else { return };
        self.reposition(&mut canary);
        self.progress(&mut canary);
        self.analyse(&canary, stable);
        let failed = self.verdicts.failed().map(|verdict| verdict.reason.clone());
        if let Some(reason) = failed {
            self.roll_back(&canary, reason);
            return;
        }
        let next = match self.obey(&mut canary) {
            Some(next) => next,
            None => self.next(&canary),
        };
        match next {
            Next::Stay => self.status.canary = Some(canary),
            Next::Advance => {
                self.advance(&mut canary);
                self.status.canary = Some(canary);
            }
            Next::Promote => {
                let message = format!("revision {} is stable now, in place of {stable}", canary.revision);
                self.promote(stable, message);
            }
            Next::Abort(reason) => self.roll_back(&canary, reason),
        }
    }

    /// Steps may be edited under way. A canary goes on at the last step that is no higher than what it has held,
    /// so an edit never raises it past a step that it has not been through.
    fn reposition(&self, canary: &mut Canary) {
        let steps = &self.world.spec.spec.rollout.steps;
        if canary.passed.is_some() {
            canary.step = steps.len() as u32;
            return;
        }
        if steps.get(canary.step as usize).is_some_and(|step| step.weight == canary.step_weight) {
            return;
        }
        let place = steps.iter().rposition(|step| step.weight <= canary.step_weight).unwrap_or_default();
        let weight = steps.get(place).map_or(100, |step| step.weight);
        canary.step = place as u32;
        if canary.paused.is_some() && weight > canary.step_weight {
            // No edit raises a paused canary: its step is another when it goes on.
            return;
        }
        if weight != canary.step_weight {
            canary.step_weight = weight;
            canary.step_reached = None;
        }
    }

    /// Notes whether replicas are lacking and since when nothing has advanced.
    fn progress(&self, canary: &mut Canary) {
        let (ready, needed) = (self.ready(&canary.revision), self.needed(canary.step_weight));
        let lacking = ready < needed;
        if lacking != canary.lacking || (lacking && ready > canary.most_ready) {
            canary.progressed = self.now;
            canary.most_ready = ready.min(needed);
        }
        canary.lacking = lacking;
    }

    /// Runs the analysis over what was counted since its sums were stored, health included.
    fn analyse(&mut self, canary: &Canary, stable: &RevisionId) {
        let analysis = &self.world.spec.spec.rollout.analysis;
        let settings = Settings {
            min_requests: u64::from(analysis.min_requests),
            errors_margin: analysis.errors_margin,
            first_token_margin: analysis.first_token_margin,
            ..Settings::default()
        };
        let (state, verdicts) = (self.judge.step)(&canary.analysis, &self.world.evidence.delta, &settings);
        self.state = (state != canary.analysis).then_some(state);
        self.verdicts = verdicts;
        let health = self.health(canary, stable, settings.health_window);
        self.verdicts.0.retain(|verdict| verdict.metric != Metric::Health);
        self.verdicts.0.push((self.judge.health)(&health, &settings));
        self.status.verdicts.clone_from(&self.verdicts.0);
    }

    fn health(&mut self, canary: &Canary, stable: &RevisionId, window: Period) -> Health {
        let now = self.now;
        let since = |from: Timestamp, id: &RevisionId| {
            let recent = |at: &&Timestamp| **at >= from && after(**at, window) > now;
            // Those of replicas that are going count too: a scale-down must not make stable look better.
            let all = self.world.replicas.iter().filter(|replica| replica.revision == *id);
            all.flat_map(|replica| replica.restarts.iter().filter(recent)).count() as u32
        };
        let mut health = Health {
            canary_restarts: since(canary.started, &canary.revision),
            stable_restarts: since(canary.started, stable),
            ready: self.ready(&canary.revision),
            wanted: self.needed(canary.step_weight),
            failed: None,
        };
        let warm_up =
            |r: &crate::Replica| r.trouble.clone().filter(|t| !t.blocks && t.reason == "WarmUpFailed");
        if let Some(trouble) = self.replicas(&canary.revision).find_map(warm_up) {
            health.failed = Some(trouble.message);
        } else if canary.lacking {
            health.failed = self.overdue(canary);
        }
        health
    }

    /// What follows when nothing has advanced until the deadline: the revision's fault, or nobody's.
    fn overdue(&mut self, canary: &Canary) -> Option<String> {
        let limit = self.world.spec.spec.rollout.progress_deadline;
        let deadline = after(canary.progressed, limit);
        let blocker = self.blocker(&canary.revision);
        let trouble = self.trouble(&canary.revision).map(|why| format!(": {why}")).unwrap_or_default();
        let (ready, needed) = (self.ready(&canary.revision), self.needed(canary.step_weight));
        if self.now < deadline {
            self.edges.push(deadline);
            self.blocked = self.obstacle(&canary.revision);
            self.waiting.push(match blocker {
                Some(blocker) => {
                    Waiting { what: "capacity".into(), why: blocker.message, until: Some(deadline) }
                }
                None => Waiting {
                    what: "replicas".into(),
                    why: format!(
                        "{ready} of {} of the canary are ready{trouble}",
                        counted(needed, "replica")
                    ),
                    until: Some(deadline),
                },
            });
            return None;
        }
        let fault = |blocker: &Trouble| FAULTS.contains(&blocker.reason.as_str());
        if let Some(Trouble { reason, message, .. }) = blocker.filter(|blocker| !fault(blocker)) {
            self.blocked = Some(Blocked { reason, message, over: true });
            return None;
        }
        Some(format!("no further replica became ready within {limit} ({ready} of {needed} are){trouble}"))
    }

    /// What keeps a revision's replicas from being had at all.
    pub(crate) fn blocker(&self, id: &RevisionId) -> Option<Trouble> {
        let waits = |r: &&crate::Replica| r.phase != crate::Phase::Ready;
        let own = self.replicas(id).filter(waits).find_map(|r| r.trouble.as_ref().filter(|t| t.blocks));
        own.or_else(|| self.world.capacity.missing.iter().find(|trouble| trouble.blocks)).cloned()
    }

    /// What is told as blocking at once, long before the deadline. Room that replicas which still drain are about to
    /// give does not block.
    pub(crate) fn obstacle(&self, id: &RevisionId) -> Option<Blocked> {
        let found = self.blocker(id);
        found.map(|Trouble { reason, message, .. }| Blocked { reason, message, over: false })
    }

    /// What is wrong with a revision's replicas, whether or not that keeps them from being had.
    pub(crate) fn trouble(&self, id: &RevisionId) -> Option<String> {
        let waits = |r: &&crate::Replica| r.phase != crate::Phase::Ready;
        self.replicas(id)
            .filter(waits)
            .find_map(|r| r.trouble.as_ref())
            .or(self.world.capacity.missing.first())
            .map(|trouble| trouble.message.clone())
    }

    /// Whether the canary goes on.
    pub(super) fn next(&mut self, canary: &Canary) -> Next {
        if self.waits_for_hands(canary) {
            return Next::Stay;
        }
        if canary.passed.is_some() {
            return self.complete(canary);
        }
        let steps = &self.world.spec.spec.rollout.steps;
        let Some(step) = steps.get(canary.step as usize) else { return Next::Stay };
        let Some(reached) = canary.step_reached else { return Next::Stay };
        if self.desired(canary) != BasisPoints::percent(canary.step_weight) {
            return Next::Stay;
        }
        let last = canary.step as usize + 1 == steps.len();
        let held = after(reached, step.hold);
        if self.now < held {
            self.edges.push(held);
            let why = format!("step {} of {} is held for {}", canary.step + 1, steps.len(), step.hold);
            self.waiting.push(Waiting { what: "hold".into(), why, until: Some(held) });
            return Next::Stay;
        }
        let open: Vec<MetricVerdict> =
            self.verdicts.0.iter().filter(|v| !suffices(v, last)).cloned().collect();
        if open.is_empty() && !self.verdicts.0.is_empty() {
            return Next::Advance;
        }
        self.outwait(step, reached, &open, last)
    }

    /// The hold is over and the analysis is not: wait until `maxHold`, then do what the step says.
    fn outwait(&mut self, step: &Step, reached: Timestamp, open: &[MetricVerdict], last: bool) -> Next {
        let limit = step.max_hold.unwrap_or_else(|| default_max_hold(step.hold));
        let end = after(reached, limit);
        let over = self.now >= end;
        if !over {
            self.edges.push(end);
        }
        let what = if last { "verdict" } else { "samples" };
        for verdict in open {
            let until = (!over).then_some(end);
            self.waiting.push(Waiting { what: what.into(), why: verdict.reason.clone(), until });
        }
        if !over {
            return Next::Stay;
        }
        let blind = |v: &&MetricVerdict| matches!(v.verdict, Verdict::NoData | Verdict::ProviderError);
        if let Some(verdict) = open.iter().find(blind) {
            let message = format!("{}: nothing is known after {limit}", metric_name(verdict.metric));
            self.undecided = Some(Undecided { reason: "NoData", message });
            return Next::Stay;
        }
        let names: Vec<&str> = open.iter().map(|verdict| metric_name(verdict.metric)).collect();
        let message = format!("{} still undecided after {limit}", names.join(", "));
        match step.on_undecided {
            OnUndecided::Promote if !open.is_empty() => {
                self.events
                    .push(Event::warning("Undecided", format!("{message}: going on, as the step says")));
                Next::Advance
            }
            OnUndecided::Abort if !open.is_empty() => Next::Abort(message),
            _ => {
                self.undecided = Some(Undecided { reason: "MaxHoldExceeded", message });
                Next::Stay
            }
        }
    }

    /// The implicit step of 100: the canary becomes stable when all traffic goes to it and gateways know.
    fn complete(&mut self, canary: &Canary) -> Next {
        let full = BasisPoints::FULL;
        if self.desired(canary) != full || self.world.status.weights.desired != full {
            return Next::Stay;
        }
        if self.acknowledged_or_late() {
            return Next::Promote;
        }
        let until = self.acknowledge_by();
        self.edges.extend(until);
        let why = "gateways are to send all traffic to the canary before it becomes stable".to_owned();
        self.waiting.push(Waiting { what: "gateways".into(), why, until });
        Next::Stay
    }

    fn advance(&mut self, canary: &mut Canary) {
        let steps = &self.world.spec.spec.rollout.steps;
        self.transitioned = true;
        canary.step += 1;
        canary.step_reached = None;
        canary.progressed = self.now;
        let message = match steps.get(canary.step as usize) {
            Some(step) => {
                canary.step_weight = step.weight;
                format!(
                    "canary {} goes on to {}% (step {} of {})",
                    canary.revision,
                    step.weight,
                    canary.step + 1,
                    steps.len()
                )
            }
            None => {
                canary.step_weight = 100;
                canary.passed = Some(self.now);
                format!("canary {} has passed all steps and takes over", canary.revision)
            }
        };
        let (ready, needed) = (self.ready(&canary.revision), self.needed(canary.step_weight));
        canary.most_ready = ready.min(needed);
        canary.lacking = ready < needed;
        self.events.push(Event::normal("StepAdvanced", message));
    }

    /// The canary is out of the routes with this write; the revision is remembered as failed.
    fn roll_back(&mut self, canary: &Canary, reason: String) {
        self.end_canary();
        self.status.failed.retain(|failed| failed.revision != canary.revision);
        let excess = (self.status.failed.len() + 1).saturating_sub(MAX_FAILED);
        self.status.failed.drain(..excess);
        self.events
            .push(Event::warning("RolledBack", format!("canary {} rolled back: {reason}", canary.revision)));
        self.status.failed.push(Failed {
            revision: canary.revision.clone(),
            at: self.now,
            reason,
            withdrawn: false,
        });
    }
}

/// What becomes of a canary.
pub(super) enum Next {
    /// It stays at its step.
    Stay,
    /// It goes on to the next step, after the last one to all callers.
    Advance,
    /// It becomes stable.
    Promote,
    /// It is rolled back, for this reason.
    Abort(String),
}

/// Whether this verdict lets a step be left: enough seen and nothing wrong; for the last step, Pass.
fn suffices(verdict: &MetricVerdict, last: bool) -> bool {
    match verdict.verdict {
        Verdict::Pass => verdict.enough,
        Verdict::Undecided { .. } => verdict.enough && !last,
        Verdict::Fail | Verdict::NoData | Verdict::ProviderError => false,
    }
}

/// Four times the hold.
pub(crate) fn default_max_hold(hold: Period) -> Period {
    let millis = u64::try_from(hold.get().as_millis()).unwrap_or(u64::MAX).saturating_mul(4);
    Period::millis(millis).max(LEAST_MAX_HOLD)
}

/// A metric in a sentence.
fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::Errors => "errors",
        Metric::TimeToFirstToken => "time to first token",
        Metric::Health => "health",
    }
}
