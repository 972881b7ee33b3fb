//! What a Kubernetes user does with kubectl and expects to work as it does with a Deployment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::caller::{complete, get};
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::{self, Installed};
use outrigger_e2e::simulated::{IMAGE, NAME, deployment, serving};
use serde_json::Value;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// How soon what a user asked for is seen.
const SEEN: Duration = Duration::from_secs(20);
/// A pod's start, or its end when nobody uses it, on a busy machine of two cores.
const SOON: Duration = Duration::from_secs(60);

/// The operator: used by all tests here, and stopped by one.
static OPERATOR: RwLock<()> = RwLock::new(());

fn using_the_operator() -> RwLockReadGuard<'static, ()> {
    OPERATOR.read().unwrap_or_else(PoisonError::into_inner)
}

fn manifest(model: &str) -> String {
    // What `serving` applies.
    let flag = format!("--model={model}");
    deployment(model, 2, &[&flag, "--iteration=15ms", "--version", "v1"], IMAGE)
}

/// All that stands in a namespace but what Kubernetes itself keeps in each, and events.
fn left(namespace: &Namespace) -> Vec<String> {
    let kinds = namespace.kubectl(&["api-resources", "--verbs=list", "--namespaced", "-o", "name"]).unwrap();
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let all = namespace.kubectl(&["get", &kinds.join(","), "-o", "name", "--ignore-not-found"]).unwrap();
    let kept = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
    all.lines().filter(|object| !kept.contains(object)).map(str::to_owned).collect()
}

/// Every field tells what it is for.
#[test]
fn explain_has_the_documentation() {
    let cluster = Installed::get().unwrap().cluster;
    for (path, words) in [
        ("md", "Serves one model"),
        ("md.spec.rollout", "How a new revision is tried"),
        ("md.spec.rollout.steps", "held"),
        ("md.spec.engine", "What answers them"),
        ("md.spec.engine.resources", "nvidia.com/gpu"),
        ("md.status", "What was observed and decided"),
        ("md.status.canary", "tried"),
    ] {
        let said = cluster.kubectl(&["explain", path]).unwrap();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(words), "{path}: {said}");
        assert!(!said.contains("<empty>"), "{path}: {said}");
    }
    let definition = cluster.json(&["get", "crd", "modeldeployments.outrigger.dev"]).unwrap();
    let mut silent = Vec::new();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    for part in ["spec", "status"] {
        undocumented(&schema[part], part, &mut silent);
    }
    assert!(silent.is_empty(), "{silent:?}");
}

fn undocumented(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["description"].as_str().is_none_or(str::is_empty) {
            found.push(path.clone());
        }
        undocumented(field, &path, found);
        undocumented(&field["items"], &path, found);
        undocumented(&field["additionalProperties"], &path, found);
    }
}

/// `get`, `get -o wide`, `get all`, the short name, `wait` and an empty `diff` after apply.
#[test]
fn get_wait_and_diff() {
    let _operator = using_the_operator();
    let installed = Installed::get().unwrap();
    let model = "kubectl-get";
    let namespace = serving(installed, "get", model).unwrap();
    let stable = installed.stable(namespace.name(), NAME).unwrap();

    let short = namespace.kubectl(&["get", "md"]).unwrap();
    let mut lines = short.lines();
    let header: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NAME", "STABLE", "CANARY", "WEIGHT", "REPLICAS", "AVAILABLE", "AGE"]);
    let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(row[..4], [NAME, stable.as_str(), "2", "True"], "{short}");
    let wide = namespace.kubectl(&["get", "md", NAME, "-o", "wide"]).unwrap();
    for word in ["MODEL", "IMAGE", "MESSAGE", model, IMAGE, &format!("Revision {stable} serves")] {
        assert!(wide.contains(word), "{wide}");
    }
    let all = namespace.kubectl(&["get", "all", "-o", "name"]).unwrap();
    for name in ["modeldeployment.outrigger.dev/chat", "service/chat", &format!("chat-{stable}")] {
        assert!(all.contains(name), "{all}");
    }
    let waited = ["wait", "--for=condition=Available", "md/chat", "--timeout=10s"];
    assert!(namespace.kubectl(&waited).unwrap().contains("condition met"));

    // The status is there, and defaults are filled in: neither is a difference. `diff` ends with 1 where one is.
    let same = installed.cluster.feed(&["diff", "-n", namespace.name(), "-f", "-"], &manifest(model));
    assert_eq!(same.unwrap(), "");
    let other = manifest(model).replace("maxDrain: 100s", "maxDrain: 99s");
    let differs = installed.cluster.try_feed(&["diff", "-n", namespace.name(), "-f", "-"], &other).unwrap();
    let shown = String::from_utf8_lossy(&differs.stdout).into_owned();
    assert_eq!(differs.status.code(), Some(1), "{shown}");
    for line in ["-    maxDrain: 100s", "+    maxDrain: 99s"] {
        assert!(shown.lines().any(|shown| shown == line), "{shown}");
    }
}

