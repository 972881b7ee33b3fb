//! What is told of deployments in a cluster: golden texts and screens, ends, and refusals in words.

use super::seen::{self, End};
use super::{act, refusal, tree};
use crate::screen::draw;
use crate::view::{EventView, View};
use insta::assert_snapshot;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::core::Status;
use outrigger_crds::ModelDeployment;
use outrigger_plan::action::Verb;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

const OLD: &str = "4b1f0c9a77";
const NEW: &str = "6f9c2e1b4d";

fn now() -> Timestamp {
    "2026-11-21T12:00:30Z".parse().unwrap()
}

fn deployment(status: Value) -> ModelDeployment {
    serde_json::from_value(json!({
        "apiVersion": "outrigger.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "chat", "namespace": "demo", "generation": 3},
        "spec": {
            "model": {"name": "tiny"}, "engine": {"image": "engine:2"}, "scale": {"replicas": 2},
            "rollout": {"steps": [{"weight": 10, "hold": "30s"}, {"weight": 50, "hold": "30s"}]},
        },
        "status": status,
    }))
    .unwrap()
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message,
           "observedGeneration": 3, "lastTransitionTime": "2026-11-21T11:00:00Z"})
}

fn canary() -> Value {
    let judged = |metric: &str, verdict: Value, reason: &str| {
        let mut judged = json!({"metric": metric, "canary": 0.0, "stable": 0.004, "evidence": -0.2, "bound": 1.5,
                                "excluded": 0.8, "enough": true, "reason": reason});
        judged["verdict"] = verdict;
        judged
    };
    let undecided =
        serde_json::to_value(outrigger_verdict::Verdict::Undecided { samples: 34, needed: 120, eta: None })
            .unwrap();
    let pass = serde_json::to_value(outrigger_verdict::Verdict::Pass).unwrap();
    let metric = |metric: outrigger_verdict::Metric| serde_json::to_value(metric).unwrap();
    let name = |value: Value| value.as_str().unwrap().to_owned();
    json!({
        "observedGeneration": 3, "serial": 9, "stable": OLD,
        "canary": {"revision": NEW, "started": "2026-11-21T12:00:00Z", "step": 0, "stepWeight": 10,
                   "stepReached": "2026-11-21T12:00:10Z", "progressed": "2026-11-21T12:00:10Z",
                   "analysis": {}, "analysed": "2026-11-21T12:00:20Z"},
        "weights": {"desired": 1000, "programmed": 1000, "observed": 972},
        "verdicts": [
            judged(&name(metric(outrigger_verdict::Metric::Errors)), undecided, "errors 0.0 % against 0.4 %"),
            judged(&name(metric(outrigger_verdict::Metric::Health)), pass, "1 of 1 canary replicas are ready"),
        ],
        "conditions": [condition("Available", true, "Serving", "requests are served"),
                       condition("Progressing", true, "Canary", "revision 6f9c2e1b4d is tried")],
        "message": "Revision 4b1f0c9a77 serves; canary 6f9c2e1b4d takes 10% of callers (step 1 of 2); \
                    waiting: step 1 of 2 is held for 30s (until 12:00:40 UTC)",
    })
}

fn pod(name: &str, revision: &str, ready: bool, restarts: i32) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"outrigger.dev/deployment": "chat", "outrigger.dev/revision": revision}},
        "status": {
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            "containerStatuses": [{"name": "engine", "image": "", "imageID": "", "ready": ready, "started": true,
                                   "restartCount": restarts}],
        },
    }))
    .unwrap()
}

fn pods() -> Vec<Pod> {
    vec![
        pod("chat-4b1f0c9a77-abcde", OLD, true, 0),
        pod("chat-4b1f0c9a77-fghij", OLD, false, 2),
        pod("chat-6f9c2e1b4d-klmno", NEW, true, 0),
    ]
}

fn view(object: &ModelDeployment, pods: &[Pod]) -> View {
    let events = vec![EventView {
        at: now(),
        warning: false,
        reason: "StepReached".to_owned(),
        message: "canary 6f9c2e1b4d takes 10% of callers (step 1 of 2)".to_owned(),
    }];
    seen::view(seen::From { now: now(), place: "demo in kind", object, pods, events, promoted: None })
}

fn text(object: &ModelDeployment, pods: &[Pod]) -> String {
    tree::tree(&view(object, pods), object.status.as_ref().unwrap())
}

fn blocked() -> ModelDeployment {
    let why = "needs 1 × nvidia.com/gpu, 0 of 2 free";
    deployment(json!({
        "starting": {"revision": NEW, "since": "2026-11-21T12:00:00Z"},
        "conditions": [condition("Available", false, "Starting", "no replica has been ready yet"),
                       condition("Progressing", true, "Starting", "revision 6f9c2e1b4d is starting"),
                       condition("Blocked", true, "InsufficientResources", why)],
        "message": format!("Blocked: {why}"),
    }))
}

