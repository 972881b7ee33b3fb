//! The whole circle on a real cluster: apply, serve, change the image, watch the canary; promoted or rolled back, and
//! not one request fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use outrigger_e2e::caller::{Callers, complete};
use outrigger_e2e::installed::{Installed, condition_of};
use outrigger_e2e::simulated::{IMAGE, edit, serving};
use serde_json::Value;
use std::time::{Duration, Instant};

/// From apply to a first answer, and from a decision to its effect in the status.
const SOON: Duration = Duration::from_secs(60);
/// A whole rollout of three short steps.
const ROLLOUT: Duration = Duration::from_secs(240);

/// proves R.1, R.6 and R.16 on a real cluster: a changed argument is tried on 10, 25 and 50 percent of the callers and
/// promoted; no pod of the promoted revision restarts; no request fails, one-minute streams among them.
#[test]
fn a_new_revision_is_promoted_and_nobody_notices() {
    let installed = Installed::get().unwrap();
    let model = "circle-promoted";
    let namespace = serving(installed, "promoted", model).unwrap();
    let before = installed.stable(namespace.name(), "chat").unwrap();
    let short = Callers::start(installed.gateway(), model, 8, 8, false, Duration::from_millis(50));
    let streams = Callers::start(installed.gateway(), model, 4, 4_000, true, Duration::ZERO);
    edit(&namespace, model, "v2", &[], IMAGE).unwrap();
    installed.wait_promoted(namespace.name(), "chat", &before, ROLLOUT).unwrap();
    let swapped = Instant::now();
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
    assert_eq!((short.failed, streams.failed), (0, 0));
    assert!(short.of("v2") > 100 && streams.of("v1") >= 4);
    for container in ["engine", "outrigger"] {
        for (pod, count) in installed.restarts(namespace.name(), "chat", container).unwrap() {
            assert_eq!(count, 0, "{container} of {pod} restarted");
        }
    }
}

/// What becomes of a bad revision: rolled back for a reason with this word, and then no request reaches it.
fn rolled_back(prefix: &str, more: &[&str], image: &str, word: &str) -> String {
    let installed = Installed::get().unwrap();
    let model = format!("circle-{prefix}");
    let namespace = serving(installed, prefix, &model).unwrap();
    let before = installed.stable(namespace.name(), "chat").unwrap();
    let callers = Callers::start(installed.gateway(), &model, 8, 8, false, Duration::from_millis(20));
    edit(&namespace, &model, "v2", more, image).unwrap();
    let why = installed.wait_rolled_back(namespace.name(), "chat", ROLLOUT).unwrap();
    assert!(why.contains(word), "{why}");
    // One second for every gateway to hear it; from then on nobody is sent there.
    std::thread::sleep(Duration::from_secs(1)); // between two looks
    let (at, when) = (callers.tally(), callers.since());
    installed
        .cluster
        .wait_until(namespace.name(), "a hundred more answers", SOON, || {
            Ok(callers.tally().all() >= at.all() + 100)
        })
        .unwrap();
    let end = callers.stop();
    println!("{why}\n{end:?}");
    // Requests that were sent to a hung canary before may still fail; later ones don't.
    assert!(end.last_failed < when, "the canary was rolled back at {:.1} s: {end:?}", when.as_secs_f64());
    assert_eq!(end.of("v2"), at.of("v2"), "somebody was still sent to the canary");
    assert_eq!(installed.stable(namespace.name(), "chat").unwrap(), before);
    let found = installed.deployment(namespace.name(), "chat").unwrap();
    assert_eq!(condition_of(&found, "Available").unwrap()["status"], "True");
    let events =
        namespace.kubectl(&["get", "events.events.k8s.io", "-o", "custom-columns=R:.reason"]).unwrap();
    assert!(events.contains("RolledBack"), "{events}");
    why
}

/// proves R.3 and R.12 on a real cluster.
#[test]
fn a_revision_with_errors_is_rolled_back() {
    rolled_back("errors", &["--fault=errors", "--fault-share=0.5", "--fault-after=5"], IMAGE, "error");
}

/// proves R.19 on a real cluster: a hung canary is not an empty one.
#[test]
fn a_revision_that_hangs_is_rolled_back() {
    rolled_back("hang", &["--fault=hang", "--fault-after=5"], IMAGE, "");
}

/// An image that can't be pulled never gets a caller; said in words within ten seconds.
#[test]
fn an_image_that_cannot_be_pulled_gets_no_caller() {
    let installed = Installed::get().unwrap();
    let model = "circle-image";
    let namespace = serving(installed, "image", model).unwrap();
    let callers = Callers::start(installed.gateway(), model, 2, 8, false, Duration::from_millis(50));
    edit(&namespace, model, "v2", &[], "outrigger/engine-sim:nowhere").unwrap();
    let began = Instant::now();
    installed
        .cluster
        .wait_until(namespace.name(), "the reason in the status", Duration::from_secs(20), || {
            let found = installed.deployment(namespace.name(), "chat")?;
            let blocked = condition_of(&found, "Blocked").is_some_and(|c| c["status"] == "True");
            Ok(blocked
                && found["status"]["message"].as_str().is_some_and(|m| m.contains("engine-sim:nowhere")))
        })
        .unwrap();
    println!("said after {:.1} s", began.elapsed().as_secs_f64());
    let tally = callers.stop();
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert_eq!(tally.of("v2"), 0);
    // Taken back, it is as if it had never been.
    edit(&namespace, model, "v1", &[], IMAGE).unwrap();
    installed
        .cluster
        .wait_until(namespace.name(), "the canary's end", SOON, || {
            Ok(installed.deployment(namespace.name(), "chat")?["status"]["canary"].is_null())
        })
        .unwrap();
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
