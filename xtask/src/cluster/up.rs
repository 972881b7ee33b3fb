//! Bringing it up: everything that waits for nothing is started at once, and each wait is for a condition.

use super::parts::{self, Part};
use super::process::{self, until};
use super::state::{self, Kind, State};
use super::{down, elsewhere, files, load, network, preflight, traces};
use crate::{images, packages, programs, run};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A part on two idle cores needs seconds; a bound, not an expectation.
const STARTS: Duration = Duration::from_secs(120);
/// One question to the API server.
const ANSWERS: &str = "--request-timeout=10s";
const NODES: u8 = 2;

/// Makes the cluster, or what is missing of it: the one that `KUBECONFIG` names, kind's where Docker answers, else one
/// of this machine's processes.
pub(crate) fn up() -> Result<State> {
    let _lock = state::lock()?;
    if let Some(state) = elsewhere::named()? {
        return Ok(state);
    }
    match State::load()? {
        Some(state) if state.ready && state.kind == Kind::Docker => elsewhere::kind(),
        Some(state) if state.ready && state.kind == Kind::Native => complete(state, &state::folder()?),
        None if elsewhere::docker() => elsewhere::kind(),
        _ => native(),
    }
}

/// Makes the cluster of this machine's processes, whatever others there are: tests break its parts, put GPUs on its
/// nodes and install and uninstall charts, which is nothing to do to somebody's cluster.
pub(crate) fn up_here() -> Result<State> {
    let _lock = state::lock()?;
    native()
}

fn native() -> Result<State> {
    let folder = state::folder()?;
    if State::load()?.is_some() {
        down::everything()?;
    }
    preflight::check(&folder)?;
    packages::for_cluster()?;
    let mut programs = programs::build(programs::CLUSTER)?;
    for name in ["containerd", "ctr", "nsenter", "prometheus"] {
        programs.insert(name.to_owned(), programs::find(name).with_context(|| format!("no program {name}"))?);
    }
    down::everything()?;
    let started = Instant::now();
    let state = State {
        boot: state::boot(),
        kubeconfig: folder.join("kubeconfig"),
        logs: folder.join("logs"),
        audit_log: folder.join("logs/audit.log"),
        dns: parts::DNS.to_owned(),
        nodes: (1..=NODES).map(|number| network::node(number, &folder)).collect(),
        made: traces::absent(),
        programs,
        ..State::default()
    };
    let result = fresh(state, &folder);
    if let Err(error) = &result {
        // What was made is described by now.
        let _ = down::everything();
        bail!("{error:#}; the logs are in {}", folder.join("logs").display());
    }
    run::say("cluster up", started.elapsed(), "ok");
    result
}

fn fresh(mut state: State, folder: &Path) -> Result<State> {
    fs::create_dir_all(folder)?;
    if state.logs.exists() {
        // Of the cluster before this one.
        fs::remove_dir_all(&state.logs)?;
    }
    state.save()?;
    preflight::kernel()?;
    let pause = images::pause()?;
    let coredns = images::coredns(state.program("coredns")?)?;
    files::write(&state, folder)?;
    handy(&state, folder)?;
    network::make(&state.nodes)?;
    let parts = parts::all(&state, folder);
    // First what the rest waits for.
    let early = |part: &&Part| part.program == "etcd" || part.program == "containerd";
    for part in parts.iter().filter(early) {
        start(&mut state, part)?;
    }
    wait(&state, "etcd", "etcd answers", etcd_answers)?;
    start_named(&mut state, &parts, "apiserver")?;
    load::import(&mut state, &[pause, coredns])?;
    wait(&state, "apiserver", "the API server is ready", || server_ready(&state))?;
    for part in &parts {
        if !state.runs(&part.name) {
            start(&mut state, part)?;
        }
    }
    settle(&state)?;
    state.ready = true;
    state.save()?;
    Ok(state)
}

/// One folder for a caller's `PATH`.
fn handy(state: &State, folder: &Path) -> Result<()> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    for (name, program) in &state.programs {
        std::os::unix::fs::symlink(program, bin.join(name))?;
    }
    Ok(())
}

/// Starts what has ended of a cluster that was ready.
fn complete(mut state: State, folder: &Path) -> Result<State> {
    let missing: Vec<Part> =
        parts::all(&state, folder).into_iter().filter(|part| !state.runs(&part.name)).collect();
    for part in &missing {
        println!("{} had ended, starting it", part.name);
        start(&mut state, part)?;
        if part.program == "etcd" {
            wait(&state, "etcd", "etcd answers", etcd_answers)?;
        }
    }
    wait(&state, "apiserver", "the API server is ready", || server_ready(&state))?;
    settle(&state)?;
    println!("the cluster is up; kubeconfig: {}", state.kubeconfig.display());
    Ok(state)
}

