//! Parts that fall silent without ending: their connections stay open and nobody answers. What was last heard stands.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::caller::{Callers, complete};
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::{Installed, NAMESPACE, OperatorAway};
use outrigger_e2e::simulated::{IMAGE, NAME, changed, edit, serving, serving_as, text};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A rollout of three short steps.
const ROLLOUT: Duration = Duration::from_secs(240);
/// What comes by itself within seconds; a lost node is noticed after twenty.
const SOON: Duration = Duration::from_secs(90);
/// How long the API server is frozen: longer than any silence that a watch must not take for calm.
const FROZEN: Duration = Duration::from_secs(40);

fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap()
}

/// The status of a pod's condition.
fn condition(pod: &Value, kind: &str) -> String {
    let mut all = pod["status"]["conditions"].as_array().into_iter().flatten();
    let found = all.find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().unwrap().clone()
}

/// A gateway's own address: a Service has no endpoints while no kubelet is heard of, which is Kubernetes' doing.
fn gateway(installed: &Installed) -> String {
    let pods = installed.pods_of("gateway").unwrap();
    format!("{}:8080", pods[0]["status"]["podIP"].as_str().unwrap())
}

/// A canary that stays at 10 % of the callers.
fn staying(text: String) -> String {
    let steps = "[{weight: 10, hold: 5s}, {weight: 25, hold: 5s}, {weight: 50, hold: 5s}]";
    changed(&text, steps, "[{weight: 10, hold: 1h}, {weight: 50, hold: 1h}]")
}

fn with_canary(installed: &'static Installed, prefix: &str, model: &str) -> Namespace {
    let namespace = serving_as(installed, prefix, model, staying).unwrap();
    namespace.apply(&staying(text(model, "v2", &[], IMAGE))).unwrap();
    installed
        .cluster
        .wait_until(namespace.name(), "the canary to take its share", SOON, || {
            Ok(installed.deployment(namespace.name(), NAME)?["status"]["canary"]["stepReached"].is_string())
        })
        .unwrap();
    namespace
}

/// proves O.1: no kubelet is heard of until the cluster has given both nodes up and calls none of their pods ready.
/// The pods are there and answer: callers go on, a canary stays where it is, and nothing restarts afterwards.
#[test]
fn kubelets_that_are_not_heard_of_change_nothing_for_callers() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let model = "silence-nodes";
    let namespace = with_canary(installed, "unheard", model);
    let before = installed.deployment(namespace.name(), NAME).unwrap()["status"].clone();
    let lives = installed.lives(namespace.name(), NAME).unwrap();
    let calls = Callers::start(&gateway(installed), model, 8, 8, false, Duration::from_millis(50));
    let nodes = &cluster.description().nodes;
    let numbers = nodes.iter().map(|node| node.name.trim_start_matches("node-"));
    let frozen: Vec<_> =
        numbers.map(|number| cluster.freeze(&format!("kubelet-{number}")).unwrap()).collect();
    for node in nodes {
        cluster.wait_node(&node.name, false, SOON).unwrap();
    }
    cluster
        .wait_until(namespace.name(), "no pod to be called ready", SOON, || {
            let pods = items(&namespace.json(&["get", "pods", "-l", "outrigger.dev/deployment=chat"])?);
            Ok(pods.iter().all(|pod| condition(pod, "Ready") == "False"))
        })
        .unwrap();
    let unheard = calls.tally();
    assert_eq!(unheard.failed, 0, "{unheard:?}");
    // Whoever takes that for the pods' end has had the time to act on it.
    cluster
        .wait_until(namespace.name(), "five hundred more answers, of both revisions", SOON, || {
            let now = calls.tally();
            assert_eq!(now.failed, 0, "{now:?}");
            Ok(now.all() >= unheard.all() + 500 && now.of("v2") > unheard.of("v2"))
        })
        .unwrap();
    let told = installed.deployment(namespace.name(), NAME).unwrap()["status"].clone();
    println!("meanwhile: {}", told["message"]);
    for frozen in frozen {
        frozen.mend().unwrap();
    }
    for node in nodes {
        cluster.wait_node(&node.name, true, SOON).unwrap();
    }
    cluster
        .wait_until(namespace.name(), "all to be ready again", SOON, || {
            let pods = items(&namespace.json(&["get", "pods", "-l", "outrigger.dev/deployment=chat"])?);
            Ok(pods.iter().all(|pod| condition(pod, "Ready") == "True"))
        })
        .unwrap();
    for part in ["outrigger-gateway", "outrigger-operator"] {
        cluster.wait_available(NAMESPACE, part, SOON).unwrap();
    }
    let after = installed.deployment(namespace.name(), NAME).unwrap()["status"].clone();
    for field in ["stable", "failed", "restarts"] {
        assert_eq!(after[field], before[field], "{after}");
    }
    for field in ["revision", "step", "stepReached"] {
        assert_eq!(after["canary"][field], before["canary"][field], "{after}");
    }
    assert_eq!(installed.lives(namespace.name(), NAME).unwrap(), lives);
    let tally = calls.stop();
    println!("{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
}

