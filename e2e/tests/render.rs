//! What is rendered and what the definition refuses, put to a real API server. The definition stands under a group of
//! its own here, so that an installation beside it is left alone; nothing is kept, all else is a dry run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::cluster::Cluster;
use std::path::{Path, PathBuf};
use std::time::Duration;

const GROUP: &str = "examples.outrigger.test";
const NAME: &str = "modeldeployments.examples.outrigger.test";

/// Files whose mistake is one of the file, which kubectl reads otherwise (two documents, keys twice), or which only
/// the webhook and the command line know: what a pod's fields are.
const NOT_THE_SERVERS: [&str; 4] = ["duplicate-keys", "two-documents", "pod-directives", "pod-template"];

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    assert!(files.len() >= 4, "{}", folder.display());
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// In the namespace of the test instead of its own.
fn moved(text: &str, namespace: &str) -> String {
    ["models", "default"].iter().fold(text.to_owned(), |text, from| {
        text.replace(&format!("namespace: {from}"), &format!("namespace: {namespace}"))
    })
}

#[test]
fn the_api_server_takes_what_is_rendered() {
    let cluster = Cluster::get().unwrap();
    let namespace = cluster.namespace("render").unwrap();
    for path in files("operator/tests/golden") {
        let text = moved(&std::fs::read_to_string(&path).unwrap(), namespace.name());
        let args = [
            "apply",
            "--server-side",
            "--field-manager=outrigger",
            "--dry-run=server",
            "--validate=strict",
            "-f-",
        ];
        let output = cluster.try_feed(&args, &text).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", path.display());
    }
}

/// The definition under another group, until the test ends.
struct Definition(&'static Cluster);

impl Definition {
    fn install(cluster: &'static Cluster) -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml/modeldeployments.outrigger.dev.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let text = text
            .replace("name: modeldeployments.outrigger.dev", &format!("name: {NAME}"))
            .replace("group: outrigger.dev", &format!("group: {GROUP}"));
        cluster.feed(&["apply", "--server-side", "-f-"], &text).unwrap();
        let definition = Self(cluster);
        let crd = format!("crd/{NAME}");
        cluster.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=30s"]).unwrap();
        // Established is not yet served with its schema by each path of the server.
        cluster
            .wait_until("default", "the definition to be served", Duration::from_secs(30), || {
                Ok(definition.explain("spec.rollout").is_some())
            })
            .unwrap();
        definition
    }

    fn explain(&self, field: &str) -> Option<String> {
        let version = format!("--api-version={GROUP}/v1alpha1");
        self.0.kubectl(&["explain", &format!("modeldeployments.{field}"), &version]).ok()
    }

    /// What kubectl says to a file: its output, and whether it would be created.
    fn create(&self, path: &Path, namespace: &str) -> (bool, String) {
        let text = std::fs::read_to_string(path).unwrap();
        let text = moved(&text.replace("outrigger.dev/v1alpha1", &format!("{GROUP}/v1alpha1")), namespace);
        let args = ["create", "-n", namespace, "--dry-run=server", "--validate=strict", "-f-"];
        let output = self.0.try_feed(&args, &text).unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Definition {
    fn drop(&mut self) {
        // What is left of it by a failed test is in nobody's way.
        let _gone = self.0.kubectl(&["delete", "crd", NAME, "--wait=false"]);
    }
}

/// Each valid file is taken; each bad one that is well-formed is refused, and by the field by which the command line
/// refuses it.
#[test]
fn examples_are_judged_as_the_command_line_judges_them() {
    let cluster = Cluster::get().unwrap();
    let definition = Definition::install(cluster);
    let namespace = cluster.namespace("examples").unwrap();
    for path in files("crds/examples/valid") {
        let (taken, said) = definition.create(&path, namespace.name());
        assert!(taken, "{}: {said}", path.display());
    }
    let mut compared = 0;
    for path in files("crds/examples/invalid") {
        if NOT_THE_SERVERS.contains(&stem(&path).as_str()) || std::fs::read_to_string(&path).is_err() {
            continue;
        }
        let (taken, said) = definition.create(&path, namespace.name());
        assert!(!taken, "{}: taken", path.display());
        // kubectl itself refuses what is no YAML, or no object of a known kind.
        if !said.contains("is invalid") && !said.contains("strict decoding error") {
            continue;
        }
        compared += 1;
        let expected = std::fs::read_to_string(path.with_extension("expected")).unwrap();
        let fields: Vec<&str> = expected.lines().filter_map(|line| line.split(' ').next()).collect();
        let last = |field: &str| field.rsplit('.').next().unwrap().split('[').next().unwrap().to_owned();
        let same = fields.iter().any(|field| said.contains(&last(field)));
        assert!(same, "{}: {said}\nthe command line: {fields:?}", path.display());
    }
    assert!(compared >= 12, "{compared} files were compared");
}

/// `kubectl explain md.spec.rollout` reads well: whole sentences, each field with its bounds.
#[test]
fn fields_are_explained() {
    let definition = Definition::install(Cluster::get().unwrap());
    let words = |field: &str| {
        definition.explain(field).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    let rollout = words("spec.rollout");
    for expected in ["How a new revision is tried.", "steps <[]Object>", "1 to 20 of them.", "1s to 24h"] {
        assert!(rollout.contains(expected), "{rollout}");
    }
    assert!(words("spec.engine.podTemplate.spec").contains("kubectl explain pod.spec"));
    assert!(words("spec.engine.resources.limits").contains("nvidia.com/gpu"));
}