fn paused() -> ModelDeployment {
    let mut status = canary();
    status["canary"]["paused"] = json!("2026-11-21T12:00:15Z");
    status["action"] = json!({"text": "pause@6f9c2e1b4d/0/a", "verb": "pause", "nonce": "a", "accepted": true,
        "at": "2026-11-21T12:00:15Z", "result": "canary 6f9c2e1b4d is paused at step 1 of 2", "used": ["a"]});
    status["message"] = json!(
        "Revision 4b1f0c9a77 serves; canary 6f9c2e1b4d takes 10% of callers (step 1 of 2, \
        paused); waiting: paused by hand since 12:00:15 UTC: to be resumed, promoted or aborted"
    );
    deployment(status)
}

#[test]
fn a_canary_is_told() {
    assert_snapshot!(text(&deployment(canary()), &pods()));
}

#[test]
fn a_pause_is_told_with_who_asked_for_it() {
    assert_snapshot!(text(&paused(), &pods()));
}

/// proves O.5
#[test]
fn what_is_lacking_is_told() {
    assert_snapshot!(text(&blocked(), &[pod("chat-6f9c2e1b4d-klmno", NEW, false, 0)]));
}

#[test]
fn nothing_known_yet_is_told() {
    assert_snapshot!(text(&deployment(json!({})), &[]));
}

#[test]
fn the_screen_of_a_cluster_shows_pods_and_not_what_nobody_counts() {
    let view = view(&deployment(canary()), &pods());
    let mut terminal = ratatui::Terminal::new(TestBackend::new(80, 26)).unwrap();
    terminal.draw(|frame| draw(frame, &view)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let rows = buffer.content.chunks(80);
    let rows = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned());
    assert_snapshot!(rows.collect::<Vec<_>>().join("\n"));
}

#[test]
fn it_has_settled_only_when_the_operator_says_so_of_the_present_spec() {
    let status = |conditions: Vec<Value>| deployment(json!({"stable": NEW, "conditions": conditions}));
    let available = |holds| condition("Available", holds, if holds { "Serving" } else { "NoGateway" }, "");
    let of =
        |reason: &str, holds| status(vec![available(holds), condition("Progressing", false, reason, "")]);
    assert_eq!(seen::settled(&of("Settled", true)), Some(End::Serving));
    assert_eq!(seen::settled(&of("Settled", false)), None, "no gateway sends requests yet");
    assert_eq!(seen::settled(&of("RolledBack", true)), Some(End::RolledBack));
    assert_eq!(seen::settled(&of("Blocked", false)), Some(End::Blocked));
    assert_eq!(seen::settled(&deployment(canary())), None);
    assert_eq!(seen::settled(&blocked()), None, "a node may still come");
    // Of the spec before.
    let mut newer = of("Settled", true);
    newer.metadata.generation = Some(4);
    assert_eq!(seen::settled(&newer), None);
    assert_eq!([End::Serving, End::RolledBack, End::Blocked].map(End::code), [0, 3, 4]);
}

#[test]
fn a_verb_names_the_canary_that_is_seen() {
    let asked = act::asked(Verb::Promote, &deployment(canary()), "n1".to_owned()).unwrap();
    assert_eq!(asked.to_string(), "promote@6f9c2e1b4d/0/n1");
    let none = deployment(json!({"stable": OLD}));
    let why = act::asked(Verb::Abort, &none, "n1".to_owned()).unwrap_err();
    assert_eq!(why, "no canary is under way: revision 4b1f0c9a77 serves");
    let object = paused();
    assert!(act::answer(&object, "pause@6f9c2e1b4d/0/a").is_some());
    assert!(act::answer(&object, "pause@6f9c2e1b4d/0/b").is_none());
}

#[test]
fn refusals_are_told_with_what_to_do() {
    let of = |code: u16, message: &str, name: &str| {
        let status: Status = serde_json::from_value(
            json!({"status": "Failure", "code": code, "message": message, "details": {"name": name}}),
        )
        .unwrap();
        refusal::refused(&status, "chat", "demo", "https://cluster:6443")
    };
    let policy = "modeldeployments.outrigger.dev \"chat\" is forbidden: ValidatingAdmissionPolicy 'outrigger-actions' \
                  with binding 'outrigger-actions' denied request: you need the verb \"promote\" on \
                  modeldeployments.outrigger.dev in the namespace \"demo\": ask for the ClusterRole x-rollout-manager";
    let rbac = "modeldeployments.outrigger.dev \"chat\" is forbidden: User \"eve\" cannot patch resource";
    let told = [
        of(403, policy, "chat"),
        of(403, rbac, "chat"),
        of(404, "modeldeployments.outrigger.dev \"chat\" not found", "chat"),
        of(404, "404 page not found", ""),
        of(401, "Unauthorized", ""),
    ];
    assert_snapshot!(told.join("\n"));
}
