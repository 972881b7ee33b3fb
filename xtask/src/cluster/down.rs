//! Taking it down: everything that `up` started or made, also after a crash, and nothing else. What is ours is known by
//! process id and start time, by the run folder in a command line, and by our own names.

use super::process::{self, Process, until};
use super::state::{self, Kind, Node, State};
use super::{elsewhere, load, network, traces};
use crate::run;
use anyhow::{Result, bail};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A part that is asked to end has this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes the cluster down, whatever is left of it.
pub(crate) fn down() -> Result<()> {
    let _lock = state::lock()?;
    let started = Instant::now();
    everything()?;
    run::say("cluster down", started.elapsed(), "ok");
    Ok(())
}

/// Removes all of it. Done twice, it finds nothing the second time.
pub(crate) fn everything() -> Result<()> {
    let state = State::load()?;
    match &state {
        Some(state) if state.kind == Kind::Docker => return elsewhere::delete(state),
        // Nothing of it is ours but the note.
        Some(state) if state.kind == Kind::External => return forget(),
        _ => {}
    }
    let folder = state::folder()?;
    let state = state.unwrap_or_default();
    foreign(&folder)?;
    let containers = traces::containers(&folder);
    let mut kept = Vec::new();
    // Nobody starts new pods from here on.
    end(&state, &folder, "kubelet", &mut kept);
    for node in &state.nodes {
        remove_containers(&state, node);
    }
    // Clients before servers; without etcd the API server would hang in its own end.
    for program in ["kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"] {
        end(&state, &folder, program, &mut kept);
    }
    remove_shims(&folder, &mut kept);
    end(&state, &folder, "containerd", &mut kept);
    unmount(&folder, &mut kept);
    kept.extend(network::remove());
    remove_cgroups();
    traces::remove(&state, &folder, &containers);
    if !kept.is_empty() {
        bail!("not everything could be removed: {}", kept.join("; "));
    }
    forget()
}

/// Removes the run folder but the logs, which tell what went wrong. The description goes last.
pub(crate) fn forget() -> Result<()> {
    let folder = state::folder()?;
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name() != "logs" && entry.file_name() != "cluster.json") {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }?;
    }
    match fs::remove_file(state::file()?) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// A cluster of another run folder on this machine has the same addresses, so only one of them can be.
fn foreign(folder: &Path) -> Result<()> {
    let ours = folder.to_string_lossy().into_owned();
    let theirs = process::all().into_iter().find(|(process, line)| {
        line.contains("/cluster/node-") && !line.contains(&ours) && in_a_node(*process)
    });
    match theirs {
        Some((process, line)) => bail!(
            "another cluster like this one runs on this machine (process {}: {}); take it down with the \
             OUTRIGGER_CACHE that it was made with",
            process.pid,
            line.chars().take(120).collect::<String>()
        ),
        None => Ok(()),
    }
}

/// Whether a process runs in one of our namespaces.
fn in_a_node(process: Process) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let inode = |path: String| fs::metadata(path).ok().map(|about| about.ino());
    let its = inode(format!("/proc/{}/ns/net", process.pid));
    its.is_some() && network::namespaces().iter().any(|name| inode(format!("/run/netns/{name}")) == its)
}

/// The processes of one program: those that were noted, and those that a crash kept from being noted.
fn found(state: &State, folder: &Path, program: &str) -> Vec<Process> {
    let home = folder.to_string_lossy().into_owned();
    let noted = state.processes.values().copied().filter(|process| runs(*process, program));
    let stray =
        process::all().into_iter().filter(|(_, line)| line.contains(&home)).map(|(process, _)| process);
    let mut all: Vec<Process> = noted.chain(stray.filter(|process| runs(*process, program))).collect();
    all.sort_by_key(|process| process.pid);
    all.dedup();
    all
}

fn runs(process: Process, program: &str) -> bool {
    let file = fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A program that was replaced while it ran.
    process.alive() && name.trim_end_matches(" (deleted)") == program
}

/// Ends all processes of a program, side by side.
fn end(state: &State, folder: &Path, program: &str, kept: &mut Vec<String>) {
    let all = found(state, folder, program);
    all.iter().for_each(|process| process.signal(Signal::TERM));
    for process in all {
        if let Err(error) = process.end(PATIENCE) {
            kept.push(format!("{program}: {error:#}"));
        }
    }
}

/// Asks containerd to end its containers: shims, cgroups and mounts go with them. What does not is found afterwards.
fn remove_containers(state: &State, node: &Node) {
    let Ok(mut list) = load::ctr(state, node) else { return };
    let Ok(output) = list.args(["--timeout", "5s", "-n", "k8s.io", "tasks", "list", "-q"]).output() else {
        return;
    };
    let ids: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    for some in ids.chunks(8) {
        let ending = some.iter().filter_map(|id| {
            let mut command = load::ctr(state, node).ok()?;
            command.args(["--timeout", "10s", "-n", "k8s.io", "tasks", "delete", "--force", id]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().ok()
        });
        for mut child in ending.collect::<Vec<_>>() {
            // Its own timeout bounds it.
            let _ = child.wait();
        }
    }
}

/// Kills shims that are left, with what they watch over.
fn remove_shims(folder: &Path, kept: &mut Vec<String>) {
    for shim in found(&State::default(), folder, "containerd-shim-runc-v2") {
        for child in process::children(shim) {
            child.signal(Signal::KILL);
        }
        if let Err(error) = shim.end(Duration::from_secs(2)) {
            kept.push(format!("shim: {error:#}"));
        }
    }
}

/// Unmounts whatever is mounted below the run folder, the innermost first.
fn unmount(folder: &Path, kept: &mut Vec<String>) {
    let left = || {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points =
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(|point| point.replace("\\040", " "));
        points.map(PathBuf::from).filter(|point| point.starts_with(folder)).collect::<Vec<_>>()
    };
    let gone = until(PATIENCE, || {
        for point in left().iter().rev() {
            // It may be busy until a process has ended; detached, it goes when the last user does.
            let _ = Command::new("umount").arg("--lazy").arg(point).output();
        }
        left().is_empty()
    });
    if !gone {
        kept.extend(left().iter().map(|point| format!("{} is mounted", point.display())));
    }
}

/// Removes the containers' empty cgroups. One with a process in it can't be removed, so nobody else's is.
fn remove_cgroups() {
    let mounts = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for root in mounts.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]) {
        let ours = root.join("k8s.io");
        for inner in fs::read_dir(&ours).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(inner.path());
        }
        let _ = fs::remove_dir(&ours);
    }
}
