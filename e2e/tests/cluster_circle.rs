//! The whole circle on a real cluster: apply, serve, change the image, watch the canary; promoted or rolled back, and
//! not one request fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::caller::{Callers, complete};
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::{Installed, condition_of};
use outrigger_e2e::simulated::{IMAGE, changed, edit, serving, serving_as, text};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// From apply to a first answer, and from a decision to its effect in the status.
const SOON: Duration = Duration::from_secs(60);
/// A whole rollout of three short steps.
const ROLLOUT: Duration = Duration::from_secs(240);
/// The engine's image by another name, as a newer one.
const NEWER: &str = "outrigger/engine-sim:0.1.0-newer";

/// A canary at one moment.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    step: u64,
    /// The desired share of callers, in basis points.
    desired: u64,
    /// The canary's pods that were ready a moment before.
    ready: usize,
}

/// Engines answer as the revision that their pods are labelled with, so that nothing but the image need be changed.
fn telling_the_revision(text: String) -> String {
    let field = "{fieldRef: {fieldPath: \"metadata.labels['outrigger.dev/revision']\"}}";
    let env = format!(
        "      spec:\n        containers: [{{name: engine, env: [{{name: REVISION, valueFrom: {field}}}]}}]\n"
    );
    let text = changed(&text, "      spec:\n", &env);
    changed(&text, "\"v1\"", "\"$(REVISION)\"")
}

/// Pods of a revision that are ready.
fn ready(namespace: &Namespace, revision: &str) -> anyhow::Result<usize> {
    let pods = namespace.json(&["get", "pods", "-l", &format!("outrigger.dev/revision={revision}")])?;
    let ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    Ok(pods["items"].as_array().into_iter().flatten().filter(ready).count())
}

/// Looks at a canary until it is promoted: what was seen, each change once, and the uids of its pods when it was last
/// seen before its promotion. It needs a look of its own: between the weight and the pods it may change.
fn watched(installed: &Installed, namespace: &Namespace, before: &str) -> (Vec<Seen>, BTreeSet<String>) {
    let (mut all, mut last) = (Vec::<Seen>::new(), BTreeSet::new());
    let promoted = installed.cluster.wait_until(namespace.name(), "the promotion", ROLLOUT, || {
        let status = installed.deployment(namespace.name(), "chat")?["status"].clone();
        let Some(revision) = status.pointer("/canary/revision").and_then(Value::as_str) else {
            return Ok(status["stable"].as_str().is_some_and(|stable| stable != before));
        };
        let ready = ready(namespace, revision)?;
        let seen = Seen {
            step: status["canary"]["step"].as_u64().unwrap(),
            desired: status["weights"]["desired"].as_u64().unwrap_or(0),
            ready,
        };
        if all.last() != Some(&seen) {
            all.push(seen);
        }
        let lives = installed.lives(namespace.name(), "chat")?;
        last = lives.uids_of(revision).into_iter().map(str::to_owned).collect();
        Ok(false)
    });
    promoted.unwrap_or_else(|error| panic!("{all:?}\n{error:#}"));
    (all, last)
}