/// An API server that stops answering without closing anything: every watch is open and silent. Callers notice
/// nothing, and what is asked for afterwards is done.
#[test]
fn watches_that_fall_silent_are_begun_anew() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let model = "silence-api";
    let namespace = serving(installed, "silent", model).unwrap();
    let before = installed.stable(namespace.name(), NAME).unwrap();
    let lives = installed.lives(namespace.name(), NAME).unwrap();
    let calls = Callers::start(installed.gateway(), model, 8, 8, false, Duration::from_millis(50));
    let frozen = cluster.freeze("apiserver").unwrap();
    let began = Instant::now();
    cluster
        .wait_until(namespace.name(), "the silence to last", FROZEN * 2, || {
            let now = calls.tally();
            assert_eq!(now.failed, 0, "{now:?}");
            Ok(began.elapsed() >= FROZEN)
        })
        .unwrap();
    frozen.mend().unwrap();
    cluster
        .wait_until(namespace.name(), "the API server to answer", SOON, || {
            Ok(installed.lives(namespace.name(), NAME)? == lives)
        })
        .unwrap();
    edit(&namespace, model, "v2", &[], IMAGE).unwrap();
    installed.wait_promoted(namespace.name(), NAME, &before, ROLLOUT).unwrap();
    let tally = calls.stop();
    println!("{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    for part in ["outrigger-gateway", "outrigger-operator"] {
        cluster.wait_available(NAMESPACE, part, SOON).unwrap();
    }
}

/// No operator runs, and a gateway is killed: it has nobody to ask, and serves by what it was told last.
#[test]
fn a_gateway_that_restarts_without_an_operator_serves_from_its_last_table() {
    let installed = Installed::get().unwrap();
    let model = "silence-gateway";
    let namespace = serving(installed, "alone", model).unwrap();
    let gateways = installed.pods_of("gateway").unwrap();
    let victim = name(&gateways[0]);
    let address = format!("{}:8080", gateways[0]["status"]["podIP"].as_str().unwrap());
    installed
        .cluster
        .wait_until(namespace.name(), "this gateway to know the model", SOON, || {
            Ok(complete(&address, model, 4, false)?.status == 200)
        })
        .unwrap();
    let away = OperatorAway::begin(installed).unwrap();
    let before = installed.cluster.container_pid(NAMESPACE, victim, "gateway").unwrap();
    installed.cluster.signal(NAMESPACE, victim, "gateway", "KILL").unwrap();
    installed
        .cluster
        .wait_until(namespace.name(), "it to serve again", SOON, || {
            Ok(complete(&address, model, 4, false)?.status == 200)
        })
        .unwrap();
    let again = installed.cluster.container_pid(NAMESPACE, victim, "gateway").unwrap();
    assert_ne!(before, again, "it was another process that answered");
    assert!(installed.pods_of("operator").unwrap().is_empty());
    // And ready, so that others find it.
    installed.cluster.wait_available(NAMESPACE, "outrigger-gateway", SOON).unwrap();
    for _ in 0..20 {
        assert_eq!(complete(&address, model, 4, false).unwrap().status, 200);
    }
    away.back().unwrap();
}
