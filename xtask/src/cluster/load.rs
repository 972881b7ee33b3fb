//! Images into the nodes: those that differ from what a node has, on each node.

use super::elsewhere;
use super::process::until;
use super::state::{self, Kind, Node, State};
use crate::images::{self, Archive, Build};
use crate::run;
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::{Duration, Instant};

/// Builds our images and imports them.
pub(crate) fn load(named: &[&str], build: Build) -> Result<()> {
    let archives = images::build(named, build)?;
    let _lock = state::lock()?;
    let mut state =
        State::load()?.filter(|state| state.ready).context("no cluster: run `cargo xtask cluster up`")?;
    match state.kind {
        Kind::Native => import(&mut state, &archives),
        Kind::Docker => elsewhere::import(&state, &archives),
        Kind::External => bail!(
            "images can't be imported into the cluster that KUBECONFIG names: push those that `cargo xtask images` makes \
             to a registry that it reads"
        ),
    }
}

/// Imports archives on each node that lacks them.
pub(crate) fn import(state: &mut State, archives: &[Archive]) -> Result<()> {
    for node in state.nodes.clone() {
        let started = Instant::now();
        let ready = until(Duration::from_secs(30), || {
            ctr(state, &node).is_ok_and(|mut c| succeeds(c.arg("version")))
        });
        if !ready {
            bail!("containerd of {} does not answer at {}", node.name, node.containerd.display());
        }
        let wanted: Vec<&Archive> = archives
            .iter()
            .filter(|archive| node.images.get(&archive.name) != Some(&archive.digest))
            .collect();
        for archive in &wanted {
            let mut command = ctr(state, &node)?;
            command.args(["-n", "k8s.io", "images", "import"]).arg(&archive.path);
            let output = command.output().context("running ctr")?;
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                bail!("importing {} on {}: {why}", archive.name, node.name);
            }
            for known in state.nodes.iter_mut().filter(|known| known.name == node.name) {
                known.images.insert(archive.name.clone(), archive.digest.clone());
            }
        }
        if !wanted.is_empty() {
            run::say(&format!("import {} images on {}", wanted.len(), node.name), started.elapsed(), "ok");
        }
        state.save()?;
    }
    Ok(())
}

/// `ctr` of a node.
pub(crate) fn ctr(state: &State, node: &Node) -> Result<Command> {
    let mut command = Command::new(state.program("ctr")?);
    command.arg("-a").arg(&node.containerd);
    Ok(command)
}

pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
