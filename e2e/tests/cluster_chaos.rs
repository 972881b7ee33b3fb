//! What a cluster does to programs: processes are killed, the API server goes away, a node is cut off, people edit and
//! delete by hand. Callers notice none of it, or no more than is said here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use outrigger_e2e::caller::{Callers, complete};
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::{Installed, NAMESPACE, condition_of};
use outrigger_e2e::simulated::{IMAGE, NAME, edit, serving};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A whole rollout of three short steps, with interruptions.
const ROLLOUT: Duration = Duration::from_secs(300);
/// What is put right by itself within seconds.
const SOON: Duration = Duration::from_secs(90);

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

/// proves O.2: the operator's replicas are killed one after the other, again and again, while a rollout is under way;
/// it is promoted all the same, step by step, and no request fails.
#[test]
fn an_operator_that_is_killed_goes_on_where_it_was() {
    let installed = Installed::get().unwrap();
    let model = "chaos-operator";
    let namespace = serving(installed, "killed", model).unwrap();
    let before = installed.stable(namespace.name(), NAME).unwrap();
    let calls = callers(installed, model);
    edit(&namespace, model, "v2", &[], IMAGE).unwrap();
    let mut killed = 0;
    let began = Instant::now();
    let mut last = Instant::now();
    installed
        .cluster
        .wait_until(namespace.name(), "the promotion", ROLLOUT, || {
            // For a minute a kill every seven seconds; then it has to come to an end.
            if began.elapsed() < Duration::from_secs(60) && last.elapsed() > Duration::from_secs(7) {
                kill_operator(installed, killed);
                killed += 1;
                last = Instant::now();
            }
            let stable = installed.stable(namespace.name(), NAME)?;
            Ok(stable != before && killed >= 4)
        })
        .unwrap();
    let tally = calls.stop();
    println!("{killed} kills; {tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    for (pod, count) in installed.restarts(namespace.name(), NAME, "engine").unwrap() {
        assert_eq!(count, 0, "{pod}");
    }
    installed.cluster.wait_available(NAMESPACE, "outrigger-operator", SOON).unwrap();
}

/// Kills one of the operator's processes; the replicas in turn.
fn kill_operator(installed: &Installed, turn: usize) {
    let label = "app.kubernetes.io/component=operator";
    let found = installed.cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", label]).unwrap();
    let pods = items(&found);
    let victim = name(pods.iter().cycle().nth(turn).unwrap());
    // Restarting already: killed enough.
    let _ = installed.cluster.signal(NAMESPACE, victim, "operator", "KILL");
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
    let calls = callers(installed, model);
    let streams = Callers::start(installed.gateway(), model, 2, 4000, true, Duration::ZERO);
    let stopped = cluster.stop("apiserver").unwrap();
    std::thread::sleep(Duration::from_secs(120)); // between two looks
    let meanwhile = calls.tally();
    assert_eq!(meanwhile.failed, 0, "{meanwhile:?}");
    assert!(meanwhile.all() > 500, "{meanwhile:?}");
    stopped.mend().unwrap();
    edit(&namespace, model, "v2", &[], IMAGE).unwrap();
    installed.wait_promoted(namespace.name(), NAME, &before, ROLLOUT).unwrap();
    let (tally, streams) = (calls.stop(), streams.stop());
    println!("{tally:?}\n{streams:?}");
    assert_eq!((tally.failed, streams.failed), (0, 0), "{tally:?} {streams:?}");
    for (pod, count) in installed.restarts(namespace.name(), NAME, "engine").unwrap() {
        assert_eq!(count, 0, "{pod}");
    }
}

/// One of two gateways is killed: the other one serves, and the killed one is back by itself. Connections to a process
/// that is gone can't be saved; that lasts no longer than its restart.
#[test]
fn a_gateway_that_is_killed_is_back_at_once() {
    let installed = Installed::get().unwrap();
    let model = "chaos-gateway";
    let namespace = serving(installed, "gateway", model).unwrap();
    let label = "app.kubernetes.io/component=gateway";
    let found = installed.cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", label]).unwrap();
    let victim = items(&found).first().map(|pod| name(pod).to_owned()).unwrap();
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

/// A node is cut off and comes back. Its replicas are unreachable: requests go to the others, and all is well again
/// when the cable is plugged in.
#[test]
fn a_node_that_is_cut_off_is_done_without() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let model = "chaos-node";
    let namespace = serving(installed, "node", model).unwrap();
    let nodes: Vec<String> = pods(&namespace).iter().map(|pod| pod["spec"]["nodeName"].to_string()).collect();
    assert_ne!(nodes[0], nodes[1], "replicas are spread over nodes");
    // A gateway on the node that stays: what kube-proxy does with the other one's is not Outrigger's.
    let label = "app.kubernetes.io/component=gateway";
    let found = installed.cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", label]).unwrap();
    let near =
        found["items"].as_array().unwrap().iter().find(|pod| pod["spec"]["nodeName"] == "node-1").unwrap();
    let address = format!("{}:8080", near["status"]["podIP"].as_str().unwrap());
    let calls = Callers::start(&address, model, 4, 8, false, Duration::from_millis(50));
    let cable = cluster.unplug("node-2").unwrap();
    std::thread::sleep(Duration::from_secs(15)); // between two looks
    let cut = calls.tally();
    // A request that was on that node when the cable was pulled is lost; every later one is answered.
    installed
        .cluster
        .wait_until("default", "a hundred more answers", SOON, || Ok(calls.tally().all() >= cut.all() + 100))
        .unwrap();
    let later = calls.tally();
    assert_eq!(later.failed, cut.failed, "{later:?}");
    assert!(cut.failed <= 8, "{cut:?}");
    cable.plug().unwrap();
    cluster.wait_node("node-2", true, SOON).unwrap();
    installed.wait_condition(namespace.name(), NAME, "Available", "True", SOON).unwrap();
    let end = calls.stop();
    println!("cut off: {cut:?}\nlater: {later:?}\nin the end: {end:?}");
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
