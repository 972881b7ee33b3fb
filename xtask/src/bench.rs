//! Benchmarks: release programs, their peers, one run.

use crate::images::Build;
use crate::{cluster, packages, programs, run};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Stdio;

/// Runs the benchmark of this name with its output on this terminal.
pub(crate) fn bench(name: &str) -> Result<()> {
    let args: Vec<&str> = match name {
        "verdicts" => vec!["run", "--release", "-p", "outrigger-verdict", "--example", "simulate"],
        "proxy" | "batching" | "dataplane" => {
            install_nginx()?;
            build_programs()?;
            vec!["run", "--quiet", "--release", "-p", "outrigger-benches", "--bin", "bench", "--", name]
        }
        "operator" => {
            ready_cluster()?;
            vec!["run", "--quiet", "--release", "--locked", "-p", "outrigger-benches", "--bin", "operator"]
        }
        other => bail!("no benchmark `{other}`; there are: proxy, batching, dataplane, operator, verdicts"),
    };
    let mut command = run::command("cargo", args)?;
    if name == "operator" {
        // What it runs of xtask must not wait for the build that runs it.
        command.env("OUTRIGGER_XTASK", std::env::current_exe()?);
        command.env("OUTRIGGER_ARGO_DEFINITIONS", argo_definitions()?);
    }
    let status = command.stdout(Stdio::inherit()).stderr(Stdio::inherit()).status()?;
    if !status.success() {
        bail!("bench {name} ended with {status}");
    }
    Ok(())
}

/// A cluster with the images of this checkout, built as they are shipped. One that `OUTRIGGER_CLUSTER_JSON` names is taken as it is.
fn ready_cluster() -> Result<()> {
    programs::build(programs::BENCH)?;
    if std::env::var_os("OUTRIGGER_CLUSTER_JSON").is_some() {
        return Ok(());
    }
    cluster::up()?;
    cluster::load(&[], Build::Released)
}

/// The folder of Argo Rollouts' resource definitions: in its Go module, fetched again where the cache was emptied.
fn argo_definitions() -> Result<PathBuf> {
    let go = programs::go()?;
    let module = "github.com/argoproj/argo-rollouts";
    let mut fetch = run::command(&go.to_string_lossy(), ["mod", "download", "-json", module])?;
    fetch.current_dir(run::root()?.join("e2e/programs/argo-rollouts")).env("GOWORK", "off");
    let output = fetch.output()?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let folder = said.get("Dir").and_then(|folder| folder.as_str()).map(PathBuf::from);
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(folder.with_context(|| format!("go mod download {module}: {why}"))?.join("manifests/crds"))
}

fn build_programs() -> Result<()> {
    let packages = [
        "outrigger-sidecar",
        "outrigger-gateway",
        "outrigger-engine-sim",
        "outrigger-floor",
        "outrigger-benches",
    ];
    let mut args = vec!["build", "--release", "--bins", "--locked"];
    args.extend(packages.iter().flat_map(|name| ["-p", name]));
    run::must("build release programs", run::command("cargo", args)?)?;
    let forward = ["build", "--release", "--locked", "-p", "outrigger-dataplane", "--example", "forward"];
    run::must("build the smallest forwarder", run::command("cargo", forward)?)?;
    Ok(())
}

/// nginx is the peer of `proxy`: Debian's package, installed when it is missing.
fn install_nginx() -> Result<()> {
    match programs::find("nginx") {
        Some(_) => Ok(()),
        None => packages::install(&["nginx-light"]),
    }
}
