//! The webhooks over real sockets and TLS, as an API server asks them and as others might.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use super::{State, serve};
use crate::names;
use crate::render::Installation;
use k8s_openapi::ByteString;
use prometheus_client::registry::Registry;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Running webhooks, and a client that trusts them.
struct Running {
    address: SocketAddr,
    connector: TlsConnector,
    state: State,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Running {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State::new(Installation {
            namespace: "outrigger-system".to_owned(),
            table: "outrigger-operator.outrigger-system.svc:8443".to_owned(),
            sidecar_image: "outrigger/sidecar:0.1.0".to_owned(),
            pull_policy: None,
        });
        let server = tokio::spawn(serve(listener, Arc::new(server), state.clone()));
        Self { address, connector: TlsConnector::from(Arc::new(client)), state, server }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    /// One request on a connection of its own: its status and body.
    async fn raw(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect().await;
        let head = format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that has answered already may not take all of it.
        let _ = stream.write_all(body).await;
        answer(&mut stream).await
    }

    async fn post(&self, path: &str, body: &[u8]) -> (u16, String) {
        let kind = "content-type: application/json";
        let head = format!("POST {path} HTTP/1.1\r\n{kind}\r\ncontent-length: {}", body.len());
        self.raw(&head, body).await
    }

    /// The answer to a review.
    async fn review(&self, path: &str, request: Value) -> Value {
        let review =
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let (status, body) = self.post(path, review.to_string().as_bytes()).await;
        assert_eq!(status, 200, "{body}");
        let review: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(review["kind"], "AdmissionReview");
        assert_eq!(review["response"]["uid"], "the-uid");
        review["response"].clone()
    }

    fn metrics(&self) -> String {
        let mut registry = Registry::with_prefix("outrigger");
        self.state.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

/// Reads until the server closes, which ends a test that waits for it by its own time-outs.
async fn answer(stream: &mut TlsStream<TcpStream>) -> (u16, String) {
    let mut bytes = Vec::new();
    // It closes without a TLS goodbye where it has not read everything.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let status = text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn pod(spec: &Value) -> Value {
    json!({
        "uid": "the-uid",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "team",
        "operation": "CREATE",
        "dryRun": true,
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "oldObject": null,
        "object": {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "a-", "creationTimestamp": null, "labels": {names::INJECT: "true"}},
            "spec": spec,
        },
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    })
}

fn deployment(operation: &str, name: &str, spec: &Value) -> Value {
    json!({
        "uid": "the-uid",
        "resource": {"group": "outrigger.dev", "version": "v1alpha1", "resource": "modeldeployments"},
        "namespace": "team",
        "operation": operation,
        "object": {
            "apiVersion": "outrigger.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": spec,
        },
    })
}

#[tokio::test]
async fn a_labelled_pod_gets_its_sidecar_by_a_patch() {
    let running = Running::start().await;
    // `fromTheFuture` is a field of an API server that is newer than this program.
    let container = json!({
        "name": "app", "image": "example/app", "ports": [{"name": "http", "containerPort": 5000}],
        "resources": {}, "fromTheFuture": 1,
    });
    let request =
        pod(&json!({"containers": [container], "fromTheFuture": {"x": 1}, "enableServiceLinks": true}));
    let response = running.review("/inject?timeout=10s", request.clone()).await;
    assert_eq!(response["allowed"], true);
    assert_eq!(response["patchType"], "JSONPatch");
    let patch: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
    let mut object = request["object"].clone();
    json_patch::patch(&mut object, &patch).unwrap();
    let spec = &object["spec"];
    assert_eq!(spec["initContainers"][0]["name"], "outrigger");
    assert_eq!(spec["initContainers"][0]["ports"][0]["name"], "http");
    assert_eq!(
        spec["containers"][0]["ports"],
        json!([{"containerPort": 5000}, {"name": "http", "containerPort": 9000}])
    );
    assert_eq!(spec["containers"][0]["fromTheFuture"], 1);
    assert_eq!(spec["fromTheFuture"], json!({"x": 1}));
    assert_eq!(object["metadata"], request["object"]["metadata"]);
    // Asked again for what came of it, there is nothing left to do.
    let mut again = request;
    again["object"] = object;
    assert_eq!(running.review("/inject", again).await, json!({"uid": "the-uid", "allowed": true}));
    let metrics = running.metrics();
    for (result, count) in [("injected", 1), ("unchanged", 1)] {
        let line = format!(
            "outrigger_webhook_reviews_total{{webhook=\"inject\",result=\"{result}\",reason=\"\"}} {count}"
        );
        assert!(metrics.contains(&line), "{metrics}");
    }
    assert!(metrics.contains("outrigger_webhook_review_seconds_count{webhook=\"inject\"} 2"), "{metrics}");
}

#[tokio::test]
async fn what_cannot_be_intercepted_is_refused_in_words() {
    let running = Running::start().await;
    let response = running
        .review(
            "/inject",
            pod(&json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]})),
        )
        .await;
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 422);
    assert_eq!(response["status"]["reason"], "Invalid");
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("spec.containers: ") && message.contains("a, b"), "{message}");
    assert!(message.contains("outrigger.dev/container"), "{message}");
    let response = running.review("/inject", pod(&json!({"containers": "none"}))).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(400)));
    let line =
        "outrigger_webhook_reviews_total{webhook=\"inject\",result=\"refused\",reason=\"container\"} 1";
    assert!(running.metrics().contains(line), "{}", running.metrics());
}