/// The `scale` subresource, by whoever uses it; the selector leads to the pods.
#[test]
fn scale_is_followed() {
    let _operator = using_the_operator();
    let installed = Installed::get().unwrap();
    let namespace = serving(installed, "scale", "kubectl-scale").unwrap();
    for replicas in [3, 1] {
        let count = format!("--replicas={replicas}");
        namespace.kubectl(&["scale", "md/chat", &count]).unwrap();
        let what = format!("{replicas} replicas");
        installed
            .cluster
            .wait_until(namespace.name(), &what, SOON, || {
                let found = installed.deployment(namespace.name(), NAME)?;
                let selector = found["status"]["selector"].as_str().unwrap_or_default().to_owned();
                let pods = namespace.json(&["get", "pods", "-l", &selector])?;
                let pods = pods["items"].as_array().cloned().unwrap_or_default();
                let stay = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count();
                Ok(found["status"]["replicas"] == replicas && stay == replicas)
            })
            .unwrap();
    }
}

/// A second manager is told whose fields it would take; what it adds stays, on the resource and on what is made of it.
#[test]
fn a_second_manager_is_told_of_conflicts() {
    let _operator = using_the_operator();
    let installed = Installed::get().unwrap();
    let cluster = installed.cluster;
    let model = "kubectl-managers";
    let namespace = serving(installed, "managers", model).unwrap();
    let apply = ["apply", "--server-side", "-n", namespace.name(), "-f", "-", "--field-manager"];
    let by = |manager, text: &str| {
        let args: Vec<&str> = apply.iter().copied().chain([manager]).collect();
        cluster.try_feed(&args, text).unwrap()
    };
    // `kubectl apply` gives what was applied on the client's side to the first who applies on the server's.
    let take = ["apply", "--server-side", "--force-conflicts", "-n", namespace.name(), "-f", "-"];
    let args: Vec<&str> = take.iter().copied().chain(["--field-manager", "first"]).collect();
    let first = cluster.try_feed(&args, &manifest(model)).unwrap();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let other = manifest(model).replace("maxDrain: 100s", "maxDrain: 99s").replace("v1\"", "v2\"");
    let refused = by("other", &other);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    for words in ["conflicts with", ".spec.engine.args", ".spec.serving.maxDrain"] {
        assert!(said.contains(words), "{said}");
    }
    let object = "apiVersion: outrigger.dev/v1alpha1\nkind: ModelDeployment\n\
                  metadata: {name: chat, labels: {team: b}, annotations: {note: of b}}\n";
    let model_of = format!("{object}spec:\n  model: {{name: {model}, aliases: [kubectl-managers-too]}}\n");
    let engine = format!("  engine: {{kind: vLLM, image: {IMAGE}}}\n");
    let added = by("other", &format!("{model_of}{engine}"));
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));

    // The first applies again, and the operator writes again: neither takes away what the other manager added.
    let children = ["service/chat", "poddisruptionbudget/chat", "networkpolicy/chat"];
    for child in children {
        // The budget is written last, and a Service may take its time.
        let label = || Ok(namespace.kubectl(&["label", child, "team=b"]).is_ok());
        cluster.wait_until(namespace.name(), child, SEEN, label).unwrap();
    }
    let again = cluster.try_feed(&args, &manifest(model).replace("maxDrain: 100s", "maxDrain: 98s")).unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    namespace.kubectl(&["scale", "md/chat", "--replicas=3"]).unwrap();
    installed.wait_condition(namespace.name(), NAME, "Available", "True", SEEN).unwrap();
    let found = installed.deployment(namespace.name(), NAME).unwrap();
    assert_eq!(found["metadata"]["labels"]["team"], "b", "{found}");
    assert_eq!(found["metadata"]["annotations"]["note"], "of b", "{found}");
    assert_eq!(found["spec"]["model"]["aliases"][0], "kubectl-managers-too", "{found}");
    assert_eq!(found["spec"]["serving"]["maxDrain"], "98s", "{found}");
    for child in children {
        let object = namespace.json(&["get", child]).unwrap();
        assert_eq!(object["metadata"]["labels"]["team"], "b", "{object}");
    }
    // A label by which the operator knows its objects comes back.
    namespace.kubectl(&["label", "service/chat", "outrigger.dev/deployment-"]).unwrap();
    cluster
        .wait_until(namespace.name(), "the label", SEEN, || {
            let object = namespace.json(&["get", "service/chat"])?;
            Ok(object["metadata"]["labels"]["outrigger.dev/deployment"] == NAME)
        })
        .unwrap();
}

