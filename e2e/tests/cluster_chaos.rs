//! What a cluster does to programs: processes are killed, the API server goes away, a node is cut off, people edit and
//! delete by hand. Callers notice none of it, or no more than is said here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::caller::{Callers, complete};
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::{Installed, NAMESPACE, condition_of};
use outrigger_e2e::simulated::{IMAGE, NAME, changed, edit, serving, serving_as};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A whole rollout of three short steps, with interruptions.
const ROLLOUT: Duration = Duration::from_secs(300);
/// What is put right by itself within seconds.
const SOON: Duration = Duration::from_secs(90);
/// How long no API server runs.
const TWO_MINUTES: Duration = Duration::from_secs(120);
/// How long replicas of a node that is gone may still be tried: the time to connect and to a first byte, a few times.
const UNNOTICED: Duration = Duration::from_secs(10);

fn callers(installed: &Installed, model: &str) -> Callers {
    Callers::start(installed.gateway(), model, 8, 8, false, Duration::from_millis(50))
}

fn pods(namespace: &Namespace) -> Vec<Value> {
    let found = namespace.json(&["get", "pods", "-l", "outrigger.dev/deployment=chat"]).unwrap();
    items(&found)
}

fn items(list: &Value) -> Vec<Value> {
    list.pointer("/items").and_then(Value::as_array).unwrap().clone()
}

fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap()
}

/// proves O.1: two minutes without an API server, under traffic. Nothing is rolled back, nothing restarts, no request
/// fails; afterwards what was asked for meanwhile is done.
#[test]
fn two_minutes_without_an_api_server_are_not_noticed() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let model = "chaos-api";
    let namespace = serving(installed, "noapi", model).unwrap();
    let before = installed.stable(namespace.name(), NAME).unwrap();
    let lives = installed.lives(namespace.name(), NAME).unwrap();
    assert_eq!(lives.uids().len(), 2, "{lives:?}");
    let calls = callers(installed, model);
    let streams = Callers::start(installed.gateway(), model, 2, 4000, true, Duration::ZERO);
    let stopped = cluster.stop("apiserver").unwrap();
    let began = Instant::now();
    cluster
        .wait_until(namespace.name(), "two minutes to pass", TWO_MINUTES * 2, || {
            let meanwhile = calls.tally();
            assert_eq!(meanwhile.failed, 0, "{meanwhile:?}");
            Ok(began.elapsed() >= TWO_MINUTES)
        })
        .unwrap();
    let meanwhile = calls.tally();
    assert!(meanwhile.all() > 500, "{meanwhile:?}");
    streams.no_more();
    stopped.mend().unwrap();
    // Before anything is asked for: what restarted while nobody could be told is known once the kubelets have told it.
    let renewed = |node: &str| -> anyhow::Result<String> {
        let path = "jsonpath={.spec.renewTime}";
        cluster.kubectl(&["get", "lease", node, "-n", "kube-node-lease", "-o", path])
    };
    for node in &cluster.description().nodes {
        let first = renewed(&node.name).unwrap();
        let again = || Ok(renewed(&node.name)? != first);
        cluster.wait_until("kube-node-lease", "the kubelet to be heard of", SOON, again).unwrap();
    }
    installed.wait_condition(namespace.name(), NAME, "Available", "True", SOON).unwrap();
    assert_eq!(installed.lives(namespace.name(), NAME).unwrap(), lives);
    assert_eq!(installed.stable(namespace.name(), NAME).unwrap(), before);
    edit(&namespace, model, "v2", &[], IMAGE).unwrap();
    installed.wait_promoted(namespace.name(), NAME, &before, ROLLOUT).unwrap();
    let (tally, streams) = (calls.stop(), streams.stop());
    println!("{tally:?}\n{streams:?}");
    assert_eq!((tally.failed, streams.failed), (0, 0), "{tally:?} {streams:?}");
    assert_eq!(installed.lives(namespace.name(), NAME).unwrap().all_restarts("engine"), 0);
}

