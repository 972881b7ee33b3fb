//! A forwarder on port 0 and an upstream whose every byte a test decides.
#![allow(dead_code, reason = "each test file uses a part of it")]

use http::Response;
use outrigger_dataplane::body::{Body, End, ErrorEvent, Hooks, read_request};
use outrigger_dataplane::refuse::Refusal;
use outrigger_dataplane::serve::{Connection, Request, ServeOptions, Service};
use outrigger_dataplane::threads::{Bound, DataThreads};
use outrigger_dataplane::upstream::{Endpoint, PoolOptions, RequestBody, Timeouts};
use outrigger_decide::protocol::Protocol;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// Nothing here takes this long unless it is broken.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// What the forwarder counts.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) in_flight: AtomicI64,
    pub(crate) begun: AtomicI64,
    pub(crate) ends: Mutex<Vec<String>>,
}

impl Seen {
    pub(crate) fn ends(&self) -> Vec<String> {
        self.ends.lock().unwrap().clone()
    }
}

/// A token that the body's end gives back.
pub(crate) struct Token(pub(crate) Arc<Seen>);

impl Token {
    pub(crate) fn take(seen: &Arc<Seen>) -> Self {
        seen.in_flight.fetch_add(1, Ordering::SeqCst);
        seen.begun.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Hooks for Token {
    fn end(&mut self, end: End) {
        let words = match end {
            End::Complete => "complete".to_owned(),
            End::Broke(error) => format!("broke: {:?}", error.cause()),
            End::ClientGone => "client gone".to_owned(),
        };
        self.0.ends.lock().unwrap().push(words);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Forwards everything; `/panic` panics, `/limited` reads at most 1000 bytes of body first.
pub(crate) struct Forward {
    pub(crate) to: Rc<Endpoint>,
    pub(crate) timeouts: Timeouts,
    pub(crate) seen: Arc<Seen>,
}

impl Service for Forward {
    type Hooks = Token;

    async fn call(self: Rc<Self>, request: Request, _connection: Rc<Connection>) -> Response<Body<Token>> {
        let token = Token::take(&self.seen);
        let (head, body) = request.into_parts();
        let protocol = Protocol::of(head.uri.path());
        let mut body = match head.uri.path() {
            "/panic" => panic!("asked for"),
            "/limited" => match read_request(body, 1000).await {
                Ok(bytes) => RequestBody::full(bytes),
                Err(e) => {
                    return Refusal::from(&e).response(protocol).map(|body: Body| body.with_hooks(token));
                }
            },
            _ => RequestBody::streamed(body),
        };
        match self.to.send(&head, &mut body, &self.timeouts, Instant::now()).await {
            Ok(answer) => {
                answer.map(|body| Body::<()>::upstream(body, ErrorEvent::of(protocol)).with_hooks(token))
            }
            Err(e) => Refusal::from(&e).response(protocol).map(|body: Body| body.with_hooks(token)),
        }
    }
}

/// A running forwarder.
pub(crate) struct Proxy {
    pub(crate) data: DataThreads,
    pub(crate) seen: Arc<Seen>,
}

pub(crate) fn proxy(upstream: SocketAddr) -> Proxy {
    proxy_with(upstream, ServeOptions::default(), Timeouts::default())
}

pub(crate) fn proxy_with(upstream: SocketAddr, options: ServeOptions, timeouts: Timeouts) -> Proxy {
    let seen = Arc::new(Seen::default());
    let of_thread = Arc::clone(&seen);
    let bound = Bound::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let data = DataThreads::start(bound, 1, options, move |_| {
        Rc::new(Forward {
            to: Endpoint::new(&upstream.to_string(), PoolOptions::default()),
            timeouts,
            seen: Arc::clone(&of_thread),
        })
    })
    .unwrap();
    Proxy { data, seen }
}

impl Proxy {
    pub(crate) async fn connect(&self) -> Client {
        Client::to(self.data.address()).await
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn quiet(&self) {
        until("in_flight is 0", || self.seen.in_flight.load(Ordering::SeqCst) == 0).await;
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await; // between two looks
    }
}

/// A client, or an upstream's side of a connection, byte by byte.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(BOUND, self.stream.write_all(bytes.as_ref())).await.expect("writing takes forever").unwrap();
    }

    /// Reads until `mark` has come and gives everything up to its end.
    pub(crate) async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|w| w == mark.as_bytes()) {
                let taken: Vec<u8> = self.buffer.drain(..at + mark.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let so_far = String::from_utf8_lossy(&self.buffer).into_owned();
            let n = timeout(BOUND, self.stream.read_buf(&mut self.buffer)).await;
            let n = n.unwrap_or_else(|_| panic!("no {mark:?} in {so_far:?}")).unwrap_or(0);
            assert!(n > 0, "closed before {mark:?}, after {so_far:?}");
        }
    }

    /// Reads until the connection closes, in whatever way.
    pub(crate) async fn rest(&mut self) -> String {
        loop {
            match timeout(BOUND, self.stream.read_buf(&mut self.buffer)).await.expect("it stays open") {
                Ok(0) | Err(_) => {
                    return String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned();
                }
                Ok(_) => {}
            }
        }
    }

    /// Reads one response with `content-length`: its head and its body.
    pub(crate) async fn response(&mut self) -> (String, String) {
        let head = self.until("\r\n\r\n").await;
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
            .unwrap_or_else(|| panic!("no length in {head:?}"));
        let length: usize = length.trim().parse().unwrap();
        while self.buffer.len() < length {
            let n = timeout(BOUND, self.stream.read_buf(&mut self.buffer)).await.expect("no body").unwrap();
            assert!(n > 0, "closed within a body");
        }
        let body: Vec<u8> = self.buffer.drain(..length).collect();
        (head, String::from_utf8_lossy(&body).into_owned())
    }
}

/// An upstream whose connections the test answers by hand.
pub(crate) struct Upstream {
    pub(crate) listener: TcpListener,
}

impl Upstream {
    pub(crate) async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) async fn accept(&self) -> Client {
        let (stream, _) = timeout(BOUND, self.listener.accept()).await.expect("nobody connects").unwrap();
        Client::of(stream)
    }

    /// Answers every request on every connection with `hello`, from now on.
    pub(crate) fn answer(self) -> SocketAddr {
        let address = self.address();
        tokio::spawn(async move {
            while let Ok((stream, _)) = self.listener.accept().await {
                tokio::spawn(async move {
                    let mut peer = Client::of(stream);
                    while peer.serve_one().await {}
                });
            }
        });
        address
    }
}

impl Client {
    /// As an upstream: reads a request and answers it; false when the peer has closed.
    pub(crate) async fn serve_one(&mut self) -> bool {
        let head = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                break String::from_utf8_lossy(&head).to_ascii_lowercase();
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return false;
            }
        };
        if head.contains("transfer-encoding: chunked") {
            self.until("0\r\n\r\n").await;
        } else if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
            let length: usize = length.trim().parse().unwrap();
            while self.buffer.len() < length {
                if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    return false;
                }
            }
            self.buffer.drain(..length);
        }
        self.stream.write_all(HELLO.as_bytes()).await.is_ok()
    }
}

pub(crate) const HELLO: &str =
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: text/plain\r\n\r\nhello";
pub(crate) const GET: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
pub(crate) const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// One chunk.
pub(crate) fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}