/// kubectl is a strict client: what is unknown or out of range is refused by the field's name. All bad examples are
/// held against the API server in `render.rs`.
#[test]
fn bad_fields_are_refused_by_name() {
    let installed = Installed::get().unwrap();
    let namespace = installed.cluster.namespace("bad").unwrap();
    let good = manifest("kubectl-bad");
    for (from, to, words) in [
        ("maxDrain: 100s", "maxDrain: 100s\n    maxDrian: 4s", &["unknown field", "spec.serving.maxDrian"]),
        ("maxDrain: 100s", "maxDrain: soon", &["spec.serving.maxDrain", "soon"]),
        ("maxDrain: 100s", "maxDrain: 2h", &["maxDrain: 2h is out of range", "0s to 1h"]),
        ("kind: vLLM", "kind: vllm", &["spec.engine.kind", "\"vLLM\", \"MLServer\", \"Custom\""]),
        ("replicas: 2", "replicas: -1", &["spec.scale.replicas", "greater than or equal to 0"]),
        ("replicas: 2", "replicas: two", &["spec.scale.replicas", "integer"]),
        ("weight: 25", "weight: 5", &["spec.rollout", "must rise"]),
        (
            "runAsNonRoot",
            "runAsNonRot",
            &["spec.engine.podTemplate.spec.securityContext.runAsNonRot", "unknown"],
        ),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        let refused =
            installed.cluster.try_feed(&["create", "-n", namespace.name(), "-f", "-"], &bad).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "`{to}` is taken");
        for word in words {
            assert!(said.contains(word), "{to}: {said}");
        }
    }
    assert_eq!(left(&namespace), [""; 0]);
}

/// What callers of a deleted model get.
fn unknown(installed: &Installed, namespace: &Namespace, model: &str) {
    installed
        .cluster
        .wait_until(namespace.name(), "the gateway to know the model no more", SEEN, || {
            Ok(complete(installed.gateway(), model, 4, false)?.status == 404)
        })
        .unwrap();
}

fn is_empty(installed: &Installed, namespace: &Namespace, bound: Duration) {
    let mut rest = Vec::new();
    let gone = installed.cluster.wait_until(namespace.name(), "nothing to be left", bound, || {
        rest = left(namespace);
        Ok(rest.is_empty())
    });
    gone.unwrap_or_else(|error| panic!("{rest:?}: {error:#}"));
}

/// Requests that the deployment's sidecars have before them.
fn in_flight(namespace: &Namespace) -> u64 {
    let pods = namespace.json(&["get", "pods", "-l", "outrigger.dev/deployment=chat"]).unwrap();
    let each = pods["items"].as_array().unwrap().iter().map(|pod| {
        let address = format!("{}:9001", pod["status"]["podIP"].as_str().unwrap());
        let status: Value = serde_json::from_str(&get(&address, "/status").unwrap().body).unwrap();
        status["inFlight"].as_u64().unwrap()
    });
    each.sum()
}

