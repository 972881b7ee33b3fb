//! The rooms: which part may know which other. Each forbidden edge is asked of `cargo tree`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

/// Everything that a package links, itself left out.
fn links(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| *name != package).map(str::to_owned).collect()
}

fn check(package: &str, forbidden: &[&str]) {
    let links = links(package);
    let found: Vec<&&str> = forbidden.iter().filter(|name| links.contains(**name)).collect();
    assert!(found.is_empty(), "{package} must never know {found:?}");
}

const KUBERNETES: [&str; 5] = ["kube", "kube-core", "kube-client", "kube-runtime", "k8s-openapi"];
const RUNTIMES: [&str; 5] = ["tokio", "hyper", "hyper-util", "kube-client", "kube-runtime"];

#[test]
fn crds_knows_shape_alone() {
    check("outrigger-crds", &RUNTIMES);
}

#[test]
fn wire_knows_no_kubernetes_and_no_sockets() {
    check("outrigger-wire", &[KUBERNETES.as_slice(), RUNTIMES.as_slice()].concat());
}

#[test]
fn verdict_knows_counts_alone() {
    check("outrigger-verdict", &[KUBERNETES.as_slice(), RUNTIMES.as_slice()].concat());
    let ours: Vec<String> =
        links("outrigger-verdict").into_iter().filter(|name| name.starts_with("outrigger-")).collect();
    assert_eq!(ours, ["outrigger-wire"]);
}

#[test]
fn the_planner_has_no_clients_and_no_runtime() {
    check("outrigger-plan", &RUNTIMES);
}

#[test]
fn decisions_have_no_input_and_no_output() {
    check("outrigger-decide", &[KUBERNETES.as_slice(), RUNTIMES.as_slice()].concat());
}

#[test]
fn proxies_link_no_kubernetes() {
    for package in ["outrigger-table", "outrigger-dataplane", "outrigger-gateway", "outrigger-sidecar"] {
        check(package, &[KUBERNETES.as_slice(), &["outrigger-crds", "outrigger-plan"]].concat());
    }
}

#[test]
fn the_helper_links_nothing() {
    assert_eq!(links("outrigger-helper"), BTreeSet::new());
}

/// Everything of this workspace but the operator and the command line.
#[test]
fn kubernetes_clients_stand_under_operator_and_command_line_alone() {
    for package in [
        "outrigger-benches",
        "outrigger-crds",
        "outrigger-decide",
        "outrigger-engine-sim",
        "outrigger-helper",
        "outrigger-plan",
        "outrigger-verdict",
        "outrigger-wire",
    ] {
        check(package, &["kube-client", "kube-runtime"]);
    }
}

#[test]
fn the_operator_knows_no_data_path() {
    check("outrigger-operator", &["outrigger-gateway", "outrigger-sidecar", "outrigger"]);
}
