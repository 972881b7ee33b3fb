//! The chart's life on a real cluster: installed, tested, upgraded, rolled back, uninstalled and installed again, with a
//! model that serves all the while.

use crate::set_up::{NAMESPACE, RELEASE, SETS, chart, objects, pods, text, words};
use outrigger_e2e::caller::{Callers, complete};
use outrigger_e2e::cluster::{Cluster, Namespace};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Pods of images that are there need seconds; a bound, not an expectation.
const STARTS: Duration = Duration::from_secs(180);

/// The model that a user has.
const MODEL: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: ModelDeployment
metadata: {name: demo}
spec:
  model: {name: demo}
  engine:
    kind: vLLM
    image: outrigger/engine-sim:0.1.0
    args: [--model, demo]
    podTemplate: {spec: {securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}}}
  scale: {replicas: 2}
";

/// The one installation that a cluster can have, in the namespace that all tests know. It is left there: the next test
/// upgrades it to what it needs.
struct Installed {
    cluster: &'static Cluster,
}

impl Installed {
    /// What this checkout's chart installs, whatever was there before.
    fn present() -> Self {
        let this = Self { cluster: Cluster::get().unwrap() };
        // Exists already, the second time.
        let _ = this.cluster.kubectl(&["create", "namespace", NAMESPACE]);
        let level = "pod-security.kubernetes.io/enforce=restricted";
        this.cluster.kubectl(&["label", "--overwrite", "namespace", NAMESPACE, level]).unwrap();
        // The definition may be another release's, where a test was interrupted.
        this.chart(&["upgrade", "--install", "--take-ownership"], &[]);
        this
    }

    /// The same, from nothing.
    fn fresh() -> Self {
        let this = Self::present();
        this.helm(&["uninstall", RELEASE]);
        this.chart(&["install"], &[]);
        this
    }

    /// `helm VERB outrigger CHART`, waiting until everything is ready.
    fn chart(&self, verb: &[&str], values: &[&str]) -> String {
        let chart = chart();
        let args: Vec<&str> =
            verb.iter().chain(&[RELEASE, chart.to_str().unwrap()]).chain(values).copied().collect();
        self.helm(&args)
    }

    fn helm(&self, args: &[&str]) -> String {
        let args: Vec<&str> =
            args.iter().chain(&["-n", NAMESPACE, "--wait", "--timeout=180s"]).copied().collect();
        let said = self.cluster.helm(&args);
        said.unwrap_or_else(|error| panic!("{error:#}\n{}", self.look()))
    }

    fn look(&self) -> String {
        let look = ["get", "pods,events", "-o", "wide", "-n", NAMESPACE];
        self.cluster.kubectl(&look).unwrap_or_else(|error| format!("{error:#}"))
    }

    fn gateways(&self) -> Value {
        self.cluster.json(&["get", "deployment", "outrigger-gateway", "-n", NAMESPACE]).unwrap()
    }

    /// The certificate authority that the API server knows each webhook by.
    fn ca_bundles(&self) -> Vec<String> {
        let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations";
        let found = self.cluster.json(&["get", kinds, "-l", "app.kubernetes.io/instance=outrigger"]).unwrap();
        let each = found["items"].as_array().unwrap().iter();
        each.map(|one| text(one, "/webhooks/0/clientConfig/caBundle").to_owned()).collect()
    }

    fn wait_ca(&self) -> Vec<String> {
        let all = || {
            let found = self.ca_bundles();
            Ok((found.len() == 2 && found.iter().all(|one| !one.is_empty())).then_some(found))
        };
        self.cluster.wait_for(NAMESPACE, "the webhooks' caBundle", STARTS, all).unwrap()
    }
}

fn available(models: &Namespace) {
    let wait = ["wait", "--for=condition=Available", "--timeout=180s", "modeldeployment/demo"];
    models.kubectl(&wait).unwrap();
}

/// The pods of the model: their names, and each container's restarts.
fn running(models: &Namespace) -> BTreeMap<String, Vec<(String, u64)>> {
    let list = models.json(&["get", "pods", "-l", "outrigger.dev/deployment=demo"]).unwrap();
    let each = list["items"].as_array().unwrap().iter().map(|pod| {
        let lists = ["initContainerStatuses", "containerStatuses"];
        let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
        let counts =
            all.map(|one| (one["name"].as_str().unwrap().to_owned(), one["restartCount"].as_u64().unwrap()));
        (pod["metadata"]["name"].as_str().unwrap().to_owned(), counts.collect())
    });
    each.collect()
}

