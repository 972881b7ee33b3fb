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

/// One case: series over minutes, and the alerts that stand at a minute.
fn case(name: &str, series: &[(&str, &str)], at: &str, alert: &str, fires: bool, labels: &Value) -> Value {
    let series: Vec<Value> =
        series.iter().map(|(series, values)| json!({"series": series, "values": values})).collect();
    let expected = if fires { json!([{"exp_labels": labels}]) } else { json!([]) };
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

/// When each alert fires and when it does not, told by Prometheus itself.
#[test]
fn alerts_fire_when_they_should() {
    let folder = rules();
    let chat = |severity: &str| json!({"namespace": "models", "deployment": "chat", "severity": severity});
    let phase = |phase: &str| of_chat("outrigger_deployment_phase", &format!(",phase=\"{phase}\""));
    let weight = |kind: &str| of_chat("outrigger_deployment_weight_ratio", &format!(",kind=\"{kind}\""));
    let verdict = of_chat("outrigger_deployment_verdict", ",metric=\"errors\",verdict=\"noData\"");
    let step = of_chat("outrigger_deployment_step", "");
    let run = of_chat("outrigger_sidecar_engine_incarnation", ",pod=\"chat-1\",revision=\"abc\"");
    let (desired, programmed) = (weight("desired"), weight("programmed"));
    let critical = json!({"severity": "critical"});
    let gateway = json!({"severity": "critical", "pod": "gateway-1"});
    let engine =
        json!({"severity": "warning", "namespace": "models", "deployment": "chat", "revision": "abc"});
    let (leader, live) =
        ("outrigger_operator_leader{pod=\"a\"}", "outrigger_gateway_table_live{pod=\"gateway-1\"}");
    let second = "outrigger_operator_leader{pod=\"b\"}";
    let tests = [
        case(
            "blocked",
            &[(&phase("blocked"), "1x20")],
            "6m",
            "OutriggerRolloutBlocked",
            true,
            &chat("warning"),
        ),
        case(
            "soon free",
            &[(&phase("blocked"), "1x3 0x20")],
            "8m",
            "OutriggerRolloutBlocked",
            false,
            &Value::Null,
        ),
        case("back", &[(&phase("rolledBack"), "0 1x9")], "2m", "OutriggerRolledBack", true, &chat("warning")),
        case("serves", &[(&phase("rolledBack"), "0x9")], "5m", "OutriggerRolledBack", false, &Value::Null),
        case(
            "nobody calls",
            &[(&phase("rollingOut"), "1x400"), (&verdict, "1x400"), (&step, "1x400")],
            "200m",
            "OutriggerRolloutUndecided",
            true,
            &chat("info"),
        ),
        case(
            "it goes on",
            &[(&phase("rollingOut"), "1x400"), (&verdict, "1x400"), (&step, "1x100 2x300")],
            "200m",
            "OutriggerRolloutUndecided",
            false,
            &Value::Null,
        ),
        case(
            "a gateway is deaf",
            &[(&desired, "0.1x20"), (&programmed, "0x20")],
            "7m",
            "OutriggerWeightMismatch",
            true,
            &chat("warning"),
        ),
        case(
            "it follows",
            &[(&desired, "0.1x20"), (&programmed, "0 0 0.1x20")],
            "7m",
            "OutriggerWeightMismatch",
            false,
            &Value::Null,
        ),
        case(
            "one leads",
            &[(leader, "1x9"), (second, "0x9")],
            "5m",
            "OutriggerNoLeader",
            false,
            &Value::Null,
        ),
        case("none leads", &[(leader, "0x9"), (second, "0x9")], "5m", "OutriggerNoLeader", true, &critical),
        case("two lead", &[(leader, "1x9"), (second, "1x9")], "5m", "OutriggerNoLeader", true, &critical),
        case("none is there", &[("up", "1x9")], "5m", "OutriggerNoLeader", true, &critical),
        case("cut off", &[(live, "1 0x9")], "5m", "OutriggerGatewayWithoutTable", true, &gateway),
        case("a hiccup", &[(live, "1 0 1x9")], "5m", "OutriggerGatewayWithoutTable", false, &Value::Null),
        case("it crashes", &[(&run, "1 2 3 4 5 6 6x9")], "7m", "OutriggerEngineRestarts", true, &engine),
        case("once", &[(&run, "1 2x20")], "7m", "OutriggerEngineRestarts", false, &Value::Null),
    ];
    without_texts(folder.path());
    let file = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests});
    fs::write(folder.path().join("tests.yaml"), file.to_string()).unwrap();
    let (fine, said) = promtool(folder.path(), &["test", "rules", "tests.yaml"]);
    assert!(fine, "{said}");
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
