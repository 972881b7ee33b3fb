//! Values: documented, complete, and refused in words when they are wrong.

use crate::set_up::{NAMESPACE, RELEASE, chart, documents, objects, pods, template};
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
        ("commonLabels.app\\.kubernetes\\.io/name=x", "invalid propertyName 'app.kubernetes.io/name'"),
        ("gateway.podLabels.app\\.kubernetes\\.io/component=x", "invalid propertyName"),
        ("image.digests.operator=sha256:12", "at '/image/digests/operator': 'sha256:12' does not match"),
        ("image.digests.helper=", "additional properties 'helper' not allowed"),
        ("gateway.ingress.host=example.com", "additional properties 'host' not allowed"),
        ("networkPolicy.callers[0].from=x", "additional properties 'from' not allowed"),
        ("operator.topologySpreadConstraints=x", "got string, want null or array"),
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

/// What the chart decides for everybody, somebody must be able to decide otherwise.
#[test]
fn what_pods_are_can_be_decided_otherwise() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let given = format!("--set=image.digests.gateway={digest}");
    let more = [
        &given,
        "--set=podSecurityContext.runAsUser=null,securityContext=null",
        "--set-json=gateway.affinity={},gateway.topologySpreadConstraints=[]",
    ];
    let pods = pods(&objects(&more));
    let find = |name: &str| &pods.iter().find(|(title, _)| title == name).unwrap().1;
    let (gateway, operator) = (find("Deployment/outrigger-gateway"), find("Deployment/outrigger-operator"));
    assert_eq!(gateway["containers"][0]["image"], format!("outrigger/gateway@{digest}"));
    assert_eq!(operator["containers"][0]["image"], "outrigger/operator:0.1.0");
    for pod in [gateway, operator] {
        assert!(pod["securityContext"].get("runAsUser").is_none(), "{pod}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{pod}");
        assert_eq!(pod["containers"][0]["securityContext"], serde_json::json!({}), "{pod}");
    }
    // One wish may be taken back without the other, and nobody else's is touched.
    assert_eq!(gateway["affinity"], serde_json::json!({}));
    assert_eq!(gateway["topologySpreadConstraints"], serde_json::json!([]));
    assert!(operator["affinity"]["podAntiAffinity"].is_object());
    assert_eq!(operator["topologySpreadConstraints"][0]["topologyKey"], "topology.kubernetes.io/zone");
}

/// The ports that are open are those that somebody needs: proxies, the API server, callers, whoever scrapes.
#[test]
fn a_network_policy_names_every_port_once() {
    let all = objects(&[
        "--set=networkPolicy.enabled=true",
        "--set=networkPolicy.callers[0].namespaceSelector.matchLabels.team=chat",
    ]);
    for (name, ports) in [("operator", vec!["table", "webhook", "admin"]), ("gateway", vec!["http", "admin"])]
    {
        let title = format!("NetworkPolicy/outrigger-{name}");
        let policy = all.iter().find(|one| crate::set_up::title(one) == title).unwrap();
        let rules = policy["spec"]["ingress"].as_array().unwrap();
        let open = rules.iter().flat_map(|rule| rule["ports"].as_array().unwrap());
        assert_eq!(open.map(|port| port["port"].as_str().unwrap()).collect::<Vec<_>>(), ports, "{title}");
        let deployment = format!("Deployment/outrigger-{name}");
        let (_, pod) = pods(&all).into_iter().find(|(title, _)| *title == deployment).unwrap();
        for port in pod["containers"][0]["ports"].as_array().unwrap() {
            assert!(ports.contains(&port["name"].as_str().unwrap()), "{title} forgets {port}");
        }
        let callers = &rules[0]["from"];
        assert_eq!(callers.is_array(), name == "gateway", "{title}: `helm test` and those that are named");
    }
}
