//! Routes that change while requests run: the table's stream, acknowledgements, reports.

use crate::client::Client;
use crate::set_up::{config, eventually, ready, revision, routes, soon, start};
use crate::split::canaried;
use crate::upstream::{Does, Upstream};
use http::StatusCode;
use outrigger_gateway::Gateway;
use outrigger_gateway::config::Source;
use outrigger_table::Server;
use outrigger_wire::stream::Report;
use outrigger_wire::{BasisPoints, DeploymentReport, Reference, Routes};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The planner's end, with what gateways reported last.
struct Planner {
    server: Server,
    address: SocketAddr,
    report: Arc<Mutex<Option<DeploymentReport>>>,
    _tasks: JoinSet<()>,
}

impl Planner {
    async fn new(routes: Vec<Routes>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, mut reports) = Server::new();
        server.publish(routes);
        let mut tasks = JoinSet::new();
        let serving = server.clone();
        tasks.spawn(async move { serving.serve(listener).await.unwrap() });
        let report: Arc<Mutex<Option<DeploymentReport>>> = Arc::default();
        let latest = Arc::clone(&report);
        tasks.spawn(async move {
            while let Some(report) = reports.recv().await {
                if let Report::Gateway(mut report) = report {
                    *latest.lock().unwrap() = report.deployments.remove(&"default/chat".into());
                }
            }
        });
        Self { server, address, report, _tasks: tasks }
    }

    fn source(&self) -> Source {
        Source::Table(vec![self.address.to_string()])
    }

    /// Waits for a report that is as expected.
    async fn reported(&self, what: &str, expected: impl Fn(&DeploymentReport) -> bool) -> DeploymentReport {
        eventually(what, async || self.report.lock().unwrap().clone().filter(|report| expected(report))).await
    }
}

async fn following(planner: &Planner) -> Gateway {
    start(config(planner.source())).await
}

fn sum(report: &DeploymentReport, revision: &str) -> (u64, u64, u64) {
    let strata = report.revisions.get(&revision.into()).map(|r| r.strata.values()).into_iter().flatten();
    strata.fold((0, 0, 0), |sum, s| (sum.0 + s.success, sum.1 + s.failure, sum.2 + s.backpressure))
}

/// The canary's weight becomes 0 while sessions stick to it and requests run: from the acknowledgement on nothing
/// new reaches it, and what it was doing is finished.
///
/// proves R.12
#[tokio::test]
async fn a_rollback_ends_affinity() {
    let (old, new) = (Upstream::new("old").await, Upstream::new("new").await);
    let planner = Planner::new(vec![canaried(&[&old], &[&new], 100)]).await;
    let gateway = following(&planner).await;
    let address = gateway.address();
    let mut client = Client::connect(address).await;
    assert_eq!(client.chat(&[("x-session-id", "s")]).await.by(), "new");
    let events = new.streams();
    let mut running = Client::connect(address).await;
    let running = running.begin(crate::client::chat(&[])).await;
    new.does(Does::Answers);

    let load: Vec<_> = (0..4)
        .map(|i| {
            tokio::spawn(async move {
                let (mut client, session) = (Client::connect(address).await, format!("s{i}"));
                loop {
                    let by = client.chat(&[("x-session-id", &session)]).await.by();
                    if by == "old" {
                        return client;
                    }
                }
            })
        })
        .collect();
    eventually("load on the canary", async || (new.count() > 20).then_some(())).await;
    planner.server.publish(vec![Routes { serial: 2, ..canaried(&[&old], &[&new], 0) }]);
    planner.reported("the acknowledgement", |report| report.serial == 2).await;
    let before = new.count();
    for client in load {
        let mut client = soon("a session moves", client).await.unwrap();
        for i in 0..4 {
            assert_eq!(client.chat(&[("x-session-id", &format!("s{i}"))]).await.by(), "old");
        }
    }
    assert_eq!(client.chat(&[("x-session-id", "s")]).await.by(), "old");
    // Requests that were on their way when the routes changed may have arrived after the acknowledgement was sent,
    // one on each connection at most.
    assert!(new.count() <= before + 4, "{} after {before}", new.count());
    events.send(Ok("data: last\n\n".into())).await.unwrap();
    drop(events);
    #[allow(clippy::disallowed_methods, reason = "one event")]
    let rest =
        soon("the running stream", http_body_util::BodyExt::collect(running.into_body())).await.unwrap();
    assert_eq!(rest.to_bytes(), "data: last\n\n");
}

