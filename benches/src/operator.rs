//! The operator on a real cluster: a thousand deployments of no replicas until nothing is left to do, beside what the
//! same API server takes of a client that does nothing else, and beside Argo Rollouts with as many Rollouts.
//!
//! Steady is: every status is of the present generation, every object is there, and the controller has stopped writing.
//! What it wrote, and when, is read from the API server's audit log, which disturbs nobody.

mod api;
mod argo;
mod audit;
mod ours;
mod place;
mod raw;
mod settle;
mod words;

use crate::report::Measured;
use anyhow::{Context as _, Result, ensure};
use api::Server;
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::NAMESPACE;
use place::{Account, Operator};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How many deployments, and how many Rollouts.
const MANY: usize = 1_000;
/// How many in a small cluster.
const FEW: usize = 10;
/// How long the operator is left alone before its memory with a thousand is taken, and with ten.
const REST: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));

/// Everything that was measured.
#[derive(Debug)]
struct Found {
    /// ConfigMaps per second, before and after.
    raw: Vec<f64>,
    /// The operator's own objects per second, written by a client.
    same: f64,
    /// Memory with ten deployments, then with all: leader, and the follower with most.
    few: (f64, f64),
    many: (f64, f64),
    peak: f64,
    /// Writes of the operator in its minute of rest.
    resting: usize,
    ours: ours::Steady,
    argo: argo::Outcome,
}

/// Runs it.
///
/// # Errors
/// When there is no cluster of this machine's own processes, or a part fails.
pub fn run() -> Result<Measured> {
    let definitions = std::env::var_os("OUTRIGGER_ARGO_DEFINITIONS").map(PathBuf::from);
    let definitions = definitions.context("run it with `cargo xtask bench operator`")?;
    let cluster = Cluster::get()?;
    ensure!(
        cluster.description().native(),
        "this cluster is not made of this machine's processes: there is no audit log"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let found = runtime.block_on(async {
        let base = cluster.namespace("bench-raw")?;
        let account = Account::make(cluster, &base)?;
        let server = account.server()?;
        let ours = measure(cluster, &server, &base).await?;
        say(&format!("{MANY} Rollouts of Argo"))?;
        let argo = argo::run(cluster, &definitions, &server, MANY).await?;
        words::requests("argo", &argo.steady)?;
        anyhow::Ok(ours(argo))
    })?;
    Ok(Measured { lines: words::lines(&found), void: None })
}

async fn measure(
    cluster: &'static Cluster,
    server: &Server,
    base: &Namespace,
) -> Result<impl FnOnce(argo::Outcome) -> Found + use<>> {
    let operator = Operator::find(cluster)?;
    say("raw writes")?;
    let mut raw = vec![raw::config_maps(server, base.name(), 0).await?.rate()];

    say(&format!("{FEW} deployments"))?;
    let namespace = cluster.namespace("bench-few")?;
    ours::steady(cluster, server, &operator, &namespace, FEW).await?;
    tokio::time::sleep(REST.1).await;
    let few = (operator.memory()?, operator.following()?);
    place::vanish(cluster, namespace)?;

    say(&format!("{MANY} deployments"))?;
    let namespace = cluster.namespace("bench-many")?;
    let ours = ours::steady(cluster, server, &operator, &namespace, MANY).await?;
    words::requests("operator", &ours)?;
    let peak = operator.peak()?;
    let resting = rest(cluster, &namespace).await?;
    let many = (operator.memory()?, operator.following()?);
    operator.still(cluster)?;

    say("the same objects by a client")?;
    let other = cluster.namespace("bench-same")?;
    let same = raw::same_objects(server, namespace.name(), other.name(), MANY).await?.rate();
    place::vanish(cluster, other)?;
    place::vanish(cluster, namespace)?;
    say("raw writes again")?;
    raw.push(raw::config_maps(server, base.name(), 1).await?.rate());
    Ok(move |argo| Found { raw, same, few, many, peak, resting, ours, argo })
}

/// Leaves the operator alone; how much it wrote meanwhile.
async fn rest(cluster: &Cluster, namespace: &Namespace) -> Result<usize> {
    let user = format!("system:serviceaccount:{NAMESPACE}:outrigger-operator");
    let mut audit = audit::Audit::follow(&cluster.description().audit_log, &user, namespace.name())?;
    tokio::time::sleep(REST.0).await;
    audit.look()?;
    Ok(audit.seen.count())
}

/// What goes on now, and how busy the machine is with it and with everything else.
fn say(what: &str) -> Result<()> {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let took = BEGAN.get_or_init(Instant::now).elapsed().as_secs();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    writeln!(std::io::stdout(), "{took:>4} s  {what} (load {load})")?;
    Ok(())
}
