//! What in a template is in the sidecar's way: names, ports, paths, hooks that it needs itself.

use super::{Sidecar, parts};
use crate::names;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, PodSpec};
use outrigger_wire::Mistake;

/// Everything that is in the way, with its path from the template's root.
pub(super) fn find(spec: &PodSpec, engine: &str, sidecar: &Sidecar) -> Vec<Mistake> {
    let mut found = Vec::new();
    pod(spec, sidecar, &mut found);
    for (list, containers) in lists(spec) {
        for (i, container) in containers.iter().enumerate() {
            let path = format!("spec.{list}[{i}]");
            name(container, &path, &mut found);
            ports(container, &path, sidecar, &mut found);
        }
    }
    let engines = spec.containers.iter().enumerate().filter(|(_, container)| container.name == engine);
    let mut none = true;
    for (i, container) in engines {
        none = false;
        self::engine(container, &format!("spec.containers[{i}]"), sidecar, &mut found);
    }
    if none {
        let names: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
        let message = format!(
            "there is no container `{engine}` to stand beside; containers here: {}",
            names.join(", ")
        );
        found.push(Mistake::new("spec.containers", message));
    }
    found
}

fn lists(spec: &PodSpec) -> [(&'static str, &[Container]); 2] {
    [
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", &spec.containers),
    ]
}

fn pod(spec: &PodSpec, sidecar: &Sidecar, found: &mut Vec<Mistake>) {
    if spec.host_network == Some(true) {
        let message = "true is not allowed: on the node's network the engine would be reachable past the sidecar, and \
                       two pods of one node would want the same ports; leave it out";
        found.push(Mistake::new("spec.hostNetwork", message));
    }
    if spec.restart_policy.as_deref().is_some_and(|policy| policy != "Always") {
        let message = format!(
            "{} is not allowed: an engine that was healed by a restart has to come back; allowed: Always",
            spec.restart_policy.as_deref().unwrap_or_default()
        );
        found.push(Mistake::new("spec.restartPolicy", message));
    }
    if sidecar.owned() && spec.termination_grace_period_seconds.is_some() {
        let message = "this is made of spec.serving.maxDrain (and 30s); set that instead";
        found.push(Mistake::new("spec.terminationGracePeriodSeconds", message));
    }
    for (i, volume) in spec.volumes.as_deref().unwrap_or_default().iter().enumerate() {
        if parts::VOLUMES.contains(&volume.name.as_str()) {
            let message = format!("`{}` is the sidecar's volume; use another name", volume.name);
            found.push(Mistake::new(format!("spec.volumes[{i}].name"), message));
        }
    }
}

fn name(container: &Container, path: &str, found: &mut Vec<Mistake>) {
    if container.name == names::SIDECAR_CONTAINER {
        let message = format!("`{}` is the sidecar's own name; use another one", container.name);
        found.push(Mistake::new(format!("{path}.name"), message));
    }
}

/// All containers of a pod share their ports, and a name must lead to one of them.
fn ports(container: &Container, path: &str, sidecar: &Sidecar, found: &mut Vec<Mistake>) {
    let (listen, admin) = (&sidecar.listen, names::ADMIN_PORT);
    for (i, port) in container.ports.as_deref().unwrap_or_default().iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        let number = port.container_port;
        if number == i32::from(listen.1) || number == i32::from(admin.1) {
            let message =
                format!("{number} is the sidecar's port ({} and {}); use another one", listen.1, admin.1);
            found.push(Mistake::new(format!("{path}.containerPort"), message));
        }
        if let Some(name) = port.name.as_deref().filter(|name| *name == listen.0 || *name == admin.0) {
            let message = format!("`{name}` is the name of a port of the sidecar; use another one");
            found.push(Mistake::new(format!("{path}.name"), message));
        }
    }
}

fn engine(container: &Container, path: &str, sidecar: &Sidecar, found: &mut Vec<Mistake>) {
    if [sidecar.listen.1, names::ADMIN_PORT.1].contains(&sidecar.engine_port) {
        let message = format!(
            "the engine's port {} is the sidecar's ({} and {}); let the engine listen on another one",
            sidecar.engine_port,
            sidecar.listen.1,
            names::ADMIN_PORT.1
        );
        found.push(Mistake::new(format!("{path}.ports"), message));
    }
    if let Some(policy) = container.restart_policy.as_deref().filter(|policy| *policy != "Always") {
        let message =
            format!("{policy} is not allowed: an engine that was healed by a restart has to come back");
        found.push(Mistake::new(format!("{path}.restartPolicy"), message));
    }
    for (i, mount) in container.volume_mounts.as_deref().unwrap_or_default().iter().enumerate() {
        let at = mount.mount_path.trim_end_matches('/');
        if at == names::SHARED_DIR || at.starts_with("/outrigger/") {
            let message =
                format!("`{}` is where the sidecar's helper lies; mount it elsewhere", mount.mount_path);
            found.push(Mistake::new(format!("{path}.volumeMounts[{i}].mountPath"), message));
        }
    }
    if container.liveness_probe.is_some() && sidecar.owned() {
        let message = "not allowed: the sidecar decides when the engine is stuck, by its progress (serving.health); \
                       leave it out. A startupProbe is kept";
        found.push(Mistake::new(format!("{path}.livenessProbe"), message));
    }
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if hook.is_some_and(|hook| sidecar.owned() || !only_sleeps(hook)) {
        let message = "not allowed: this hook is where the engine waits until its last stream has ended \
                       (serving.maxDrain); leave it out, or do it when the engine is told to stop (SIGTERM)";
        found.push(Mistake::new(format!("{path}.lifecycle.preStop"), message));
    }
}

/// A hook that only waits: for that a hook that waits for the last stream is a full replacement.
fn only_sleeps(hook: &LifecycleHandler) -> bool {
    if hook.sleep.is_some() {
        return true;
    }
    let command = hook.exec.as_ref().and_then(|exec| exec.command.as_deref()).unwrap_or_default();
    let words: Vec<&str> = command.iter().flat_map(|part| part.split_whitespace()).collect();
    let words = match words.as_slice() {
        [shell, "-c", rest @ ..] if shell.ends_with("sh") => rest,
        all => all,
    };
    matches!(words, [sleep, time] if sleep.rsplit('/').next() == Some("sleep") && time.parse::<f64>().is_ok())
}