/// proves R.1, R.6 and R.16 on a real cluster: a changed image is tried on 10, 25 and 50 percent of the callers and
/// promoted; no pod of the promoted revision is restarted or replaced; no request fails, one-minute streams among them.
#[test]
fn a_new_revision_is_promoted_and_nobody_notices() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    cluster.tag_image(IMAGE, NEWER).unwrap();
    let model = "circle-promoted";
    let namespace = serving_as(installed, "promoted", model, telling_the_revision).unwrap();
    let before = installed.stable(namespace.name(), "chat").unwrap();
    let short = Callers::start(installed.gateway(), model, 8, 8, false, Duration::from_millis(50));
    let streams = Callers::start(installed.gateway(), model, 4, 4_000, true, Duration::ZERO);
    namespace.apply(&telling_the_revision(text(model, "v1", &[], NEWER))).unwrap();
    let (seen, last) = watched(installed, &namespace, &before);
    let swapped = Instant::now();
    streams.no_more();
    println!("{seen:?}");
    let steps: Vec<(u64, u64)> = seen.iter().filter(|s| s.desired > 0).map(|s| (s.step, s.desired)).collect();
    let mut order = steps.clone();
    order.dedup();
    assert!(order.starts_with(&[(0, 1_000), (1, 2_500), (2, 5_000)]), "{seen:?}");
    assert!(seen.iter().all(|s| s.desired == 0 || s.ready > 0), "{seen:?}");
    let after = installed.stable(namespace.name(), "chat").unwrap();
    installed
        .cluster
        .wait_until(namespace.name(), "old pods to have drained", Duration::from_secs(150), || {
            let pods = namespace.json(&["get", "pods", "-l", &format!("outrigger.dev/revision={before}")])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty))
        })
        .unwrap();
    println!("old pods drained {:.1} s after the swap", swapped.elapsed().as_secs_f64());
    let (short, streams) = (short.stop(), streams.stop());
    println!("short: {short:?}\nstreams: {streams:?}");
    assert_eq!((short.failed, streams.failed), (0, 0), "{short:?} {streams:?}");
    assert!(short.of(&after) > 100 && streams.of(&before) >= 4, "{before} → {after}");
    // A reload is a restarted container, or a pod that is made anew.
    let lives = installed.lives(namespace.name(), "chat").unwrap();
    let kept = lives.uids();
    assert!(!last.is_empty() && last.iter().all(|uid| kept.contains(uid.as_str())), "{last:?}: {lives:?}");
    for container in ["engine", "outrigger"] {
        assert_eq!(lives.all_restarts(container), 0, "{container}: {lives:?}");
    }
}

/// What becomes of a bad revision: rolled back for a reason with one of these words, and then no request reaches it.
fn rolled_back(prefix: &str, more: &[&str], words: &[&str]) {
    let installed = Installed::get().unwrap();
    let model = format!("circle-{prefix}");
    let namespace = serving(installed, prefix, &model).unwrap();
    let before = installed.stable(namespace.name(), "chat").unwrap();
    let callers = Callers::start(installed.gateway(), &model, 8, 8, false, Duration::from_millis(20));
    edit(&namespace, &model, "v2", more, IMAGE).unwrap();
    let why = installed.wait_rolled_back(namespace.name(), "chat", ROLLOUT).unwrap();
    println!("{why}");
    assert!(words.iter().any(|word| why.contains(word)), "{why}");
    // One second for every gateway to hear it; from then on nobody is sent there.
    let when = callers.since() + Duration::from_secs(1);
    let at = callers.tally().all();
    installed
        .cluster
        .wait_until(namespace.name(), "a hundred more answers and some seconds", SOON, || {
            Ok(callers.tally().all() >= at + 100 && callers.since() > when + Duration::from_secs(4))
        })
        .unwrap();
    let end = callers.stop();
    println!("rolled back at {:.1} s: {end:?}", when.as_secs_f64());
    // Requests that were sent there before may be answered, or fail, at any time later.
    assert!(end.last_failed < when, "rolled back at {:.1} s: {end:?}", when.as_secs_f64());
    assert!(end.last_sent_to("v2") < Some(when), "somebody was still sent to the canary: {end:?}");
    assert_eq!(installed.stable(namespace.name(), "chat").unwrap(), before);
    stands(installed, &namespace);
}

/// The deployment serves on, and an event tells what became of its canary.
fn stands(installed: &Installed, namespace: &Namespace) {
    let found = installed.deployment(namespace.name(), "chat").unwrap();
    assert_eq!(condition_of(&found, "Available").unwrap()["status"], "True");
    installed
        .cluster
        .wait_until(namespace.name(), "the event", SOON, || {
            let columns = "custom-columns=R:.reason";
            Ok(namespace.kubectl(&["get", "events.events.k8s.io", "-o", columns])?.contains("RolledBack"))
        })
        .unwrap();
}

/// proves R.3 and R.12 on a real cluster.
#[test]
fn a_revision_with_errors_is_rolled_back() {
    rolled_back("errors", &["--fault=errors", "--fault-share=0.5", "--fault-after=5"], &["error"]);
}

/// proves R.19 on a real cluster: a hung canary is not an empty one. What it doesn't answer in time counts as an error,
/// or as slow.
#[test]
fn a_revision_that_hangs_is_rolled_back() {
    rolled_back("hang", &["--fault=hang", "--fault-after=5"], &["errors ", "first token "]);
}