/// The endpoint goes while the gateway hears nothing: it learns of it from another server, which never told it
/// that it was there.
///
/// proves G.3
#[tokio::test]
async fn an_endpoint_that_leaves_gets_nothing_new() {
    let (a, b) = (Upstream::new("a").await, Upstream::new("b").await);
    let first = Planner::new(vec![routes(&[&a, &b])]).await;
    let second = Planner::new(vec![]).await;
    let mut config = config(Source::Table(vec![first.address.to_string(), second.address.to_string()]));
    config.gateway = "g".into();
    let gateway = start(config).await;
    let mut client = Client::connect(gateway.address()).await;
    eventually("both serve", async || {
        client.chat(&[]).await;
        (a.count() > 0 && b.count() > 0).then_some(())
    })
    .await;
    second.server.publish(vec![routes(&[&b])]);
    drop(first);
    eventually("the other server is followed", async || {
        let status = crate::set_up::status(&gateway).await;
        let endpoints = status["routes"][0]["stable"]["endpoints"].as_array().map(Vec::len);
        (endpoints == Some(1)).then_some(())
    })
    .await;
    let before = a.count();
    for _ in 0..20 {
        assert_eq!(client.chat(&[]).await.by(), "b");
        assert_eq!(Client::connect(gateway.address()).await.chat(&[]).await.by(), "b");
    }
    assert_eq!(a.count(), before);
}

/// Programmed and observed: the serial that all threads work by, the gateway's own assignments under it, and what
/// was counted of each revision.
///
/// proves R.13
#[tokio::test]
async fn weights_are_verified_from_here() {
    let (old, new) = (Upstream::new("old").await, Upstream::new("new").await);
    let planner = Planner::new(vec![Routes { serial: 7, ..canaried(&[&old], &[&new], 30) }]).await;
    let gateway = following(&planner).await;
    let mut client = Client::connect(gateway.address()).await;
    for i in 0..100 {
        client.chat(&[("x-request-id", &format!("r{i}"))]).await;
    }
    let report = planner.reported("all counted", |r| r.assigned_stable + r.assigned_canary == 100).await;
    let (canary, stable) = (new.count() as u64, old.count() as u64);
    assert_eq!((report.serial, report.assigned_canary, report.assigned_stable), (7, canary, stable));
    let report = planner.reported("all ended", |r| sum(r, "old").0 + sum(r, "new").0 == 100).await;
    assert_eq!((sum(&report, "old"), sum(&report, "new")), ((stable, 0, 0), (canary, 0, 0)));
}

/// Attempts of an ejected canary count as its failures though stable serves them well, backpressure has its own
/// column, and stable's figures are those of its own callers.
///
/// proves R.20
#[tokio::test]
async fn each_attempt_counts_for_the_revision_that_was_assigned() {
    let (old, new) = (Upstream::new("old").await, Upstream::that("new", Does::Says(429, vec![])).await);
    let planner = Planner::new(vec![canaried(&[&old], &[&new], 100)]).await;
    let gateway = following(&planner).await;
    let mut client = Client::connect(gateway.address()).await;
    for _ in 0..5 {
        assert_eq!(client.chat(&[]).await.status, StatusCode::TOO_MANY_REQUESTS);
    }
    let report = planner.reported("backpressure", |r| sum(r, "new").2 == 5).await;
    assert_eq!(sum(&report, "new"), (0, 0, 5));

    new.does(Does::Says(500, vec![]));
    let (mut failed, mut served) = (0, 0);
    let report = loop {
        match client.chat(&[]).await.status {
            StatusCode::OK => served += 1,
            StatusCode::INTERNAL_SERVER_ERROR => failed += 1,
            other => panic!("{other}"),
        }
        if served >= 10 {
            break planner.reported("all counted", |r| sum(r, "new").1 >= failed + served).await;
        }
    };
    assert_eq!(sum(&report, "new"), (0, failed + served, 5));
    assert_eq!(sum(&report, "old"), (0, 0, 0), "it served {served} that weren't its own");
    assert_eq!(report.assigned_canary, failed + served + 5);
}

