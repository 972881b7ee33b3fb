//! Whatever pod is drawn: it is refused with a reason, or all of it is kept but what the documentation names.

use super::super::ANNOTATIONS;
use super::{inject, installation};
use crate::names;
use crate::webhook::patch;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;

/// Many of these and one of that, which is always refused.
fn once<T: Clone>(often: Vec<T>, rarely: T) -> Vec<T> {
    let many = (0..4).flat_map(|_| often.clone());
    many.chain([rarely]).collect()
}

/// A probe or hook's target, by any way.
fn port_of_probe() -> impl Strategy<Value = Value> {
    select(vec![json!(8000), json!(8080), json!(9000), json!("http"), json!("api"), json!("8000")])
}

fn probe() -> impl Strategy<Value = Option<Value>> {
    let http = (port_of_probe(), select(once(vec!["HTTP"], "HTTPS")))
        .prop_map(|(port, scheme)| json!({"httpGet": {"path": "/x", "port": port, "scheme": scheme}}));
    let tcp = port_of_probe().prop_map(|port| json!({"tcpSocket": {"port": port}, "periodSeconds": 7}));
    let exec = select(vec!["true", "curl localhost:8000", "/check.sh"])
        .prop_map(|command| json!({"exec": {"command": [command]}}));
    prop::option::of(prop_oneof![4 => http, 2 => tcp, 1 => exec])
}

fn lifecycle() -> impl Strategy<Value = Option<Value>> {
    select(vec![
        None,
        None,
        Some(json!({"preStop": {"sleep": {"seconds": 5}}})),
        Some(json!({"preStop": {"exec": {"command": ["/stop.sh"]}}})),
        Some(json!({"postStart": {"httpGet": {"port": "http", "path": "/"}}})),
        Some(
            json!({"postStart": {"exec": {"command": ["x"]}}, "preStop": {"exec": {"command": ["sleep", "3"]}}}),
        ),
    ])
}

fn port() -> impl Strategy<Value = Value> {
    let name = select(once(vec![None, Some("http"), Some("http"), Some("api")], Some("outrigger-admin")));
    let number = select(once(vec![80, 8000, 8000, 8080, 9000, 18000], 9001));
    let protocol = select(vec![None, Some("TCP"), Some("UDP")]);
    (name, number, protocol, prop::option::weighted(0.02, Just(30080))).prop_map(
        |(name, number, protocol, host)| {
            strip(json!({"name": name, "containerPort": number, "protocol": protocol, "hostPort": host}))
        },
    )
}

