//! What the chart renders, for each of several Kubernetes versions.

use crate::set_up::{
    NAMESPACE, RELEASE, SETS, chart, documents, feed, helm, objects, pods, rendered, template, text, title,
    tool, words,
};
use outrigger_e2e::cluster::Description;
use outrigger_e2e::program::root;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The oldest that the chart allows, one between, and that of the cluster. `xtask/src/chart.rs` makes their schemas.
const VERSIONS: [&str; 3] = ["1.33.6", "1.35.0", "1.36.3"];
/// Kinds of the Prometheus operator, whose schemas are nobody's to have here; `promtool` reads the rules.
const FOREIGN: &str = "PodMonitor,ServiceMonitor,PrometheusRule";

#[test]
fn lints_without_a_remark() {
    let chart = chart();
    for (name, values) in SETS {
        let mut args = vec!["lint", "--strict", "--quiet", chart.to_str().unwrap()];
        args.extend(values);
        let output = helm(&args);
        assert!(output.status.success(), "{name}: {}", words(&output));
    }
}

#[test]
fn every_version_of_kubernetes_takes_it() {
    let cache = Description::file().unwrap();
    let cache = cache.parent().and_then(|cluster| cluster.parent()).unwrap();
    let schemas = cache.join("kubernetes-schemas-1");
    for version in VERSIONS {
        let folder = schemas.join(format!("v{version}"));
        assert!(folder.is_dir(), "{} is missing: `cargo xtask test` makes it", folder.display());
    }
    let ours = tempfile::tempdir().unwrap();
    let crd = &documents(&rendered(&["--show-only=templates/crds.yaml"]))[0];
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
    fs::write(ours.path().join("modeldeployment-outrigger-v1alpha1.json"), schema.to_string()).unwrap();
    let file = "{{.ResourceKind}}{{.KindSuffix}}.json";
    let places = [
        format!("{}/{{{{.NormalizedKubernetesVersion}}}}/{file}", schemas.display()),
        format!("{}/{file}", ours.path().display()),
    ];
    for (name, values) in SETS {
        let text = rendered(values);
        for version in VERSIONS {
            let mut args = vec!["-strict", "-summary", "-kubernetes-version", version, "-skip", FOREIGN];
            args.extend(places.iter().flat_map(|place| ["-schema-location", place.as_str()]));
            let mut command = tool("kubeconform");
            command.args(args);
            let (fine, said) = feed(command, &text);
            assert!(fine && !said.contains("Valid: 0"), "{name}, Kubernetes {version}: {said}");
        }
    }
}

#[test]
fn an_older_kubernetes_is_refused_in_words() {
    let error = template(RELEASE, NAMESPACE, &["--kube-version=1.32.9"]).unwrap_err();
    assert!(error.contains("requires kubeVersion: >=1.33.0-0"), "{error}");
}

#[test]
fn each_object_is_named_once_and_lies_in_its_place() {
    for (name, values) in SETS {
        let mut seen = BTreeSet::new();
        for object in objects(values) {
            let key = format!("{} {}", text(&object, "/apiVersion"), title(&object));
            assert!(seen.insert(key.clone()), "{name}: {key} is there twice");
            let kind = text(&object, "/kind");
            let everywhere = kind.starts_with("Cluster")
                || kind.starts_with("Custom")
                || kind.ends_with("WebhookConfiguration")
                || kind.starts_with("ValidatingAdmissionPolicy");
            let place = text(&object, "/metadata/namespace");
            assert_eq!(place, if everywhere { "" } else { NAMESPACE }, "{name}: {key}");
            assert_eq!(text(&object, "/metadata/labels/helm.sh~1chart"), "outrigger-0.1.0", "{name}: {key}");
        }
    }
}

#[test]
fn names_stay_within_what_kubernetes_allows() {
    let release = "r".repeat(53);
    let namespace = "n".repeat(63);
    for object in documents(&template(&release, &namespace, SETS[1].1).unwrap()) {
        assert!(text(&object, "/metadata/name").len() <= 63, "{}", title(&object));
        for (key, value) in object.pointer("/metadata/labels").and_then(Value::as_object).unwrap() {
            assert!(value.as_str().unwrap().len() <= 63, "{}: {key}", title(&object));
        }
    }
}

#[test]
fn an_upgrade_that_changes_no_pod_restarts_none() {
    let templates = |values: &[&str]| {
        let all = objects(values).into_iter().filter(|one| text(one, "/kind") == "Deployment");
        all.map(|one| one.pointer("/spec/template").unwrap().clone()).collect::<Vec<_>>()
    };
    let changed = ["--set=gateway.replicas=5,gateway.service.port=81,monitoring.podMonitor.enabled=true"];
    assert_eq!(templates(&[]), templates(&changed));
    for template in templates(&[]) {
        assert!(!template.to_string().contains("helm.sh/chart"), "a chart's version alone would restart it");
    }
}

#[test]
fn selectors_find_their_own_pods_only() {
    let all = objects(SETS[1].1);
    let labels: Vec<(String, Value)> = all
        .iter()
        .filter_map(|one| Some((title(one), one.pointer("/spec/template/metadata/labels")?.clone())))
        .collect();
    let matches = |selector: &Value| -> Vec<String> {
        let wanted = selector.as_object().unwrap();
        let found =
            labels.iter().filter(|(_, labels)| wanted.iter().all(|(key, value)| &labels[key] == value));
        found.map(|(title, _)| title.trim_start_matches("Deployment/").to_owned()).collect()
    };
    let mut checked = 0;
    for object in &all {
        let selector = match text(object, "/kind") {
            "Service" => object.pointer("/spec/selector"),
            "PodDisruptionBudget" | "Deployment" => object.pointer("/spec/selector/matchLabels"),
            _ => None,
        };
        let Some(selector) = selector else { continue };
        let name = text(object, "/metadata/name").trim_end_matches("-metrics").to_owned();
        assert_eq!(matches(selector), [name], "{}", title(object));
        checked += 1;
    }
    assert_eq!(checked, 8, "Deployments, Services, those for metrics, budgets");
}

