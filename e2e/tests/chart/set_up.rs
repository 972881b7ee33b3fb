//! Helm, and what it renders.

use outrigger_e2e::cluster::program;
use outrigger_e2e::program::root;
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

/// The release's name, and the namespace that examples install it in.
pub(crate) const RELEASE: &str = "outrigger";
/// Where examples install it.
pub(crate) const NAMESPACE: &str = "outrigger-system";

/// Sets of values that differ in what they render: a name, and the arguments.
pub(crate) const SETS: [(&str, &[&str]); 4] = [
    ("as it comes", &[]),
    (
        "all of it",
        &[
            "--set=monitoring.serviceMonitor.labels.release=prometheus",
            "--set=monitoring.serviceMonitor.enabled=true,monitoring.prometheusRule.enabled=true",
            "--set=monitoring.prometheusRule.alertLabels.team=models,monitoring.dashboard.enabled=true",
            "--set=monitoring.dashboard.annotations.grafana_folder=Outrigger,commonLabels.owner=platform",
            "--set=image.registry=registry.example.com,image.tag=v9,image.pullPolicy=Always",
            "--set=image.pullSecrets[0].name=key,sidecar.image=mirror.example.com/sidecar@sha256:12",
            "--set=gateway.service.type=LoadBalancer,gateway.service.loadBalancerClass=example.com/lb",
            "--set=gateway.service.loadBalancerSourceRanges={10.0.0.0/8},gateway.service.nodePort=30080",
            "--set=gateway.service.annotations.internal=yes,gateway.service.externalTrafficPolicy=Local",
            "--set=gateway.priorityClassName=high,gateway.nodeSelector.pool=edge,gateway.podLabels.a=b",
            "--set=gateway.tolerations[0].key=edge,gateway.tolerations[0].operator=Exists",
            "--set=gateway.podAnnotations.c=d,gateway.serviceAccount.annotations.e=f,gateway.threads=null",
            "--set-json=operator.affinity={\"nodeAffinity\":{\"requiredDuringSchedulingIgnoredDuringExecution\":\
             {\"nodeSelectorTerms\":[{\"matchExpressions\":[{\"key\":\"os\",\"operator\":\"Exists\"}]}]}}}",
            "--set-json=operator.topologySpreadConstraints=[],gateway.topologySpreadConstraints=\
             [{\"maxSkew\":2,\"topologyKey\":\"rack\",\"whenUnsatisfiable\":\"DoNotSchedule\"}]",
            "--set=gateway.ingress.enabled=true,gateway.ingress.className=nginx,gateway.ingress.annotations.g=h",
            "--set=gateway.ingress.hosts={chat.example.com},gateway.ingress.tls[0].secretName=chat-tls",
            "--set=networkPolicy.enabled=true,networkPolicy.scrapers[0].podSelector.matchLabels.app=prometheus",
            "--set=networkPolicy.callers[0].namespaceSelector.matchLabels.team=chat",
            "--set-string=operator.extraEnv[0].name=RUST_BACKTRACE,operator.extraEnv[0].value=1",
        ],
    ),
    (
        "the least",
        &[
            "--set=crds.install=false,rbac.aggregate=false,webhooks.enabled=false,actionPolicy.enabled=false",
            "--set=test.enabled=false,operator.replicas=1,gateway.replicas=null,gateway.threads=1",
            "--set=operator.podDisruptionBudget.enabled=false,operator.resources=null",
        ],
    ),
    (
        "other names",
        &[
            "--set=nameOverride=serving,gateway.service.type=NodePort,gateway.service.port=8080",
            "--set=gateway.ingress.enabled=true,networkPolicy.enabled=true",
            "--set=monitoring.podMonitor.enabled=true,monitoring.podMonitor.labels.release=prometheus",
        ],
    ),
];

/// The chart's folder.
pub(crate) fn chart() -> PathBuf {
    root().join("charts/outrigger")
}

/// A program that needs no cluster, looked for once.
pub(crate) fn tool(name: &'static str) -> Command {
    static FOUND: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap();
    Command::new(found.entry(name).or_insert_with(|| program(name).unwrap()))
}

/// Runs helm to its end without a cluster.
pub(crate) fn helm(args: &[&str]) -> Output {
    let home = std::env::temp_dir().join(format!("outrigger-chart-{}", std::process::id()));
    let mut command = tool("helm");
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, home.join(name));
    }
    command.args(args).env_remove("KUBECONFIG").stdin(Stdio::null()).output().unwrap()
}

/// What a program printed to both its outputs.
pub(crate) fn words(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), output.stderr.as_slice()].concat()).unwrap()
}

/// The text that the chart renders, its tests included.
pub(crate) fn rendered(more: &[&str]) -> String {
    template(RELEASE, NAMESPACE, more).unwrap()
}

/// What the chart renders, or what helm says.
pub(crate) fn template(release: &str, namespace: &str, more: &[&str]) -> Result<String, String> {
    let chart = chart();
    let mut args = vec!["template", release, chart.to_str().unwrap(), "--namespace", namespace];
    args.extend(more);
    let output = helm(&args);
    if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(words(&output)) }
}

/// YAML documents as JSON, without the empty ones.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let all = serde_yaml::Deserializer::from_str(text).map(|one| Value::deserialize(one).unwrap());
    all.filter(|one| !one.is_null()).collect()
}

/// The objects that the chart renders.
pub(crate) fn objects(more: &[&str]) -> Vec<Value> {
    documents(&rendered(more))
}

/// A text at a path, empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// `Kind/name`, for messages.
pub(crate) fn title(object: &Value) -> String {
    format!("{}/{}", text(object, "/kind"), text(object, "/metadata/name"))
}

/// Each pod that an object describes, with a title: of Deployments, of test pods, of ModelDeployments' templates.
pub(crate) fn pods(objects: &[Value]) -> Vec<(String, Value)> {
    let paths = [("Deployment", "/spec/template/spec"), ("Pod", "/spec")];
    let each = objects.iter().filter_map(|object| {
        let (_, path) = paths.iter().find(|(kind, _)| text(object, "/kind") == *kind)?;
        Some((title(object), object.pointer(path)?.clone()))
    });
    each.collect()
}

/// Runs a program with a standard input and returns what it says, and whether it was content.
pub(crate) fn feed(mut command: Command, input: &str) -> (bool, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // Beside the reading, or two full pipes would wait for each other.
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().ok();
    (output.status.success(), words(&output))
}
