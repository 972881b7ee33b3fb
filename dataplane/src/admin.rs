//! The admin port: `/livez`, `/readyz`, `/metrics`, `/status`, on the control thread so that load never fails it.

use crate::crowd;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Connections at once: probes and scrapers are few, and who floods this port must not take the process's memory.
const MAX_CONNECTIONS: usize = 64;
/// The longest that one connection lasts: none is ever held on to.
const MAX_LIFE: Duration = Duration::from_secs(60);
/// From a connection or an answer to the end of the next request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer to a probe: whether, and in words.
pub type Probe = Result<String, String>;

/// What the admin port answers. Cloning gives the same.
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
    /// `live` and `ready` answer 200 or 503 with their words, `metrics` gives OpenMetrics text, `status` JSON. They
    /// run on the thread that serves and must not block.
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

    /// Serves until the future is dropped (connections that are open then live on for a minute at most). At most
    /// 64 connections, of which the one that is idle longest gives way to a new one; HTTP/1.1 only.
    pub async fn serve(self, listener: TcpListener) {
        crowd::serve(listener, MAX_CONNECTIONS, "the admin port", |stream, place| {
            let this = self.clone();
            async move {
                let each = service_fn(move |request| {
                    let _busy = place.busy();
                    let response = this.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let conn = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), each);
                let _ = tokio::time::timeout(MAX_LIFE, conn).await;
            }
        })
        .await;
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let probe = |probe: Probe| match probe {
            Ok(words) => text(StatusCode::OK, TEXT, words + "\n"),
            Err(words) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, words + "\n"),
        };
        match request.uri().path() {
            "/livez" => probe((self.live)()),
            "/readyz" => probe((self.ready)()),
            "/metrics" => text(
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                (self.metrics)(),
            ),
            "/status" => text(StatusCode::OK, "application/json", (self.status)().to_string() + "\n"),
            _ => text(
                StatusCode::NOT_FOUND,
                TEXT,
                "here are /livez, /readyz, /metrics and /status\n".to_owned(),
            ),
        }
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
