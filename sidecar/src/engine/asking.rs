//! A few small requests to the engine, from the control thread.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header, request::Parts};
use outrigger_dataplane::upstream::{Endpoint, PoolOptions, RequestBody, Timeouts};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// The most bytes of an answer that are read, where metrics are not asked for.
const MAX_BODY: usize = 1 << 20;

/// The most bytes of an answer that are quoted.
const MAX_WORDS: usize = 200;

/// Who asks.
#[derive(Debug)]
pub(crate) struct Asking {
    endpoint: Rc<Endpoint>,
    /// What was asked last and how it was answered, in words.
    last: RefCell<String>,
}

/// What the engine said.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Whether it named a time to come again.
    pub(crate) retry_after: bool,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Reply {
    /// Whether it refused because it is busy.
    pub(crate) fn is_busy(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
            || (self.status == StatusCode::SERVICE_UNAVAILABLE && self.retry_after)
    }

    /// Whether it wants a key that the sidecar doesn't have.
    pub(crate) fn wants_a_key(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// Whether it doesn't know the path, or refuses what was made up for it.
    pub(crate) fn declines(&self) -> bool {
        self.status.is_client_error() && !self.is_busy() && !self.wants_a_key()
    }
}

impl Asking {
    /// Asks the engine at this address.
    pub(crate) fn new(address: &str) -> Self {
        // One question at a time; its connection is not kept for the next one, minutes later.
        let options = PoolOptions { max_idle: 0, ..PoolOptions::default() };
        Self { endpoint: Endpoint::new(address, options), last: RefCell::default() }
    }

    /// A GET; `None` when there is no answer in time, or a larger one than `allowed`.
    pub(crate) async fn get(&self, path: &str, within: Duration, allowed: usize) -> Option<Reply> {
        self.ask(Method::GET, path, None, within, allowed).await
    }

    /// The same for a small answer.
    pub(crate) async fn look(&self, path: &str, within: Duration) -> Option<Reply> {
        self.get(path, within, MAX_BODY).await
    }

    /// A POST of JSON.
    pub(crate) async fn post(&self, path: &str, json: String, within: Duration) -> Option<Reply> {
        self.ask(Method::POST, path, Some(json), within, MAX_BODY).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        json: Option<String>,
        within: Duration,
        allowed: usize,
    ) -> Option<Reply> {
        let mut request = Request::builder().method(method).uri(path);
        if json.is_some() {
            request = request.header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request.header(header::ACCEPT, HeaderValue::from_static("*/*"));
        let (head, ()) = request.body(()).ok()?.into_parts();
        let mut body = json.map_or_else(RequestBody::empty, |json| RequestBody::full(Bytes::from(json)));
        let timeouts = Timeouts { connect: within, first_byte: within, idle: within, total: within };
        let whole = async {
            let answer = self.endpoint.send(&head, &mut body, &timeouts, Instant::now()).await.ok()?;
            let (head, incoming) = answer.into_parts();
            let retry_after = head.headers.contains_key(header::RETRY_AFTER);
            Some(Reply { status: head.status, retry_after, body: incoming.read(allowed).await.ok()? })
        };
        let reply = tokio::time::timeout(within, whole).await.ok().flatten();
        *self.last.borrow_mut() = words(&head, reply.as_ref());
        reply
    }

    /// What was asked last and how it was answered, in words.
    pub(crate) fn last(&self) -> String {
        self.last.borrow().clone()
    }
}

/// `POST /v1/completions was answered 500 Internal Server Error: out of memory`.
fn words(head: &Parts, reply: Option<&Reply>) -> String {
    let asked = format!("{} {}", head.method, head.uri.path());
    let Some(reply) = reply else { return format!("{asked} was not answered") };
    let body = String::from_utf8_lossy(reply.body.get(..reply.body.len().min(MAX_WORDS)).unwrap_or_default());
    let body: String = body.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{asked} was answered {}: {}", reply.status, body.trim())
}

/// A name as a segment of a path.
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_segment() {
        assert_eq!(segment("my model/ä"), "my%20model%2F%C3%A4");
        assert_eq!(segment("llama-3.1_8b~x"), "llama-3.1_8b~x");
    }
}
