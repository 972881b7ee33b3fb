//! A gateway for one test, and waiting for conditions.

use crate::client::Client;
use crate::upstream::Upstream;
use http::StatusCode;
use outrigger_gateway::Gateway;
use outrigger_gateway::config::{Config, Limits, Source};
use outrigger_wire::serving::Timeouts;
use outrigger_wire::traffic::CircuitBreaker;
use outrigger_wire::{BasisPoints, Endpoint, Percent, Period, RevisionRoute, Routes, Traffic};
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

/// A bound for what should come at once: so long that only what never comes reaches it.
pub const AT_MOST: Duration = Duration::from_secs(10);

/// Waits for a future that should be ready soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(AT_MOST, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {AT_MOST:?}"),
    }
}

/// Looks again and again until there is something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    soon(what, async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            looks.tick().await;
        }
    })
    .await
}

pub fn endpoint(upstream: &Upstream) -> Endpoint {
    Endpoint { id: upstream.id.as_str().into(), address: upstream.address.to_string() }
}

pub fn revision(name: &str, upstreams: &[&Upstream]) -> Option<RevisionRoute> {
    Some(RevisionRoute {
        revision: name.into(),
        endpoints: upstreams.iter().map(|upstream| endpoint(upstream)).collect(),
    })
}

/// Routes of `default/chat`, model `m`, alias `alias`, with a breaker that opens on the fourth failure.
pub fn routes(stable: &[&Upstream]) -> Routes {
    Routes {
        deployment: "default/chat".into(),
        serial: 1,
        model: "m".to_owned(),
        aliases: vec!["alias".to_owned(), "an alias/with \"marks\"".to_owned()],
        traffic: Traffic {
            circuit_breaker: CircuitBreaker {
                failure_rate: Percent::whole(50),
                window: 4,
                open_for: Period::millis(200),
            },
            ..Traffic::default()
        },
        timeouts: Timeouts::default(),
        max_queue_delay: Period::millis(0),
        stable: revision("old", stable),
        canary: None,
        weight: BasisPoints::ZERO,
        reference: None,
    }
}

pub fn config(source: Source) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        admin: ([127, 0, 0, 1], 0).into(),
        gateway: "gateway-1".into(),
        source,
        state_dir: None,
        tls: None,
        threads: 2,
        max_drain: Duration::from_secs(10),
        limits: Limits {
            max_body: 4 << 20,
            max_buffered: 64 << 20,
            max_sought: 7 << 19,
            patience: Duration::from_secs(30),
            max_connections: 1_000,
            max_in_flight: 1_000,
        },
    }
}

/// A gateway that serves these routes; ready.
pub async fn gateway(routes: Vec<Routes>) -> Gateway {
    start(config(Source::Fixed(routes))).await
}

/// A gateway with this configuration; ready.
pub async fn start(config: Config) -> Gateway {
    let gateway = Gateway::start(config).await.unwrap();
    ready(&gateway).await;
    gateway
}

pub async fn ready(gateway: &Gateway) {
    let address = gateway.address();
    eventually("health", async || (get(address, "/health").await.0 == StatusCode::OK).then_some(())).await;
}

pub async fn get(address: SocketAddr, path: &str) -> (StatusCode, String) {
    let answer = Client::connect(address).await.get(path).await;
    (answer.status, answer.text())
}

/// `/status` of the admin port.
pub async fn status(gateway: &Gateway) -> serde_json::Value {
    serde_json::from_str(&get(gateway.admin(), "/status").await.1).unwrap()
}
