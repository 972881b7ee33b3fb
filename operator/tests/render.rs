//! What is rendered: golden files of the examples' objects, and what holds of every pod whatever its user wrote.
//! `UPDATE_EXPECTED=1` writes the golden files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use outrigger_operator::render::{controller_revision, read_revision, render};
use outrigger_plan::revision;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::{Example, example, merged, restricted};

const EXAMPLES: [&str; 5] = ["shortest", "vllm", "mlserver", "pods", "everything"];

#[test]
fn examples_are_rendered_as_the_golden_files_say() {
    for name in EXAMPLES {
        let example = example(name);
        let objects = render(&example.input()).unwrap_or_else(|mistakes| panic!("{name}: {mistakes:#?}"));
        let mut documents = vec![
            serde_json::to_value(&objects.service).unwrap(),
            serde_json::to_value(&objects.disruption_budget).unwrap(),
            serde_json::to_value(&objects.network_policy).unwrap(),
        ];
        documents.extend(objects.replica_sets.iter().map(|set| serde_json::to_value(set).unwrap()));
        documents.push(serde_json::to_value(example.controller_revision()).unwrap());
        documents.retain(|document| !document.is_null());
        let texts = documents.iter().map(|document| outrigger_wire::document::write(document).unwrap());
        let found = texts.collect::<Vec<_>>().join("---\n");
        let path = format!("{}/tests/golden/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(&path).unwrap_or_default(), "{path}");
    }
}

#[test]
fn a_revision_is_read_back_as_it_was_kept() {
    for name in EXAMPLES {
        let example = example(name);
        let object = example.controller_revision();
        let stored = serde_json::from_value(serde_json::to_value(&object).unwrap()).unwrap();
        let read = read_revision(&stored).unwrap();
        assert_eq!(read, example.revision(), "{name}");
        assert_eq!(revision::of(&read.engine), read.id, "{name}");
        let again = controller_revision(support::UID, &example.key, &read);
        assert_eq!(again, object, "{name}");
    }
    let mut broken = example("shortest").controller_revision();
    broken.data.as_mut().unwrap().0 = json!({"engine": {"image": 7}});
    let why = read_revision(&broken).unwrap_err();
    assert!(why.contains("ControllerRevision") && why.contains("can't be read"), "{why}");
}

/// Until a revision is stable the Service selects nothing, and then that one alone.
#[test]
fn the_service_selects_the_stable_revision_alone() {
    let mut example = example("pods");
    let selector =
        |example: &Example| render(&example.input()).unwrap().service.spec.unwrap().selector.unwrap();
    example.status.stable = None;
    let before = selector(&example);
    let pods = render(&example.input()).unwrap().replica_sets.remove(0).spec.unwrap().template.unwrap();
    let labels = pods.metadata.unwrap().labels.unwrap();
    assert_ne!(before["outrigger.dev/revision"], labels["outrigger.dev/revision"]);
    example.status.stable = Some(example.revision().id);
    let after = selector(&example);
    assert!(after.iter().all(|(name, value)| labels.get(name) == Some(value)), "{after:?}");
}

/// With two replicas one may be evicted; one alone must not keep its node from being emptied.
#[test]
fn a_budget_is_made_where_it_leaves_something_to_evict() {
    let mut example = example("pods");
    for (replicas, budget) in [(0, false), (1, false), (2, true), (1000, true)] {
        example.spec.scale.replicas = replicas;
        assert_eq!(render(&example.input()).unwrap().disruption_budget.is_some(), budget, "{replicas}");
    }
}

/// What a user gives is not given a second time.
#[test]
fn known_kinds_are_told_where_to_listen_unless_the_user_says() {
    let args = |kind: &str, args: Value, command: Value| {
        let mut example = example("shortest");
        let engine = json!({
            "kind": kind, "image": "a:1", "args": args,
            "podTemplate": {"spec": {"containers": [{"name": "engine", "command": command}]}},
        });
        example.set_engine(engine);
        let engine = support::engine(&example.template());
        (engine.args.unwrap_or_default(), engine.env.unwrap_or_default())
    };
    let (given, _) = args("vLLM", json!(["--model=m"]), Value::Null);
    assert_eq!(given, ["--model=m", "--host=127.0.0.1", "--port=8000"]);
    let (given, _) = args("vLLM", json!(["--host", "::1", "--port={httpPort}"]), Value::Null);
    assert_eq!(given, ["--host", "::1", "--port=8000"]);
    let (given, _) = args("vLLM", json!([]), json!(["/bin/sh", "-c", "vllm serve"]));
    assert!(given.is_empty(), "{given:?}");
    let (given, env) = args("MLServer", json!([]), Value::Null);
    assert!(given.is_empty(), "{given:?}");
    let env: Vec<_> = env.iter().map(|var| (var.name.as_str(), var.value.as_deref().unwrap())).collect();
    assert_eq!(env, [("MLSERVER_HOST", "127.0.0.1"), ("MLSERVER_HTTP_PORT", "8080")]);
    let (given, env) = args("Custom", json!(["-p", "{httpPort}"]), Value::Null);
    assert_eq!((given, env.len()), (vec!["-p".to_owned(), "8080".to_owned()], 0));
}

/// A user's labels don't move pods between revisions, and privileges that Kubernetes refuses to combine aren't.
#[test]
fn privileged_engines_are_left_as_they_are() {
    let mut example = example("shortest");
    for (context, gains) in [
        (json!({"privileged": true}), None),
        (json!({"capabilities": {"add": ["SYS_ADMIN"]}}), None),
        (json!({"capabilities": {"add": ["IPC_LOCK"]}}), Some(false)),
        (json!({"allowPrivilegeEscalation": true}), Some(true)),
    ] {
        let containers = json!([{"name": "engine", "securityContext": context}]);
        example.set_engine(json!({"image": "a:1", "podTemplate": {"spec": {"containers": containers}}}));
        let found = support::engine(&example.template()).security_context.unwrap();
        assert_eq!(found.allow_privilege_escalation, gains, "{found:?}");
    }
}

/// Ours conform to the level *restricted* where the user's engine does: it runs as somebody.
#[test]
fn pods_conform_to_the_restricted_level_when_the_engine_is_not_root() {
    let mut example = example("shortest");
    example.set_engine(
        json!({"image": "a:1", "podTemplate": {"spec": {"securityContext": {"runAsNonRoot": true}}}}),
    );
    assert_eq!(restricted(&example.template()), Vec::<String>::new());
    example.set_engine(json!({"image": "a:1"}));
    assert_eq!(restricted(&example.template()), ["engine: runAsNonRoot"]);
}

fn text() -> impl Strategy<Value = String> {
    "[a-z]{1,8}"
}

/// Any part of a pod that a checked spec may have, of the kinds that merge in different ways.
fn template() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-Z]{1,6}", text(), 0..4);
    let volumes = prop::collection::btree_set("v[a-z]{1,5}", 0..4);
    let others = prop::collection::btree_set("c[a-z]{1,5}", 0..3);
    let pod = prop::collection::btree_map(
        prop::sample::select(vec![
            "nodeSelector",
            "tolerations",
            "schedulerName",
            "priorityClassName",
            "dnsPolicy",
        ]),
        Just(()),
        0..5,
    );
    let engine = (env, any::<bool>(), any::<bool>(), prop::option::of(30i64..90));
    (engine, volumes, others, pod, prop::collection::btree_map(text(), text(), 0..3)).prop_map(
        |((env, startup, post_start, grace), volumes, others, pod, labels)| {
            let env: Vec<_> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            let mounts: Vec<_> =
                volumes.iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect();
            let mut engine = json!({"name": "engine", "env": env, "volumeMounts": mounts});
            if startup {
                engine["startupProbe"] =
                    json!({"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": grace});
            }
            if post_start {
                engine["lifecycle"] = json!({"postStart": {"exec": {"command": ["true"]}}});
            }
            let mut containers: Vec<_> =
                others.iter().map(|name| json!({"name": name, "image": "x:1"})).collect();
            containers.insert(containers.len() / 2, engine);
            let mut spec = json!({
                "containers": containers,
                "initContainers": others.iter().map(|n| json!({"name": format!("i{n}"), "image": "x:1"})).collect::<Vec<_>>(),
                "volumes": volumes.iter().map(|name| json!({"name": name, "emptyDir": {}})).collect::<Vec<_>>(),
            });
            for field in pod.keys() {
                spec[*field] = match *field {
                    "nodeSelector" => json!({"a": "b"}),
                    "tolerations" => json!([{"operator": "Exists"}]),
                    "dnsPolicy" => json!("Default"),
                    _ => json!("mine"),
                };
            }
            json!({"metadata": {"labels": labels}, "spec": spec})
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// What the sidecar needs survives every template, and so does what the user wrote, in the user's order.
    #[test]
    fn templates_are_merged_and_nothing_is_lost(users in template()) {
        let mut example = example("shortest");
        example.set_engine(json!({"image": "a:1", "args": ["x"], "podTemplate": users}));
        prop_assert_eq!(outrigger_plan::validate::mistakes(&example.spec), Vec::new());
        let first = render(&example.input()).unwrap();
        prop_assert_eq!(&first, &render(&example.input()).unwrap());
        let template = example.template();
        support::holds_the_sidecar(&template);
        let rendered = serde_json::to_value(&template).unwrap();
        let lost = merged(&users, &rendered, "");
        prop_assert!(lost.is_empty(), "{lost:?}\n{rendered:#}");
        prop_assert_eq!(support::order(&users), support::order(&rendered));
    }

    /// What was accepted before is what is accepted now: a template of nothing is no template.
    #[test]
    fn the_revision_is_made_of_what_the_user_wrote(users in template(), image in text()) {
        let mut example = example("shortest");
        example.set_engine(json!({"image": "a:1", "podTemplate": users}));
        let before = example.revision().id;
        example.installation.sidecar_image = image;
        example.spec.model.name = "another".to_owned();
        prop_assert_eq!(example.revision().id, before);
        let read: PodTemplateSpec = serde_json::from_value(users.clone()).unwrap();
        prop_assert!(read.spec.is_some());
        let _same: Map<String, Value> = serde_json::from_value(users).unwrap();
    }
}
