//! The OpenAI side of the simulated engine, over sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod client;

use client::Sim;
use hyper::Method;
use hyper::body::Bytes;
use outrigger_engine_sim::{Config, Limits, Timing};
use serde_json::{Value, json};
use std::time::Duration;

fn chat(more: Value) -> Value {
    let mut body =
        json!({"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// An engine whose answers take minutes, so that whoever waits for one is still waiting.
fn slow() -> Config {
    let iteration = Duration::from_millis(20);
    Config {
        timing: Timing { iteration, overhead: Duration::ZERO, ..Timing::default() },
        ..Config::default()
    }
}

#[tokio::test]
async fn a_streamed_chat_has_a_role_pieces_a_reason_usage_and_an_end() {
    let sim = Sim::start(Config { version: "v7".to_owned(), ..Config::default() }).await;
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let answer = sim.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(answer.headers["x-engine-version"], "v7");
    let events = answer.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    assert_eq!(chunks.len(), 1 + 8 + 1, "a role, eight tokens, usage");
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(chunks[8]["choices"][0]["finish_reason"], "length");
    assert_eq!(chunks[9]["choices"], json!([]));
    assert_eq!(chunks[9]["usage"]["completion_tokens"], 8);
    let pieces: String =
        chunks[1..9].iter().map(|c| c["choices"][0]["delta"]["content"].as_str().unwrap()).collect();

    let whole = sim.post("/v1/chat/completions", &chat(json!({}))).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], pieces.as_str(), "the same prompt says the same");
    assert_eq!(whole["usage"], chunks[9]["usage"]);
    assert_eq!(whole["system_fingerprint"], "v7");
    assert_eq!(whole["object"], "chat.completion");
}

#[tokio::test]
async fn completions_take_texts_tokens_and_several_of_them() {
    let sim = Sim::start(Config::default()).await;
    let ask = async |prompt: Value| {
        sim.post("/v1/completions", &json!({"model": "demo", "prompt": prompt, "n": 2, "max_tokens": 3}))
            .await
    };
    let one = ask(json!("Hello there")).await.json();
    assert_eq!(
        (one["choices"].as_array().unwrap().len(), &one["usage"]["completion_tokens"]),
        (2, &json!(6))
    );
    assert_ne!(one["choices"][0]["text"], one["choices"][1]["text"]);
    assert_eq!(one["usage"]["prompt_tokens"], 3);
    assert_eq!(ask(json!([1, 2, 3, 4])).await.json()["usage"]["prompt_tokens"], 4);
    let two = ask(json!(["a", "b"])).await.json();
    assert_eq!(two["choices"].as_array().unwrap().len(), 4);
    for wrong in [json!(7), json!([]), json!([[]]), json!({"a": 1}), json!([1, "a"])] {
        assert_eq!(ask(wrong.clone()).await.status, 400, "{wrong}");
    }
    let long = json!({"model": "demo", "prompt": "x", "max_tokens": 500, "ignore_eos": true, "stream": true});
    let events = sim.post("/v1/completions", &long).await.events();
    assert_eq!(events.len(), 501, "every token is an event of its own, and the end");
}

#[tokio::test]
async fn mistakes_are_told_as_vllm_tells_them() {
    let sim = Sim::start(Config::default()).await;
    let error = async |body: Value| {
        let answer = sim.post("/v1/chat/completions", &body).await;
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], answer.status);
        (answer.status, error["type"].as_str().unwrap().to_owned(), error["param"].clone())
    };
    let bad = |param: &str| (400, "BadRequestError".to_owned(), json!(param));
    assert_eq!(error(chat(json!({"model": "x"}))).await, (404, "NotFoundError".to_owned(), json!("model")));
    assert_eq!(error(chat(json!({"max_tokens": 0}))).await, bad("max_tokens"));
    assert_eq!(error(chat(json!({"max_tokens": 9000}))).await, bad("max_tokens"));
    assert_eq!(error(chat(json!({"max_tokens": -1}))).await, bad("max_tokens"));
    assert_eq!(error(chat(json!({"temperature": -0.5}))).await, bad("temperature"));
    assert_eq!(error(chat(json!({"messages": []}))).await, bad("messages"));
    assert_eq!(error(chat(json!({"messages": "hi"}))).await, bad("messages"));
    assert_eq!(error(chat(json!({"stream_options": {"include_usage": true}}))).await, bad("stream_options"));
    assert_eq!(error(chat(json!({"n": 1000}))).await, bad("n"));
    for body in ["{bad", "", "[]", "7", "\u{0}"] {
        let answer = sim.ask(Method::POST, "/v1/completions", &[], Bytes::from(body)).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["type"]),
            (400, &json!("Bad Request")),
            "{body:?}"
        );
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(sim.ask(Method::POST, "/v1/completions", &[], Bytes::from(deep)).await.status, 400);
    assert_eq!(sim.get("/v1/completions").await.status, 405);
    assert_eq!(sim.post("/v1/models", &json!({})).await.status, 405);
    assert_eq!(sim.get("/nothing/here").await.json(), json!({"detail": "Not Found"}));
    assert_eq!(sim.get("/health").await.status, 200, "and it lives on");
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_sequence_streamed_or_not() {
    let sim = Sim::start(slow()).await;
    let body = |stream| {
        Bytes::from(chat(json!({"stream": stream, "max_tokens": 8000, "ignore_eos": true})).to_string())
    };
    let streamed = sim.send(Method::POST, "/v1/chat/completions", &[], body(true)).await;
    {
        let whole = sim.send(Method::POST, "/v1/chat/completions", &[], body(false));
        let both = sim.until(|s| s["running"] == 2);
        tokio::select! {
            state = both => assert_eq!(state["in_flight"], 2),
            _ = whole => panic!("answered within minutes"),
        }
    }
    sim.until(|s| s["running"] == 1 && s["aborted"] == 1).await;
    drop(streamed);
    let state = sim.until(|s| s["running"] == 0).await;
    assert_eq!((&state["aborted"], &state["in_flight"]), (&json!(2), &json!(0)));
    assert_eq!(state["kv_cache_usage"], 0.0, "its blocks are free");
}