#[test]
fn a_model_serves_through_the_charts_whole_life() {
    let installed = Installed::fresh();
    let cluster = installed.cluster;
    // Its --wait would wait for hooks only, and they are waited for anyway.
    cluster.helm(&["test", RELEASE, "-n", NAMESPACE, "--timeout=180s"]).unwrap();
    let tried = ["get", "modeldeployments", "-n", NAMESPACE];
    assert_eq!(cluster.json(&tried).unwrap()["items"], json!([]), "a test that passed leaves nothing");

    let models = cluster.restricted_namespace("chart-models").unwrap();
    models.apply(MODEL).unwrap();
    available(&models);
    let before = running(&models);
    assert_eq!(before.len(), 2);
    let bundles = installed.wait_ca();
    let gateway = address(cluster, NAMESPACE, "outrigger-gateway");
    let answers = || Ok(complete(&gateway, "demo", 4, false)?.status == 200);
    cluster.wait_until(models.name(), "a first answer", STARTS, answers).unwrap();
    let callers = Callers::start(&gateway, "demo", 2, 8, false, Duration::from_millis(20));

    installed.chart(&["upgrade"], &["--set=gateway.replicas=3,logLevel=debug,webhooks.timeoutSeconds=4"]);
    assert_eq!(installed.ca_bundles(), bundles, "an upgrade took the authority away");
    assert_eq!(running(&models), before, "an upgrade touched the model");
    assert_eq!(installed.gateways()["status"]["readyReplicas"], 3);

    installed.helm(&["rollback", RELEASE]);
    assert_eq!(installed.ca_bundles(), bundles, "a rollback put another authority in place");
    assert_eq!(running(&models), before, "a rollback touched the model");
    assert_eq!(installed.gateways()["spec"]["replicas"], 2);
    let tally = callers.stop();
    assert!(tally.failed == 0 && tally.all() > 100, "gateways were replaced under traffic: {tally:?}");

    installed.helm(&["uninstall", RELEASE]);
    assert_eq!(running(&models), before, "to uninstall touched the model");
    models.kubectl(&["get", "modeldeployment", "demo"]).expect("the definition is kept");
    nothing_is_left(cluster);
    let service = address(cluster, models.name(), "demo");
    assert_eq!(complete(&service, "demo", 4, false).unwrap().status, 200, "the model serves without us");
    // Nobody stands in the way of pods that ask for a sidecar: they start without one.
    models.apply(&labelled_pod()).unwrap();

    installed.chart(&["install"], &[]);
    available(&models);
    assert_eq!(running(&models), before, "a second installation touched the model");
    models.kubectl(&["delete", "modeldeployment", "demo", "--timeout=60s"]).unwrap();
    let gone = || Ok(running(&models).is_empty());
    cluster.wait_until(models.name(), "the model's pods to go", STARTS, gone).unwrap();
}

/// A Service's address and port.
fn address(cluster: &Cluster, namespace: &str, service: &str) -> String {
    let path = "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}";
    cluster.kubectl(&["get", "service", service, "-n", namespace, "-o", path]).unwrap().trim().to_owned()
}

fn labelled_pod() -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "asks", "labels": {"outrigger.dev/inject": "true"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}
            },
            "containers": [{
                "name": "engine", "image": "outrigger/engine-sim:0.1.0", "imagePullPolicy": "Never",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}
            }]
        }
    })
    .to_string()
}

/// What a release made is gone with it, but for the definition and what the operator made by itself: the authority that
/// running sidecars know the next installation by, and the lease.
fn nothing_is_left(cluster: &Cluster) {
    let kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,\
                 validatingadmissionpolicies,validatingadmissionpolicybindings,customresourcedefinitions";
    let found = cluster.json(&["get", kinds, "-l", "app.kubernetes.io/part-of=outrigger"]).unwrap();
    let names: Vec<&str> = found["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["modeldeployments.outrigger.dev"]);
    let kinds =
        "deployments,services,roles,rolebindings,serviceaccounts,poddisruptionbudgets,configmaps,secrets";
    let found = cluster.json(&["get", kinds, "-n", NAMESPACE]).unwrap();
    let kubernetes = ["default", "kube-root-ca.crt", "outrigger-ca"];
    let names =
        found["items"].as_array().unwrap().iter().map(|one| one["metadata"]["name"].as_str().unwrap());
    let names: Vec<&str> = names.filter(|name| !kubernetes.contains(name)).collect();
    assert!(names.is_empty(), "{names:?}");
}

/// Two operators would fight for the same ModelDeployments. The second installation says that there is a first.
#[test]
fn a_second_installation_is_refused_in_words() {
    let installed = Installed::present();
    let second = installed.cluster.restricted_namespace("chart-second").unwrap();
    let chart = chart();
    let args = ["install", RELEASE, chart.to_str().unwrap(), "-n", second.name()];
    let output = installed.cluster.try_helm(&args).unwrap();
    let said = words(&output);
    assert!(!output.status.success() && said.contains("invalid ownership metadata"), "{said}");
    assert!(said.contains(NAMESPACE), "{said}");
}

/// The definition that is kept is the old release's: another one leaves it as it is, or takes it over.
#[test]
fn it_is_installed_again_under_another_name() {
    let installed = Installed::present();
    let cluster = installed.cluster;
    installed.helm(&["uninstall", RELEASE]);
    let elsewhere = cluster.restricted_namespace("chart-elsewhere").unwrap();
    let chart = chart();
    let install = |more: &[&str]| {
        let mut args = vec!["install", "other", chart.to_str().unwrap(), "-n", elsewhere.name()];
        args.extend(["--wait", "--timeout=180s"].iter().chain(more));
        let output = cluster.try_helm(&args).unwrap();
        (output.status.success(), words(&output))
    };
    let owner = || {
        let found = cluster.json(&["get", "crd", "modeldeployments.outrigger.dev"]).unwrap();
        text(&found, "/metadata/annotations/meta.helm.sh~1release-name").to_owned()
    };
    let (done, said) = install(&[]);
    assert!(!done && said.contains("invalid ownership metadata"), "{said}");
    for (more, owned_by) in [("--set=crds.install=false", RELEASE), ("--take-ownership", "other")] {
        let (done, said) = install(&[more]);
        assert!(done, "{more}: {said}");
        assert_eq!(owner(), owned_by, "{more}");
        cluster.helm(&["uninstall", "other", "-n", elsewhere.name(), "--wait", "--timeout=180s"]).unwrap();
    }
    installed.chart(&["install", "--take-ownership"], &[]);
    assert_eq!(owner(), RELEASE);
}

/// The API server itself says that each pod of each set of values is allowed under *restricted*.
#[test]
fn every_pod_is_allowed_where_only_restricted_ones_are() {
    let cluster = Cluster::get().unwrap();
    let namespace = cluster.restricted_namespace("chart-pods").unwrap();
    for (name, values) in SETS {
        for (title, mut spec) in pods(&objects(values)) {
            // Made on a dry run only: neither the account nor the class need be there.
            let fields = spec.as_object_mut().unwrap();
            fields.remove("serviceAccountName");
            fields.remove("priorityClassName");
            let meta = json!({"name": "restricted"});
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec});
            let args = ["create", "--dry-run=server", "-n", namespace.name(), "-f", "-"];
            let said = cluster.feed(&args, &pod.to_string());
            assert!(said.is_ok(), "{name}: {title}: {}", said.unwrap_err());
        }
    }
}

