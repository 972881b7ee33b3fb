//! Argo Rollouts beside it: its controller as a process of this machine, with its own limits as it ships, and as many
//! Rollouts of no replicas.

use super::api::{Server, Write};
use super::audit::Audit;
use super::ours::Steady;
use super::place::{Account, Work};
use super::raw;
use super::settle::settle;
use crate::program::{Program, free_address, resident};
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use outrigger_e2e::cluster::{Cluster, Namespace, program};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long all of them may take: about 100 s where nothing else is at work.
const BOUND: Duration = Duration::from_secs(240);
/// How long it is left alone before its memory is taken.
const REST: Duration = Duration::from_secs(15);
const VERSION: &str = "argoproj.io/v1alpha1";

/// What it gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// All of them.
    pub(crate) steady: Steady,
    /// Its memory before there was any Rollout, in MiB.
    pub(crate) idle: f64,
    /// And with all of them, a while after.
    pub(crate) memory: f64,
    /// The most that it ever had.
    pub(crate) peak: f64,
}

/// Its definitions in the cluster, until this is dropped.
struct Definitions {
    cluster: &'static Cluster,
    files: Vec<String>,
}

impl Definitions {
    fn install(cluster: &'static Cluster, folder: &Path) -> Result<Self> {
        let mut definitions = Self { cluster, files: Vec::new() };
        for name in
            ["rollout", "analysis-run", "analysis-template", "cluster-analysis-template", "experiment"]
        {
            let file = folder.join(format!("{name}-crd.yaml"));
            let file = file.to_str().context("the definitions' path is no text")?.to_owned();
            // Before the attempt: what fails half is taken away, too.
            definitions.files.push(file.clone());
            // Too large for the annotation that `apply` would keep.
            cluster.kubectl(&["create", "-f", &file])?;
        }
        for file in &definitions.files {
            cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", file])?;
        }
        Ok(definitions)
    }
}

impl Drop for Definitions {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = self.cluster.kubectl(&["delete", "--ignore-not-found", "--wait=false", "-f", file]);
        }
    }
}

/// Runs it. `definitions` is the folder of its CRDs; `maker` makes the Rollouts.
pub(crate) async fn run(
    cluster: &'static Cluster,
    definitions: &Path,
    maker: &Server,
    count: usize,
) -> Result<Outcome> {
    let _definitions = Definitions::install(cluster, definitions)?;
    let namespace = cluster.namespace("bench-argo")?;
    let account = Account::make(cluster, &namespace)?;
    let outcome = measure((&namespace, &account), maker, cluster, count).await;
    super::place::vanish(cluster, namespace)?;
    outcome
}

async fn measure(
    (namespace, account): (&Namespace, &Account),
    maker: &Server,
    cluster: &Cluster,
    count: usize,
) -> Result<Outcome> {
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), account.kubeconfig()?.to_string())?;
    let (controller, process) = start(namespace.name(), config.path())?;
    tokio::time::sleep(REST).await;
    let idle = controller.memory()?;
    let steady = steady(cluster, maker, (namespace.name(), &account.user), process, count).await?;
    tokio::time::sleep(REST).await;
    Ok(Outcome { steady, idle, memory: controller.memory()?, peak: resident(process, "VmHWM")? })
}

/// Alone in its namespace: with fewer objects in sight than it has when it is installed for a cluster.
fn start(namespace: &str, kubeconfig: &Path) -> Result<(Program, u32)> {
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned()).context("no port");
    let (metrics, health) = (free_address()?, free_address()?);
    let mut command = Command::new(program("rollouts-controller")?);
    command.arg("--kubeconfig").arg(kubeconfig);
    command.args(["--namespaced", "--namespace", namespace, "--leader-elect=false", "--loglevel=warn"]);
    command.args(["--metricsPort", &port(&metrics)?, "--healthzPort", &port(&health)?]);
    let controller = Program::start("rollouts-controller", &mut command, &metrics)?;
    let process = controller.id();
    Ok((controller, process))
}

async fn steady(
    cluster: &Cluster,
    maker: &Server,
    (namespace, user): (&str, &str),
    controller: u32,
    count: usize,
) -> Result<Steady> {
    let mut audit = Audit::follow(&cluster.description().audit_log, user, namespace)?;
    let path = raw::collection(VERSION, namespace, "rollouts");
    let (began, before) = (Timestamp::now(), Work::now(cluster, controller)?);
    let created = maker.write(count, move |at| Write::create(&path, &rollout(at))).await?;
    let seen = settle(&mut audit, BOUND, || lacks(maker, namespace, count)).await?;
    let work = Work::now(cluster, controller)?.since(before);
    let last = seen.last.context("nothing was written")?;
    Ok(Steady { created, took: last.duration_since(began).as_secs_f64(), seen, work })
}

fn rollout(at: usize) -> Value {
    let name = format!("bench-{at}");
    json!({
        "apiVersion": VERSION,
        "kind": "Rollout",
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"canary": {"steps": [{"setWeight": 20}, {"pause": {"duration": "10m"}}]}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "engine", "image": "outrigger/engine-sim:0.1.0"}]},
            },
        },
    })
}

async fn lacks(server: &Server, namespace: &str, count: usize) -> Result<Option<String>> {
    let path = raw::collection(VERSION, namespace, "rollouts");
    let list = server.get(&format!("{path}?resourceVersion=0"), false).await?;
    let all = list.pointer("/items").and_then(Value::as_array).context("no list")?;
    let healthy = |object: &&Value| {
        object.pointer("/status/phase").and_then(Value::as_str) == Some("Healthy")
            // A text there.
            && object.pointer("/status/observedGeneration").and_then(Value::as_str)
                == object.pointer("/metadata/generation").map(Value::to_string).as_deref()
    };
    let found = all.iter().filter(healthy).count();
    Ok((found < count).then(|| format!("{found} of {count} Rollouts are Healthy")))
}
