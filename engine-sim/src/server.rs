//! Sockets and paths.

use crate::answer::{Out, json, text};
use crate::config::Config;
use crate::engine::Engine;
use crate::fault::Fault;
use crate::{openai, tensors};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The largest request body that is read.
const MOST_BODY: usize = 64 * 1024 * 1024;
/// Connections at once; a further one waits in the backlog.
const MOST_CONNECTIONS: usize = 8192;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept (no more file descriptors, say), so that it isn't tried hotly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why an engine ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to crash.
    Crashed,
}

/// Serves on a listener until the engine crashes as it was told to, or for ever: then drop the future, and with it
/// every connection ends at once. `config` should have no [mistakes](Config::mistakes).
///
/// # Errors
///
/// None today; a listener that can't accept is tried again.
pub async fn serve(listener: TcpListener, config: Config) -> io::Result<Ended> {
    let engine = Engine::new(config);
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // A token is a small write: waiting for more would delay it.
            let _ = socket.set_nodelay(true);
            let engine = engine.clone();
            connections.spawn(async move {
                let service = service_fn(|request| respond(engine.clone(), request));
                // A connection that breaks is its client's business: nothing to do about it here.
                let _ = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = engine.drive() => {}
        () = engine.crashed.notified() => {}
    }
    Ok(Ended::Crashed)
}

async fn respond(engine: Arc<Engine>, request: Request<Incoming>) -> Result<Response<Out>, Infallible> {
    let path = request.uri().path().to_owned();
    let control = path.starts_with("/sim/");
    let wrong = engine.wrong();
    if wrong.hang && !control {
        std::future::pending::<()>().await;
    }
    if request.method() == Method::GET && !control && !wrong.probe_delay.is_zero() {
        tokio::time::sleep(wrong.probe_delay).await;
    }
    let mut response = route(&engine, &path, request).await;
    if let Ok(version) = HeaderValue::from_str(&engine.config.version) {
        response.headers_mut().insert("x-engine-version", version);
    }
    Ok(response)
}

async fn route(engine: &Arc<Engine>, path: &str, request: Request<Incoming>) -> Response<Out> {
    let segments: Vec<String> = path.split('/').skip(1).map(decoded).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let get = request.method() == Method::GET;
    match (get, segments.as_slice()) {
        (true, ["health" | "ping"]) => openai::empty(),
        (true, ["metrics"]) if engine.wrong().lost_metrics => openai::no_such_path(),
        (true, ["metrics"]) => {
            text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", engine.metrics())
        }
        (true, ["version"]) => json(StatusCode::OK, &serde_json::json!({"version": engine.config.version})),
        (true, ["load"]) => {
            let load = engine.load();
            json(StatusCode::OK, &serde_json::json!({"server_load": load.running + load.waiting}))
        }
        (true, ["v1", "models"]) => openai::models(engine),
        (true, ["sim", "state"]) => json(StatusCode::OK, &engine.state()),
        (true, ["v2"]) => tensors::server(engine),
        (true, ["v2", "health", "live" | "ready"]) => openai::empty(),
        (true, ["v1" | "v2", "models", model, rest @ ..]) => look(engine, model, rest),
        (false, _) if request.method() == Method::POST => post(engine, &segments, request).await,
        (_, ["v1", "completions"] | ["v1", "chat", "completions"] | ["sim", "fault"]) => {
            openai::no_such_method("POST")
        }
        (false, ["health" | "ping" | "metrics" | "version" | "load" | "v2"] | ["v1", "models"]) => {
            openai::no_such_method("GET")
        }
        _ => openai::no_such_path(),
    }
}

/// A model's metadata and readiness.
fn look(engine: &Engine, model: &str, rest: &[&str]) -> Response<Out> {
    let (version, rest) = match rest {
        ["versions", version, rest @ ..] => (Some(*version), rest),
        rest => (None, rest),
    };
    if let Some(unknown) = tensors::unknown(engine, model, version) {
        return unknown;
    }
    match rest {
        [] => tensors::metadata(engine),
        ["ready"] => openai::empty(),
        _ => openai::no_such_path(),
    }
}

async fn post(engine: &Arc<Engine>, segments: &[&str], request: Request<Incoming>) -> Response<Out> {
    let headers = request.headers().clone();
    let body = match read(request.into_body()).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    match segments {
        ["v1", "completions"] => openai::complete(engine, false, &body).await,
        ["v1", "chat", "completions"] => openai::complete(engine, true, &body).await,
        ["v2", "models", model, "infer"] => match tensors::unknown(engine, model, None) {
            Some(unknown) => unknown,
            None => tensors::infer(engine, &headers, &body).await,
        },
        ["v2", "models", model, "versions", version, "infer"] => {
            match tensors::unknown(engine, model, Some(version)) {
                Some(unknown) => unknown,
                None => tensors::infer(engine, &headers, &body).await,
            }
        }
        ["v1", "models", call] => match call.strip_suffix(":predict") {
            Some(model) => match tensors::unknown(engine, model, None) {
                Some(unknown) => unknown,
                None => tensors::predict(engine, &body).await,
            },
            None => openai::no_such_path(),
        },
        ["sim", "fault"] => set_fault(engine, &body),
        ["health" | "metrics"] | ["v1", "models"] => openai::no_such_method("GET"),
        _ => openai::no_such_path(),
    }
}

async fn read(body: Incoming) -> openai::Read {
    use http_body_util::{BodyExt, LengthLimitError, Limited};
    #[allow(clippy::disallowed_methods, reason = "bounded by MOST_BODY")]
    let whole = Limited::new(body, MOST_BODY).collect().await;
    match whole {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(wrong) if wrong.is::<LengthLimitError>() => Err(openai::too_large(MOST_BODY)),
        Err(wrong) => Err(tensors::error(StatusCode::BAD_REQUEST, &format!("the body broke off: {wrong}"))),
    }
}

/// `{"fault": "latency", "factor": 3, "after": 10}`, or `{"fault": "none"}`.
fn set_fault(engine: &Engine, body: &Bytes) -> Response<Out> {
    let wrong = |message: String| tensors::error(StatusCode::BAD_REQUEST, &message);
    let mut fields: serde_json::Map<String, serde_json::Value> = match serde_json::from_slice(body) {
        Ok(fields) => fields,
        Err(why) => return wrong(format!("the body is not a JSON object: {why}")),
    };
    let after = match fields.remove("after").map(|a| a.as_u64()) {
        None => 0,
        Some(Some(after)) => after,
        Some(None) => return wrong("after must be a number of requests".to_owned()),
    };
    if fields.get("fault").is_some_and(|f| f == "none") {
        engine.set_faults(|faults, _| faults.clear());
        return json(StatusCode::OK, &engine.state());
    }
    let given: Vec<String> = fields.keys().cloned().collect();
    match serde_json::from_value::<Fault>(serde_json::Value::Object(fields)) {
        Ok(fault) => {
            let known = serde_json::to_value(fault).unwrap_or_default();
            if let Some(unknown) = given.iter().find(|key| known.get(key.as_str()).is_none()) {
                return wrong(format!("the fault has no field {unknown}"));
            }
            engine.set_faults(|faults, requests| faults.set(fault, requests.saturating_add(after)));
            json(StatusCode::OK, &engine.state())
        }
        Err(why) => wrong(why.to_string()),
    }
}

/// A path's segment with `%20` and its like resolved; what isn't UTF-8 then stays as it was sent.
fn decoded(segment: &str) -> String {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let ahead = bytes.clone().take(2).collect::<Vec<_>>();
        let hex = std::str::from_utf8(&ahead).ok().filter(|h| h.len() == 2);
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(value) if byte == b'%' => {
                out.push(value);
                bytes = {
                    bytes.next();
                    bytes.next();
                    bytes
                };
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| segment.to_owned())
}
