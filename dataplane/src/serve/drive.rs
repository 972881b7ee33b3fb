//! The life of one connection, and what a thread tells all of its own.

use super::answer::answer;
use super::connection::{Connection, Waiting};
use super::io::{Io, Version};
use super::{ServeOptions, Service};
use crate::metrics::Gauge;
use crate::timer::Timer;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long an idle HTTP/1.1 connection stays open when a drain begins: a request that is on its way meanwhile is
/// answered, with `connection: close`, instead of meeting a closed socket.
const IDLE_GRACE: Duration = Duration::from_millis(500);

/// HTTP/2 pings a silent client this often: one that vanished is noticed, whatever waits for it.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// And gives it up after this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Windows of HTTP/2: 64 KiB per stream, 1 MiB per connection, as Envoy advises for the edge. They bound what a
/// client may send ahead of what is read.
const STREAM_WINDOW: u32 = 64 * 1024;
/// See [`STREAM_WINDOW`].
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is buffered of an answer per stream, at most.
const SEND_BUFFER: usize = 64 * 1024;
/// The most bytes of a head in HTTP/2, uncompressed; hyper's default, pinned.
const HEADER_LIST: u32 = 16 * 1024;
/// Streams that a client reset before they were accepted (rapid reset), and that were reset for its errors, after
/// which the connection is closed; hyper's defaults, pinned.
const PENDING_RESETS: usize = 20;
/// See [`PENDING_RESETS`].
const LOCAL_RESETS: usize = 1024;

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serves.
    Run,
    /// Finishes what is in flight.
    Drain,
    /// Drops everything.
    Abort,
}

/// What a thread tells its connections.
#[derive(Debug)]
pub(crate) struct Local {
    phase: Cell<Phase>,
    wakers: RefCell<HashMap<u64, Waker>>,
    last: Cell<u64>,
    /// Woken when a connection ends.
    left: tokio::sync::Notify,
    /// Woken when the phase changes.
    turned: tokio::sync::Notify,
    open: Arc<Gauge>,
}

/// A connection's place among its thread's; its drop leaves.
#[derive(Debug)]
pub(crate) struct Seat {
    local: Rc<Local>,
    id: u64,
}

impl Local {
    pub(crate) fn new(open: Arc<Gauge>) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Run),
            wakers: RefCell::default(),
            last: Cell::new(0),
            left: tokio::sync::Notify::new(),
            turned: tokio::sync::Notify::new(),
            open,
        })
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.phase.get() != Phase::Run
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Changes the phase and wakes everybody.
    pub(crate) fn turn(&self, phase: Phase) {
        self.phase.set(phase);
        self.turned.notify_waiters();
        for waker in self.wakers.borrow().values() {
            waker.wake_by_ref();
        }
    }

    /// Waits until the phase is at least this.
    pub(crate) async fn until(&self, phase: Phase) {
        loop {
            let turned = self.turned.notified();
            if self.phase.get() >= phase {
                return;
            }
            turned.await;
        }
    }

    /// Waits until fewer than `bound` connections are open.
    pub(crate) async fn room(&self, bound: usize) {
        loop {
            let left = self.left.notified();
            if self.wakers.borrow().len() < bound {
                return;
            }
            left.await;
        }
    }

    pub(crate) fn seat(self: &Rc<Self>) -> Seat {
        let id = self.last.get();
        self.last.set(id + 1);
        self.wakers.borrow_mut().insert(id, Waker::noop().clone());
        self.open.add(1);
        Seat { local: Rc::clone(self), id }
    }
}

