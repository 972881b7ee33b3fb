//! Who may do what.

use crate::set_up::{SETS, objects, text, title};
use serde_json::Value;

fn rules(object: &Value) -> &[Value] {
    object["rules"].as_array().map_or(&[], Vec::as_slice)
}

fn has(rule: &Value, field: &str, word: &str) -> bool {
    rule[field].as_array().is_some_and(|all| all.iter().any(|one| one == word))
}

/// No wildcard, no Secret of other namespaces, no way to raise one's own rights, and only the operator has any.
#[test]
fn nobody_gets_more_than_is_used() {
    let all = objects(SETS[1].1);
    let roles = all.iter().filter(|one| text(one, "/kind").ends_with("Role"));
    for role in roles {
        for rule in rules(role) {
            for field in ["apiGroups", "resources", "verbs"] {
                assert!(!has(rule, field, "*"), "{}: {rule}", title(role));
            }
            for verb in ["escalate", "bind", "impersonate"] {
                assert!(!has(rule, "verbs", verb), "{}: {rule}", title(role));
            }
            if text(role, "/kind") == "ClusterRole" {
                for resource in ["secrets", "roles", "clusterroles", "pods/exec", "serviceaccounts/token"] {
                    assert!(!has(rule, "resources", resource), "{}: {rule}", title(role));
                }
            } else if has(rule, "resources", "secrets") {
                // One that is named may be watched; all of them may not be seen.
                let one = rule["resourceNames"].as_array().is_some_and(|names| names.len() == 1);
                assert!(
                    !has(rule, "verbs", "list") && (one || !has(rule, "verbs", "watch")),
                    "{}: {rule}",
                    title(role)
                );
            }
        }
    }
    for binding in all.iter().filter(|one| text(one, "/kind").ends_with("RoleBinding")) {
        assert_eq!(text(binding, "/subjects/0/name"), "outrigger-operator", "{}", title(binding));
        assert_eq!(binding["subjects"].as_array().unwrap().len(), 1, "{}", title(binding));
    }
}

/// The status is what the operator says: no user's role writes it.
#[test]
fn no_role_of_users_writes_the_status() {
    for role in objects(&[]).iter().filter(|one| text(one, "/kind") == "ClusterRole") {
        let writes = rules(role).iter().any(|rule| {
            has(rule, "resources", "modeldeployments/status")
                && ["update", "patch", "create"].iter().any(|verb| has(rule, "verbs", verb))
        });
        assert_eq!(writes, title(role) == "ClusterRole/outrigger-operator", "{}", title(role));
    }
}

#[test]
fn aggregation_can_be_left_out() {
    let labels = |values: &[&str]| {
        let all = objects(values);
        all.iter().filter(|one| one.to_string().contains("rbac.authorization.k8s.io/aggregate-to-")).count()
    };
    assert_eq!(labels(&[]), 3);
    assert_eq!(labels(&["--set=rbac.aggregate=false"]), 0);
}

/// The webhook that may refuse a pod sees labelled pods only, and never those that it needs itself.
#[test]
fn an_outage_of_the_webhooks_stops_nothing_else() {
    let all = objects(&[]);
    let find = |kind: &str| all.iter().find(|one| text(one, "/kind") == kind).unwrap().clone();
    let inject = find("MutatingWebhookConfiguration")["webhooks"][0].clone();
    assert_eq!(inject["failurePolicy"], "Fail");
    assert_eq!(inject["objectSelector"]["matchLabels"]["outrigger.dev/inject"], "true");
    let namespaces = inject["namespaceSelector"]["matchExpressions"][0].clone();
    assert_eq!(namespaces["operator"], "NotIn");
    assert_eq!(namespaces["values"], serde_json::json!(["outrigger-system", "kube-system"]));
    let validate = find("ValidatingWebhookConfiguration")["webhooks"][0].clone();
    assert_eq!(validate["failurePolicy"], "Ignore");
    for webhook in [inject, validate] {
        assert!(webhook["timeoutSeconds"].as_u64().unwrap() <= 5);
        // The operator writes it; what Helm doesn't know of, no upgrade and no rollback takes away.
        assert!(webhook["clientConfig"].get("caBundle").is_none());
    }
}