/// An overdue first token counts as slower than any reference, now.
///
/// proves R.19
#[tokio::test]
async fn a_hung_canary_is_not_an_empty_one() {
    let (old, new) = (Upstream::new("old").await, Upstream::that("new", Does::Hangs).await);
    let mut routes = canaried(&[&old], &[&new], 100);
    routes.timeouts.first_byte = outrigger_wire::Period::millis(1_500);
    routes.reference = Some(Reference { generation: 3, slow_micros: 60_000_000, beyond_micros: 75_000_000 });
    let planner = Planner::new(vec![routes]).await;
    let gateway = following(&planner).await;
    let mut client = Client::connect(gateway.address()).await;
    let asked = tokio::spawn(async move { client.chat(&[]).await.status });
    let report = planner
        .reported("in flight", |r| r.revisions.get(&"new".into()).is_some_and(|new| new.in_flight == 1))
        .await;
    assert_eq!(report.reference, 3);
    assert_eq!(soon("the answer", asked).await.unwrap(), StatusCode::GATEWAY_TIMEOUT);
    let report = planner.reported("the failure", |r| sum(r, "new").1 == 1).await;
    let stratum = report.revisions[&"new".into()].strata.values().next().unwrap().clone();
    assert_eq!((stratum.slow.events[0], stratum.slow.trials[0]), (1, 1));
    assert_eq!((stratum.beyond.events[0], stratum.first_token.count()), (1, 0));
}

/// Stops hearing the planner, starts anew, and serves what it heard last.
#[tokio::test]
async fn the_last_routes_are_served_when_no_server_answers() {
    let upstream = Upstream::new("a").await;
    let dir = tempfile::tempdir().unwrap();
    let planner = Planner::new(vec![routes(&[&upstream])]).await;
    let mut config = config(planner.source());
    config.state_dir = Some(dir.path().to_owned());
    let gateway = start(config.clone()).await;
    let mut client = Client::connect(gateway.address()).await;
    let kept = dir.path().join("table.json");
    eventually("on disk", async || {
        let text = std::fs::read_to_string(&kept).ok()?;
        text.contains(&upstream.address.to_string()).then_some(())
    })
    .await;
    drop(planner);
    assert_eq!(client.chat(&[]).await.by(), "a", "the running one serves on");
    drop((client, gateway));
    let gateway = start(config).await;
    assert_eq!(Client::connect(gateway.address()).await.chat(&[]).await.by(), "a");
    let (_, metrics) = crate::set_up::get(gateway.admin(), "/metrics").await;
    assert!(metrics.contains("outrigger_gateway_table_live 0"), "{metrics}");
}

/// Before anything was heard nothing can be said to be absent.
#[tokio::test]
async fn without_routes_it_is_unavailable_and_not_ready() {
    let planner = Planner::new(vec![]).await;
    let address = planner.address;
    drop(planner);
    let gateway = Gateway::start(config(Source::Table(vec![address.to_string()]))).await.unwrap();
    let mut client = Client::connect(gateway.address()).await;
    let answer = client.chat(&[]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("x-outrigger-reason"), Some("no_table"));
    assert_eq!(crate::set_up::get(gateway.admin(), "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(crate::set_up::get(gateway.admin(), "/livez").await.0, StatusCode::OK);
}

/// A replica that stays in the table keeps its state when something else changes: its breaker stays open.
#[tokio::test]
async fn a_replicas_state_survives_changes_of_the_table() {
    let (a, b) = (Upstream::new("a").await, Upstream::that("b", Does::Says(500, vec![])).await);
    let mut routes = routes(&[&a, &b]);
    routes.traffic.circuit_breaker.open_for = outrigger_wire::Period::secs(600);
    let planner = Planner::new(vec![routes.clone()]).await;
    let gateway = following(&planner).await;
    let mut client = Client::connect(gateway.address()).await;
    eventually("ejected", async || {
        client.chat(&[]).await;
        (b.count() == 4).then_some(())
    })
    .await;
    let new = Upstream::new("new").await;
    let changed = Routes { serial: 2, canary: revision("new", &[&new]), weight: BasisPoints::ZERO, ..routes };
    planner.server.publish(vec![changed]);
    planner.reported("the acknowledgement", |report| report.serial == 2).await;
    ready(&gateway).await;
    for _ in 0..20 {
        assert_eq!(client.chat(&[]).await.by(), "a");
    }
    assert_eq!(b.count(), 4);
}
