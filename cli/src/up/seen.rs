//! What the terminal shows, from the plan and the reports.

use crate::load::Load;
use crate::view::{
    EndpointState, EndpointView, EventView, Latency, Phase, RevisionView, Role, StepView, View,
};
use jiff::Timestamp;
use outrigger_crds::{ModelDeploymentSpec, ModelDeploymentStatus};
use outrigger_plan::{Outcome, Phase as ReplicaPhase, Plan, Replica};
use outrigger_verdict::Baselines;
use outrigger_wire::{DeploymentKey, EndpointId, EndpointReport, EngineState, Histogram, RevisionId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything from which a view is made.
pub(crate) struct From<'a> {
    pub(crate) now: Timestamp,
    pub(crate) deployment: &'a DeploymentKey,
    pub(crate) url: &'a str,
    pub(crate) spec: &'a ModelDeploymentSpec,
    pub(crate) declared: &'a RevisionId,
    pub(crate) plan: &'a Plan,
    pub(crate) replicas: &'a [Replica],
    pub(crate) reports: &'a BTreeMap<EndpointId, EndpointReport>,
    pub(crate) baselines: &'a Baselines,
    pub(crate) load: Option<&'a Load>,
    pub(crate) events: Vec<EventView>,
    /// The revision that was promoted while this program ran.
    pub(crate) promoted: Option<&'a RevisionId>,
    /// The gateway has had routes to a ready replica.
    pub(crate) served: bool,
    pub(crate) stopping: bool,
}

/// The view.
pub(crate) fn view(from: From<'_>) -> View {
    let status = &from.plan.status;
    let name = from.deployment.as_str();
    View {
        now: from.now,
        deployment: name.split_once('/').map_or(name, |(_, name)| name).to_owned(),
        model: from.spec.model.name.clone(),
        url: from.url.to_owned(),
        phase: phase(&from),
        stable: status.stable.clone().filter(|_| from.served),
        canary: status.canary.as_ref().map(|canary| canary.revision.clone()),
        steps: from.spec.rollout.steps.iter().map(|step| step.weight).collect(),
        step: step(&from),
        weights: from.plan.weights,
        // While nothing is tried: what was judged last, and how.
        verdicts: match from.plan.verdicts.is_empty() {
            true => status.verdicts.clone(),
            false => from.plan.verdicts.clone(),
        },
        revisions: revisions(&from),
        endpoints: from.replicas.iter().map(|replica| endpoint(replica, from.reports)).collect(),
        load: from.load.map(|load| load.counts().view()),
        message: status.message.clone(),
        events: from.events,
        onlooking: false,
    }
}

fn phase(from: &From<'_>) -> Phase {
    let status = &from.plan.status;
    if from.stopping {
        return Phase::Stopping;
    }
    match from.plan.outcome {
        // New routes are on their way to a gateway that serves with the ones before.
        Outcome::Starting if !available(status) => Phase::Starting,
        // Whoever reads that it is available may call at once.
        Outcome::Starting | Outcome::Serving if !from.served => Phase::Starting,
        Outcome::RollingOut => Phase::Canary,
        Outcome::Blocked => Phase::Blocked { reason: blocked(status) },
        Outcome::RolledBack => {
            let failed = status.failed.iter().find(|failed| failed.revision == *from.declared);
            let reason = failed.map(|failed| failed.reason.clone()).unwrap_or_default();
            Phase::RolledBack { revision: from.declared.clone(), reason }
        }
        Outcome::Starting | Outcome::Serving => {
            match from.promoted.filter(|promoted| status.stable.as_ref() == Some(promoted)) {
                Some(promoted) => Phase::Promoted { revision: promoted.clone() },
                None => Phase::Available,
            }
        }
    }
}

fn available(status: &ModelDeploymentStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "Available" && c.status == "True")
}