/// An image that can't be pulled never gets a caller: it is said in words, and at the deadline it is rolled back.
#[test]
fn an_image_that_cannot_be_pulled_gets_no_caller_and_is_rolled_back() {
    let installed = Installed::get().unwrap();
    let model = "circle-image";
    let namespace = serving(installed, "image", model).unwrap();
    let before = installed.stable(namespace.name(), "chat").unwrap();
    let callers = Callers::start(installed.gateway(), model, 2, 8, false, Duration::from_millis(50));
    // Long enough for a busy node to have tried.
    let image = "outrigger/engine-sim:nowhere";
    let edited = changed(&text(model, "v2", &[], image), "progressDeadline: 60s", "progressDeadline: 25s");
    namespace.apply(&edited).unwrap();
    installed
        .cluster
        .wait_until(namespace.name(), "the reason in the status", SOON, || {
            let found = installed.deployment(namespace.name(), "chat")?;
            let blocked = condition_of(&found, "Blocked").is_some_and(|c| c["status"] == "True");
            Ok(blocked && found["status"]["message"].as_str().is_some_and(|m| m.contains(image)))
        })
        .unwrap();
    let why = installed.wait_rolled_back(namespace.name(), "chat", SOON).unwrap();
    println!("{why}");
    assert!(why.contains("within 25s") && why.contains(&format!("image {image} can't be pulled")), "{why}");
    assert_eq!(installed.stable(namespace.name(), "chat").unwrap(), before);
    // Not tried again by itself, and nothing of it is left.
    installed
        .cluster
        .wait_until(namespace.name(), "its pods to be gone, and Blocked with them", SOON, || {
            let found = installed.deployment(namespace.name(), "chat")?;
            let blocked = condition_of(&found, "Blocked").is_some_and(|c| c["status"] == "True");
            Ok(!blocked
                && installed.lives(namespace.name(), "chat")?.uids_of(&before).len() == 2
                && installed.lives(namespace.name(), "chat")?.uids().len() == 2)
        })
        .unwrap();
    stands(installed, &namespace);
    let tally = callers.stop();
    assert_eq!((tally.failed, tally.of("v2")), (0, 0), "{tally:?}");
}

/// The Service of a deployment reaches its stable revision without a gateway.
#[test]
fn the_service_reaches_the_stable_revision() {
    let installed = Installed::get().unwrap();
    let model = "circle-service";
    let namespace = serving(installed, "service", model).unwrap();
    let path = "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}";
    let address = namespace.kubectl(&["get", "service", "chat", "-o", path]).unwrap();
    let answer = complete(address.trim(), model, 4, false).unwrap();
    assert_eq!((answer.status, answer.version.as_str()), (200, "v1"), "{answer:?}");
}

/// A hot field reaches running sidecars within a second or two, and restarts nothing.
#[test]
fn a_hot_field_reaches_running_sidecars() {
    let installed = Installed::get().unwrap();
    let model = "circle-hot";
    let namespace = serving(installed, "hot", model).unwrap();
    let pods = namespace.json(&["get", "pods", "-l", "outrigger.dev/deployment=chat"]).unwrap();
    let addresses: Vec<String> = pods["items"].as_array().unwrap().iter().map(pod_address).collect();
    let patch = r#"{"spec":{"serving":{"admission":{"maxQueue":7}}}}"#;
    namespace.kubectl(&["patch", "md", "chat", "--type=merge", "-p", patch]).unwrap();
    let began = Instant::now();
    for address in &addresses {
        installed
            .cluster
            .wait_until(namespace.name(), "the sidecar to have it", Duration::from_secs(5), || {
                let status = outrigger_e2e::caller::get(&format!("{address}:9001"), "/status")?;
                let status: Value = serde_json::from_str(&status.body)?;
                Ok(status.pointer("/serving/admission/maxQueue") == Some(&7.into()))
            })
            .unwrap();
    }
    println!("all sidecars have it after {:.2} s", began.elapsed().as_secs_f64());
    for (pod, count) in installed.restarts(namespace.name(), "chat", "outrigger").unwrap() {
        assert_eq!(count, 0, "{pod}");
    }
}

fn pod_address(pod: &Value) -> String {
    pod.pointer("/status/podIP").and_then(Value::as_str).unwrap().to_owned()
}
