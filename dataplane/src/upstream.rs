//! The client side: HTTP/1.1 to one endpoint over kept connections, one pool per thread.
//!
//! Written on the socket rather than on hyper's client: the response's body is read by the very task that writes
//! it to the client, so a request costs no channel and no second task, dropping a response closes the upstream
//! socket at once, all chunks that have arrived leave in one write, and it is known exactly whether any byte of a
//! request was written.

mod conn;
mod decode;
mod encode;
mod error;
mod exchange;
mod incoming;
mod options;
mod parse;
mod request;

use conn::Conn;
use exchange::Exchange;
use http::Response;
use http::request::Parts;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use tokio::time::{Instant, sleep_until};

pub use error::{Cause, Error, NeverSent};
pub use incoming::Incoming;
pub use options::{PoolOptions, Timeouts};
pub use request::RequestBody;

/// One upstream address and this thread's connections to it. Its last owner's drop closes the idle ones.
pub struct Endpoint {
    address: Box<str>,
    options: PoolOptions,
    /// The most recently used one last.
    #[allow(clippy::vec_box, reason = "a connection moves on every request: a pointer, not its 300 bytes")]
    idle: RefCell<Vec<Box<Conn>>>,
    sweeping: Cell<bool>,
}

impl Endpoint {
    /// An endpoint at `host:port`; a name is resolved at each new connection.
    pub fn new(address: &str, options: PoolOptions) -> Rc<Self> {
        Rc::new(Self {
            address: address.into(),
            options,
            idle: RefCell::new(Vec::new()),
            sweeping: Cell::new(false),
        })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and waits for the response's head. The head goes as it is, but for what describes one
    /// connection: hop-by-hop headers (and those that `Connection` names), `Host`, framing and `Expect` are left
    /// out and written anew. A kept connection that proves closed before a byte was written is replaced without a
    /// word. `began` is when the request began, for `timeouts.total` over retries.
    ///
    /// Dropping the future closes the connection, and with it ends the work upstream.
    ///
    /// # Errors
    ///
    /// See [`Cause`]; after [`Cause::NeverSent`] the same head and body may be sent to another endpoint.
    pub async fn send(
        self: &Rc<Self>,
        head: &Parts,
        body: &mut RequestBody,
        timeouts: &Timeouts,
        began: Instant,
    ) -> Result<Response<Incoming>, Error> {
        let total = began + timeouts.total;
        // Each turn takes one idle connection away, so there are few.
        while let Some(conn) = self.take_idle() {
            match Exchange::new(self, conn, head, body, timeouts, total).await {
                Err(e) if e.never_sent() => {}
                answer => return answer,
            }
        }
        let deadline = (Instant::now() + timeouts.connect).min(total);
        let conn = Conn::connect(&self.address, deadline).await?;
        Exchange::new(self, conn, head, body, timeouts, total).await
    }

    /// Connections kept idle now.
    pub fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Closes the idle connections: when the endpoint is known to have restarted.
    pub fn close_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    fn take_idle(&self) -> Option<Box<Conn>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(conn) = idle.pop() {
            if conn.is_open() {
                return Some(conn);
            }
        }
        None
    }

    /// Takes a connection back that may serve another request.
    fn keep(self: &Rc<Self>, mut conn: Box<Conn>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.options.max_idle {
            return;
        }
        conn.rest(Instant::now());
        idle.push(conn);
        drop(idle);
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// Closes what has been idle for too long; gives the time when to look again.
    fn sweep(&self) -> Option<Instant> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        let fresh = idle.partition_point(|conn| conn.idle_since + self.options.max_idle_time <= now);
        idle.drain(..fresh);
        let next = idle.first().map(|conn| conn.idle_since + self.options.max_idle_time);
        self.sweeping.set(next.is_some());
        next
    }
}

/// Sweeps until nothing is idle: without traffic there is no task and no timer.
async fn sweep(endpoint: std::rc::Weak<Endpoint>) {
    loop {
        let Some(next) = endpoint.upgrade().and_then(|endpoint| endpoint.sweep()) else { return };
        sleep_until(next).await;
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address).field("idle", &self.idle()).finish()
    }
}
