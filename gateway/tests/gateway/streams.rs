//! Event streams: chunk by chunk, their ends, HTTP/2.

use crate::client::{CHAT, Client, chat};
use crate::set_up::{eventually, gateway, routes, soon};
use crate::upstream::Upstream;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use outrigger_wire::Period;
use std::io;

/// The next bytes; HTTP/2 may end a stream with an empty frame.
async fn next(body: &mut Incoming) -> Option<Bytes> {
    loop {
        let frame = soon("a chunk", body.frame()).await?;
        let data = frame.unwrap().into_data().unwrap();
        if !data.is_empty() {
            return Some(data);
        }
    }
}

/// Each chunk is passed on before the next one exists.
#[tokio::test]
async fn chunks_are_passed_on_one_by_one() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    for http2 in [false, true] {
        let events = upstream.streams();
        let mut client = match http2 {
            true => Client::connect_http2(gateway.address()).await,
            false => Client::connect(gateway.address()).await,
        };
        let response = client.begin(chat(&[])).await;
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        for i in 0..20 {
            let event = format!("data: {i}\n\n");
            events.send(Ok(event.clone().into())).await.unwrap();
            assert_eq!(next(&mut body).await.unwrap(), event);
        }
        drop(events);
        assert_eq!(next(&mut body).await, None);
    }
}

#[tokio::test]
async fn http2_clients_are_served_side_by_side() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut client = Client::connect_http2(gateway.address()).await;
    let answer = client.chat(&[("x-request-id", "two")]).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (StatusCode::OK, Some("two")));
    let events = upstream.streams();
    let mut body = client.begin(chat(&[])).await.into_body();
    events.send(Ok("data: 1\n\n".into())).await.unwrap();
    assert!(next(&mut body).await.is_some());
    assert_eq!(
        client.post("/v1/chat/completions", "{}").await.status,
        StatusCode::BAD_REQUEST,
        "beside the stream"
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_left_upstream() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let events = upstream.streams();
    let mut client = Client::connect(gateway.address()).await;
    let mut body = client.begin(chat(&[])).await.into_body();
    events.send(Ok("data: 1\n\n".into())).await.unwrap();
    assert!(next(&mut body).await.is_some());
    assert_eq!(upstream.working(), 1);
    drop((body, client));
    soon("the upstream's stream is dropped", events.closed()).await;
    eventually("no work left", async || (upstream.working() == 0).then_some(())).await;
}

/// What stops after it began ends with an error event in the protocol's shape; nothing is appended to an event.
///
/// proves A.7
#[tokio::test]
async fn a_stream_that_stops_ends_with_an_error_event() {
    let upstream = Upstream::new("a").await;
    let mut routes = routes(&[&upstream]);
    routes.timeouts.idle = Period::millis(100);
    let gateway = gateway(vec![routes]).await;
    for (broken, reason) in [(false, "idle_timeout"), (true, "upstream_broke_mid_stream")] {
        let events = upstream.streams();
        let mut client = Client::connect(gateway.address()).await;
        let mut body = client.begin(chat(&[])).await.into_body();
        events.send(Ok("data: 1\n\n".into())).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap(), "data: 1\n\n");
        if broken {
            events.send(Err(io::Error::other("as told"))).await.unwrap();
        }
        let last = next(&mut body).await.unwrap();
        let json = std::str::from_utf8(&last).unwrap().strip_prefix("data: ").unwrap().trim_end();
        let error: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(error["error"]["code"], reason);
        assert_eq!(next(&mut body).await, None, "the stream ends well-formed");
    }
}

/// A body larger than what is kept is passed on while it still comes.
#[tokio::test]
async fn large_bodies_are_streamed() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut client = Client::connect(gateway.address()).await;
    let body = format!(r#"{{"model":"m","x":"{}"}}"#, "x".repeat(3 << 20));
    assert_eq!(client.post(CHAT, body.clone()).await.status, StatusCode::OK);
    assert!(upstream.seen().pop().unwrap().body == body);
    assert_eq!(upstream.count(), 1);
    // A second model behind what was kept: to the engine it would be the one that counts.
    let twice = format!(r#"{{"model":"m","x":"{}","model":"other"}}"#, "x".repeat(3 << 20));
    let answer = client.post(CHAT, twice).await;
    assert_eq!(
        (answer.status, answer.header("x-outrigger-reason")),
        (StatusCode::BAD_REQUEST, Some("body_malformed"))
    );
    assert_eq!(upstream.count(), 1, "no engine got it whole");
}
