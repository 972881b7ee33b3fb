//! A server that is told one deployment at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use outrigger_table::{Client, ClientConfig, Server, Table};
use outrigger_wire::Subscription;
use std::time::{Duration, Instant};
use support::{endpoint, gateway, gateway_report, routes, serve, until, weight};

/// A replica that has just started has seen some deployments and not yet the others.
#[tokio::test]
async fn nothing_is_told_until_what_is_known_is_complete() {
    let (full, _reports) = Server::new();
    let (starting, _reports_too) = Server::new();
    let (full_at, task) = serve(&full).await;
    let (starting_at, _task) = serve(&starting).await;
    for name in ["a/x", "a/y"] {
        full.put(routes(name, 1, 0), Vec::new());
    }
    full.complete();
    let client = Client::start(gateway(&[&full_at, &starting_at]));
    let mut table = client.table();
    until(&mut table, "live", |t| t.live && t.routes.len() == 2).await;
    task.abort();
    until(&mut table, "not live", |t| !t.live).await;
    let open = async {
        while starting.live_gateways().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), open).await.expect("a stream to the one that starts");
    starting.put(routes("a/x", 2, 10), Vec::new());
    starting.put(routes("a/z", 1, 0), Vec::new());
    assert_eq!(table.borrow().routes.len(), 2, "half of what there is would be a removal of the rest");
    starting.complete();
    until(&mut table, "live again", |t| t.live && t.routes.contains_key(&"a/z".into())).await;
    // What the new one does not know may be newer than what it has heard; after a while it is gone.
    let seen = until(&mut table, "the end of a/y", |t| !t.routes.contains_key(&"a/y".into())).await;
    let names: Vec<_> = seen.routes.keys().map(|key| key.as_str()).collect();
    assert_eq!(names, ["a/x", "a/z"]);
}

#[tokio::test]
async fn what_is_put_and_removed_is_pushed() {
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    server.complete();
    let client = Client::start(gateway(&[&address]));
    let mut table = client.table();
    until(&mut table, "live", |t| t.live).await;
    server.put(routes("a/x", 1, 0), Vec::new());
    server.put(routes("a/y", 1, 0), Vec::new());
    until(&mut table, "both", |t| t.routes.len() == 2).await;
    server.remove(&"a/x".into());
    server.put(routes("a/y", 2, 10), Vec::new());
    until(&mut table, "one", |t| t.routes.len() == 1 && weight(t, "a/y") == Some(1_000)).await;
    server.put(routes("a/x", 2, 20), Vec::new());
    until(&mut table, "back", |t| weight(t, "a/x") == Some(2_000)).await;
}

#[tokio::test]
async fn a_sidecar_keeps_hearing_while_others_come_and_go() {
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    server.put(routes("a/x", 1, 0), vec![endpoint("x-0", "a/x", 1), endpoint("x-1", "a/x", 1)]);
    server.complete();
    let client = Client::start(ClientConfig {
        subscription: Subscription::Endpoint("x-0".into()),
        ..gateway(&[&address])
    });
    let mut table = client.table();
    let is_at = |table: &Table, serial| table.endpoint.as_ref().is_some_and(|e| e.serial == serial);
    until(&mut table, "serial 1", |t| is_at(t, 1)).await;
    server.put(routes("a/x", 2, 0), vec![endpoint("x-0", "a/x", 2)]);
    until(&mut table, "serial 2", |t| is_at(t, 2)).await;
    // Another deployment claims nothing of this one's.
    server.put(routes("a/y", 1, 0), vec![endpoint("y-0", "a/y", 1)]);
    server.remove(&"a/y".into());
    server.put(routes("a/x", 3, 0), vec![endpoint("x-0", "a/x", 3)]);
    until(&mut table, "serial 3", |t| is_at(t, 3)).await;
}

/// A change of one among a thousand costs what it costs alone: the time of all of them anew would be hundreds of times
/// as long.
#[tokio::test]
async fn a_put_does_not_touch_the_others() {
    let (server, _reports) = Server::new();
    let name = |i: usize| format!("a/{i:04}");
    let began = Instant::now();
    for i in 0..1_000 {
        server.put(routes(&name(i), 1, 0), Vec::new());
    }
    let all = began.elapsed();
    server.complete();
    let again = Instant::now();
    for i in 0..100 {
        server.put(routes(&name(i), 2, 0), Vec::new());
    }
    assert!(again.elapsed() < all, "a hundred of a thousand: {:?}, all: {all:?}", again.elapsed());
}

/// More go than are remembered: who was away in between is told of each all the same.
#[tokio::test]
async fn many_removals_are_all_told() {
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    let name = |i: usize| format!("a/{i:04}");
    (0..3_000).for_each(|i| server.put(routes(&name(i), 1, 0), Vec::new()));
    server.complete();
    let client = Client::start(gateway(&[&address]));
    let mut table = client.table();
    until(&mut table, "all", |t| t.routes.len() == 3_000).await;
    (0..2_999).for_each(|i| server.remove(&name(i).as_str().into()));
    let seen = until(&mut table, "the last", |t| t.routes.len() == 1).await;
    assert!(seen.routes.contains_key(&"a/2999".into()));
}

/// A gateway whose stream is at another server lives as long as its reports come from there.
#[tokio::test(start_paused = true)]
async fn a_forwarded_report_says_that_its_gateway_lives() {
    let (leader, mut reports) = Server::new();
    assert!(leader.accept(gateway_report("g", 1)));
    assert_eq!(leader.live_gateways(), ["g".into()]);
    assert_eq!(reports.recv().await, Some(gateway_report("g", 1)));
    tokio::time::advance(Duration::from_secs(5)).await;
    leader.accept(gateway_report("g", 2));
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(leader.live_gateways(), ["g".into()]);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(leader.live_gateways().is_empty(), "nothing came for longer than a gateway is silent");
}
