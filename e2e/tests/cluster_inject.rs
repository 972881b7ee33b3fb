//! Engines that nobody's ModelDeployment owns, on the real cluster: the label on a pod template is all that is added.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::caller::complete;
use outrigger_e2e::cluster::Namespace;
use outrigger_e2e::installed::{Installed, NAMESPACE, RELEASE};
use outrigger_e2e::program::root;
use outrigger_e2e::simulated::IMAGE;
use serde_json::{Value, json};
use std::time::Duration;

/// What comes by itself within seconds.
const SOON: Duration = Duration::from_secs(90);

/// A Deployment of one simulated engine and its Service, as someone has it who knows nothing of the sidecar.
fn existing(port: &Value, target: &Value, annotations: &Value, more: &[Value]) -> String {
    let restricted = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let mut containers = vec![json!({
        "name": "app", "image": IMAGE, "args": ["--host=0.0.0.0", "--port=8000", "--model=existing"],
        "ports": [port], "securityContext": own, "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}},
    })];
    containers.extend(more.iter().cloned());
    let labels = json!({"app": "existing", "outrigger.dev/inject": "true"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "existing"},
        "spec": {
            "selector": {"matchLabels": {"app": "existing"}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {"containers": containers, "securityContext": restricted},
            },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "existing"},
        "spec": {"selector": {"app": "existing"}, "ports": [{"port": 80, "targetPort": target}]},
    });
    format!("{deployment}\n---\n{service}\n")
}

/// Waits until the Service answers, and looks whether it did so through the sidecar.
fn serves(installed: &'static Installed, namespace: &Namespace) -> Value {
    installed.cluster.wait_available(namespace.name(), "existing", SOON).unwrap();
    let path = "jsonpath={.spec.clusterIP}";
    let address = namespace.kubectl(&["get", "service", "existing", "-o", path]).unwrap();
    let address = format!("{}:80", address.trim());
    installed
        .cluster
        .wait_until(namespace.name(), "the Service answers", SOON, || {
            Ok(complete(&address, "existing", 4, false).is_ok_and(|answer| answer.status == 200))
        })
        .unwrap();
    let pods = namespace.json(&["get", "pods", "-l", "app=existing"]).unwrap();
    let pod = pods["items"][0].clone();
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "outrigger", "{pod}");
    let name = pod["metadata"]["name"].as_str().unwrap();
    let args = ["-sS", "--max-time", "5", "http://127.0.0.1:9001/metrics"];
    let metrics = installed.cluster.from_pod(namespace.name(), name, "outrigger", "curl", &args).unwrap();
    let passed =
        metrics.lines().find_map(|line| line.strip_prefix("outrigger_sidecar_first_byte_seconds_count "));
    let counted = passed.is_some_and(|count| count.parse::<u64>().unwrap() > 0);
    assert!(counted, "it passed the sidecar: {metrics}");
    pod
}

#[test]
fn the_label_alone_puts_the_sidecar_before_a_numbered_port() {
    let installed = Installed::get().unwrap();
    let namespace = installed.cluster.namespace("inject-number").unwrap();
    let example = root().join("examples/kubernetes/existing-deployment.yaml");
    namespace.apply(&std::fs::read_to_string(example).unwrap()).unwrap();
    let pod = serves(installed, &namespace);
    let engine = &pod["spec"]["containers"][0];
    assert_eq!(engine["args"], json!(["--host=127.0.0.1", "--port=18000", "--model=existing"]));
    assert!(engine["readinessProbe"].is_null(), "{engine}");
    // Past the sidecar there is no way in.
    let past = format!("{}:18000", pod["status"]["podIP"].as_str().unwrap());
    assert!(complete(&past, "existing", 4, false).is_err());
}

#[test]
fn a_port_of_an_unknown_engine_moves_by_its_name() {
    let installed = Installed::get().unwrap();
    let namespace = installed.cluster.restricted_namespace("inject-name").unwrap();
    let port = json!({"name": "http", "containerPort": 8000});
    namespace.apply(&existing(&port, &json!("http"), &json!({}), &[])).unwrap();
    serves(installed, &namespace);
    let label = "kubernetes.io/service-name=existing";
    let slices = namespace.json(&["get", "endpointslices", "-l", label]).unwrap();
    assert_eq!(slices["items"][0]["ports"][0]["port"], 9000, "{slices}");
}

