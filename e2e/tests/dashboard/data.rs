//! Every query of the dashboard, asked of a real Prometheus that watched a promoted and a rolled-back canary.

use crate::panels::queries;
use crate::prometheus::{Prometheus, RATE};
use outrigger_e2e::caller::Callers;
use outrigger_e2e::cluster::Namespace;
use outrigger_e2e::installed::Installed;
use serde_json::Value;
use std::time::Duration;

/// From apply to a first answer.
const SOON: Duration = Duration::from_secs(90);
/// A whole rollout of short steps.
const ROLLOUT: Duration = Duration::from_secs(240);

/// A deployment of the simulated engine, its model named as it is.
fn deployment(name: &str, args: &str) -> String {
    format!(
        "
apiVersion: outrigger.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}}}
spec:
  model: {{name: dashboard-{name}}}
  engine:
    kind: vLLM
    image: outrigger/engine-sim:0.1.0
    args: [--model=dashboard-{name}, {args}]
    podTemplate: {{spec: {{securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}}}}}
  serving:
    timeouts: {{connect: 1s, firstByte: 3s, idle: 3s, total: 30s}}
    health: {{stallAfter: 6s}}
    maxDrain: 5s
  rollout:
    steps: [{{weight: 20, hold: 8s}}, {{weight: 50, hold: 8s}}]
    # Everything shares two cores here: what is judged is errors and health.
    analysis: {{minRequests: 50, errorsMargin: 10%, firstTokenMargin: 1000%}}
    progressDeadline: 60s
"
    )
}

fn serve(installed: &Installed, namespace: &Namespace, name: &str) -> Callers {
    namespace.apply(&deployment(name, "--version=v1")).unwrap();
    installed.wait_condition(namespace.name(), name, "Available", "True", SOON).unwrap();
    let model = format!("dashboard-{name}");
    Callers::start(installed.gateway(), &model, 4, 8, false, Duration::from_millis(20))
}

/// What each query has to give: for both deployments something, and at an event's moment the event.
#[test]
fn every_target_of_every_panel_has_data() {
    let installed = Installed::get().unwrap();
    let namespace = installed.cluster.restricted_namespace("dashboard").unwrap();
    let prometheus = Prometheus::start(installed.cluster).unwrap();
    let callers = [serve(installed, &namespace, "good"), serve(installed, &namespace, "bad")];
    let before = installed.stable(namespace.name(), "good").unwrap();
    namespace.apply(&deployment("good", "--version=v2")).unwrap();
    namespace.apply(&deployment("bad", "--version=v2, --fault=errors, --fault-share=0.5")).unwrap();
    installed.wait_promoted(namespace.name(), "good", &before, ROLLOUT).unwrap();
    installed.wait_rolled_back(namespace.name(), "bad", ROLLOUT).unwrap();
    // Of this namespace: the operator may still show deployments of former tests.
    let of_these = format!("outrigger_deployment_rollouts_total{{namespace=\"{}\"}}", namespace.name());
    let counted = format!("sum by (deployment, outcome) ({of_these}) > 0");
    let seen = || Ok(prometheus.since_the_start(&counted)?.len() >= 2);
    installed.cluster.wait_until(namespace.name(), "both ends to be scraped", SOON, seen).unwrap();
    drop(callers);

    let mut empty = Vec::new();
    for query in queries() {
        let given = |name: &str| {
            let asked = query.of(namespace.name(), name, "0.9", RATE);
            let series = prometheus.since_the_start(&asked).unwrap();
            series.iter().any(|(_, values)| !values.is_empty())
        };
        let (good, bad) = (given("good"), given("bad"));
        let enough = match (query.event, query.place.as_str()) {
            (true, "annotation Promoted") => good && !bad,
            (true, "annotation Rolled back") => bad && !good,
            _ => good && bad,
        };
        if !enough {
            empty.push(format!("{}: promoted {good}, rolled back {bad}: {}", query.place, query.expression));
        }
    }
    assert!(empty.is_empty(), "{}", empty.join("\n"));
    says_what_happened(&prometheus, namespace.name());
}

/// The panels that one decides by show what went on, not only something.
fn says_what_happened(prometheus: &Prometheus, namespace: &str) {
    let ask = |panel: &str, name: &str| -> Vec<(Value, Vec<f64>)> {
        let queries = queries();
        let query = queries.iter().find(|query| query.place == panel).unwrap();
        prometheus.since_the_start(&query.of(namespace, name, "0.9", RATE)).unwrap()
    };
    let most = |series: &[(Value, Vec<f64>)], label: &str, value: &str| {
        let of = series.iter().filter(|(labels, _)| labels[label] == value);
        of.flat_map(|(_, values)| values.iter().copied()).fold(f64::NEG_INFINITY, f64::max)
    };
    let evidence = ask("Evidence that the canary is worse A", "bad");
    let errors = most(&evidence, "metric", "errors");
    assert!(errors >= 1.0, "the bad canary was rolled back at {errors} of the bound");
    let evidence = ask("Evidence that the canary is worse A", "good");
    let errors = most(&evidence, "metric", "errors");
    assert!(errors < 1.0, "the good canary was promoted at {errors} of the bound");
    let failures = ask("Failures A", "bad");
    let (canary, stable) = (most(&failures, "role", "canary"), most(&failures, "role", "stable"));
    assert!(canary > 0.2 && stable < 0.1, "canary {canary}, stable {stable}");
    let weights = ask("Canary's share of callers A", "good");
    for kind in ["desired", "programmed"] {
        let reached = most(&weights, "kind", kind);
        assert!((0.49..=1.0).contains(&reached), "{kind} reached {reached}");
    }
    let verdicts = ask("Verdicts A", "bad");
    assert!(verdicts.iter().any(|(labels, _)| labels["verdict"] == "fail"), "{verdicts:?}");
}
