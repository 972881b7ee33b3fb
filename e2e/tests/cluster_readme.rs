//! What the README tells people to type in a cluster, typed, with `helm`, `kubectl` and `outrigger` on the PATH. The chart
//! is installed already and images are on the nodes; the reader's own namespace and a free port are all that differs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::{Installed, NAMESPACE, RELEASE};
use outrigger_e2e::markdown::blocks;
use outrigger_e2e::program::{Running, command, outrigger, root, run};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Longer than anything here takes on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The README's section, as its `sh` blocks.
fn section() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## In a cluster\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    blocks(section).into_iter().filter(|block| block.kind == "sh").map(|block| block.text).collect()
}

/// The section's only block with this in it.
fn block(part: &str) -> String {
    let found: Vec<String> = section().into_iter().filter(|text| text.contains(part)).collect();
    assert_eq!(found.len(), 1, "one block with {part}");
    found[0].clone()
}

/// A user in the checkout, with the programs on the PATH and a namespace that their kubeconfig names.
struct Reader {
    folder: TempDir,
    namespace: Namespace,
}

impl Reader {
    fn new(cluster: &'static Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, program) in &cluster.description().programs {
            symlink(program, folder.path().join(name)).unwrap();
        }
        symlink(outrigger().unwrap(), folder.path().join("outrigger")).unwrap();
        let namespace = cluster.namespace("readme").unwrap();
        let config = cluster.kubectl(&["config", "view", "--raw", "--flatten"]).unwrap();
        fs::write(folder.path().join("kubeconfig"), config).unwrap();
        let reader = Self { folder, namespace };
        let name = reader.namespace.name();
        reader.types(&format!("kubectl config set-context --current --namespace={name}"));
        reader
    }

    /// A shell that runs this, in an environment that is clean of OUTRIGGER_* variables, as a user's is.
    fn shell(&self, text: &str) -> Command {
        let mut shell = Command::new("sh");
        for (name, _) in command("outrigger").unwrap().get_envs() {
            shell.env_remove(name);
        }
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        shell.arg("-ec").arg(text).current_dir(root());
        shell.env("PATH", path).env("KUBECONFIG", self.folder.path().join("kubeconfig"));
        shell
    }

    /// Types a block and returns what it prints.
    fn types(&self, text: &str) -> String {
        let output = run(self.shell(text)).unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{printed}{}", String::from_utf8_lossy(&output.stderr));
        printed.into_owned()
    }

    /// Types a block that goes on until Ctrl-C.
    fn starts(&self, text: &str) -> Running {
        Running::start(self.shell(&format!("exec {text}"))).unwrap()
    }
}

/// From the installation to a canary that is steered by hand.
#[test]
fn the_cluster_of_the_readme_serves_and_is_steered() {
    let installed = Installed::get().unwrap();
    let reader = Reader::new(installed.cluster);
    // Nothing is sent: what is installed already would refuse a second one.
    let printed = reader.types(&format!("{} --dry-run=client", block("helm install").trim_end()));
    for name in [format!("name: {RELEASE}-operator"), format!("namespace: {NAMESPACE}")] {
        assert!(printed.contains(&name), "{name}");
    }
    reader.types(&block("kubectl apply"));

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut forward = reader.starts(&block("kubectl port-forward").replace("8080", &port));
    forward.line(PATIENCE, "port", |line| line.contains("Forwarding from")).unwrap();
    let ask = block("curl").replace("8080", &port);
    // Gateways hear of a replica a moment after its status says it.
    let answered = || Ok(reader.types(&ask).contains("text_completion"));
    installed.cluster.wait_until(reader.namespace.name(), "an answer", PATIENCE, answered).unwrap();
    forward.stop(PATIENCE).ok();

    let stable = installed.stable(reader.namespace.name(), "demo").unwrap();
    reader.types(&block("kubectl patch"));
    steered(installed, &reader, &stable);
}

/// The changed engine is seen, moved on by hand, and taken back.
fn steered(installed: &Installed, reader: &Reader, stable: &str) {
    let namespace = reader.namespace.name();
    let canary = || {
        let found = installed.deployment(namespace, "demo")?;
        let step = found.pointer("/status/canary/step").and_then(Value::as_i64);
        Ok(step.map(|_| found))
    };
    installed.cluster.wait_for(namespace, "a canary", PATIENCE, canary).unwrap();
    assert!(reader.types(&block("kubectl get modeldeployments")).contains("demo"));
    let mut watch = reader.starts(&block("outrigger watch"));
    watch.line(PATIENCE, "the canary", |line| line.contains("weight")).unwrap();
    watch.stop(PATIENCE).ok();
    reader.types(&block("outrigger promote"));
    let why = installed.wait_rolled_back(namespace, "demo", PATIENCE).unwrap();
    assert!(why.contains("by hand"), "{why}");
    assert_eq!(installed.stable(namespace, "demo").unwrap(), stable);
}

/// What needs Docker, a registry or a machine without a cluster is compared with what there is.
#[test]
fn images_and_clusters_of_the_readme_are_the_ones_that_there_are() {
    let docker = fs::read_to_string(root().join("Dockerfile")).unwrap();
    let push = block("docker build");
    let (_, names) = push.split_once("for name in ").unwrap();
    let names: Vec<&str> = names.split(';').next().unwrap().split(' ').collect();
    let stages: Vec<&str> = docker.lines().filter_map(|line| line.strip_prefix("FROM scratch AS ")).collect();
    assert_eq!(names, stages);
    // The chart asks for the images as they are pushed, and the example's differs by the registry alone.
    let cluster = Cluster::get().unwrap();
    let install = format!("{} --set image.registry=registry.example.com", block("helm install").trim_end());
    let install = install.replace("helm install", "helm template").replace("--create-namespace", "");
    let reader = Reader::new(cluster);
    let printed = reader.types(&install);
    let (_, tagged) = push.split_once("--tag \"$REGISTRY/").unwrap();
    let tagged = tagged.split('"').next().unwrap();
    for name in names {
        let image = format!("registry.example.com/{}", tagged.replace("$name", name));
        assert!(printed.contains(&image), "{image}");
    }
    let example = fs::read_to_string(root().join("examples/kubernetes/smallest.yaml")).unwrap();
    assert!(example.contains(&tagged.replace("$name", "engine-sim")));
    // `cargo xtask cluster` names its commands when it is given none.
    let usage = fs::read_to_string(root().join("xtask/src/cluster.rs")).unwrap();
    for line in block("cargo xtask cluster up").lines() {
        match line.strip_prefix("cargo xtask cluster ") {
            Some(verb) => assert!(usage.contains(&format!("  {verb} ")), "{line}"),
            None => assert!(line.contains("cluster/bin:$PATH") && line.ends_with("/cluster/kubeconfig\"")),
        }
    }
    if cluster.description().kind == "native" {
        let home = cluster.description().kubeconfig.parent().unwrap();
        assert!(home.ends_with("cluster") && home.join("bin/kubectl").exists());
    }
}
