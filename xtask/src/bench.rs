//! Benchmarks: release programs, their peers, one run.

use crate::run;
use anyhow::{Context, Result, bail};
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
        other => bail!("no benchmark `{other}`; there are: proxy, batching, dataplane, verdicts"),
    };
    let mut command = run::command("cargo", args)?;
    let status = command.stdout(Stdio::inherit()).stderr(Stdio::inherit()).status()?;
    if !status.success() {
        bail!("bench {name} ended with {status}");
    }
    Ok(())
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
    let there =
        run::command("sh", ["-c", "command -v nginx || test -x /usr/sbin/nginx"])?.output()?.status.success();
    if there {
        return Ok(());
    }
    run::must("apt-get update", run::command("apt-get", ["update", "-qq"])?).context("nginx is Debian's")?;
    let install = ["install", "-y", "-qq", "--no-install-recommends", "nginx-light"];
    run::must("apt-get install nginx-light", run::command("apt-get", install)?)
        .context("nginx is Debian's")?;
    Ok(())
}
