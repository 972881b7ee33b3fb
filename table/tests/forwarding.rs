//! A follower hands on to the leader what it is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "support/pki.rs"]
mod pki;
mod support;

use outrigger_table::{Client, Forwarder, Identity, Reports, Server};
use outrigger_wire::stream::Report;
use pki::{Desk, Pki, serve_tls};
use std::sync::Arc;
use std::time::Duration;
use support::{gateway, gateway_report, report, serve, until};
use tokio::sync::watch;

fn sequence(report: &Report) -> u64 {
    let Report::Gateway(report) = report else { panic!("not a gateway's") };
    report.sequence
}

/// What a follower's program does with reports.
fn hand_on(mut reports: Reports, forwarder: Arc<Forwarder>) {
    tokio::spawn(async move {
        while let Some(report) = reports.recv().await {
            forwarder.forward(report);
        }
    });
}

/// The gateway's stream is at the follower. Leadership moves; each leader counts what reaches it once.
#[tokio::test]
async fn reports_reach_whoever_leads_and_count_once() {
    let pki = Pki::new("ours");
    let desk = Desk::new(&pki, Duration::from_secs(3_600));
    let (follower, taken) = Server::new();
    let (first, mut first_reports) = Server::new();
    let (second, mut second_reports) = Server::new();
    [&follower, &first, &second].into_iter().for_each(Server::complete);
    let (follower_at, _task) = serve(&follower).await;
    let (first_at, _tls, first_task) = serve_tls(&first, pki.server(&pki.pem()), &desk).await;
    let (second_at, _tls_2, _task_2) = serve_tls(&second, pki.server(&pki.pem()), &desk).await;
    let (leader, leads) = watch::channel(None);
    let (_given, given) = watch::channel(pki.client(&Identity::Operator("follower".to_owned())));
    let forwarder = Arc::new(Forwarder::start(leads, given));
    hand_on(taken, Arc::clone(&forwarder));
    let client = Client::start(gateway(&[&follower_at]));
    until(&mut client.table(), "live", |t| t.live).await;

    // Nobody leads: the newest waits.
    client.report(gateway_report("gateway", 1));
    leader.send_replace(Some(first_at));
    assert_eq!(sequence(&report(&mut first_reports).await), 1);
    assert_eq!(first.live_gateways(), ["gateway".into()], "its stream is elsewhere, and it lives");
    // By another way as well: the same once more.
    assert!(first.accept(gateway_report("gateway", 1)));
    client.report(gateway_report("gateway", 2));
    assert_eq!(sequence(&report(&mut first_reports).await), 2, "the second 1 was not given out");

    first_task.abort();
    leader.send_replace(Some(second_at));
    let mut sent = 2;
    let moved = async {
        loop {
            sent += 1;
            client.report(gateway_report("gateway", sent));
            let short = Duration::from_millis(200);
            if let Ok(Some(report)) = tokio::time::timeout(short, second_reports.recv()).await {
                return sequence(&report);
            }
        }
    };
    let first_there = tokio::time::timeout(Duration::from_secs(20), moved).await.expect("the second hears");
    assert!(first_there > 2 && forwarder.forwarded() >= 2, "{first_there}, {}", forwarder.forwarded());
}

/// A leader that is not there: what could not be handed on is counted, and the next report says all of it.
#[tokio::test]
async fn what_is_dropped_is_counted_and_lost_to_nobody() {
    let pki = Pki::new("ours");
    let (leader, leads) = watch::channel(Some("127.0.0.1:1".to_owned()));
    let (_given, given) = watch::channel(pki.client(&Identity::Operator("follower".to_owned())));
    let forwarder = Forwarder::start(leads, given);
    forwarder.forward(gateway_report("gateway", 1));
    let dropped = async {
        while forwarder.dropped() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dropped).await.expect("a drop");
    let (server, mut reports) = Server::new();
    server.complete();
    let desk = Desk::new(&pki, Duration::from_secs(3_600));
    let (address, _tls, _task) = serve_tls(&server, pki.server(&pki.pem()), &desk).await;
    leader.send_replace(Some(address));
    forwarder.forward(gateway_report("gateway", 2));
    assert_eq!(sequence(&report(&mut reports).await), 2);
}
