//! What programs cost that have nothing to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use outrigger_e2e::program::{Running, command};
use std::fs;
use std::time::{Duration, Instant};

/// Long enough that one tick of 10 ms is 0.25 %.
const WATCHED: Duration = Duration::from_secs(4);
/// A process that spins, or wakes up every millisecond, takes far more; what remains allows for the engine's probes in
/// a build without optimisation. `cargo xtask bench proxy` measures the plain programs of a release build.
const MOST: f64 = 0.02;

/// Seconds of processor time that a process has used.
fn used(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process lives");
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th field behind it.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap());
    // The kernel tells all programs on Linux 100 ticks per second.
    ticks.sum::<f64>() / 100.0
}

/// The share of a core that the process uses while nobody asks it anything. Processor time, so that other programs
/// do not matter.
fn share(process: u32) -> f64 {
    let (before, since) = (used(process), Instant::now());
    while since.elapsed() < WATCHED {
        std::thread::sleep(WATCHED / 8); // between two looks
        used(process);
    }
    (used(process) - before) / since.elapsed().as_secs_f64()
}

/// proves B.8
#[test]
fn an_idle_sidecar_and_an_idle_gateway_do_not_spin() {
    let ready = Duration::from_secs(60);
    let mut sim = command("outrigger-engine-sim").unwrap();
    sim.args(["--port", "0", "--model", "demo"]);
    let mut engine = Running::start(sim).unwrap();
    let line = engine.line(ready, "address", |line| line.contains("http://")).unwrap();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    let mut sidecar = command("outrigger-sidecar").unwrap();
    sidecar.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--engine-kind", "vLLM"]);
    sidecar.args(["--engine", &address]);
    let mut sidecar = Running::start(sidecar).unwrap();
    sidecar.line(ready, "readiness", |line| line.contains(r#""to":"Ready""#)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes.yaml");
    fs::write(&routes, "routes: []\n").unwrap();
    let mut gateway = command("outrigger-gateway").unwrap();
    gateway.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]).arg(&routes);
    let mut gateway = Running::start(gateway).unwrap();
    gateway.line(ready, "address", |line| line.contains("127.0.0.1")).unwrap();
    for (name, process) in [("sidecar", sidecar.id()), ("gateway", gateway.id())] {
        let share = share(process);
        assert!(share < MOST, "the idle {name} uses {:.1} % of a core", share * 100.0);
    }
}
