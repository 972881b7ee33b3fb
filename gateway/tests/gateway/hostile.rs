//! Clients that mean harm, or are broken.

use crate::client::{CHAT, Client, chat, raw, request};
use crate::set_up::{config, eventually, gateway, routes, soon, start, status};
use crate::upstream::{Does, Upstream};
use bytes::Bytes;
use http::{Method, StatusCode};
use outrigger_gateway::config::Source;
use std::fmt::Write;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn large_bodies_are_refused() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut client = Client::connect(gateway.address()).await;
    let body = format!(r#"{{"model":"m","x":"{}"}}"#, "x".repeat(4 << 20));
    for path in [CHAT, "/v2/models/m/infer"] {
        let answer = client.post(path, body.clone()).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.header("x-outrigger-reason"), Some("body_too_large"));
    }
    // Without a length beforehand, and the model not before the bound.
    let mut chunked =
        format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n");
    write!(chunked, "{:x}\r\n{}\r\n0\r\n\r\n", body.len(), body.replace("model", "other")).unwrap();
    let answer = raw(gateway.address(), chunked.as_bytes()).await;
    // The client may be cut off while it still sends; when it hears anything, it is this.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(upstream.count(), 0);
    assert_eq!(client.chat(&[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn giant_heads_are_refused() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let long = format!("GET /v1/models HTTP/1.1\r\nhost: g\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    let mut many = "GET /v1/models HTTP/1.1\r\nhost: g\r\n".to_owned();
    (0..10_000).for_each(|i| write!(many, "x-{i}: 1\r\n").unwrap());
    many.push_str("\r\n");
    for bytes in [long, many] {
        let answer = raw(gateway.address(), bytes.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert_eq!(Client::connect(gateway.address()).await.chat(&[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn two_framings_are_refused() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    for head in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "host: other\r\n",
        "x: a\r\n folded\r\n",
    ] {
        let bytes = format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\n{head}\r\n0\r\n\r\n");
        let answer = raw(gateway.address(), bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
    }
    assert_eq!(upstream.count(), 0);
}

/// The first of several requests in one packet is answered; what follows is answered or closed, and never mixed up.
#[tokio::test]
async fn pipelined_requests_are_not_mixed_up() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let one = |id: u32| {
        let body = r#"{"model":"m"}"#;
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: g\r\nx-request-id: r{id}\r\ncontent-length: {}\r\n{}\r\n{body}",
            body.len(),
            if id == 3 { "connection: close\r\n" } else { "" },
        )
    };
    let answer = raw(gateway.address(), (one(1) + &one(2) + &one(3)).as_bytes()).await;
    let ids: Vec<_> = answer.lines().filter_map(|line| line.strip_prefix("x-request-id: ")).collect();
    assert!(!ids.is_empty() && ["r1", "r2", "r3"].starts_with(&ids), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), ids.len());
}

/// Sockets that are closed half-way: nothing goes upstream, nothing stays behind.
#[tokio::test]
async fn half_a_request_leaves_nothing() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    for half in [
        "POST /v1/chat".to_owned(),
        format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-le"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-length: 100\r\n\r\n{{\"model\":\"m\""),
        format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{{\"mo"),
    ] {
        let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
        socket.write_all(half.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = soon("the end", socket.read_to_end(&mut rest)).await;
    }
    all_zero(&gateway).await;
    assert_eq!(upstream.count(), 0);
    assert_eq!(Client::connect(gateway.address()).await.chat(&[]).await.status, StatusCode::OK);
}

async fn all_zero(gateway: &outrigger_gateway::Gateway) {
    eventually("all counters at 0", async || {
        let threads = status(gateway).await["threads"].as_array().unwrap().clone();
        let zero = |thread: &serde_json::Value| thread.as_object().unwrap().values().all(|count| *count == 0);
        threads.iter().all(zero).then_some(())
    })
    .await;
}

/// Success, errors, broken upstreams, hanging ones, clients that leave before and within the answer: every path
/// gives back what it took.
///
/// proves G.2
#[tokio::test]
async fn after_a_storm_every_counter_is_zero() {
    let fine = Upstream::new("fine").await;
    let broken = Upstream::that("broken", Does::Breaks).await;
    let failing = Upstream::that("failing", Does::Says(500, vec![])).await;
    let hanging = Upstream::that("hanging", Does::Hangs).await;
    let mut routes = routes(&[&fine, &broken, &failing, &hanging]);
    // Never open: all four kinds of path stay in use.
    routes.traffic.circuit_breaker.window = 1000;
    routes.timeouts.first_byte = outrigger_wire::Period::millis(300);
    let gateway = gateway(vec![routes]).await;
    let address = gateway.address();
    let mut storm = tokio::task::JoinSet::new();
    for i in 0..200u32 {
        storm.spawn(async move {
            let mut client = Client::connect(address).await;
            let asked = match i % 4 {
                0 => request(Method::POST, CHAT, &[("idempotency-key", "k")], r#"{"model":"m"}"#),
                1 => request(Method::POST, CHAT, &[], r#"{"model":"x"}"#),
                _ => chat(&[]),
            };
            if i % 4 == 3 {
                // Leaves without waiting.
                let mut socket = TcpStream::connect(address).await.unwrap();
                let body = r#"{"model":"m"}"#;
                let head = format!(
                    "POST {CHAT} HTTP/1.1\r\nhost: g\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                socket.write_all(head.as_bytes()).await.unwrap();
            } else {
                client.send(asked).await;
            }
        });
    }
    soon("the storm's end", storm.join_all()).await;
    all_zero(&gateway).await;
    eventually("upstreams hear of it", async || (hanging.working() == 0).then_some(())).await;
}

/// More than a thread may hold is refused with 429, and only then.
#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let upstream = Upstream::that("a", Does::Hangs).await;
    let mut config = config(Source::Fixed(vec![routes(&[&upstream])]));
    config.threads = 1;
    config.limits.max_in_flight = 3;
    let gateway = start(config).await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let mut client = Client::connect(gateway.address()).await;
        waiting.spawn(async move { client.chat(&[]).await });
    }
    eventually("three upstream", async || (upstream.working() == 3).then_some(())).await;
    let mut client = Client::connect(gateway.address()).await;
    let answer = client.chat(&[]).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        (answer.header("x-outrigger-reason"), answer.header("retry-after")),
        (Some("gateway_full"), Some("1"))
    );
    drop(waiting);
    upstream.does(Does::Answers);
    eventually("room again", async || (client.chat(&[]).await.status == StatusCode::OK).then_some(())).await;
}

#[tokio::test]
async fn a_second_instance_on_one_port_fails() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut second = config(Source::Fixed(Vec::new()));
    second.listen = gateway.address();
    let error = outrigger_gateway::Gateway::start(second).await.unwrap_err();
    assert!(format!("{error:#}").contains("--listen"), "{error:#}");
    assert_eq!(Client::connect(gateway.address()).await.chat(&[]).await.status, StatusCode::OK);
}

/// A byte now and then: the client is told, in the protocol's shape, however long it would go on.
///
/// proves G.9
#[tokio::test]
async fn a_body_that_drips_is_given_up() {
    let upstream = Upstream::new("a").await;
    let mut config = config(Source::Fixed(vec![routes(&[&upstream])]));
    config.limits.patience = std::time::Duration::from_millis(100);
    let gateway = start(config).await;
    for path in [CHAT, "/v2/models/m/infer"] {
        let socket = TcpStream::connect(gateway.address()).await.unwrap();
        let (mut reads, mut writes) = socket.into_split();
        let head = format!("POST {path} HTTP/1.1\r\nhost: g\r\ncontent-length: 100000\r\n\r\n{{\"x\":\"");
        writes.write_all(head.as_bytes()).await.unwrap();
        let mut drops = tokio::time::interval(std::time::Duration::from_millis(5));
        let drips = async {
            while writes.write_all(b"x").await.is_ok() {
                drops.tick().await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = [0; 4096];
        let n = tokio::select! {
            n = soon("an answer", reads.read(&mut answer)) => n.unwrap(),
            () = drips => unreachable!("it never ends"),
        };
        let answer = String::from_utf8_lossy(&answer[..n]);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
        assert!(answer.contains("x-outrigger-reason: body_timeout\r\n"), "{path}: {answer}");
        let shape = if path == CHAT { r#"{"error":{"code":"# } else { r#"{"error":""# };
        assert!(answer.contains(shape), "{path}: {answer}");
    }
    assert_eq!(upstream.count(), 0);
}

/// proves A.2, G.9
#[tokio::test]
async fn a_model_behind_too_much_is_refused() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut client = Client::connect(gateway.address()).await;
    let body = |size: usize| format!(r#"{{"x":"{}","model":"alias"}}"#, "x".repeat(size));
    let answer = client.post(CHAT, body(7 << 19)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.header("x-outrigger-reason"), Some("model_too_late"));
    assert!(answer.text().contains("put it first"), "{}", answer.text());
    // Below the bound it may stand anywhere.
    assert_eq!(client.post(CHAT, body(2 << 20)).await.status, StatusCode::OK);
    all_zero(&gateway).await;
}

/// A body that begins and never goes on.
struct Unfinished(Option<Bytes>);

impl http_body::Body for Unfinished {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(http_body::Frame::data(data)))))
    }
}

/// proves G.9
#[tokio::test]
async fn streams_of_one_connection_share_its_room() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(gateway.address()).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let half = format!(r#"{{"x":"{}"#, "x".repeat(2 << 20));
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let body = Unfinished(Some(half.clone().into()));
        let request = http::Request::post(format!("http://g{CHAT}")).body(body).unwrap();
        answers.spawn(sender.send_request(request));
    }
    // One of the two goes beyond the share of both, and the other one then has room.
    let answer = soon("one answer", answers.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["x-outrigger-reason"], "buffers_full");
    assert_eq!(answers.len(), 1);
    // Another client isn't concerned.
    assert_eq!(Client::connect(gateway.address()).await.chat(&[]).await.status, StatusCode::OK);
}

/// A chunked body that is broken is told so, however the gateway meets it.
///
/// proves A.2, G.8
#[tokio::test]
async fn broken_chunks_are_refused_in_words() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    for body in ["fffffffffffffffff\r\n", "5\n{\"x\":\r\n", "5\r\n{\"x\":X", "zz\r\n"] {
        let bytes = format!("POST {CHAT} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let answer = raw(gateway.address(), bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
        assert!(answer.contains("x-outrigger-reason: bad_chunk\r\n"), "{body:?}: {answer}");
        assert!(answer.contains(r#"{"error":{"code":"#), "{body:?}: {answer}");
    }
    assert_eq!(upstream.count(), 0);
}
