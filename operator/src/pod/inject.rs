//! Puts the sidecar before an engine whose pod nobody owns: which container it is, whose port moves where, what
//! becomes of its probes. Pure; what can't be intercepted is refused in words.
//!
//! `docs/injection.md` says all of it to those who set the label; whatever is not named there stays as it was.

mod arguments;
mod choose;
mod probes;
mod shell;

#[cfg(test)]
mod tests;

use super::{Sidecar, add_sidecar, is_ours};
use crate::names;
use crate::render::Installation;
use choose::Engine;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec, PodTemplateSpec};
use outrigger_wire::serving::MaxDrain;
use outrigger_wire::{EngineKind, Mistake};
use std::collections::BTreeSet;
use std::fmt;

/// Annotation: the engine's container, where there are several.
pub const CONTAINER: &str = "outrigger.dev/container";
/// Annotation: the engine's kind, where its image doesn't tell.
pub const ENGINE_KIND: &str = "outrigger.dev/engine-kind";
/// Annotation: the port that callers use, by name or number.
pub const PORT: &str = "outrigger.dev/port";
/// Annotation: the model's name as the engine knows it; the first that it lists when absent.
pub const MODEL: &str = "outrigger.dev/model";
/// Annotation: `keep` keeps the engine's own preStop hook, and the engine then waits for no stream.
pub const PRE_STOP: &str = "outrigger.dev/pre-stop";
/// All annotations that mean something on a labelled pod.
const ANNOTATIONS: [&str; 5] = [CONTAINER, ENGINE_KIND, PORT, MODEL, PRE_STOP];

/// Where an engine that is moved aside listens: the first of these that stands nowhere in the pod. Below the ports
/// that Linux gives to outgoing connections.
const ASIDE: std::ops::Range<u16> = 18000..19000;
/// Where the sidecar of a custom engine listens, when its usual port stands somewhere in the pod.
const BESIDE: std::ops::Range<u16> = 9002..9900;

/// What a refusal is about; a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The pod as a whole: its network, its system, names and paths that the sidecar needs.
    Pod,
    /// An annotation's value.
    Annotation,
    /// Which container the engine is.
    Container,
    /// Which port callers use, or how it could be had.
    Port,
    /// The engine's command line or environment.
    Arguments,
    /// Probes and hooks.
    Probes,
}

impl Reason {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Annotation => "annotation",
            Self::Container => "container",
            Self::Port => "port",
            Self::Arguments => "arguments",
            Self::Probes => "probes",
        }
    }
}

/// Why a pod can't be given a sidecar, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is about.
    pub reason: Reason,
    /// Field, value, what is allowed; one at least.
    pub mistakes: Vec<Mistake>,
}

impl Refusal {
    fn new(reason: Reason, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason, mistakes: vec![Mistake::new(path, message)] }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.mistakes.iter().enumerate() {
            write!(f, "{}{mistake}", if i == 0 { "" } else { "; " })?;
        }
        write!(f, ". Without the label {} the pod starts as it is.", names::INJECT)
    }
}

impl std::error::Error for Refusal {}

/// A pod with its sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The pod as it is to be.
    pub pod: Pod,
    /// What whoever made it should know, each a sentence.
    pub warnings: Vec<String>,
}

/// Gives a labelled pod its sidecar. None: it doesn't ask for one, has one, or is the operator's own affair. Done to
/// its own result it does nothing.
///
/// # Errors
///
/// What can't be intercepted, with what to do instead.
pub fn inject(pod: &Pod, namespace: &str, installation: &Installation) -> Result<Option<Injected>, Refusal> {
    if namespace == installation.namespace || !asks(pod) || owned(pod) {
        return Ok(None);
    }
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.init_containers.iter().flatten().any(is_ours) {
        return Ok(None);
    }
    windows(&spec)?;
    let engine = choose::engine(pod, &spec)?;
    let mut template = PodTemplateSpec { metadata: Some(pod.metadata.clone()), spec: Some(spec) };
    let mut warnings = unknown_annotations(pod);
    stand_before(&mut template, pod, &engine, installation, &mut warnings)?;
    let pod = Pod { spec: template.spec, ..pod.clone() };
    Ok(Some(Injected { pod, warnings }))
}

fn asks(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(names::INJECT)).is_some_and(|v| v == "true")
}