/// One of two gateways is killed: the other one serves, and the killed one is back by itself. Connections to a process
/// that is gone can't be saved; that lasts no longer than its restart.
#[test]
fn a_gateway_that_is_killed_is_back_at_once() {
    let installed = Installed::get().unwrap();
    let model = "chaos-gateway";
    let namespace = serving(installed, "gateway", model).unwrap();
    let victim = installed.pods_of("gateway").unwrap().first().map(|pod| name(pod).to_owned()).unwrap();
    let calls = callers(installed, model);
    installed.cluster.signal(NAMESPACE, &victim, "gateway", "KILL").unwrap();
    let killed = calls.since();
    installed
        .cluster
        .wait_until(namespace.name(), "five hundred answers", SOON, || Ok(calls.tally().all() >= 500))
        .unwrap();
    installed.cluster.wait_available(NAMESPACE, "outrigger-gateway", SOON).unwrap();
    let end = calls.stop();
    println!("killed at {killed:?}: {end:?}");
    // Its port refuses until the kubelet has started it again, which it does at once.
    assert!(end.last_failed < killed + Duration::from_secs(10), "{end:?}");
    assert!(end.failed * 5 <= end.all(), "{end:?}");
}

/// Replicas that may not stand on one node.
fn apart(text: String) -> String {
    let rule = "      spec:\n        affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
                [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {outrigger.dev/deployment: \
                chat}}}]}}\n";
    changed(&text, "      spec:\n", rule)
}

/// No pod is put on this node, until dropped.
struct Cordon(&'static Cluster, &'static str);

impl Cordon {
    fn begin(cluster: &'static Cluster, node: &'static str) -> Self {
        cluster.kubectl(&["cordon", node]).unwrap();
        Self(cluster, node)
    }
}

impl Drop for Cordon {
    fn drop(&mut self) {
        let _ = self.0.kubectl(&["uncordon", self.1]);
    }
}

/// The address of a gateway that does not stand on this node: one is made to, if there is none.
fn gateway_apart_from(installed: &'static Installed, node: &'static str) -> String {
    let elsewhere = || -> Option<String> {
        let pods = installed.pods_of("gateway").unwrap();
        let found = pods.iter().find(|pod| pod["spec"]["nodeName"] != node)?;
        Some(format!("{}:8080", found["status"]["podIP"].as_str()?))
    };
    if elsewhere().is_none() {
        let cordon = Cordon::begin(installed.cluster, node);
        let pods = installed.pods_of("gateway").unwrap();
        installed
            .cluster
            .kubectl(&["delete", "pod", "-n", NAMESPACE, name(&pods[0]), "--wait=false"])
            .unwrap();
        installed.cluster.wait_available(NAMESPACE, "outrigger-gateway", SOON).unwrap();
        drop(cordon);
    }
    elsewhere().expect("a gateway stands on the other node")
}

/// A node is cut off until the cluster has given it up, and comes back. Its replicas are unreachable: requests go to
/// the others, and all is well again when the cable is plugged in.
#[test]
fn a_node_that_is_cut_off_is_done_without() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let model = "chaos-node";
    let namespace = serving_as(installed, "node", model, apart).unwrap();
    let standing: BTreeSet<String> =
        pods(&namespace).iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap().to_owned()).collect();
    // The other one carries the host's way to Services and names.
    let node = "node-2";
    assert!(standing.contains(node) && standing.len() == 2, "{standing:?}");
    let lives = installed.lives(namespace.name(), NAME).unwrap();
    // What kube-proxy does with the gateway that is cut off is not Outrigger's.
    let address = gateway_apart_from(installed, node);
    let calls = Callers::start(&address, model, 4, 8, false, Duration::from_millis(50));
    cluster.wait_until(namespace.name(), "answers", SOON, || Ok(calls.tally().all() >= 20)).unwrap();
    let at = calls.since();
    let cable = cluster.unplug(node).unwrap();
    cluster.wait_node(node, false, SOON).unwrap();
    let cut = calls.tally();
    cluster
        .wait_until(namespace.name(), "two hundred more answers", SOON, || {
            Ok(calls.tally().all() >= cut.all() + 200)
        })
        .unwrap();
    let later = calls.tally();
    println!("cut off at {at:?}; not ready at {:?}: {cut:?}\nlater: {later:?}", calls.since());
    // What was on that node when the cable was pulled is lost, and what was sent there until its silence was noticed;
    // whether the cluster knows it too makes no difference.
    assert!(later.last_failed < at + UNNOTICED, "{later:?}");
    assert!(later.failed <= 8, "{later:?}");
    cable.plug().unwrap();
    cluster.wait_node(node, true, SOON).unwrap();
    installed.wait_condition(namespace.name(), NAME, "Available", "True", SOON).unwrap();
    cluster.wait_available(NAMESPACE, "outrigger-gateway", SOON).unwrap();
    cluster.wait_available(NAMESPACE, "outrigger-operator", SOON).unwrap();
    let end = calls.stop();
    println!("in the end: {end:?}");
    assert_eq!(end.failed, later.failed, "{end:?}");
    assert_eq!(installed.lives(namespace.name(), NAME).unwrap(), lives);
}

