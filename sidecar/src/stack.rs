//! The order of things that a request passes on a data thread:
//!
//! 1. is the engine ready, and is anything new taken at all? Else 503;
//! 2. may it be merged with others? Then its body is read now, within a bound;
//! 3. the queue: its turn, a part of a batch's answer, or 429/504;
//! 4. the engine; its answer is streamed through;
//! 5. on every answer: the load, for the gateway's picking.

use crate::config::limits;
use crate::flight::Token;
use crate::orca::LoadLine;
use crate::queue::{Companion, Permit, Queue, Turn};
use crate::shared::{Orders, Shared};
use crate::upstream::Upstream;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use hyper::body::{Body as _, Incoming};
use outrigger_dataplane::body::{self, Body, End, ErrorEvent};
use outrigger_dataplane::refuse::Refusal;
use outrigger_dataplane::serve::{Connection, Request, Service};
use outrigger_dataplane::upstream::{RequestBody, Timeouts};
use outrigger_decide::balance::LOAD_HEADER;
use outrigger_decide::batch::{self, Mergeable};
use outrigger_decide::protocol::Protocol;
use outrigger_wire::EngineState;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// The largest body that is read in order to be merged, in bytes; a larger one is streamed and goes alone. With
/// a full queue of them this is the most that waits, see [`crate::queue::MAX_QUEUE_BYTES`].
const MAX_MERGEABLE: u64 = 4 << 20;

/// The largest body that is read while its request waits, in bytes: longer than nearly every prompt.
const MAX_HELD: u64 = 256 << 10;

/// The service of one data thread.
pub(crate) struct Stack {
    shared: Arc<Shared>,
    upstream: Rc<Upstream>,
    queue: Rc<Queue>,
    batching: Cell<bool>,
    /// The largest request body, in bytes.
    max_body: u64,
    load: RefCell<LoadLine>,
}

/// What a response that came from the engine holds until its end: its place there.
#[derive(Debug)]
pub(crate) struct Passing {
    token: Token,
    upstream: Rc<Upstream>,
    _permit: Permit,
}

impl body::Hooks for Passing {
    fn data(&mut self, _data: &Bytes) {
        self.token.moved();
    }

    fn end(&mut self, end: End) {
        match end {
            End::Complete => self.token.answered(),
            End::ClientGone => self.upstream.metrics().left_in_flight.inc(),
            End::Broke(error) => self.upstream.failed(&error),
        }
    }
}

impl Stack {
    /// The service of the current thread; it follows the control thread's orders from now on.
    pub(crate) fn start(
        shared: Arc<Shared>,
        upstream: Rc<Upstream>,
        threads: usize,
        max_body: u64,
    ) -> Rc<Self> {
        let orders = shared.orders.borrow().clone();
        let limits = limits(&orders.serving, shared.kind, threads);
        let batching = limits.batch.is_some();
        let stack = Rc::new(Self {
            queue: Queue::start(limits, upstream.clone()),
            batching: Cell::new(batching),
            max_body,
            load: RefCell::default(),
            shared,
            upstream,
        });
        tokio::task::spawn_local(follow(Rc::downgrade(&stack), orders, threads));
        stack
    }

    fn obey(&self, orders: &Orders, before: &Orders, threads: usize) {
        if !Arc::ptr_eq(&orders.serving, &before.serving) {
            let limits = limits(&orders.serving, self.shared.kind, threads);
            self.batching.set(limits.batch.is_some());
            self.upstream.set_timeouts(Timeouts::from(&orders.serving.timeouts));
            self.queue.set_limits(limits);
        }
        if let Some(refusal) = not_ready(orders.engine) {
            self.queue.refuse_all(&refusal);
        }
        if orders.abort.0 != before.abort.0 {
            self.upstream.flight().abort(orders.abort.1);
        }
    }

