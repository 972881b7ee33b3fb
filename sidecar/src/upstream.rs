//! The engine as one data thread sends to it.

use crate::flight::{Flight, Token};
use crate::metrics::ThreadMetrics;
use crate::shared::{Gauges, Shared};
use http::{Response, request::Parts};
use outrigger_dataplane::refuse::{REASON, Refusal};
use outrigger_dataplane::upstream::{Cause, Endpoint, Error, Incoming, NeverSent, RequestBody, Timeouts};
use outrigger_decide::balance::LOAD_HEADER;
use outrigger_decide::health::Event;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// The engine, this thread's connections to it, and what it is allowed.
#[derive(Debug)]
pub(crate) struct Upstream {
    endpoint: Rc<Endpoint>,
    flight: Rc<Flight>,
    timeouts: Cell<Timeouts>,
    shared: Arc<Shared>,
    thread: usize,
    metrics: ThreadMetrics,
}

/// A call that ended before an answer's first byte.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be sent, or the engine broke or was late.
    Upstream(Error),
    /// It was aborted because the engine is stuck.
    Stalled,
}

impl From<&Failure> for Refusal {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Upstream(error) => Self::from(error),
            Failure::Stalled => {
                Self::deadline("engine_stalled", "the engine shows no progress; this request was aborted")
            }
        }
    }
}

impl Upstream {
    /// The engine at this endpoint.
    pub(crate) fn new(
        endpoint: Rc<Endpoint>,
        shared: Arc<Shared>,
        thread: usize,
        timeouts: Timeouts,
        metrics: ThreadMetrics,
    ) -> Rc<Self> {
        let flight = Flight::new(shared.clone(), thread);
        Rc::new(Self { endpoint, flight, timeouts: Cell::new(timeouts), shared, thread, metrics })
    }

    /// What is in the engine.
    pub(crate) fn flight(&self) -> &Rc<Flight> {
        &self.flight
    }

    /// The bounds that hold now.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts.get()
    }

    /// The bounds are now these.
    pub(crate) fn set_timeouts(&self, timeouts: Timeouts) {
        self.timeouts.set(timeouts);
    }

    /// This thread's metrics.
    pub(crate) fn metrics(&self) -> &ThreadMetrics {
        &self.metrics
    }

    /// This thread's gauges.
    pub(crate) fn gauges(&self) -> Option<&Gauges> {
        self.shared.threads.get(self.thread)
    }

    /// Sends a call and waits for the head of its answer. The time that it has waited since `began` counts
    /// towards the bounds. Dropping the future cancels the work in the engine.
    ///
    /// # Errors
    ///
    /// See [`Failure`]; of a refused or broken connection, the judgement of the engine's health hears at once.
    pub(crate) async fn send(
        &self,
        head: &Parts,
        body: &mut RequestBody,
        mut token: Token,
        began: Instant,
    ) -> Result<(Response<Incoming>, Token), Failure> {
        let mut timeouts = self.timeouts.get();
        timeouts.first_byte = timeouts.first_byte.saturating_sub(began.elapsed());
        let sent = tokio::select! {
            sent = self.endpoint.send(head, body, &timeouts, began) => sent,
            () = token.aborted() => return Err(Failure::Stalled),
        };
        match sent {
            Ok(mut answer) => {
                token.moved();
                // These two are the sidecar's own words: an engine can't put them into its mouth.
                answer.headers_mut().remove(REASON);
                answer.headers_mut().remove(LOAD_HEADER);
                Ok((answer, token))
            }
            Err(error) => {
                self.failed(&error);
                Err(Failure::Upstream(error))
            }
        }
    }

    /// Tells the judgement of the engine's health of what this failure says about it.
    pub(crate) fn failed(&self, error: &Error) {
        let hint = match error.cause() {
            Cause::NeverSent(NeverSent::Refused) => Event::Refused,
            Cause::BrokeBeforeFirstByte | Cause::BrokeMidStream => Event::Broke,
            _ => return,
        };
        // One that finds the channel full is one of many alike.
        let _ = self.shared.hints.try_send(hint);
    }
}
