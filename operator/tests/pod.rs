//! Adding the sidecar: twice is once, what is in the way is named, and pods that nobody owns are adapted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use k8s_openapi::api::core::v1::PodTemplateSpec;
use outrigger_operator::names;
use outrigger_operator::pod::{Sidecar, add_sidecar};
use outrigger_wire::{DeploymentKey, EngineKind, Period};
use serde_json::{Value, json};

fn sidecar(owned: bool) -> Sidecar {
    Sidecar {
        image: "outrigger/sidecar:0.1.0".to_owned(),
        pull_policy: None,
        kind: EngineKind::Custom,
        model: "a$(HOME)b".to_owned(),
        engine_port: 8080,
        listen: (names::DATA_PORT.0.to_owned(), names::DATA_PORT.1),
        max_drain: Period::millis(1500),
        deployment: owned.then(|| DeploymentKey("models/chat".to_owned())),
        table: owned.then(|| "outrigger-operator.outrigger-system.svc:8443".to_owned()),
    }
}

fn pod(engine: Value) -> PodTemplateSpec {
    let mut engine = engine;
    engine["name"] = json!("engine");
    let inits =
        json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1", "restartPolicy": "Always"}]);
    serde_json::from_value(json!({"spec": {"initContainers": inits, "containers": [engine]}})).unwrap()
}

#[test]
fn added_twice_it_is_there_once() {
    for owned in [true, false] {
        let mut once = pod(json!({"lifecycle": {"postStart": {"exec": {"command": ["true"]}}}}));
        add_sidecar(&mut once, "engine", &sidecar(owned)).unwrap();
        let mut twice = once.clone();
        add_sidecar(&mut twice, "engine", &Sidecar { image: "new:1".to_owned(), ..sidecar(owned) })
            .unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        assert_ne!(once, twice);
        add_sidecar(&mut twice, "engine", &sidecar(owned)).unwrap();
        assert_eq!(once, twice);
        let spec = once.spec.unwrap();
        let inits: Vec<_> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
        assert_eq!(inits, ["a", "b", "outrigger"]);
        // 1500 ms of draining, rounded up, and 30 s.
        assert_eq!(spec.termination_grace_period_seconds, Some(32));
    }
}

#[test]
fn alone_it_has_neither_token_nor_operator() {
    let names = |owned| {
        let mut template = pod(json!({}));
        add_sidecar(&mut template, "engine", &sidecar(owned)).unwrap();
        let spec = template.spec.unwrap();
        let volumes: Vec<_> = spec.volumes.unwrap().into_iter().map(|volume| volume.name).collect();
        let env = spec.init_containers.unwrap().pop().unwrap().env.unwrap();
        let model = env.iter().find(|var| var.name == "OUTRIGGER_MODEL").unwrap().value.clone();
        (volumes, env.into_iter().map(|var| var.name).collect::<Vec<_>>(), model)
    };
    let (volumes, env, model) = names(false);
    assert_eq!(volumes, ["outrigger", "outrigger-state"]);
    assert!(!env.iter().any(|name| name.contains("TABLE") || name == "OUTRIGGER_DEPLOYMENT"), "{env:?}");
    // The kubelet must not fill anything in.
    assert_eq!(model.as_deref(), Some("a$$(HOME)b"));
    let (volumes, env, _) = names(true);
    assert_eq!(volumes, ["outrigger", "outrigger-state", "outrigger-token", "outrigger-ca"]);
    assert_eq!(env.iter().filter(|name| name.contains("TABLE")).count(), 3, "{env:?}");
}

