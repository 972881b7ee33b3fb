//! Who goes to the canary.

use crate::client::Client;
use crate::set_up::{eventually, gateway, revision, routes};
use crate::upstream::{Does, Upstream};
use http::StatusCode;
use outrigger_wire::cohort::Salt;
use outrigger_wire::{BasisPoints, Routes};

/// Routes with a canary `new` at this weight.
pub fn canaried(stable: &[&Upstream], canary: &[&Upstream], percent: u8) -> Routes {
    Routes { canary: revision("new", canary), weight: BasisPoints::percent(percent), ..routes(stable) }
}

/// Every single request goes where the hash says, whichever thread takes it.
///
/// proves G.1
#[tokio::test]
async fn each_request_goes_where_the_hash_says() {
    let (old, new) = (Upstream::new("old").await, Upstream::new("new").await);
    let gateway = gateway(vec![canaried(&[&old], &[&new], 20)]).await;
    let salt = Salt::new(&"default/chat".into(), &"new".into());
    let mut canary = 0;
    for connection in 0..4 {
        let mut client = Client::connect(gateway.address()).await;
        for i in 0..150 {
            let id = format!("request-{connection}-{i}");
            let is_canary = salt.is_canary(id.as_bytes(), BasisPoints::percent(20));
            canary += u32::from(is_canary);
            let expected = if is_canary { "new" } else { "old" };
            assert_eq!(client.chat(&[("x-request-id", &id)]).await.by(), expected, "{id}");
        }
    }
    // 600 × 0.2 = 120 ± 3σ, σ = 9.8.
    assert!((90..=150).contains(&canary), "{canary}");
}

/// proves G.1
#[tokio::test]
async fn a_session_stays_on_its_side() {
    let (old, new) = (Upstream::new("old").await, Upstream::new("new").await);
    let gateway = gateway(vec![canaried(&[&old], &[&new], 50)]).await;
    let mut sides = std::collections::BTreeSet::new();
    for session in 0..12 {
        let session = format!("session-{session}");
        let cookie = format!("a=b; x-session-id={session}");
        let mut client = Client::connect(gateway.address()).await;
        let first = client.chat(&[("x-session-id", &session)]).await.by();
        for _ in 0..4 {
            assert_eq!(client.chat(&[("x-session-id", &session)]).await.by(), first);
            assert_eq!(client.chat(&[("cookie", &cookie)]).await.by(), first);
        }
        sides.insert(first);
    }
    assert_eq!(sides.len(), 2, "both sides have sessions");
}

/// A canary that can't take its callers: stable does, and none of them notices.
#[tokio::test]
async fn stable_serves_a_canarys_callers_when_it_cannot() {
    let (old, new) = (Upstream::new("old").await, Upstream::new("new").await);
    let empty = gateway(vec![canaried(&[&old], &[], 100)]).await;
    assert_eq!(Client::connect(empty.address()).await.chat(&[]).await.by(), "old");

    let gone = gateway(vec![canaried(&[&old], &[&new], 100)]).await;
    new.kill().await;
    let mut client = Client::connect(gone.address()).await;
    for _ in 0..30 {
        let answer = client.chat(&[]).await;
        assert_eq!((answer.status, answer.by().as_str()), (StatusCode::OK, "old"));
    }
}

/// A canary whose answers fail is ejected by this gateway's own breaker; its callers are then served by stable,
/// and after a while one of them tries again.
#[tokio::test]
async fn an_ejected_canary_comes_back_when_it_works() {
    let (old, new) = (Upstream::new("old").await, Upstream::that("new", Does::Says(500, vec![])).await);
    let gateway = gateway(vec![canaried(&[&old], &[&new], 100)]).await;
    let mut client = Client::connect(gateway.address()).await;
    eventually("ejected", async || (client.chat(&[]).await.status == StatusCode::OK).then_some(())).await;
    new.does(Does::Answers);
    eventually("back", async || (client.chat(&[]).await.by() == "new").then_some(())).await;
}

#[tokio::test]
async fn a_deployment_without_replicas_is_unavailable() {
    let gateway = gateway(vec![routes(&[])]).await;
    let answer = Client::connect(gateway.address()).await.chat(&[]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("x-outrigger-reason"), Some("no_endpoint"));
    assert_eq!(answer.json()["error"]["type"], "server_error");
}
