//! One caller's side of HTTP: connections that are kept and used again, one request at a time on each.

use super::counts::{Ended, How};
use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::net::TcpStream;

/// The longest answer that is read: an answer of [`super::Config::max_tokens`] is far below it.
const MAX_ANSWER: usize = 1 << 20;
/// How a stream that was not cut off ends.
const LAST_EVENT: &[u8] = b"data: [DONE]";

/// Where requests go: `http://host:port`, without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `host:port`.
    authority: String,
}

impl Target {
    /// The address as it was given, `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let url: Uri = text.parse().with_context(|| format!("{text} is no URL"))?;
        anyhow::ensure!(
            url.scheme_str() == Some("http"),
            "{text}: allowed is http://HOST or http://HOST:PORT"
        );
        anyhow::ensure!(
            matches!(url.path(), "/" | ""),
            "{text}: the path is given by the protocol, leave it out"
        );
        let host = url.host().with_context(|| format!("{text} names no host"))?;
        Ok(Self { authority: format!("{host}:{}", url.port_u16().unwrap_or(80)) })
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) body: Bytes,
    pub(super) stream: bool,
    pub(super) session: Option<String>,
}

type Sender = SendRequest<Full<Bytes>>;

/// A client of one target.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    idle: Mutex<Vec<Sender>>,
    most_idle: usize,
}

impl Client {
    pub(super) fn new(target: Target, most_idle: usize) -> Self {
        Self { target, idle: Mutex::new(Vec::new()), most_idle }
    }

    /// Sends one request and reads its answer to the end.
    pub(super) async fn ask(&self, request: Request) -> Ended {
        let started = Instant::now();
        let Ok((sender, response)) = self.send(&request).await else { return Ended::FAILED };
        let status = response.status();
        let shed = status == StatusCode::TOO_MANY_REQUESTS
            || (status == StatusCode::SERVICE_UNAVAILABLE
                && response.headers().contains_key(header::RETRY_AFTER));
        let Ok(read) = read(response, started).await else {
            return if shed { Ended::SHED } else { Ended::FAILED };
        };
        self.keep(sender);
        if shed {
            return Ended::SHED;
        }
        // A stream that fails midway still has its 200: only its last event tells.
        let whole = !request.stream || read.tail.windows(LAST_EVENT.len()).any(|part| part == LAST_EVENT);
        if !status.is_success() || !whole {
            return Ended::FAILED;
        }
        let first_token = read.first.filter(|_| request.stream);
        Ended { how: How::Ok, took: started.elapsed(), first_token }
    }

    /// On a kept connection first. One that was closed meanwhile refuses before anything is sent, so a new one is
    /// tried then.
    async fn send(&self, request: &Request) -> anyhow::Result<(Sender, Response<Incoming>)> {
        loop {
            let kept = self.idle().pop();
            let (mut sender, kept) = match kept {
                Some(sender) => (sender, true),
                None => (self.connect().await?, false),
            };
            if let Err(error) = sender.ready().await {
                if kept {
                    continue;
                }
                return Err(error.into());
            }
            match sender.try_send_request(self.head(request)?).await {
                Ok(response) => return Ok((sender, response)),
                // The request comes back only when nothing of it was written.
                Err(error) if kept && error.message().is_some() => {}
                Err(error) => return Err(error.into_error().into()),
            }
        }
    }

    fn head(&self, request: &Request) -> anyhow::Result<hyper::Request<Full<Bytes>>> {
        let mut head = hyper::Request::post("/v1/chat/completions")
            .header(header::HOST, self.target.authority())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(session) = &request.session {
            head = head.header("x-session-id", session);
        }
        Ok(head.body(Full::new(request.body.clone()))?)
    }

    async fn connect(&self) -> anyhow::Result<Sender> {
        let stream = TcpStream::connect(self.target.authority()).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with its sender, or when the other side closes.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// The list is whole after each change, so one that was interrupted by a panic is still good.
    fn idle(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle();
        if idle.len() < self.most_idle && !sender.is_closed() {
            idle.push(sender);
        }
    }
}

/// An answer that was read to its end.
struct Read {
    first: Option<std::time::Duration>,
    tail: BytesMut,
}

async fn read(response: Response<Incoming>, started: Instant) -> anyhow::Result<Read> {
    let mut body = response.into_body();
    let mut read = Read { first: None, tail: BytesMut::new() };
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        read.first.get_or_insert_with(|| started.elapsed());
        length += data.len();
        anyhow::ensure!(length <= MAX_ANSWER, "an answer longer than {MAX_ANSWER} bytes");
        read.tail.extend_from_slice(&data);
        // The last event may be cut in two by chunks: twice its length is enough to see it, with line ends.
        let spare = read.tail.len().saturating_sub(2 * LAST_EVENT.len() + 8);
        let _ = read.tail.split_to(spare);
    }
    Ok(read)
}
