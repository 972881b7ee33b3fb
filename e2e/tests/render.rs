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
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const GROUP: &str = "examples.outrigger.test";
const NAME: &str = "modeldeployments.examples.outrigger.test";

/// Files whose mistake is one of the file, which kubectl reads otherwise (two documents, keys twice), or which only
/// the webhook and the command line know: what a pod's fields are.
const NOT_THE_SERVERS: [&str; 4] = ["duplicate-keys", "two-documents", "pod-directives", "pod-template"];

/// Fields that only the server names in these files, and why.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("wrong-types", "spec.rollout.steps.weight", NO_LIST),
    ("resource-types", "spec.engine.resources.claims.name", NO_LIST),
];
const NO_LIST: &str =
    "a mapping stands where a list belongs: a strict decoder calls its keys unknown instead";

/// A field's path with neither the numbers of a list's items nor the way in which a map's keys are written.
fn normal(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        let (inner, behind) = after.split_once(']').unwrap_or((after, ""));
        let index = inner.chars().all(|c| c.is_ascii_digit());
        out.push_str(before);
        out.push_str(&if index { "[]".to_owned() } else { format!(".{}", inner.trim_matches('"')) });
        rest = behind;
    }
    out + rest
}

/// The fields that a refusal of the API server names, each with what it says. `<nil>` is its remark that it went no
/// further.
fn named(said: &str) -> Vec<(String, &str)> {
    let unknown = said.split("unknown field \"").skip(1).filter_map(|rest| rest.split('"').next());
    let invalid = said.lines().filter_map(|line| {
        let line = line.split_once(" is invalid: ").map_or(line, |(_, rest)| rest);
        line.trim_start_matches("* ")
            .split_once(": ")
            .filter(|(field, _)| !field.contains(' ') && *field != "<nil>")
    });
    unknown.map(|field| (field, "")).chain(invalid).map(|(field, why)| (normal(field), why)).collect()
}

/// Whether the command line names the same field. A rule over several fields stands at what contains them, and begins
/// or continues with the field that it is about.
fn same(ours: &BTreeSet<String>, field: &str, why: &str) -> bool {
    let within = |other: &String| {
        let rest = other.strip_prefix(field).and_then(|rest| rest.strip_prefix('.'));
        let first = rest.and_then(|rest| rest.split(['.', '[']).next());
        first.is_some_and(|first| why.split(|c: char| !c.is_alphanumeric()).any(|word| word == first))
    };
    ours.contains(field) || ours.iter().any(within)
}

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
struct Definition {
    cluster: &'static Cluster,
    /// Where kubectl keeps which kinds there are. Its usual place is every test's, and there a second kind with the
    /// name of ours would be taken for ours long after it is gone.
    kinds: tempfile::TempDir,
}

impl Definition {
    fn install(cluster: &'static Cluster) -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml/modeldeployments.outrigger.dev.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let text = text
            .replace("name: modeldeployments.outrigger.dev", &format!("name: {NAME}"))
            .replace("group: outrigger.dev", &format!("group: {GROUP}"));
        cluster.feed(&["apply", "--server-side", "-f-"], &text).unwrap();
        let definition = Self { cluster, kinds: tempfile::tempdir().unwrap() };
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
        self.cluster.kubectl(&["explain", &format!("modeldeployments.{field}"), &version, &self.cache()]).ok()
    }

    fn cache(&self) -> String {
        format!("--cache-dir={}", self.kinds.path().display())
    }

    /// What kubectl says to a file: its output, and whether it would be created.
    fn create(&self, path: &Path, namespace: &str) -> (bool, String) {
        let text = std::fs::read_to_string(path).unwrap();
        let text = moved(&text.replace("outrigger.dev/v1alpha1", &format!("{GROUP}/v1alpha1")), namespace);
        let cache = self.cache();
        let args = ["create", "-n", namespace, "--dry-run=server", "--validate=strict", &cache, "-f-"];
        let output = self.cluster.try_feed(&args, &text).unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Definition {
    fn drop(&mut self) {
        // Until it is gone: other tests ask for a kind of the same name.
        let _gone = self.cluster.kubectl(&["delete", "crd", NAME, "--timeout=30s"]);
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
        let ours: BTreeSet<String> =
            expected.lines().filter_map(|line| line.split(' ').next()).map(normal).collect();
        let theirs = named(&said);
        assert!(!theirs.is_empty(), "{}: it names no field: {said}", path.display());
        let stem = stem(&path);
        let other: Vec<_> = theirs
            .iter()
            .filter(|(field, why)| !same(&ours, field, why))
            .filter(|(field, _)| !ELSEWHERE.iter().any(|(file, path, _)| *file == stem && path == field))
            .collect();
        assert!(
            other.is_empty(),
            "{stem}: {other:?} by the server alone: {said}\nthe command line: {ours:?}"
        );
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
