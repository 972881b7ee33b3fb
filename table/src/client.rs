//! A proxy's end.

use outrigger_wire::{DeploymentKey, EndpointConfig, Routes, Subscription, stream::Report};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Where to subscribe and as whom.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Servers, `host:port`, any of which will do; tried in turn.
    pub servers: Vec<String>,
    /// As whom.
    pub subscription: Subscription,
    /// Where the last table is kept, to serve from when no server answers.
    pub state_dir: Option<PathBuf>,
}

/// What was heard so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Routes by deployment (gateways).
    pub routes: BTreeMap<DeploymentKey, Arc<Routes>>,
    /// The sidecar's own configuration (sidecars).
    pub endpoint: Option<Arc<EndpointConfig>>,
    /// Whether the stream lives; while it doesn't, the table is the last one heard or the one on disk.
    pub live: bool,
}

/// A subscription that lasts until it is dropped: it dials, resumes and keeps the table.
#[derive(Debug)]
pub struct Client {
    table: watch::Receiver<Arc<Table>>,
}

impl Client {
    /// Starts the subscription on the current runtime.
    pub fn start(_config: ClientConfig) -> Self {
        Self { table: watch::channel(Arc::default()).1 }
    }

    /// The table, now and whenever it changes.
    pub fn table(&self) -> watch::Receiver<Arc<Table>> {
        self.table.clone()
    }

    /// Sends a report soon. Only the newest is kept: reports are cumulative.
    pub fn report(&self, _report: Report) {}
}
