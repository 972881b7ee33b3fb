//! Clients: one over hyper for HTTP/1.1 and HTTP/2, one that writes bytes as they are given.

use crate::set_up::soon;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Which upstream answered.
    pub fn by(&self) -> String {
        self.json()["upstream"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }
}

/// One connection, kept.
pub struct Client {
    sender: Sender,
    address: SocketAddr,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Self { sender: Sender::One(sender), address }
    }

    pub async fn connect_http2(address: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Self { sender: Sender::Two(sender), address }
    }

    /// The answer's head; the body is still to come.
    pub async fn begin(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let answer = async {
            match &mut self.sender {
                Sender::One(sender) => {
                    if sender.ready().await.is_err() {
                        *self = Self::connect(self.address).await;
                        return Box::pin(self.begin(request)).await;
                    }
                    sender.send_request(request).await.unwrap()
                }
                Sender::Two(sender) => sender.send_request(request).await.unwrap(),
            }
        };
        soon("an answer's head", answer).await
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let (head, body) = self.begin(request).await.into_parts();
        #[allow(clippy::disallowed_methods, reason = "limited to 64 MiB")]
        let body = soon("an answer's body", Limited::new(body, 64 << 20).collect()).await.unwrap();
        Answer { status: head.status, headers: head.headers, body: body.to_bytes() }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(request(Method::GET, path, &[], "")).await
    }

    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(request(Method::POST, path, &[], body)).await
    }

    /// A chat request for model `m`.
    pub async fn chat(&mut self, headers: &[(&str, &str)]) -> Answer {
        self.send(chat(headers)).await
    }
}

pub fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(format!("http://gateway{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.header("host", "gateway").body(Full::new(body.into())).unwrap()
}

pub const CHAT: &str = "/v1/chat/completions";

pub fn chat(headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    request(Method::POST, CHAT, headers, r#"{"model":"m","messages":[]}"#)
}

/// Writes these bytes and gives what comes until the connection closes. `leave` closes the writing half first.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // The gateway may have closed before all was written.
    let _ = socket.write_all(bytes).await;
    let mut out = Vec::new();
    // A reset after the answer is as good as its end.
    let _ = soon("the connection's end", socket.read_to_end(&mut out)).await;
    String::from_utf8_lossy(&out).into_owned()
}
