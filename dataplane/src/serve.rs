//! The server side: HTTP/1.1 and HTTP/2 (prior knowledge) on one port.
//!
//! hyper does the protocols. What stands between it and the socket ([`io`]) checks heads against smuggling, holds
//! pipelined requests back until their turn, so that a client's leaving is always noticed, and keeps the clock of
//! clients that are slow ([`connection`]).

use crate::body::{Body, Hooks};
use http::Response;
use hyper::body::Incoming;
use std::rc::Rc;
use std::time::Duration;

mod answer;
mod connection;
mod drive;
mod io;

pub use connection::Connection;
pub(crate) use drive::{Local, Phase, drive};

/// A request as it arrives: its head has passed the check against smuggling.
pub type Request = http::Request<Incoming>;

/// What answers requests on one thread.
pub trait Service: 'static {
    /// What hears of the bodies' ends.
    type Hooks: Hooks + Unpin;

    /// Answers one request. The future is dropped when the client goes away; a panic within it becomes a 500.
    fn call(
        self: Rc<Self>,
        request: Request,
        connection: Rc<Connection>,
    ) -> impl Future<Output = Response<Body<Self::Hooks>>>;

    /// A request was refused for its head, before it became one: for who counts.
    fn refused_head(&self, _reason: &'static str) {}
}

/// Bounds on clients.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Open connections per thread; a further one waits in the listener's backlog.
    pub max_connections: usize,
    /// The most bytes of a request's head; more is a 431.
    pub max_head: usize,
    /// The most header fields of a request; more is a 431.
    pub max_headers: usize,
    /// From a head's first byte to its last.
    pub head_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub keep_alive: Duration,
    /// How long a client may pause within a request's body, or take nothing of a response.
    pub stall_timeout: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            // nginx allows 32 KiB (4 × 8 KiB), Envoy 60 KiB.
            max_head: 32 * 1024,
            max_headers: 100,
            head_timeout: Duration::from_secs(10),
            // nginx's default; longer than the keep-alive of common clients and load balancers (60 s).
            keep_alive: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(60),
            // Envoy's advice for the edge, and half of hyper's default.
            max_streams: 100,
        }
    }
}
