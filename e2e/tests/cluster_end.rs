//! What is left after the cluster's end: nothing. These tests take the cluster down, so nobody else may use it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use outrigger_e2e::cluster::{Cluster, Description, xtask};
use outrigger_e2e::program::root;
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A part is killed in the middle of the way up; that far it comes within this.
const COMES_UP: Duration = Duration::from_secs(120);

/// Everything on this machine that a cluster could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    routes: Vec<String>,
    links: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: Vec<String>,
    folders: BTreeSet<String>,
    forwards: String,
    rules: String,
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn lines(program: &str, args: &[&str]) -> Vec<String> {
    let output = Command::new(program).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Command lines that name the cluster's folder, but for this test's own.
fn processes() -> Vec<String> {
    let folder = Description::file().unwrap().parent().unwrap().to_string_lossy().into_owned();
    let ids = names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok());
    let lines = ids.filter_map(|id| fs::read(format!("/proc/{id}/cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines
        .filter(|line| line.contains(&folder) || line.contains("outrigger-engine-sim --listen=0.0.0.0"))
        .collect()
}

fn look() -> Machine {
    let folders =
        ["/run", "/run/netns", "/run/containerd", "/run/containerd/s", "/var/lib", "/var/lib/cni/results"];
    let folders = folders.iter().chain(&["/var/log", "/var/log/containers", "/etc", "/opt"]);
    let cgroups = names("/sys/fs/cgroup").into_iter();
    Machine {
        routes: lines("ip", &["route", "show", "table", "all"]),
        links: names("/sys/class/net"),
        namespaces: names("/run/netns"),
        mounts: lines("cat", &["/proc/self/mounts"]).into_iter().collect(),
        cgroups: cgroups.flat_map(|inner| names(&format!("/sys/fs/cgroup/{inner}"))).collect(),
        processes: processes(),
        folders: folders
            .flat_map(|folder| names(folder).into_iter().map(move |name| format!("{folder}/{name}")))
            .collect(),
        forwards: fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
        rules: lines("nft", &["list", "ruleset"]).join("\n"),
    }
}

/// The cluster with pods on both nodes, so that there is something to leave behind.
fn busy() {
    let cluster = Cluster::get().unwrap();
    let pod = |node: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: waits-on-{node}}}, spec: {{nodeName: {node}, containers: \
             [{{name: waits, image: \"outrigger/pause:0.1.0\", imagePullPolicy: Never}}]}}}}\n---\n"
        )
    };
    let pods: String = cluster.description().nodes.iter().map(|node| pod(&node.name)).collect();
    cluster
        .wait_until("default", "the namespace's account", COMES_UP, || {
            Ok(cluster.try_kubectl(&["get", "serviceaccount", "default"])?.status.success())
        })
        .unwrap();
    cluster.apply("default", &pods).unwrap();
    cluster
        .wait_until("default", "a pod on each node", COMES_UP, || {
            let phases = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"])?;
            Ok(phases.split(' ').all(|phase| phase == "Running"))
        })
        .unwrap();
}

#[test]
fn nothing_is_left_of_a_cluster_after_its_end_nor_after_a_crash_on_its_way_up() {
    xtask(&["cluster", "down"]).unwrap();
    let before = look();
    busy();
    assert_ne!(look(), before, "there is something to be removed");
    xtask(&["cluster", "down"]).unwrap();
    assert_eq!(look(), before);
    xtask(&["cluster", "down"]).unwrap();
    assert_eq!(look(), before, "the second end finds nothing");

    crash();
    assert_ne!(look(), before, "there is something to be removed");
    xtask(&["cluster", "down"]).unwrap();
    assert_eq!(look(), before);
}

/// `up`, killed when the first kubelet has just been started.
fn crash() {
    let program = std::env::var_os("OUTRIGGER_XTASK").map_or_else(
        || {
            let mut cargo = Command::new("cargo");
            cargo.arg("xtask");
            cargo
        },
        Command::new,
    );
    let mut up = program;
    up.args(["cluster", "up"]).current_dir(root()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut up = up.spawn().unwrap();
    let begin = Instant::now();
    let file = Description::file().unwrap();
    while !fs::read_to_string(&file).unwrap_or_default().contains("kubelet-1") {
        assert!(begin.elapsed() < COMES_UP, "no kubelet was started");
        std::thread::sleep(Duration::from_millis(20)); // between two looks
    }
    up.kill().unwrap();
    up.wait().unwrap();
}
