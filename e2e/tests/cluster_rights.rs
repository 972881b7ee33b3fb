//! Who may do what in the cluster: the operator has exactly the rights that it uses, gateways and sidecars have none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::caller::Callers;
use outrigger_e2e::cluster::Cluster;
use outrigger_e2e::installed::{Installed, NAMESPACE};
use outrigger_e2e::simulated::{IMAGE, NAME, edit, serving};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The operator, to the API server.
const OPERATOR: &str = "system:serviceaccount:outrigger-system:outrigger-operator";
/// A scaling, a promotion's drain, an object's end.
const SOON: Duration = Duration::from_secs(150);
/// A rollout of three short steps.
const ROLLOUT: Duration = Duration::from_secs(240);

/// Where a right holds, the API group, the resource with its subresource, and the verb.
type Right = (Where, String, String, String);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Where {
    Everywhere,
    /// In the installation's namespace.
    Here,
}
use Where::{Everywhere, Here};

/// Why what the operator made is read once more.
const WHOSE: &str = "tells whose an object is that somebody else edits";

/// Rights that the session below does not use, and why they are needed. `list` and `watch` at a replica's start are
/// held against the whole log instead.
const NOT_HERE: &[(Where, &str, &str, &str, &str)] = &[
    (
        Everywhere,
        "outrigger.dev",
        "modeldeployments",
        "report",
        "no request's verb: the action policy asks for it",
    ),
    (
        Everywhere,
        "apps",
        "controllerrevisions",
        "delete",
        "of those that don't serve the ten newest are kept",
    ),
    (Everywhere, "events.k8s.io", "events", "patch", "tells the same a second time"),
    (Everywhere, "", "services", "get", WHOSE),
    (Everywhere, "apps", "controllerrevisions", "get", WHOSE),
    (Everywhere, "apps", "replicasets", "get", WHOSE),
    (Everywhere, "networking.k8s.io", "networkpolicies", "get", WHOSE),
    (Everywhere, "policy", "poddisruptionbudgets", "get", WHOSE),
    (Everywhere, "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "patch", "a new authority"),
    (
        Everywhere,
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        "patch",
        "a new authority",
    ),
    (Here, "coordination.k8s.io", "leases", "create", "the first replica's start"),
    (Here, "", "secrets", "create", "the first replica's start"),
    (Here, "", "secrets", "get", "a replica's start, and a look every five minutes"),
    (Here, "", "secrets", "update", "a new authority"),
];

/// Rights that an upgrade uses, which `cluster_operator` makes before these tests.
const BEFORE: &[(Where, &str, &str, &str)] =
    &[(Everywhere, "", "pods", "patch"), (Here, "", "pods", "create"), (Here, "", "pods", "delete")];

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What the rules of a role grant.
fn rules(role: &Value, place: Where) -> BTreeSet<Right> {
    let mut found = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    assert!(![group, resource, verb].contains(&"*"), "{rule}");
                    found.insert((place, group.to_owned(), resource.to_owned(), verb.to_owned()));
                }
            }
        }
    }
    found
}

/// Roles that are bound to a service account of the installation: kind and name.
fn bound(cluster: &Cluster, account: &str) -> Vec<(String, String)> {
    let bindings = cluster.json(&["get", "clusterrolebindings,rolebindings", "-A"]).unwrap();
    let is_bound = |binding: &&Value| {
        let mut subjects = binding["subjects"].as_array().into_iter().flatten();
        subjects.any(|s| s["kind"] == "ServiceAccount" && s["namespace"] == NAMESPACE && s["name"] == account)
    };
    let role = |binding: &Value| {
        let text = |field: &str| binding["roleRef"][field].as_str().unwrap().to_owned();
        (text("kind"), text("name"))
    };
    bindings["items"].as_array().unwrap().iter().filter(is_bound).map(role).collect()
}

