//! Clusters that are not made of this machine's own processes: the one that `KUBECONFIG` names, and `kind`'s.

use super::down;
use super::state::{self, Kind, State};
use crate::images::Archive;
use crate::{programs, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Our cluster among kind's.
const NAME: &str = "outrigger";
/// A control plane and two workers, as the native one has two nodes.
const NODES: &str = "kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
";

/// The cluster that `KUBECONFIG` names, if it is set: nothing is started.
pub(crate) fn named() -> Result<Option<State>> {
    let Some(kubeconfig) = kubeconfig()? else { return Ok(None) };
    if State::load()?.is_some_and(|state| state.kind != Kind::External) {
        bail!(
            "KUBECONFIG names another cluster than the one that is up; run `cargo xtask cluster down` first"
        );
    }
    let state =
        State { kind: Kind::External, kubeconfig, ready: true, boot: state::boot(), ..State::default() };
    finish(state).map(Some)
}

/// Set to `native`, no other cluster than one of this machine's processes is used: so the tests call this program.
pub(crate) const ONLY: &str = "OUTRIGGER_CLUSTER";

fn only_native() -> bool {
    std::env::var_os(ONLY).is_some_and(|value| value == "native")
}

/// What `KUBECONFIG` names, unless it is the cluster that is made here.
pub(crate) fn kubeconfig() -> Result<Option<PathBuf>> {
    if only_native() {
        return Ok(None);
    }
    let ours = state::folder()?.join("kubeconfig");
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    Ok(named.filter(|named| *named != ours))
}

/// Whether Docker answers.
pub(crate) fn docker() -> bool {
    !only_native() && Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success())
}

/// Makes kind's cluster, unless it is there.
pub(crate) fn kind() -> Result<State> {
    let folder = state::folder()?;
    fs::create_dir_all(&folder)?;
    let kind = program()?;
    let kubeconfig = folder.join("kubeconfig");
    let there = Command::new(&kind).args(["get", "clusters"]).output().context("running kind")?;
    if !String::from_utf8_lossy(&there.stdout).lines().any(|line| line == NAME) {
        let nodes = folder.join("kind.yaml");
        fs::write(&nodes, NODES)?;
        let mut create = Command::new(&kind);
        create.args(["create", "cluster", "--name", NAME, "--wait", "180s", "--config"]).arg(&nodes);
        create.arg("--kubeconfig").arg(&kubeconfig).env_remove("KUBECONFIG");
        run::must("kind create cluster", create)?;
    }
    finish(State { kind: Kind::Docker, kubeconfig, ready: true, boot: state::boot(), ..State::default() })
}

fn finish(mut state: State) -> Result<State> {
    state.programs = programs::build(programs::CLIENTS)?;
    fs::create_dir_all(state::folder()?)?;
    state.save()?;
    println!("the cluster is up; kubeconfig: {}", state.kubeconfig.display());
    Ok(state)
}

fn program() -> Result<PathBuf> {
    if let Some(kind) = programs::find("kind") {
        return Ok(kind);
    }
    let mut built = programs::build(programs::KIND)?;
    built.remove("kind").context("kind was built")
}

/// Imports archives into kind's nodes.
pub(crate) fn import(state: &State, archives: &[Archive]) -> Result<()> {
    debug_assert_eq!(state.kind, Kind::Docker);
    for archive in archives {
        let mut command = Command::new(program()?);
        command.args(["load", "image-archive", "--name", NAME]).arg(&archive.path);
        run::must(&format!("load {}", archive.name), command)?;
    }
    Ok(())
}

/// Takes kind's cluster away.
pub(crate) fn delete(state: &State) -> Result<()> {
    let mut command = Command::new(program()?);
    command.args(["delete", "cluster", "--name", NAME, "--kubeconfig"]).arg(&state.kubeconfig);
    run::must("kind delete cluster", command)?;
    down::forget()
}
