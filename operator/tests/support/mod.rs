//! Examples as they reach `render`, and what is asked of the pods that come out.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own helpers, of which each file takes what it needs"
)]

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use outrigger_crds::{ModelDeploymentSpec, ModelDeploymentStatus};
use outrigger_operator::names;
use outrigger_operator::render::{Input, Installation, controller_revision, render};
use outrigger_plan::{Revision, Workload, document, revision};
use outrigger_wire::DeploymentKey;
use serde_json::Value;

pub const UID: &str = "6f1c2e0a-3a53-4a5e-9a86-0d6a3a5f0c11";

pub struct Example {
    pub key: DeploymentKey,
    pub spec: ModelDeploymentSpec,
    pub status: ModelDeploymentStatus,
    pub workloads: Vec<Workload>,
    pub installation: Installation,
}

/// One of `crds/examples/valid`, its revision stable. Those for one machine get an image.
pub fn example(name: &str) -> Example {
    let path = format!("{}/../crds/examples/valid/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let declaration = document::read(&std::fs::read(path).unwrap()).unwrap();
    let mut spec = declaration.spec.clone();
    spec.engine.image.get_or_insert_with(|| "example.org/engine:1".to_owned());
    let mut example = Example {
        key: declaration.key.clone(),
        spec,
        status: ModelDeploymentStatus::default(),
        workloads: Vec::new(),
        installation: Installation {
            namespace: "outrigger-system".to_owned(),
            table: "outrigger-operator.outrigger-system.svc:8443".to_owned(),
            sidecar_image: "outrigger/sidecar:0.1.0".to_owned(),
            pull_policy: None,
        },
    };
    example.settle();
    example
}

impl Example {
    pub fn input(&self) -> Input<'_> {
        Input {
            uid: UID,
            key: &self.key,
            spec: &self.spec,
            status: &self.status,
            workloads: &self.workloads,
            installation: &self.installation,
        }
    }

    pub fn set_engine(&mut self, engine: Value) {
        self.spec.engine = serde_json::from_value(engine).unwrap();
        self.settle();
    }

    fn settle(&mut self) {
        let engine = self.spec.engine.clone();
        let revision = revision::of(&engine);
        self.status.stable = Some(revision.clone());
        self.workloads = vec![Workload { revision, engine, replicas: self.spec.scale.replicas }];
    }

    pub fn revision(&self) -> Revision {
        let created = "2026-11-21T08:00:00Z".parse().unwrap();
        Revision { id: revision::of(&self.spec.engine), created, engine: self.spec.engine.clone() }
    }

    pub fn controller_revision(&self) -> ControllerRevision {
        controller_revision(UID, &self.key, &self.revision())
    }

    /// The template of its only ReplicaSet.
    pub fn template(&self) -> PodTemplateSpec {
        let objects = render(&self.input()).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        objects.replica_sets.into_iter().next().unwrap().spec.unwrap().template.unwrap()
    }
}

pub fn engine(template: &PodTemplateSpec) -> Container {
    let mut containers = template.spec.as_ref().unwrap().containers.iter();
    containers.find(|container| container.name == names::ENGINE_CONTAINER).unwrap().clone()
}

/// Panics unless all is there that the sidecar needs.
pub fn holds_the_sidecar(template: &PodTemplateSpec) {
    let spec = template.spec.as_ref().unwrap();
    let sidecar = spec.init_containers.as_ref().unwrap().last().unwrap();
    assert_eq!((sidecar.name.as_str(), sidecar.restart_policy.as_deref()), ("outrigger", Some("Always")));
    for probe in [&sidecar.startup_probe, &sidecar.readiness_probe, &sidecar.liveness_probe] {
        assert!(probe.is_some());
    }
    let mounted = sidecar.volume_mounts.iter().flatten().map(|mount| mount.name.as_str());
    for name in mounted {
        let volumes = spec.volumes.as_ref().unwrap();
        assert_eq!(volumes.iter().filter(|volume| volume.name == name).count(), 1, "{name}");
    }
    let engine = engine(template);
    let live = engine.liveness_probe.unwrap().exec.unwrap().command.unwrap();
    assert_eq!(live, ["/outrigger/helper", "live", "--socket", "/outrigger/sidecar.sock"]);
    let hook = engine.lifecycle.unwrap().pre_stop.unwrap().exec.unwrap().command.unwrap();
    assert_eq!(hook[..2], ["/outrigger/helper", "wait-drained"]);
    assert!(engine.volume_mounts.unwrap().iter().any(|mount| mount.mount_path == "/outrigger"));
    assert_eq!(spec.termination_grace_period_seconds, Some(150));
}

/// What of `users` isn't found in `rendered`, lists of named things by their names.
pub fn merged(users: &Value, rendered: &Value, path: &str) -> Vec<String> {
    match (users, rendered) {
        (Value::Object(users), Value::Object(rendered)) => {
            let of = |(name, value): (&String, &Value)| {
                let path = format!("{path}.{name}");
                match rendered.get(name) {
                    Some(found) => merged(value, found, &path),
                    None if value.is_null() || *value == Value::Array(Vec::new()) => Vec::new(),
                    None => vec![path],
                }
            };
            users.iter().flat_map(of).collect()
        }
        (Value::Array(users), Value::Array(rendered)) => {
            let of = |item: &Value| match item.get("name") {
                Some(name) => match rendered.iter().find(|found| found.get("name") == Some(name)) {
                    Some(found) => merged(item, found, &format!("{path}[{name}]")),
                    None => vec![format!("{path}[{name}]")],
                },
                None if rendered.contains(item) => Vec::new(),
                None => vec![path.to_owned()],
            };
            users.iter().flat_map(of).collect()
        }
        _ if users == rendered || users.is_null() => Vec::new(),
        _ => vec![format!("{path}: {users} became {rendered}")],
    }
}

/// The names of the user's init containers, in their order.
pub fn order(template: &Value) -> Vec<String> {
    let all = template.pointer("/spec/initContainers").and_then(Value::as_array);
    let names = all.into_iter().flatten().filter_map(|container| container["name"].as_str());
    names.filter(|name| *name != "outrigger").map(str::to_owned).collect()
}

/// What keeps a pod from the Pod Security level *restricted*.
pub fn restricted(template: &PodTemplateSpec) -> Vec<String> {
    let spec = template.spec.as_ref().unwrap();
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let mut found = Vec::new();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let context = container.security_context.clone().unwrap_or_default();
        let capabilities = context.capabilities.unwrap_or_default();
        let add = capabilities.add.unwrap_or_default();
        let seccomp = context.seccomp_profile.or(of_pod.seccomp_profile.clone()).map(|profile| profile.type_);
        for (what, holds) in [
            ("allowPrivilegeEscalation", context.allow_privilege_escalation == Some(false)),
            ("privileged", context.privileged != Some(true)),
            ("drop ALL", capabilities.drop.unwrap_or_default().contains(&"ALL".to_owned())),
            ("add", add.iter().all(|name| name == "NET_BIND_SERVICE")),
            ("runAsNonRoot", context.run_as_non_root.or(of_pod.run_as_non_root) == Some(true)),
            ("runAsUser", context.run_as_user.or(of_pod.run_as_user) != Some(0)),
            ("seccomp", matches!(seccomp.as_deref(), Some("RuntimeDefault" | "Localhost"))),
        ] {
            if !holds {
                found.push(format!("{}: {what}", container.name));
            }
        }
    }
    for volume in spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some()) {
        found.push(format!("volume {}", volume.name));
    }
    found
}
