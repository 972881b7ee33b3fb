//! A request's body on its way in: read as far as is needed, no further.

use crate::config::Limits;
use crate::thread::Buffered;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use outrigger_dataplane::refuse::Refusal;
use outrigger_dataplane::upstream::RequestBody;
use outrigger_decide::model::{Fault, Model, Scanner, splice};
use std::time::Duration;

/// Bodies up to this many bytes are read whole before anything is sent, so that they can be sent again: 1 MiB is
/// a prompt of some 250 000 tokens. Larger ones are passed on as they arrive once their model is known.
pub(crate) const KEPT: u64 = 1 << 20;

/// A body, read far enough to be routed.
#[derive(Debug)]
pub(crate) struct Intake {
    pieces: Vec<Bytes>,
    rest: Option<Rest>,
    /// Its length in bytes, as far as it is known: what came, and what was announced.
    pub(crate) length: u64,
    /// The model that it names, where that was looked for.
    pub(crate) model: Option<Model>,
}

/// What of a large body is still to come.
#[derive(Debug)]
struct Rest {
    body: Incoming,
    /// The most bytes of it.
    allowed: u64,
    /// Goes on looking: a second `model` behind the first would be another model to the engine.
    scanner: Option<Scanner>,
}

/// Reads a body until its model is known (where `by_name` asks for that) and it is over or larger than [`KEPT`].
pub(crate) async fn read(
    mut body: Incoming,
    by_name: bool,
    limits: &Limits,
    room: &mut Buffered,
) -> Result<Intake, Refusal> {
    if body.size_hint().lower() > limits.max_body {
        return Err(too_large(limits));
    }
    let mut scanner = by_name.then(Scanner::new);
    let mut pieces = Vec::new();
    let mut length = 0u64;
    loop {
        let found = scanner.as_ref().is_none_or(|scanner| scanner.model().is_some());
        if found && length > KEPT {
            let model = scanner.as_ref().and_then(|scanner| scanner.model().cloned());
            let announced = length + body.size_hint().lower();
            let rest = Some(Rest { body, allowed: limits.max_body - length, scanner });
            return Ok(Intake { pieces, rest, length: announced, model });
        }
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|_| Refusal::bad("request_incomplete", "the request ended too early"))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len() as u64;
        if length > limits.max_body {
            return Err(too_large(limits));
        }
        if !room.grow(data.len(), limits.max_buffered) {
            let message = "too many bytes of requests are waiting to be passed on";
            return Err(Refusal::shed("buffers_full", message, Duration::from_secs(1)));
        }
        if let Some(scanner) = &mut scanner {
            scanner.feed(&data).map_err(fault)?;
        }
        pieces.push(data);
    }
    let model = scanner.map(Scanner::finish).transpose().map_err(fault)?;
    Ok(Intake { pieces, rest: None, length, model })
}

impl Intake {
    /// Puts another name in the place of the one that the body has.
    pub(crate) fn rename(&mut self, name: &str) {
        if let Some(model) = &self.model {
            let (pieces, _) = splice(std::mem::take(&mut self.pieces), &model.at, name);
            self.pieces = pieces;
        }
    }

    /// The body on its way out; its length is told from it, so a renamed one has the right one.
    pub(crate) fn into_body(self) -> RequestBody {
        let first = join(self.pieces);
        let Some(Rest { body, allowed, scanner }) = self.rest else { return RequestBody::full(first) };
        let whole = RequestBody::with_rest(first, body, allowed);
        match scanner {
            Some(mut scanner) => whole.inspected(move |data| scanner.feed(data).is_ok()),
            None => whole,
        }
    }
}

/// One piece of all; a single one isn't copied.
fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() < 2 {
        return pieces.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}

fn too_large(limits: &Limits) -> Refusal {
    let message = format!("the body is larger than the {} bytes that are allowed", limits.max_body);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

fn fault(fault: Fault) -> Refusal {
    if fault.is_about_model() {
        Refusal::bad("model_invalid", fault.to_string()).param("model")
    } else {
        Refusal::bad("body_malformed", fault.to_string())
    }
}