/// proves O.6 in a cluster: a deleted deployment takes all with it within seconds, but for pods that still answer
/// somebody, who gets the whole answer.
#[test]
fn delete_takes_all_with_it() {
    let _operator = using_the_operator();
    let installed = Installed::get().unwrap();
    let model = "kubectl-delete";
    let namespace = serving(installed, "delete", model).unwrap();
    let found = installed.deployment(namespace.name(), NAME).unwrap();
    assert!(found["metadata"]["finalizers"].is_null(), "{found}");
    // 15 ms a token: forty-five seconds.
    let stream = std::thread::spawn(move || complete(installed.gateway(), model, 3_000, true));
    installed
        .cluster
        .wait_until(namespace.name(), "a stream", SOON, || Ok(in_flight(&namespace) == 1))
        .unwrap();
    let began = Instant::now();
    namespace.kubectl(&["delete", "md", NAME]).unwrap();
    unknown(installed, &namespace, model);
    println!("the gateway knows it no more after {:.1} s", began.elapsed().as_secs_f64());
    installed
        .cluster
        .wait_until(namespace.name(), "its objects to be gone", SEEN, || {
            // A pod that still answers somebody needs the bundle.
            let others = |object: &String| !object.starts_with("pod/") && !object.contains("outrigger-ca");
            Ok(left(&namespace).iter().filter(|object| others(object)).count() == 0)
        })
        .unwrap();
    println!("only pods are left after {:.1} s", began.elapsed().as_secs_f64());
    assert!(!stream.is_finished(), "the stream was to outlast all this");
    let answer = stream.join().unwrap().unwrap();
    assert!(answer.status == 200 && answer.body.contains("data: [DONE]"), "{}", answer.status);
    is_empty(installed, &namespace, SOON);
    println!("nothing is left after {:.1} s", began.elapsed().as_secs_f64());
}

/// In the foreground Kubernetes takes the parts away while the whole still stands: they are not made anew.
#[test]
fn delete_in_the_foreground_ends() {
    let _operator = using_the_operator();
    let installed = Installed::get().unwrap();
    let namespace = serving(installed, "foreground", "kubectl-foreground").unwrap();
    namespace.kubectl(&["delete", "md", NAME, "--cascade=foreground", "--timeout=25s"]).unwrap();
    unknown(installed, &namespace, "kubectl-foreground");
    is_empty(installed, &namespace, SOON);
}

/// The operator at no replicas; back at two, available, when dropped.
struct Stopped<'a> {
    cluster: &'static Cluster,
    _alone: RwLockWriteGuard<'a, ()>,
}

impl Stopped<'_> {
    fn stop(cluster: &'static Cluster) -> Self {
        let alone = OPERATOR.write().unwrap_or_else(PoisonError::into_inner);
        let stopped = Self { cluster, _alone: alone };
        stopped.scale("0").unwrap();
        let label = "app.kubernetes.io/component=operator";
        let gone = cluster.wait_until(installed::NAMESPACE, "no operator", SOON, || {
            let pods = cluster.json(&["get", "pods", "-n", installed::NAMESPACE, "-l", label])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty))
        });
        gone.unwrap();
        stopped
    }

    fn scale(&self, replicas: &str) -> anyhow::Result<String> {
        let count = format!("--replicas={replicas}");
        self.cluster.kubectl(&["scale", "deployment/outrigger-operator", "-n", installed::NAMESPACE, &count])
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let back = self
            .scale("2")
            .and_then(|_| self.cluster.wait_available(installed::NAMESPACE, "outrigger-operator", SOON));
        if let Err(error) = back {
            println!("the operator did not come back: {error:#}");
        }
    }
}

/// proves O.6: with the operator away a deployment can still be deleted, and nothing of it stays; gateways hear of it
/// when the operator is back. Last in this file by its name, as tests run in that order.
#[test]
fn without_the_operator_delete_works() {
    let installed = Installed::get().unwrap();
    let model = "kubectl-alone";
    let namespace = {
        let _operator = using_the_operator();
        serving(installed, "alone", model).unwrap()
    };
    let stopped = Stopped::stop(installed.cluster);
    assert_eq!(complete(installed.gateway(), model, 4, false).unwrap().status, 200);
    namespace.kubectl(&["delete", "md", NAME, "--timeout=10s"]).unwrap();
    // The bundle of what every pod may know is the operator's to take away, and it is not there.
    installed
        .cluster
        .wait_until(namespace.name(), "nothing else to be left", SOON, || {
            Ok(left(&namespace).iter().all(|name| name.contains("outrigger-ca")))
        })
        .unwrap();
    drop(stopped);
    unknown(installed, &namespace, model);
}
