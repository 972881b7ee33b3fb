//! `spec.engine.podTemplate`: a part of a pod template that Kubernetes knows, that goes together with the sidecar, and
//! that says nothing that another field says.

use super::{Found, key};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_crds::Engine;
use outrigger_wire::{EngineKind, document};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The engine's container.
const ENGINE: &str = "engine";
/// The sidecar's container, and the first of its volumes.
const SIDECAR: &str = "outrigger";
/// What begins like this names a volume of the sidecar, or a port.
const RESERVED: &str = "outrigger-";
/// The sidecar's ports.
const PORTS: [u16; 2] = [9000, 9001];
/// Where the sidecar's helper lies.
const SHARED: &str = "/outrigger";
/// Where the template stands.
const AT: &str = "spec.engine.podTemplate";

/// Whether the sidecar needs this port for itself.
pub(super) fn is_sidecars(port: u16) -> bool {
    PORTS.contains(&port)
}

pub(super) fn template(engine: &Engine, found: &mut Found) {
    let Some(template) = &engine.pod_template else { return };
    let before = found.0.len();
    directives(&template.0, AT, found);
    if found.0.len() > before {
        return;
    }
    let read = document::fit::<PodTemplateSpec>(&Value::Object(template.0.clone()), AT);
    let template = match read {
        Ok(template) => template,
        Err(mistakes) => return found.0.extend(mistakes),
    };
    if let Some(metadata) = &template.metadata {
        self::metadata(metadata, found);
    }
    if let Some(spec) = &template.spec {
        pod(spec, found);
        containers(spec, engine, found);
        volumes(spec, found);
    }
}

/// `$patch: delete` and its like change how a patch is merged; here nothing is left to delete.
fn directives(map: &Map<String, Value>, at: &str, found: &mut Found) {
    for (name, value) in map {
        let path = format!("{at}.{name}");
        if name.starts_with('$') {
            let message = format!(
                "`{name}` is a directive of a patch, which isn't followed here; write what the pod is to have instead"
            );
            found.add(path, message);
            continue;
        }
        match value {
            Value::Object(below) => directives(below, &path, found),
            Value::Array(list) => {
                for (i, item) in list.iter().enumerate() {
                    if let Value::Object(below) = item {
                        directives(below, &format!("{path}[{i}]"), found);
                    }
                }
            }
            _ => {}
        }
    }
}

fn metadata(metadata: &ObjectMeta, found: &mut Found) {
    let at = format!("{AT}.metadata");
    let set = [
        ("name", metadata.name.is_some()),
        ("generateName", metadata.generate_name.is_some()),
        ("namespace", metadata.namespace.is_some()),
        ("ownerReferences", metadata.owner_references.is_some()),
        ("uid", metadata.uid.is_some()),
        ("resourceVersion", metadata.resource_version.is_some()),
    ];
    for (name, _) in set.into_iter().filter(|(_, set)| *set) {
        let message =
            "not allowed: Kubernetes gives it to each pod; allowed here: labels, annotations, finalizers";
        found.add(format!("{at}.{name}"), message);
    }
    let reserved = |name: &str| {
        name.starts_with("outrigger.dev/")
            || ["app.kubernetes.io/name", "app.kubernetes.io/managed-by"].contains(&name)
    };
    for name in metadata.labels.iter().flatten().map(|(name, _)| name).filter(|name| reserved(name)) {
        found.add(
            key(&format!("{at}.labels"), name),
            format!("`{name}` is set by Outrigger; use another label"),
        );
    }
}

fn pod(spec: &PodSpec, found: &mut Found) {
    let at = format!("{AT}.spec");
    if spec.host_network == Some(true) {
        found.add(
            format!("{at}.hostNetwork"),
            "true is not allowed: on the node's network the engine would be reachable past the sidecar; leave it out",
        );
    }
    if let Some(policy) = spec.restart_policy.as_deref().filter(|policy| *policy != "Always") {
        let message =
            format!("{policy} is not allowed: an engine that ended has to come back; allowed: Always");
        found.add(format!("{at}.restartPolicy"), message);
    }
    if spec.termination_grace_period_seconds.is_some() {
        let message = "not allowed: it is made of spec.serving.maxDrain (and 30s); set that instead";
        found.add(format!("{at}.terminationGracePeriodSeconds"), message);
    }
    if spec.active_deadline_seconds.is_some() {
        found.add(
            format!("{at}.activeDeadlineSeconds"),
            "not allowed: replicas run until they are no longer wanted",
        );
    }
    if spec.ephemeral_containers.is_some() {
        let message = "not allowed in a template; `kubectl debug` adds one to a pod";
        found.add(format!("{at}.ephemeralContainers"), message);
    }
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        found.add(
            format!("{at}.os.name"),
            format!("`{}` is not known to the sidecar; allowed: linux", os.name),
        );
    }
}

