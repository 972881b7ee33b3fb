//! Both ends over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use outrigger_table::{Client, ClientConfig, Server};
use outrigger_wire::stream::{Report, Version};
use outrigger_wire::{Change, Routes, Subscribe, Subscription};
use std::collections::BTreeMap;
use std::time::Duration;
use support::{endpoint, endpoint_report, gateway, gateway_report, report, routes, serve, until, weight};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn changes_are_pushed_and_removals_too() {
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    server.publish(vec![routes("a/x", 1, 0), routes("a/y", 1, 0)]);
    let client = Client::start(gateway(&[&address]));
    let mut table = client.table();
    until(&mut table, "both known", |t| t.live && t.routes.len() == 2).await;
    server.publish(vec![routes("a/x", 2, 10)]);
    let seen = until(&mut table, "weight 10", |t| weight(t, "a/x") == Some(1_000)).await;
    assert_eq!(seen.routes.len(), 1, "what is gone goes");
    assert_eq!(server.live_gateways(), ["gateway".into()]);
}

/// proves R.18
#[tokio::test]
async fn a_lower_serial_is_refused_also_from_another_server_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (new, _reports) = Server::new();
    let (old, _reports_too) = Server::new();
    let (new_at, new_task) = serve(&new).await;
    let (old_at, _old_task) = serve(&old).await;
    new.publish(vec![routes("a/x", 9, 0)]);
    old.publish(vec![routes("a/x", 8, 50), routes("a/z", 1, 0)]);
    let config = ClientConfig { state_dir: Some(folder.path().to_owned()), ..gateway(&[&new_at, &old_at]) };
    let client = Client::start(config.clone());
    let mut table = client.table();
    until(&mut table, "serial 9", |t| t.live && weight(t, "a/x") == Some(0)).await;
    new_task.abort();
    let seen = until(&mut table, "the other server's table", |t| t.live && weight(t, "a/z").is_some()).await;
    assert_eq!(weight(&seen, "a/x"), Some(0), "an old cache does not bring a weight back");
    drop(client);

    let again = Client::start(ClientConfig { servers: vec![old_at], ..config });
    let seen = until(&mut again.table(), "live again", |t| t.live && weight(t, "a/z").is_some()).await;
    assert_eq!(weight(&seen, "a/x"), Some(0), "nor after a restart");
}

/// One server lacks the deployment, the next has it as it was before the rollback: the serial is remembered over both.
/// Made anew under the same name, it waits for half a minute at most.
///
/// proves R.18
#[tokio::test(start_paused = true)]
async fn a_removal_does_not_make_an_old_serial_new() {
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    server.publish(vec![routes("a/x", 9, 0)]);
    let client = Client::start(gateway(&[&address]));
    let mut table = client.table();
    until(&mut table, "serial 9", |t| t.live && t.routes.len() == 1).await;
    server.publish(Vec::new());
    until(&mut table, "gone", |t| t.routes.is_empty()).await;
    server.publish(vec![routes("a/x", 8, 50), routes("a/y", 1, 0)]);
    let seen = until(&mut table, "the other one", |t| t.routes.contains_key(&"a/y".into())).await;
    assert_eq!(weight(&seen, "a/x"), None, "an old cache does not bring a weight back");
    tokio::time::advance(Duration::from_secs(31)).await;
    server.publish(vec![routes("a/x", 1, 0)]);
    until(&mut table, "made anew", |t| weight(t, "a/x") == Some(0)).await;
}

/// A server that has not heard of a deployment yet does not call it gone before it could have heard.
///
/// proves R.18
#[tokio::test(start_paused = true)]
async fn a_server_that_lags_behind_takes_nothing_away() {
    let ((first, _r1), (second, _r2)) = (Server::new(), Server::new());
    let ((one, task), (two, _task)) = (serve(&first).await, serve(&second).await);
    first.publish(vec![routes("a/new", 3, 0), routes("a/gone", 5, 0)]);
    second.publish(Vec::new());
    let client = Client::start(gateway(&[&one, &two]));
    let mut table = client.table();
    until(&mut table, "both", |t| t.live && t.routes.len() == 2).await;
    task.abort();
    until(&mut table, "the other server", |t| !t.live).await;
    until(&mut table, "its stream", |t| t.live).await;
    assert_eq!(table.borrow().routes.len(), 2, "nothing is taken away at once");
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(table.borrow().routes.len(), 2);
    second.publish(vec![routes("a/new", 3, 0)]);
    let after = until(&mut table, "what is really gone", |t| t.routes.len() == 1).await;
    assert!(after.routes.contains_key(&"a/new".into()));
}

