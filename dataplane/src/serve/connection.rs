//! What socket, protocol and requests of one connection tell each other.

use super::ServeOptions;
use crate::head::Bad;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;
use tokio::time::Instant;

/// How long a refused client may go on sending, so that it reads the refusal rather than a reset.
const LINGER: Duration = Duration::from_secs(1);

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    pub(super) options: ServeOptions,
    pub(super) http2: Cell<bool>,
    /// What the client is waited for, and since when.
    pub(super) waiting: Cell<Waiting>,
    /// Since when the client takes nothing of what is written.
    pub(super) stuck_since: Cell<Option<Instant>>,
    /// Requests whose answer has not ended.
    pub(super) in_flight: Cell<usize>,
    /// See [`Connection::held`].
    held: Cell<usize>,
    /// The head at hand took too long.
    pub(super) late: Cell<bool>,
    /// Why the request at hand is refused before any service sees it; the connection ends with it.
    pub(super) refused: Cell<Option<Bad>>,
    /// Woken when the answer at hand has ended, where the next request is there already.
    pub(super) next: RefCell<Option<Waker>>,
}

/// What a client is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Nothing: it is our turn.
    No,
    /// A request.
    Request(Instant),
    /// The rest of a head.
    Head(Instant),
    /// More of a body.
    Body(Instant),
    /// That it closes, after a refusal.
    Close(Instant),
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, options: ServeOptions) -> Self {
        Self {
            peer,
            options,
            http2: Cell::new(false),
            waiting: Cell::new(Waiting::Request(Instant::now())),
            stuck_since: Cell::new(None),
            in_flight: Cell::new(0),
            held: Cell::new(0),
            late: Cell::new(false),
            refused: Cell::new(None),
            next: RefCell::new(None),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether it speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.http2.get()
    }

    /// Bytes of bodies that the service keeps in memory for this connection, all its requests together. The
    /// service counts them.
    pub fn held(&self) -> &Cell<usize> {
        &self.held
    }

    /// When the client will have been waited for long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let options = &self.options;
        let waiting = match self.waiting.get() {
            Waiting::No => None,
            Waiting::Request(since) => Some(since + options.keep_alive),
            Waiting::Head(since) => Some(since + options.head_timeout),
            Waiting::Body(since) => Some(since + options.stall_timeout),
            Waiting::Close(since) => Some(since + LINGER),
        };
        let stuck = self.stuck_since.get().map(|since| since + options.stall_timeout);
        match (waiting, stuck) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.waiting.set(Waiting::No);
    }
}

/// A request that has begun and whose answer has not ended.
#[derive(Debug)]
pub(super) struct InFlight(pub(super) Rc<Connection>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let connection = &self.0;
        let left = connection.in_flight.get().saturating_sub(1);
        connection.in_flight.set(left);
        if left == 0 {
            connection.waiting.set(Waiting::Request(Instant::now()));
            if let Some(waker) = connection.next.take() {
                waker.wake();
            }
        }
    }
}