/// proves O.3: pods that are deleted are made anew, objects that are edited are put back, and what somebody else has
/// added to them stays.
#[test]
fn what_is_edited_or_deleted_by_hand_is_put_right() {
    let installed = Installed::get().unwrap();
    let model = "chaos-hands";
    let namespace = serving(installed, "hands", model).unwrap();
    let calls = callers(installed, model);
    let first = name(&pods(&namespace)[0]).to_owned();
    namespace.kubectl(&["delete", "pod", &first, "--wait=false"]).unwrap();
    let set = namespace.kubectl(&["get", "rs", "-l", "outrigger.dev/deployment=chat", "-o", "name"]).unwrap();
    namespace.kubectl(&["annotate", set.trim(), "example.com/mine=kept"]).unwrap();
    namespace.kubectl(&["scale", set.trim(), "--replicas=5"]).unwrap();
    let patch = r#"{"spec":{"selector":{"outrigger.dev/revision":"nonsense"}}}"#;
    namespace.kubectl(&["patch", "service", NAME, "--type=merge", "-p", patch]).unwrap();
    namespace.kubectl(&["delete", "networkpolicy", NAME]).unwrap();
    let stable = installed.stable(namespace.name(), NAME).unwrap();
    installed
        .cluster
        .wait_until(namespace.name(), "everything to be put back", SOON, || {
            let set = namespace.json(&["get", set.trim()])?;
            let service = namespace.json(&["get", "service", NAME])?;
            namespace.kubectl(&["get", "networkpolicy", NAME])?;
            let pods = pods(&namespace);
            let leaving = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_none();
            Ok(set["spec"]["replicas"] == 2
                && set["metadata"]["annotations"]["example.com/mine"] == "kept"
                && service["spec"]["selector"]["outrigger.dev/revision"] == stable.as_str()
                && pods.iter().filter(leaving).count() == 2
                && pods.iter().all(|pod| name(pod) != first))
        })
        .unwrap();
    installed.wait_condition(namespace.name(), NAME, "Available", "True", SOON).unwrap();
    let tally = calls.stop();
    assert_eq!(tally.failed, 0, "{tally:?}");
}

/// proves O.6: a namespace that is deleted while a canary is under way is gone soon, and nothing is stuck; another
/// deployment does not notice.
#[test]
fn a_namespace_that_is_deleted_mid_canary_is_gone() {
    let installed = Installed::get().unwrap();
    let other = serving(installed, "other", "chaos-other").unwrap();
    let calls = callers(installed, "chaos-other");
    let model = "chaos-gone";
    let namespace = serving(installed, "gone", model).unwrap();
    edit(&namespace, model, "v2", &[], IMAGE).unwrap();
    installed
        .cluster
        .wait_until(namespace.name(), "a canary", SOON, || {
            Ok(installed.deployment(namespace.name(), NAME)?["status"]["canary"].is_object())
        })
        .unwrap();
    installed.cluster.kubectl(&["delete", "namespace", namespace.name(), "--wait=false"]).unwrap();
    installed
        .cluster
        .wait_until("default", "the model to be unknown", Duration::from_secs(30), || {
            Ok(complete(installed.gateway(), model, 4, false)?.status == 404)
        })
        .unwrap();
    installed
        .cluster
        .wait_until("default", "the namespace to be gone", Duration::from_secs(150), || {
            Ok(installed.cluster.kubectl(&["get", "namespace", namespace.name()]).is_err())
        })
        .unwrap();
    let found = installed.deployment(other.name(), NAME).unwrap();
    assert_eq!(condition_of(&found, "Available").unwrap()["status"], "True");
    let tally = calls.stop();
    assert_eq!(tally.failed, 0, "{tally:?}");
}