#[tokio::test]
async fn a_resumed_stream_sends_only_what_differs() {
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    let many: Vec<Routes> = (0..1_000).map(|i| routes(&format!("a/{i:04}"), 1, 0)).collect();
    let have: BTreeMap<String, Version> = many
        .iter()
        .map(|r| (r.deployment.0.clone(), Version::of(r.serial, &serde_json::to_vec(r).unwrap())))
        .collect();
    let mut published = many.clone();
    published[500].serial = 2;
    server.publish(published);
    let subscribe = Subscribe { subscription: Subscription::Gateway("g".into()), have };
    let json = serde_json::to_string(&subscribe).unwrap();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let head = format!("POST /v1/stream HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", json.len());
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(json.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("synced") {
        let mut piece = [0u8; 4096];
        let n =
            tokio::time::timeout(Duration::from_secs(20), socket.read(&mut piece)).await.unwrap().unwrap();
        assert!(n > 0, "ended early: {text}");
        text.push_str(std::str::from_utf8(&piece[..n]).unwrap());
    }
    let changes: Vec<Change> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(changes.len(), 2, "one change and Synced: {text}");
    assert!(matches!(&changes[0], Change::Routes(r) if r.deployment.as_str() == "a/0500"));
}

#[tokio::test]
async fn the_last_table_outlives_the_servers() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _reports) = Server::new();
    let (address, task) = serve(&server).await;
    server.publish(vec![routes("a/x", 3, 25)]);
    let config = ClientConfig { state_dir: Some(folder.path().to_owned()), ..gateway(&[&address]) };
    let client = Client::start(config.clone());
    let mut table = client.table();
    until(&mut table, "live", |t| t.live).await;
    // It is kept beside being served.
    let kept = async {
        while !folder.path().join("table.json").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
        }
    };
    tokio::time::timeout(Duration::from_secs(10), kept).await.unwrap();
    task.abort();
    let frozen = until(&mut table, "not live", |t| !t.live).await;
    assert_eq!(weight(&frozen, "a/x"), Some(2_500));
    drop(client);

    let restarted = Client::start(config.clone());
    assert_eq!(
        weight(&restarted.table().borrow(), "a/x"),
        Some(2_500),
        "from disk, before any server answers"
    );
    drop(restarted);
    std::fs::write(folder.path().join("table.json"), "outrigger-table-1 0\n{}").unwrap();
    let damaged = Client::start(config);
    assert!(damaged.table().borrow().routes.is_empty(), "a damaged file is no table");
}

#[tokio::test]
async fn a_server_that_has_not_published_says_nothing_is_gone() {
    let (full, _reports) = Server::new();
    let (empty, _reports_too) = Server::new();
    let (full_at, task) = serve(&full).await;
    let (empty_at, _task) = serve(&empty).await;
    full.publish(vec![routes("a/x", 1, 0)]);
    let client = Client::start(gateway(&[&full_at, &empty_at]));
    let mut table = client.table();
    until(&mut table, "live", |t| t.live).await;
    task.abort();
    until(&mut table, "not live", |t| !t.live).await;
    // The stream to the empty server is open once it counts as one of its gateways.
    let open = async {
        while empty.live_gateways().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), open).await.expect("a stream to the empty server");
    empty.publish(vec![routes("a/x", 1, 0), routes("a/y", 1, 0)]);
    let seen = until(&mut table, "live again", |t| t.live).await;
    assert_eq!(seen.routes.len(), 2);
}

