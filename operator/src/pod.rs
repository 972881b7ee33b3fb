//! Adds the sidecar to a pod: one pure function, two callers. `render` uses it for pods that the operator owns, the
//! webhook for pods that no ModelDeployment owns.
//!
//! Only the sidecar's image can change in a running pod. Its arguments, environment, ports, probes and hooks are a
//! frozen interface: whatever may change reaches it by the stream.

mod conflicts;
pub mod inject;
mod parts;

use crate::names;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, Volume};
use outrigger_wire::{DeploymentKey, EngineKind, Mistake, Period};

/// What the kubelet waits beyond `maxDrain` before it kills: the hook's own start, the engine's end, the sidecar's.
const GRACE_BEYOND_DRAIN: Period = Period::secs(30);

/// The sidecar of one pod.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Its image.
    pub image: String,
    /// When the image is pulled; Kubernetes' own rule when absent.
    pub pull_policy: Option<String>,
    /// The engine's kind.
    pub kind: EngineKind,
    /// The model's name as the engine knows it; empty where that is not known.
    pub model: String,
    /// Where the engine listens, on the pod's loopback.
    pub engine_port: u16,
    /// Name and number of the port on which it takes requests; [`names::DATA_PORT`] for pods of ours.
    pub listen: (String, u16),
    /// How long what is in flight may take at the pod's end.
    pub max_drain: Period,
    /// Whose pod it is. None: a pod that nobody owns.
    pub deployment: Option<DeploymentKey>,
    /// The operator, `host:port`. None: the sidecar stands alone, without token and certificates.
    pub table: Option<String>,
}

impl Sidecar {
    /// Whether the pod is made by the operator, so that its template can be refused instead of adapted.
    fn owned(&self) -> bool {
        self.deployment.is_some()
    }
}

/// Adds the sidecar beside the container `engine`: a native sidecar as the last init container, so that it starts
/// after whatever else prepares the pod (in its own order) and right before the engine; volumes; the engine's
/// liveness probe and preStop hook; the pod's grace period. Added a second time, it replaces itself.
///
/// In pods that nobody owns the engine's liveness probe, and a preStop hook that only sleeps, are replaced: with the
/// sidecar before it, what they did is done better. The engine's startup and readiness probes stay as they are.
///
/// # Errors
///
/// Whatever in the template is in the way of it, with its path from the template's root. The template is then left
/// as it was.
pub fn add_sidecar(
    template: &mut PodTemplateSpec,
    engine: &str,
    sidecar: &Sidecar,
) -> Result<(), Vec<Mistake>> {
    let mut spec = template.spec.clone().unwrap_or_default();
    remove(&mut spec, engine, sidecar);
    let mistakes = conflicts::find(&spec, engine, sidecar);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let container = parts::container(sidecar, &spec);
    spec.init_containers.get_or_insert_default().push(container);
    spec.volumes.get_or_insert_default().extend(parts::volumes(sidecar));
    for container in spec.containers.iter_mut().filter(|container| container.name == engine) {
        parts::hold(container, sidecar);
    }
    let grace = sidecar.max_drain.get() + GRACE_BEYOND_DRAIN.get();
    let grace = i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
    // A pod that nobody owns may have asked for more.
    let wanted = spec.termination_grace_period_seconds.filter(|_| !sidecar.owned()).unwrap_or_default();
    spec.termination_grace_period_seconds = Some(grace.max(wanted));
    template.spec = Some(spec);
    Ok(())
}

/// Takes a sidecar that was added before out again, so that adding it twice is adding it once.
fn remove(spec: &mut PodSpec, engine: &str, sidecar: &Sidecar) {
    let Some(containers) = spec.init_containers.as_mut() else { return };
    let before = containers.len();
    containers.retain(|container| !is_ours(container));
    if containers.len() == before {
        return;
    }
    if sidecar.owned() {
        spec.termination_grace_period_seconds = None;
    }
    if let Some(volumes) = spec.volumes.as_mut() {
        volumes.retain(|volume| !is_our_volume(volume));
    }
    for container in spec.containers.iter_mut().filter(|container| container.name == engine) {
        parts::release(container);
    }
}

/// A container of our name that was made here, rather than a user's who happened on it: only ours has the socket.
fn is_ours(container: &Container) -> bool {
    let env = container.env.as_deref().unwrap_or_default();
    container.name == names::SIDECAR_CONTAINER
        && env.iter().any(|var| var.name == "OUTRIGGER_SOCKET" && var.value.as_deref() == Some(names::SOCKET))
}

fn is_our_volume(volume: &Volume) -> bool {
    parts::VOLUMES.contains(&volume.name.as_str())
}
