//! Alerts and the dashboard's expressions, as Prometheus' own tools read them.

use crate::set_up::{chart, objects, text, words};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

fn promtool(folder: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new("promtool").args(args).current_dir(folder).output().unwrap();
    (output.status.success(), words(&output))
}

/// The PrometheusRule's groups as a file of rules, in a folder of its own.
fn rules() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let all = objects(&["--set=monitoring.prometheusRule.enabled=true"]);
    let rule = all.iter().find(|one| text(one, "/kind") == "PrometheusRule").unwrap();
    fs::write(folder.path().join("rules.yaml"), rule["spec"].to_string()).unwrap();
    folder
}

#[test]
fn prometheus_reads_the_rules() {
    let (fine, said) = promtool(rules().path(), &["check", "rules", "rules.yaml"]);
    assert!(fine && said.contains("7 rules found"), "{said}");
}

/// Each alert has a severity and says what is so and what to look at.
#[test]
fn alerts_say_what_is_wrong() {
    let folder = rules();
    let rules = fs::read_to_string(folder.path().join("rules.yaml")).unwrap();
    let rules: Value = serde_json::from_str(&rules).unwrap();
    for rule in rules.pointer("/groups/0/rules").and_then(Value::as_array).unwrap() {
        let name = text(rule, "/alert");
        assert!(["info", "warning", "critical"].contains(&text(rule, "/labels/severity")), "{name}");
        assert!(text(rule, "/annotations/summary").len() > 10, "{name}");
        assert!(text(rule, "/annotations/description").len() > 20, "{name}");
    }
}

/// One case: series over minutes, and the labels of the alert that stands at a minute, if one does.
fn case(name: &str, series: &[(&str, &str)], at: &str, alert: &str, fires: Option<Value>) -> Value {
    let series: Vec<Value> =
        series.iter().map(|(series, values)| json!({"series": series, "values": values})).collect();
    let expected: Vec<Value> = fires.into_iter().map(|labels| json!({"exp_labels": labels})).collect();
    json!({
        "name": name,
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
    })
}

const CHAT: &str = "namespace=\"models\",deployment=\"chat\"";

fn of_chat(metric: &str, labels: &str) -> String {
    format!("{metric}{{{CHAT}{labels}}}")
}

/// What an alert says is for people; that it stands is what is tested here.
fn without_texts(folder: &Path) {
    let file = folder.join("rules.yaml");
    let mut rules: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    for rule in rules.pointer_mut("/groups/0/rules").and_then(Value::as_array_mut).unwrap() {
        rule.as_object_mut().unwrap().remove("annotations");
    }
    fs::write(&file, rules.to_string()).unwrap();
}

/// When alerts fire and when they do not, told by Prometheus itself.
fn hold(cases: &[Value]) {
    let folder = rules();
    without_texts(folder.path());
    let file = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": cases});
    fs::write(folder.path().join("tests.yaml"), file.to_string()).unwrap();
    let (fine, said) = promtool(folder.path(), &["test", "rules", "tests.yaml"]);
    assert!(fine, "{said}");
}

fn chat(severity: &str) -> Option<Value> {
    Some(json!({"namespace": "models", "deployment": "chat", "severity": severity}))
}

#[test]
fn rollouts_that_need_a_person_are_told() {
    let phase = |phase: &str| of_chat("outrigger_deployment_phase", &format!(",phase=\"{phase}\""));
    let (blocked, back, rolling) = (phase("blocked"), phase("rolledBack"), phase("rollingOut"));
    let verdict = of_chat("outrigger_deployment_verdict", ",metric=\"errors\",verdict=\"noData\"");
    let step = of_chat("outrigger_deployment_step", "");
    let undecided = |step_values| [(rolling.as_str(), "1x400"), (&verdict, "1x400"), (&step, step_values)];
    hold(&[
        case("blocked", &[(&blocked, "1x20")], "6m", "OutriggerRolloutBlocked", chat("warning")),
        case("soon free", &[(&blocked, "1x3 0x20")], "8m", "OutriggerRolloutBlocked", None),
        case("back", &[(&back, "0 1x9")], "2m", "OutriggerRolledBack", chat("warning")),
        case("it serves", &[(&back, "0x9")], "5m", "OutriggerRolledBack", None),
        case("nobody calls", &undecided("1x400"), "200m", "OutriggerRolloutUndecided", chat("info")),
        case("it goes on", &undecided("1x100 2x300"), "200m", "OutriggerRolloutUndecided", None),
    ]);
}

