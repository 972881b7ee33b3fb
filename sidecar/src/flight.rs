//! What one data thread has in the engine: the clock of progress, and the bell that aborts what is stuck.

use crate::shared::Shared;
use outrigger_decide::health::{Work, stretch};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A data thread's calls in the engine.
#[derive(Debug)]
pub(crate) struct Flight {
    shared: Arc<Shared>,
    thread: usize,
    work: Cell<Work>,
    requests: Cell<u32>,
    /// The stretches of those that have not had their first byte, and how many have each.
    unanswered: RefCell<BTreeMap<Duration, u32>>,
    /// Rung when something may have to be aborted.
    bell: Notify,
    abort: Cell<Duration>,
}

/// One call in the engine; it is over when this is dropped, on whatever path.
#[derive(Debug)]
pub(crate) struct Token {
    flight: Rc<Flight>,
    requests: u32,
    /// Present until the first byte of the answer.
    stretch: Option<Duration>,
    since: tokio::time::Instant,
    answered: bool,
}

impl Flight {
    /// Nothing is in the engine yet.
    pub(crate) fn new(shared: Arc<Shared>, thread: usize) -> Rc<Self> {
        let work = Cell::new(Work::new(shared.epoch));
        Rc::new(Self {
            shared,
            thread,
            work,
            requests: Cell::new(0),
            unanswered: RefCell::default(),
            bell: Notify::new(),
            abort: Cell::new(Duration::MAX),
        })
    }

    /// A call of so many requests and bytes is given to the engine.
    pub(crate) fn start(self: &Rc<Self>, requests: u32, body_bytes: u64) -> Token {
        let since = tokio::time::Instant::now();
        self.update(|work| work.start(since.into_std()));
        self.requests.set(self.requests.get() + requests);
        let stretch = stretch(body_bytes);
        *self.unanswered.borrow_mut().entry(stretch).or_default() += 1;
        self.show();
        Token { flight: self.clone(), requests, stretch: Some(stretch), since, answered: false }
    }

    /// Aborts every call that has waited for its first byte for this long.
    pub(crate) fn abort(&self, waited: Duration) {
        self.abort.set(waited);
        self.bell.notify_waiters();
    }

    fn update(&self, change: impl FnOnce(&mut Work)) {
        let mut work = self.work.get();
        change(&mut work);
        self.work.set(work);
    }

    fn show(&self) {
        let stretch = self.unanswered.borrow().keys().next_back().copied().unwrap_or_default();
        if let Some(gauges) = self.shared.threads.get(self.thread) {
            gauges.show(self.requests.get(), self.progress(), stretch);
        }
    }

    fn progress(&self) -> Duration {
        self.work.get().progress().saturating_duration_since(self.shared.epoch)
    }
}

impl Token {
    /// A byte of the answer came.
    pub(crate) fn moved(&mut self) {
        let now = tokio::time::Instant::now().into_std();
        self.flight.update(|work| work.moved(now));
        if self.stretch.is_some() {
            self.begun();
            self.flight.show();
        } else if let Some(gauges) = self.flight.shared.threads.get(self.flight.thread) {
            gauges.moved(self.flight.progress());
        }
    }

    /// The answer is complete: its end is progress.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }

    /// Waits until this call is to be aborted.
    pub(crate) async fn aborted(&self) {
        loop {
            let rung = self.flight.bell.notified();
            if self.since.elapsed() >= self.flight.abort.get() {
                // The order was for those of its time; a later call is not touched by it.
                return;
            }
            rung.await;
        }
    }

    fn begun(&mut self) {
        let Some(stretch) = self.stretch.take() else { return };
        let mut unanswered = self.flight.unanswered.borrow_mut();
        if let Some(count) = unanswered.get_mut(&stretch) {
            *count -= 1;
            if *count == 0 {
                unanswered.remove(&stretch);
            }
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.begun();
        let now = tokio::time::Instant::now().into_std();
        self.flight.update(|work| work.end(self.answered, now));
        self.flight.requests.set(self.flight.requests.get().saturating_sub(self.requests));
        self.flight.show();
    }
}
