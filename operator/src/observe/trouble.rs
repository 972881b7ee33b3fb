//! Why a pod isn't getting on, in words that a user understands.

use super::replica::engine;
use super::types::{Container, ContainerStatus, Pod, Terminated, condition};
use super::words::{counted, plain, sentence};
use crate::names;
use outrigger_plan::Trouble;

/// What a kubelet calls an image that it can't have.
const PULL: [&str; 8] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
    "ErrRegistryUnavailable",
];
/// What a kubelet calls a container that it can't make or start.
const MAKE: [&str; 6] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
];

/// A trouble and how much it says: of several the one with the highest rank is told.
struct Found {
    rank: u8,
    trouble: Trouble,
}

/// What says most about why this pod isn't ready; the scheduler's and the quota's reasons are
/// [`capacity`](super::capacity)'s.
pub fn trouble(pod: &Pod) -> Option<Trouble> {
    let mut found: Vec<Found> = lost(pod).into_iter().chain(prepared(pod)).collect();
    for (status, declared) in containers(pod) {
        found.extend(of_container(pod, status, declared));
    }
    found
        .into_iter()
        .reduce(|best, next| if next.rank > best.rank { next } else { best })
        .map(|found| found.trouble)
}

/// Every container's state with its declaration; those that run first come first.
fn containers(pod: &Pod) -> impl Iterator<Item = (&ContainerStatus, Option<&Container>)> {
    let statuses = pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses);
    statuses.map(|status| {
        let mut declared = pod.spec.init_containers.iter().chain(&pod.spec.containers);
        (status, declared.find(|container| container.name == status.name))
    })
}

/// A container that a node took down, not by its own doing: the node was restarted, or lost its state.
pub(super) fn is_nodes_fault(end: &Terminated) -> bool {
    matches!(end.reason.as_deref(), Some("Unknown" | "ContainerStatusUnknown"))
}

/// A kubelet's word for a pod whose containers are ready and which is kept back by whoever was given a say.
const GATED: &str = "ReadinessGatesNotReady";

/// Whether the pod was declared not ready only because nothing is heard of its node: its containers were ready, and the
/// node controller, unlike a kubelet, leaves that as it was.
pub fn is_unheard(pod: &Pod) -> bool {
    let is = |kind, status| condition(&pod.status.conditions, kind).filter(|found| found.status == status);
    is("ContainersReady", "True").is_some()
        && is("Ready", "False").is_some_and(|ready| ready.reason.as_deref() != Some(GATED))
}

/// The node doesn't answer, or a gate is not met.
fn lost(pod: &Pod) -> Option<Found> {
    let ready = condition(&pod.status.conditions, "Ready")?;
    if ready.status == "False" && ready.reason.as_deref() == Some(GATED) {
        let message = format!("a readiness gate is not met: {}", plain(ready.message.as_deref()?));
        return Some(Found { rank: 20, trouble: own("ReadinessGate", message) });
    }
    if !is_unheard(pod) {
        return None;
    }
    let node = pod.spec.node_name.as_deref().unwrap_or("of the pod");
    Some(Found { rank: 90, trouble: own("NodeLost", format!("node {node} does not answer")) })
}

/// Nothing of it can start before its node has its volumes and its network. What is missing only events tell.
fn prepared(pod: &Pod) -> Option<Found> {
    let sandbox = condition(&pod.status.conditions, "PodReadyToStartContainers")?;
    let node = pod.spec.node_name.as_deref().filter(|_| sandbox.status == "False")?;
    let message = format!("node {node} prepares its volumes and network");
    Some(Found { rank: 5, trouble: own("Preparing", message) })
}

/// The revision's own trouble, or passing: not told as blocked.
fn own(reason: &str, message: String) -> Trouble {
    Trouble { reason: reason.to_owned(), message, blocks: false }
}

/// What keeps a replica from being had at all.
fn blocks(reason: &str, message: String) -> Trouble {
    Trouble { reason: reason.to_owned(), message, blocks: true }
}

fn of_container(pod: &Pod, status: &ContainerStatus, declared: Option<&Container>) -> Option<Found> {
    let is_sidecar = status.name == names::SIDECAR_CONTAINER;
    let name = match status.name.as_str() {
        names::ENGINE_CONTAINER => "the engine".to_owned(),
        names::SIDECAR_CONTAINER => "the sidecar".to_owned(),
        other => format!("container {other}"),
    };
    if let Some(waiting) = &status.state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref().unwrap_or_default();
        if PULL.contains(&reason) {
            let image = declared.and_then(|declared| declared.image.as_deref()).or(status.image.as_deref());
            return Some(Found {
                rank: 80,
                trouble: not_pulled(&name, image.unwrap_or("?"), reason, message),
            });
        }
        if MAKE.contains(&reason) {
            let text = format!("{name} can't be started: {}", cause(message));
            return Some(Found { rank: 80, trouble: blocks("CannotStart", text) });
        }
    }
    let end = ended(status)?;
    let mut text = end_in_words(&name, end, declared);
    if is_sidecar {
        // Running again is not trouble: an in-place upgrade restarts it too.
        status.state.running.is_none().then_some(())?;
        // Between two images it has ended as it was told to, and runs again in a moment.
        let looping = status.state.waiting.is_some();
        (looping || end.exit_code != 0).then_some(())?;
        return Some(Found { rank: 70, trouble: blocks("SidecarCannotStart", text) });
    }
    if is_nodes_fault(end) {
        return Some(Found { rank: 10, trouble: own("NodeRestarted", text) });
    }
    let again = status.restart_count;
    if again > 0 {
        let times = counted(again.unsigned_abs(), "restart");
        text.push_str(&format!(" ({times})"));
    }
    let crashes =
        status.state.waiting.as_ref().is_some_and(|w| w.reason.as_deref() == Some("CrashLoopBackOff"));
    if is_start_error(end) {
        return Some(Found { rank: 75, trouble: blocks("CannotStart", text) });
    }
    let reason = match (is_out_of_memory(end), crashes || again > 1) {
        (true, _) => "OutOfMemory",
        (false, true) => "CrashLoop",
        (false, false) => "ProgramEnded",
    };
    // What the engine died of says more than what a companion did.
    let rank = if engine(pod).is_some_and(|engine| engine.name == status.name) { 60 } else { 50 };
    Some(Found { rank, trouble: own(reason, text) })
}