/// What Kubernetes' own roles give over ModelDeployments, asked of the API server.
#[test]
fn kubernetes_own_roles_reach_modeldeployments() {
    let installed = Installed::present();
    let namespace = installed.cluster.namespace("chart-people").unwrap();
    for role in ["view", "edit", "admin"] {
        let name = format!("--user={role}");
        namespace.kubectl(&["create", "rolebinding", role, &format!("--clusterrole={role}"), &name]).unwrap();
    }
    let verbs = [
        ("get", "modeldeployments", ["yes", "yes", "yes"]),
        ("watch", "modeldeployments", ["yes", "yes", "yes"]),
        ("get", "modeldeployments/status", ["yes", "yes", "yes"]),
        ("create", "modeldeployments", ["no", "yes", "yes"]),
        ("delete", "modeldeployments", ["no", "yes", "yes"]),
        ("patch", "modeldeployments/scale", ["no", "yes", "yes"]),
        ("promote", "modeldeployments", ["no", "no", "yes"]),
        ("abort", "modeldeployments", ["no", "no", "yes"]),
        ("update", "modeldeployments/status", ["no", "no", "no"]),
    ];
    for (verb, resource, expected) in verbs {
        let (plural, sub) = resource.split_once('/').unwrap_or((resource, ""));
        for (user, expected) in ["view", "edit", "admin"].into_iter().zip(expected) {
            let resource = format!("{plural}.outrigger.dev");
            let (user, sub) = (format!("--as={user}"), format!("--subresource={sub}"));
            let args = ["auth", "can-i", verb, &resource, &sub, &user, "-n", namespace.name()];
            let what = format!("{user} to {verb} {resource}");
            // Aggregation is a controller's work.
            let answer = || {
                let output = installed.cluster.try_kubectl(&args)?;
                Ok(String::from_utf8_lossy(&output.stdout).trim() == expected)
            };
            installed.cluster.wait_until(namespace.name(), &what, STARTS, answer).unwrap();
        }
    }
}

/// What the operator was refused, as the API server's log has it: nothing, or its role is too small.
#[test]
fn the_operator_is_refused_nothing() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::present();
    installed.helm(&["uninstall", RELEASE]);
    // The former one lives on for some seconds after its roles.
    cluster
        .wait_until(NAMESPACE, "the end of the operator's pods", STARTS, || {
            let label = "app.kubernetes.io/component=operator";
            let pods = cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", label])?;
            Ok(pods.pointer("/items").and_then(Value::as_array).is_some_and(Vec::is_empty))
        })
        .unwrap();
    let begin = cluster.audit_end().unwrap();
    installed.chart(&["install"], &[]);
    let models = cluster.restricted_namespace("chart-audit").unwrap();
    models.apply(MODEL).unwrap();
    available(&models);
    let user = format!("system:serviceaccount:{NAMESPACE}:outrigger-operator");
    let events = cluster.audit(&user, begin).unwrap();
    assert!(events.len() > 20, "{} requests", events.len());
    let refused: Vec<&Value> =
        events.iter().filter(|event| event.pointer("/responseStatus/code") == Some(&json!(403))).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
