//! What the tests of this package share.
#![allow(dead_code, reason = "each test program uses some of it")]

use outrigger_table::{ClientConfig, Reports, Server, Table};
use outrigger_wire::stream::Report;
use outrigger_wire::{BasisPoints, EndpointConfig, GatewayReport, Routes, Subscription};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) fn routes(name: &str, serial: u64, weight: u8) -> Routes {
    Routes {
        deployment: name.into(),
        serial,
        model: "m".to_owned(),
        aliases: Vec::new(),
        traffic: Default::default(),
        timeouts: Default::default(),
        max_queue_delay: Default::default(),
        stable: None,
        canary: None,
        weight: BasisPoints::percent(weight),
        reference: None,
    }
}

/// By its JSON: what further fields there are is no matter of the table's.
pub(crate) fn endpoint(name: &str, deployment: &str, serial: u64) -> EndpointConfig {
    let json = serde_json::json!({
        "endpoint": name, "deployment": deployment, "serial": serial, "model": "m",
        "serving": outrigger_wire::Serving::default(),
    });
    serde_json::from_value(json).unwrap()
}

/// By its JSON, likewise.
pub(crate) fn endpoint_report(name: &str, sequence: u64, serial: u64) -> Report {
    let json = serde_json::json!({
        "endpoint": name, "incarnation": 1, "sequence": sequence, "serial": serial, "kind": "Custom",
        "engine": "ready", "inFlight": 0, "queued": 0, "draining": false,
    });
    Report::Endpoint(Box::new(serde_json::from_value(json).unwrap()))
}

pub(crate) fn gateway_report(name: &str, sequence: u64) -> Report {
    let gateway = name.into();
    Report::Gateway(Box::new(GatewayReport { gateway, incarnation: 7, sequence, ..Default::default() }))
}

pub(crate) fn gateway(servers: &[&str]) -> ClientConfig {
    ClientConfig {
        servers: servers.iter().map(|s| (*s).to_owned()).collect(),
        subscription: Subscription::Gateway("gateway".into()),
        state_dir: None,
        tls: None,
    }
}

pub(crate) async fn serve(server: &Server) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = server.clone();
    (address, tokio::spawn(async move { server.serve(listener).await.unwrap() }))
}

pub(crate) async fn until(
    table: &mut watch::Receiver<Arc<Table>>,
    what: &str,
    holds: impl Fn(&Table) -> bool,
) -> Arc<Table> {
    let waited = tokio::time::timeout(Duration::from_secs(60), table.wait_for(|t| holds(t))).await;
    waited.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
}

pub(crate) async fn report(reports: &mut Reports) -> Report {
    tokio::time::timeout(Duration::from_secs(20), reports.recv()).await.expect("a report").unwrap()
}

pub(crate) fn weight(table: &Table, name: &str) -> Option<u16> {
    table.routes.get(&name.into()).map(|r| r.weight.get())
}