fn containers(spec: &PodSpec, engine: &Engine, found: &mut Found) {
    let mut names = BTreeSet::new();
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("initContainers", inits), ("containers", spec.containers.as_slice())] {
        for (i, container) in containers.iter().enumerate() {
            let path = format!("{AT}.spec.{list}[{i}]");
            let name = container.name.as_str();
            if name.is_empty() {
                found.add(format!("{path}.name"), "this field is required and missing");
            } else if name == SIDECAR || name.starts_with(RESERVED) {
                let message = format!("`{name}` is kept for the sidecar; use another name");
                found.add(format!("{path}.name"), message);
            } else if !names.insert(name) {
                found.add(
                    format!("{path}.name"),
                    format!("`{name}` stands here a second time; expected: each once"),
                );
            } else if name == ENGINE && list == "initContainers" {
                found.add(
                    format!("{path}.name"),
                    "`engine` is the engine's container, which is no init container",
                );
            }
            ports(container, &path, found);
            mounts(container, spec, &path, found);
            if name == ENGINE && list == "containers" {
                self::engine(container, engine, &path, found);
            } else if container.image.as_deref().unwrap_or_default().is_empty() && !name.is_empty() {
                let hint =
                    if list == "containers" { "; the engine's container is named `engine`" } else { "" };
                found.add(format!("{path}.image"), format!("this field is required and missing{hint}"));
            }
        }
    }
}

fn ports(container: &Container, path: &str, found: &mut Found) {
    for (i, port) in container.ports.as_deref().unwrap_or_default().iter().enumerate() {
        if PORTS.iter().any(|own| i32::from(*own) == port.container_port) {
            let message =
                format!("{} is the sidecar's port; allowed: any but 9000 and 9001", port.container_port);
            found.add(format!("{path}.ports[{i}].containerPort"), message);
        }
        if let Some(name) = port.name.as_deref().filter(|name| *name == SIDECAR || name.starts_with(RESERVED))
        {
            let message = format!("`{name}` names a port of the sidecar; use another name");
            found.add(format!("{path}.ports[{i}].name"), message);
        }
    }
}

fn mounts(container: &Container, spec: &PodSpec, path: &str, found: &mut Found) {
    let volumes: Vec<&str> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    for (i, mount) in container.volume_mounts.as_deref().unwrap_or_default().iter().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        if !volumes.contains(&mount.name.as_str()) {
            let shown = if volumes.is_empty() { "none".to_owned() } else { volumes.join(", ") };
            let message =
                format!("`{}` is no volume of engine.podTemplate.spec.volumes: {shown}", mount.name);
            found.add(format!("{path}.name"), message);
        }
        let at = mount.mount_path.trim_end_matches('/');
        if container.name == ENGINE && (at == SHARED || at.starts_with("/outrigger/")) {
            let message =
                format!("`{}` is where the sidecar's helper lies; mount it elsewhere", mount.mount_path);
            found.add(format!("{path}.mountPath"), message);
        }
    }
}

fn volumes(spec: &PodSpec, found: &mut Found) {
    let mut names = BTreeSet::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("{AT}.spec.volumes[{i}].name");
        let name = volume.name.as_str();
        if name.is_empty() {
            found.add(path, "this field is required and missing");
        } else if name == SIDECAR || name.starts_with(RESERVED) {
            found.add(path, format!("`{name}` is kept for the sidecar; use another name"));
        } else if !names.insert(name) {
            found.add(path, format!("`{name}` stands here a second time; expected: each once"));
        }
    }
}

fn engine(container: &Container, engine: &Engine, path: &str, found: &mut Found) {
    for (field, set) in [("image", container.image.is_some()), ("args", container.args.is_some())] {
        if set {
            found.add(
                format!("{path}.{field}"),
                format!("not allowed: the engine's stands in spec.engine.{field}"),
            );
        }
    }
    if container.liveness_probe.is_some() {
        let message = "not allowed: the sidecar decides when the engine is stuck, by its progress \
                       (spec.serving.health); leave it out, a startupProbe is kept";
        found.add(format!("{path}.livenessProbe"), message);
    }
    if container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some()) {
        let message = "not allowed: there the engine waits until its last stream has ended (spec.serving.maxDrain); \
                       leave it out, or do it when the engine is told to stop (SIGTERM)";
        found.add(format!("{path}.lifecycle.preStop"), message);
    }
    if let Some(policy) = container.restart_policy.as_deref().filter(|policy| *policy != "Always") {
        let message = format!("{policy} is not allowed: an engine that ended has to come back; leave it out");
        found.add(format!("{path}.restartPolicy"), message);
    }
    let kind = engine.kind.unwrap_or_default();
    for (field, probe) in
        [("startupProbe", &container.startup_probe), ("readinessProbe", &container.readiness_probe)]
    {
        if kind != EngineKind::Custom && probe.as_ref().is_some_and(over_network) {
            let message = format!(
                "a probe over the network is not allowed for engine.kind {}, which listens where only its pod reaches \
                 it; allowed: exec (the sidecar asks for a real answer before the pod is ready)",
                kind.as_str()
            );
            found.add(format!("{path}.{field}"), message);
        }
    }
}

fn over_network(probe: &Probe) -> bool {
    probe.http_get.is_some() || probe.tcp_socket.is_some() || probe.grpc.is_some()
}
