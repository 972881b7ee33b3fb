//! Who is let in with TLS, as whom, and what becomes of connections while certificates change.
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

use outrigger_table::{Client, ClientConfig, ClientTls, Identity, Server};
use outrigger_wire::stream::{IDENTITY_PATH, IdentityRequest, REPORTS_PATH, Report, STREAM_PATH};
use outrigger_wire::{Subscribe, Subscription};
use pki::{Desk, Pki, ask, dial, serve_tls};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{endpoint, endpoint_report, gateway, gateway_report, report, routes, until, weight};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

const HOUR: Duration = Duration::from_secs(3_600);

fn as_gateway(name: &str) -> Subscribe {
    Subscribe { subscription: Subscription::Gateway(name.into()), have: Default::default() }
}

fn as_endpoint(name: &str) -> Subscribe {
    Subscribe { subscription: Subscription::Endpoint(name.into()), have: Default::default() }
}

/// The files of a proxy with this token.
fn files(folder: &Path, bundle: &str, token: &str) -> ClientTls {
    let tls = ClientTls { ca: folder.join("ca.crt"), token: folder.join("token") };
    std::fs::write(&tls.ca, bundle).unwrap();
    std::fs::write(&tls.token, token).unwrap();
    tls
}

/// A gateway named `gateway` with a token for it.
fn proxy(folder: &TempDir, bundle: &str, servers: &[&str]) -> ClientConfig {
    ClientConfig { tls: Some(files(folder.path(), bundle, "gateway/gateway")), ..gateway(servers) }
}

/// proves O.8
#[tokio::test]
async fn without_a_certificate_there_is_nothing_but_a_certificate() {
    let (pki, stranger) = (Pki::new("ours"), Pki::new("theirs"));
    let (server, _reports) = Server::new();
    server.put(routes("a/x", 1, 0), Vec::new());
    server.complete();
    let (address, _tls, _task) = serve_tls(&server, pki.server(&pki.pem()), &Desk::new(&pki, HOUR)).await;
    let mut nobody = dial(&address, &pki.nobody()).await.unwrap();
    let (status, words) = ask(&mut nobody, STREAM_PATH, &as_gateway("g")).await.unwrap();
    assert_eq!((status, words.contains("/v1/identity")), (401, true), "{words}");
    assert_eq!(ask(&mut nobody, REPORTS_PATH, &gateway_report("g", 1)).await.unwrap().0, 401);

    // A certificate that somebody else signed, for a name of ours.
    let holder = stranger.holder(&Identity::Gateway("g".into()));
    let config = outrigger_table::tls::client_config(pki.pem().as_bytes(), Some(&holder)).unwrap();
    if let Ok(mut forged) = dial(&address, &Arc::new(config)).await {
        ask(&mut forged, STREAM_PATH, &as_gateway("g")).await.unwrap_err();
    }
    assert!(server.live_gateways().is_empty());
}

