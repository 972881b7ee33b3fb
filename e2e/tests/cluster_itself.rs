//! The cluster that other tests stand on. `cargo xtask test` brings it up, runs these tests one at a time, and takes it
//! down.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use outrigger_e2e::cluster::{Cluster, Namespace, xtask};
use serde_json::Value;
use std::time::Duration;

/// A pod of an image that is there needs seconds; a bound, not an expectation.
const STARTS: Duration = Duration::from_secs(120);
/// A lost node is noticed after 20 seconds; a bound.
const NOTICED: Duration = Duration::from_secs(120);

/// A simulated engine on each node, behind one Service.
const ENGINES: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: engine}
spec:
  selector: {matchLabels: {app: engine}}
  template:
    metadata: {labels: {app: engine}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: engine
        image: outrigger/engine-sim:0.1.0
        imagePullPolicy: Never
        args: [--listen=0.0.0.0:8000, --version=$(NODE)]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        ports: [{name: http, containerPort: 8000}]
        readinessProbe: {httpGet: {path: /health, port: http}, periodSeconds: 1}
        securityContext:
          runAsNonRoot: true
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL]}
          seccompProfile: {type: RuntimeDefault}
---
apiVersion: v1
kind: Service
metadata: {name: engine}
spec:
  selector: {app: engine}
  ports: [{port: 80, targetPort: http}]
";

/// A pod that wants GPUs, and does nothing with them.
const WANTS_GPU: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: waits
    image: outrigger/pause:0.1.0
    imagePullPolicy: Never
    resources: {limits: {nvidia.com/gpu: \"1\"}}
";

/// Two engines under the *restricted* level, both ready: their pods' names.
fn engines(cluster: &'static Cluster) -> (Namespace, Vec<String>) {
    let namespace = cluster.restricted_namespace("itself").unwrap();
    namespace.apply(ENGINES).unwrap();
    let wanted = cluster.description().nodes.len().max(1);
    let pods = cluster.wait_for(namespace.name(), "an engine on each node", STARTS, || {
        let status = namespace.json(&["get", "daemonset", "engine"])?;
        let ready = status.pointer("/status/numberReady").and_then(Value::as_u64);
        let names = namespace.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"])?;
        let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
        Ok((ready >= Some(wanted as u64) && names.len() >= wanted).then_some(names))
    });
    (namespace, pods.unwrap())
}

#[test]
fn up_leaves_a_cluster_that_is_up_as_it_is() {
    let cluster = Cluster::get().unwrap();
    let before = cluster.now().unwrap().processes;
    xtask(&["cluster", "up"]).unwrap();
    assert_eq!(cluster.now().unwrap().processes, before);
}

#[test]
fn pods_on_each_node_reach_a_service_by_its_name_and_so_does_the_host() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let (namespace, pods) = engines(cluster);
    let url = format!("http://engine.{}.svc/v1/models", namespace.name());
    for pod in &pods {
        // A proxy learns of endpoints a moment after they are ready.
        cluster
            .wait_until(namespace.name(), &format!("{pod} to reach {url}"), STARTS, || {
                let args = ["-sS", "-m", "10", &url];
                Ok(cluster.from_pod(namespace.name(), pod, "engine", "curl", &args)?.contains("demo"))
            })
            .unwrap();
    }
    let address =
        namespace.kubectl(&["get", "service", "engine", "-o", "jsonpath={.spec.clusterIP}"]).unwrap();
    let url = format!("http://{address}/v1/models");
    let answer = std::process::Command::new("curl").args(["-sS", "-m", "10", &url]).output().unwrap();
    assert!(String::from_utf8_lossy(&answer.stdout).contains("demo"), "{answer:?}");
}

#[test]
fn nothing_in_a_pod_reaches_the_outside() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let (namespace, pods) = engines(cluster);
    let pod = pods.first().unwrap();
    // An address of the documentation range: nobody is asked, whatever happens.
    let args = ["-sS", "-m", "5", "http://198.51.100.1/"];
    let refused = cluster.from_pod(namespace.name(), pod, "engine", "curl", &args).unwrap_err();
    // Refused at once is 7; a packet that was lost on its way out would be 28.
    assert!(format!("{refused:#}").contains("exit status: 7"), "{refused:#}");
    for node in &cluster.description().nodes {
        let way = cluster.node_exec(&node.name, "ip", ["route", "get", "198.51.100.1"]);
        assert!(way.as_ref().is_err_and(|error| format!("{error:#}").contains("unreachable")), "{way:?}");
    }
    let names = cluster.from_pod(namespace.name(), pod, "engine", "getent", &["hosts", "example.org"]);
    assert!(names.is_err(), "{names:?}");
}

