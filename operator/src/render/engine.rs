//! The engine's container, from the fields of the resource.

use crate::names;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, ResourceClaim, ResourceRequirements, SeccompProfile,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use outrigger_crds::{Engine, Resources};
use outrigger_plan::revision;
use outrigger_wire::EngineKind;
use std::collections::BTreeMap;

/// The pod's loopback: from outside, an engine is reached through its sidecar alone.
const LOOPBACK: &str = "127.0.0.1";

/// The container before the user's template is merged into it.
pub(super) fn base(engine: &Engine) -> Container {
    let port = revision::http_port(engine);
    let filled = engine.args.iter().map(|arg| arg.replace("{httpPort}", &port.to_string()));
    let args: Vec<String> = filled.collect();
    Container {
        name: names::ENGINE_CONTAINER.to_owned(),
        image: engine.image.clone(),
        args: (!args.is_empty()).then_some(args),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: i32::from(port),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: engine.resources.as_ref().filter(|resources| !resources.is_empty()).map(requirements),
        ..Container::default()
    }
}

fn requirements(resources: &Resources) -> ResourceRequirements {
    let amounts = |all: &BTreeMap<String, outrigger_crds::Quantity>| {
        let amounts = all.iter().map(|(name, amount)| (name.clone(), Quantity(amount.0.clone())));
        (!all.is_empty()).then(|| amounts.collect())
    };
    let claims = resources.claims.iter();
    let claims =
        claims.map(|claim| ResourceClaim { name: claim.name.clone(), request: claim.request.clone() });
    ResourceRequirements {
        limits: amounts(&resources.limits),
        requests: amounts(&resources.requests),
        claims: (!resources.claims.is_empty()).then(|| claims.collect()),
    }
}

/// What the user left open, after the merge.
pub(super) fn complete(container: &mut Container, engine: &Engine) {
    let port = revision::http_port(engine);
    match engine.kind.unwrap_or_default() {
        EngineKind::VLlm => vllm(container, port),
        EngineKind::MLServer => mlserver(container, port),
        EngineKind::Custom => {}
    }
    confine(container.security_context.get_or_insert_default());
}

/// vLLM listens where its arguments say. A shell takes them for its own.
fn vllm(container: &mut Container, port: u16) {
    let program = container.command.as_ref().and_then(|command| command.first());
    if program.is_some_and(|program| program.rsplit('/').next().is_some_and(|name| name.ends_with("sh"))) {
        return;
    }
    let args = container.args.get_or_insert_default();
    for (flag, value) in [("--host", LOOPBACK.to_owned()), ("--port", port.to_string())] {
        let given =
            |arg: &String| arg == flag || arg.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='));
        if !args.iter().any(given) {
            args.push(format!("{flag}={value}"));
        }
    }
}

/// MLServer listens where its environment says.
fn mlserver(container: &mut Container, port: u16) {
    let env = container.env.get_or_insert_default();
    for (name, value) in [("MLSERVER_HOST", LOOPBACK.to_owned()), ("MLSERVER_HTTP_PORT", port.to_string())] {
        if !env.iter().any(|var| var.name == name) {
            env.push(EnvVar { name: name.to_owned(), value: Some(value), value_from: None });
        }
    }
}

/// What no engine needs and every attacker likes is taken away, unless the template says otherwise: an image that
/// runs as root still does, and finds its files, which belong to root.
fn confine(context: &mut SecurityContext) {
    let privileged = context.privileged == Some(true);
    let add = context.capabilities.as_ref().and_then(|all| all.add.as_deref()).unwrap_or_default();
    let administers = add.iter().any(|name| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN" | "ALL"));
    // Kubernetes refuses to bring these together with a ban on gaining privileges.
    if !privileged && !administers {
        context.allow_privilege_escalation.get_or_insert(false);
    }
    if privileged {
        return;
    }
    context
        .capabilities
        .get_or_insert_with(Capabilities::default)
        .drop
        .get_or_insert_with(|| vec!["ALL".to_owned()]);
    context.seccomp_profile.get_or_insert_with(|| SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        localhost_profile: None,
    });
}
