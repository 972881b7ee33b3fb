//! Attempts that fail: which are made again, which are passed on, who is sent nothing for a while.

use crate::client::{CHAT, Client, request};
use crate::set_up::{eventually, gateway, routes};
use crate::upstream::{Does, Upstream};
use http::{Method, StatusCode};

/// proves G.11
#[tokio::test]
async fn what_was_never_sent_is_sent_elsewhere() {
    let (a, gone) = (Upstream::new("a").await, Upstream::new("gone").await);
    let gateway = gateway(vec![routes(&[&a, &gone])]).await;
    let address = gateway.address();
    let mut client = Client::connect(address).await;
    // Kept connections to both, from both threads.
    for _ in 0..20 {
        assert_eq!(client.chat(&[]).await.status, StatusCode::OK);
        assert_eq!(Client::connect(address).await.chat(&[]).await.status, StatusCode::OK);
    }
    assert!(gone.count() > 0);
    gone.kill().await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..50 {
        all.spawn(async move { Client::connect(address).await.chat(&[]).await.by() });
    }
    for by in all.join_all().await {
        assert_eq!(by, "a");
    }
}

/// What an engine may have worked on is repeated only when the caller says that this is safe, and at most once.
///
/// proves G.11
#[tokio::test]
async fn what_broke_is_repeated_only_when_marked() {
    let upstreams = [
        Upstream::that("a", Does::Breaks).await,
        Upstream::that("b", Does::Breaks).await,
        Upstream::that("c", Does::Breaks).await,
    ];
    let mut routes = routes(&upstreams.each_ref());
    routes.traffic.circuit_breaker.window = 1000;
    let gateway = gateway(vec![routes]).await;
    let mut client = Client::connect(gateway.address()).await;
    let seen = || upstreams.iter().map(Upstream::count).sum::<usize>();
    let answer = client.chat(&[]).await;
    assert_eq!((answer.status, seen()), (StatusCode::BAD_GATEWAY, 1));
    let marked = request(Method::POST, CHAT, &[("idempotency-key", "k")], r#"{"model":"m"}"#);
    let answer = client.send(marked).await;
    assert_eq!((answer.status, seen()), (StatusCode::BAD_GATEWAY, 3), "not a third engine");
    assert!(answer.json()["error"]["message"].is_string());
}

/// A refusal for load is no failure: it passes through with its Retry-After, and no breaker opens.
///
/// proves H.3
#[tokio::test]
async fn backpressure_passes_and_opens_nothing() {
    let full = Upstream::that("full", Does::Says(429, vec![("retry-after", "7")])).await;
    let gateway = gateway(vec![routes(&[&full])]).await;
    let mut client = Client::connect(gateway.address()).await;
    for _ in 0..40 {
        let answer = client.chat(&[]).await;
        assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, Some("7")));
    }
    assert_eq!(full.count(), 40, "each went there");
    // Nor does a client's own mistake.
    full.does(Does::Says(400, vec![]));
    for _ in 0..40 {
        assert_eq!(client.chat(&[]).await.status, StatusCode::BAD_REQUEST);
    }
    assert_eq!(full.count(), 80);
}

/// A sidecar that says that its engine has not seen the request: another replica gets it, whatever the budget.
#[tokio::test]
async fn what_a_sidecar_could_not_pass_on_is_sent_elsewhere() {
    let a = Upstream::new("a").await;
    for reason in ["engine_gone", "draining", "connect_refused"] {
        let b = Upstream::that("b", Does::Says(503, vec![("x-outrigger-reason", reason)])).await;
        let gateway = gateway(vec![routes(&[&a, &b])]).await;
        let mut client = Client::connect(gateway.address()).await;
        eventually(reason, async || {
            assert_eq!(client.chat(&[]).await.by(), "a");
            (b.count() >= 2).then_some(())
        })
        .await;
    }
}

/// What one replica has no room for, another may.
#[tokio::test]
async fn what_was_shed_is_tried_elsewhere_within_the_budget() {
    let full = Upstream::that("full", Does::Says(429, vec![("retry-after", "1")])).await;
    let free = Upstream::new("free").await;
    let gateway = gateway(vec![routes(&[&full, &free])]).await;
    let mut client = Client::connect(gateway.address()).await;
    let (mut served, mut shed) = (0, 0);
    for _ in 0..400 {
        match client.chat(&[]).await.status {
            StatusCode::OK => served += 1,
            StatusCode::TOO_MANY_REQUESTS => shed += 1,
            other => panic!("{other}"),
        }
    }
    // Half of 400 meet the full one first; a tenth of 400 and the floor of ten may try again.
    assert!((30..=50).contains(&(full.count() - shed)), "{served} served, {shed} shed");
}

#[tokio::test]
async fn a_failing_replica_is_ejected_and_tried_again() {
    let (a, b) = (Upstream::new("a").await, Upstream::that("b", Does::Says(500, vec![])).await);
    let mut routes = routes(&[&a, &b]);
    routes.traffic.circuit_breaker.open_for = outrigger_wire::Period::secs(600);
    let gateway = gateway(vec![routes]).await;
    let mut client = Client::connect(gateway.address()).await;
    eventually("ejected on this connection's thread", async || {
        client.chat(&[]).await;
        (b.count() == 4).then_some(())
    })
    .await;
    for _ in 0..40 {
        assert_eq!(client.chat(&[]).await.by(), "a");
    }
    assert_eq!(b.count(), 4);
}

#[tokio::test]
async fn the_only_replica_is_refused_for_while_it_fails() {
    let only = Upstream::that("only", Does::Says(500, vec![])).await;
    let gateway = gateway(vec![routes(&[&only])]).await;
    let mut client = Client::connect(gateway.address()).await;
    let refused = eventually("ejected", async || {
        let answer = client.chat(&[]).await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    assert_eq!(refused.header("x-outrigger-reason"), Some("ejected"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(only.count(), 4);
    only.does(Does::Answers);
    eventually("back", async || (client.chat(&[]).await.status == StatusCode::OK).then_some(())).await;
}

/// An upstream that accepts and never answers: 504 with the reason, and the upstream is let go.
#[tokio::test]
async fn a_hanging_replica_is_a_deadline() {
    let upstream = Upstream::that("a", Does::Hangs).await;
    let mut routes = routes(&[&upstream]);
    routes.timeouts.first_byte = outrigger_wire::Period::millis(100);
    routes.max_queue_delay = outrigger_wire::Period::millis(100);
    let gateway = gateway(vec![routes]).await;
    let mut client = Client::connect(gateway.address()).await;
    let asked = std::time::Instant::now();
    let answer = client.chat(&[]).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.header("x-outrigger-reason"), Some("first_byte_timeout"));
    assert!(asked.elapsed().as_millis() >= 200, "the wait in the sidecar's queue is allowed for");
    eventually("let go", async || (upstream.working() == 0).then_some(())).await;
    assert_eq!(upstream.count(), 1, "its time was up: no second attempt");
}
