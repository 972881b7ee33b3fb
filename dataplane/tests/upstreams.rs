//! Upstreams that break, stall, restart or answer at length, and what clients see of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use http::Request;
use outrigger_dataplane::serve::ServeOptions;
use outrigger_dataplane::upstream::{Cause, Endpoint, NeverSent, PoolOptions, RequestBody, Timeouts};
use std::rc::Rc;
use std::time::Duration;
use support::{GET, STREAM, Upstream, chunk, proxy, proxy_with};
use tokio::task::LocalSet;
use tokio::time::Instant;

fn short() -> Timeouts {
    Timeouts {
        connect: Duration::from_millis(300),
        first_byte: Duration::from_millis(100),
        idle: Duration::from_millis(100),
        total: Duration::from_secs(5),
    }
}

fn head() -> http::request::Parts {
    Request::post("/x").body(()).unwrap().into_parts().0
}

/// Runs on a thread as services do.
async fn locally<T>(work: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(work).await
}

/// The engine's server closes idle connections whenever it likes, also right before the next request.
#[tokio::test]
async fn a_kept_connection_that_was_closed_loses_no_request() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = proxy.connect().await;
    for _ in 0..50 {
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await;
        let mut peer = upstream.accept().await;
        assert!(peer.serve_one().await);
        let (head, body) = client.response().await;
        assert!(head.starts_with("HTTP/1.1 200") && body == "hello", "{head}");
        drop(peer);
    }
}

/// Connections are kept and used again, and let go of in time.
#[tokio::test]
async fn connections_are_kept_for_a_while() {
    let upstream = Upstream::new().await;
    locally(async {
        let options =
            PoolOptions { max_idle: 2, max_idle_time: Duration::from_millis(50), ..PoolOptions::default() };
        let endpoint = Endpoint::new(&upstream.address().to_string(), options);
        let (head, timeouts) = (head(), Timeouts::default());
        let ask = || async {
            let mut body = RequestBody::full("x".into());
            let answer = endpoint.send(&head, &mut body, &timeouts, Instant::now()).await.unwrap();
            assert_eq!(answer.into_body().read(100).await.unwrap(), "hello");
        };
        let serve = async {
            let mut peer = upstream.accept().await;
            for _ in 0..3 {
                assert!(peer.serve_one().await);
            }
            peer
        };
        let (mut peer, ()) = tokio::join!(serve, async {
            for _ in 0..3 {
                ask().await;
                assert_eq!(endpoint.idle(), 1);
            }
        });
        assert_eq!(peer.rest().await, "", "an idle connection is closed in the end");
        assert_eq!(endpoint.idle(), 0);
    })
    .await;
}

#[tokio::test]
async fn errors_say_whether_anything_was_sent() {
    let upstream = Upstream::new().await;
    let address = upstream.address().to_string();
    locally(async {
        let endpoint = Endpoint::new(&address, PoolOptions::default());
        let (head, timeouts) = (head(), short());
        let mut body = RequestBody::full("hi".into());
        let mut cause = async |endpoint: &Rc<Endpoint>, answer: &str| {
            let serve = async {
                let mut peer = upstream.accept().await;
                peer.until("hi").await;
                peer.send(answer).await;
            };
            let (answer, ()) =
                tokio::join!(endpoint.send(&head, &mut body, &timeouts, Instant::now()), serve);
            match answer {
                Err(e) => e.cause(),
                Ok(answer) => answer.into_body().read(10).await.unwrap_err().cause(),
            }
        };
        assert_eq!(cause(&endpoint, "").await, Cause::BrokeBeforeFirstByte);
        assert_eq!(cause(&endpoint, "HTTP/1.1 200 OK\r\nx").await, Cause::BrokeMidStream);
        assert_eq!(
            cause(&endpoint, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await,
            Cause::BrokeMidStream
        );
        assert_eq!(cause(&endpoint, "SSH-2.0-OpenSSH_9\r\n").await, Cause::BadResponse);
        let two = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(cause(&endpoint, two).await, Cause::BadResponse);
        let long = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n01234567890";
        assert_eq!(cause(&endpoint, long).await, Cause::BadResponse);

        drop(upstream);
        let refused = endpoint.send(&head, &mut body, &timeouts, Instant::now()).await.unwrap_err();
        assert_eq!(refused.cause(), Cause::NeverSent(NeverSent::Refused));
        let nowhere = Endpoint::new("name.invalid:80", PoolOptions::default());
        let error = nowhere.send(&head, &mut body, &timeouts, Instant::now()).await.unwrap_err();
        assert!(error.never_sent() && !body.is_taken(), "{error}");
    })
    .await;
}

/// proves A.2
#[tokio::test]
async fn an_upstream_that_is_silent_is_a_504_and_one_that_is_away_a_503() {
    let upstream = Upstream::new().await;
    let address = upstream.address();
    let proxy = proxy_with(address, ServeOptions::default(), short());
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    let (head, _) = client.response().await;
    assert!(
        head.starts_with("HTTP/1.1 504") && head.contains("x-outrigger-reason: first_byte_timeout"),
        "{head}"
    );
    assert_eq!(peer.rest().await, "", "the work goes on");
    drop(upstream);
    client.send(GET).await;
    let (head, _) = client.response().await;
    assert!(
        head.starts_with("HTTP/1.1 503") && head.contains("x-outrigger-reason: connect_refused"),
        "{head}"
    );
    proxy.quiet().await;
}

/// proves A.7
#[tokio::test]
async fn a_stream_that_stalls_or_breaks_ends_with_an_error_event() {
    let upstream = Upstream::new().await;
    let proxy = proxy_with(upstream.address(), ServeOptions::default(), short());
    for (sent, cause, breaks) in [
        ("data: 1\n\n", "idle_timeout", false),
        ("data: 1\n\n", "upstream_broke_mid_stream", true),
        ("data: {\"half", "upstream_broke_mid_stream", true),
    ] {
        let mut client = proxy.connect().await;
        client.send("GET /v1/chat/completions HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut peer = upstream.accept().await;
        peer.until("\r\n\r\n").await;
        peer.send(format!("{STREAM}{}", chunk(sent))).await;
        client.until(sent).await;
        if breaks {
            drop(peer);
        }
        let rest = client.until("0\r\n\r\n").await;
        let event = rest.lines().find_map(|line| line.strip_prefix("data: ")).expect("no event");
        let event: serde_json::Value = serde_json::from_str(event).unwrap();
        assert_eq!(event.pointer("/error/code").unwrap(), cause, "{rest}");
        // The connection is whole: the next request is served on it.
        client.send(GET).await;
        let mut peer = upstream.accept().await;
        assert!(peer.serve_one().await);
        assert_eq!(client.response().await.1, "hello");
    }
    proxy.quiet().await;
}

/// proves A.7
#[tokio::test]
async fn nothing_is_appended_to_a_body_that_breaks() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        let mut peer = upstream.accept().await;
        peer.until("\r\n\r\n").await;
        peer.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{head}\r\n\r\n3\r\n{{\"a\r\n"
        ))
        .await;
        client.until("{\"a").await;
        drop(peer);
        let rest = client.rest().await;
        assert!(!rest.contains("error") && !rest.contains("0\r\n\r\n"), "{rest:?}");
    }
    proxy.quiet().await;
    assert_eq!(proxy.seen.ends(), ["broke: BrokeMidStream", "broke: BrokeMidStream"]);
}