    /// What a request comes to.
    async fn answer(&self, request: Request, began: Instant) -> Result<Response<Body<Passing>>, Refusal> {
        let (engine, draining) = self.shared.taking();
        if draining {
            return Err(Refusal::unavailable("draining", "this replica is going away and takes nothing new"));
        }
        if let Some(refusal) = not_ready(engine) {
            return Err(refusal);
        }
        let (head, body) = request.into_parts();
        if body.size_hint().lower() > self.max_body {
            let message = format!("the body is larger than the {} bytes that are allowed", self.max_body);
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        let timeouts = self.upstream.timeouts();
        let deadline = began + timeouts.first_byte.min(timeouts.total);
        match self.form(&head, &body) {
            Some(form) => self.mergeable(form, head, body, began, deadline).await,
            None => self.alone(head, body, began, deadline).await,
        }
    }

    /// A request that is not merged. Where it has to wait, a small body is read meanwhile: only then is it seen
    /// that its client has left.
    async fn alone(
        &self,
        head: Parts,
        body: Incoming,
        began: Instant,
        deadline: Instant,
    ) -> Result<Response<Body<Passing>>, Refusal> {
        let length = body.size_hint().exact();
        if let Some(permit) = self.queue.direct() {
            return self.pass(head, self.streamed(body), length.unwrap_or(0), permit, began).await;
        }
        let (body, held) = match length {
            Some(length) if length <= MAX_HELD => {
                let bytes = self.read(body, length, MAX_HELD).await?;
                (RequestBody::full(bytes), length)
            }
            _ => (self.streamed(body), 0),
        };
        match self.queue.turn(held, deadline.into_std(), None).await {
            Turn::Alone(permit) => self.pass(head, body, length.unwrap_or(0), permit, began).await,
            Turn::Refused(refusal) => Err(refusal),
            Turn::Answered(part) => Ok(part.map(Body::full)),
        }
    }

    /// A body that is passed on as it comes; one without a length is measured on its way.
    fn streamed(&self, body: Incoming) -> RequestBody {
        RequestBody::with_rest(Vec::new(), body, self.max_body)
    }

    /// Whether this request may be merged, from its head and its body's length. One whose length is not known
    /// beforehand is not held back for it.
    fn form(&self, head: &Parts, body: &Incoming) -> Option<batch::Form> {
        if !self.batching.get() || body.size_hint().exact().is_none_or(|n| n > MAX_MERGEABLE) {
            return None;
        }
        batch::recognise(&head.method, &head.uri, &head.headers)
    }

    async fn mergeable(
        &self,
        form: batch::Form,
        head: Parts,
        body: Incoming,
        began: Instant,
        deadline: Instant,
    ) -> Result<Response<Body<Passing>>, Refusal> {
        let announced = body.size_hint().exact().unwrap_or(MAX_MERGEABLE);
        let bytes = self.read(body, announced, MAX_MERGEABLE).await?;
        let length = bytes.len() as u64;
        let key = batch::head::key(&head.uri, &head.headers);
        let companion = Mergeable::read(form, &key, bytes.clone()).map(|rows| Companion {
            rows,
            head: head.clone(),
            deadline: deadline.into_std(),
        });
        let turn = self.queue.turn(length, deadline.into_std(), companion);
        // In the queue the deadline is the queue's affair; this one is for those in a batch that takes too long.
        let turn = tokio::time::timeout_at(deadline, turn).await.map_err(|_| {
            Refusal::deadline("first_byte_timeout", "the engine did not answer the batch in time")
        })?;
        match turn {
            Turn::Alone(permit) => self.pass(head, RequestBody::full(bytes), length, permit, began).await,
            Turn::Answered(part) => Ok(part.map(Body::full)),
            Turn::Refused(refusal) => Err(refusal),
        }
    }

    /// Reads a body that is held while its request waits.
    async fn read(&self, body: Incoming, announced: u64, allowed: u64) -> Result<Bytes, Refusal> {
        let _reading = self.queue.room(announced)?;
        body::read_request(body, allowed as usize).await.map_err(|e| Refusal::from(&e))
    }

    /// To the engine, and its answer as it comes.
    async fn pass(
        &self,
        head: Parts,
        mut body: RequestBody,
        bytes: u64,
        permit: Permit,
        began: Instant,
    ) -> Result<Response<Body<Passing>>, Refusal> {
        self.upstream.metrics().waited(began.elapsed());
        let token = self.upstream.flight().start(1, bytes);
        let sent = self.upstream.send(&head, &mut body, token, began).await;
        let (answer, token) = sent.map_err(|failure| Refusal::from(&failure))?;
        let passing = Passing { token, upstream: self.upstream.clone(), _permit: permit };
        let event = ErrorEvent::of(Protocol::of(head.uri.path()));
        Ok(answer.map(|incoming| Body::<()>::upstream(incoming, event).with_hooks(passing)))
    }

    /// The load of now, as every answer carries it.
    fn load(&self, now: Instant) -> Option<HeaderValue> {
        let (in_flight, concurrency, queued) = self.queue.load();
        self.load.borrow_mut().value(in_flight, concurrency, queued, now.into_std())
    }
}

impl Service for Stack {
    type Hooks = Passing;

    async fn call(self: Rc<Self>, request: Request, _connection: Rc<Connection>) -> Response<Body<Passing>> {
        let began = Instant::now();
        let protocol = Protocol::of(request.uri().path());
        let version = request.version();
        let mut response = match self.answer(request, began).await {
            Ok(response) => response,
            Err(refusal) => {
                self.upstream.metrics().refused(refusal.reason);
                refusal.response(protocol)
            }
        };
        let now = Instant::now();
        self.upstream.metrics().answered(response.status(), now.saturating_duration_since(began));
        if let Some(load) = self.load(now) {
            response.headers_mut().insert(LOAD_HEADER, load);
        }
        if self.shared.taking().1 && version != http::Version::HTTP_2 {
            // Its next request belongs to another replica.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn refused_head(&self, reason: &'static str) {
        self.upstream.metrics().refused(reason);
    }
}

/// The refusal of everything while the engine is not ready. Each of these words means that the engine has not
/// seen the request: it may be sent elsewhere.
fn not_ready(engine: EngineState) -> Option<Refusal> {
    let (reason, message) = match engine {
        EngineState::Ready => return None,
        EngineState::Starting => ("engine_starting", "the engine has not come up yet"),
        EngineState::Warming => ("engine_warming", "the engine has not answered its first inference yet"),
        EngineState::Stalled => ("engine_stalled", "the engine shows no progress and takes nothing new"),
        EngineState::Gone => ("engine_gone", "the engine is not there"),
    };
    Some(Refusal::unavailable(reason, message))
}

/// Takes in orders as they change, for as long as the service lives.
async fn follow(stack: std::rc::Weak<Stack>, mut before: Orders, threads: usize) {
    let Some(mut orders) = stack.upgrade().map(|stack| stack.shared.orders.subscribe()) else { return };
    orders.mark_changed();
    while orders.changed().await.is_ok() {
        let now = orders.borrow_and_update().clone();
        let Some(stack) = stack.upgrade() else { return };
        stack.obey(&now, &before, threads);
        before = now;
    }
}