fn container() -> impl Strategy<Value = Value> {
    let image = select(vec!["vllm/vllm-openai:v1", "seldonio/mlserver", "tritonserver", "example/app"]);
    let command = select(vec![
        None,
        None,
        Some(json!(["vllm", "serve"])),
        Some(json!(["sh", "-c"])),
        Some(json!(["/start.sh"])),
    ]);
    let args = prop::option::of(prop::collection::vec(
        select(vec![
            "--port=8000",
            "--port",
            "8000",
            "--host",
            "vllm serve a/b",
            "a; b",
            "--",
            "--uds=/x",
            "",
            "model",
            "m",
        ]),
        0..4,
    ));
    let env = prop::collection::vec(
        select(vec![
            json!({"name": "A", "value": "1"}),
            json!({"name": "MLSERVER_HTTP_PORT", "value": "8080"}),
            json!({"name": "MLSERVER_HTTP_PORT", "value": "x"}),
            json!({"name": "MLSERVER_HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
        ]),
        0..3,
    );
    let mounts = prop::collection::vec(
        select(once(
            vec![json!({"name": "v", "mountPath": "/v"})],
            json!({"name": "v", "mountPath": "/outrigger"}),
        )),
        0..2,
    );
    let words = (image, command, args, env, mounts);
    let asked = (prop::collection::vec(port(), 0..3), probe(), probe(), probe(), lifecycle());
    (words, asked).prop_map(
        |((image, command, args, env, mounts), (ports, live, ready, start, lifecycle))| {
            strip(json!({
                "name": "app", "image": image, "command": command, "args": args, "env": env, "ports": ports,
                "volumeMounts": mounts, "livenessProbe": live, "readinessProbe": ready, "startupProbe": start,
                "lifecycle": lifecycle, "resources": {"limits": {"nvidia.com/gpu": "1"}}, "workingDir": "/w",
            }))
        },
    )
}

fn pod() -> impl Strategy<Value = Value> {
    let named = BTreeMap::from([("outrigger.dev/container", "app"), ("outrigger.dev/pre-stop", "keep")]);
    let annotations = prop::collection::btree_map(
        select(
            ANNOTATIONS.into_iter().chain(["outrigger.dev/unknown", "other", "another"]).collect::<Vec<_>>(),
        ),
        select(vec!["app", "http", "8000", "vLLM", "Custom", "keep", ""]),
        0..2,
    );
    let annotations = prop_oneof![2 => Just(BTreeMap::new()), 1 => annotations, 1 => Just(named)];
    let second = select(vec![
        None,
        None,
        None,
        None,
        Some(json!({"name": "logs", "image": "logs", "ports": [{"name": "http", "containerPort": 80}]})),
        Some(json!({"name": "outrigger", "image": "x"})),
        Some(json!({"name": "logs", "image": "logs", "env": [{"name": "P", "value": "18000"}]})),
    ]);
    let whole = select(vec![
        json!({}),
        json!({}),
        json!({}),
        json!({}),
        json!({"terminationGracePeriodSeconds": 900}),
        json!({"hostNetwork": true}),
        json!({"restartPolicy": "Never"}),
        json!({"securityContext": {"runAsUser": 0}, "enableServiceLinks": true, "nodeName": "n"}),
    ]);
    let init = select(vec![None, Some(json!({"name": "fetch", "image": "f"}))]);
    (container(), second, annotations, whole, init).prop_map(|(first, second, annotations, whole, init)| {
        let containers: Vec<Value> = [Some(first), second].into_iter().flatten().collect();
        let mut spec = json!({
            "containers": containers,
            "volumes": [{"name": "v", "emptyDir": {}}],
        });
        spec.as_object_mut().unwrap().extend(whole.as_object().unwrap().clone());
        if let Some(init) = init {
            spec["initContainers"] = json!([init]);
        }
        json!({
            "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"labels": {"outrigger.dev/inject": "true", "a": "b"}, "annotations": annotations},
        })
    })
}

fn strip(mut value: Value) -> Value {
    value.as_object_mut().unwrap().retain(|_, v| !v.is_null());
    value
}

/// Takes out of a pod what may be different afterwards.
fn without_the_named(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let spec = pod["spec"].as_object_mut().unwrap();
    spec.remove("terminationGracePeriodSeconds");
    for (list, own) in [("initContainers", "outrigger"), ("volumes", "outrigger")] {
        let Some(all) = spec.get_mut(list).and_then(Value::as_array_mut) else { continue };
        all.retain(|item| !item["name"].as_str().unwrap().starts_with(own));
        if all.is_empty() {
            spec.remove(list);
        }
    }
    for container in spec["containers"].as_array_mut().unwrap() {
        if container["name"] != "app" {
            continue;
        }
        let container = container.as_object_mut().unwrap();
        for named in ["livenessProbe", "readinessProbe", "startupProbe", "ports", "command", "args", "env"] {
            container.remove(named);
        }
        if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
            lifecycle.remove("preStop");
            if let Some(http) = lifecycle.get_mut("postStart").and_then(|hook| hook.get_mut("httpGet")) {
                http.as_object_mut().unwrap().remove("port");
            }
        }
        container.retain(|_, v| v != &json!({}));
        if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
            mounts.retain(|mount| mount["name"] != names::SIDECAR_CONTAINER);
        }
        container.retain(|_, v| v != &json!([]));
    }
    pod
}