/// proves O.8
#[tokio::test]
async fn a_certificate_speaks_for_its_holder_alone() {
    let pki = Pki::new("ours");
    let (server, mut reports) = Server::new();
    server.put(routes("a/x", 1, 0), vec![endpoint("x-0", "a/x", 1), endpoint("x-1", "a/x", 1)]);
    server.complete();
    let (address, _tls, _task) = serve_tls(&server, pki.server(&pki.pem()), &Desk::new(&pki, HOUR)).await;
    let sidecar = pki.client(&Identity::Endpoint("x-0".into()));
    let front = pki.client(&Identity::Gateway("g".into()));
    let replica = pki.client(&Identity::Operator("o".to_owned()));
    for (who, subscribe, expected) in [
        (&sidecar, as_endpoint("x-0"), 200),
        (&sidecar, as_endpoint("x-1"), 403),
        (&sidecar, as_gateway("x-0"), 403),
        (&front, as_gateway("g"), 200),
        (&front, as_gateway("other"), 403),
        (&front, as_endpoint("g"), 403),
        (&replica, as_gateway("g"), 403),
    ] {
        let mut socket = dial(&address, who).await.unwrap();
        let (status, words) = ask(&mut socket, STREAM_PATH, &subscribe).await.unwrap();
        assert_eq!(status, expected, "{subscribe:?}: {words}");
    }
    for (who, sent, expected) in [
        (&sidecar, endpoint_report("x-1", 1, 1), 403),
        (&sidecar, gateway_report("x-0", 1), 403),
        (&front, gateway_report("other", 1), 403),
        (&front, endpoint_report("g", 1, 1), 403),
        (&sidecar, endpoint_report("x-0", 1, 1), 204),
        (&front, gateway_report("g", 1), 204),
        (&replica, gateway_report("other", 1), 204),
    ] {
        let mut socket = dial(&address, who).await.unwrap();
        let (status, words) = ask(&mut socket, REPORTS_PATH, &sent).await.unwrap();
        assert_eq!(status, expected, "{sent:?}: {words}");
    }
    let taken = [report(&mut reports).await, report(&mut reports).await, report(&mut reports).await];
    assert_eq!(taken, [endpoint_report("x-0", 1, 1), gateway_report("g", 1), gateway_report("other", 1)]);
}

/// Any pod of a tenant may hold a sidecar's certificate: it costs no more memory than a sidecar.
#[tokio::test]
async fn a_sidecar_may_say_little_and_a_gateway_much() {
    let pki = Pki::new("ours");
    let (server, mut reports) = Server::new();
    server.complete();
    let (address, _tls, _task) = serve_tls(&server, pki.server(&pki.pem()), &Desk::new(&pki, HOUR)).await;
    let sidecar = pki.client(&Identity::Endpoint("x-0".into()));
    let says = |sequence: u64, bytes: usize| {
        let mut report = serde_json::to_value(endpoint_report("x-0", sequence, 1)).unwrap();
        report["endpoint"]["trouble"] = json!({"reason": "WarmUpFailed", "message": "m".repeat(bytes)});
        report
    };
    let mut socket = dial(&address, &sidecar).await.unwrap();
    let (status, words) = ask(&mut socket, REPORTS_PATH, &says(1, 64 << 10)).await.unwrap();
    assert_eq!((status, words.contains("allowed: 65536 bytes")), (413, true), "{words}");
    let mut socket = dial(&address, &sidecar).await.unwrap();
    assert_eq!(ask(&mut socket, REPORTS_PATH, &says(2, 60 << 10)).await.unwrap().0, 204);
    let Report::Endpoint(kept) = report(&mut reports).await else { panic!("another's report") };
    assert_eq!((kept.sequence, kept.trouble.unwrap().message.len()), (2, 1_024));

    let mut much = serde_json::to_value(gateway_report("g", 1)).unwrap();
    much["gateway"]["fromTheFuture"] = json!("x".repeat(1 << 20));
    let mut socket = dial(&address, &pki.client(&Identity::Gateway("g".into()))).await.unwrap();
    assert_eq!(ask(&mut socket, REPORTS_PATH, &much).await.unwrap().0, 204);
    assert_eq!(report(&mut reports).await, gateway_report("g", 1));
}

/// The kubelet brings the bundle and the token late, and the first token is refused.
#[tokio::test]
async fn a_proxy_waits_for_its_files_and_for_a_token_that_is_taken() {
    let pki = Pki::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let (server, _reports) = Server::new();
    server.put(routes("a/x", 1, 0), Vec::new());
    server.complete();
    let desk = Desk::new(&pki, HOUR);
    let (address, _tls, _task) = serve_tls(&server, pki.server(&pki.pem()), &desk).await;
    let tls = ClientTls { ca: folder.path().join("ca.crt"), token: folder.path().join("token") };
    let client = Client::start(ClientConfig { tls: Some(tls.clone()), ..gateway(&[&address]) });
    let mut table = client.table();
    std::fs::write(&tls.token, "expired").unwrap();
    std::fs::write(&tls.ca, Pki::new("not yet ours").pem()).unwrap();
    std::fs::write(&tls.ca, pki.pem()).unwrap();
    assert!(!table.borrow().live && desk.issued.load(Ordering::Relaxed) == 0);
    std::fs::write(&tls.token, "gateway/gateway\n").unwrap();
    until(&mut table, "live", |t| t.live && t.routes.len() == 1).await;
}