fn granted(cluster: &Cluster) -> BTreeSet<Right> {
    let name = "outrigger-operator".to_owned();
    let roles = [("ClusterRole".to_owned(), name.clone()), ("Role".to_owned(), name)];
    assert_eq!(bound(cluster, "outrigger-operator"), roles);
    let everywhere = cluster.json(&["get", "clusterrole", "outrigger-operator"]).unwrap();
    let here = cluster.json(&["get", "role", "outrigger-operator", "-n", NAMESPACE]).unwrap();
    rules(&everywhere, Everywhere).into_iter().chain(rules(&here, Here)).collect()
}

/// The rights that one request needed: an apply that made an object needed to create it too.
fn needed(event: &Value, granted: &BTreeSet<Right>) -> Vec<Right> {
    let object = &event["objectRef"];
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let resource = [text("resource"), text("subresource")].join("/");
    let resource = resource.trim_end_matches('/').to_owned();
    let verb = event["verb"].as_str().unwrap();
    let made = verb == "patch" && event["responseStatus"]["code"] == 201;
    let right = |verb: &str| {
        let right = |place| (place, text("apiGroup"), resource.clone(), verb.to_owned());
        let local = text("namespace") == NAMESPACE && !granted.contains(&right(Everywhere));
        right(if local { Here } else { Everywhere })
    };
    [Some(verb), made.then_some("create")].into_iter().flatten().map(right).collect()
}

/// What was used, each with one request that did.
fn used(events: &[Value], granted: &BTreeSet<Right>) -> BTreeMap<Right, String> {
    let mut found = BTreeMap::new();
    for event in events {
        assert!(event["objectRef"].is_object(), "a request for no object: {event}");
        for right in needed(event, granted) {
            let uri = event["requestURI"].as_str().unwrap_or_default().to_owned();
            found.entry(right).or_insert(uri);
        }
    }
    found
}

/// Create, canary, promotion, scaling up and down to one, deletion.
fn session(installed: &'static Installed) {
    let model = "rights";
    let namespace = serving(installed, "rights", model).unwrap();
    let before = installed.stable(namespace.name(), NAME).unwrap();
    let callers = Callers::start(installed.gateway(), model, 8, 8, false, Duration::from_millis(50));
    edit(&namespace, model, "v2", &[], IMAGE).unwrap();
    installed.wait_promoted(namespace.name(), NAME, &before, ROLLOUT).unwrap();
    callers.stop();
    for (replicas, budget) in [("3", 1), ("1", 0)] {
        let count = format!("--replicas={replicas}");
        namespace.kubectl(&["scale", "md", NAME, &count]).unwrap();
        let cluster = installed.cluster;
        let what = format!("{replicas} replicas");
        let pods = ["get", "pods", "-l", "outrigger.dev/deployment=chat"];
        cluster
            .wait_until(namespace.name(), &what, SOON, || {
                let pods = namespace.json(&pods)?["items"].as_array().map(Vec::len);
                let budgets = namespace.json(&["get", "pdb"])?["items"].as_array().map(Vec::len);
                Ok(pods.map(|n| n.to_string()).as_deref() == Some(replicas) && budgets == Some(budget))
            })
            .unwrap();
    }
    namespace.kubectl(&["delete", "md", NAME]).unwrap();
    // The bundle by which its proxies knew the operator goes with a namespace's last deployment, a moment later.
    let list = ["get", "replicasets,services,configmaps", "-o", "name"];
    let gone = || Ok(namespace.kubectl(&list)?.trim() == "configmap/kube-root-ca.crt");
    installed.cluster.wait_until(namespace.name(), "all to be gone", SOON, gone).unwrap();
}

