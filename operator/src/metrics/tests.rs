//! Metrics as they are scraped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use super::*;
use outrigger_plan::{Outcome, World, plan};
use outrigger_wire::BasisPoints;
use serde_json::json;

fn world() -> World {
    serde_json::from_value(json!({
        "spec": {
            "key": "models/chat",
            "generation": 2,
            "spec": {
                "model": { "name": "chat" },
                "engine": { "image": "example.com/engine:2", "ports": { "http": 8000 } },
                "scale": { "replicas": 2 },
            },
        },
        "replicas": [
            { "id": "u-1", "revision": "aaaaaaaaaa", "phase": "ready", "created": "2026-11-21T12:00:00Z" },
            { "id": "u-2", "revision": "cccccccccc", "phase": "terminating", "created": "2026-11-21T12:00:00Z" },
        ],
    }))
    .unwrap()
}

fn first() -> Plan {
    plan(&world(), "2026-11-21T12:00:05Z".parse().unwrap())
}

/// A canary in its second step, judged by one metric.
fn canary() -> Plan {
    let mut plan = first();
    plan.status.stable = Some("aaaaaaaaaa".into());
    plan.status.starting = None;
    plan.status.canary = serde_json::from_value(json!({
        "revision": "bbbbbbbbbb", "started": "2026-11-21T12:00:00Z", "step": 1,
        "progressed": "2026-11-21T12:00:00Z", "analysis": outrigger_verdict::State::default(),
        "analysed": "2026-11-21T12:00:00Z",
    }))
    .unwrap();
    plan.outcome = Outcome::RollingOut;
    plan.weights.desired = BasisPoints::percent(10);
    plan.weights.programmed = Some(BasisPoints::percent(1));
    plan.weights.observed = None;
    plan.workloads.truncate(1);
    plan.workloads[0].revision = "bbbbbbbbbb".into();
    plan.verdicts = serde_json::from_value(json!([{
        "metric": "timeToFirstToken",
        "verdict": { "is": "undecided", "samples": 10, "needed": 50 },
        "evidence": 0.5, "bound": 2.6, "excluded": 1.25, "enough": false, "reason": "",
    }]))
    .unwrap();
    plan.events.clear();
    plan
}

fn key() -> DeploymentKey {
    DeploymentKey("models/chat".to_owned())
}

fn scrape(metrics: &Metrics) -> String {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    outrigger_dataplane::metrics::text(&registry)
}

/// The series of deployments, without comments.
fn series(metrics: &Metrics) -> Vec<String> {
    let text = scrape(metrics);
    text.lines().filter(|line| line.starts_with("outrigger_deployment")).map(str::to_owned).collect()
}

#[test]
fn a_canary_is_shown() {
    let metrics = Metrics::default();
    metrics.led(true);
    metrics.deployment(&key(), &canary(), 3, &world().replicas);
    metrics.reconciled(true, Duration::from_millis(3));
    metrics.watch_restarted("Pod");
    insta::assert_snapshot!(scrape(&metrics));
}

/// What is not known has no series: not 0, which would be a statement.
#[test]
fn what_is_not_known_is_absent() {
    let metrics = Metrics::default();
    metrics.deployment(&key(), &first(), 3, &[]);
    let text = series(&metrics).join("\n");
    for absent in ["observed", "programmed", "outrigger_deployment_step{", "verdict", "evidence", "excluded"]
    {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    assert!(text.contains("kind=\"desired\"} 0"), "{text}");
}

/// What a canary was rolled back for is shown after it is gone.
#[test]
fn the_last_verdicts_stay() {
    let metrics = Metrics::default();
    let mut plan = canary();
    plan.status.verdicts = std::mem::take(&mut plan.verdicts);
    plan.status.canary = None;
    metrics.deployment(&key(), &plan, 3, &[]);
    let text = series(&metrics).join("\n");
    assert!(text.contains("outrigger_deployment_evidence{"), "{text}");
    assert!(!text.contains("outrigger_deployment_step{"), "{text}");
}

#[test]
fn stale_series_vanish() {
    let metrics = Metrics::default();
    metrics.led(true);
    metrics.deployment(&key(), &canary(), 3, &world().replicas);
    metrics.deployment(&key(), &first(), 3, &[]);
    assert!(!series(&metrics).join("\n").contains("bbbbbbbbbb"), "the canary is over");
    metrics.forget(&key());
    assert!(series(&metrics).is_empty(), "the deployment is gone");
}

#[test]
fn another_leader_shows_the_deployments_and_counters_never_fall() {
    let metrics = Metrics::default();
    let mut plan = canary();
    plan.events = serde_json::from_value(json!([
        { "warning": true, "reason": "RolledBack", "message": "worse" },
        { "warning": false, "reason": "Promoted", "message": "better" },
        { "warning": false, "reason": "StepReached", "message": "on" },
    ]))
    .unwrap();
    metrics.led(true);
    metrics.deployment(&key(), &plan, 3, &[]);
    metrics.deployment(&DeploymentKey("models/calm".to_owned()), &first(), 3, &[]);
    metrics.led(false);
    let left = series(&metrics);
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(
        left.iter()
            .all(|line| line.starts_with("outrigger_deployment_rollouts_total{") && line.ends_with(" 1.0"))
    );
    assert!(left.iter().all(|line| line.contains("namespace=\"models\",deployment=\"chat\"")), "{left:?}");
}

/// The list in the documents is what is shown, in the same words.
#[test]
fn the_documents_list_what_is_shown() {
    let metrics = Metrics::default();
    metrics.deployment(&key(), &canary(), 3, &[]);
    metrics.reconciled(false, Duration::ZERO);
    metrics.watch_restarted("Pod");
    let text = scrape(&metrics);
    let shown: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let (name, help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
            let kind = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")))?;
            Some(format!("| `{name}` | {kind} | {help} |"))
        })
        .collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (_, section) = document.split_once("## Operator").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let listed: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(listed, shown);
}

#[test]
fn a_sidecar_that_is_held_back_shows() {
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    for (halted, value) in [(true, 1), (false, 0)] {
        metrics.upgrade_halted(halted);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = format!("outrigger_operator_sidecar_upgrade_halted {value}\n");
        assert!(text.contains(&line), "{text}");
    }
}