#[tokio::test]
async fn more_than_run_at_once_wait_and_the_gauges_say_so() {
    let limits = Limits { max_sequences: 2, ..Limits::default() };
    let sim = Sim::start(Config { limits, ..slow() }).await;
    let body = Bytes::from(chat(json!({"stream": true, "max_tokens": 8000, "ignore_eos": true})).to_string());
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(sim.send(Method::POST, "/v1/chat/completions", &[], body.clone()).await);
    }
    sim.until(|s| s["running"] == 2 && s["waiting"] == 3).await;
    let text = String::from_utf8(sim.get("/metrics").await.body.to_vec()).unwrap();
    let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} in {text}");
    has("vllm:num_requests_running{engine=\"0\",model_name=\"demo\"} 2.0");
    has("vllm:num_requests_waiting{engine=\"0\",model_name=\"demo\"} 3.0");
    assert_eq!(sim.get("/load").await.json()["server_load"], 5);
    open.remove(0);
    sim.until(|s| s["running"] == 2 && s["waiting"] == 2).await;
}

#[tokio::test]
async fn counters_add_up() {
    let sim = Sim::start(Config::default()).await;
    for _ in 0..3 {
        sim.post("/v1/chat/completions", &chat(json!({}))).await;
    }
    let models = sim.get("/v1/models").await.json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["max_model_len"]),
        (&json!("demo"), &json!(8192))
    );
    let text = String::from_utf8(sim.get("/metrics").await.body.to_vec()).unwrap();
    for line in [
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"demo\"} 24.0",
        "vllm:request_success_total{engine=\"0\",model_name=\"demo\",finished_reason=\"length\"} 3.0",
        "vllm:request_success_total{engine=\"0\",model_name=\"demo\",finished_reason=\"abort\"} 0.0",
        "vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"demo\"} 3",
        "vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"demo\"} 21",
        "vllm:e2e_request_latency_seconds_count{engine=\"0\",model_name=\"demo\"} 3",
        "vllm:iteration_tokens_total_count{engine=\"0\",model_name=\"demo\"} 24",
        "vllm:num_requests_running{engine=\"0\",model_name=\"demo\"} 0.0",
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"demo\"} 0.0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
}
