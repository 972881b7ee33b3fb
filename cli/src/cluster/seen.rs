//! A deployment in a cluster, as the terminal shows it: from its status, its pods and what was told of it.

use crate::view::{EndpointState, EndpointView, EventView, Phase, RevisionView, Role, StepView, View};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use outrigger_crds::{Condition, ModelDeployment, ModelDeploymentStatus};
use outrigger_wire::RevisionId;
use std::time::Duration;

/// The label of a pod's revision.
const REVISION: &str = "outrigger.dev/revision";
/// The sidecar's container; every other's restarts are the engine's.
const SIDECAR: &str = "outrigger";

/// Everything from which a view is made.
pub(super) struct From<'a> {
    pub(super) now: Timestamp,
    pub(super) place: &'a str,
    pub(super) object: &'a ModelDeployment,
    pub(super) pods: &'a [Pod],
    pub(super) events: Vec<EventView>,
    /// The revision that became stable while somebody looked on.
    pub(super) promoted: Option<&'a RevisionId>,
}

/// How a deployment has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Serving,
    RolledBack,
    Blocked,
}

impl End {
    /// The exit status, the same as `outrigger up --exit-when-settled` has.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Serving => 0,
            Self::RolledBack => 3,
            Self::Blocked => 4,
        }
    }
}

/// How it has settled, once the operator has answered to the present spec and waits for nothing more.
pub(super) fn settled(object: &ModelDeployment) -> Option<End> {
    let status = object.status.as_ref()?;
    let current = |c: &&Condition| c.observed_generation == object.metadata.generation;
    let progressing = condition(status, "Progressing").filter(current).filter(|c| c.status == "False")?;
    match progressing.reason.as_str() {
        "Blocked" => Some(End::Blocked),
        "RolledBack" => Some(End::RolledBack),
        "Settled" => {
            let available = condition(status, "Available")?;
            (available.status == "True" || available.reason == "ScaledToZero").then_some(End::Serving)
        }
        _ => None,
    }
}

/// The view.
pub(super) fn view(from: From<'_>) -> View {
    let none = ModelDeploymentStatus::default();
    let (spec, status) = (&from.object.spec, from.object.status.as_ref().unwrap_or(&none));
    let mut endpoints: Vec<EndpointView> = from.pods.iter().map(endpoint).collect();
    endpoints.sort_by(|a, b| (&a.revision, a.id.as_str()).cmp(&(&b.revision, b.id.as_str())));
    View {
        now: from.now,
        deployment: from.object.metadata.name.clone().unwrap_or_default(),
        model: spec.model.name.clone(),
        url: from.place.to_owned(),
        phase: phase(status, from.promoted),
        stable: status.stable.clone(),
        canary: status.canary.as_ref().map(|canary| canary.revision.clone()),
        steps: spec.rollout.steps.iter().map(|step| step.weight).collect(),
        step: step(&from, status),
        weights: status.weights,
        verdicts: status.verdicts.clone(),
        revisions: revisions(spec.scale.replicas, status, &endpoints),
        endpoints,
        load: None,
        events: from.events,
        message: match status.message.is_empty() {
            true => "The operator has not looked at it yet.".to_owned(),
            false => status.message.clone(),
        },
        onlooking: true,
    }
}

fn condition<'a>(status: &'a ModelDeploymentStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

fn phase(status: &ModelDeploymentStatus, promoted: Option<&RevisionId>) -> Phase {
    if let Some(blocked) = condition(status, "Blocked").filter(|c| c.status == "True") {
        return Phase::Blocked { reason: blocked.message.clone() };
    }
    if status.canary.is_some() {
        return Phase::Canary;
    }
    if let Some(failed) = status.failed.iter().find(|failed| !failed.withdrawn) {
        return Phase::RolledBack { revision: failed.revision.clone(), reason: failed.reason.clone() };
    }
    let available = condition(status, "Available").is_some_and(|c| c.status == "True");
    match status.stable.as_ref().filter(|_| available) {
        None => Phase::Starting,
        Some(stable) if promoted == Some(stable) => Phase::Promoted { revision: stable.clone() },
        Some(_) => Phase::Available,
    }
}

fn step(from: &From<'_>, status: &ModelDeploymentStatus) -> Option<StepView> {
    let canary = status.canary.as_ref()?;
    let steps = &from.object.spec.rollout.steps;
    let index = match canary.passed {
        Some(_) => steps.len(),
        None => (canary.step as usize).min(steps.len()),
    };
    let hold = steps.get(index).map_or(Duration::ZERO, |step| step.hold.get());
    // While it is paused the hold does not count on.
    let until = canary.paused.unwrap_or(from.now);
    let left = canary.step_reached.map(|reached| {
        let held = Duration::try_from(until.duration_since(reached)).unwrap_or_default();
        hold.saturating_sub(held)
    });
    let weight = steps.get(index).map_or(100, |step| step.weight);
    Some(StepView { index, weight, hold, left, paused: canary.paused.is_some() })
}

fn revisions(replicas: u32, status: &ModelDeploymentStatus, pods: &[EndpointView]) -> Vec<RevisionView> {
    let starting =
        status.starting.as_ref().map(|starting| (starting.revision.clone(), Role::Stable, replicas));
    let stable = status.stable.clone().map(|stable| (stable, Role::Stable, replicas));
    let canary = status.canary.as_ref().map(|canary| {
        let needed = (u64::from(replicas) * u64::from(canary.step_weight)).div_ceil(100) as u32;
        (canary.revision.clone(), Role::Canary, needed)
    });
    // Kept warm for the rollback window.
    let previous =
        status.previous.as_ref().map(|previous| (previous.revision.clone(), Role::Leaving, replicas));
    let mut all: Vec<(RevisionId, Role, u32)> =
        [stable, starting, canary, previous].into_iter().flatten().collect();
    for pod in pods {
        if !all.iter().any(|(id, ..)| *id == pod.revision) {
            all.push((pod.revision.clone(), Role::Leaving, 0));
        }
    }
    let ready = |id: &RevisionId| {
        pods.iter().filter(|pod| pod.revision == *id && pod.state == EndpointState::Ready).count() as u32
    };
    let one = |(id, role, wanted): (RevisionId, Role, u32)| RevisionView {
        ready: ready(&id),
        id,
        role,
        wanted,
        ..RevisionView::default()
    };
    all.into_iter().map(one).collect()
}

fn endpoint(pod: &Pod) -> EndpointView {
    let labels = pod.metadata.labels.as_ref();
    let revision = labels.and_then(|labels| labels.get(REVISION)).map(String::as_str).unwrap_or_default();
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let engines = || containers.into_iter().flatten().filter(|container| container.name != SIDECAR);
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    let restarts: i32 = engines().map(|container| container.restart_count).sum();
    let state = match ready {
        _ if pod.metadata.deletion_timestamp.is_some() => EndpointState::Draining,
        Some(ready) if ready.status == "True" => EndpointState::Ready,
        _ if engines().any(|container| container.started == Some(true)) => match restarts {
            0 => EndpointState::Starting,
            _ => EndpointState::Unready,
        },
        _ => EndpointState::Pending,
    };
    EndpointView {
        id: pod.metadata.name.as_deref().unwrap_or_default().into(),
        revision: revision.into(),
        state,
        restarts: u32::try_from(restarts).unwrap_or_default(),
        ..EndpointView::default()
    }
}
