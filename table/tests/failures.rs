//! What a proxy's end does when servers misbehave in ways of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use outrigger_table::{Client, Reports, Server};
use outrigger_wire::Change;
use outrigger_wire::stream::Report;
use support::{gateway, gateway_report, report, routes, serve, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server by hand: it answers every subscription with these bytes of a body and then holds the connection.
async fn answering(body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut held: Vec<TcpStream> = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0u8; 4096];
            if !matches!(socket.read(&mut request).await, Ok(1..)) {
                continue;
            }
            // Without a length: the body lasts as long as the connection.
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok();
            socket.write_all(&body).await.ok();
            held.push(socket);
        }
    });
    address
}

fn lines(changes: &[Change]) -> Vec<u8> {
    changes.iter().flat_map(|change| serde_json::to_vec(change).unwrap().into_iter().chain([b'\n'])).collect()
}

/// Half-open: the peer's machine is gone and nothing says so. The table stays and stops counting as live.
#[tokio::test(start_paused = true)]
async fn a_stream_that_falls_silent_is_no_longer_live() {
    let synced = lines(&[Change::Routes(Box::new(routes("a/x", 3, 0))), Change::Synced]);
    let address = answering(synced).await;
    let client = Client::start(gateway(&[&address]));
    let mut table = client.table();
    until(&mut table, "live", |t| t.live && t.routes.len() == 1).await;
    let frozen = until(&mut table, "not live", |t| !t.live).await;
    assert_eq!(frozen.routes.len(), 1, "what was heard last is served on");
    until(&mut table, "live again after dialling again", |t| t.live).await;
}

/// A line that never ends is cut off at its bound, and the next server is asked.
#[tokio::test]
async fn an_endless_line_is_not_collected() {
    let endless = answering(vec![b'x'; 16 << 20]).await;
    let (server, _reports) = Server::new();
    let (address, _task) = serve(&server).await;
    server.publish(vec![routes("a/x", 1, 0)]);
    let client = Client::start(gateway(&[&endless, &address]));
    until(&mut client.table(), "live from the second", |t| t.live && t.routes.len() == 1).await;
}

/// What is deleted while the stream is away is gone after resuming, and what stood still stays.
#[tokio::test]
async fn what_was_removed_in_between_is_gone_after_resuming() {
    let (before, _reports) = Server::new();
    let (after, _reports_too) = Server::new();
    let (before_at, task) = serve(&before).await;
    let (after_at, _task) = serve(&after).await;
    before.publish(vec![routes("a/x", 1, 0), routes("a/y", 1, 0)]);
    after.publish(vec![routes("a/y", 1, 0)]);
    let client = Client::start(gateway(&[&before_at, &after_at]));
    let mut table = client.table();
    until(&mut table, "both", |t| t.live && t.routes.len() == 2).await;
    task.abort();
    let seen = until(&mut table, "one", |t| t.live && t.routes.len() == 1).await;
    assert!(seen.routes.contains_key(&"a/y".into()));
}

/// A report that the leader didn't live to take is given to the next one, without being sent anew.
#[tokio::test]
async fn the_newest_report_reaches_the_next_server() {
    let (first, mut reports) = Server::new();
    let (second, mut reports_too) = Server::new();
    let (first_at, task) = serve(&first).await;
    let (second_at, _task) = serve(&second).await;
    first.publish(Vec::new());
    second.publish(Vec::new());
    let client = Client::start(gateway(&[&first_at, &second_at]));
    client.report(gateway_report("gateway", 1));
    assert_eq!(sequence(&mut reports).await, 1);
    task.abort();
    until(&mut client.table(), "away from the first", |t| !t.live).await;
    client.report(gateway_report("gateway", 2));
    client.report(gateway_report("gateway", 3));
    while sequence(&mut reports_too).await != 3 {}
}

async fn sequence(reports: &mut Reports) -> u64 {
    let Report::Gateway(report) = report(reports).await else { panic!("not a gateway's") };
    report.sequence
}
