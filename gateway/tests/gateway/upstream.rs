//! Upstreams that behave as a test tells them to.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What an upstream does with a request.
#[derive(Clone)]
pub enum Does {
    /// 200, with its own name and the model that it was asked for.
    Answers,
    /// This status with these headers.
    Says(u16, Vec<(&'static str, &'static str)>),
    /// Reads the request and never answers.
    Hangs,
    /// Reads the request and closes the connection.
    Breaks,
    /// 200, an event stream of what is put into the channel; a closed channel ends it well, `Err` breaks it off.
    Streams(Arc<Mutex<Option<mpsc::Receiver<io::Result<Bytes>>>>>),
}

/// A request that an upstream got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An upstream; dropping it closes its port and its connections soon, [`Upstream::kill`] at once.
pub struct Upstream {
    pub id: String,
    pub address: SocketAddr,
    inner: Arc<Inner>,
    accepts: JoinSet<()>,
    connections: Arc<tokio::sync::Mutex<JoinSet<()>>>,
}

struct Inner {
    id: String,
    does: Mutex<Does>,
    seen: Mutex<Vec<Seen>>,
    /// Requests being worked on.
    working: AtomicUsize,
}

struct Working(Arc<Inner>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Upstream {
    pub async fn new(id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            id: id.to_owned(),
            does: Mutex::new(Does::Answers),
            seen: Mutex::default(),
            working: AtomicUsize::new(0),
        });
        let mut accepts = JoinSet::new();
        let connections = Arc::default();
        accepts.spawn(accept(listener, Arc::clone(&inner), Arc::clone(&connections)));
        Self { id: id.to_owned(), address, inner, accepts, connections }
    }

    /// Ends as a killed process does: its port and all of its connections are closed.
    pub async fn kill(mut self) {
        self.accepts.shutdown().await;
        self.connections.lock().await.shutdown().await;
    }

    pub async fn that(id: &str, does: Does) -> Self {
        let upstream = Self::new(id).await;
        upstream.does(does);
        upstream
    }

    pub fn does(&self, does: Does) {
        *self.inner.does.lock().unwrap() = does;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.inner.seen.lock().unwrap().len()
    }

    pub fn working(&self) -> usize {
        self.inner.working.load(Ordering::SeqCst)
    }

    /// An event stream that the test feeds.
    pub fn streams(&self) -> mpsc::Sender<io::Result<Bytes>> {
        let (send, receive) = mpsc::channel(16);
        self.does(Does::Streams(Arc::new(Mutex::new(Some(receive)))));
        send
    }
}

async fn accept(listener: TcpListener, inner: Arc<Inner>, connections: Arc<tokio::sync::Mutex<JoinSet<()>>>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let inner = Arc::clone(&inner);
        let serve = service_fn(move |request| answer(Arc::clone(&inner), request));
        let mut connections = connections.lock().await;
        connections.spawn(async move {
            // A broken connection is what some tests are about.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), serve)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

type Answer = io::Result<Response<BoxBody<Bytes, io::Error>>>;

async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Answer {
    inner.working.fetch_add(1, Ordering::SeqCst);
    let working = Working(Arc::clone(&inner));
    let (head, body) = request.into_parts();
    #[allow(clippy::disallowed_methods, reason = "limited to 64 MiB")]
    let body = Limited::new(body, 64 << 20).collect().await.map_err(io::Error::other)?.to_bytes();
    let model = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|body| body.get("model").cloned())
        .unwrap_or_default();
    let seen = Seen { uri: head.uri, headers: head.headers, body };
    inner.seen.lock().unwrap().push(seen);
    let does = inner.does.lock().unwrap().clone();
    let said = json!({"upstream": inner.id, "model": model}).to_string();
    let full = Full::new(Bytes::from(said)).map_err(|never| match never {}).boxed();
    let answer = Response::builder()
        .header("content-type", "application/json")
        .header("endpoint-load-metrics", "TEXT application_utilization=0.1, named_metrics.queued=0")
        .header("keep-alive", "timeout=5");
    match does {
        Does::Answers => Ok(answer.body(full).unwrap()),
        Does::Says(status, headers) => {
            let answer =
                headers.into_iter().fold(answer.status(status), |a, (name, value)| a.header(name, value));
            Ok(answer.body(full).unwrap())
        }
        Does::Hangs => std::future::pending().await,
        Does::Breaks => Err(io::Error::other("as told")),
        Does::Streams(receive) => {
            let receive = receive.lock().unwrap().take().expect("one stream");
            let body = Events { receive, _working: working }.boxed();
            Ok(Response::builder().header("content-type", "text/event-stream").body(body).unwrap())
        }
    }
}

struct Events {
    receive: mpsc::Receiver<io::Result<Bytes>>,
    _working: Working,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.receive.poll_recv(cx).map(|item| item.map(|result| result.map(Frame::data)))
    }
}
