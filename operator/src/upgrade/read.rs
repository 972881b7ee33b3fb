//! What the API server shows of pods, as the decision needs it.

use super::mark::{GIVEN, PRE_PULL};
use super::{PodImage, Pull, Pulled};
use crate::names;
use crate::observe::Pod;
use crate::observe::types::{Condition, ContainerStatus};
use jiff::{SignedDuration, Timestamp};

/// How long a pull may fail before that is believed: a registry's hiccup is over sooner.
const HICCUP: SignedDuration = SignedDuration::from_secs(30);

/// A pod with a sidecar; `None` for pods without one, and for those that have ended.
pub fn pod_image(pod: &Pod) -> Option<PodImage> {
    let sidecar = pod.spec.init_containers.iter().find(|c| c.name == names::SIDECAR_CONTAINER)?;
    if matches!(pod.status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return None;
    }
    let meta = &pod.metadata;
    let (namespace, name) = (meta.namespace.clone()?, meta.name.clone()?);
    let status = pod.status.init_container_statuses.iter().find(|c| c.name == names::SIDECAR_CONTAINER);
    let owner = label(pod, names::DEPLOYMENT).or_else(|| controller(pod)).unwrap_or_else(|| name.clone());
    Some(PodImage {
        deployment: format!("{namespace}/{owner}"),
        uid: meta.uid.clone()?,
        node: pod.spec.node_name.clone(),
        image: sidecar.image.clone()?,
        given: label(pod, GIVEN),
        ready_since: ready_since(&pod.status.conditions),
        restarts: status.map_or(0, |status| status.restart_count),
        waiting: status.and_then(waiting),
        ended: status.and_then(ended),
        terminating: meta.deletion_timestamp.is_some(),
        namespace,
        name,
    })
}

fn label(pod: &Pod, name: &str) -> Option<String> {
    pod.metadata.labels.as_ref()?.get(name).cloned()
}

/// What makes such pods: others of it serve while one is away.
fn controller(pod: &Pod) -> Option<String> {
    let owners = pod.metadata.owner_references.as_ref()?;
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    Some(format!("{}/{}", owner.kind, owner.name))
}

/// When a container ended that neither runs nor waits.
fn ended(status: &ContainerStatus) -> Option<Timestamp> {
    let ended = status.state.terminated.as_ref().filter(|_| status.state.waiting.is_none())?;
    ended.finished_at.as_ref().map(|time| time.0)
}

fn ready_since(conditions: &[Condition]) -> Option<Timestamp> {
    let ready =
        conditions.iter().find(|condition| condition.kind == "Ready" && condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

fn waiting(status: &ContainerStatus) -> Option<(String, String)> {
    let waiting = status.state.waiting.as_ref()?;
    Some((waiting.reason.clone().unwrap_or_default(), waiting.message.clone().unwrap_or_default()))
}

/// A pod that brings an image to its node, and that node.
pub fn pull(pod: &Pod, now: Timestamp) -> Option<(String, Pull)> {
    let since = pod.metadata.creation_timestamp.as_ref()?.0;
    let waits = pod.status.container_statuses.first().and_then(waiting);
    let state = match (pod.status.phase.as_deref(), waits) {
        (Some("Succeeded"), _) => Pulled::Here,
        (Some("Failed"), _) => Pulled::Failed(why(pod)),
        (_, Some((reason, message))) if is_pull(&reason) && now.duration_since(since) >= HICCUP => {
            Pulled::Failed(format!("{reason}: {message}"))
        }
        _ => Pulled::Waiting,
    };
    Some((pod.spec.node_name.clone()?, Pull { brings: label(pod, PRE_PULL)?, since, state }))
}

fn is_pull(reason: &str) -> bool {
    matches!(reason, "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName")
}

/// Why such a pod failed: the kubelet's word, or the program's end.
fn why(pod: &Pod) -> String {
    let ended = pod.status.container_statuses.first().and_then(|status| status.state.terminated.as_ref());
    let program = ended.map(|ended| {
        let words = ended.message.clone().or_else(|| ended.reason.clone()).unwrap_or_default();
        format!("its helper ended with code {}: {words}", ended.exit_code)
    });
    program
        .or_else(|| pod.status.message.clone())
        .or_else(|| pod.status.reason.clone())
        .unwrap_or_else(|| "the pod that brings it failed".to_owned())
}
