//! A small engine that does what a test tells it to.

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::sync::{Semaphore, oneshot, watch};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the engine does with inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Answers with what it was sent.
    Echo,
    /// Takes everything and answers nothing, health and metrics included.
    Hang,
    /// Answers 500 to every inference.
    Fail,
    /// Answers 429 to every inference.
    Busy,
    /// Answers 400 to any request that holds the number 666.
    Picky,
    /// Answers one row too few.
    Short,
    /// Answers 200 with something that is no inference.
    Odd,
}

/// Which connections the engine closes, while it goes on listening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// Those on which nothing was ever sent, as a server closes idle ones.
    Silent,
    /// All, as a process that ends and is there again at once.
    All,
}

/// One request as the engine saw it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) mode: watch::Sender<Mode>,
    /// While closed, inference waits.
    pub(crate) open: watch::Sender<bool>,
    /// Whether warm-ups and probes pass while closed.
    pub(crate) probes_pass: AtomicBool,
    /// Lets single ones through while closed.
    gate: Semaphore,
    /// What `/metrics` shows; absent: 404.
    pub(crate) counter: Mutex<Option<u64>>,
    calls: Mutex<Vec<Call>>,
    inside: watch::Sender<usize>,
    cancelled: watch::Sender<usize>,
    close: watch::Sender<Close>,
    closed: AtomicUsize,
}

/// The engine, on a thread of its own. Dropping it is a crash: its listener and every connection close.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) told: Arc<Told>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), true)
    }

    pub(crate) fn start_at(address: SocketAddr, open: bool) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::new(Told {
            mode: watch::channel(Mode::Echo).0,
            open: watch::channel(open).0,
            probes_pass: AtomicBool::new(false),
            gate: Semaphore::new(0),
            counter: Mutex::new(None),
            calls: Mutex::default(),
            inside: watch::channel(0).0,
            cancelled: watch::channel(0).0,
            close: watch::channel(Close::Silent).0,
            closed: AtomicUsize::new(0),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let seen = told.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, seen) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, told, stop: Some(stop), thread: Some(thread) }
    }

    /// Inference as the engine saw it, without warm-ups and probes.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let calls = self.told.calls.lock().unwrap();
        calls.iter().filter(|call| !call.body.contains("outrigger-warm-up")).cloned().collect()
    }

    pub(crate) fn warm_ups(&self) -> usize {
        let calls = self.told.calls.lock().unwrap();
        calls.iter().filter(|call| call.body.contains("outrigger-warm-up")).count()
    }

    /// Inference that waits in the engine now.
    pub(crate) fn inside(&self) -> usize {
        *self.told.inside.borrow()
    }

    /// Inference that was taken back.
    pub(crate) fn cancelled(&self) -> usize {
        *self.told.cancelled.borrow()
    }

    /// Closes these connections once.
    pub(crate) fn close_connections(&self, which: Close) {
        self.told.close.send_replace(which);
    }

    /// Connections that were closed by order.
    pub(crate) fn closed(&self) -> usize {
        self.told.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        self.told.open.send_replace(false);
    }

    /// Lets one through.
    pub(crate) fn let_through(&self) {
        self.told.gate.add_permits(1);
    }

    pub(crate) fn open(&self) {
        self.told.open.send_replace(true);
    }

    pub(crate) fn mode(&self, mode: Mode) {
        self.told.mode.send_replace(mode);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

async fn serve(listener: tokio::net::TcpListener, told: Arc<Told>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let told = told.clone();
        connections.spawn(async move {
            let silent = AtomicBool::new(true);
            let service = service_fn(|request| {
                silent.store(false, Ordering::Relaxed);
                let told = told.clone();
                async move { Ok::<_, Infallible>(answer(&told, request).await) }
            });
            let mut close = told.close.subscribe();
            let ordered = async {
                while close.changed().await.is_ok() {
                    if *close.borrow_and_update() == Close::All || silent.load(Ordering::Relaxed) {
                        told.closed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            };
            let http = hyper::server::conn::http1::Builder::new();
            tokio::select! {
                _ = http.serve_connection(TokioIo::new(stream), service) => {}
                () = ordered => {}
            }
        });
    }
}

fn full(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let body = http_body_util::Full::new(body.into()).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response.headers_mut().insert("x-engine", "fake".parse().unwrap());
    response
}

/// Counts who is inside, and who was taken back.
struct Inside<'a>(&'a Told, bool);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.send_modify(|n| *n -= 1);
        if !self.1 {
            self.0.cancelled.send_modify(|n| *n += 1);
        }
    }
}