/// How the newest run that is over ended, where that is a trouble.
fn ended(status: &ContainerStatus) -> Option<&Terminated> {
    let now = status.state.terminated.as_ref();
    let end = now.or(status.last_state.terminated.as_ref())?;
    // An init container that did its work.
    let is_done = now.is_some() && end.exit_code == 0 && status.ready;
    (!is_done).then_some(end)
}

fn is_out_of_memory(end: &Terminated) -> bool {
    end.reason.as_deref() == Some("OOMKilled")
}

/// There was nothing to run: no such program, no permission to execute it.
fn is_start_error(end: &Terminated) -> bool {
    matches!(end.reason.as_deref(), Some("StartError" | "ContainerCannotRun"))
}

fn end_in_words(name: &str, end: &Terminated, declared: Option<&Container>) -> String {
    if is_out_of_memory(end) {
        return match declared.and_then(|declared| declared.resources.limits.get("memory")) {
            Some(limit) => format!("{name} was killed: it used more memory than its limit, {limit}"),
            None => format!("{name} was killed: its node ran out of memory"),
        };
    }
    if is_nodes_fault(end) {
        return format!("{name} ended with its node");
    }
    if is_start_error(end) {
        return format!("{name} can't be started: {}", cause(end.message.as_deref().unwrap_or_default()));
    }
    match (end.exit_code, end.message.as_deref().map(plain).filter(|message| !message.is_empty())) {
        (code @ 129..=192, None) => format!("{name} was ended by signal {}", code - 128),
        (code, None) => format!("{name} ended with exit code {code}"),
        // What a program writes to its termination log.
        (code, Some(message)) => format!("{name} ended with exit code {code}: {}", sentence(&message)),
    }
}

fn not_pulled(name: &str, image: &str, reason: &str, message: &str) -> Trouble {
    let of = if name == "the engine" { String::new() } else { format!(" of {name}") };
    let why = match reason {
        "ErrImageNeverPull" => "it is not on the node, and its pull policy is Never".to_owned(),
        "InvalidImageName" => "its name is not that of an image".to_owned(),
        _ => pull_cause(message, image),
    };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    blocks("ImageNotPulled", format!("image {image}{of} can't be pulled{why}"))
}

/// Why an image can't be pulled, out of three programs' wrappings.
fn pull_cause(message: &str, image: &str) -> String {
    let lower = message.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if has(&["not found", "manifest unknown", "name unknown"]) {
        return "its registry does not have it".to_owned();
    }
    if has(&[
        "unauthorized",
        "authorization failed",
        "403 forbidden",
        "access denied",
        "authentication required",
    ]) {
        return "its registry refuses these credentials (or it does not exist)".to_owned();
    }
    if has(&["toomanyrequests", "429 too many"]) {
        return "its registry limits how often it is asked".to_owned();
    }
    if has(&["no such host", "server misbehaving"]) {
        return "the registry's name is not known on the node".to_owned();
    }
    if has(&[
        "connection refused",
        "i/o timeout",
        "no route to host",
        "network is unreachable",
        "deadline exceeded",
    ]) {
        return "the node does not reach its registry".to_owned();
    }
    if has(&["x509", "certificate"]) {
        return "the node does not trust its registry's certificate".to_owned();
    }
    if has(&["no space left"]) {
        return "the node's disk is full".to_owned();
    }
    let backs_off = lower.starts_with("back-off") && !lower.contains("err");
    let text = plain(message).replace(image, "it");
    if backs_off { String::new() } else { cause(&text) }
}

/// The innermost cause of a runtime's message.
fn cause(message: &str) -> String {
    let text = plain(message);
    let inner = [
        "OCI runtime create failed: ",
        "unable to start container process: ",
        "failed to create shim task: ",
        "rpc error: code = Unknown desc = ",
        "rpc error: code = NotFound desc = ",
        "failed to create containerd task: ",
        "failed to generate container ",
    ];
    let start = inner.iter().filter_map(|marker| text.rfind(marker).map(|at| at + marker.len())).max();
    // A runtime's error without a code ends so.
    sentence(start.and_then(|start| text.get(start..)).unwrap_or(&text).trim_end_matches(": unknown"))
}

/// Why a pod that has ended did not run where it was put: turned away by its node, or evicted from it.
pub(super) fn turned_away(pod: &Pod) -> Option<Trouble> {
    let reason = pod.status.reason.as_deref()?;
    let node = pod.spec.node_name.as_deref().unwrap_or("?");
    let message = sentence(&plain(pod.status.message.as_deref().unwrap_or_default()));
    match reason {
        "Evicted" => Some(own("Evicted", format!("evicted from node {node}: {message}"))),
        "NodeLost" | "NodeShutdown" | "Terminated" | "Shutdown" => {
            Some(own("NodeLost", format!("node {node} was shut down")))
        }
        "Preempting" => {
            Some(own("Preempted", format!("node {node} needed the room for a more important pod")))
        }
        _ => Some(blocks("TurnedAway", format!("node {node} turned it away: {message}"))),
    }
}
