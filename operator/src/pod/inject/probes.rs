//! What becomes of the engine's probes and hooks when the sidecar takes its port.
//!
//! A probe that asks the moved port would ask the sidecar, and a sidecar that is away would fail it: for liveness and
//! startup that kills an engine in which nothing is wrong. So liveness becomes the helper's, which fails on the
//! sidecar's explicit word alone; startup is dropped, because nothing may be killed for loading slowly, and the
//! sidecar's readiness shows until when it loads.

use super::choose::Engine;
use super::{PRE_STOP, Reason, Refusal, annotation};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What the sidecar's own would replace and must not.
#[derive(Debug, Default)]
pub(super) struct Kept {
    liveness: Option<Probe>,
    pre_stop: Option<LifecycleHandler>,
}

impl Kept {
    /// Puts it back, the sidecar being there.
    pub(super) fn put_back(self, container: &mut Container) {
        if self.liveness.is_some() {
            container.liveness_probe = self.liveness;
        }
        if self.pre_stop.is_some() {
            container.lifecycle.get_or_insert_default().pre_stop = self.pre_stop;
        }
    }
}

/// Adapts probes and hooks of the engine, whose port moves away (`known`) or only loses its name.
pub(super) fn adapt(
    container: &mut Container,
    pod: &Pod,
    engine: &Engine,
    known: bool,
    warnings: &mut Vec<String>,
) -> Result<Kept, Refusal> {
    plain_http(container, engine)?;
    let mut kept = Kept::default();
    if let Some(liveness) = container.liveness_probe.take() {
        let elsewhere = asked(&liveness).is_some_and(|port| !is(port, engine));
        if elsewhere {
            kept.liveness = Some(liveness);
            warnings.push(
                "the engine's livenessProbe asks another port and is kept; Outrigger won't restart the engine when \
                 it is stuck"
                    .to_owned(),
            );
        }
    }
    for (name, probe) in
        [("readinessProbe", &mut container.readiness_probe), ("startupProbe", &mut container.startup_probe)]
    {
        if known && probe.as_ref().is_some_and(|probe| asks_moved(probe, engine)) {
            *probe = None;
            if name == "startupProbe" {
                warnings.push(
                    "the engine's startupProbe is dropped: the sidecar sees when it is loaded, and the pod is ready \
                     then"
                    .to_owned(),
                );
            }
        } else if let Some(probe) = probe {
            by_number(probe, engine);
        }
    }
    hooks(container, pod, engine, known, &mut kept)?;
    Ok(kept)
}

/// The port that a probe asks over the network.
fn asked(probe: &Probe) -> Option<IntOrString> {
    let http = probe.http_get.as_ref().map(|http| http.port.clone());
    let tcp = probe.tcp_socket.as_ref().map(|tcp| tcp.port.clone());
    let grpc = probe.grpc.as_ref().map(|grpc| IntOrString::Int(grpc.port));
    http.or(tcp).or(grpc)
}

fn is(port: IntOrString, engine: &Engine) -> bool {
    match port {
        IntOrString::Int(number) => number == i32::from(engine.port.number),
        IntOrString::String(name) => {
            Some(&name) == engine.port.name.as_ref() || name == engine.port.number.to_string()
        }
    }
}

/// Whether a probe asks the moved port: over the network, or by a command in which its number stands.
fn asks_moved(probe: &Probe, engine: &Engine) -> bool {
    let number = engine.port.number.to_string();
    let words = probe.exec.as_ref().and_then(|exec| exec.command.as_deref()).unwrap_or_default();
    asked(probe).is_some_and(|port| is(port, engine))
        || words.iter().any(|word| word.split(|c: char| !c.is_ascii_digit()).any(|digits| digits == number))
}

/// A name that has left the container means nothing to its probes any more; the number still does.
fn by_number(probe: &mut Probe, engine: &Engine) {
    let number = IntOrString::Int(i32::from(engine.port.number));
    if let Some(http) = probe.http_get.as_mut().filter(|http| is(http.port.clone(), engine)) {
        http.port = number.clone();
    }
    if let Some(tcp) = probe.tcp_socket.as_mut().filter(|tcp| is(tcp.port.clone(), engine)) {
        tcp.port = number;
    }
}

/// A probe over HTTPS says that the engine speaks TLS, which the sidecar doesn't.
fn plain_http(container: &Container, engine: &Engine) -> Result<(), Refusal> {
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (name, probe) in probes {
        let http = probe.as_ref().and_then(|probe| probe.http_get.as_ref());
        let tls =
            http.filter(|http| http.scheme.as_deref() == Some("HTTPS") && is(http.port.clone(), engine));
        if tls.is_some() {
            let message =
                "HTTPS: the sidecar speaks plain HTTP with the engine; let the engine do so on this port";
            let path = format!("{}.{name}.httpGet.scheme", engine.path());
            return Err(Refusal::new(Reason::Probes, path, message));
        }
    }
    Ok(())
}

fn hooks(
    container: &mut Container,
    pod: &Pod,
    engine: &Engine,
    known: bool,
    kept: &mut Kept,
) -> Result<(), Refusal> {
    let keep = match annotation(pod, PRE_STOP) {
        None => false,
        Some("keep") => true,
        Some(other) => {
            let message = format!("`{other}` is not known; allowed: keep");
            return Err(Refusal::new(
                Reason::Annotation,
                format!("metadata.annotations[{PRE_STOP}]"),
                message,
            ));
        }
    };
    let path = format!("{}.lifecycle", engine.path());
    let Some(lifecycle) = container.lifecycle.as_mut() else { return Ok(()) };
    if let Some(hook) = lifecycle.post_start.as_mut() {
        hook_by_number(hook, engine, known, &format!("{path}.postStart"))?;
    }
    // Without `keep` it is replaced where it only sleeps, and refused otherwise: by who adds the sidecar.
    if let Some(mut hook) = lifecycle.pre_stop.take_if(|_| keep) {
        hook_by_number(&mut hook, engine, known, &format!("{path}.preStop"))?;
        kept.pre_stop = Some(hook);
    }
    Ok(())
}

/// A hook of the engine that asks its port: possible where the engine keeps the number.
fn hook_by_number(
    hook: &mut LifecycleHandler,
    engine: &Engine,
    known: bool,
    path: &str,
) -> Result<(), Refusal> {
    let Some(http) = hook.http_get.as_mut().filter(|http| is(http.port.clone(), engine)) else {
        return Ok(());
    };
    if known {
        let message = "it asks the port that moves to the sidecar; leave it out, or use an exec hook";
        return Err(Refusal::new(Reason::Probes, path, message));
    }
    http.port = IntOrString::Int(i32::from(engine.port.number));
    Ok(())
}