#[tokio::test]
async fn what_is_not_a_new_pod_passes_unchanged() {
    let running = Running::start().await;
    let spec = json!({"containers": []});
    for (field, value) in [
        ("operation", json!("UPDATE")),
        ("subResource", json!("ephemeralcontainers")),
        ("resource", json!({"group": "apps", "version": "v1", "resource": "deployments"})),
        ("namespace", json!("outrigger-system")),
    ] {
        let mut request = pod(&spec);
        request[field] = value;
        let response = running.review("/inject", request).await;
        assert_eq!(response, json!({"uid": "the-uid", "allowed": true}), "{field}");
    }
}

#[tokio::test]
async fn every_mistake_of_a_model_deployment_is_told_at_once() {
    let running = Running::start().await;
    let spec = json!({
        "model": {"name": "-"},
        "engine": {"image": "a b"},
        "rollout": {"steps": [{"weight": 50, "hold": "1m"}, {"weight": 10, "hold": "1m"}]},
        "fromTheFuture": true,
    });
    let response = running.review("/validate", deployment("CREATE", "A.b", &spec)).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(422)));
    let message = response["status"]["message"].as_str().unwrap();
    for field in
        ["spec.model.name: ", "spec.engine.image: ", "spec.rollout.steps[1].weight: ", "metadata.name: "]
    {
        assert!(message.contains(field), "{field}{message}");
    }
    let response =
        running.review("/validate", deployment("CREATE", "a", &json!({"model": {"name": 3}}))).await;
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("spec.model.name: "), "{message}");
    let fine =
        json!({"model": {"name": "m"}, "engine": {"process": {"command": "serve"}}, "fromTheFuture": 1});
    let response = running.review("/validate", deployment("CREATE", "a", &fine)).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert!(response["warnings"][0].as_str().unwrap().starts_with("spec.engine.image: "), "{response}");
}

