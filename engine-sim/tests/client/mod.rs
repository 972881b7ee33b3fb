//! A client of one request per connection, and an engine to ask.
#![allow(dead_code, reason = "each test program uses a part of it")]

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use outrigger_engine_sim::{Config, Ended, serve};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};

/// Longer than anything here takes; a bound, not an expectation.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// An engine within this process.
pub(crate) struct Sim {
    pub(crate) address: SocketAddr,
    pub(crate) task: JoinHandle<std::io::Result<Ended>>,
    connections: std::sync::Mutex<JoinSet<()>>,
}

/// An answer, all of it.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.body))
    }

    /// The data of a stream's events.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = String::from_utf8(self.body.to_vec()).unwrap();
        text.split_terminator("\n\n").map(|e| e.strip_prefix("data: ").unwrap().to_owned()).collect()
    }
}

impl Sim {
    pub(crate) async fn start(config: Config) -> Self {
        assert_eq!(config.mistakes(), Vec::<String>::new());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, config));
        Self { address, task, connections: std::sync::Mutex::default() }
    }

    /// Sends; the answer's head. Dropping the response (or this future) closes the connection.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Response<Incoming> {
        let socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        self.connections.lock().unwrap().spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path).header("host", "sim");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap()
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let whole = async {
            let response = self.send(method, path, headers, body).await;
            let (head, body) = response.into_parts();
            #[allow(clippy::disallowed_methods, reason = "our own engine's answers, in a test")]
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: head.status.as_u16(), headers: head.headers, body }
        };
        tokio::time::timeout(BOUND, whole).await.expect("an answer within the bound")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, &[("content-type", "application/json")], body.to_string().into()).await
    }

    /// Asks for `/sim/state` until it is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let state = self.get("/sim/state").await.json();
                if wanted(&state) {
                    return state;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(BOUND, asking).await {
            Ok(state) => state,
            Err(_) => panic!("still {}", self.get("/sim/state").await.json()),
        }
    }
}
