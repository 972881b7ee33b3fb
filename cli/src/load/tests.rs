//! The generator before servers that answer, shed, break off and hang.

use super::{Config, Counts, Load, Target};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

type Answer = fn(stream: bool) -> Option<Response<Full<Bytes>>>;

#[derive(Default)]
struct Seen {
    connections: AtomicU64,
    requests: AtomicU64,
}

/// A server on a free port; `None` hangs.
async fn server(answer: Answer) -> (Target, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let seen = Arc::new(Seen::default());
    let told = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            told.connections.fetch_add(1, Ordering::Relaxed);
            let told = Arc::clone(&told);
            let service = service_fn(move |request: Request<Incoming>| {
                told.requests.fetch_add(1, Ordering::Relaxed);
                async move { respond(request, answer).await }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (target, seen)
}

async fn respond(request: Request<Incoming>, answer: Answer) -> Result<Response<Full<Bytes>>, hyper::Error> {
    assert_eq!(request.uri().path(), "/v1/chat/completions");
    assert!(request.headers().contains_key("x-session-id"));
    let mut body = request.into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        read.extend_from_slice(frame?.data_ref().unwrap());
    }
    let asked: serde_json::Value = serde_json::from_slice(&read).unwrap();
    assert_eq!(asked["model"], "m");
    match answer(asked["stream"] == true) {
        Some(response) => Ok(response),
        None => std::future::pending().await,
    }
}

fn config(target: Target) -> Config {
    Config { rate: 2_000.0, ..Config::new(target, "m") }
}

/// Waits until the counts are so.
async fn until(load: &Load, so: impl Fn(&Counts) -> bool) -> Counts {
    let wait = async {
        loop {
            let counts = load.counts();
            if so(&counts) {
                return counts;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the counts come")
}

fn whole(stream: bool) -> Option<Response<Full<Bytes>>> {
    let text = if stream { "data: {}\n\ndata: [DONE]\n\n" } else { "{}" };
    Some(Response::new(Full::new(Bytes::from_static(text.as_bytes()))))
}

#[tokio::test]
async fn answers_are_counted_and_connections_kept() {
    let (target, seen) = server(whole).await;
    let load = Load::start(config(target)).unwrap();
    until(&load, |counts| counts.ok >= 200).await;
    let counts = timeout(PATIENCE, load.stop()).await.unwrap();
    assert_eq!((counts.failed, counts.shed, counts.in_flight()), (0, 0, 0));
    assert_eq!(counts.sent, counts.ok);
    assert_eq!(seen.requests.load(Ordering::Relaxed), counts.sent);
    assert_eq!(counts.duration.count(), counts.ok);
    let streamed = counts.first_token.count();
    assert!(streamed > 0 && streamed < counts.ok, "about half ask for a stream: {streamed} of {}", counts.ok);
    // How many fewer depends on how many were open at once, so on how busy the machine is.
    assert!(seen.connections.load(Ordering::Relaxed) < counts.sent, "connections are used again");
}

#[tokio::test]
async fn shedding_is_not_failing() {
    let refuse: Answer = |stream| {
        let status = if stream { 429 } else { 503 };
        let response = Response::builder().status(status).header("retry-after", "1");
        Some(response.body(Full::new(Bytes::from_static(b"{}"))).unwrap())
    };
    let (target, _) = server(refuse).await;
    let load = Load::start(config(target)).unwrap();
    let counts = until(&load, |counts| counts.shed >= 50).await;
    assert_eq!((counts.ok, counts.failed), (0, 0));
}

#[tokio::test]
async fn a_stream_that_breaks_off_politely_has_failed() {
    let cut: Answer = |_| Some(Response::new(Full::new(Bytes::from_static(b"data: {\"error\":{}}\n\n"))));
    let (target, _) = server(cut).await;
    let load = Load::start(Config { streaming: 1.0, ..config(target) }).unwrap();
    let counts = until(&load, |counts| counts.failed >= 20).await;
    assert_eq!(counts.ok, 0);
}

#[tokio::test]
async fn nobody_listening_is_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let load = Load::start(config(target)).unwrap();
    until(&load, |counts| counts.failed >= 20).await;
}

#[tokio::test]
async fn open_requests_are_bounded_and_arrivals_beyond_are_counted() {
    let (target, seen) = server(|_| None).await;
    let load = Load::start(Config { max_in_flight: 8, ..config(target) }).unwrap();
    let counts = until(&load, |counts| counts.unsent >= 50).await;
    assert_eq!((counts.sent, counts.in_flight()), (8, 8));
    assert!(seen.requests.load(Ordering::Relaxed) <= 8);
}

#[tokio::test]
async fn what_gets_no_answer_in_time_has_failed() {
    let (target, _) = server(|_| None).await;
    let load = Load::start(Config { timeout: Duration::from_millis(5), ..config(target) }).unwrap();
    until(&load, |counts| counts.failed >= 20).await;
}

#[test]
fn arrivals_keep_their_rate() {
    let mut random = fastrand::Rng::with_seed(7);
    let total: Duration = (0..10_000).map(|_| super::gap(&mut random, 100.0)).sum();
    assert!((98.0..102.0).contains(&total.as_secs_f64()), "{total:?} for 10 000 arrivals at 100/s");
}

#[test]
fn impossible_loads_and_targets_are_refused() {
    let target: Target = "http://127.0.0.1:1".parse().unwrap();
    for (rate, streaming) in
        [(0.0, 0.5), (-1.0, 0.5), (f64::NAN, 0.5), (1e9, 0.5), (1.0, 1.5), (1.0, f64::NAN)]
    {
        assert!(
            Load::start(Config { rate, streaming, ..config(target.clone()) }).is_err(),
            "{rate} {streaming}"
        );
    }
    for text in ["https://localhost", "localhost:8080", "http://", "http://h/path", "ftp://h", "not a url"] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
    assert_eq!("http://example.org".parse::<Target>().unwrap().authority(), "example.org:80");
    assert_eq!("http://[::1]:9/".parse::<Target>().unwrap().authority(), "[::1]:9");
}
