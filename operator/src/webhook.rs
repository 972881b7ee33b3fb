//! The admission webhooks: an HTTPS server that the API server asks before it stores labelled pods and
//! ModelDeployments.
//!
//! Whoever reaches its port may speak to it: sizes, times and connections are bounded, and an answer changes nothing
//! anywhere.

pub mod metrics;
pub mod patch;
mod review;
mod validate;

#[cfg(test)]
mod tests;

use crate::render::Installation;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
pub use metrics::Metrics;
use outrigger_dataplane::crowd::{self, Place};
use review::Webhook;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

/// The largest review, in bytes: an API server takes objects of 3 MiB at most, and sends the old one beside it.
const MAX_BODY: u64 = 8 << 20;
/// The most that all reviews together may have in memory while they are read, in KiB.
const MAX_READING: u32 = 16 << 10;
/// Connections at once. A new one is always taken, for labelled pods are not created while nobody answers; beyond
/// these the one goes that is idle longest.
const MAX_CONNECTIONS: usize = 256;
/// From a connection to the end of its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// From there to the first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// From an answer to the next request's head. Longer than the 90 s for which an API server keeps an idle connection:
/// were it closed from here first, a request that is on its way would fail, and with it the making of a pod.
const IDLE: Duration = Duration::from_secs(120);
/// For reading one review, the wait for room included.
const BODY: Duration = Duration::from_secs(5);

/// What the webhooks work by. Cloning gives the same.
#[derive(Clone, Debug)]
pub struct State {
    /// The installation whose sidecar is put in.
    pub installation: Arc<Installation>,
    /// What is counted.
    pub metrics: Metrics,
    reading: Arc<Semaphore>,
}

impl State {
    /// For one installation.
    pub fn new(installation: Installation) -> Self {
        let reading = Arc::new(Semaphore::new(MAX_READING as usize));
        Self { installation: Arc::new(installation), metrics: Metrics::default(), reading }
    }
}

/// Serves until the future is dropped; connections that are open then end by themselves. `tls` may change its
/// certificate while it serves, by its resolver.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, state: State) {
    let mut tls = ServerConfig::clone(&tls);
    // Bounded in time and number more simply than HTTP/2, and an API server speaks both.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    crowd::serve(listener, MAX_CONNECTIONS, "the webhooks", |stream, place| {
        connection(stream, acceptor.clone(), state.clone(), place)
    })
    .await;
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, state: State, place: Arc<Place>) {
    // Answers are one small write each.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS with a client of the webhooks"),
        Err(_) => return,
    };
    let asked = Arc::new(AtomicBool::new(false));
    let mark = Arc::clone(&asked);
    let each = service_fn(move |request| {
        mark.store(true, Ordering::Relaxed);
        let (state, place) = (state.clone(), Arc::clone(&place));
        async move {
            let _busy = place.busy();
            Ok::<_, Infallible>(answer(request, &state).await)
        }
    });
    let conn = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), each);
    let mut conn = pin!(conn);
    if timeout(FIRST_REQUEST, conn.as_mut()).await.is_err() && asked.load(Ordering::Relaxed) {
        // A client that left is no news.
        let _ = conn.await;
    }
}

async fn answer(request: Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    let Some(webhook) = Webhook::of(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "here are /inject and /validate\n");
    };
    if request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "POST\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if !is_json(request.headers()) {
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type: allowed: application/json\n");
    }
    let body = match timeout(BODY, read(request.into_body(), &state.reading)).await {
        Ok(Ok(body)) => body,
        Ok(Err(response)) => return response,
        Err(_) => return closing(text(StatusCode::REQUEST_TIMEOUT, "the review did not come within 5s\n")),
    };
    let began = Instant::now();
    let (response, result, reason) = match review::answer(webhook, &body, &state.installation) {
        Ok((review, decision)) => {
            if let Some((_, _, message)) = &decision.refusal {
                tracing::info!(webhook = webhook.as_str(), reason = decision.reason, "refused: {message}");
            }
            (json(review.to_string()), decision.result, decision.reason)
        }
        Err(message) => {
            tracing::warn!(webhook = webhook.as_str(), "{message}");
            (text(StatusCode::BAD_REQUEST, &format!("{message}\n")), "failed", "malformed")
        }
    };
    state.metrics.reviewed(webhook.as_str(), result, reason, began.elapsed());
    response
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// Reads a review, once there is room for it among those that are being read.
async fn read(body: Incoming, reading: &Semaphore) -> Result<Bytes, Response<Full<Bytes>>> {
    let too_large = || {
        let message = format!("a review of more than {MAX_BODY} bytes is not read\n");
        closing(text(StatusCode::PAYLOAD_TOO_LARGE, &message))
    };
    let size = body.size_hint().upper().unwrap_or(MAX_BODY);
    if size > MAX_BODY {
        return Err(too_large());
    }
    let room = u32::try_from(size.div_ceil(1024)).unwrap_or(MAX_READING).min(MAX_READING);
    // The semaphore is never closed; the wait for it is bounded by the caller.
    let _room = reading.acquire_many(room).await;
    let limited = Limited::new(body, MAX_BODY as usize);
    #[allow(clippy::disallowed_methods, reason = "bounded by MAX_BODY")]
    let read = limited.collect().await;
    match read {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => {
            Err(closing(text(StatusCode::BAD_REQUEST, &format!("the review broke off: {error}\n"))))
        }
    }
}

/// What is left of a body that was not read is not worth waiting for.
fn closing(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn json(text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