/// The server hears of a new pod a moment after the pod asks: it is asked again at once, on the same connection.
#[tokio::test]
async fn a_server_that_cannot_tell_yet_is_asked_again_soon() {
    let pki = Pki::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let (server, _reports) = Server::new();
    server.complete();
    let desk = Desk::new(&pki, HOUR);
    desk.lags.store(3, Ordering::Relaxed);
    let (address, _tls, _task) = serve_tls(&server, pki.server(&pki.pem()), &desk).await;
    let (between, connections) =
        (TcpListener::bind(("127.0.0.1", 0)).await.unwrap(), Arc::new(AtomicU64::new(0)));
    let (at, counted) = (between.local_addr().unwrap().to_string(), Arc::clone(&connections));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = between.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut far = TcpStream::connect(&address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let client = Client::start(proxy(&folder, &pki.pem(), &[&at]));
    until(&mut client.table(), "live", |t| t.live).await;
    assert_eq!(connections.load(Ordering::Relaxed), 2, "one for the certificate, one for the stream");
}

/// A server that has a certificate of ours, but not for the name by which it was dialled; and a proxy that plays the
/// server with the certificate that it has.
#[tokio::test]
async fn a_server_must_be_the_one_that_was_called() {
    let pki = Pki::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::new(&pki, HOUR);
    let (impostor, proxy_too, server) = (Server::new().0, Server::new().0, Server::new().0);
    for server in [&impostor, &proxy_too, &server] {
        server.complete();
    }
    server.put(routes("a/x", 1, 0), Vec::new());
    let wrong_name = pki.server_for(&pki.pem(), "another.svc", rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let wrong_use = pki.server_for(&pki.pem(), pki::LOOPBACK, rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let (impostor_at, _tls, _task) = serve_tls(&impostor, wrong_name, &desk).await;
    let (proxy_at, _tls_2, _task_2) = serve_tls(&proxy_too, wrong_use, &desk).await;
    let (address, _tls_3, _task_3) = serve_tls(&server, pki.server(&pki.pem()), &desk).await;
    let client = Client::start(proxy(&folder, &pki.pem(), &[&impostor_at, &proxy_at, &address]));
    until(&mut client.table(), "live from the third", |t| t.live && t.routes.len() == 1).await;
    assert!(impostor.live_gateways().is_empty() && proxy_too.live_gateways().is_empty());
    assert_eq!(desk.issued.load(Ordering::Relaxed), 1, "no token was shown to the others");
}

/// Certificates of two seconds: several are got while one stream lives, and reports go on beyond the first one's life.
#[tokio::test]
async fn certificates_are_renewed_and_the_stream_lives_on() {
    let pki = Pki::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let (server, mut reports) = Server::new();
    server.complete();
    let desk = Desk::new(&pki, Duration::from_secs(2));
    let (address, _tls, _task) = serve_tls(&server, pki.server(&pki.pem()), &desk).await;
    let client = Client::start(proxy(&folder, &pki.pem(), &[&address]));
    let mut table = client.table();
    until(&mut table, "live", |t| t.live).await;
    table.mark_unchanged();
    let mut sequence = 0;
    while desk.issued.load(Ordering::Relaxed) < 4 {
        sequence += 1;
        client.report(gateway_report("gateway", sequence));
        report(&mut reports).await;
    }
    assert!(!table.has_changed().unwrap(), "the stream was not dialled anew");
    server.put(routes("a/x", 1, 10), Vec::new());
    until(&mut table, "a change by the old stream", |t| weight(t, "a/x") == Some(1_000)).await;
}

/// The authority is followed by another: first both are known, then the new one signs, then it is alone.
///
/// proves O.9
#[tokio::test]
async fn authorities_follow_each_other_under_a_live_stream() {
    let (old, new) = (Pki::new("old"), Pki::new("new"));
    let both = format!("{}{}", old.pem(), new.pem());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (server, mut reports) = Server::new();
    server.complete();
    let desk = Desk::new(&old, HOUR);
    let (address, tls, _task) = serve_tls(&server, old.server(&old.pem()), &desk).await;
    let first = Client::start(proxy(&folders[0], &old.pem(), &[&address]));
    let mut table = first.table();
    until(&mut table, "live", |t| t.live).await;
    table.mark_unchanged();

    std::fs::write(folders[0].path().join("ca.crt"), &both).unwrap();
    tls.send_replace(new.server(&both));
    *desk.pki.lock().unwrap() = Arc::clone(&new);
    let second = Client::start(proxy(&folders[1], &both, &[&address]));
    until(&mut second.table(), "one that came in between", |t| t.live).await;
    let issued = desk.issued.load(Ordering::Relaxed);
    // Its certificate is the old authority's, its bundle holds both: a new connection for its first report.
    first.report(gateway_report("gateway", 1));
    report(&mut reports).await;
    assert_eq!(desk.issued.load(Ordering::Relaxed), issued, "its certificate was taken");

    tls.send_replace(new.server(&new.pem()));
    let third = Client::start(proxy(&folders[2], &new.pem(), &[&address]));
    until(&mut third.table(), "one that knows the new authority alone", |t| t.live).await;
    assert!(!table.has_changed().unwrap(), "the first stream lived through all of it");
    server.put(routes("a/x", 1, 10), Vec::new());
    until(&mut table, "a change by the first stream", |t| weight(t, "a/x") == Some(1_000)).await;
}

/// More than are kept, and none ever says a word.
#[tokio::test]
async fn silent_connections_hinder_nobody() {
    let pki = Pki::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let (server, _reports) = Server::new();
    server.complete();
    let (address, _tls, _task) = serve_tls(&server, pki.server(&pki.pem()), &Desk::new(&pki, HOUR)).await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let client = Client::start(proxy(&folder, &pki.pem(), &[&address]));
    let mut table = client.table();
    let live = until(&mut table, "live", |t| t.live);
    tokio::time::timeout(Duration::from_secs(4), live).await.expect("before any of them is given up");
    drop(silent);
}

#[tokio::test]
async fn one_connection_asks_for_a_few_certificates_and_one_proxy_has_a_few_connections() {
    let pki = Pki::new("ours");
    let (server, _reports) = Server::new();
    server.complete();
    let (address, _tls, _task) = serve_tls(&server, pki.server(&pki.pem()), &Desk::new(&pki, HOUR)).await;
    let mut guessing = dial(&address, &pki.nobody()).await.unwrap();
    let request = IdentityRequest { token: "guess".to_owned(), csr: String::new() };
    for _ in 0..4 {
        let (status, words) = ask(&mut guessing, IDENTITY_PATH, &request).await.unwrap();
        assert_eq!((status, words.trim()), (401, "the token has expired"));
    }
    let (status, words) = ask(&mut guessing, IDENTITY_PATH, &request).await.unwrap();
    assert_eq!((status, words.contains("too many")), (401, true), "{words}");

    let config = pki.client(&Identity::Gateway("greedy".into()));
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut socket = dial(&address, &config).await.unwrap();
        assert_eq!(ask(&mut socket, STREAM_PATH, &as_gateway("greedy")).await.unwrap().0, 200);
        held.push(socket);
    }
    if let Ok(mut one_more) = dial(&address, &config).await {
        ask(&mut one_more, STREAM_PATH, &as_gateway("greedy")).await.unwrap_err();
    }
    let mut other = dial(&address, &pki.client(&Identity::Gateway("modest".into()))).await.unwrap();
    assert_eq!(ask(&mut other, STREAM_PATH, &as_gateway("modest")).await.unwrap().0, 200);
}
