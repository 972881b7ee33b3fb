//! The authorities' Secret, kept by two replicas at an API server that knows this one object.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use outrigger_operator::trust::ring::Me;
use outrigger_operator::trust::rotation::Times;
use outrigger_operator::trust::{Settings, Trust};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The Secret, or what it was before it was deleted; and the version that counts its changes.
#[derive(Clone, Debug, Default)]
struct Stored {
    version: u64,
    object: Value,
    exists: bool,
}

/// An API server with one Secret. Cheap to clone: all clones are one.
#[derive(Clone)]
struct ApiServer(Arc<watch::Sender<Stored>>);

impl ApiServer {
    async fn start() -> (Self, kube::Client) {
        let this = Self(Arc::new(watch::Sender::new(Stored { version: 1, ..Stored::default() })));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = this.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = server.clone();
                let each = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), each),
                );
            }
        });
        let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        (this, client)
    }

    fn store(&self, mut object: Value) -> Value {
        self.0.send_modify(|stored| {
            stored.version += 1;
            object["metadata"]["resourceVersion"] = json!(stored.version.to_string());
            stored.object = object.clone();
            stored.exists = true;
        });
        object
    }

    fn delete(&self) {
        self.0.send_modify(|stored| {
            stored.version += 1;
            stored.exists = false;
        });
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default().to_owned();
        #[allow(clippy::disallowed_methods, reason = "what this test sends")]
        let body = body.collect().await.unwrap().to_bytes();
        let stored = self.0.borrow().clone();
        match (head.method, stored.exists) {
            (Method::GET, _) if query.contains("watch=") => self.changed(&query).await,
            (Method::GET, true) => answer(StatusCode::OK, &stored.object),
            (Method::GET, false) => status(StatusCode::NOT_FOUND),
            (Method::POST, false) | (Method::PUT, true) => {
                let object: Value = serde_json::from_slice(&body).unwrap();
                let read = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
                match read.is_some_and(|read| read != stored.version.to_string()) {
                    true => status(StatusCode::CONFLICT),
                    false => answer(StatusCode::OK, &self.store(object)),
                }
            }
            _ => status(StatusCode::CONFLICT),
        }
    }

    /// One change after the version that was asked for, once there is one.
    async fn changed(&self, query: &str) -> Response<Full<Bytes>> {
        assert!(query.contains("metadata.name%3Doutrigger-ca"), "that one alone: {query}");
        let asked = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let asked: u64 = asked.and_then(|version| version.parse().ok()).unwrap_or(0);
        let mut changes = self.0.subscribe();
        let stored = changes.wait_for(|stored| stored.version > asked).await.unwrap().clone();
        let kind = if stored.exists { "MODIFIED" } else { "DELETED" };
        let object = json!({
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadata",
            "metadata": {"name": "outrigger-ca", "resourceVersion": stored.version.to_string()},
        });
        answer(StatusCode::OK, &json!({"type": kind, "object": object}))
    }
}

fn answer(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    response
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let words = code.canonical_reason().unwrap_or_default();
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": words, "reason": words.replace(' ', ""), "code": code.as_u16()});
    answer(code, &value)
}

async fn replica(client: &kube::Client, pod: &str) -> Trust {
    let me = Me {
        service: "outrigger-operator".to_owned(),
        namespace: "outrigger-system".to_owned(),
        pod: pod.to_owned(),
        address: None,
    };
    let settings = Settings { me, gateway: "g".to_owned(), webhook: None, times: Times::default() };
    Trust::start(client.clone(), settings).await
}

/// Replicas look at the Secret every five minutes; when somebody deletes it, as the program's own words advise, they
/// agree on a new authority at once, and what the one before signed is still taken.
///
/// proves O.9
#[tokio::test]
async fn a_deleted_secret_parts_no_replicas() {
    let (api, client) = ApiServer::start().await;
    let (first, second) = (replica(&client, "operator-0").await, replica(&client, "operator-1").await);
    let before = Arc::clone(&first.bundle().borrow());
    assert_eq!(before, *second.bundle().borrow());
    for trust in [&first, &second] {
        let trust = trust.clone();
        tokio::spawn(async move { trust.run().await });
    }
    api.delete();
    let mut after = Vec::new();
    for trust in [&first, &second] {
        let mut bundle = trust.bundle();
        let changed = tokio::time::timeout(Duration::from_secs(60), bundle.wait_for(|now| *now != before));
        after.push(changed.await.expect("long before the next look").unwrap().clone());
    }
    assert_eq!(after.first(), after.last());
    assert!(after.iter().all(|now| now.contains(before.trim())), "what was signed before is still taken");
}
