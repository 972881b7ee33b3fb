//! The sidecar's container, its volumes, and what the engine's container gets from it.

use super::Sidecar;
use crate::names;
use crate::observe::nodes::amount;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, ObjectFieldSelector, PodSpec,
    Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The volume of the sidecar's own state.
const STATE: &str = "outrigger-state";
/// The volume of the projected token.
const TOKEN: &str = "outrigger-token";
/// The volume of the certificate authority's bundle.
const CA: &str = names::CA_OBJECT;
/// All of our volumes.
pub(super) const VOLUMES: [&str; 4] = [names::SIDECAR_CONTAINER, STATE, TOKEN, CA];
/// The user that the sidecar runs as, as its image says too.
const USER: i64 = 65532;
/// The helper in the sidecar's image.
const OWN_HELPER: &str = "/outrigger-helper";
/// How long a token is good for, in seconds; the kubelet renews it at four fifths of that.
const TOKEN_SECONDS: i64 = 3600;

/// The sidecar's container.
pub(super) fn container(sidecar: &Sidecar, others: &PodSpec) -> Container {
    let (port, number) = (&sidecar.listen.0, sidecar.listen.1);
    Container {
        name: names::SIDECAR_CONTAINER.to_owned(),
        image: Some(sidecar.image.clone()),
        image_pull_policy: sidecar.pull_policy.clone(),
        restart_policy: Some("Always".to_owned()),
        env: Some(environment(sidecar)),
        ports: Some(vec![self::port(port, number), self::port(names::ADMIN_PORT.0, names::ADMIN_PORT.1)]),
        resources: Some(resources(others)),
        security_context: Some(restricted()),
        // The engine starts when this has succeeded once: the helper lies in its place by then.
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(60),
            ..asks("/livez", 2)
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(2),
            ..asks("/readyz", 2)
        }),
        // A sidecar that is stopped or hangs is restarted after 30 s; it is asked on a thread that load can't reach.
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(3),
            termination_grace_period_seconds: Some(5),
            ..asks("/livez", 5)
        }),
        lifecycle: Some(hook(&[OWN_HELPER, "drain", "--socket", names::SOCKET])),
        volume_mounts: Some(mounts(sidecar)),
        ..Container::default()
    }
}

/// 50m is what an idle sidecar never needs and a busy one is given more than; 32Mi is twice what an idle one takes.
/// There is no limit on processor time, which would only make every request wait; 256Mi holds its bounded queues
/// when they are full, and beyond it something leaks. Beside containers that are all guaranteed what they may have, the
/// sidecar is too, so that the pod keeps its cores, its place near its GPU and its rank when memory runs out: half a
/// core then, which is several thousand small requests a second.
fn resources(others: &PodSpec) -> ResourceRequirements {
    let amounts = |cpu: Option<&str>, memory: &str| {
        let cpu = cpu.map(|cpu| ("cpu".to_owned(), Quantity(cpu.to_owned())));
        Some(cpu.into_iter().chain([("memory".to_owned(), Quantity(memory.to_owned()))]).collect())
    };
    let (requests, limits) = match is_guaranteed(others) {
        true => (amounts(Some("500m"), "256Mi"), amounts(Some("500m"), "256Mi")),
        false => (amounts(Some("50m"), "32Mi"), amounts(None, "256Mi")),
    };
    ResourceRequirements { requests, limits, claims: None }
}

/// Whether every container has limits of processor and memory and asks for as much. Who asks for nothing asks for the
/// limit.
fn is_guaranteed(spec: &PodSpec) -> bool {
    let equal = |container: &Container| {
        let Some(resources) = &container.resources else { return false };
        ["cpu", "memory"].into_iter().all(|name| {
            let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
            let asked = resources.requests.as_ref().and_then(|requests| requests.get(name)).or(limit);
            // `1` and `1000m` are as much.
            let read = |quantity: Option<&Quantity>| quantity.and_then(|quantity| amount(&quantity.0));
            read(limit).is_some() && read(limit) == read(asked)
        })
    };
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    !spec.containers.is_empty() && all.all(equal)
}