#[test]
fn images_come_from_where_the_values_say() {
    let text = rendered(SETS[1].1);
    for name in ["operator", "gateway", "engine-sim"] {
        assert!(text.contains(&format!("image: registry.example.com/outrigger/{name}:v9")), "{name}");
    }
    assert!(text.contains("value: \"mirror.example.com/sidecar@sha256:12\""));
    assert!(text.contains("{name: OUTRIGGER_IMAGE_PULL_SECRETS, value: \"key\"}"));
    assert!(!text.contains("outrigger/gateway:0.1.0"));
    let plain = rendered(&[]);
    for name in ["operator", "gateway", "engine-sim", "sidecar"] {
        assert!(plain.contains(&format!("outrigger/{name}:0.1.0")), "{name}");
    }
}

/// The kubelet kills no gateway that still waits for what is in flight.
#[test]
fn a_gateway_has_time_to_drain() {
    for drain in [0, 300, 86_400] {
        let all = objects(&[&format!("--set=gateway.maxDrain={drain}")]);
        let pods = pods(&all);
        let (_, gateway) = pods.iter().find(|(title, _)| title == "Deployment/outrigger-gateway").unwrap();
        let told = json!({"name": "OUTRIGGER_MAX_DRAIN", "value": drain.to_string()});
        let container = &gateway["containers"][0];
        assert!(container["env"].as_array().unwrap().contains(&told), "{container}");
        let hook = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        assert!(gateway["terminationGracePeriodSeconds"].as_u64().unwrap() >= drain + hook + 10);
    }
}

/// What the level *restricted* asks for and beyond: nothing is written but to volumes, nothing has a token that
/// doesn't need it, and every container has bounds.
#[test]
fn pods_hold_no_more_than_they_need() {
    let pods = pods(&objects(&[]));
    assert_eq!(pods.len(), 3);
    for (title, pod) in pods {
        let token = pod["automountServiceAccountToken"].as_bool();
        assert_eq!(token, Some(title == "Deployment/outrigger-operator"), "{title}");
        assert_eq!(pod["enableServiceLinks"], json!(false), "{title}: foreign OUTRIGGER_* variables");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true), "{title}");
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], json!(true), "{title}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{title}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{title}");
            assert!(container["resources"]["requests"]["cpu"].is_string(), "{title}");
        }
    }
}

#[test]
fn the_definition_is_the_generated_one_and_stays_when_the_chart_goes() {
    let name = "modeldeployments.outrigger.dev.yaml";
    let generated = fs::read_to_string(root().join("crds/yaml").join(name)).unwrap();
    let carried = fs::read_to_string(chart().join("files").join(name)).unwrap();
    assert!(generated == carried, "charts/outrigger/files/{name} is stale: copy crds/yaml/{name} there");
    let mut shown = documents(&rendered(&["--show-only=templates/crds.yaml"])).remove(0);
    let metadata = shown["metadata"].as_object_mut().unwrap();
    assert_eq!(metadata.remove("annotations"), Some(json!({"helm.sh/resource-policy": "keep"})));
    metadata.remove("labels");
    assert_eq!(shown, documents(&generated)[0]);
}

/// Each pod is scraped by one way, and sidecars by either: alerts and panels of engines need them.
#[test]
fn every_pod_is_scraped_once() {
    let monitors = |which: &str| {
        let set = format!("--set=monitoring.{which}.enabled=true,monitoring.{which}.labels.a=b");
        let all = objects(&[&set]).into_iter().filter(|one| text(one, "/kind").ends_with("Monitor"));
        all.map(|one| (title(&one), text(&one, "/metadata/labels/a").to_owned())).collect::<BTreeMap<_, _>>()
    };
    let named = |names: [&str; 2]| names.map(|name| (name.to_owned(), "b".to_owned())).into();
    assert_eq!(monitors("podMonitor"), named(["PodMonitor/outrigger", "PodMonitor/outrigger-sidecars"]));
    assert_eq!(
        monitors("serviceMonitor"),
        named(["ServiceMonitor/outrigger", "PodMonitor/outrigger-sidecars"])
    );
    let both = "--set=monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true";
    let error = template(RELEASE, NAMESPACE, &[both]).unwrap_err();
    assert!(error.contains("everything would count twice: enable one of them"), "{error}");
}

/// Helm renders notes only when it installs; a dry run does, too.
#[test]
fn notes_name_the_next_commands() {
    let chart = chart();
    for (name, values) in SETS {
        let mut args = vec!["install", RELEASE, chart.to_str().unwrap(), "--dry-run=client", "-n", NAMESPACE];
        args.extend(values);
        let output = helm(&args);
        let said = words(&output);
        assert!(output.status.success(), "{name}: {said}");
        let notes = said.split("NOTES:").nth(1).unwrap();
        assert!(notes.contains("kubectl -n outrigger-system rollout status"), "{name}: {notes}");
        assert!(notes.contains("/v1/completions"), "{name}: {notes}");
        assert_eq!(notes.contains("--take-ownership"), name != "the least", "{name}: {notes}");
        assert_eq!(notes.contains("helm -n outrigger-system test"), name != "the least", "{name}: {notes}");
        assert!(!notes.contains("<no value>") && !notes.contains("\n\n\n"), "{name}: {notes}");
    }
}
