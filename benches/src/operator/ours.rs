//! Deployments of no replicas, and what the operator makes of them.

use super::api::{Server, Write, Wrote};
use super::audit::{Audit, Seen};
use super::place::{Operator, Work};
use super::raw;
use super::settle::settle;
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::NAMESPACE;
use serde_json::{Value, json};
use std::time::Duration;

/// How long all of them may take.
const BOUND: Duration = Duration::from_secs(180);
const VERSION: &str = "outrigger.dev/v1alpha1";
const PLURAL: &str = "modeldeployments";

/// A run until everything is steady.
#[derive(Debug)]
pub(crate) struct Steady {
    /// The deployments themselves.
    pub(crate) created: Wrote,
    /// From the first that was sent to the controller's last write, in seconds.
    pub(crate) took: f64,
    /// What the controller asked of the API server.
    pub(crate) seen: Seen,
    /// Processor time from the first that was sent until nothing was left to do.
    pub(crate) work: Work,
}

/// Makes `count` deployments and waits until the operator has nothing left to do for them.
pub(crate) async fn steady(
    cluster: &Cluster,
    server: &Server,
    operator: &Operator,
    namespace: &Namespace,
    count: usize,
) -> Result<Steady> {
    let user = format!("system:serviceaccount:{NAMESPACE}:outrigger-operator");
    let mut audit = Audit::follow(&cluster.description().audit_log, &user, namespace.name())?;
    let path = raw::collection(VERSION, namespace.name(), PLURAL);
    let (began, before) = (Timestamp::now(), Work::now(cluster, operator.leader)?);
    let created = server.write(count, move |at| Write::create(&path, &deployment(at))).await?;
    let seen = settle(&mut audit, BOUND, || lacks(server, namespace.name(), count)).await?;
    let work = Work::now(cluster, operator.leader)?.since(before);
    let last = seen.last.context("nothing was written")?;
    Ok(Steady { created, took: last.duration_since(began).as_secs_f64(), seen, work })
}

fn deployment(at: usize) -> Value {
    json!({
        "apiVersion": VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": format!("bench-{at}")},
        "spec": {
            "model": {"name": format!("bench-{at}")},
            "engine": {"kind": "vLLM", "image": "outrigger/engine-sim:0.1.0", "args": ["--model=bench"]},
            "scale": {"replicas": 0},
        },
    })
}

/// What is not there yet: statuses of the present generation, or objects.
async fn lacks(server: &Server, namespace: &str, count: usize) -> Result<Option<String>> {
    let list = server
        .get(&format!("{}?resourceVersion=0", raw::collection(VERSION, namespace, PLURAL)), false)
        .await?;
    let all = list.pointer("/items").and_then(Value::as_array).context("no list")?;
    let current = |object: &&Value| {
        object.pointer("/status/observedGeneration") == object.pointer("/metadata/generation")
            && object.pointer("/status/stable").is_some_and(Value::is_string)
    };
    let observed = all.iter().filter(current).count();
    if observed < count {
        let first = all.iter().find(|object| !current(object)).and_then(|object| object.get("status"));
        return Ok(Some(format!("{observed} of {count} are observed; another's status: {first:?}")));
    }
    let counts = raw::counts(server, namespace).await?;
    let few = counts.iter().find(|(_, found)| *found < count);
    Ok(few.map(|(plural, found)| format!("{found} of {count} {plural}")))
}