fn blocked(status: &ModelDeploymentStatus) -> String {
    let condition = status.conditions.iter().find(|c| c.type_ == "Blocked" && c.status == "True");
    condition.map_or_else(|| status.message.clone(), |condition| condition.message.clone())
}

fn step(from: &From<'_>) -> Option<StepView> {
    let canary = from.plan.status.canary.as_ref()?;
    let steps = &from.spec.rollout.steps;
    let index = match canary.passed {
        Some(_) => steps.len(),
        None => (canary.step as usize).min(steps.len()),
    };
    let hold = steps.get(index).map_or(Duration::ZERO, |step| step.hold.get());
    let left = canary.step_reached.map(|reached| {
        let held = Duration::try_from(from.now.duration_since(reached)).unwrap_or_default();
        hold.saturating_sub(held)
    });
    Some(StepView {
        index,
        weight: steps.get(index).map_or(100, |step| step.weight),
        hold,
        left,
        paused: false,
    })
}

fn revisions(from: &From<'_>) -> Vec<RevisionView> {
    let status = &from.plan.status;
    let canary = status.canary.as_ref().map(|canary| &canary.revision);
    let starting = status.starting.as_ref().map(|starting| &starting.revision);
    let mut ids: Vec<&RevisionId> = status.stable.iter().chain(starting).chain(canary).collect();
    for replica in from.replicas {
        if !ids.contains(&&replica.revision) {
            ids.push(&replica.revision);
        }
    }
    let one = |id: &RevisionId| {
        let is = |replica: &&Replica| replica.revision == *id && replica.phase == ReplicaPhase::Ready;
        let window = from.baselines.window(from.deployment, id, from.now);
        let total = from.baselines.total(from.deployment, id);
        let answered = total.success + total.failure;
        let role = match () {
            () if Some(id) == canary => Role::Canary,
            () if Some(id) == status.stable.as_ref() || Some(id) == starting => Role::Stable,
            () => Role::Leaving,
        };
        RevisionView {
            id: id.clone(),
            role,
            ready: from.replicas.iter().filter(is).count() as u32,
            wanted: from.plan.workloads.iter().filter(|w| w.revision == *id).map(|w| w.replicas).sum(),
            rate: Some(window.requests_per_second),
            errors: (answered > 0).then(|| total.failure as f64 / answered as f64),
            duration: latency(&window.duration),
            first_token: latency(&window.first_token),
        }
    };
    ids.into_iter().map(one).collect()
}

fn latency(histogram: &Histogram) -> Latency {
    let quantile = |q| histogram.quantile(q).map(Duration::from_micros);
    Latency { p50: quantile(0.5), p95: quantile(0.95) }
}

fn endpoint(replica: &Replica, reports: &BTreeMap<EndpointId, EndpointReport>) -> EndpointView {
    let report = reports.get(&replica.id);
    let state = match (replica.phase, report.map(|report| report.engine)) {
        (ReplicaPhase::Terminating, _) => EndpointState::Draining,
        (ReplicaPhase::Ready, _) => EndpointState::Ready,
        (ReplicaPhase::Pending, _) => EndpointState::Pending,
        (_, Some(EngineState::Warming)) => EndpointState::Warming,
        (ReplicaPhase::Unready, Some(EngineState::Stalled)) => EndpointState::Stalled,
        (ReplicaPhase::Unready, Some(EngineState::Gone)) => EndpointState::Gone,
        (ReplicaPhase::Unready | ReplicaPhase::Unheard, _) => EndpointState::Unready,
        // The sidecar has said so, and the next probe will.
        (ReplicaPhase::Starting, Some(EngineState::Ready)) => EndpointState::Warming,
        (ReplicaPhase::Starting, _) => EndpointState::Starting,
    };
    EndpointView {
        id: replica.id.clone(),
        revision: replica.revision.clone(),
        state,
        in_flight: report.map_or(0, |report| report.in_flight),
        queued: report.map_or(0, |report| report.queued),
        restarts: replica.restarts.len() as u32,
    }
}
