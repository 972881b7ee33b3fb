//! Faults on request, over sockets, and the program with its processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod client;

use client::{BOUND, Sim};
use hyper::Method;
use hyper::body::Bytes;
use outrigger_engine_sim::{Config, Ended, Fault};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

fn call() -> Value {
    json!({"instances": [1]})
}

const PREDICT: &str = "/v1/models/demo:predict";

#[tokio::test]
async fn errors_come_in_their_share_and_the_same_ones_under_the_same_seed() {
    let outcomes = async |seed| {
        let mut config = Config { seed, ..Config::default() };
        config.faults.set(Fault::Errors { share: 0.5 }, 5);
        let sim = Sim::start(config).await;
        let mut all = Vec::new();
        for _ in 0..25 {
            all.push(sim.post(PREDICT, &call()).await.status);
        }
        all
    };
    let one = outcomes(1).await;
    assert_eq!(one, outcomes(1).await);
    assert_ne!(one, outcomes(2).await);
    assert!(one[..5].iter().all(|s| *s == 200), "none before its time: {one:?}");
    let failed = one[5..].iter().filter(|s| **s == 500).count();
    assert!((5..=15).contains(&failed), "{one:?}");
}

#[tokio::test]
async fn one_that_hangs_accepts_and_answers_nothing_until_it_is_told_otherwise() {
    let sim = Sim::start(Config::default()).await;
    assert_eq!(sim.post("/sim/fault", &json!({"fault": "hang", "after": 1})).await.status, 200);
    assert_eq!(sim.post(PREDICT, &call()).await.status, 200, "the first is still served");
    tokio::select! {
        _ = sim.send(Method::POST, PREDICT, &[], Bytes::from(call().to_string())) => panic!("inference was answered"),
        _ = sim.send(Method::GET, "/health", &[], Bytes::new()) => panic!("a probe was answered"),
        _ = async { for _ in 0..50 { sim.get("/sim/state").await; } } => {}
    }
    sim.post("/sim/fault", &json!({"fault": "none"})).await;
    assert_eq!(sim.get("/health").await.status, 200);
    assert_eq!(sim.post(PREDICT, &call()).await.status, 200);
}

#[tokio::test]
async fn one_that_stalls_answers_probes_and_makes_no_progress() {
    let sim = Sim::start(Config::default()).await;
    sim.post("/sim/fault", &json!({"fault": "stall"})).await;
    let body = json!({"model": "demo", "prompt": "x", "stream": true}).to_string();
    let stream = sim.send(Method::POST, "/v1/completions", &[], Bytes::from(body)).await;
    assert_eq!(stream.status(), 200);
    let state = sim.until(|s| s["in_flight"] == 1).await;
    let tokens = async || {
        let text = String::from_utf8(sim.get("/metrics").await.body.to_vec()).unwrap();
        text.lines().find(|l| l.starts_with("vllm:generation_tokens_total")).unwrap().to_owned()
    };
    assert!(tokens().await.ends_with(" 0.0"), "{state}");
    assert_eq!(sim.get("/health").await.status, 200);
    sim.post("/sim/fault", &json!({"fault": "none"})).await;
    sim.until(|s| s["in_flight"] == 0).await;
    assert!(tokens().await.ends_with(" 16.0"));
    drop(stream);
}

#[tokio::test]
async fn one_that_is_busy_works_on_while_probes_wait() {
    let sim = Sim::start(Config::default()).await;
    sim.post("/sim/fault", &json!({"fault": "busy", "probe_ms": 3_600_000, "factor": 2})).await;
    let body = call();
    tokio::select! {
        _ = sim.send(Method::GET, "/health", &[], Bytes::new()) => panic!("the probe was faster than the work"),
        _ = sim.send(Method::GET, "/metrics", &[], Bytes::new()) => panic!("the probe was faster than the work"),
        answer = sim.post(PREDICT, &body) => assert_eq!(answer.status, 200),
    }
}

