//! The kinds of engine, each beside the simulated engine that speaks its dialect.

use crate::client::{ask, request, send, until};
use crate::world::{config, plain};
use outrigger_engine_sim as sim;
use outrigger_sidecar::Sidecar;
use outrigger_wire::{EngineKind, Period, Serving};
use serde_json::json;
use std::net::SocketAddr;
use tokio::sync::oneshot;

struct Sim {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sim {
    fn start() -> Self {
        let config = sim::Config { model: "my model".to_owned(), ..sim::Config::default() };
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    _ = sim::serve(listener, config) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    fn beside(&self, kind: EngineKind, model: &str, serving: Serving) -> Sidecar {
        let mut config = config(self.address, serving);
        config.kind = kind;
        model.clone_into(&mut config.model);
        Sidecar::start(config).unwrap()
    }

    fn fault(&self, fault: &serde_json::Value) {
        let reply = ask(self.address, "POST", "/sim/fault", &[], &fault.to_string());
        assert!(reply.status < 300, "{reply:?}");
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn status(sidecar: &Sidecar) -> serde_json::Value {
    ask(sidecar.admin(), "GET", "/status", &[], "").json()
}

fn until_state(sidecar: &Sidecar, state: &str) {
    until(state, || status(sidecar)["engine"]["state"] == state);
}

/// proves H.4
#[test]
fn each_kind_is_warmed_up_by_a_real_inference_of_its_own() {
    let sim = Sim::start();
    for (kind, model, by) in [
        (EngineKind::VLlm, "my model", "a completion of one token"),
        (EngineKind::VLlm, "", "a completion of one token"),
        (EngineKind::MLServer, "my model", "an inference of zeros"),
        (EngineKind::MLServer, "", "the server's ready endpoint alone: no model is named"),
        (EngineKind::Custom, "my model", "an inference of zeros"),
        (EngineKind::Custom, "", "a completion of one token"),
    ] {
        let sidecar = sim.beside(kind, model, plain());
        until_state(&sidecar, "ready");
        assert_eq!(status(&sidecar)["engine"]["warmedBy"], by, "{kind:?} {model:?}");
    }
    // A model that isn't there is never ready.
    let sidecar = sim.beside(EngineKind::VLlm, "other", plain());
    until_state(&sidecar, "warming");
    let reply = ask(sidecar.address(), "POST", "/v1/completions", &[], "{}");
    assert_eq!((reply.status, reply.reason()), (503, "engine_warming"));
}

#[test]
fn a_chat_streams_through() {
    let sim = Sim::start();
    let sidecar = sim.beside(EngineKind::VLlm, "my model", plain());
    until_state(&sidecar, "ready");
    let body = json!({"model": "my model", "stream": true, "max_tokens": 5,
        "messages": [{"role": "user", "content": "hello"}]});
    let reply = ask(sidecar.address(), "POST", "/v1/chat/completions", &[], &body.to_string());
    assert_eq!(reply.status, 200);
    assert!(reply.body.ends_with("data: [DONE]\n\n"), "{}", reply.body);
}

/// proves A.6
#[test]
fn a_reader_that_leaves_frees_the_engine() {
    let sim = Sim::start();
    let sidecar = sim.beside(EngineKind::VLlm, "my model", plain());
    until_state(&sidecar, "ready");
    let body =
        json!({"model": "my model", "stream": true, "max_tokens": 8000, "prompt": "hello"}).to_string();
    let running = || {
        let text = ask(sim.address, "GET", "/metrics", &[], "").body;
        let line = text.lines().find(|line| line.starts_with("vllm:num_requests_running")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let stream = send(sidecar.address(), &request("POST", "/v1/completions", &[], &body));
    until("it runs", || running() == 1.0);
    drop(stream);
    until("it is left", || running() == 0.0);
}

fn quick() -> Serving {
    let mut serving = plain();
    serving.health.stall_after = Period::secs(1);
    serving
}

/// The front of the engine answers probes and shows metrics, and nothing moves: only progress tells.
///
/// proves H.2
#[test]
fn a_stuck_core_behind_a_lively_front_is_found_out() {
    let sim = Sim::start();
    let sidecar = sim.beside(EngineKind::VLlm, "my model", quick());
    until_state(&sidecar, "ready");
    sim.fault(&json!({"fault": "stall"}));
    let body = json!({"model": "my model", "max_tokens": 5, "prompt": "hello"}).to_string();
    let reply = ask(sidecar.address(), "POST", "/v1/completions", &[], &body);
    assert_eq!((reply.status, reply.reason()), (504, "engine_stalled"));
    until("a restart is ordered", || status(&sidecar)["engine"]["restartsOrdered"] == 1);
}

/// proves H.1
#[test]
fn a_long_prefill_with_slow_probes_is_left_alone() {
    let sim = Sim::start();
    let sidecar = sim.beside(EngineKind::VLlm, "my model", quick());
    until_state(&sidecar, "ready");
    sim.fault(&json!({"fault": "busy", "factor": 50.0, "probe_ms": 10_000}));
    // Some four thousand tokens.
    let body = json!({"model": "my model", "max_tokens": 1, "prompt": "word ".repeat(3000)}).to_string();
    let reply = ask(sidecar.address(), "POST", "/v1/completions", &[], &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    let status = status(&sidecar);
    assert_eq!(
        (&status["engine"]["state"], &status["engine"]["restartsOrdered"]),
        (&json!("ready"), &json!(0))
    );
}