async fn answer(told: &Arc<Told>, request: Request<Incoming>) -> Response<Body> {
    if *told.mode.borrow() == Mode::Hang {
        std::future::pending::<()>().await;
    }
    let (head, body) = request.into_parts();
    let path = head.uri.to_string();
    #[allow(clippy::disallowed_methods, reason = "the sidecar under test sends it")]
    let body = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
    match (head.method.as_str(), path.as_str()) {
        ("GET", "/v2/health/ready") => return full(200, "{}"),
        ("GET", "/v2/models/m") => {
            let inputs = json!([{"name":"x","datatype":"INT64","shape":[-1,1]}]);
            return full(200, json!({"name":"m","inputs":inputs}).to_string());
        }
        ("GET", "/metrics") => {
            return match *told.counter.lock().unwrap() {
                Some(n) => full(200, format!("vllm:generation_tokens_total {n}\n")),
                None => full(404, ""),
            };
        }
        ("POST", _) => {}
        _ => return full(404, "{}"),
    }
    told.calls.lock().unwrap().push(Call { path: path.clone(), headers: head.headers, body: body.clone() });
    if path == "/stream" {
        return stream(told.clone());
    }
    told.inside.send_modify(|n| *n += 1);
    let mut inside = Inside(told, false);
    let mut open = told.open.subscribe();
    let passes = body.contains("outrigger-warm-up") && told.probes_pass.load(Ordering::Relaxed);
    tokio::select! {
        _ = open.wait_for(|open| *open) => {}
        () = std::future::ready(()), if passes => {}
        permit = told.gate.acquire() => permit.unwrap().forget(),
    }
    inside.1 = true;
    let mode = *told.mode.borrow();
    infer(mode, &body)
}

fn infer(mode: Mode, body: &str) -> Response<Body> {
    match mode {
        Mode::Hang | Mode::Echo | Mode::Short => {}
        Mode::Fail => return full(500, r#"{"error":"boom"}"#),
        Mode::Busy => {
            let mut busy = full(429, r#"{"error":"busy"}"#);
            busy.headers_mut().insert("retry-after", "7".parse().unwrap());
            return busy;
        }
        Mode::Picky if body.contains("666") => return full(400, r#"{"error":"beast"}"#),
        Mode::Picky => {}
        Mode::Odd => return full(200, r#"{"result":"odd"}"#),
    }
    let Ok(mut sent) = serde_json::from_str::<Value>(body) else {
        return full(400, r#"{"error":"not JSON"}"#);
    };
    let short = usize::from(mode == Mode::Short);
    if let Some(rows) = sent.get_mut("instances").and_then(Value::as_array_mut) {
        rows.truncate(rows.len() - short);
        // As text, so that not even this engine rounds a number.
        return full(200, format!(r#"{{"model_version":"3","predictions":{}}}"#, Value::from(rows.clone())));
    }
    let Some(input) = sent.get("inputs").and_then(|inputs| inputs.get(0)) else {
        return full(400, r#"{"error":"no inputs"}"#);
    };
    let rows = input["shape"][0].as_u64().unwrap() - short as u64;
    let mut data = input["data"].as_array().unwrap().clone();
    data.truncate(data.len() - short);
    let output = json!({"name":"y","datatype":"INT64","shape":[rows,1],"data":data});
    full(200, json!({"model_name":"m","id":"engine","outputs":[output]}).to_string())
}

/// An event now, and the next when the engine is open; then the end.
fn stream(told: Arc<Told>) -> Response<Body> {
    told.inside.send_modify(|n| *n += 1);
    let (tell, events) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut inside = Inside(&told, false);
        let _ = tell.send(Bytes::from_static(b"data: one\n\n")).await;
        let mut open = told.open.subscribe();
        tokio::select! {
            () = async { drop(open.wait_for(|open| *open).await) } => inside.1 = tell.send(Bytes::from_static(b"data: two\n\n")).await.is_ok(),
            () = tell.closed() => {}
        }
    });
    let mut response = Response::new(Events(events).boxed_unsync());
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

struct Events(tokio::sync::mpsc::Receiver<Bytes>);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}