/// Waits until nodes and names work, and says how many GPUs there are.
fn settle(state: &State) -> Result<()> {
    apply(state, include_str!("objects.yaml"))?;
    for node in &state.nodes {
        let name = format!("kubelet{}", node.name.trim_start_matches("node"));
        wait(state, &name, &format!("{} is Ready", node.name), || node_ready(state, &node.name, true))?;
        gpus(state, &node.name, node.gpus)?;
    }
    wait(state, "kubelet-1", "the DNS server is ready", || dns_ready(state))
}

/// Starts a part and notes its process.
pub(crate) fn start(state: &mut State, part: &Part) -> Result<()> {
    let program = state.program(part.program)?.to_owned();
    let mut command = match &part.namespace {
        Some(namespace) => network::inside(namespace, &program),
        None => Command::new(&program),
    };
    command.args(&part.args).env("PATH", path());
    // What the caller's shell says of other clusters and proxies is not theirs to know.
    for name in ["KUBECONFIG", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let process = process::start(command, &log(state, &part.name))?;
    state.processes.insert(part.name.clone(), process);
    state.save()
}

fn start_named(state: &mut State, parts: &[Part], name: &str) -> Result<()> {
    let part = parts.iter().find(|part| part.name == name).with_context(|| format!("no part `{name}`"))?;
    start(state, part)
}

/// Root's own folders too: runc and nft lie there.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default())
}

fn log(state: &State, part: &str) -> PathBuf {
    state.logs.join(format!("{part}.log"))
}

/// Waits for what a part shall bring about; the log tells when it doesn't, or when any part ends meanwhile.
pub(crate) fn wait(state: &State, part: &str, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let mut ended = None;
    let came = until(STARTS, || {
        ended = state.processes.iter().find(|(_, process)| !process.alive()).map(|(name, _)| name.as_str());
        ended.is_some() || holds()
    });
    let (part, how) = match ended {
        Some(name) => (name, "has ended".to_owned()),
        None if came => return Ok(()),
        None => (part, format!("has not come to it in {STARTS:?}")),
    };
    bail!("waiting until {what}: {part} {how}. Its log ends with:\n{}", process::tail(&log(state, part)))
}

/// Whether etcd says that it is healthy.
pub(crate) fn etcd_answers() -> bool {
    let ask = || -> Result<bool> {
        let address: SocketAddr = parts::ETCD.parse()?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer.contains("200 OK"))
    };
    ask().unwrap_or(false)
}

/// Whether the API server says that it is ready.
pub(crate) fn server_ready(state: &State) -> bool {
    kubectl(state, &["get", "--raw", "/readyz"], None).is_ok_and(|output| output.status.success())
}

/// Whether a node is Ready, or is not.
pub(crate) fn node_ready(state: &State, node: &str, ready: bool) -> bool {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    let output = kubectl(state, &["get", "node", node, "-o", path], None);
    output.is_ok_and(|output| output.status.success() && (output.stdout == b"True") == ready)
}

fn dns_ready(state: &State) -> bool {
    let path = "jsonpath={.status.readyReplicas}";
    let output = kubectl(state, &["-n", "kube-system", "get", "deployment", "coredns", "-o", path], None);
    output.is_ok_and(|output| output.stdout == b"1")
}

/// Says how many GPUs a node has: the scheduler counts them, and nobody looks for them.
pub(crate) fn gpus(state: &State, node: &str, count: u32) -> Result<()> {
    let count = json!({"nvidia.com/gpu": count.to_string()});
    let patch = json!({"status": {"capacity": count, "allocatable": count}}).to_string();
    let args = ["patch", "node", node, "--subresource=status", "--type=merge", "-p", &patch];
    must(kubectl(state, &args, None)?, "patching the node's GPUs")
}

fn apply(state: &State, objects: &str) -> Result<()> {
    let args = ["apply", "--server-side", "--field-manager=xtask", "--force-conflicts", "-f", "-"];
    must(kubectl(state, &args, Some(objects))?, "applying the cluster's own objects")
}

fn must(output: Output, what: &str) -> Result<()> {
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Asks the API server as the cluster's administrator.
pub(crate) fn kubectl(state: &State, args: &[&str], input: Option<&str>) -> Result<Output> {
    let mut command = Command::new(state.program("kubectl")?);
    command.arg("--kubeconfig").arg(&state.kubeconfig).arg(ANSWERS).args(args).env_remove("KUBECONFIG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("running kubectl")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.unwrap_or_default().as_bytes())?;
    }
    Ok(child.wait_with_output()?)
}