#[tokio::test]
async fn what_was_stored_stays_deletable_and_labelable() {
    let running = Running::start().await;
    let wrong = json!({"model": {"name": "-"}, "engine": {}});
    let mut same = deployment("UPDATE", "a", &wrong);
    same["oldObject"] = same["object"].clone();
    same["object"]["metadata"]["labels"] = json!({"a": "b"});
    let mut leaving = deployment("UPDATE", "a", &wrong);
    leaving["object"]["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
    let mut status = deployment("UPDATE", "a", &wrong);
    status["subResource"] = json!("status");
    for request in [same, leaving, status, deployment("DELETE", "a", &wrong)] {
        assert_eq!(running.review("/validate", request.clone()).await["allowed"], true, "{request}");
    }
    assert_eq!(running.review("/validate", deployment("UPDATE", "a", &wrong)).await["allowed"], false);
}

#[tokio::test]
async fn what_is_no_review_gets_an_answer_that_says_so() {
    let running = Running::start().await;
    let deep = format!("{{\"request\":{}", "[".repeat(100_000));
    let no_uid = json!({"apiVersion": "admission.k8s.io/v1", "request": {
        "uid": "", "resource": {"resource": "pods"}, "operation": "CREATE"}});
    let old = json!({"apiVersion": "admission.k8s.io/v1beta1", "request": {
        "uid": "u", "resource": {"resource": "pods"}, "operation": "CREATE"}});
    for (body, what) in [
        ("", "no AdmissionReview"),
        ("{", "no AdmissionReview"),
        ("null", "no AdmissionReview"),
        ("[]", "no AdmissionReview"),
        (deep.as_str(), "no AdmissionReview"),
        (no_uid.to_string().as_str(), "request.uid"),
        (old.to_string().as_str(), "allowed: admission.k8s.io/v1"),
    ] {
        for path in ["/inject", "/validate"] {
            let (status, answer) = running.post(path, body.as_bytes()).await;
            assert_eq!(status, 400, "{answer}");
            assert!(answer.contains(what), "{answer}");
        }
    }
    assert_eq!(running.post("/other", b"{}").await.0, 404);
    assert_eq!(running.post("/inject/", b"{}").await.0, 404);
    assert_eq!(running.raw("GET /inject HTTP/1.1", b"").await.0, 405);
    assert_eq!(running.raw("GET / HTTP/1.1", b"").await.0, 404);
    assert_eq!(running.raw("POST /inject HTTP/1.1\r\ncontent-length: 2", b"{}").await.0, 415);
}

#[tokio::test]
async fn a_huge_review_is_refused_unread_and_a_large_one_is_read() {
    let running = Running::start().await;
    let kind = "content-type: application/json";
    let announced = format!("POST /inject HTTP/1.1\r\n{kind}\r\ncontent-length: {}", 1_u64 << 40);
    assert_eq!(running.raw(&announced, b"").await.0, 413);
    let mut spec = json!({"containers": [{"name": "app", "image": "x", "args": ["a".repeat(3 << 20)]}]});
    spec["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 5000}]);
    assert_eq!(running.review("/inject", pod(&spec)).await["allowed"], true);
    // Chunks without end: it stops reading at the bound, and the others are still served.
    let mut stream = running.connect().await;
    let head = format!("POST /inject HTTP/1.1\r\nhost: x\r\n{kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..200 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    drop(stream);
    assert_eq!(running.review("/inject", pod(&spec)).await["allowed"], true);
}

#[tokio::test]
async fn who_is_slow_holds_up_nobody_and_is_told() {
    let running = Running::start().await;
    // One that says nothing at all, one that stops after TLS, one that stops within its head.
    let silent = TcpStream::connect(running.address).await.unwrap();
    let idle = running.connect().await;
    let mut head = running.connect().await;
    head.write_all(b"POST /inject HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut body = running.connect().await;
    let kind = "content-type: application/json";
    let text = format!("POST /inject HTTP/1.1\r\nhost: x\r\n{kind}\r\ncontent-length: 100\r\n\r\n{{");
    body.write_all(text.as_bytes()).await.unwrap();
    let spec =
        json!({"containers": [{"name": "a", "image": "x", "ports": [{"name": "http", "containerPort": 1}]}]});
    assert_eq!(running.review("/inject", pod(&spec)).await["allowed"], true);
    let (status, answer) = tokio::time::timeout(Duration::from_secs(20), answer(&mut body)).await.unwrap();
    assert_eq!(status, 408, "{answer}");
    // The others are let go without a word.
    for mut stream in [idle, head] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "it is closed");
    }
    drop(silent);
}

#[tokio::test]
async fn a_connection_is_used_again_and_plain_http_gets_nothing() {
    let running = Running::start().await;
    let mut stream = running.connect().await;
    for _ in 0..3 {
        stream.write_all(b"GET /inject HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"POST\n") {
            let mut bytes = [0; 1024];
            let n = stream.read(&mut bytes).await.unwrap();
            assert_ne!(n, 0, "the connection stays");
            seen.extend_from_slice(&bytes[..n]);
        }
        assert!(seen.starts_with(b"HTTP/1.1 405"));
    }
    let mut plain = TcpStream::connect(running.address).await.unwrap();
    plain.write_all(b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

/// More than are kept, each answered once and then idle: the API server still gets in, for labelled pods are not
/// created while it does not. Who was idle longest has gone.
#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    let running = Running::start().await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut stream = running.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut bytes = [0; 1024];
        assert_ne!(stream.read(&mut bytes).await.unwrap(), 0);
        idle.push(stream);
    }
    let spec =
        json!({"containers": [{"name": "a", "image": "x", "ports": [{"name": "http", "containerPort": 1}]}]});
    let review = running.review("/inject", pod(&spec));
    let response = tokio::time::timeout(Duration::from_secs(10), review).await.expect("it gets in");
    assert_eq!(response["allowed"], true);
    let mut rest = Vec::new();
    // Closed without a goodbye.
    let _ =
        tokio::time::timeout(Duration::from_secs(10), idle[0].read_to_end(&mut rest)).await.expect("closed");
    // Were places only freed by time, these would have gone with the first.
    for stays in [100, 299] {
        let stream = &mut idle[stays];
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0, "the {stays}th stays");
    }
}