#[test]
fn containers_are_looked_into() {
    let cluster = Cluster::get().unwrap();
    let (namespace, pods) = engines(cluster);
    let help =
        cluster.exec(namespace.name(), &pods[0], "engine", &["/outrigger-engine-sim", "--help"]).unwrap();
    assert!(help.contains("--listen"), "{help}");
    cluster
        .wait_until(namespace.name(), "a line in the engine's log", STARTS, || {
            Ok(!cluster.logs(namespace.name(), &[&pods[0], "-c", "engine"])?.is_empty())
        })
        .unwrap();
}

#[test]
fn gpus_are_counted() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let namespace = cluster.namespace("gpus").unwrap();
    for name in ["one", "two", "three"] {
        namespace.apply(&WANTS_GPU.replace("NAME", name)).unwrap();
    }
    let running = |wanted: usize| {
        cluster.wait_until(namespace.name(), &format!("{wanted} pods with a GPU"), STARTS, || {
            let phases = namespace.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"])?;
            let count = |phase: &str| phases.split(' ').filter(|found| *found == phase).count();
            Ok(count("Running") == wanted && count("Pending") == 3 - wanted)
        })
    };
    running(2).unwrap();
    cluster.set_gpus("node-2", 2).unwrap();
    let more = running(3);
    cluster.set_gpus("node-2", 1).unwrap();
    more.unwrap();
}

#[test]
fn a_node_without_its_cable_is_noticed_and_comes_back() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let cable = cluster.unplug("node-2").unwrap();
    cluster.wait_node("node-2", false, NOTICED).unwrap();
    cable.plug().unwrap();
    cluster.wait_node("node-2", true, NOTICED).unwrap();
}

#[test]
fn the_api_server_killed_comes_back_with_everything_in_it() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let namespace = cluster.namespace("kept").unwrap();
    let killed = cluster.kill("apiserver").unwrap();
    assert!(cluster.kubectl(&["get", "nodes", "--request-timeout=2s"]).is_err());
    killed.mend().unwrap();
    cluster.kubectl(&["get", "namespace", namespace.name()]).unwrap();
}

#[test]
fn a_killed_container_starts_again() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let (namespace, pods) = engines(cluster);
    let pod = &pods[0];
    cluster.signal(namespace.name(), pod, "engine", "KILL").unwrap();
    cluster
        .wait_until(namespace.name(), "one restart, and ready", STARTS, || {
            let pod = namespace.json(&["get", "pod", pod])?;
            let status = pod.pointer("/status/containerStatuses/0").cloned().unwrap_or_default();
            Ok(status["restartCount"] == 1 && status["ready"] == true)
        })
        .unwrap();
}

#[test]
fn the_audit_log_tells_who_asked_for_what() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let begin = cluster.audit_end().unwrap();
    let namespace = cluster.namespace("audit").unwrap();
    let user = format!("system:serviceaccount:{}:default", namespace.name());
    let token = cluster.wait_for(namespace.name(), "a token", STARTS, || {
        Ok(Some(namespace.kubectl(&["create", "token", "default"])?.trim().to_owned()))
    });
    let token = format!("--token={}", token.unwrap());
    let refused = cluster.try_kubectl(&["get", "secrets", "-n", namespace.name(), &token]).unwrap();
    assert!(!refused.status.success());
    cluster
        .wait_until("default", "the request in the audit log", STARTS, || {
            let events = cluster.audit(&user, begin)?;
            let verb = |event: &Value| event.pointer("/verb").and_then(Value::as_str) == Some("list");
            let what = |event: &Value| {
                event.pointer("/objectRef/resource").and_then(Value::as_str) == Some("secrets")
            };
            Ok(events.iter().any(|event| verb(event) && what(event)))
        })
        .unwrap();
}
