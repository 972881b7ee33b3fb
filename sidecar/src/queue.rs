//! The queue before the engine, on one data thread: `decide`'s admission with somebody waiting at the end of each
//! ticket.

use crate::batches;
use crate::metrics::ThreadMetrics;
use crate::shared::Gauges;
use crate::upstream::Upstream;
use bytes::Bytes;
use http::{Response, request::Parts};
use outrigger_dataplane::refuse::Refusal;
use outrigger_decide::admission::{self, Admission, Arrival, Limits, Ticket};
use outrigger_decide::batch::Mergeable;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// The most bytes of bodies that wait on one thread. Only bodies that may be merged are read before their turn.
pub(crate) const MAX_QUEUE_BYTES: u64 = 64 << 20;

/// How the wait of a request ended.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It goes to the engine, alone.
    Alone(Permit),
    /// It went with others, and this is its part of the answer.
    Answered(Box<Response<Bytes>>),
    /// It is refused.
    Refused(Refusal),
}

/// What is needed to send a request together with others.
#[derive(Debug)]
pub(crate) struct Companion {
    /// Its rows.
    pub(crate) rows: Mergeable,
    /// Its head.
    pub(crate) head: Parts,
    /// When nobody wants the answer any more.
    pub(crate) deadline: Instant,
}

/// Somebody who waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Where it waits.
    pub(crate) turn: oneshot::Sender<Turn>,
    /// How it can be sent together with others; absent: only alone.
    pub(crate) companion: Option<Box<Companion>>,
}

/// The queue of one data thread.
pub(crate) struct Queue {
    admission: RefCell<Admission>,
    waiters: RefCell<HashMap<Ticket, Waiter>>,
    upstream: Rc<Upstream>,
    /// When the timer rings, and the bell that makes it look again.
    armed: Cell<Option<Instant>>,
    rearm: Notify,
    /// Requests whose bodies are being read, and the bytes of those.
    reading: Cell<(usize, u64)>,
}

/// A body that is being read; dropped when it is there.
pub(crate) struct Reading {
    queue: Rc<Queue>,
    bytes: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let (others, held) = self.queue.reading.get();
        self.queue.reading.set((others.saturating_sub(1), held.saturating_sub(self.bytes)));
    }
}

/// A place in the engine. Dropping it lets the next one go.
pub(crate) struct Permit {
    queue: Rc<Queue>,
    /// Requests that end with it, for the rate at which the queue drains.
    requests: usize,
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.queue.admission.borrow_mut().finish(self.requests, now());
        self.queue.pump();
    }
}

