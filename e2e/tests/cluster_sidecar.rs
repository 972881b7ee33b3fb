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
use outrigger_e2e::installed::{Installed, Lives, OperatorAway};
use outrigger_e2e::simulated::{NAME, changed, serving, serving_as};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What is put right by itself within seconds.
const SOON: Duration = Duration::from_secs(120);
/// Longer than an engine's probe may fail before its container is restarted: two probes, five seconds apart, and as
/// much again.
const PROBES: Duration = Duration::from_secs(20);
/// The same where the probe of the stopped sidecar itself has to fail first, and the kubelet acts on it; and how long
/// one is killed as soon as it runs.
const MINUTE: Duration = Duration::from_secs(60);

/// A deployment that serves, and one of its pods.
struct Case {
    installed: &'static Installed,
    namespace: Namespace,
    model: &'static str,
    pod: String,
    /// The pods at the beginning: a test that is about restarts must not lose one unnoticed.
    uids: BTreeSet<String>,
}

impl Case {
    fn start(model: &'static str) -> Self {
        let installed = Installed::get().unwrap();
        Self::of(installed, serving(installed, "sidecar", model).unwrap(), model)
    }

    fn of(installed: &'static Installed, namespace: Namespace, model: &'static str) -> Self {
        let mut case = Self { installed, namespace, model, pod: String::new(), uids: BTreeSet::new() };
        case.ready(2);
        let lives = case.lives();
        case.pod = lives.pods().next().unwrap().to_owned();
        case.uids = lives.uids().into_iter().map(str::to_owned).collect();
        case
    }

    fn lives(&self) -> Lives {
        self.installed.lives(self.namespace.name(), NAME).unwrap()
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

    /// Restarts of a container of the pod that this is about. Both pods are the ones that were there first.
    fn restarts(&self, container: &str) -> i64 {
        let lives = self.lives();
        assert!(lives.uids().into_iter().eq(self.uids.iter()), "{:?}: {lives:?}", self.uids);
        lives.restarts(&self.pod, container).unwrap()
    }

    /// The engines are the ones that were there first.
    fn no_engine_restarted(&self) {
        assert_eq!(self.restarts("engine"), 0);
        assert_eq!(self.lives().all_restarts("engine"), 0);
    }

    /// The other pod.
    fn other(&self) -> String {
        self.lives().pods().find(|pod| *pod != self.pod).unwrap().to_owned()
    }

    /// A signal to a pod's sidecar; false where it doesn't run.
    fn signal(&self, pod: &str, signal: &str) -> bool {
        self.installed.cluster.signal(self.namespace.name(), pod, "outrigger", signal).is_ok()
    }

    /// Nothing happens to the engines for as long as its probes could fail, and longer.
    fn engine_is_left_alone(&self, how_long: Duration, mut meanwhile: impl FnMut()) {
        let began = Instant::now();
        self.installed
            .cluster
            .wait_until(self.namespace.name(), "time to pass", how_long * 2, || {
                meanwhile();
                self.no_engine_restarted();
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
    assert!(case.signal(&case.pod, "KILL"));
    case.until("it is started again", || case.restarts("outrigger") >= 1);
    case.ready(2);
    case.no_engine_restarted();
    // One is stopped for a minute: it holds its socket and answers nothing. The other one is killed as soon as it runs.
    let other = case.other();
    assert!(case.signal(&case.pod, "STOP"));
    let mut kills = 0;
    case.engine_is_left_alone(MINUTE, || {
        kills += usize::from(case.signal(&other, "KILL"));
    });
    assert!(kills >= 3, "it was hit {kills} times");
    // A kubelet may have replaced it meanwhile.
    let _ = case.signal(&case.pod, "CONT");
    case.ready(2);
    case.no_engine_restarted();
    assert!(case.lives().restarts(&other, "outrigger").unwrap() >= 3);
}

/// proves H.5
#[test]
fn a_sidecar_swapped_to_an_image_that_cannot_be_pulled_restarts_no_engine() {
    let case = Case::start("sidecar-image");
    // The operator would put it right at once.
    let away = OperatorAway::begin(case.installed).unwrap();
    case.swap("outrigger/sidecar:nowhere");
    // The container's state stays `terminated` meanwhile; only events tell.
    case.until("the image can't be had", || {
        let told = case.namespace.kubectl(&["get", "events", "--field-selector=reason=Failed"]).unwrap();
        told.contains("ErrImagePull") || told.contains("ImagePullBackOff")
    });
    case.engine_is_left_alone(PROBES, || {});
    // Back again, it does.
    away.back().unwrap();
    case.ready(2);
    case.until("the sidecar has its image again", || case.restarts("outrigger") >= 1);
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
    told(&case, "the restart budget is spent (1 of 1 within 10m)");
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

/// Waits until the deployment says this.
fn told(case: &Case, words: &str) -> String {
    let mut message = String::new();
    case.until(words, || {
        let found = case.installed.deployment(case.namespace.name(), NAME).unwrap();
        message = found["status"]["message"].as_str().unwrap_or_default().to_owned();
        message.contains(words)
    });
    message
}

/// An engine takes more memory than its limit: the node ends it and starts it again, callers go elsewhere, and it is
/// told in words.
#[test]
fn an_engine_out_of_memory_is_done_without_until_it_is_back() {
    let installed = Installed::get().unwrap();
    let model = "sidecar-memory";
    let limited = |text: String| {
        let text = changed(&text, "resources: {", "resources: {limits: {memory: 64Mi}, ");
        // It takes a moment to load, as engines do: so there is one in which it is away.
        changed(&text, "\"v1\"", "\"v1\",\"--load-time=8s\"")
    };
    let case = Case::of(installed, serving_as(installed, "memory", model, limited).unwrap(), model);
    let callers = Callers::start(installed.gateway(), model, 4, 8, false, Duration::from_millis(50));
    case.until("answers", || callers.tally().all() >= 20);
    let at = callers.since();
    case.fault(&json!({"fault": "memory", "mebibytes": 256}));
    let words = "the engine was killed: it used more memory than its limit, 64Mi";
    println!("{}", told(&case, words));
    let gone = callers.tally();
    case.until("answers meanwhile", || callers.tally().all() >= gone.all() + 50);
    case.until("the engine is restarted", || case.restarts("engine") == 1);
    let pod = case.namespace.json(&["get", "pod", &case.pod]).unwrap();
    let engine = &pod["status"]["containerStatuses"][0];
    assert_eq!(engine["lastState"]["terminated"]["reason"], "OOMKilled", "{engine}");
    case.ready(2);
    let tally = callers.stop();
    println!("at {at:?}: {tally:?}");
    // What was under way in it is lost with it.
    assert!(tally.failed <= 4 && tally.last_failed < at + Duration::from_secs(5), "{tally:?}");
    assert_eq!((case.restarts("engine"), case.restarts("outrigger")), (1, 0));
}

/// A pod is deleted while it streams for twenty seconds: no stream is cut, and it goes when they have ended.
#[test]
fn a_pod_that_is_deleted_finishes_its_streams() {
    let case = Case::start("sidecar-stop");
    let callers =
        Callers::start(case.installed.gateway(), case.model, 6, 1_200, true, Duration::from_millis(10));
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
    callers.no_more();
    let gone = began.elapsed();
    println!("gone after {gone:?}");
    case.ready(2);
    let tally = callers.stop();
    assert!(tally.all() > 6, "{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    // Well before what the drain may take at most.
    assert!(gone < Duration::from_secs(90), "{gone:?}");
}
