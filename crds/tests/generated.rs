//! The committed CustomResourceDefinition is the one that the types give.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

const COMMITTED: &str = include_str!("../yaml/modeldeployments.outrigger.dev.yaml");

#[test]
fn committed_yaml_is_current() {
    let generated = serde_yaml::to_string(&outrigger_crds::definition()).unwrap();
    let stale = generated.lines().zip(COMMITTED.lines()).position(|(now, then)| now != then);
    assert!(
        generated == COMMITTED,
        "crds/yaml is stale from line {:?} on: run `cargo xtask generate`",
        stale.map(|line| line + 1)
    );
}

/// Every rule has a message that names the field, and no list, map or string of the spec is without a bound, so
/// that the API server can bound what the rules cost.
#[test]
fn rules_have_messages_and_everything_is_bounded() {
    let definition = serde_json::to_value(outrigger_crds::definition()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut rules = 0;
    walk(schema, "spec", &mut rules);
    assert!(rules > 15, "{rules} rules");
}

fn walk(schema: &serde_json::Value, path: &str, rules: &mut usize) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        *rules += 1;
        assert!(rule["message"].as_str().is_some_and(|m| !m.is_empty()), "{path}: {rule}");
        assert!(rule["messageExpression"].is_string(), "{path}: {rule}");
    }
    // Kubernetes' own fields are bounded by the size of an object, and no rule looks at them.
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let either = schema["x-kubernetes-int-or-string"] == true;
    let bounded = open
        || either && schema["maxLength"].is_number()
        || match schema["type"].as_str().unwrap_or_default() {
            "string" => schema["maxLength"].is_number() || schema["enum"].is_array(),
            "array" => schema["maxItems"].is_number(),
            "object" => schema["properties"].is_object() || schema["maxProperties"].is_number(),
            "integer" => schema["minimum"].is_number() && schema["maximum"].is_number(),
            "boolean" => true,
            other => panic!("{path} has the type {other}"),
        };
    assert!(bounded, "{path} has no bound: {schema}");
    assert!(
        schema["description"].as_str().is_some_and(|d| !d.is_empty()) || path.ends_with(']'),
        "{path} has no text"
    );
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        walk(below, &format!("{path}.{name}"), rules);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&schema[inner], &format!("{path}[]"), rules);
        }
    }
}

/// A default in a revision's schema would be written into stored objects and look like a change later.
#[test]
fn fields_of_a_revision_have_no_default() {
    let definition = serde_json::to_value(outrigger_crds::definition()).unwrap();
    let engine = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["engine"];
    assert!(engine.is_object());
    assert!(!engine.to_string().contains("\"default\":"), "{engine}");
}
