//! `cargo xtask cluster`: a real Kubernetes to test with.
//!
//! Where `KUBECONFIG` is set, it is that one, and nothing is started. Where Docker answers, `kind` makes one. Else it
//! is made on this machine from Kubernetes' own programs: a control plane on the host, and two nodes, each in a network
//! namespace of its own. All of it lies in one folder, is described by `cluster.json`, and is gone after `down`.

mod down;
mod elsewhere;
mod faults;
pub(crate) mod files;
mod load;
mod network;
mod parts;
mod preflight;
mod process;
mod state;
mod traces;
mod up;

use crate::images::Build;
use anyhow::Result;
use state::{Kind, State};

/// The commands, as the usage prints them.
pub(crate) const USAGE: &str = "\
usage: cargo xtask cluster COMMAND

  up                 make the cluster, or what is missing of it; leave it as it is when nothing is
  down               stop everything that `up` started and remove what it made, also after a crash
  status             say what runs and how to reach it
  load [IMAGE...]    build the images (operator, gateway, sidecar, engine-sim) quickly, for tests, and import them where
                     they differ; a running pod keeps its old one. `load --release ...` builds what is shipped
  kill NAME          kill a part: etcd, apiserver, controller-manager, scheduler, containerd-1, kubelet-1, proxy-1, ...
  stop NAME          ask a part to end
  start NAME         start a part again
  freeze NAME        stop a part where it is (SIGSTOP)
  thaw NAME          let it go on
  link NODE up|down  plug a node's cable in or out
  gpus NODE COUNT    say how many GPUs a node has
";

/// Runs one command. `None` when it is not one.
pub(crate) fn command(words: &[&str]) -> Option<Result<()>> {
    Some(match words {
        ["up"] => up::up().map(drop),
        ["down"] => down::down(),
        ["status"] => status(),
        ["load", "--release", named @ ..] => load::load(named, Build::Released),
        ["load", named @ ..] => load::load(named, Build::Quick),
        ["kill", name] => faults::stop(name, true),
        ["stop", name] => faults::stop(name, false),
        ["start", name] => faults::start(name),
        ["freeze", name] => faults::freeze(name, true),
        ["thaw", name] => faults::freeze(name, false),
        ["link", node, way @ ("up" | "down")] => faults::link(node, *way == "up"),
        ["gpus", node, count] => faults::gpus(node, count),
        _ => return None,
    })
}

pub(crate) use down::down;
pub(crate) use elsewhere::ONLY;
pub(crate) use load::load;
pub(crate) use state::file;
pub(crate) use up::{up, up_here};

/// What this machine lacks of what a cluster on it needs, in a sentence. The packages are installed by now: with their
/// programs the kernel is tried.
pub(crate) fn lacking() -> Result<Option<String>> {
    let looked = preflight::check(&state::folder()?).and_then(|()| preflight::kernel());
    Ok(looked.err().map(|error| format!("{error:#}")))
}

fn status() -> Result<()> {
    let Some(state) = State::load()? else {
        println!("no cluster; `cargo xtask cluster up` makes one");
        return Ok(());
    };
    describe(&state);
    Ok(())
}

/// Says what there is and how it is reached.
fn describe(state: &State) {
    let what = match state.kind {
        Kind::Native => "native: Kubernetes' own programs on this machine",
        Kind::Docker => "kind, in Docker",
        Kind::External => "the one that KUBECONFIG names",
    };
    println!("cluster     {what}{}", if state.ready { "" } else { ", not whole" });
    println!("kubeconfig  {}", state.kubeconfig.display());
    for (name, process) in &state.processes {
        let runs = if process.alive() { "runs" } else { "has ended" };
        println!("{name:<20} {:>8}  {runs}", process.pid);
    }
    for node in &state.nodes {
        let images = node.images.len();
        println!(
            "{:<20} {:>8}  {} GPUs, {images} images, pods {}",
            node.name, node.address, node.gpus, node.pods
        );
    }
    if let Ok(kubectl) = state.program("kubectl") {
        println!("try         {} --kubeconfig {} get nodes", kubectl.display(), state.kubeconfig.display());
    }
}