/// Takes a waiter out of the queue when its caller leaves.
struct Leaving {
    queue: Rc<Queue>,
    ticket: Ticket,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let waiter = self.queue.waiters.borrow_mut().remove(&self.ticket);
        if waiter.is_some() {
            self.queue.admission.borrow_mut().leave(self.ticket);
            self.queue.metrics().left_waiting.inc();
            self.queue.show();
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Queue {
    /// An empty queue before this engine, with its timer on the current thread.
    pub(crate) fn start(limits: Limits, upstream: Rc<Upstream>) -> Rc<Self> {
        let queue = Rc::new(Self {
            admission: RefCell::new(Admission::new(limits)),
            waiters: RefCell::default(),
            upstream,
            armed: Cell::new(None),
            rearm: Notify::new(),
            reading: Cell::new((0, 0)),
        });
        tokio::task::spawn_local(timer(Rc::downgrade(&queue)));
        queue
    }

    /// Calls in the engine, how many it is given at once, and how many requests wait.
    pub(crate) fn load(&self) -> (u32, u32, usize) {
        let admission = self.admission.borrow();
        (admission.in_flight(), admission.limits().concurrency, admission.waiting())
    }

    /// Room for a request whose body is read before it waits: it is refused before any of its body is held, and
    /// what is being read counts as what waits.
    ///
    /// # Errors
    ///
    /// The refusal, where there is none.
    pub(crate) fn room(self: &Rc<Self>, bytes: u64) -> Result<Reading, Refusal> {
        let (others, held) = self.reading.get();
        self.admission.borrow().room(others, held + bytes).map_err(|refusal| self.refusal(refusal))?;
        self.reading.set((others + 1, held + bytes));
        Ok(Reading { queue: self.clone(), bytes })
    }

    /// A place in the engine for a request that needn't wait; see [`Admission::direct`].
    pub(crate) fn direct(self: &Rc<Self>) -> Option<Permit> {
        let goes = self.admission.borrow_mut().direct(false);
        goes.then(|| self.permit(1))
    }

    /// Waits for this request's turn. Dropping the future takes it out of the queue.
    ///
    /// `bytes` are those of its body that are held meanwhile.
    pub(crate) async fn turn(
        self: &Rc<Self>,
        bytes: u64,
        deadline: Instant,
        companion: Option<Companion>,
    ) -> Turn {
        if self.admission.borrow_mut().direct(companion.is_some()) {
            return Turn::Alone(self.permit(1));
        }
        let group = companion.as_ref().map(|c| (c.rows.key().clone(), c.rows.rows()));
        let began = now();
        let offered = self.admission.borrow_mut().offer(Arrival { bytes, deadline, group }, began);
        let ticket = match offered {
            Ok(ticket) => ticket,
            Err(refusal) => return Turn::Refused(self.refusal(refusal)),
        };
        let (turn, wait) = oneshot::channel();
        self.waiters.borrow_mut().insert(ticket, Waiter { turn, companion: companion.map(Box::new) });
        let leaving = Leaving { queue: self.clone(), ticket };
        self.pump();
        let turn = wait.await;
        drop(leaving);
        turn.unwrap_or_else(|_| {
            // Only the end of the thread drops a waiter without a word.
            Turn::Refused(Refusal::unavailable("shutting_down", "the sidecar is shutting down"))
        })
    }

    /// A request whose batch failed waits again, alone and before all others; [`Self::pump`] after the last.
    pub(crate) fn again(&self, ticket: Ticket, turn: oneshot::Sender<Turn>, bytes: u64, deadline: Instant) {
        self.waiters.borrow_mut().insert(ticket, Waiter { turn, companion: None });
        self.admission.borrow_mut().again(ticket, bytes, deadline, now());
    }

    /// The limits are now these.
    pub(crate) fn set_limits(self: &Rc<Self>, limits: Limits) {
        self.admission.borrow_mut().set_limits(limits);
        self.pump();
    }

    /// Everybody that waits is refused.
    pub(crate) fn refuse_all(&self, refusal: &Refusal) {
        let everybody = self.admission.borrow_mut().clear();
        for ticket in everybody {
            self.answer(ticket, Turn::Refused(refusal.clone()));
        }
        self.show();
    }

    fn permit(self: &Rc<Self>, requests: usize) -> Permit {
        Permit { queue: self.clone(), requests }
    }

    fn metrics(&self) -> &ThreadMetrics {
        self.upstream.metrics()
    }

    fn answer(&self, ticket: Ticket, turn: Turn) {
        let waiter = self.waiters.borrow_mut().remove(&ticket);
        if let Some(waiter) = waiter {
            // Who has just left doesn't hear it; what the turn holds is given back by its drop.
            let _ = waiter.turn.send(turn);
        }
    }

    /// Gives the engine whatever it is given now. No borrow is held while a turn is handed out, since a turn that
    /// nobody takes ends at once and comes back here.
    pub(crate) fn pump(self: &Rc<Self>) {
        loop {
            let call = self.admission.borrow_mut().next(now());
            let Some(call) = call else { break };
            let permit = self.permit(call.tickets.len());
            if let [ticket] = *call.tickets {
                self.answer(ticket, Turn::Alone(permit));
                continue;
            }
            let members = self.take(call.tickets);
            tokio::task::spawn_local(batches::run(self.clone(), self.upstream.clone(), members, permit));
        }
        self.show();
        let wake = self.admission.borrow().wake_at();
        if wake.is_some_and(|at| self.armed.get().is_none_or(|armed| at < armed)) {
            self.rearm.notify_one();
        }
    }

    fn take(&self, tickets: Vec<Ticket>) -> Vec<batches::Member> {
        let mut waiters = self.waiters.borrow_mut();
        let found = tickets.into_iter().filter_map(|ticket| {
            let Waiter { turn, companion } = waiters.remove(&ticket)?;
            companion.map(|companion| batches::Member { ticket, turn, companion })
        });
        found.collect()
    }

    fn expire(&self) {
        let expired = self.admission.borrow_mut().expire(now());
        for (ticket, refusal) in expired {
            let refusal = self.refusal(refusal);
            self.answer(ticket, Turn::Refused(refusal));
        }
    }

    fn refusal(&self, refusal: admission::Refusal) -> Refusal {
        let reason = refusal.reason();
        if !refusal.is_shed() {
            return Refusal::deadline(reason, "the time of this request ran out while it waited");
        }
        let message = match refusal {
            admission::Refusal::QueueDelay => "the engine is busy: this request waited for as long as it may",
            admission::Refusal::QueueBytes => {
                "the engine is busy: the bodies that wait are as large as they may be"
            }
            _ => "the engine is busy: as many requests wait as may wait",
        };
        let after = self.admission.borrow().retry_after(now());
        Refusal::shed(reason, message, Duration::from_secs(after))
    }

    fn show(&self) {
        let waiting = self.admission.borrow().waiting();
        if let Some(gauges) = self.gauges() {
            gauges.waiting(waiting);
        }
    }

    fn gauges(&self) -> Option<&Gauges> {
        self.upstream.gauges()
    }
}

/// Rings when somebody has waited in vain, or when a batch has waited for company for long enough.
async fn timer(queue: std::rc::Weak<Queue>) {
    loop {
        let Some(strong) = queue.upgrade() else { return };
        let at = strong.admission.borrow().wake_at();
        strong.armed.set(at);
        let ring = async {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ring => {
                strong.expire();
                strong.pump();
            }
            () = strong.rearm.notified() => {}
        }
    }
}