/// Every end of an answer gives its token back: an answer, a refusal, an abort at each byte.
///
/// proves G.2
#[tokio::test]
async fn tokens_come_back_whatever_happens() {
    let upstream = Upstream::new().await;
    let proxy = proxy_with(upstream.address(), ServeOptions::default(), short());
    let answer = format!("{STREAM}{}0\r\n\r\n", chunk("data: 1\n\n"));
    for cut in (0..=answer.len()).step_by(3) {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        let mut peer = upstream.accept().await;
        peer.until("\r\n\r\n").await;
        peer.send(&answer.as_bytes()[..cut]).await;
        if cut % 2 == 0 {
            drop(peer);
        } else {
            drop(client);
        }
    }
    proxy.quiet().await;
}

/// What arrived from upstream in pieces is written once, and nothing waits for more.
#[tokio::test]
async fn streams_pass_at_once_and_whole() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    peer.send(STREAM).await;
    // The head comes before any chunk does.
    client.until("\r\n\r\n").await;
    let mut expected = String::new();
    for i in 0..100 {
        let event = format!("data: {i}\n\n");
        peer.send(chunk(&event)).await;
        client.until(&event).await;
    }
    for i in 0..1000 {
        expected.push_str(&format!("data: {i} {}\n\n", "x".repeat(i % 50)));
    }
    let all: String = expected.split_inclusive("\n\n").map(chunk).collect();
    peer.send(all + "0\r\n\r\n").await;
    // What is left of the last event's chunk.
    client.until("\r\n").await;
    let (mut got, mut pieces) = (String::new(), 0);
    loop {
        let size = client.until("\r\n").await;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let data = client.until("\r\n").await;
        assert_eq!(data.len(), size + 2);
        if size == 0 {
            break;
        }
        got.push_str(data.strip_suffix("\r\n").unwrap());
        pieces += 1;
    }
    assert!(pieces < 500, "{pieces} pieces of 1000 that came together");
    assert_eq!(got, expected);
    proxy.quiet().await;
}

/// An early answer to a large upload is passed on, and the upload stopped.
#[tokio::test]
async fn an_answer_before_the_requests_end_passes() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nfirst").await;
    let mut peer = upstream.accept().await;
    peer.until("first").await;
    peer.send("HTTP/1.1 429 Slow\r\ncontent-length: 2\r\nretry-after: 1\r\n\r\nno").await;
    let (head, body) = client.response().await;
    assert!(head.starts_with("HTTP/1.1 429") && body == "no", "{head}");
    proxy.quiet().await;
}

/// Nagle and a delayed acknowledgement cost 40 ms together wherever two small writes follow each other, as a head
/// and a first token do. The sockets themselves are asked, found among this process's by their addresses.
#[tokio::test]
async fn sockets_have_nodelay_on_both_sides() {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut peer = upstream.accept().await;
    assert!(peer.serve_one().await);
    client.response().await;
    let pairs = [
        ("accepted", proxy.data.address(), client.stream.local_addr().unwrap()),
        ("upstream", peer.stream.peer_addr().unwrap(), upstream.address()),
    ];
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let number: i32 = entry.unwrap().file_name().to_string_lossy().parse().unwrap();
        let Ok(fd) = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) else { continue };
        let socket = socket2::SockRef::from(&fd);
        let of = |address: std::io::Result<socket2::SockAddr>| address.ok().and_then(|a| a.as_socket());
        for (name, local, remote) in pairs {
            if of(socket.local_addr()) == Some(local) && of(socket.peer_addr()) == Some(remote) {
                found.push((name, socket.tcp_nodelay().unwrap()));
            }
        }
    }
    found.sort_unstable();
    assert_eq!(found, [("accepted", true), ("upstream", true)]);
}