/// What is named is changed in no other way than said.
fn within_the_named(before: &Value, after: &Value) {
    let (old, new) = (&before["spec"]["containers"][0], &after["spec"]["containers"][0]);
    let words = |c: &Value| -> Vec<String> {
        let all = [&c["command"], &c["args"]].into_iter().filter_map(Value::as_array).flatten();
        all.map(|word| word.as_str().unwrap().trim_end().to_owned()).collect()
    };
    let (was, is) = (words(old), words(new));
    assert!(is.len() >= was.len() && is.len() <= was.len() + 2, "{was:?} {is:?}");
    for (was, is) in was.iter().zip(&is) {
        let moved = ["--port=18", "18", "127.0.0.1", "--host=127.0.0.1"].iter().any(|m| is.starts_with(m));
        assert!(was == is || moved || is.starts_with(was.as_str()), "{was} {is}");
    }
    for var in old["env"].as_array().into_iter().flatten() {
        let name = var["name"].as_str().unwrap();
        let kept = new["env"].as_array().unwrap().contains(var);
        assert!(kept || ["MLSERVER_HTTP_PORT", "MLSERVER_HOST"].contains(&name), "{name}");
    }
    let grace = |pod: &Value| pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(0);
    assert!(grace(after) >= grace(before) && grace(after) >= 150);
    let names = |pod: &Value| {
        let lists = ["containers", "initContainers"].map(|list| pod["spec"][list].clone());
        let all: Vec<Value> = lists.iter().filter_map(Value::as_array).flatten().cloned().collect();
        let ports = all.iter().filter_map(|c| c["ports"].as_array().cloned()).flatten();
        ports.filter_map(|port| port["name"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let new_names = names(after);
    for name in names(before) {
        assert!(new_names.contains(&name), "{name} still leads somewhere: {new_names:?}");
    }
}

/// No probe of the engine asks the sidecar where that could kill the engine.
fn no_probe_kills_by_the_sidecar(after: &Value) {
    let sidecar =
        after["spec"]["initContainers"].as_array().unwrap().iter().find(|c| c["name"] == "outrigger");
    let sidecar = sidecar.unwrap();
    let taken = sidecar["ports"][0]["containerPort"].as_i64().unwrap();
    let engine = &after["spec"]["containers"][0];
    let number = |port: &Value| {
        let all = engine["ports"].as_array().into_iter().flatten();
        let named = all.filter(|own| own["name"] == *port).find_map(|own| own["containerPort"].as_i64());
        port.as_i64().or(named)
    };
    for name in ["livenessProbe", "startupProbe"] {
        for way in ["httpGet", "tcpSocket"] {
            let port = &engine[name][way]["port"];
            assert!(port.is_null() || number(port) != Some(taken), "{name} asks the sidecar: {port}");
        }
    }
}

fn look(before: &Value, injected: &Cell<u32>) {
    let pod: Pod = serde_json::from_value(before.clone()).unwrap();
    let after = match inject(&pod, "team", &installation()) {
        Ok(None) => panic!("it asks for a sidecar"),
        Err(refusal) => {
            assert!(!refusal.mistakes.is_empty());
            for mistake in &refusal.mistakes {
                assert!(!mistake.path.is_empty() && mistake.message.len() > 20, "{mistake}");
            }
            return;
        }
        Ok(Some(done)) => done.pod,
    };
    injected.set(injected.get() + 1);
    let (plain, written) = (serde_json::to_value(&pod).unwrap(), serde_json::to_value(&after).unwrap());
    assert_eq!(without_the_named(&plain), without_the_named(&written));
    within_the_named(&plain, &written);
    no_probe_kills_by_the_sidecar(&written);
    assert_eq!(inject(&after, "team", &installation()), Ok(None));
    // The API server applies a patch to what it has, not to what was read of it.
    let mut patched = before.clone();
    let patch: json_patch::Patch = serde_json::from_value(patch::between(&plain, &written).into()).unwrap();
    json_patch::patch(&mut patched, &patch).unwrap();
    let read: Pod = serde_json::from_value(patched).unwrap();
    assert_eq!(read, after);
}

#[test]
fn all_of_it_is_kept_or_it_is_refused_in_words() {
    let injected = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig { cases: 3000, ..ProptestConfig::default() });
    let ended = runner.run(&pod(), |before| {
        look(&before, &injected);
        Ok(())
    });
    ended.unwrap();
    assert!(injected.get() > 100, "both ends are drawn: {}", injected.get());
}
