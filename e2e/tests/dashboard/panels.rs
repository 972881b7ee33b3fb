//! What the dashboard consists of, and what can be said of it without data.

use outrigger_e2e::program::root;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

/// The dashboard's text.
pub(crate) fn source() -> String {
    fs::read_to_string(root().join("charts/outrigger/dashboards/canary.json")).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&source()).unwrap()
}

/// A query of the dashboard: where it is, and its expression with Grafana's variables.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// Panel and letter, or an annotation's name.
    pub(crate) place: String,
    /// The expression.
    pub(crate) expression: String,
    /// Whether it marks moments, and so is empty where nothing happened.
    pub(crate) event: bool,
}

impl Query {
    /// The expression, with the variables filled in as Grafana does.
    pub(crate) fn of(&self, namespace: &str, deployment: &str, quantile: &str, rate: &str) -> String {
        let filled = self.expression.replace("$__rate_interval", rate).replace("$quantile", quantile);
        let filled = filled.replace("$namespace", namespace).replace("$deployment", deployment);
        assert!(!filled.contains('$'), "{}: a variable that nobody fills in: {filled}", self.place);
        filled
    }
}

/// Every query of every panel, and of the annotations.
pub(crate) fn queries() -> Vec<Query> {
    let dashboard = dashboard();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let place = format!("{} {}", text(&panel["title"]), text(&target["refId"]));
            found.push(Query { place, expression: text(&target["expr"]), event: false });
        }
    }
    for event in dashboard["annotations"]["list"].as_array().unwrap() {
        let expression = text(&event["target"]["expr"]);
        found.push(Query { place: format!("annotation {}", text(&event["name"])), expression, event: true });
    }
    found
}

fn panels(dashboard: &Value) -> Vec<Value> {
    let all = dashboard["panels"].as_array().unwrap().iter();
    all.flat_map(|panel| {
        let inner = panel["panels"].as_array().cloned().unwrap_or_default();
        std::iter::once(panel.clone()).chain(inner)
    })
    .collect()
}

/// What each panel says of itself to somebody who sees it for the first time.
#[test]
fn panels_explain_themselves() {
    let dashboard = dashboard();
    let mut titles = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap().to_owned();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        if panel["type"] == "row" {
            continue;
        }
        titles.insert(title.clone());
        assert!(panel["description"].as_str().unwrap().len() > 30, "{title} says little");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title} asks nothing");
        for target in targets {
            let name = target["legendFormat"].as_str().unwrap();
            assert!(!name.is_empty() && name != "__auto", "{title}: a series without a name");
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(defaults["noValue"].is_string(), "{title} is blank where there is nothing");
        if panel["type"] == "timeseries" {
            assert!(defaults["unit"].is_string(), "{title} has no unit");
        }
    }
    for wanted in [
        "Phase",
        "Verdicts",
        "Canary's share of callers",
        "Evidence that the canary is worse",
        "Failures",
        "Time to first token",
        "Replicas",
    ] {
        assert!(titles.contains(wanted), "no panel `{wanted}`");
    }
}

#[test]
fn panels_fill_their_rows_and_cover_no_other() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut bottom = 0;
    for panel in panels(&dashboard) {
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let (left, top, width, height) = (side("x"), side("y"), side("w"), side("h"));
        bottom = bottom.max(top + height);
        for x in left..left + width {
            for y in top..top + height {
                assert!(x < 24 && taken.insert((x, y)), "{} covers another at {x}, {y}", panel["title"]);
            }
        }
    }
    assert_eq!(taken.len() as u64, 24 * bottom, "there are holes");
}

/// Nothing is asked for that no program says; `docs/metrics.md` lists what they say.
#[test]
fn every_metric_is_one_that_a_program_has() {
    let known = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    for query in queries() {
        let words = query.expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("outrigger_")) {
            let base = word.trim_end_matches("_bucket").trim_end_matches("_total");
            assert!(known.contains(&format!("`{base}`")), "{}: {word} is in no list", query.place);
        }
    }
}

/// One deployment at a time: a query that forgets to say which would add up strangers.
#[test]
fn every_query_is_of_the_chosen_deployment() {
    let of_all = ["Gateways that hear an operator", "Operators"];
    for query in queries() {
        let general = of_all.iter().any(|title| query.place.starts_with(title));
        let selectors = query.expression.matches("outrigger_").count();
        let chosen = query.expression.matches("\"$namespace\"").count()
            + query.expression.matches("\"$namespace/$deployment\"").count();
        assert!(general || chosen == selectors, "{}: {}", query.place, query.expression);
    }
}
