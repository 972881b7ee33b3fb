//! The examples for Kubernetes, each applied as it stands and then used. What only has the image of a real engine runs
//! the simulated one under that name: it understands vLLM's arguments and MLServer's variables.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::caller::{Answer, Callers, complete, post};
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::Installed;
use outrigger_e2e::program::root;
use outrigger_e2e::simulated::IMAGE;
use serde_json::{Value, json};
use std::time::Duration;

/// From apply to a first answer, on a busy machine of two cores.
const SOON: Duration = Duration::from_secs(90);

fn example(name: &str) -> String {
    std::fs::read_to_string(root().join("examples/kubernetes").join(name)).unwrap()
}

/// The image that an example names.
fn image(example: &str) -> &str {
    example.lines().find_map(|line| line.trim().strip_prefix("image: ")).unwrap()
}

/// Applies an example in a namespace, and waits until it is available.
fn available(installed: &'static Installed, namespace: &Namespace, file: &str, name: &str) -> Value {
    namespace.apply(&example(file)).unwrap();
    installed.wait_condition(namespace.name(), name, "Available", "True", SOON).unwrap()
}

/// Waits for a first good answer: gateways hear of a replica a moment after the status says it.
fn answered(
    installed: &Installed,
    namespace: &Namespace,
    what: &str,
    ask: impl Fn() -> anyhow::Result<Answer>,
) -> Answer {
    let first = installed.cluster.wait_for(namespace.name(), what, SOON, || {
        let answer = ask()?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(Some(answer))
    });
    first.unwrap()
}

/// Every file of the folder has a test; that of an existing Deployment stands beside the webhook's.
#[test]
fn every_example_is_applied_by_a_test() {
    let folder = std::fs::read_dir(root().join("examples/kubernetes")).unwrap();
    let mut files: Vec<String> =
        folder.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(
        files,
        ["canary.yaml", "existing-deployment.yaml", "mlserver.yaml", "smallest.yaml", "vllm.yaml"]
    );
    let webhook = std::fs::read_to_string(root().join("e2e/tests/cluster_inject.rs")).unwrap();
    assert!(webhook.contains("existing-deployment.yaml"));
}

/// Eight lines are enough.
#[test]
fn the_smallest_serves() {
    let text = example("smallest.yaml");
    assert_eq!(text.lines().count(), 8, "{text}");
    let installed = Installed::get().unwrap();
    let namespace = installed.cluster.namespace("smallest").unwrap();
    let found = available(installed, &namespace, "smallest.yaml", "demo");
    assert_eq!(found["status"]["replicas"], 1, "{found}");
    answered(installed, &namespace, "an answer", || complete(installed.gateway(), "demo", 4, false));
}

/// A changed argument is tried on some of the callers, while the others stay where they were.
#[test]
fn the_canary_is_tried() {
    let installed = Installed::get().unwrap();
    let namespace = installed.cluster.namespace("canary").unwrap();
    available(installed, &namespace, "canary.yaml", "canary");
    answered(installed, &namespace, "an answer", || complete(installed.gateway(), "canary", 4, false));
    let callers = Callers::start(installed.gateway(), "canary", 8, 8, false, Duration::from_millis(50));
    let text = example("canary.yaml");
    let changed = text.replace("[--model=canary, --version=v1]", "[--model=canary, --version=v2]");
    assert_ne!(text, changed);
    namespace.apply(&changed).unwrap();
    let cluster = installed.cluster;
    let shares = cluster.wait_for(namespace.name(), "callers on the canary", SOON, || {
        let found = installed.deployment(namespace.name(), "canary")?;
        let share = found.pointer("/status/share").and_then(Value::as_str).map(str::to_owned);
        Ok(share.filter(|_| callers.tally().of("v2") > 0))
    });
    assert!(["10%", "25%", "50%"].contains(&shares.unwrap().as_str()));
    let before = callers.tally().of("v1");
    cluster
        .wait_until(
            namespace.name(),
            "others where they were",
            SOON,
            || Ok(callers.tally().of("v1") > before),
        )
        .unwrap();
    let tally = callers.stop();
    assert_eq!(tally.failed, 0, "{tally:?}");
}

/// The simulated engine under the name that an example gives its image.
fn stood_in(cluster: &Cluster, example: &str) {
    cluster.tag_image(IMAGE, image(example)).unwrap();
}

/// Two replicas take the two GPUs; callers reach them by the model's name and its other name.
#[test]
fn vllm_serves_with_gpus() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    stood_in(cluster, &example("vllm.yaml"));
    let namespace = cluster.namespace("vllm").unwrap();
    let secret = ["create", "secret", "generic", "hugging-face", "--from-literal=token=none"];
    namespace.kubectl(&secret).unwrap();
    available(installed, &namespace, "vllm.yaml", "chat");
    cluster
        .wait_until(namespace.name(), "both replicas", SOON, || {
            let pods = namespace.json(&["get", "pods", "-l", "outrigger.dev/deployment=chat"])?;
            let ready = |pod: &&Value| {
                let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
                conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            };
            Ok(pods["items"].as_array().is_some_and(|pods| pods.iter().filter(ready).count() == 2))
        })
        .unwrap();
    for model in ["llama-3.1-8b", "chat-default"] {
        let answer =
            answered(installed, &namespace, model, || complete(installed.gateway(), model, 4, false));
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["usage"]["completion_tokens"], 4, "{body}");
    }
    let pods = namespace.json(&["get", "pods"]).unwrap();
    let devices = &pods["items"][0]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"];
    assert_eq!(devices, "1", "{pods}");
}

/// A V2 request through the gateway, with a batching sidecar.
#[test]
fn mlserver_infers() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    stood_in(cluster, &example("mlserver.yaml"));
    let namespace = cluster.namespace("mlserver").unwrap();
    // The simulated engine loads nothing, but the pod waits for the volume.
    namespace.kubectl(&["create", "configmap", "plane-model", "--from-literal=model.joblib=none"]).unwrap();
    available(installed, &namespace, "mlserver.yaml", "plane");
    let rows = json!({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]});
    let ask = || post(installed.gateway(), "/v2/models/plane/infer", &rows.to_string(), "");
    let answer = answered(installed, &namespace, "an answer", ask);
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["model_name"], "plane", "{body}");
    assert_eq!(body["outputs"][0]["shape"][0], 1, "{body}");
}
