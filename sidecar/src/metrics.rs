//! What the sidecar counts. Names begin with `outrigger_sidecar_`.

use crate::shared::Shared;
use outrigger_dataplane::metrics::{Counter, Family, Histogram};
use outrigger_wire::EngineState;
use prometheus_client::registry::Registry;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Every engine state, for a gauge that has one series for each.
pub(crate) const STATES: [(EngineState, &str); 5] = [
    (EngineState::Starting, "starting"),
    (EngineState::Warming, "warming"),
    (EngineState::Ready, "ready"),
    (EngineState::Stalled, "stalled"),
    (EngineState::Gone, "gone"),
];

/// The families, registered once.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Counter>,
    refused: Family<Counter>,
    left: Family<Counter>,
    batches: Family<Counter>,
    batched_requests: Family<Counter>,
    batched_rows: Family<Counter>,
    queue_seconds: Family<Histogram>,
    first_byte_seconds: Family<Histogram>,
}

/// One data thread's handles.
#[derive(Debug)]
pub(crate) struct ThreadMetrics {
    families: Arc<Metrics>,
    /// By status class, 1xx to 5xx.
    classes: [Arc<Counter>; 5],
    refused: RefCell<HashMap<&'static str, Arc<Counter>>>,
    /// Callers that left while they waited.
    pub(crate) left_waiting: Arc<Counter>,
    /// Callers that left while the engine worked for them.
    pub(crate) left_in_flight: Arc<Counter>,
    batches: Arc<Counter>,
    batched_requests: Arc<Counter>,
    batched_rows: Arc<Counter>,
    queue_seconds: Arc<Histogram>,
    first_byte_seconds: Arc<Histogram>,
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn register() -> Arc<Self> {
        let mut registry = Registry::default();
        let r = &mut registry;
        Arc::new(Self {
            requests: Family::register(
                r,
                "outrigger_sidecar_requests",
                "Requests answered, by class of status",
                &["class"],
            ),
            refused: Family::register(
                r,
                "outrigger_sidecar_refused",
                "Requests that the sidecar answered by itself, by reason",
                &["reason"],
            ),
            left: Family::register(
                r,
                "outrigger_sidecar_callers_left",
                "Callers that went away before the end of their answer, by where their request was",
                &["where"],
            ),
            batches: Family::register(
                r,
                "outrigger_sidecar_batches",
                "Batches of more than one request that were sent to the engine",
                &[],
            ),
            batched_requests: Family::register(
                r,
                "outrigger_sidecar_batched_requests",
                "Requests that were sent in those batches",
                &[],
            ),
            batched_rows: Family::register(
                r,
                "outrigger_sidecar_batched_rows",
                "Rows that were sent in those batches",
                &[],
            ),
            queue_seconds: Family::register(
                r,
                "outrigger_sidecar_queue_seconds",
                "Time from a request's head to its turn, of requests that went alone",
                &[],
            ),
            first_byte_seconds: Family::register(
                r,
                "outrigger_sidecar_first_byte_seconds",
                "Time from a request's head to the head of its answer",
                &[],
            ),
            registry: Mutex::new(registry),
        })
    }

    /// A data thread's handles.
    pub(crate) fn thread(self: &Arc<Self>) -> ThreadMetrics {
        ThreadMetrics {
            classes: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| self.requests.handle(&[class])),
            refused: RefCell::default(),
            left_waiting: self.left.handle(&["queue"]),
            left_in_flight: self.left.handle(&["engine"]),
            batches: self.batches.handle(&[]),
            batched_requests: self.batched_requests.handle(&[]),
            batched_rows: self.batched_rows.handle(&[]),
            queue_seconds: self.queue_seconds.handle(&[]),
            first_byte_seconds: self.first_byte_seconds.handle(&[]),
            families: self.clone(),
        }
    }

    /// OpenMetrics text: what was counted, and the gauges of now.
    pub(crate) fn text(&self, shared: &Shared, incarnation: u64) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = outrigger_dataplane::metrics::text(&registry);
        drop(registry);
        let (in_flight, queued) = shared.counts();
        let orders = shared.orders.borrow().clone();
        let mut text = String::with_capacity(counted.len() + 1024);
        // The gauges are kept elsewhere already; OpenMetrics wants its end mark last.
        text.push_str(counted.strip_suffix("# EOF\n").unwrap_or(&counted));
        gauge(&mut text, "in_flight", "Requests in the engine", in_flight.into());
        gauge(&mut text, "queued", "Requests that wait for the engine", queued.into());
        gauge(&mut text, "draining", "Whether it is going away", u64::from(orders.draining));
        gauge(&mut text, "engine_incarnation", "Which run of the engine this is", incarnation);
        head(&mut text, "engine_state", "1 for the state that the engine is in");
        for (state, name) in STATES {
            let is = u8::from(state == orders.engine);
            text.push_str(&format!("outrigger_sidecar_engine_state{{state=\"{name}\"}} {is}\n"));
        }
        text.push_str("# EOF\n");
        text
    }
}

fn head(text: &mut String, name: &str, help: &str) {
    text.push_str(&format!(
        "# HELP outrigger_sidecar_{name} {help}.\n# TYPE outrigger_sidecar_{name} gauge\n"
    ));
}

fn gauge(text: &mut String, name: &str, help: &str, value: u64) {
    head(text, name, help);
    text.push_str(&format!("outrigger_sidecar_{name} {value}\n"));
}

impl ThreadMetrics {
    /// A request was answered with this status, its head read so long ago.
    pub(crate) fn answered(&self, status: http::StatusCode, after: Duration) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.classes.get(class) {
            counter.inc();
        }
        self.first_byte_seconds.observe(after);
    }

    /// The sidecar answered by itself.
    pub(crate) fn refused(&self, reason: &'static str) {
        let mut refused = self.refused.borrow_mut();
        // As many as there are words in the code.
        refused.entry(reason).or_insert_with(|| self.families.refused.handle(&[reason])).inc();
    }

    /// A request went to the engine after so long.
    pub(crate) fn waited(&self, time: Duration) {
        self.queue_seconds.observe(time);
    }

    /// A batch of so many requests and rows was sent.
    pub(crate) fn batch(&self, requests: u32, rows: u64) {
        self.batches.inc();
        self.batched_requests.add(requests.into());
        self.batched_rows.add(rows);
    }
}