/// Each with the path of the field; nothing is changed then.
#[test]
fn what_is_in_the_way_is_named() {
    for (field, path, value) in [
        ("livenessProbe", "spec.containers[0].livenessProbe", json!({"httpGet": {"port": 8080}})),
        ("lifecycle", "spec.containers[0].lifecycle.preStop", json!({"preStop": {"sleep": {"seconds": 5}}})),
        ("ports", "spec.containers[0].ports[0].containerPort", json!([{"containerPort": 9001}])),
        ("ports", "spec.containers[0].ports[0].name", json!([{"name": "outrigger", "containerPort": 1}])),
        (
            "volumeMounts",
            "spec.containers[0].volumeMounts[0].mountPath",
            json!([{"name": "v", "mountPath": "/outrigger/"}]),
        ),
        ("restartPolicy", "spec.containers[0].restartPolicy", json!("Never")),
    ] {
        let mut engine = json!({});
        engine[field] = value;
        let before = pod(engine);
        let mut template = before.clone();
        let mistakes = add_sidecar(&mut template, "engine", &sidecar(true)).unwrap_err();
        assert_eq!(mistakes.iter().map(|m| m.path.as_str()).collect::<Vec<_>>(), [path]);
        assert_eq!(template, before);
    }
    let mut template = pod(json!({}));
    let spec = template.spec.as_mut().unwrap();
    spec.host_network = Some(true);
    spec.init_containers.as_mut().unwrap()[0].name = "outrigger".to_owned();
    spec.volumes =
        Some(vec![serde_json::from_value(json!({"name": "outrigger-ca", "emptyDir": {}})).unwrap()]);
    let mistakes = add_sidecar(&mut template, "server", &sidecar(false)).unwrap_err();
    let paths: Vec<_> = mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
    assert_eq!(
        paths,
        ["spec.hostNetwork", "spec.volumes[0].name", "spec.initContainers[0].name", "spec.containers"]
    );
    assert!(mistakes[3].message.contains("`server`"), "{mistakes:?}");
}

/// In a pod that nobody owns, what the sidecar does better is replaced, and what it can't know is refused.
#[test]
fn pods_that_nobody_owns_are_adapted() {
    let adapted = |hook: Value| {
        let engine = json!({
            "livenessProbe": {"httpGet": {"port": 8080}},
            "readinessProbe": {"httpGet": {"port": 8080}},
            "lifecycle": {"preStop": hook},
        });
        let mut template = pod(engine);
        template.spec.as_mut().unwrap().termination_grace_period_seconds = Some(600);
        add_sidecar(&mut template, "engine", &sidecar(false)).map(|()| template)
    };
    for hook in [
        json!({"sleep": {"seconds": 5}}),
        json!({"exec": {"command": ["/bin/sleep", "5"]}}),
        json!({"exec": {"command": ["sh", "-c", "sleep 15"]}}),
    ] {
        let spec = adapted(hook).unwrap().spec.unwrap();
        let engine = &spec.containers[0];
        assert!(engine.liveness_probe.as_ref().unwrap().exec.is_some());
        assert!(engine.readiness_probe.as_ref().unwrap().http_get.is_some());
        assert_eq!(spec.termination_grace_period_seconds, Some(600));
    }
    for hook in [json!({"exec": {"command": ["sh", "-c", "save; sleep 5"]}}), json!({"httpGet": {"port": 1}})]
    {
        let mistakes = adapted(hook).unwrap_err();
        assert_eq!(mistakes[0].path, "spec.containers[0].lifecycle.preStop");
    }
}

/// A pod that is guaranteed its processors and memory stays so: its cores, its place near its GPU and its rank when
/// memory runs out hang on it.
#[test]
fn a_guaranteed_pod_stays_guaranteed() {
    let sidecars = |engine: Value| {
        let mut template: PodTemplateSpec =
            serde_json::from_value(json!({"spec": {"containers": [engine]}})).unwrap();
        add_sidecar(&mut template, "engine", &sidecar(true)).unwrap();
        serde_json::to_value(template).unwrap()["spec"]["initContainers"][0]["resources"].clone()
    };
    let limits = json!({"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"});
    let equal = sidecars(json!({"name": "engine", "resources": {"limits": limits}}));
    assert_eq!(equal["requests"], equal["limits"]);
    let requests = json!({"cpu": "4000m", "memory": "16384Mi"});
    assert_eq!(
        sidecars(json!({"name": "engine", "resources": {"limits": limits, "requests": requests}})),
        equal
    );
    assert!(equal["limits"]["cpu"].is_string(), "{equal}");
    let burst =
        sidecars(json!({"name": "engine", "resources": {"limits": limits, "requests": {"cpu": "1"}}}));
    assert_eq!(burst["limits"], json!({"memory": "256Mi"}));
    assert_eq!(sidecars(json!({"name": "engine"})), burst);
}
