//! A pod as the planner's replica.

use super::trouble::{is_nodes_fault, is_unheard, trouble};
use super::types::{ContainerStatus, Pod, condition};
use crate::names;
use jiff::{SignedDuration, Timestamp};
use outrigger_plan::{Phase, Replica};
use outrigger_wire::{EndpointId, RevisionId};

/// The most restarts that are remembered.
const MOST_RESTARTS: usize = 16;
/// A kubelet writes a pod's first conditions and its start in one breath; the API keeps whole seconds.
const BREATH: SignedDuration = SignedDuration::from_secs(1);

/// The replica that a pod is. `None` for pods without a revision, and for those that have ended (evicted, turned
/// away by a node): their ReplicaSet has replaced them, and nothing of them serves or drains.
pub fn replica(pod: &Pod) -> Option<Replica> {
    let meta = &pod.metadata;
    let revision = meta.labels.as_ref()?.get(names::REVISION)?;
    if has_ended(pod) {
        return None;
    }
    let phase = phase(pod);
    let trouble = match phase {
        Phase::Ready | Phase::Terminating => None,
        Phase::Pending | Phase::Starting | Phase::Unready | Phase::Unheard => trouble(pod),
    };
    Some(Replica {
        id: EndpointId(meta.uid.clone()?),
        revision: RevisionId(revision.clone()),
        phase,
        address: pod.status.pod_ip.as_deref().map(address),
        created: meta.creation_timestamp.as_ref()?.0,
        ready_since: since(pod).filter(|_| matches!(phase, Phase::Ready | Phase::Unheard)),
        restarts: restarts(&[], pod),
        said: Default::default(),
        trouble,
    })
}

/// Whether all containers have ended for good.
pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

fn address(ip: &str) -> String {
    let port = names::DATA_PORT.1;
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// When readiness last changed.
fn since(pod: &Pod) -> Option<Timestamp> {
    Some(condition(&pod.status.conditions, "Ready")?.last_transition_time.as_ref()?.0)
}

fn phase(pod: &Pod) -> Phase {
    if pod.metadata.deletion_timestamp.is_some() {
        return Phase::Terminating;
    }
    if condition(&pod.status.conditions, "Ready").is_some_and(|ready| ready.status == "True") {
        return Phase::Ready;
    }
    if is_unheard(pod) {
        return Phase::Unheard;
    }
    // The condition is False from the kubelet's first word on, and its time moves only when it changes: a time later
    // than that first word means that it was True in between.
    let began = pod.status.start_time.as_ref().map(|time| time.0 + BREATH);
    if since(pod).zip(began).is_some_and(|(since, began)| since > began) {
        return Phase::Unready;
    }
    let started = |status: &ContainerStatus| {
        status.state.waiting.is_none() && status.state != super::types::State::default()
            || status.last_state.terminated.is_some()
    };
    if engine(pod).is_some_and(started) { Phase::Starting } else { Phase::Pending }
}

/// What the engine's container does.
pub(super) fn engine(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.container_statuses.iter().find(|status| status.name == names::ENGINE_CONTAINER)
}

/// When the engine restarted, newest last, the last sixteen: those that were known before and what this pod adds. A
/// restart counts from the end of the run before it.
///
/// A pod tells how often, and of the newest alone when. So whoever watches keeps what this returned for the same pod
/// and passes it again. Who begins (a new leader) puts those that it did not see evenly between the pod's start and
/// the newest. What a node did (a reboot, an eviction), and the end of a pod that leaves, is no restart of the engine's.
pub fn restarts(previous: &[Timestamp], pod: &Pod) -> Vec<Timestamp> {
    let mut known = previous.to_vec();
    let leaves = pod.metadata.deletion_timestamp.is_some() || has_ended(pod);
    let Some(engine) = engine(pod).filter(|_| !leaves) else { return known };
    let now = engine.state.terminated.as_ref();
    let last = now.or(engine.last_state.terminated.as_ref());
    let Some(last) = last.filter(|last| !is_nodes_fault(last)) else { return known };
    let Some(newest) = last.finished_at.as_ref().map(|time| time.0) else { return known };
    if known.last().is_some_and(|known| *known >= newest) {
        return known;
    }
    if let (true, Some(start)) = (known.is_empty(), pod.status.start_time.as_ref()) {
        // While it doesn't run, its last end is not among the restarts yet.
        let ended = i32::from(engine.state.running.is_none());
        known = spread(start.0, newest, engine.restart_count.saturating_add(ended));
    }
    known.push(newest);
    let surplus = known.len().saturating_sub(MOST_RESTARTS);
    known.drain(..surplus);
    known
}

/// The times of all but the newest of `count` restarts, when only the newest's is known.
fn spread(start: Timestamp, newest: Timestamp, count: i32) -> Vec<Timestamp> {
    let lifetime = newest.duration_since(start);
    let first = (count - MOST_RESTARTS as i32 + 1).max(1);
    (first..count).filter_map(|n| start.checked_add(lifetime * n / count).ok()).collect()
}
