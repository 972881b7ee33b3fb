//! The admin port: probes in words, metrics, status; bounded.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use outrigger_dataplane::admin::Admin;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::Client;
use tokio::net::TcpListener;

async fn admin() -> (SocketAddr, Arc<AtomicBool>) {
    let ready = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&ready);
    let admin = Admin::new(
        || Ok("alive".into()),
        move || if asked.load(Ordering::SeqCst) { Ok("serving".into()) } else { Err("warming up".into()) },
        || "# EOF\n".into(),
        || serde_json::json!({"listen": "127.0.0.1:1"}),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin.serve(listener));
    (address, ready)
}

#[tokio::test]
async fn probes_answer_with_status_and_words() {
    let (address, ready) = admin().await;
    let mut client = Client::to(address).await;
    for (request, status, words) in [
        ("GET /livez", 200, "alive\n"),
        ("GET /readyz", 503, "warming up\n"),
        ("GET /metrics", 200, "# EOF\n"),
        ("GET /status", 200, "{\"listen\":\"127.0.0.1:1\"}\n"),
        ("GET /shutdown", 404, "here are /livez, /readyz, /metrics and /status\n"),
        ("POST /livez", 405, "GET or HEAD\n"),
    ] {
        client.send(format!("{request} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let (head, body) = client.response().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
        assert_eq!(body, words, "{request}");
    }
    ready.store(true, Ordering::SeqCst);
    client.send("GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response().await.1, "serving\n");
}

/// Who holds connections open takes the place of those beyond the 64th only; they wait and are served in turn.
///
/// proves G.9
#[tokio::test]
async fn connections_are_bounded() {
    let (address, _) = admin().await;
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut client = Client::to(address).await;
        client.send("GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client.response().await;
        held.push(client);
    }
    let mut waiting = Client::to(address).await;
    waiting.send("GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
    drop(held.pop());
    assert_eq!(waiting.response().await.1, "alive\n");
}