/// What the Pod Security level *restricted* asks for, and no writable root beside it.
fn restricted() -> SecurityContext {
    SecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        read_only_root_filesystem: Some(true),
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

fn environment(sidecar: &Sidecar) -> Vec<EnvVar> {
    let mut all = vec![
        var("OUTRIGGER_LISTEN", format!(":{}", sidecar.listen.1)),
        var("OUTRIGGER_ADMIN", format!(":{}", names::ADMIN_PORT.1)),
        var("OUTRIGGER_ENGINE", format!("127.0.0.1:{}", sidecar.engine_port)),
        var("OUTRIGGER_ENGINE_KIND", sidecar.kind.as_str()),
        var("OUTRIGGER_MODEL", literal(&sidecar.model)),
        EnvVar {
            name: "OUTRIGGER_ENDPOINT".to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: None,
                    field_path: "metadata.uid".to_owned(),
                }),
                ..EnvVarSource::default()
            }),
        },
    ];
    all.extend(sidecar.deployment.as_ref().map(|key| var("OUTRIGGER_DEPLOYMENT", key.as_str())));
    if let Some(table) = &sidecar.table {
        all.push(var("OUTRIGGER_TABLE", table));
        all.push(var("OUTRIGGER_TABLE_CA", format!("{}/{}", names::CA_DIR, names::CA_KEY)));
        all.push(var("OUTRIGGER_TABLE_TOKEN", format!("{}/token", names::TOKEN_DIR)));
    }
    all.push(var("OUTRIGGER_SOCKET", names::SOCKET));
    all.push(var("OUTRIGGER_HELPER", names::HELPER));
    all.push(var("OUTRIGGER_STATE_DIR", names::STATE_DIR));
    all
}

/// The kubelet fills `$(NAME)` in; `$$` stands for one `$`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn var(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.into()), value_from: None }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// A probe of the sidecar's admin port.
fn asks(path: &str, timeout: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(names::ADMIN_PORT.1)),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(timeout),
        ..Probe::default()
    }
}

fn exec(command: &[&str]) -> ExecAction {
    ExecAction { command: Some(command.iter().map(|part| (*part).to_owned()).collect()) }
}

fn hook(command: &[&str]) -> Lifecycle {
    let handler = LifecycleHandler { exec: Some(exec(command)), ..LifecycleHandler::default() };
    Lifecycle { pre_stop: Some(handler), ..Lifecycle::default() }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn mounts(sidecar: &Sidecar) -> Vec<VolumeMount> {
    let mut all = vec![
        mount(names::SIDECAR_CONTAINER, names::SHARED_DIR, false),
        mount(STATE, names::STATE_DIR, false),
    ];
    if sidecar.table.is_some() {
        all.push(mount(TOKEN, names::TOKEN_DIR, true));
        all.push(mount(CA, names::CA_DIR, true));
    }
    all
}

/// The sidecar's volumes.
pub(super) fn volumes(sidecar: &Sidecar) -> Vec<Volume> {
    // Far beyond what the helper and the hot fields take; a node's disk is not theirs to fill.
    let scratch = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { medium: None, size_limit: Some(Quantity("64Mi".to_owned())) }),
        ..Volume::default()
    };
    let mut all = vec![scratch(names::SIDECAR_CONTAINER), scratch(STATE)];
    if sidecar.table.is_some() {
        all.push(token());
        all.push(Volume {
            name: CA.to_owned(),
            // Optional: a pod starts, and its engine loads, though the operator hasn't come around to it yet.
            config_map: Some(ConfigMapVolumeSource {
                name: names::CA_OBJECT.to_owned(),
                optional: Some(true),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    all
}

fn token() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(names::AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
    };
    let source = VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() };
    Volume {
        name: TOKEN.to_owned(),
        projected: Some(ProjectedVolumeSource { default_mode: None, sources: Some(vec![source]) }),
        ..Volume::default()
    }
}

/// Gives the engine's container its probe and its hook.
///
/// The probe fails on the sidecar's explicit answer alone, and the kubelet counts a probe that took too long as
/// failed too: so it is given far more time than the helper takes (2 s at most), and needs two failures in a row, so
/// that a node which is slow at starting processes kills no engine. By then the hook has nothing to wait for, and an
/// engine that hangs has no use for a long grace period.
pub(super) fn hold(engine: &mut Container, sidecar: &Sidecar) {
    engine.liveness_probe = Some(Probe {
        exec: Some(exec(&[names::HELPER, "live", "--socket", names::SOCKET])),
        period_seconds: Some(5),
        timeout_seconds: Some(10),
        failure_threshold: Some(2),
        termination_grace_period_seconds: Some(5),
        ..Probe::default()
    });
    let max = sidecar.max_drain.to_string();
    let drained = hook(&[names::HELPER, "wait-drained", "--socket", names::SOCKET, "--max", &max]);
    engine.lifecycle.get_or_insert_default().pre_stop = drained.pre_stop;
    // Read-only: an engine that is taken over can't replace what the kubelet runs in it. Sockets work all the same.
    let shared = mount(names::SIDECAR_CONTAINER, names::SHARED_DIR, true);
    engine.volume_mounts.get_or_insert_default().push(shared);
}

/// Takes out again what [`hold`] put in.
pub(super) fn release(engine: &mut Container) {
    engine.liveness_probe = None;
    if let Some(lifecycle) = engine.lifecycle.as_mut() {
        lifecycle.pre_stop = None;
    }
    if engine.lifecycle == Some(Lifecycle::default()) {
        engine.lifecycle = None;
    }
    if let Some(mounts) = engine.volume_mounts.as_mut() {
        mounts.retain(|mount| mount.name != names::SIDECAR_CONTAINER);
    }
}