/// A server that accepts and then says nothing is left for the next one.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap().to_string();
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    server.publish(vec![routes("a/x", 1, 0)]);
    let client = Client::start(gateway(&[&silent_at, &address]));
    until(&mut client.table(), "live from the second", |t| t.live && t.routes.len() == 1).await;
}

#[tokio::test]
async fn garbage_harms_neither_end() {
    let garbage = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let garbage_at = garbage.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = garbage.accept().await {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"what\"}\n";
            socket.write_all(answer).await.ok();
        }
    });
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    for request in [
        "\0\0\0\0",
        "GET /v1/stream HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /v1/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n{]}",
        "POST /v1/reports HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
    }
    server.publish(vec![routes("a/x", 1, 0)]);
    let client = Client::start(gateway(&[&garbage_at, &address]));
    until(&mut client.table(), "live past the garbage", |t| t.live && t.routes.len() == 1).await;
}

#[tokio::test]
async fn reports_arrive_newest_of_each_sender() {
    let (server, mut reports) = Server::new();
    let (address, _task) = serve(&server).await;
    server.publish(Vec::new());
    let client = Client::start(gateway(&[&address]));
    (1..=100).for_each(|sequence| client.report(gateway_report("gateway", sequence)));
    let mut last = 0;
    while last < 100 {
        let Report::Gateway(got) = report(&mut reports).await else { panic!("not a gateway's") };
        assert!(got.sequence > last, "never an older one after a newer one");
        last = got.sequence;
    }
}

#[tokio::test]
async fn a_sidecar_hears_its_own_configuration_alone() {
    let (server, mut reports) = Server::new();
    let (address, _task) = serve(&server).await;
    let of = |name: &str, serial| endpoint(name, "a/x", serial);
    server.publish_endpoints(vec![of("x-0", 1), of("x-1", 5)]);
    let client = Client::start(ClientConfig {
        subscription: Subscription::Endpoint("x-0".into()),
        ..gateway(&[&address])
    });
    let mut table = client.table();
    let seen = until(&mut table, "configured", |t| t.endpoint.is_some()).await;
    assert_eq!(seen.endpoint.as_ref().unwrap().serial, 1);
    server.publish_endpoints(vec![of("x-0", 2), of("x-1", 5)]);
    until(&mut table, "serial 2", |t| t.endpoint.as_ref().is_some_and(|e| e.serial == 2)).await;
    client.report(endpoint_report("x-0", 1, 2));
    assert!(matches!(report(&mut reports).await, Report::Endpoint(got) if got.serial == 2));
}

/// A gateway that reads nothing holds one line, however often the table changes, and hears the newest in the end.
#[tokio::test]
async fn a_slow_reader_is_told_the_newest() {
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    server.publish(vec![routes("a/x", 1, 0)]);
    let json = serde_json::to_string(&Subscribe {
        subscription: Subscription::Gateway("slow".into()),
        have: BTreeMap::new(),
    })
    .unwrap();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let head = format!("POST /v1/stream HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{json}", json.len());
    socket.write_all(head.as_bytes()).await.unwrap();
    // A value of a megabyte, sixty times: more than every buffer on the way.
    for serial in 2..=60u64 {
        let mut big = routes("a/x", serial, 0);
        big.aliases = vec!["x".repeat(1 << 20)];
        server.publish(vec![big]);
        tokio::task::yield_now().await;
    }
    server.publish(vec![routes("a/x", 1_000, 42)]);
    let mut read = 0usize;
    let mut tail = Vec::new();
    while !String::from_utf8_lossy(&tail).contains("\"serial\":1000") {
        let mut piece = vec![0u8; 1 << 16];
        let n =
            tokio::time::timeout(Duration::from_secs(20), socket.read(&mut piece)).await.unwrap().unwrap();
        assert!(n > 0, "cut off before the newest came");
        read += n;
        tail.extend_from_slice(&piece[..n]);
        let from = tail.len().saturating_sub(4096);
        tail.drain(..from);
    }
    assert!(read < 40 << 20, "{read} bytes: what was overtaken was not sent");
}