/// Nothing is asked for that isn't granted, and nothing is granted that isn't asked for.
#[test]
fn the_operator_may_what_it_does_and_no_more() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let begin = cluster.audit_end().unwrap();
    session(installed);
    let events = cluster.audit(OPERATOR, begin).unwrap();
    assert!(events.len() > 50, "{} events", events.len());

    // An ending namespace takes no new objects and says 403 too, which is no lack of a right.
    let forbidden = |event: &&Value| event["annotations"]["authorization.k8s.io/decision"] == "forbid";
    let refused: Vec<&Value> = events.iter().filter(forbidden).collect();
    assert!(refused.is_empty(), "{refused:#?}");

    let granted = granted(cluster);
    let session = used(&events, &granted);
    let beyond: Vec<_> = session.iter().filter(|(right, _)| !granted.contains(right)).collect();
    assert!(beyond.is_empty(), "used by another right than ours: {beyond:#?}");

    // A replica lists at its start, and then watches.
    let ever = used(&cluster.audit(OPERATOR, 0).unwrap(), &granted);
    let at_start = |right: &&Right| ["list", "watch"].contains(&right.3.as_str()) && ever.contains_key(right);
    let before = |right: &&Right| {
        let own = |(place, group, resource, verb): &(Where, &str, &str, &str)| {
            (*place, *group, *resource, *verb) == (right.0, &*right.1, &*right.2, &*right.3)
        };
        BEFORE.iter().any(own) && ever.contains_key(right)
    };
    let reasons: BTreeSet<Right> = NOT_HERE
        .iter()
        .map(|(place, group, resource, verb, _)| {
            (*place, (*group).to_owned(), (*resource).to_owned(), (*verb).to_owned())
        })
        .collect();
    let unused: Vec<&Right> = granted
        .iter()
        .filter(|right| !session.contains_key(right) && !reasons.contains(right))
        .filter(|right| !at_start(right) && !before(right))
        .collect();
    let hint = "the log of this cluster must begin before `cluster_operator` was run";
    assert!(unused.is_empty(), "granted, but not used: {unused:#?}\n({hint})");
    let stale: Vec<_> = reasons.difference(&granted).collect();
    assert!(stale.is_empty(), "a reason for what isn't granted: {stale:#?}");
}

/// Volumes by which a pod could speak to the API server.
fn api_tokens(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            let token = &source["serviceAccountToken"];
            if token.is_object() && token["audience"] != "outrigger" {
                found.push(volume.to_string());
            }
        }
        if volume["secret"].is_object() {
            found.push(volume.to_string());
        }
    }
    found
}

/// What the API server says to a token that a container has in `/outrigger-token`.
fn said_to_its_token(cluster: &Cluster, namespace: &str, pod: &str, container: &str) -> String {
    let process = cluster.container_pid(namespace, pod, container).unwrap();
    let token = std::fs::read_to_string(format!("/proc/{process}/root{}", "/outrigger-token/token")).unwrap();
    let path = "jsonpath={.clusters[0].cluster.server}";
    let server = cluster.kubectl(&["config", "view", "-o", path]).unwrap();
    let (token, server) = (format!("--token={}", token.trim()), format!("--server={}", server.trim()));
    // Nothing of the test's own credentials.
    let nobody = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify"];
    let args = [&["get", "--raw=/api/v1/namespaces", &token, &server], &nobody[..]].concat();
    let output = cluster.try_kubectl(&args).unwrap();
    assert!(!output.status.success(), "{container} of {pod} is let in");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Gateways and sidecars hold a token for the operator alone: the API server doesn't know it.
#[test]
fn gateways_and_sidecars_have_no_way_in() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    assert_eq!(bound(cluster, "outrigger-gateway"), []);
    let namespace = serving(installed, "tokens", "rights-tokens").unwrap();
    let label = "app.kubernetes.io/component=gateway";
    let gateways = cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", label]).unwrap();
    let replicas = namespace.json(&["get", "pods", "-l", "outrigger.dev/deployment=chat"]).unwrap();
    for (pods, place, container) in
        [(gateways, NAMESPACE, "gateway"), (replicas, namespace.name(), "outrigger")]
    {
        let pods = pods["items"].as_array().unwrap();
        assert_eq!(pods.len(), 2, "{container}");
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap();
            assert_eq!(pod["spec"]["automountServiceAccountToken"], false, "{name}");
            assert_eq!(api_tokens(pod), [""; 0], "{name}");
            let said = said_to_its_token(cluster, place, name, container);
            assert!(said.contains("Unauthorized") || said.contains("logged in"), "{name}: {said}");
        }
    }
}