#[test]
fn gateways_that_do_not_follow_are_told() {
    let weight = |kind: &str| of_chat("outrigger_deployment_weight_ratio", &format!(",kind=\"{kind}\""));
    let (desired, programmed) = (weight("desired"), weight("programmed"));
    let live = "outrigger_gateway_table_live{pod=\"gateway-1\"}";
    let cut_off = Some(json!({"severity": "critical", "pod": "gateway-1"}));
    let hears = (live, "1x20");
    let deaf = [hears, (desired.as_str(), "0.1x20"), (programmed.as_str(), "0x20")];
    let differ = [hears, (desired.as_str(), "0.1x20"), (programmed.as_str(), "0 0 _x20")];
    let follows = [hears, (desired.as_str(), "0.1x20"), (programmed.as_str(), "0 0 0.1x20")];
    hold(&[
        case("deaf", &deaf, "7m", "OutriggerWeightMismatch", chat("warning")),
        case("they differ", &differ, "14m", "OutriggerWeightMismatch", chat("warning")),
        case("it follows", &follows, "7m", "OutriggerWeightMismatch", None),
        case("cut off", &[(live, "1 0x9")], "5m", "OutriggerGatewayWithoutTable", cut_off),
        case("a hiccup", &[(live, "1 0 1x9")], "5m", "OutriggerGatewayWithoutTable", None),
    ]);
}

#[test]
fn operators_and_engines_in_trouble_are_told() {
    let leader = "outrigger_operator_leader{pod=\"a\"}";
    let second = "outrigger_operator_leader{pod=\"b\"}";
    let again = "outrigger_operator_leader{pod=\"a\",job=\"scraped-twice\"}";
    let run = of_chat("outrigger_sidecar_engine_incarnation", ",pod=\"chat-1\",revision=\"abc\"");
    let critical = || Some(json!({"severity": "critical"}));
    let mut engine = chat("warning");
    engine.as_mut().unwrap()["revision"] = json!("abc");
    hold(&[
        case("one leads", &[(leader, "1x9"), (second, "0x9")], "5m", "OutriggerNoLeader", None),
        case("seen twice", &[(leader, "1x9"), (again, "1x9")], "5m", "OutriggerNoLeader", None),
        case("none leads", &[(leader, "0x9"), (second, "0x9")], "5m", "OutriggerNoLeader", critical()),
        case("two lead", &[(leader, "1x9"), (second, "1x9")], "5m", "OutriggerNoLeader", critical()),
        case("none is there", &[("up", "1x9")], "5m", "OutriggerNoLeader", critical()),
        case("it crashes", &[(&run, "1 2 3 4 5 6 6x9")], "7m", "OutriggerEngineRestarts", engine),
        case("once", &[(&run, "1 2x20")], "7m", "OutriggerEngineRestarts", None),
    ]);
}

/// Every expression of the dashboard, with Grafana's variables filled in, is one that Prometheus reads.
#[test]
fn prometheus_reads_the_dashboards_expressions() {
    let text = fs::read_to_string(chart().join("dashboards/canary.json")).unwrap();
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&text).unwrap(), &mut found);
    assert!(found.len() > 30, "{}", found.len());
    let rules: Vec<Value> = found
        .iter()
        .enumerate()
        .map(|(i, expression)| json!({"record": format!("of:dashboard:{i}"), "expr": expression}))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(folder.path().join("rules.yaml"), file.to_string()).unwrap();
    let (fine, said) = promtool(folder.path(), &["check", "rules", "rules.yaml"]);
    assert!(fine, "{said}");
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        match inner.as_str() {
            Some(text) if name == "expr" => {
                found.push(text.replace("$__rate_interval", "1m").replace("$quantile", "0.9"));
            }
            _ => expressions(inner, found),
        }
    }
    value.as_array().into_iter().flatten().for_each(|inner| expressions(inner, found));
}
