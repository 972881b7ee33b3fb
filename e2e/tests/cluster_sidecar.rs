//! The sidecar in real pods: whatever becomes of it, the engine is left alone; an engine that is stuck is restarted by
//! the probe's answer and within the budget; a pod that goes finishes its streams.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::caller::{Callers, complete};
use outrigger_e2e::cluster::Namespace;
use outrigger_e2e::installed::{Installed, NAMESPACE};
use outrigger_e2e::simulated::{NAME, serving};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What is put right by itself within seconds.
const SOON: Duration = Duration::from_secs(120);
/// Longer than an engine's probe may fail before its container is restarted.
const PROBES: Duration = Duration::from_secs(45);

/// A deployment that serves, and one of its pods.
struct Case {
    installed: &'static Installed,
    namespace: Namespace,
    model: &'static str,
    pod: String,
}

/// No operator runs, until this is dropped.
struct OperatorAway(&'static Installed);

impl OperatorAway {
    fn begin(installed: &'static Installed) -> Self {
        let away = Self(installed);
        away.scale("0");
        let label = "app.kubernetes.io/component=operator";
        let gone = || {
            let pods = installed.cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", label])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty))
        };
        installed.cluster.wait_until(NAMESPACE, "the operator to be gone", SOON, gone).unwrap();
        away
    }

    fn scale(&self, replicas: &str) {
        let count = format!("--replicas={replicas}");
        let args = ["scale", "deployment/outrigger-operator", "-n", NAMESPACE, count.as_str()];
        self.0.cluster.kubectl(&args).unwrap();
    }
}

impl Drop for OperatorAway {
    fn drop(&mut self) {
        self.scale("2");
    }
}

impl Case {
    fn start(model: &'static str) -> Self {
        let installed = Installed::get().unwrap();
        let namespace = serving(installed, "sidecar", model).unwrap();
        let mut case = Self { installed, namespace, model, pod: String::new() };
        case.ready(2);
        case.pod = case.pods()[0].pointer("/metadata/name").and_then(Value::as_str).unwrap().to_owned();
        case
    }

    fn pods(&self) -> Vec<Value> {
        let found = self.namespace.json(&["get", "pods", "-l", "outrigger.dev/deployment=chat"]).unwrap();
        found["items"].as_array().unwrap().clone()
    }

    /// Waits until so many pods are ready.
    fn ready(&self, count: usize) {
        self.until("pods are ready", || {
            let is = |pod: &&Value| {
                let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
                conditions
                    .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
            };
            self.pods().iter().filter(is).count() >= count
        });
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        self.installed.cluster.wait_until(self.namespace.name(), what, SOON, || Ok(holds())).unwrap();
    }

    fn restarts(&self, container: &str) -> i64 {
        let all = self.installed.restarts(self.namespace.name(), NAME, container).unwrap();
        all.iter().filter(|(pod, _)| *pod == self.pod).map(|(_, count)| count).sum()
    }

    fn signal(&self, signal: &str) -> bool {
        self.installed.cluster.signal(self.namespace.name(), &self.pod, "outrigger", signal).is_ok()
    }

    /// Nothing happens to the engine for as long as its probes could fail, and longer.
    fn engine_is_left_alone(&self, how_long: Duration, mut meanwhile: impl FnMut()) {
        let began = Instant::now();
        self.installed
            .cluster
            .wait_until(self.namespace.name(), "time to pass", how_long * 2, || {
                meanwhile();
                assert_eq!(self.restarts("engine"), 0);
                Ok(began.elapsed() > how_long)
            })
            .unwrap();
    }

    fn swap(&self, image: &str) {
        let patch = json!({"spec": {"initContainers": [{"name": "outrigger", "image": image}]}}).to_string();
        self.namespace.kubectl(&["patch", "pod", &self.pod, "--type=strategic", "-p", &patch]).unwrap();
    }

    /// Breaks the engine from within its pod: nothing else reaches it.
    fn fault(&self, fault: &Value) {
        let (body, url) = (fault.to_string(), "http://127.0.0.1:8000/sim/fault");
        let args = ["-sS", "--max-time", "5", "-H", "content-type: application/json", "-d", &body, url];
        // One that ends at once answers nothing.
        let _ = self.installed.cluster.from_pod(self.namespace.name(), &self.pod, "engine", "curl", &args);
    }

    /// A request straight to this pod's sidecar; its answer doesn't matter.
    fn ask(&self) {
        let body = json!({"model": self.model, "prompt": "Hello", "max_tokens": 4}).to_string();
        let url = "http://127.0.0.1:9000/v1/completions";
        let args = ["-sS", "--max-time", "30", "-H", "content-type: application/json", "-d", &body, url];
        let _ = self.installed.cluster.from_pod(self.namespace.name(), &self.pod, "engine", "curl", &args);
    }
}

/// proves H.5
#[test]
fn a_sidecar_killed_stopped_and_crash_looping_restarts_no_engine() {
    let case = Case::start("sidecar-chaos");
    assert!(case.signal("KILL"));
    case.until("it is started again", || case.restarts("outrigger") >= 1);
    case.ready(2);
    assert_eq!(case.restarts("engine"), 0);
    // Stopped: it holds its socket and answers nothing.
    let before = case.restarts("outrigger");
    assert!(case.signal("STOP"));
    case.engine_is_left_alone(PROBES, || {});
    // A kubelet may have replaced it meanwhile.
    let _ = case.signal("CONT");
    case.ready(2);
    // For a minute it is killed as soon as it runs.
    case.engine_is_left_alone(Duration::from_secs(60), || {
        case.signal("KILL");
    });
    assert!(case.restarts("outrigger") > before);
    case.ready(2);
    assert_eq!(case.restarts("engine"), 0);
}

/// proves H.5
#[test]
fn a_sidecar_swapped_to_an_image_that_cannot_be_pulled_restarts_no_engine() {
    let case = Case::start("sidecar-image");
    // The operator would put it right at once.
    let away = OperatorAway::begin(case.installed);
    case.swap("outrigger/sidecar:nowhere");
    // The container's state stays `terminated` meanwhile; only events tell.
    case.until("the image can't be had", || {
        let told = case.namespace.kubectl(&["get", "events", "--field-selector=reason=Failed"]).unwrap();
        told.contains("ErrImagePull") || told.contains("ImagePullBackOff")
    });
    case.engine_is_left_alone(PROBES, || {});
    // Back again, it does.
    drop(away);
    case.ready(2);
    assert_eq!(case.restarts("engine"), 0);
}

/// proves H.2, H.5
#[test]
fn a_stuck_engine_is_restarted_once_and_then_the_budget_holds() {
    let case = Case::start("sidecar-stuck");
    // Work has to be in the engine for as long as it takes to call it stuck.
    let serving = json!({
        "health": {"restartBudget": {"per": "10m", "max": 1}},
        "timeouts": {"firstByte": "60s"},
    });
    let budget = json!({"spec": {"serving": serving}}).to_string();
    case.namespace.kubectl(&["patch", "modeldeployment", NAME, "--type=merge", "-p", &budget]).unwrap();
    case.fault(&json!({"fault": "hang"}));
    case.ask();
    case.until("the engine is restarted", || case.restarts("engine") == 1);
    case.ready(2);
    case.fault(&json!({"fault": "hang"}));
    case.ask();
    case.until("it waits for the budget, and says so", || {
        let found = case.installed.deployment(case.namespace.name(), NAME).unwrap();
        let message = found.pointer("/status/message").and_then(Value::as_str).unwrap_or_default();
        message.contains("the restart budget is spent (1 of 1 within 10m)")
    });
    assert_eq!(case.restarts("engine"), 1);
    // A larger budget is there at once, and restarts nothing but the engine.
    let more = budget.replace("\"max\":1", "\"max\":2");
    case.namespace.kubectl(&["patch", "modeldeployment", NAME, "--type=merge", "-p", &more]).unwrap();
    case.until("the engine is restarted by grant", || case.restarts("engine") == 2);
    case.ready(2);
    assert_eq!(case.restarts("outrigger"), 0);
}

#[test]
fn an_engine_that_crashes_is_warmed_up_anew() {
    let case = Case::start("sidecar-crash");
    case.fault(&json!({"fault": "crash"}));
    case.until("the engine is restarted", || case.restarts("engine") == 1);
    case.ready(2);
    assert_eq!(case.restarts("outrigger"), 0);
    let gateway = case.installed.gateway();
    for _ in 0..20 {
        assert_eq!(complete(gateway, case.model, 4, false).unwrap().status, 200);
    }
}

/// A pod is deleted while it streams for twenty seconds: no stream is cut, and it goes when they have ended.
#[test]
fn a_pod_that_is_deleted_finishes_its_streams() {
    let case = Case::start("sidecar-stop");
    let callers =
        Callers::start(case.installed.gateway(), case.model, 6, 4_000, true, Duration::from_millis(10));
    case.until("streams are under way", || {
        let args = ["-sS", "--max-time", "5", "http://127.0.0.1:9001/status"];
        let found = case
            .installed
            .cluster
            .from_pod(case.namespace.name(), &case.pod, "engine", "curl", &args)
            .unwrap();
        serde_json::from_str::<Value>(&found).unwrap()["inFlight"].as_u64().is_some_and(|n| n > 0)
    });
    let began = Instant::now();
    case.namespace.kubectl(&["delete", "pod", &case.pod, "--wait=false"]).unwrap();
    case.until("it is gone", || !case.pods().iter().any(|pod| pod["metadata"]["name"] == case.pod.as_str()));
    let gone = began.elapsed();
    println!("gone after {gone:?}");
    case.ready(2);
    let tally = callers.stop();
    assert!(tally.all() > 6, "{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    // Well before what the drain may take at most.
    assert!(gone < Duration::from_secs(90), "{gone:?}");
}
