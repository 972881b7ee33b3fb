//! A request's body on its way in: read as far as is needed, no further.

use crate::config::Limits;
use crate::thread::{Buffered, NoRoom};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use outrigger_dataplane::refuse::Refusal;
use outrigger_dataplane::upstream::RequestBody;
use outrigger_decide::model::{Fault, Model, Scanner, splice};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

#[cfg(test)]
mod tests;

/// Bodies up to this many bytes are read whole before anything is sent, so that they can be sent again: 1 MiB is
/// a prompt of some 250 000 tokens. Larger ones are passed on as they arrive once their model is known.
pub(crate) const KEPT: u64 = 1 << 20;

/// What a body's size adds to the time that it may take, in bytes per second: a mebibyte gets a minute more, which
/// the slowest mobile line keeps. A client that drips has [`Limits::patience`] and little else.
const RATE: u64 = 16 << 10;

/// Pieces smaller than this are joined, in bytes: beyond it a write of its own costs less than the copy, and what
/// is joined is there twice for a moment only as far as this.
const BLOCK: usize = 256 << 10;

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
    let mut pieces = Pieces::default();
    let mut length = 0u64;
    let began = Instant::now();
    loop {
        let found = scanner.as_ref().is_none_or(|scanner| scanner.model().is_some());
        if found && length > KEPT {
            let model = scanner.as_ref().and_then(|scanner| scanner.model().cloned());
            let announced = length + body.size_hint().lower();
            let rest = Some(Rest { body, allowed: limits.max_body - length, scanner });
            return Ok(Intake { pieces: pieces.finish(), rest, length: announced, model });
        }
        let by = began + allowance(length, limits.patience);
        let Some(frame) = timeout_at(by, body.frame()).await.map_err(|_| too_slow(length))? else { break };
        let frame = frame.map_err(|error| Refusal::from(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len() as u64;
        if length > limits.max_body {
            return Err(too_large(limits));
        }
        if let Some(scanner) = &mut scanner {
            scanner.feed(&data).map_err(fault)?;
        }
        room.grow(data.len(), limits).map_err(|why| no_room(why, length, by_name, limits))?;
        pieces.push(data);
    }
    let model = scanner.map(Scanner::finish).transpose().map_err(fault)?;
    Ok(Intake { pieces: pieces.finish(), rest: None, length, model })
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
        // A name that was replaced has cut a small body in three.
        let mut pieces = Pieces::default();
        self.pieces.into_iter().for_each(|piece| pieces.push(piece));
        let first = pieces.finish();
        let Some(Rest { body, allowed, scanner }) = self.rest else { return RequestBody::pieces(first) };
        let whole = RequestBody::with_rest(first, body, allowed);
        match scanner {
            Some(mut scanner) => whole.inspected(move |data| scanner.feed(data).is_ok()),
            None => whole,
        }
    }
}

/// A body's bytes as they come: the first piece as it is, so that a small body isn't copied, and what follows in
/// blocks. Pieces kept as they come would be uncounted memory: a chunk of one byte has 32 beside it, and holds the
/// buffer that it was read into.
#[derive(Debug, Default)]
struct Pieces {
    done: Vec<Bytes>,
    block: BytesMut,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if self.block.is_empty() && (self.done.is_empty() || piece.len() >= BLOCK) {
            self.done.push(piece);
            return;
        }
        self.block.extend_from_slice(&piece);
        if self.block.len() >= BLOCK {
            self.done.push(self.block.split().freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.block.is_empty() {
            self.done.push(self.block.freeze());
        }
        self.done
    }
}

/// How long a body may take of which so many bytes have come.
fn allowance(length: u64, patience: Duration) -> Duration {
    patience + Duration::from_secs(length / RATE)
}

fn too_slow(length: u64) -> Refusal {
    let message = format!("the body comes too slowly: {length} bytes of it came in time");
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
}

/// `length` is what has come of the body, `by_name` whether its model is looked for.
fn no_room(why: NoRoom, length: u64, by_name: bool, limits: &Limits) -> Refusal {
    let most = limits.max_held();
    if why == NoRoom::Connection && length > most as u64 {
        let (reason, message) = match by_name {
            true => ("model_too_late", format!("the first {most} bytes have no `model`; put it first")),
            false => ("body_too_large", format!("at most {most} bytes of a body are kept")),
        };
        return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason, message);
    }
    let message = match why {
        NoRoom::Connection => "too many bytes of this connection's requests are waiting to be passed on",
        NoRoom::Thread => "too many bytes of requests are waiting to be passed on",
    };
    Refusal::shed("buffers_full", message, Duration::from_secs(1))
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
