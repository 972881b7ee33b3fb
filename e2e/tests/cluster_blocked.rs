//! Replicas that can't be had: within ten seconds of its being known the deployment says so, and its condition, its
//! event and its printer column say the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use jiff::{SignedDuration, Timestamp};
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::{Installed, condition_of};
use outrigger_e2e::simulated::{IMAGE, NAME, deployment};
use serde_json::{Value, json};
use std::time::Duration;

/// How soon a user is told, by the cluster's own times: from the moment at which somebody knew it.
const TOLD: SignedDuration = SignedDuration::from_secs(10);
/// How long this test looks for it: a node has to start a pod before, on a busy machine of two cores.
const SOON: Duration = Duration::from_secs(90);

/// The simulated engine's deployment, with something else in its `engine`.
fn with(replicas: u32, image: &str, engine: &str) -> String {
    let plain = deployment("blocked", replicas, &["--model=blocked"], image);
    let resources = "resources: {requests: {cpu: 5m, memory: 16Mi}}";
    assert!(plain.contains(resources), "{plain}");
    plain.replace(resources, engine)
}

/// A time that the API server wrote.
fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap_or_else(|| panic!("{value} is no time")).parse().unwrap()
}

/// When the deployment came into being.
fn made(found: &Value) -> Timestamp {
    time(&found["metadata"]["creationTimestamp"])
}

/// When the kubelet first said that this image can't be had.
fn tried(namespace: &Namespace, image: &str) -> Timestamp {
    let events = namespace.json(&["get", "events", "--field-selector=reason=Failed"]).unwrap();
    let about = |event: &&Value| event["message"].as_str().unwrap().contains(image);
    let times = events["items"].as_array().unwrap().iter().filter(about).map(|e| time(&e["firstTimestamp"]));
    times.min().expect("the kubelet tells it")
}

/// Waits until the deployment is blocked for this reason and these words, compares who says it, and how long after
/// `known` it was said.
fn is_told(
    installed: &Installed,
    namespace: &Namespace,
    known: impl Fn(&Value) -> Timestamp,
    reason: &str,
    words: &str,
) {
    let what = format!("`{words}` to be told");
    let found = installed.cluster.wait_for(namespace.name(), &what, SOON, || {
        let found = installed.deployment(namespace.name(), NAME)?;
        let told = condition_of(&found, "Blocked").is_some_and(|condition| {
            condition["status"] == "True" && condition["message"].as_str().unwrap().contains(words)
        });
        Ok(told.then_some(found))
    });
    let found = found.unwrap();
    let condition = condition_of(&found, "Blocked").unwrap();
    assert_eq!(condition["reason"], reason, "{condition}");
    let took = time(&condition["lastTransitionTime"]).duration_since(known(&found));
    println!("`{words}` was told after {took:?}");
    assert!(took <= TOLD, "{took:?}: {condition}");
    let message = found.pointer("/status/message").and_then(Value::as_str).unwrap();
    assert!(message.contains(words), "{message}");
    let column = namespace.kubectl(&["get", "modeldeployment", NAME, "-o", "wide"]).unwrap();
    assert!(column.contains(words), "{column}");
    // Events are written after the status, by a queue of their own.
    let event = installed.cluster.wait_for(namespace.name(), "the event", SOON, || {
        let events = namespace.json(&["get", "events"])?;
        let about = |event: &&Value| {
            event["involvedObject"]["kind"] == "ModelDeployment" && event["reason"] == "Blocked"
        };
        let found = events["items"].as_array().unwrap().iter().filter(about).cloned().collect::<Vec<_>>();
        Ok(found.into_iter().find(|event| event["message"].as_str().unwrap().contains(words)))
    });
    assert_eq!(event.unwrap()["type"], "Warning");
}

fn start(installed: &'static Installed, prefix: &str, objects: &str) -> Namespace {
    let namespace = installed.cluster.restricted_namespace(prefix).unwrap();
    namespace.apply(objects).unwrap();
    namespace
}

/// proves O.5: two nodes have one accelerator each, and three replicas want one.
#[test]
fn a_shortage_of_accelerators_is_told_in_numbers() {
    let Some(_) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let gpu = "resources: {limits: {nvidia.com/gpu: 1}, requests: {cpu: 5m, memory: 16Mi}}";
    let namespace = start(installed, "gpus", &with(3, IMAGE, gpu));
    is_told(installed, &namespace, made, "InsufficientResources", "needs 1 × nvidia.com/gpu, 0 of 2 free");
    // Two are enough.
    namespace.kubectl(&["scale", "modeldeployment", NAME, "--replicas=2"]).unwrap();
    installed.wait_condition(namespace.name(), NAME, "Blocked", "False", SOON).unwrap();
    installed.wait_condition(namespace.name(), NAME, "Available", "True", SOON).unwrap();
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let installed = Installed::get().unwrap();
    let image = "registry.invalid/engine:1";
    let resources = "resources: {requests: {cpu: 5m, memory: 16Mi}}";
    let namespace = start(installed, "image", &with(1, image, resources));
    is_told(
        installed,
        &namespace,
        |_| tried(&namespace, image),
        "ImageNotPulled",
        "image registry.invalid/engine:1 can't be pulled",
    );
}

#[test]
fn a_quota_is_named_with_its_numbers() {
    let installed = Installed::get().unwrap();
    let namespace = installed.cluster.restricted_namespace("quota").unwrap();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "few" }, "spec": { "hard": { "pods": "0" } },
    });
    namespace.apply(&quota.to_string()).unwrap();
    // The controller of quotas counts first; before that it refuses too, in other words.
    installed
        .cluster
        .wait_until(namespace.name(), "the quota", SOON, || {
            Ok(namespace.json(&["get", "resourcequota", "few"])?.pointer("/status/hard/pods").is_some())
        })
        .unwrap();
    namespace.apply(&deployment("blocked", 1, &["--model=blocked"], IMAGE)).unwrap();
    is_told(
        installed,
        &namespace,
        made,
        "QuotaExceeded",
        "quota few leaves too little: needs 1 pod, 0 of 0 used",
    );
}

#[test]
fn a_selector_that_no_node_matches_is_told() {
    let installed = Installed::get().unwrap();
    let plain = deployment("blocked", 1, &["--model=blocked"], IMAGE);
    let selecting =
        plain.replace("      spec:\n", "      spec:\n        nodeSelector: {accelerator: none-such}\n");
    assert_ne!(plain, selecting);
    let namespace = start(installed, "selector", &selecting);
    is_told(installed, &namespace, made, "Unschedulable", "don't match its node selector or affinity");
}