#[tokio::test]
async fn lost_metrics_and_faults_that_do_not_exist() {
    let sim = Sim::start(Config::default()).await;
    sim.post("/sim/fault", &json!({"fault": "lost-metrics"})).await;
    assert_eq!(sim.get("/metrics").await.status, 404);
    assert_eq!(sim.get("/health").await.status, 200);
    for wrong in [
        json!({"fault": "mood"}),
        json!([]),
        json!({"fault": "hang", "after": -1}),
        json!({"fault": "hang", "x": 1}),
    ] {
        assert_eq!(sim.post("/sim/fault", &wrong).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn one_that_takes_memory_serves_on_and_gives_it_back() {
    let sim = Sim::start(Config::default()).await;
    for fault in [json!({"fault": "memory", "mebibytes": 32}), json!({"fault": "none"})] {
        assert_eq!(sim.post("/sim/fault", &fault).await.status, 200);
        assert_eq!(sim.post(PREDICT, &call()).await.status, 200);
    }
}

#[tokio::test]
async fn one_that_crashes_takes_its_connections_with_it() {
    let mut config = Config::default();
    config.faults.set(Fault::Crash, 2);
    let mut sim = Sim::start(config).await;
    let body =
        json!({"model": "demo", "prompt": "x", "stream": true, "max_tokens": 8000, "ignore_eos": true});
    let mut stream = sim.send(Method::POST, "/v1/completions", &[], Bytes::from(body.to_string())).await;
    assert_eq!(sim.post(PREDICT, &call()).await.status, 200);
    let socket = tokio::net::TcpStream::connect(sim.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let third = hyper::Request::post(PREDICT).header("host", "sim");
    let third = third.body(http_body_util::Full::new(Bytes::from(call().to_string()))).unwrap();
    assert!(sender.send_request(third).await.is_err(), "the third is not answered");
    let ended = tokio::time::timeout(BOUND, &mut sim.task).await.unwrap().unwrap().unwrap();
    assert_eq!(ended, Ended::Crashed);
    let cut = async {
        while let Some(frame) = http_body_util::BodyExt::frame(stream.body_mut()).await {
            if frame.is_err() {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(BOUND, cut).await.unwrap(), "the stream broke off");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program, and the line that it says when it listens.
fn program(args: &[&str]) -> (Killed, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_outrigger-engine-sim"))
        .args(["--port", "0"])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Killed(child), line)
}

fn alive(pid: &str) -> bool {
    // A process that has ended and waits to be collected is a zombie, not alive.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z"))
}

#[test]
fn the_program_is_small_ends_on_a_signal_and_takes_its_worker_along() {
    let (mut program, line) = program(&["--worker", "--version", "v3"]);
    assert!(line.contains("listening on http://127.0.0.1:") && line.contains("version=v3"), "{line}");
    let worker = line.trim().rsplit_once("worker=").unwrap().1.to_owned();
    assert!(alive(&worker));
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.0.id())).unwrap();
    let resident = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    let kib: u32 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 10 * 1024, "{kib} KiB");
    let pid = rustix::process::Pid::from_child(&program.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(program.0.wait().unwrap().code(), Some(0));
    let gone = std::time::Instant::now() + BOUND;
    while alive(&worker) {
        assert!(std::time::Instant::now() < gone, "the worker lives on");
        std::thread::yield_now();
    }
}

#[test]
fn the_program_says_why_it_ends() {
    let ends = |args: &[&str]| {
        let all = [&["--port", "0"], args].concat();
        let program = Command::new(env!("CARGO_BIN_EXE_outrigger-engine-sim")).args(all).output().unwrap();
        (program.status.code(), String::from_utf8(program.stderr).unwrap())
    };
    assert_eq!(ends(&["--fault", "crash"]).0, Some(70));
    let (code, words) = ends(&["--max-rows", "0", "--jitter", "2"]);
    assert!(code == Some(64) && words.contains("max-rows") && words.contains("jitter"), "{code:?} {words}");
    assert_eq!(ends(&["--unknown"]).0, Some(64));
    assert_eq!(ends(&["--fault", "mood"]).0, Some(64));
    assert_eq!(ends(&["--listen", "192.0.2.1:1"]).0, Some(69), "an address that isn't ours");
}
