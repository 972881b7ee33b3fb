//! Before simulated engines: the protocols as they are really spoken.

use crate::client::{CHAT, Client, request};
use crate::set_up::{eventually, gateway, get, routes, soon};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use outrigger_engine_sim::{Config, serve};
use outrigger_wire::{Endpoint, RevisionRoute, Routes};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// An engine with model `m`, and routes to it.
async fn engine() -> (JoinSet<()>, SocketAddr, Routes) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let config = Config { model: "m".to_owned(), ..Config::default() };
    tasks.spawn(async move {
        serve(listener, config).await.unwrap();
    });
    let endpoint = Endpoint { id: "sim".into(), address: address.to_string() };
    let stable = Some(RevisionRoute { revision: "old".into(), endpoints: vec![endpoint] });
    (tasks, address, Routes { stable, ..routes(&[]) })
}

fn asked(stream: bool, tokens: u32) -> String {
    format!(
        r#"{{"messages":[{{"role":"user","content":"hello"}}],"stream":{stream},"max_tokens":{tokens},"ignore_eos":true,"model":"alias"}}"#
    )
}

#[tokio::test]
async fn chat_and_streams_and_tensors_pass() {
    let (_engine, _, routes) = engine().await;
    let gateway = gateway(vec![routes]).await;
    let mut client = Client::connect(gateway.address()).await;
    let whole = client.post(CHAT, asked(false, 8)).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text());
    assert_eq!((&whole.json()["model"], &whole.json()["object"]), (&"m".into(), &"chat.completion".into()));

    let streamed = client.post(CHAT, asked(true, 8)).await;
    assert_eq!(streamed.header("content-type").map(|t| t.starts_with("text/event-stream")), Some(true));
    assert!(streamed.text().trim_end().ends_with("data: [DONE]"), "{}", streamed.text());

    let tensor = r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}]}"#;
    let inferred = client.post("/v2/models/alias/infer", tensor).await;
    assert_eq!(inferred.status, StatusCode::OK, "{}", inferred.text());
    assert_eq!(inferred.json()["model_name"], "m");
}

/// The engine stops generating for a client that left in the middle of its stream.
#[tokio::test]
async fn a_client_that_leaves_ends_the_generation() {
    let (_engine, address, routes) = engine().await;
    let gateway = gateway(vec![routes]).await;
    let running = async || {
        let (_, metrics) = get(address, "/metrics").await;
        let line =
            metrics.lines().find(|line| line.starts_with("vllm:num_requests_running{")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let mut client = Client::connect(gateway.address()).await;
    let mut body = client.begin(request(Method::POST, CHAT, &[], asked(true, 8_000))).await.into_body();
    soon("a token", body.frame()).await.unwrap().unwrap();
    eventually("it runs", async || (running().await == 1.0).then_some(())).await;
    drop((body, client));
    eventually("it is over", async || (running().await == 0.0).then_some(())).await;
}
