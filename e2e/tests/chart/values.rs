//! Values: documented, complete, and refused in words when they are wrong.

use crate::set_up::{NAMESPACE, RELEASE, chart, documents, template};
use serde_json::Value;
use std::fs;

#[test]
fn wrong_values_are_refused_in_words() {
    let wrong = [
        ("image.tagg=v1", "at '/image': additional properties 'tagg' not allowed"),
        ("gatway.replicas=3", "additional properties 'gatway' not allowed"),
        ("gateway.service.typ=NodePort", "additional properties 'typ' not allowed"),
        ("gateway.replicas=many", "at '/gateway/replicas': got string, want null or integer"),
        ("gateway.replicas=0", "at '/gateway/replicas': minimum: got 0, want 1"),
        ("gateway.threads=1000", "at '/gateway/threads': maximum: got 1,000, want 256"),
        ("gateway.maxDrain=5m", "at '/gateway/maxDrain': got string, want integer"),
        ("gateway.service.port=70000", "at '/gateway/service/port': maximum: got 70,000, want 65,535"),
        ("gateway.service.type=Ingress", "must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'"),
        ("image.pullPolicy=always", "must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("image.tag=15", "at '/image/tag': got number, want string"),
        (
            "image.registry=example.com/team",
            "at '/image/registry': 'example.com/team' does not match pattern",
        ),
        ("crds.install=maybe", "at '/crds/install': got string, want boolean"),
        ("operator.resources.limits.memory=lots", "at '/operator/resources/limits/memory'"),
        ("operator.resources.limit.memory=1Gi", "additional properties 'limit' not allowed"),
        ("gateway.tolerations[0].efect=NoSchedule", "additional properties 'efect' not allowed"),
        ("operator.extraEnv[0].value=1", "missing property 'name'"),
        ("webhooks.timeoutSeconds=60", "at '/webhooks/timeoutSeconds': maximum: got 60, want 30"),
        (
            "monitoring.podMonitor.interval=often",
            "at '/monitoring/podMonitor/interval': 'often' does not match",
        ),
        ("logLevel=", "at '/logLevel': minLength"),
    ];
    for (value, words) in wrong {
        let error = template(RELEASE, NAMESPACE, &["--set", value]).err();
        let error = error.unwrap_or_else(|| panic!("{value} was taken"));
        assert!(error.contains(words), "{value}: {error}");
    }
}

/// Another chart may carry this one: Helm then hands down `global`.
#[test]
fn a_chart_around_it_may_have_globals() {
    template(RELEASE, NAMESPACE, &["--set=global.imageRegistry=example.com"]).unwrap();
}

/// Walks values and schema side by side: the same names on both sides, and every object is closed.
#[test]
fn values_and_schema_know_the_same_names() {
    let values = &documents(&fs::read_to_string(chart().join("values.yaml")).unwrap())[0];
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
    compare("", values, &schema, &schema);
    closed("", &schema);
}

fn compare(path: &str, values: &Value, schema: &Value, root: &Value) {
    let schema = match schema["$ref"].as_str() {
        Some(name) => root.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object()) else {
        return;
    };
    if values.is_empty() {
        // A field that is a Kubernetes type, empty as it comes.
        return;
    }
    for (name, value) in values {
        let inner = properties.get(name).unwrap_or_else(|| panic!("{path}.{name} is not in the schema"));
        compare(&format!("{path}.{name}"), value, inner, root);
    }
    // Kubernetes' own types have more fields than our defaults use.
    let ours = !path.ends_with(".resources");
    for name in properties.keys().filter(|name| ours && *name != "global") {
        assert!(values.contains_key(name), "{path}.{name} is not in values.yaml");
    }
}

fn closed(path: &str, schema: &Value) {
    if schema["type"] == "object" && schema["properties"].is_object() {
        assert_eq!(schema["additionalProperties"], Value::Bool(false), "{path} is open");
    }
    for (name, inner) in schema.as_object().into_iter().flatten() {
        closed(&format!("{path}/{name}"), inner);
    }
}

/// Everything that a user meets in values.yaml is said in words there, once per block at least.
#[test]
fn values_are_documented() {
    let text = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let mut before = "";
    for line in text.lines() {
        let block = !line.starts_with([' ', '#']) && line.ends_with(':');
        let inner = line.trim_start().split_once(':').is_some_and(|(key, _)| key == "enabled");
        let same = ["crds:", "rbac:", "webhooks:", "actionPolicy:"].contains(&line);
        assert!(!block || inner || same || before.starts_with('#'), "{line} lacks a comment before it");
        before = line;
    }
}