/// Pods that `render` made have their sidecar by it.
fn owned(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let label = |name: &str| labels.and_then(|labels| labels.get(name));
    label(names::DEPLOYMENT).is_some() || label(names::MANAGED_BY).is_some_and(|v| v == names::OUTRIGGER)
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn unknown_annotations(pod: &Pod) -> Vec<String> {
    let all = pod.metadata.annotations.iter().flatten().map(|(name, _)| name.as_str());
    let unknown = all.filter(|name| name.starts_with("outrigger.dev/") && !ANNOTATIONS.contains(name));
    unknown
        .take(8)
        .map(|name| format!("annotation {name} is not known; known: {}", ANNOTATIONS.join(", ")))
        .collect()
}

fn windows(spec: &PodSpec) -> Result<(), Refusal> {
    match &spec.os {
        Some(os) if os.name == "windows" => Err(Refusal::new(
            Reason::Pod,
            "spec.os.name",
            "windows is not allowed; the sidecar runs on linux",
        )),
        _ => Ok(()),
    }
}

/// The engine steps aside and the sidecar takes its place.
fn stand_before(
    template: &mut PodTemplateSpec,
    pod: &Pod,
    engine: &Engine,
    installation: &Installation,
    warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    let numbers = numbers(pod);
    let spec = template.spec.get_or_insert_default();
    let Some(container) = spec.containers.get_mut(engine.index) else { return Ok(()) };
    let known = engine.kind != EngineKind::Custom;
    let kept = probes::adapt(container, pod, engine, known, warnings)?;
    let place =
        if known { step_aside(container, engine, &numbers)? } else { rename(container, engine, &numbers)? };
    if known && place.listen.1 < 1024 {
        warnings.push(format!(
            "the sidecar takes port {}: where the container runtime lets only root listen below 1024, it can't start",
            place.listen.1
        ));
    }
    let sidecar = Sidecar {
        image: installation.sidecar_image.clone(),
        pull_policy: installation.pull_policy.clone(),
        kind: engine.kind,
        model: annotation(pod, MODEL).unwrap_or_default().to_owned(),
        engine_port: place.engine_port,
        listen: place.listen,
        max_drain: MaxDrain::default().0,
        deployment: None,
        table: None,
    };
    let name = container.name.clone();
    add_sidecar(template, &name, &sidecar).map_err(in_the_way)?;
    let spec = template.spec.get_or_insert_default();
    if let Some(container) = spec.containers.get_mut(engine.index) {
        kept.put_back(container);
        if let Some((at, port)) = place.found {
            let ports = container.ports.get_or_insert_default();
            ports.insert(at.min(ports.len()), port);
        }
    }
    Ok(())
}

/// Who listens where.
struct Place {
    /// The sidecar, by name and number.
    listen: (String, u16),
    /// The engine, on the loopback address.
    engine_port: u16,
    /// What stands among the engine's ports, and where: the sidecar's port, by the name that the user gave it. Some
    /// network policies never look for a named port among native sidecars; to whom a port belongs is of no importance
    /// to them.
    found: Option<(usize, ContainerPort)>,
}

/// What the sidecar found in its way, with what is possible here beside.
fn in_the_way(mut mistakes: Vec<Mistake>) -> Refusal {
    let mut reason = Reason::Pod;
    for hook in mistakes.iter_mut().filter(|mistake| mistake.path.ends_with(".lifecycle.preStop")) {
        reason = Reason::Probes;
        hook.message.push_str(&format!("; or keep it and wait for no stream (annotation {PRE_STOP}: keep)"));
    }
    Refusal { reason, mistakes }
}

/// An engine whose command line is known listens elsewhere from now on, and the sidecar where it did.
fn step_aside(container: &mut Container, engine: &Engine, numbers: &BTreeSet<u16>) -> Result<Place, Refusal> {
    let public = engine.port.number;
    let name = engine.port.name.clone().unwrap_or_else(|| names::DATA_PORT.0.to_owned());
    if public == names::ADMIN_PORT.1 || name == names::ADMIN_PORT.0 {
        let message = format!(
            "{public} ({name}) is the sidecar's port for probes ({} {}); let the engine listen on another one",
            names::ADMIN_PORT.0,
            names::ADMIN_PORT.1
        );
        return Err(Refusal::new(Reason::Port, format!("{}.ports", engine.path()), message));
    }
    let aside = free(ASIDE, numbers, engine)?;
    let alone = container.ports.as_ref().is_none_or(|ports| ports.len() <= 1);
    match engine.kind {
        EngineKind::MLServer => arguments::move_mlserver(container, aside, alone),
        _ => arguments::move_vllm(container, &engine.path(), aside)?,
    }
    let ports = container.ports.as_mut();
    let found = engine.port.declared.zip(ports).filter(|(at, ports)| *at < ports.len());
    let found = found.map(|(at, ports)| (at, ports.remove(at)));
    Ok(Place { listen: (name, public), engine_port: aside, found })
}

/// Of an engine whose command line is not known only a port's name can move: whoever looks the name up finds the
/// sidecar, and the engine keeps its number.
fn rename(container: &mut Container, engine: &Engine, numbers: &BTreeSet<u16>) -> Result<Place, Refusal> {
    let unnamed = || {
        let message = format!(
            "{} has no name, and of an engine that is neither vLLM nor MLServer only a port's name can move to the \
             sidecar; name it (`name: http`) and let the Service's targetPort be that name",
            engine.port.number
        );
        Refusal::new(Reason::Port, format!("{}.ports", engine.path()), message)
    };
    let declared = engine.port.declared.ok_or_else(unnamed)?;
    let entry = container.ports.as_mut().and_then(|ports| ports.get_mut(declared)).ok_or_else(unnamed)?;
    let name = entry.name.take().ok_or_else(unnamed)?;
    let usual = names::DATA_PORT.1;
    let listen = if numbers.contains(&usual) { free(BESIDE, numbers, engine)? } else { usual };
    let protocol = entry.protocol.clone();
    let found = ContainerPort {
        name: Some(name.clone()),
        container_port: i32::from(listen),
        protocol,
        ..ContainerPort::default()
    };
    Ok(Place { listen: (name, listen), engine_port: engine.port.number, found: Some((usize::MAX, found)) })
}

fn free(range: std::ops::Range<u16>, numbers: &BTreeSet<u16>, engine: &Engine) -> Result<u16, Refusal> {
    let (first, last) = (range.start, range.end);
    let mut range = range;
    range.find(|port| !numbers.contains(port)).ok_or_else(|| {
        let message = format!("no port from {first} to {last} is free in this pod; use fewer of them");
        Refusal::new(Reason::Port, format!("{}.ports", engine.path()), message)
    })
}

/// Every number that stands anywhere in the pod and could be a port, in arguments and scripts too.
fn numbers(pod: &Pod) -> BTreeSet<u16> {
    let text = serde_json::to_string(&pod.spec).unwrap_or_default();
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}