#[test]
fn what_cannot_be_intercepted_is_told_where_one_looks() {
    let installed = Installed::get().unwrap();
    let namespace = installed.cluster.restricted_namespace("inject-refused").unwrap();
    let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let second = json!({"name": "logs", "image": IMAGE, "securityContext": own});
    let port = json!({"name": "http", "containerPort": 8000});
    namespace.apply(&existing(&port, &json!("http"), &json!({}), &[second])).unwrap();
    let told = |kind: &str, path: &str| {
        let found = namespace.json(&["get", kind]).unwrap();
        let all = found["items"].as_array().cloned().unwrap_or_default();
        all.iter()
            .flat_map(|item| match item.pointer(path) {
                Some(Value::Array(conditions)) => conditions.clone(),
                Some(message) => vec![json!({"message": message})],
                None => vec![],
            })
            .any(|said| {
                let message = said["message"].as_str().unwrap_or_default();
                message.contains("app, logs") && message.contains("outrigger.dev/container")
            })
    };
    for (kind, path) in
        [("events", "/message"), ("replicasets", "/status/conditions"), ("deployments", "/status/conditions")]
    {
        let what = format!("{kind} tell why there is no pod");
        installed.cluster.wait_until(namespace.name(), &what, SOON, || Ok(told(kind, path))).unwrap();
    }
    // What they say to do is enough.
    let annotation = json!({"outrigger.dev/container": "app"});
    let second = json!({"name": "logs", "image": IMAGE, "args": ["--port=7000"], "securityContext": own});
    namespace.apply(&existing(&port, &json!("http"), &annotation, &[second])).unwrap();
    serves(installed, &namespace);
}

/// A pod that complies with the restricted level.
fn pod(name: &str, label: bool) -> String {
    let own = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let labels = if label { json!({"outrigger.dev/inject": "true"}) } else { json!({}) };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{
            "name": "app", "image": IMAGE, "securityContext": own, "ports": [{"name": "http", "containerPort": 8000}],
        }]},
    })
    .to_string()
}

/// The same webhook, by the chart's own selectors, at an address where nobody is: in a namespace of the test's own.
#[test]
fn a_webhook_that_is_away_stops_labelled_pods_alone() {
    let installed = Installed::get().unwrap();
    let cluster = installed.cluster;
    let namespace = cluster.restricted_namespace("inject-away").unwrap();
    let mut away = cluster.json(&["get", "mutatingwebhookconfiguration", RELEASE]).unwrap();
    let name = format!("outrigger-test-{}", namespace.name());
    away["metadata"] = json!({"name": name});
    let webhook = &mut away["webhooks"][0];
    webhook["name"] = json!("away.outrigger.dev");
    webhook["timeoutSeconds"] = json!(2);
    webhook["clientConfig"]["service"]["name"] = json!("nobody");
    webhook["clientConfig"]["service"]["namespace"] = json!(namespace.name());
    let only = json!({"key": "kubernetes.io/metadata.name", "operator": "In", "values": [namespace.name()]});
    webhook["namespaceSelector"]["matchExpressions"].as_array_mut().unwrap().push(only);
    cluster.feed(&["create", "-f", "-"], &away.to_string()).unwrap();
    let create = ["create", "-n", namespace.name(), "-f", "-"];
    // A new configuration takes a moment to reach the API server's admission.
    let mut tries = 0;
    let stopped = cluster.wait_until(namespace.name(), "labelled pods are stopped", SOON, || {
        tries += 1;
        let output = cluster.try_feed(&create, &pod(&format!("labelled-{tries}"), true))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(!output.status.success() && said.contains("away.outrigger.dev"))
    });
    let other = cluster.feed(&create, &pod("other", false));
    cluster.kubectl(&["delete", "mutatingwebhookconfiguration", &name]).unwrap();
    stopped.unwrap();
    other.unwrap();
    cluster.feed(&create, &pod("afterwards", true)).unwrap();
}

#[test]
fn its_own_namespace_is_never_touched() {
    let installed = Installed::get().unwrap();
    let ask = |namespace: &str| -> Value {
        let args = ["create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-"];
        let made = installed.cluster.feed(&args, &pod("dry", true)).unwrap();
        serde_json::from_str(&made).unwrap()
    };
    let namespace = installed.cluster.restricted_namespace("inject-dry").unwrap();
    assert_eq!(ask(namespace.name())["spec"]["initContainers"][0]["name"], "outrigger");
    assert!(ask(NAMESPACE)["spec"]["initContainers"].is_null());
}
