//! Listening, serving, forwarding: bytes, tasks and time. The gateway and the sidecar order these mechanics into
//! stacks; what is decided lives in `outrigger-decide`.
//!
//! One data thread is one current-thread runtime with its own listener, its own services (`Rc`, not `Send`) and
//! its own upstream connections; nothing on the path of a request is shared between threads but counters, which
//! have one writer each. Everything else (admin port, table, probes) lives on a control thread.
//!
//! A forwarder in full:
//!
//! ```no_run
//! use http::Response;
//! use outrigger_dataplane::{
//!     body::{Body, ErrorEvent},
//!     refuse::Refusal,
//!     serve::{Connection, Request, ServeOptions, Service},
//!     threads::{self, DataThreads},
//!     upstream::{Endpoint, PoolOptions, RequestBody, Timeouts},
//! };
//! use outrigger_decide::protocol::Protocol;
//! use std::rc::Rc;
//! use tokio::time::Instant;
//!
//! struct Forward {
//!     to: Rc<Endpoint>,
//!     timeouts: Timeouts,
//! }
//!
//! impl Service for Forward {
//!     type Hooks = ();
//!
//!     async fn call(self: Rc<Self>, request: Request, _connection: Rc<Connection>) -> Response<Body> {
//!         let (head, body) = request.into_parts();
//!         let protocol = Protocol::of(head.uri.path());
//!         let mut body = RequestBody::streamed(body);
//!         match self.to.send(&head, &mut body, &self.timeouts, Instant::now()).await {
//!             Ok(answer) => answer.map(|body| Body::upstream(body, ErrorEvent::of(protocol))),
//!             Err(error) => Refusal::from(&error).response(protocol),
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bound = threads::Bound::bind("127.0.0.1:8080".parse()?)?;
//! let data = DataThreads::start(bound, 2, ServeOptions::default(), |_thread| {
//!     Rc::new(Forward {
//!         to: Endpoint::new("127.0.0.1:8000", PoolOptions::default()),
//!         timeouts: Timeouts::default(),
//!     })
//! })?;
//! data.drain();
//! # Ok(())
//! # }
//! ```

pub mod admin;
pub mod body;
pub mod config;
pub mod crowd;
pub mod head;
pub mod log;
pub mod metrics;
pub mod refuse;
pub mod serve;
pub mod signals;
pub mod threads;
mod timer;
pub mod upstream;