impl Seat {
    fn listen(&self, cx: &Context<'_>) {
        if let Some(waker) = self.local.wakers.borrow_mut().get_mut(&self.id) {
            waker.clone_from(cx.waker());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.local.wakers.borrow_mut().remove(&self.id);
        self.local.open.add(-1);
        self.local.left.notify_waiters();
    }
}

/// Serves one connection until it ends.
pub(crate) async fn drive<S: Service>(
    stream: TcpStream,
    peer: SocketAddr,
    service: Rc<S>,
    options: ServeOptions,
    seat: Seat,
) {
    let shared = Rc::new(Connection::new(peer, options));
    let mut io = Io::new(stream, Rc::clone(&shared));
    let mut clock = Clock::new(Rc::clone(&shared), &seat);
    poll_fn(|cx| {
        seat.listen(cx);
        Poll::Ready(())
    })
    .await;
    let version = poll_fn(|cx| {
        if let Poll::Ready(version) = io.poll_version(cx) {
            return Poll::Ready(version.ok().flatten());
        }
        // Nothing was asked yet, so nobody waits for an answer.
        if clock.is_over(cx) { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    let local = Rc::clone(&seat.local);
    let each = {
        let shared = Rc::clone(&shared);
        service_fn(move |request| answer(Rc::clone(&service), Rc::clone(&shared), Rc::clone(&local), request))
    };
    match version {
        None => {}
        Some(Version::One) => {
            let conn = http1::Builder::new().max_headers(options.max_headers).serve_connection(io, each);
            run(pin!(conn), &mut clock, |conn| conn.graceful_shutdown()).await;
        }
        Some(Version::Two) => {
            shared.http2.set(true);
            shared.waiting.set(Waiting::Request(Instant::now()));
            let mut builder = http2::Builder::new(LocalExecutor);
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(options.max_streams)
                .max_pending_accept_reset_streams(PENDING_RESETS)
                .max_local_error_reset_streams(LOCAL_RESETS)
                .max_header_list_size(HEADER_LIST)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT);
            run(pin!(builder.serve_connection(io, each)), &mut clock, |conn| conn.graceful_shutdown()).await;
        }
    }
}

/// Polls the protocol until it ends or the clock says so.
async fn run<C: Future>(mut conn: Pin<&mut C>, clock: &mut Clock, leave: impl Fn(Pin<&mut C>)) {
    poll_fn(|cx| {
        loop {
            if clock.should_leave() {
                leave(conn.as_mut());
            }
            if conn.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match clock.look(cx) {
                Look::Wait => return Poll::Pending,
                Look::Again => {}
                Look::Over => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// How long the client is waited for, and whether the thread still serves.
struct Clock {
    shared: Rc<Connection>,
    local: Rc<Local>,
    timer: Timer,
    left: bool,
    /// When idle connections are closed, once a drain has begun.
    grace: Option<Instant>,
}

enum Look {
    Wait,
    Again,
    Over,
}

impl Clock {
    fn new(shared: Rc<Connection>, seat: &Seat) -> Self {
        Self { shared, local: Rc::clone(&seat.local), timer: Timer::default(), left: false, grace: None }
    }

    /// Whether the protocol is to be told, now and only once, to take its leave.
    fn should_leave(&mut self) -> bool {
        if self.left || self.local.phase() != Phase::Drain {
            return false;
        }
        // HTTP/2 can say at once which streams it still takes; HTTP/1.1 only by closing.
        self.left = self.shared.http2.get() || (self.shared.is_idle() && Instant::now() >= self.grace());
        self.left
    }

    fn grace(&mut self) -> Instant {
        *self.grace.get_or_insert_with(|| Instant::now() + IDLE_GRACE)
    }

    fn look(&mut self, cx: &mut Context<'_>) -> Look {
        if self.local.phase() == Phase::Abort {
            return Look::Over;
        }
        if self.local.phase() == Phase::Drain && !self.left && self.shared.is_idle() {
            let grace = self.grace();
            return if self.timer.passed(grace, cx) { Look::Again } else { Look::Wait };
        }
        let Some(deadline) = self.shared.deadline() else { return Look::Wait };
        if !self.timer.passed_in_one_task(deadline, cx) {
            return Look::Wait;
        }
        if let Waiting::Head(_) = self.shared.waiting.get() {
            // Refused in words, which the next poll writes.
            self.shared.late.set(true);
            self.shared.waiting.set(Waiting::Body(Instant::now()));
            return Look::Again;
        }
        Look::Over
    }

    /// Whether a connection on which nothing was asked is over.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = match self.local.phase() {
            Phase::Abort => return true,
            Phase::Drain => Some(self.grace()),
            Phase::Run => self.shared.deadline(),
        };
        deadline.is_some_and(|deadline| self.timer.passed(deadline, cx))
    }
}

/// HTTP/2's streams run on the connection's thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
