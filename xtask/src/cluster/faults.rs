//! Faults on purpose, for tests: parts killed, stopped, frozen and started again; cables pulled; GPUs taken away.

use super::state::{self, Kind, State};
use super::{network, parts, up};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::time::Duration;

/// A part that is asked to end has this long.
const PATIENCE: Duration = Duration::from_secs(15);

/// The native cluster that is up; no fault can be made in another one.
fn owned() -> Result<State> {
    let state = State::load()?.context("no cluster: run `cargo xtask cluster up`")?;
    if state.kind != Kind::Native {
        bail!("faults can be made in a native cluster only, and this one is {:?}", state.kind);
    }
    Ok(state)
}

fn part(state: &State, name: &str) -> Result<parts::Part> {
    let parts = parts::all(state, &state::folder()?);
    let names = parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = parts.into_iter().find(|part| part.name == name);
    found.with_context(|| format!("no part `{name}`; there are: {names}"))
}

/// Ends a part.
pub(crate) fn stop(name: &str, at_once: bool) -> Result<()> {
    let _lock = state::lock()?;
    let mut state = owned()?;
    part(&state, name)?;
    let Some(process) = state.processes.get(name).copied() else { return Ok(()) };
    if at_once {
        process.signal(Signal::KILL);
    }
    process.end(PATIENCE)?;
    // From now on it is not missed.
    state.processes.remove(name);
    state.save()
}

/// Starts a part again, and waits until it does its work.
pub(crate) fn start(name: &str) -> Result<()> {
    let _lock = state::lock()?;
    let mut state = owned()?;
    let part = part(&state, name)?;
    if state.runs(name) {
        println!("{name} runs already");
        return Ok(());
    }
    up::start(&mut state, &part)?;
    match part.program {
        "etcd" => up::wait(&state, name, "etcd answers", up::etcd_answers),
        "kube-apiserver" => up::wait(&state, name, "the API server is ready", || up::server_ready(&state)),
        "kubelet" => {
            let node = state.node(&format!("node-{}", name.trim_start_matches("kubelet-")))?;
            let what = format!("{} is Ready", node.name);
            up::wait(&state, name, &what, || up::node_ready(&state, &node.name, true))?;
            // A kubelet that starts forgets resources that no device plugin announced.
            up::gpus(&state, &node.name, node.gpus)
        }
        _ => Ok(()),
    }
}

/// Stops a part where it is, or lets it go on.
pub(crate) fn freeze(name: &str, frozen: bool) -> Result<()> {
    let _lock = state::lock()?;
    let state = owned()?;
    part(&state, name)?;
    let process = state.processes.get(name).filter(|process| process.alive());
    let process = process.with_context(|| format!("{name} does not run"))?;
    process.signal(if frozen { Signal::STOP } else { Signal::CONT });
    Ok(())
}

/// Plugs a node's cable in or out.
pub(crate) fn link(node: &str, plugged: bool) -> Result<()> {
    let _lock = state::lock()?;
    network::link(owned()?.node(node)?, plugged)
}

/// Says how many GPUs a node has, from now on.
pub(crate) fn gpus(node: &str, count: &str) -> Result<()> {
    let _lock = state::lock()?;
    let mut state = owned()?;
    let count: u32 = count.parse().with_context(|| format!("a count of GPUs is a number, not `{count}`"))?;
    state.node(node)?;
    up::gpus(&state, node, count)?;
    for known in state.nodes.iter_mut().filter(|known| known.name == node) {
        known.gpus = count;
    }
    state.save()
}
